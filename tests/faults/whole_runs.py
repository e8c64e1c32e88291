"""Runs in processes of their own, undisturbed, to compare with those that were disturbed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax.config import OfflineConfig, OnlineConfig
from tests.training.run_files import ROOT, command, computed, lines, newest_arrays

REPORTS = ROOT / "benchmarks" / "results" / "faults"


def whole_run(
    experiment: str, config: Callable[[Path], OfflineConfig | OnlineConfig], workdir: Path
) -> tuple[float, Path]:
    """Seconds that a run takes whose programs are compiled, and its folder."""
    for part in ("compiled", "timed"):
        begin = time.monotonic()
        done = subprocess.run(
            command(experiment, config(workdir / part)), cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    (folder,) = (workdir / "timed").glob("*/*/*")
    return time.monotonic() - begin, folder


def require_same(folder: Path, whole: Path) -> None:
    """Every line, result and array of the last checkpoint, to the last bit."""
    for file in ("metrics.jsonl", "eval.jsonl"):
        assert lines(folder / file) == lines(whole / file)
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (folder, whole))
    assert computed(ours) == computed(theirs)
    for checkpoints in whole.glob("**/checkpoints"):
        of_whole = newest_arrays(checkpoints.parent)
        own = newest_arrays(folder / checkpoints.parent.relative_to(whole))
        assert own.keys() == of_whole.keys()
        for name, array in own.items():
            np.testing.assert_array_equal(array, of_whole[name], err_msg=name)


def keep(report: str, name: str, found: dict[str, Any]) -> None:
    """Writes one entry of a kept table, with where it was made."""
    path = REPORTS / report
    kept = json.loads(path.read_text()) if path.exists() else {}
    versions = {"cpus": os.cpu_count(), "python": sys.version.split()[0]}
    path.write_text(json.dumps({**kept, name: {**versions, **found}}, indent=1) + "\n")
