"""Minari's Arrow and Parquet layouts, as Minari writes them, read as its HDF5 layout is."""

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from adm_jax.data.formats import minari_files, minari_io
from tests.data.sample_data import assert_same_bits, error_line

FORMATS = ("arrow", "parquet")
LENGTHS = (4, 3, 5)


def needs_pyarrow() -> None:
    pytest.importorskip("pyarrow", reason="pip install 'adm_jax[arrow]'")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def write(dataset_id: str, data_format: str, observations: str = "box") -> Path:
    """Three episodes of each kind of observations, by Minari's own classes."""
    import minari
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    rng = np.random.default_rng(0)
    box = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    matrix = spaces.Box(-np.inf, np.inf, (2, 2), np.float32)
    space = {
        "box": box,
        "dictionary": spaces.Dict({"goal": box, "at": matrix}),
        "nested": spaces.Dict({"b": spaces.Dict({"z": box, "a": matrix}), "a": box}),
    }[observations]

    def sample(space, count: int):
        if isinstance(space, spaces.Dict):
            return {name: sample(inner, count) for name, inner in space.items()}
        return rng.normal(size=(count, *space.shape)).astype(space.dtype)

    episodes = [
        EpisodeBuffer(
            observations=sample(space, length + 1),
            actions=rng.uniform(-1, 1, (length, 2)).astype(np.float32),
            rewards=list(rng.normal(size=length)),
            terminations=[False] * (length - 1) + [i == 0],
            truncations=[False] * (length - 1) + [i != 0],
            seed=None if i == 1 else 7 + i,
            options={"at": np.array([0.5, i]), "more": {"kind": "calm"}} if i else None,
        )
        for i, length in enumerate(LENGTHS)
    ]
    minari.create_dataset_from_buffers(
        dataset_id,
        episodes,
        observation_space=space,
        action_space=spaces.Box(-1, 1, (2,), np.float32),
        data_format=data_format,
    )
    return minari_files.dataset_dir(dataset_id) / "data"


@pytest.mark.filterwarnings("ignore")  # Minari's, of what it is not told about the data
@pytest.mark.parametrize("observations", ["box", "dictionary", "nested"])
@pytest.mark.parametrize("data_format", FORMATS)
def test_the_same_bits_as_in_hdf5(data_format, observations):
    needs_pyarrow()
    write("tests/hdf5-v0", "hdf5", observations)
    write("tests/other-v0", data_format, observations)
    same, data = minari_io.load("tests/hdf5-v0"), minari_io.load("tests/other-v0")
    assert_same_bits(same, data)
    assert data.episode_lengths.tolist() == list(LENGTHS)
    assert data.terminated.sum() == 1
    assert data.metadata == same.metadata
    assert str(data.resets) == str(same.resets)
    first, last = data.resets
    assert (first.episode, first.seed, first.options) == (0, 7, None)
    assert (last.episode, last.seed, str(last.options)) == (
        2, 9, "{'at': array([0.5, 2. ]), 'more': {'kind': 'calm'}}"
    )  # fmt: skip


DAMAGE = {
    "a missing episode": (
        lambda folder: shutil.rmtree(folder / "1"),
        "holds 2 episodes, its metadata say total_episodes=3; both must agree",
    ),
    "a missing file": (
        lambda folder: next((folder / "1").glob("part-*")).unlink(),
        "episode 1: observations is missing; must hold observations, actions, rewards, terminations, "
        "truncations",
    ),
    "a file cut short": (
        lambda folder: os.truncate(next((folder / "1").glob("part-*")), 200),
        "cannot be read, damaged or cut short (",
    ),
    "another file": (
        lambda folder: next((folder / "1").glob("part-*")).write_text("see there"),
        "cannot be read, damaged or cut short (",
    ),
    "an episode of another": (
        lambda folder: shutil.copytree(folder / "2", folder / "1", dirs_exist_ok=True),
        "holds 14 steps, its metadata say total_steps=12; both must agree",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", DAMAGE)
@pytest.mark.parametrize("data_format", FORMATS)
def test_damage_is_one_line(data_format, kind):
    needs_pyarrow()
    folder = write("tests/other-v0", data_format)
    damage, line = DAMAGE[kind]
    damage(folder)
    assert error_line(minari_io.load, "tests/other-v0").startswith(f"tests/other-v0 ({folder}): {line}")


@pytest.mark.parametrize("data_format", FORMATS)
def test_without_pyarrow_one_line_says_what_to_install(data_format, store, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # as if it were not installed
    folder = store / "tests" / "other-v0" / "data"
    folder.mkdir(parents=True)
    facts = {"data_format": data_format, "total_episodes": 1, "total_steps": 4}
    (folder / "metadata.json").write_text(json.dumps(facts))
    line = error_line(minari_io.load, "tests/other-v0")
    assert line.startswith(f"tests/other-v0 ({folder}): is stored as {data_format}, which needs pyarrow (")
    assert line.endswith("); pip install 'adm_jax[arrow]'")
