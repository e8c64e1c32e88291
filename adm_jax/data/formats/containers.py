"""What a file is by its first bytes, and arrays that an HDF5 file holds itself.

HDF5 can keep an array in any other file, by a link, as raw bytes or put together of parts. A dataset from
elsewhere could so read whatever its user may read, and make rewards of it: such arrays are refused.
"""

import codecs
import math
import os
import zipfile
from pathlib import Path

import h5py
import h5py.h5l
import numpy as np

from adm_jax.data.formats.minari_metadata import one_line
from adm_jax.types import InputError

_HEAD = 1024  # bytes that tell what a file is
_UNPACK = "unpack it first"
MOST_COMPRESSED = 1100  # bytes that a byte of a file may stand for; deflate's most is 1,032
HDF5, NPZ = "an HDF5 file", "an npz archive"
_MAGIC = (  # first bytes, what they say, and what helps
    (b"\x89HDF\r\n\x1a\n", HDF5, "adm-jax import --source=d4rl reads it"),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\0", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file", _UNPACK),
    (b"\x04\x22\x4d\x18", "an LZ4 file", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x93NUMPY", "an npy file, a single array", ""),
    (b"PAR1", "a Parquet file", ""),
    (b"ARROW1", "an Arrow file", ""),
    (b"FEA1", "a Feather file", ""),
    (b"SQLite format 3\0", "an SQLite database", ""),
    (b"CDF\x01", "a NetCDF 3 file", ""),
    (b"CDF\x02", "a NetCDF 3 file", ""),
    (b"MATLAB 5.0 MAT-file", "a MATLAB 5 file", ""),
    *((bytes([0x80, protocol]), "a pickle", "") for protocol in range(2, 6)),
    (b"version https://git-lfs", "a Git LFS pointer", "git lfs pull fetches the file itself"),
)


def unreadable(path: Path, source: str, wanted: str, error: BaseException) -> InputError:
    """What is said of a file that cannot be read as ``wanted``, HDF5 or npz: what it is, or damaged."""
    kind, remedy = kind_of(path)
    if kind and wanted not in kind:
        return InputError(f"{source}: is {kind}; must be {wanted}{': ' * bool(remedy)}{remedy}")
    return InputError(f"{source}: cannot be read as {wanted}, damaged or cut short ({one_line(error)})")


def kind_of(path: Path) -> tuple[str, str]:
    """What a file is, as "a gzip file", and what helps, as "unpack it first"; empty where nothing tells."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return "", ""
    if not head:
        return "an empty file", ""
    for magic, kind, remedy in _MAGIC:
        if head.startswith(magic):
            return kind, remedy
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _kind_of_zip(path)
    if head[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    return _kind_of_text(head), ""


def _kind_of_zip(path: Path) -> tuple[str, str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # whatever a damaged archive makes of its reader
        return "", ""
    if names and all(name.endswith(".npy") for name in names):
        return NPZ, "adm-jax import --source=neorl reads it"
    if any(name.endswith("data.pkl") for name in names):
        return "a PyTorch file", ""
    return "a zip archive", _UNPACK


def _kind_of_text(head: bytes) -> str:
    """What text is; empty of other bytes."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the head may end inside a letter
    except UnicodeDecodeError:
        return ""
    if any(ord(letter) < 32 and letter not in "\t\r\n" for letter in text):
        return ""
    start = text.lstrip("\ufeff \t\r\n").lower()
    if start.startswith(("<!doctype html", "<html")):
        return "a web page"
    if start.startswith(("{", "[")):
        return "a JSON file"
    return "a CSV file" if any(mark in text.partition("\n")[0] for mark in ",;\t") else "a text file"


def check_link(group: h5py.h5g.GroupID | h5py.h5f.FileID, name: str, where: str) -> None:
    """Raises InputError, before anything is opened, where a name in a group links to another file."""
    try:
        kind = group.links.get_info(name.encode()).type
    except (KeyError, RuntimeError):  # there is none: whoever opens it says so
        return
    if kind == h5py.h5l.TYPE_EXTERNAL:
        file = os.fsdecode(group.links.get_val(name.encode())[0])
        raise InputError(f"{where} is a link to another file, {file}; must lie in the file itself")


def check_inside(dataset: h5py.h5d.DatasetID, file: h5py.h5f.FileID, where: str) -> None:
    """Raises InputError where an opened array's values, or a part of them, lie in another file."""
    plan = dataset.get_create_plist()
    if plan.get_external_count():
        elsewhere = f"kept in another file, {os.fsdecode(plan.get_external(0)[0])}"
    elif plan.get_layout() == h5py.h5d.VIRTUAL:
        elsewhere = "put together of other arrays (a virtual dataset)"
    elif h5py.h5f.get_name(dataset) != h5py.h5f.get_name(file):
        elsewhere = f"a link to another file, {os.fsdecode(h5py.h5f.get_name(dataset))}"
    else:
        return
    raise InputError(f"{where} is {elsewhere}; must lie in the file itself")


def read_values(dataset: h5py.h5d.DatasetID, file: h5py.h5f.FileID, where: str) -> np.ndarray:
    """An opened array's values; raises InputError where they lie in another file or cannot be in this one."""
    check_inside(dataset, file, where)
    shape = dataset.shape
    if shape is None:
        raise InputError(f"{where} is empty, without a shape; must be an array of numbers")
    # HDF5 fills up what was never stored: a flipped bit in a shape would ask for all memory
    if math.prod(shape) * dataset.dtype.itemsize > MOST_COMPRESSED * file.get_filesize():
        raise InputError(
            f"{where} has shape {shape}, more than a file of {file.get_filesize():,} bytes can hold; "
            "it is damaged"
        )
    values = np.empty(shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values
