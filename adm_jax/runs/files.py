"""Files that are whole or not there at all, also after a crash or a power failure."""

import os
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes a file, or leaves the one before it whole."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    sync(temporary)
    replace(temporary, path)


def replace(source: Path, target: Path) -> None:
    """Renames a file or folder whose content is on the disk, and sees that its new name is, too."""
    os.replace(source, target)
    sync(target.parent)


def sync(path: Path) -> None:
    """Brings a file's content, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Brings a folder and all that is in it to the disk."""
    for path in (*folder.rglob("*"), folder):
        sync(path)
