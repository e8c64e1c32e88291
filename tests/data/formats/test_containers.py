"""Files that are something else than they are taken for, and arrays that lie in other files."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from adm_jax.data.formats import d4rl, minari_files, minari_io, neorl
from tests.data.sample_data import d4rl_arrays, error_line, make_data

DATA = make_data((4, 3, 5, 3))
ARRAYS = d4rl_arrays(DATA)
ID = "tests/other-v0"


def hdf5(path: Path, arrays: dict[str, np.ndarray] = ARRAYS) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["env_id"] = "Hopper-v4"
        for name, values in arrays.items():
            file[name] = values
    return path


def npz() -> bytes:
    content = io.BytesIO()
    np.savez(content, **ARRAYS)
    return content.getvalue()


def packed(pack: Callable, **names: bytes) -> bytes:
    content = io.BytesIO()
    with pack(content) as archive:
        for name, inside in names.items():
            if isinstance(archive, tarfile.TarFile):
                entry = tarfile.TarInfo(name)
                entry.size = len(inside)
                archive.addfile(entry, io.BytesIO(inside))
            else:
                archive.writestr(name, inside)
    return content.getvalue()


def npy() -> bytes:
    content = io.BytesIO()
    np.save(content, DATA.obs)
    return content.getvalue()


KINDS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip": (lambda: gzip.compress(npz()), "is a gzip file; must be {}: unpack it first"),
    "bzip2": (lambda: bz2.compress(npz()), "is a bzip2 file; must be {}: unpack it first"),
    "xz": (lambda: lzma.compress(npz()), "is an xz file; must be {}: unpack it first"),
    "zip": (
        lambda: packed(lambda f: zipfile.ZipFile(f, "w"), a=b"1"),
        "is a zip archive; must be {}: unpack it first",
    ),
    "tar": (
        lambda: packed(lambda f: tarfile.TarFile(fileobj=f, mode="w"), a=b"1"),
        "is a tar archive; must be {}: unpack it first",
    ),
    "npy": (npy, "is an npy file, a single array; must be {}"),
    "pickle": (lambda: pickle.dumps(ARRAYS), "is a pickle; must be {}"),
    "csv": (lambda: b"obs0,obs1,reward\n1.0,2.0,3.0\n" * 99, "is a CSV file; must be {}"),
    "parquet": (lambda: b"PAR1" + bytes(99), "is a Parquet file; must be {}"),
    "json": (lambda: b' {"observations": [[1.0]]}', "is a JSON file; must be {}"),
    "html": (
        lambda: b"<!DOCTYPE html><title>Sign in \xe2\x80\x94" * 40,
        "is a web page; must be {}",
    ),
    "lfs": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "is a Git LFS pointer; must be {}: git lfs pull fetches the file itself",
    ),
    "nothing": (lambda: b"", "is an empty file; must be {}"),
    "text": (lambda: b"see the other folder\n", "is a text file; must be {}"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("read", "wanted"), [(d4rl.read, "HDF5"), (neorl.read, "npz")])
def test_files_are_named_for_what_they_are(kind, read, wanted, tmp_path):
    content, line = KINDS[kind]
    path = tmp_path / "file"
    path.write_bytes(content())
    if kind == "zip" and read is neorl.read:  # an archive as npz is
        assert "obs is missing" in error_line(read, path)
    else:
        assert error_line(read, path) == f"{path}: {line.format(wanted)}"


def test_each_layout_names_the_other(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(npz())
    assert error_line(d4rl.read, path) == (
        f"{path}: is an npz archive; must be HDF5: adm-jax import --source=neorl reads it"
    )
    assert error_line(neorl.read, hdf5(path)) == (
        f"{path}: is an HDF5 file; must be npz: adm-jax import --source=d4rl reads it"
    )


# --- arrays that are elsewhere: name of the array, how it is made ---


def external(file: h5py.File, name: str, values: np.ndarray) -> None:
    raw = Path(file.filename).with_name("raw")
    raw.write_bytes(values.tobytes())
    file.create_dataset(name, values.shape, values.dtype, external=[("raw", 0, h5py.h5f.UNLIMITED)])


def link(file: h5py.File, name: str, values: np.ndarray) -> None:
    with h5py.File(Path(file.filename).with_name("other.hdf5"), "w") as other:
        other["x"] = values
    file[name] = h5py.ExternalLink("other.hdf5", "/x")


def soft_link(file: h5py.File, name: str, values: np.ndarray) -> None:
    other = f"{name.partition('/')[0]}/elsewhere" if "/" in name else "elsewhere"
    link(file, other, values)
    file[name] = h5py.SoftLink(f"/{other}")


def virtual(file: h5py.File, name: str, values: np.ndarray) -> None:
    with h5py.File(Path(file.filename).with_name("other.hdf5"), "w") as other:
        other["x"] = values
    layout = h5py.VirtualLayout(values.shape, values.dtype)
    layout[...] = h5py.VirtualSource("other.hdf5", "x", values.shape)
    file.create_virtual_dataset(name, layout)


ELSEWHERE = {
    external: "kept in another file, raw",
    link: "a link to another file, other.hdf5",
    soft_link: "a link to another file, {folder}/other.hdf5",
    virtual: "put together of other arrays (a virtual dataset)",
}


@pytest.mark.parametrize("name", ["rewards", "observations", "timeouts"])
@pytest.mark.parametrize("put", ELSEWHERE)
def test_d4rl_arrays_in_other_files_are_refused(put, name, tmp_path):
    path = hdf5(tmp_path / "file.hdf5", {key: x for key, x in ARRAYS.items() if key != name})
    with h5py.File(path, "a") as file:
        put(file, name, ARRAYS[name])
    assert error_line(d4rl.read, path) == (
        f"{path}: {name} is {ELSEWHERE[put].format(folder=tmp_path)}; must lie in the file itself"
    )


def without_digests(folder: Path) -> None:
    """As another library would have made it."""
    metadata = json.loads((folder / "metadata.json").read_text())
    (folder / "metadata.json").write_text(json.dumps({**metadata, minari_files.METADATA_KEY: None}))


@pytest.mark.parametrize("name", ["rewards", "observations", "observations/a"])
@pytest.mark.parametrize("put", ELSEWHERE)
def test_minari_arrays_in_other_files_are_refused(put, name, tmp_path):
    folder = minari_io.save(DATA, ID, env_id="Hopper-v4", root=tmp_path) / "data"
    path = folder / "main_data.hdf5"
    without_digests(folder)
    with h5py.File(path, "a") as file:
        values = file[f"episode_2/{name.partition('/')[0]}"][()]
        del file[f"episode_2/{name.partition('/')[0]}"]
        put(file, f"episode_2/{name}", values)
    inside = name.replace("observations/a", "observations['a']")
    assert error_line(minari_io.load, ID, root=tmp_path) == (
        f"{ID} ({path}): episode 2: {inside} is {ELSEWHERE[put].format(folder=folder)}; must lie in the file "
        f"itself"
    )


def test_a_minari_episode_in_another_file_is_refused(tmp_path):
    folder = minari_io.save(DATA, ID, env_id="Hopper-v4", root=tmp_path) / "data"
    path = folder / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        del file["episode_1"]
        file["episode_1"] = h5py.ExternalLink("/etc/passwd", "/")
    assert error_line(minari_io.load, ID, root=tmp_path) == (
        f"{ID} ({path}): episode 1 is a link to another file, /etc/passwd; must lie in the file itself"
    )


def test_links_inside_the_file_are_followed(tmp_path):
    path = hdf5(tmp_path / "file.hdf5", {f"own/{name}": values for name, values in ARRAYS.items()})
    with h5py.File(path, "a") as file:
        for name in ARRAYS:
            file[name] = h5py.SoftLink(f"/own/{name}")
    assert d4rl.read(path)[0].digests() == DATA.digests()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (np.zeros(15, complex), "holds complex128 values; must be real numbers"),
        (np.zeros(15, "M8[s]").astype(h5py.opaque_dtype("M8[s]")), "holds datetime64[s] values; must be real "
         "numbers"),
        (np.zeros(15, "m8[D]").astype(h5py.opaque_dtype("m8[D]")), "holds timedelta64[D] values; must be "
         "real numbers"),
        (np.zeros(15, [("a", "f4"), ("b", "f4")]), "holds [('a', '<f4'), ('b', '<f4')] values; must be real "
         "numbers"),
        (h5py.Empty("f4"), "has shape (); must be [N]"),
    ],
)  # fmt: skip
def test_values_that_are_no_numbers_are_named(values, line, tmp_path):
    path = hdf5(tmp_path / "file.hdf5", {**ARRAYS, "rewards": values})
    assert error_line(d4rl.read, path) == f"{path}: rewards {line}"


def test_a_shape_that_no_file_so_small_can_hold_is_refused(tmp_path):
    """HDF5 would fill it up, with 44 GiB of zeros."""
    path = tmp_path / "file.hdf5"
    with h5py.File(path, "w") as file:
        for name, array in ARRAYS.items():
            tail = array.shape[1:]
            file.create_dataset(name, (2**30, *tail), array.dtype, chunks=(1024, *tail))
    line = error_line(d4rl.read, path)
    dim = ARRAYS["observations"].shape[1]
    assert line.startswith(f"{path}: observations has shape (1073741824, {dim}), more than a file of ")
    assert line.endswith(" bytes can hold; it is damaged")


def test_nothing_is_read_where_the_shapes_do_not_agree(tmp_path, monkeypatch):
    """A damaged number of rows is found before memory is taken for them."""
    path = hdf5(tmp_path / "file.hdf5")
    with h5py.File(path, "a") as file:
        dim = file["observations"].shape[1]
        del file["observations"]
        file.create_dataset("observations", (100_000, dim), np.float32, chunks=(1024, dim))
    monkeypatch.setattr(d4rl.containers, "read_values", None)
    line = error_line(d4rl.read, path)
    assert line.endswith(" rows; must have as many as observations, 100000")


def test_arrays_that_compress_well_are_read(tmp_path):
    zeros = {name: np.zeros((200_000, *x.shape[1:]), x.dtype) for name, x in ARRAYS.items()}
    with h5py.File(tmp_path / "file.hdf5", "w") as file:
        for name, array in zeros.items():
            file.create_dataset(name, data=array, compression="gzip", compression_opts=9)
    data, _ = d4rl.read(tmp_path / "file.hdf5")
    assert not data.obs.any()


def test_a_store_is_not_where_it_seems(tmp_path):
    """Minari's own file replaced by another kind."""
    folder = minari_io.save(DATA, ID, env_id="Hopper-v4", root=tmp_path)
    path = minari_files.dataset_dir(ID, tmp_path) / "data" / "main_data.hdf5"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert error_line(minari_io.load, ID, root=tmp_path) == (
        f"{ID} ({folder}/data/main_data.hdf5): is a gzip file; must be HDF5: unpack it first"
    )
