"""Paths as users give them, and files that are whole or not there at all, also after a power failure."""

import contextlib
import errno
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from adm_jax.types import InputError

_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


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
def naming(path: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Adds to an error of the disk what it lacks: the path, what was to be written, and the room there is.

    ``path`` may be a folder in which something was written, without ``num_bytes`` of unknown length.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        if num_bytes is None and error.errno not in _OF_A_DISK:
            raise
        free = shutil.disk_usage(path.parent).free / 2**20
        wanted = "" if num_bytes is None else f"{num_bytes / 2**20:.3f} MiB to write, "
        reason = f"{os.strerror(error.errno)}: {wanted}the disk has {free:.1f} MiB left"
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


def make_folder(path: Path) -> None:
    """Makes a folder and those above it, and brings their names to the disk; it may exist."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        sync(folder.parent)


def cut(path: Path, length: int) -> None:
    """Cuts a file, if there is one, off behind its first ``length`` bytes."""
    if path.exists():
        os.truncate(path, length)
        sync(path)


def write_json(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """Writes a value as JSON, or leaves the file before it whole; returns what will be read back."""
    plain = plain_json(value)
    write_atomically(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")
    return plain


def plain_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON gives back of a value."""
    return json.loads(json.dumps(to_json(value), allow_nan=False))


def to_json(value: Any) -> Any:
    """A value in JSON's terms: arrays as nested lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, (jax.Array, np.ndarray)):
        array = np.asarray(value)
        return to_json(list(array)) if array.ndim else to_json(array[()])
    if isinstance(value, np.generic):
        # float32 as the shortest decimal that reads back as the same float32
        value = float(str(value)) if value.dtype == np.float32 else value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def resolve_path(name: str, path: str | os.PathLike[str]) -> Path:
    """A folder as absolute path, ``~`` expanded; ``name`` is the flag it came from.

    Raises InputError: it is empty or of nobody's, or its name cannot be written in UTF-8, as orbax writes it.
    """
    if not os.fspath(path):
        raise InputError(f"{name}: empty; give a folder, as in --{name}=runs")
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError as error:  # bytes that Python could not read as text
        raise InputError(
            f"{name}: {os.fsencode(path)!r} cannot be read in this locale; set PYTHONUTF8=1"
        ) from error
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # ~name of nobody
        raise InputError(
            f"{name}: {os.fspath(path)}: there is no such user; write ./~ for a folder ~"
        ) from error


def require_writable(name: str, path: str | os.PathLike[str]) -> None:
    """Checks before anything is computed, and without making it, that a folder can be made, or written.

    Args:
      name: the flag it came from.
      path: the folder.

    Raises:
      InputError: it cannot; the message names what is in the way.
    """
    path = resolve_path(name, path)
    existing = next(folder for folder in [path, *path.parents] if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{name}: cannot write {path}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{name}: cannot write {path}: no permission to write in {existing}")
