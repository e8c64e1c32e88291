"""Runs count the predictions that lie far outside the data, and with --clip_to_data store none."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.config.settings import to_flat
from adm_jax.data.formats import minari_io
from adm_jax.training import offline, online
from tests.stopping import Stop, stop_behind
from tests.tiny import TINY
from tests.training.run_files import arrays_of, lines, newest_arrays, run_folder
from tests.training.tiny_online import tiny

pytestmark = pytest.mark.usefixtures("small_curves")
NAME = "rollout/out_of_range_fraction"
SHORT = {
    "num_epochs": 1,  # whose rows are all in the buffer
    "fit_max_epochs": 1,
    "fit_steps_per_epoch": 300,
    "bc_steps": 0,
    "penalty_coef": 0.0,  # the buffer has the predicted rewards
    "rollout_batch_size": 100,
    "eval_every": 1,
    "eval_episodes": 1,
    "estimate_rows": 4,
    "checkpoint_every": 1,
}
KINDS = {
    "branched": {"dynamics": "adm"},
    "full horizon": {"dynamics": "adm_v2", "persistent": True, "horizon": 4},
    "ensemble": {"dynamics": "ensemble", "fit_steps_per_epoch": 10},
}


def bounds(*values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The widened range of rows [N, ...]; the width is 1 where there is none."""
    rows = np.concatenate(values).astype(np.float64)
    low, high = rows.min(axis=0), rows.max(axis=0)
    half = np.where(high > low, high - low, 1.0) / 2
    return np.float32(low - half), np.float32(high + half)


class Stored(NamedTuple):
    """What a member's buffer has of the last roll-outs."""

    next_obs: np.ndarray  # [N, D]
    reward: np.ndarray  # [N]


def stored(arrays: dict[str, np.ndarray], member: int, count: int | None = None, prefix: str = "") -> Stored:
    """The newest rows, all of them when None."""
    name = f"{prefix}buffer"
    size, position, capacity = (int(arrays[f"{name}/{x}"][member]) for x in ("size", "position", "capacity"))
    rows = (position - 1 - np.arange(size if count is None else count)) % capacity
    return Stored(*(arrays[f"{name}/data/{field}"][member, rows] for field in Stored._fields))


def share_outside(rows: Stored, data: Any) -> float:
    """How many of the next observations lie out of range."""
    low, high = bounds(data.obs, data.next_obs)
    outside = ((rows.next_obs < low) | (rows.next_obs > high)).any(axis=-1)
    assert outside.any()
    return float(outside.mean())


def share_clipped(rows: Stored, data: Any) -> float:
    """How many of the next observations lie on a bound, and so were outside; no number does."""
    for values, recorded in ((rows.reward, [data.reward]), (rows.next_obs, [data.obs, data.next_obs])):
        low, high = bounds(*recorded)
        assert ((values >= low) & (values <= high)).all()
    clipped = ((rows.next_obs == low) | (rows.next_obs == high)).any(axis=-1)
    assert clipped.any()
    return float(clipped.mean())


def config_of(kind: str, workdir: Path, dataset: str, **others: Any) -> OfflineConfig:
    known = to_flat(config_for_task("hopper", dynamics=KINDS[kind]["dynamics"]))
    fields = {name: value for name, value in {**TINY, **SHORT}.items() if name in known}
    return config_for_task(**{**fields, **KINDS[kind], "dataset": dataset, "workdir": str(workdir), **others})


@pytest.mark.parametrize(("kind", "clips"), [("branched", False), ("full horizon", True), ("ensemble", True)])
def test_offline_runs(kind: str, clips: bool, tiny_dataset: str, tmp_path: Path) -> None:
    config = config_of(kind, tmp_path, tiny_dataset, clip_to_data=clips)
    offline.run(config)
    folder = run_folder(config)
    row, data = lines(folder / "metrics.jsonl")[-1], minari_io.load(tiny_dataset)
    share_of = share_clipped if clips else share_outside
    for member in range(2):
        share = share_of(stored(newest_arrays(folder), member), data)
        assert row[NAME][member] == pytest.approx(share, rel=1e-5)
    assert all(0 <= share <= 1 for share in row["model/out_of_range_fraction"])


@pytest.mark.parametrize(("dynamics", "clips"), [("adm", True), ("ensemble", False)])
def test_online_the_range_is_of_what_was_recorded_so_far(dynamics: str, clips: bool, tmp_path: Path) -> None:
    """The pendulum's reward never varies."""
    config = tiny(
        dynamics,
        num_steps=120,
        checkpoint_every=20,
        eval_every=20,
        eval_episodes=1,
        rollout_batch_size=60,
        clip_to_data=clips,
        workdir=str(tmp_path),
    )
    online.run(config)
    (folder,) = (tmp_path / online.algorithm(config) / config.task).iterdir()
    rows = {row["steps"]: row for row in lines(folder / "metrics.jsonl")}
    share_of, has_grown = share_clipped if clips else share_outside, False
    checkpoints = sorted((folder / "checkpoints").glob("train-*"))
    for path in checkpoints:
        arrays, steps = arrays_of(folder, path.name), int(path.name.split("-")[1])
        row = rows[steps]
        for member in range(2):
            recorded = {x: arrays[f"recorded/{x}"][member, 0, :steps] for x in ("obs", "next_obs", "reward")}
            data = SimpleNamespace(**recorded)
            first = (x[: config.warmup_steps] for x in (data.obs, data.next_obs))
            has_grown |= not np.array_equal(bounds(*first), bounds(data.obs, data.next_obs))
            begun = config.rollout.rollout_batch_size * row["rollout/length"][member]
            count = round(row["rollout/valid_fraction"][member] * begun)
            share = share_of(stored(arrays, member, count, "state/"), data)
            assert row[NAME][member] == pytest.approx(share, rel=1e-5)
    assert checkpoints
    assert has_grown  # or the first fit's range would do


def test_a_run_that_clips_goes_on_clipping(
    tiny_dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longer = {"num_epochs": 2, "clip_to_data": True}
    whole, stopped = (config_of("branched", tmp_path / name, tiny_dataset, **longer) for name in "ab")
    offline.run(whole)
    with monkeypatch.context() as patch:
        stop_behind(patch, "train", 2)
        with pytest.raises(Stop):
            offline.run(stopped)
    offline.resume(str(run_folder(stopped)))
    assert json.loads((run_folder(stopped) / "config.json").read_text())["config"]["clip_to_data"] is True
    assert lines(run_folder(stopped) / "metrics.jsonl") == lines(run_folder(whole) / "metrics.jsonl")
    ours, theirs = newest_arrays(run_folder(stopped)), newest_arrays(run_folder(whole))
    for member in range(2):
        share_clipped(stored(ours, member), minari_io.load(tiny_dataset))
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
