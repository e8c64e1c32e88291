"""Of processes that resume one folder at once, one goes on and the others end in a line.

Run by hand, as each try takes half a minute; writes benchmarks/results/faults/contended_folder.json:

XLA_FLAGS= pytest -n0 -m slow tests/faults/test_contended_folder.py
"""

import collections
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.training import offline
from tests.faults.whole_runs import keep, require_same, whole_run
from tests.stopping import Stop, stop_behind
from tests.tiny import TINY
from tests.training.run_files import ROOT, run_folder

TRIES = 20
STOPS = (("fit", 2), ("train", 1), ("train", 3))


def _config(workdir: Path) -> OfflineConfig:
    return config_for_task(**{**TINY, "checkpoint_every": 1, "workdir": str(workdir)})


@pytest.fixture
def stopped(tiny_dataset: str, tmp_path: Path) -> list[Path]:
    """Runs that were stopped, each in another phase."""
    folders = []
    for phase, epoch in STOPS:
        config = _config(tmp_path / f"{phase}{epoch}")
        with pytest.MonkeyPatch.context() as patch:
            stop_behind(patch, phase, epoch)
            with pytest.raises(Stop):
                offline.run(config)
        folders.append(run_folder(config))
    return folders


@pytest.mark.slow
def test_one_goes_on_and_the_others_end_in_a_line(stopped: list[Path], tmp_path: Path) -> None:
    _, whole = whole_run("admpo_off", _config, tmp_path / "whole")
    rng, outcomes = np.random.default_rng(0), collections.Counter[str]()
    for attempt in range(TRIES):
        folder = tmp_path / f"try{attempt}"
        shutil.copytree(stopped[attempt % len(stopped)], folder)
        number = int(rng.integers(2, 4))
        ended = _resume_at_once(folder, number, rng)
        others = sorted(ended)[1:]
        assert [code for code, _ in sorted(ended)] == [0] + [2] * (number - 1)
        for _, error in others:
            (line,) = error.splitlines()
            assert line.startswith(f"error: {folder}: process ")
        require_same(folder, whole)
        outcomes[f"one of {number} went on, the others one line, then the same to the last bit"] += 1
        found = {"tries": attempt + 1, "of": TRIES, "outcomes": dict(sorted(outcomes.items()))}
        keep("contended_folder.json", "resumes of one folder", found)


def _resume_at_once(folder: Path, number: int, rng: np.random.Generator) -> list[tuple[int, str]]:
    """Exit code and stderr of each."""
    command = [sys.executable, "-W", "ignore", "-m", "experiments.admpo_off", f"--resume={folder}"]
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    running = []
    for _ in range(number):
        running.append(subprocess.Popen(command, cwd=ROOT, **pipes))
        time.sleep(float(rng.uniform(0, 0.3)))
    errors = [process.communicate()[1] for process in running]
    return [(process.returncode, error) for process, error in zip(running, errors, strict=True)]
