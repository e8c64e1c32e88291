"""The built-in dataset: packing, first use, and the file that ships."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import minari
import numpy as np
import pytest

from adm_jax.data import builtin
from adm_jax.data.formats import minari_files, minari_io
from tests.data.sample_data import assert_same_bits, error_line, make_data

METADATA = {
    "env_id": "Hopper-v4",
    "command": "python -m experiments.collect --seed=3",
    "seed": 3,
    "versions": {"x": "1"},
}
SHIPPED = builtin.FILES[builtin.BUILTIN_ID]


def sample(lengths: tuple[int, ...] = (4, 1, 30, 7), **kwargs):
    return dataclasses.replace(make_data(lengths, **kwargs), metadata=METADATA)


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def packed(tmp_path, monkeypatch) -> Path:
    """A small stand-in for the shipped file."""
    path = tmp_path / "small.xz"
    builtin.pack(sample(), path)
    monkeypatch.setitem(builtin.FILES, builtin.BUILTIN_ID, path)
    return path


@pytest.mark.parametrize("lengths", [(1,), (1, 1, 1), (8,), (4, 1, 30, 7)])
def test_pack_and_unpack_bit_for_bit(lengths, tmp_path):
    data = sample(lengths)
    data = dataclasses.replace(data, truncated=data.truncated | data.terminated)
    size = builtin.pack(data, tmp_path / "a.xz")
    assert size == (tmp_path / "a.xz").stat().st_size
    unpacked = builtin.unpack(tmp_path / "a.xz")
    assert_same_bits(data, unpacked)
    assert {name: unpacked.metadata[name] for name in METADATA} == METADATA
    assert unpacked.metadata["episode_return_max"] == data.return_statistics()["episode_return_max"]
    builtin.pack(unpacked, tmp_path / "b.xz")
    assert (tmp_path / "a.xz").read_bytes() == (tmp_path / "b.xz").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.xz", "b.xz"]


def test_pack_refuses_data_of_unknown_origin(tmp_path):
    data = dataclasses.replace(sample(), metadata={"env_id": "Hopper-v4", "seed": 0})
    assert "metadata lack command, versions" in error_line(builtin.pack, data, tmp_path / "a.xz")
    bad = dataclasses.replace(sample(), reward=np.full(42, np.inf, np.float32))
    assert "reward is inf" in error_line(builtin.pack, bad, tmp_path / "a.xz")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    assert "cannot be written" in error_line(builtin.pack, sample(), tmp_path / "file" / "a.xz")


def test_damaged_files_give_one_line(packed):
    content = packed.read_bytes()
    for damaged in (
        b"",
        content[: len(content) // 2],
        content[:-1],
        content[:100] + b"?" + content[101:],
        b"text",
    ):
        packed.write_bytes(damaged)
        text = error_line(builtin.unpack, packed)
        assert text.startswith(f"{packed}: cannot be read, damaged or cut short (")
    packed.unlink()
    assert "cannot be read" in error_line(builtin.unpack, packed)


def test_first_use_makes_the_minari_copy(packed, store):
    data = minari_io.load(builtin.BUILTIN_ID)
    assert_same_bits(data, sample())
    assert list(minari.list_local_datasets()) == [builtin.BUILTIN_ID]
    assert {
        name: data.metadata[name] for name in METADATA
    } == METADATA  # its maker's versions, not the copier's
    packed.unlink()  # from now on the copy serves
    assert_same_bits(minari_io.load(builtin.BUILTIN_ID), sample())
    assert builtin.ensure() == store / builtin.BUILTIN_ID
    assert "is not built in; one of adm_jax/hopper-replay-v0" in error_line(builtin.ensure, "other-v0")


def test_a_store_that_cannot_be_written_does_not_matter(packed, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    assert_same_bits(minari_io.load(builtin.BUILTIN_ID), sample())
    assert "going on without a copy" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "other data"])
def test_a_damaged_copy_is_told_and_the_packaged_file_serves(damage, packed, store, caplog):
    folder = builtin.ensure()
    if damage == "truncated":
        os.truncate(folder / "data" / "main_data.hdf5", 100)
    else:
        minari_io.save(sample((3, 3)), builtin.BUILTIN_ID, env_id="Hopper-v4", overwrite=True)
    assert_same_bits(minari_io.load(builtin.BUILTIN_ID), sample())
    assert f"taking the packaged file; delete {folder}" in caplog.text
    assert len(caplog.messages) == 1


def _ensure(path: Path, store: Path, barrier) -> None:
    builtin.FILES[builtin.BUILTIN_ID] = path
    barrier.wait()
    builtin.ensure(root=store)
    assert_same_bits(minari_files.read(builtin.BUILTIN_ID, store), sample())


def test_concurrent_first_use(packed, store):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(3)
    workers = [context.Process(target=_ensure, args=(packed, store, barrier)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert [p.name for p in store.iterdir()] == ["adm_jax"]


def test_killed_in_the_middle_of_first_use(tmp_path, store, monkeypatch):
    path = tmp_path / "many.xz"
    builtin.pack(sample((2,) * 1200), path)
    code = (
        "import sys, pathlib; from adm_jax.data import builtin; "
        "builtin.FILES[builtin.BUILTIN_ID] = pathlib.Path(sys.argv[1]); builtin.ensure()"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parents[2])
    deadline = time.monotonic() + 60
    while not list(store.glob(".adm_jax-*/dataset/data/main_data.hdf5")) and time.monotonic() < deadline:
        time.sleep(0.005)
    worker.send_signal(signal.SIGKILL)
    assert worker.wait() == -signal.SIGKILL
    assert list(store.glob(".adm_jax-*"))  # it was in the middle
    assert minari.list_local_datasets() == {}
    assert not minari_files.exists(builtin.BUILTIN_ID)
    monkeypatch.setitem(builtin.FILES, builtin.BUILTIN_ID, path)
    assert len(minari_io.load(builtin.BUILTIN_ID).obs) == 2400


def test_shipped_file(store):
    if not SHIPPED.exists():
        pytest.skip("the shipped dataset is not made yet")
    assert SHIPPED.stat().st_size <= 5_000_000
    data = builtin.unpack(SHIPPED)
    assert len(data.obs) >= 50_000
    assert (data.obs.shape[1], data.action.shape[1]) == (11, 3)
    facts = data.metadata
    assert all(facts[name] is not None for name in builtin.REQUIRED_METADATA)
    assert facts["env_id"] == "Hopper-v4"
    assert "experiments.collect" in facts["command"]
    assert {name: facts[name] for name in data.return_statistics()} == data.return_statistics()
    assert facts["transition_weighted_return_mean"] >= 500
    assert facts["episode_return_max"] >= 3 * facts["transition_weighted_return_mean"]
    assert_same_bits(minari_io.load(builtin.BUILTIN_ID), data)
