"""Files that are whole or not there at all, also after a crash or a power failure."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path


def write_atomically(path: Path, text: str) -> None:
    """Writes a file, or leaves the one before it whole."""
    temporary = path.with_name(f".{path.name}")
    try:
        with naming(path, len(text)):
            temporary.write_text(text)
            sync(temporary)
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: Path, num_bytes: int) -> Iterator[None]:
    """Adds to an error of the disk what it lacks: the path, what was to be written, and the room there is."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        mib, free = num_bytes / 2**20, shutil.disk_usage(path.parent).free / 2**20
        reason = f"{os.strerror(error.errno)}: {mib:.3f} MiB to write, the disk has {free:.1f} MiB left"
        raise OSError(error.errno, reason, str(path)) from error


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
