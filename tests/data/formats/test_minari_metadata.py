"""Metadata that count: sealed where this library wrote them, and checked at load whoever did."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from adm_jax.data.formats import minari_io
from adm_jax.types import InputError
from tests.data.sample_data import error_line, make_data

ID = "hopper/tiny-v0"


@pytest.fixture
def path(tmp_path, monkeypatch) -> Path:
    """metadata.json of a dataset that was just written."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return minari_io.save(make_data(), ID, env_id="Hopper-v4") / "data" / "metadata.json"


def lose_seal(path: Path) -> None:
    with h5py.File(path.parent / "main_data.hdf5", "a") as file:
        file.attrs.clear()


def lose_step_limit(table: dict) -> None:
    spec = json.loads(table["env_spec"])
    table["env_spec"] = json.dumps({**spec, "max_episode_steps": 1100})


@pytest.mark.parametrize(
    "change",
    [
        lose_step_limit,
        lambda table: table.pop("env_spec"),
        lambda table: table.update(ref_min_score=0.0, ref_max_score=1.0),
        lambda table: table["adm_jax"].pop("sealed"),
        lambda table: table["adm_jax"].update(env_id="Hopper-v5"),
        lambda table: table.pop("adm_jax"),
        lambda table: table.update(adm_jaz=table.pop("adm_jax")),
    ],
)
def test_metadata_that_count_are_sealed(path, change):
    table = json.loads(path.read_text())
    change(table)
    path.write_text(json.dumps(table))
    assert "metadata: not what was written (SHA-256 differs)" in error_line(minari_io.load, ID)


def test_a_seal_cannot_be_lost_and_other_entries_may_change(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "description": "hops"}))  # as Minari lets one
    assert minari_io.load(ID).metadata["env_id"] == "Hopper-v4"
    lose_seal(path)
    assert "metadata: not what was written (SHA-256 differs)" in error_line(minari_io.load, ID)


def test_flipped_bits_in_metadata_never_load_as_something_else(path):
    sound, loaded, lines = path.read_bytes(), minari_io.load(ID), []
    spec = json.loads(sound)["env_spec"]
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(sound), 200):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            again = minari_io.load(ID)
        except InputError as error:
            lines.append(str(error))
        else:
            assert again.metadata == loaded.metadata  # it lay in an entry that nothing reads
            assert json.loads(damaged)["env_spec"] == spec
    assert len(lines) > 150
    assert not [text for text in lines if "\n" in text]


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1.0, 1.0, "1.0 and 1.0"), (2, 1.0, "2 and 1.0"), (float("nan"), 1.0, "nan and 1.0"),
        (0.0, float("inf"), "0.0 and inf"), (10**400, 1.0, "1000"), ("0", 1.0, "'0' and 1.0"),
        (True, 2.0, "True and 2.0"), ([0], 1.0, "[0] and 1.0"),
    ],
)  # fmt: skip
def test_reference_scores_that_give_no_score_are_refused_at_load(path, low, high, shown):
    """Of a dataset that others made."""
    table = json.loads(path.read_text())
    del table["adm_jax"]
    path.write_text(json.dumps({**table, "ref_min_score": low, "ref_max_score": high}))
    lose_seal(path)
    text = error_line(minari_io.load, ID)
    assert f"metadata: reference scores, ref_min_score and ref_max_score, are {shown}" in text
    assert text.endswith("; must be finite numbers, the first below the second")
