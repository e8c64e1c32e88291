"""A disk that fills up, a quota, a folder that turns read-only or is deleted under a run: one line.

What was saved is whole: once there is room again, a resume ends as a run that never was disturbed. Run by
hand, as root on Linux, for it mounts a disk of its own; writes benchmarks/results/faults/disks.json:

XLA_FLAGS= pytest -n0 -m slow tests/faults/test_disks.py
"""

import collections
import contextlib
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.training import offline
from tests.faults.whole_runs import keep, require_same, whole_run
from tests.tiny import TINY
from tests.training.run_files import ROOT, command

Fault = Callable[[Path, int, np.random.Generator], Callable[[], Any]]  # disk, process -> what mends it


def _config(workdir: Path) -> OfflineConfig:
    return config_for_task(**{**TINY, "checkpoint_every": 1, "workdir": str(workdir)})


def _fill(disk: Path, pid: int, rng: np.random.Generator) -> Callable[[], Any]:
    """Another program takes all room but for what a file or two of the run need."""
    filler, left = disk / "filler", int(10 ** rng.uniform(0, 5.5))
    with filler.open("wb") as file, contextlib.suppress(OSError):
        file.write(bytes(max(shutil.disk_usage(disk).free - left, 0)))
    return filler.unlink


def _limit(disk: Path, pid: int, rng: np.random.Generator) -> Callable[[], Any]:
    """No file of the process may grow further than this, as where a quota is used up."""
    most = int(10 ** rng.uniform(0, 5.5))
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    return lambda: None


def _forbid(disk: Path, pid: int, rng: np.random.Generator) -> Callable[[], Any]:
    """Nothing in the run's folder can be written, made or removed."""
    subprocess.run(["chattr", "-R", "+i", disk / "runs"], check=True, capture_output=True)
    return lambda: subprocess.run(["chattr", "-R", "-i", disk / "runs"], check=True)


def _delete(disk: Path, pid: int, rng: np.random.Generator) -> Callable[[], Any]:
    (config,) = disk.glob("runs/*/*/*/config.json")
    while config.parent.exists():  # the run may be making files in it
        shutil.rmtree(config.parent, ignore_errors=True)
    return lambda: None


FAULTS: dict[str, tuple[Fault, int]] = {
    "disk full": (_fill, 12),
    "file size limited": (_limit, 6),
    "folder read-only": (_forbid, 6),
    "folder deleted": (_delete, 6),
}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MiB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs the right to mount a disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", path], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAULTS)
def test_a_run_whose_disk_fails_ends_in_a_line_and_goes_on(
    name: str, disk: Path, tiny_dataset: str, tmp_path: Path
) -> None:
    (fault, tries), rng = FAULTS[name], np.random.default_rng(0)
    seconds, whole = whole_run("admpo_off", _config, tmp_path / "whole")
    outcomes: collections.Counter[str] = collections.Counter()
    for attempt in range(tries):
        (disk / "runs").mkdir()
        outcome, folder = _disturb(fault, disk, 0.6 * seconds, rng)
        if folder.exists():
            offline.resume(str(folder))
            require_same(folder, whole)
            outcome += ", then the same to the last bit"
        outcomes[outcome] += 1
        shutil.rmtree(disk / "runs")
        keep(
            "disks.json",
            name,
            {"tries": attempt + 1, "of": tries, "outcomes": dict(sorted(outcomes.items()))},
        )


def _disturb(fault: Fault, disk: Path, seconds: float, rng: np.random.Generator) -> tuple[str, Path]:
    """Starts a run, and lets something happen to its disk once it has a folder; what was said, the folder."""
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command("admpo_off", _config(disk / "runs")), cwd=ROOT, **pipes) as run:
        while not (configs := list(disk.glob("runs/*/*/*/config.json"))):
            assert run.poll() is None
            time.sleep(0.01)
        time.sleep(float(rng.uniform(0, seconds)))
        mend = fault(disk, run.pid, rng) if run.poll() is None else lambda: None
        _, error = run.communicate()
        mend()
    folder = configs[0].parent
    if run.returncode == 0:
        return "finished", folder
    assert run.returncode == 2, error
    assert "Traceback" not in error
    line = error.splitlines()[-1]
    assert line.startswith("error: ")
    assert str(folder) in line
    reason = line.partition("] ")[2].partition(":")[0] or line.replace(str(folder), "...")
    return f"ended in a line ({reason})", folder
