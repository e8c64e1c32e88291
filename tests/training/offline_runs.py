"""Offline runs that are stopped, resumed and compared."""

from pathlib import Path

import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.training import offline
from tests.runs.event_records import points
from tests.stopping import Stop, stop_behind
from tests.training.run_files import lines, newest_arrays, run_folder


def assert_same_run(one: Path, other: Path) -> None:
    """That two offline runs have written the same: metrics, evaluations, curves and newest checkpoint."""
    assert lines(one / "metrics.jsonl") == lines(other / "metrics.jsonl")
    assert lines(one / "eval.jsonl") == lines(other / "eval.jsonl")
    assert points(one / "tensorboard") == points(other / "tensorboard")
    ours, theirs = newest_arrays(one), newest_arrays(other)
    assert ours.keys() == theirs.keys()
    assert {"agent/log_alpha", "buffer/data/obs"} <= ours.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def stop_and_resume(config: OfflineConfig, at: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """An offline run that is stopped after the metrics of an epoch without a checkpoint, and resumed."""
    with monkeypatch.context() as patch:
        stop_behind(patch, *at)
        with pytest.raises(Stop):
            offline.run(config)
    folder = run_folder(config)
    assert lines(folder / "metrics.jsonl")[-1]["epoch"] == at[1]  # past the checkpoint: must be cut back
    offline.resume(str(folder))
