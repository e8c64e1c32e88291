"""Runs that are killed, or told to stop, at a random moment go on as if they never had been.

Run by hand, as each try takes ten seconds; writes benchmarks/results/faults/stopped_runs.json:

XLA_FLAGS= pytest -n0 -m slow tests/faults/test_stopped_runs.py  # -k offline: one kind
"""

import collections
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from adm_jax.config import OfflineConfig, OnlineConfig, config_for_task
from adm_jax.config.settings import to_flat
from adm_jax.training import offline, online
from tests.faults.whole_runs import keep, require_same, whole_run
from tests.tiny import TINY
from tests.training.run_files import ROOT, command
from tests.training.tiny_online import tiny

pytestmark = pytest.mark.slow
REPORT = "stopped_runs.json"
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
MOST_SECONDS = 30  # that a run may take to save and leave


class Kind(NamedTuple):
    """A kind of run."""

    experiment: str
    config: Callable[[Path], OfflineConfig | OnlineConfig]
    resume: Callable[[str], dict[str, Any]]
    tries: dict[signal.Signals, int]  # how often each stops it


def _offline(dynamics: str, **others: Any) -> Callable[[Path], OfflineConfig]:
    known = to_flat(config_for_task("hopper", dynamics=dynamics))
    settings = {
        name: value for name, value in {**TINY, "checkpoint_every": 1, **others}.items() if name in known
    }
    return lambda workdir: config_for_task(**{**settings, "dynamics": dynamics, "workdir": str(workdir)})


def _often(kills: int, signals: int) -> dict[signal.Signals, int]:
    return {signal.SIGKILL: kills, signal.SIGTERM: signals, signal.SIGINT: signals}


WHOLE_EPISODES = {"persistent": True, "horizon": 6, "retain_epochs": 1, "num_epochs": 8}
KINDS = {
    "offline": Kind("admpo_off", _offline("adm"), offline.resume, _often(80, 8)),
    "adm2po": Kind("adm2po", _offline("adm_v2", **WHOLE_EPISODES), offline.resume, _often(40, 5)),
    "batches": Kind("admpo_off", _offline("adm", members_per_batch=1), offline.resume, _often(40, 5)),
    "online": Kind("admpo_on", lambda workdir: tiny(workdir=str(workdir)), online.resume, _often(40, 7)),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_stopped_run_ends_as_one_that_was_not(name: str, tiny_dataset: str, tmp_path: Path) -> None:
    kind, rng = KINDS[name], np.random.default_rng(0)
    seconds, whole = whole_run(kind.experiment, kind.config, tmp_path / "whole")
    report: dict[str, dict[str, Any]] = {}
    for number, tries in kind.tries.items():
        outcomes: collections.Counter[str] = collections.Counter()
        slowest = 0.0
        for attempt in range(tries):
            workdir = tmp_path / f"{number.name}{attempt}"
            outcome, took = _stop(kind, workdir, number, float(rng.uniform(0.0, seconds)))
            slowest = max(slowest, took)
            for folder in workdir.glob("*/*/*/config.json"):
                kind.resume(str(folder.parent))
                require_same(folder.parent, whole)
                outcome = f"{outcome}, then the same to the last bit"
            outcomes[outcome] += 1
            found = {"tries": attempt + 1, "of": tries, "outcomes": dict(sorted(outcomes.items()))}
            report[number.name] = {**found, "slowest_to_leave_seconds": round(slowest, 1)}
            keep(REPORT, name, report)  # what is known so far: the whole takes an hour
    assert all("begun" in each or "last bit" in each for of in report.values() for each in of["outcomes"])


def _stop(kind: Kind, workdir: Path, number: signal.Signals, after: float) -> tuple[str, float]:
    """Starts a run and sends it a signal; what was reached, and the seconds that it took to leave."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT, "text": True}
    with subprocess.Popen(command(kind.experiment, kind.config(workdir)), **pipes) as run:
        try:
            run.wait(timeout=after)
        except subprocess.TimeoutExpired:
            run.send_signal(number)
        begin = time.monotonic()
        _, error = run.communicate()
        took = time.monotonic() - begin
    configs = list(workdir.glob("*/*/*/config.json"))
    if run.returncode == 0:
        return "finished before", took
    if not configs:
        # killed while it imports, it leaves glfw's own subprocess with a broken pipe
        assert number is signal.SIGKILL or "Traceback" not in error
        return "stopped before it had begun", took
    assert run.returncode == CODES[number], error
    reached = "killed"
    if number is not signal.SIGKILL:
        assert took <= MOST_SECONDS
        assert f"--resume={configs[0].parent}" in error.splitlines()[-1]
        reached = "saved and left"
    phase = max((path.name for path in configs[0].parent.glob("**/checkpoints/*-*")), default="no checkpoint")
    return f"{reached} with {phase.split('-')[0]}", took
