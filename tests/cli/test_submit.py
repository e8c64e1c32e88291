"""Jobs of ``adm-jax submit``: what each runs, and that a requeued one ends as one never interrupted."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adm_jax.cli import submit
from adm_jax.training import online
from adm_jax.types import InputError
from tests.cli import scripts
from tests.training.run_files import ROOT, computed, lines, newest_arrays
from tests.training.tiny_online import TINY, tiny


def test_seeds_are_dealt_in_stretches() -> None:
    given = ["offline", "--preset=steady", "--seeds=0,1,2,3,4", "--num_epochs=5"]
    assert submit.deal(given, 1) == [given]
    others = ["offline", "--preset=steady", "--num_epochs=5"]
    assert submit.deal(given, 2) == [[*others, "--seeds=0,1"], [*others, "--seeds=2,3,4"]]


@pytest.mark.parametrize(
    ("given", "num_jobs", "line"),
    [
        ([], 1, "submit: 'nothing' is no command that learns policies; one of offline, adm2po, online"),
        (["ope"], 1, "submit: 'ope' is no command that learns policies"),
        (["offline"], 2, "jobs: 2 cannot share 0 seeds; give them behind the command, as --seeds=0,1,2,3"),
        (["online", "--seeds=4"], 3, "jobs: 3 cannot share 1 seeds"),
    ],
)
def test_what_cannot_be_submitted_is_told_in_a_line(given: list[str], num_jobs: int, line: str) -> None:
    with pytest.raises(InputError) as error:
        submit.deal(given, num_jobs)
    assert str(error.value).startswith(line)


@pytest.mark.parametrize("flag", ["--num_epoch=5", "--num_epochs=0"])
def test_a_mistyped_flag_of_the_command_is_not_submitted(flag: str) -> None:
    done = scripts.run("submit", "--jobs=2", "offline", "--seeds=0,1", flag)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "num_epoch" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_submits_nothing() -> None:
    done = scripts.run("submit", "offline", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--sbatch" in done.stdout
    assert "job " not in done.stdout.splitlines()[-1]


def test_what_sbatch_refuses_is_a_line(tmp_path: Path) -> None:
    """Stand-ins of SLURM's programs: one that is there, and one that refuses."""
    pytest.importorskip("submitit", reason="needs the extra slurm")
    for name, code in (("srun", "exit 0"), ("sbatch", "echo 'sbatch: error: no partition typo' >&2; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "experiments.submit",
        f"--logs={tmp_path}/logs",
        "offline",
    ]
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("error: submit: sbatch refuses the jobs (sbatch: error: no partition typo)\n")


def test_a_requeued_job_goes_on_once_its_run_has_a_checkpoint(tmp_path: Path) -> None:
    command, note, run = ["online", "--seeds=0"], tmp_path / "note", tmp_path / "run"
    assert submit._going_on(command, note) == command
    note.write_text(str(run))
    assert submit._going_on(command, note) == command  # its folder was discarded
    (run / "checkpoints" / "train-000001").mkdir(parents=True)
    (run / ".lock.json").write_text('{"host": "elsewhere"}')
    assert submit._going_on(command, note) == command  # nothing is saved yet
    (run / "checkpoints" / "train-000001" / "record.json").write_text("{}")
    assert submit._going_on(command, note) == ["online", f"--resume={run}"]
    assert not (run / ".lock.json").exists()


def test_without_submitit_a_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match=r"needs submitit; pip install 'adm_jax\[slurm\]'"):
        submit._submitit()


def test_a_job_that_is_preempted_goes_on_when_it_is_requeued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By submitit's own executor of local processes, which requeues as SLURM does."""
    submitit = pytest.importorskip("submitit", reason="needs the extra slurm")
    whole = online.run(tiny("none", workdir=str(tmp_path / "whole")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), *filter(None, sys.path)]))
    executor = submitit.LocalExecutor(tmp_path / "logs", max_num_timeout=2)
    executor.update_parameters(timeout_min=60)
    settings = {**TINY, "seeds": "0,1", "dynamics": "none", "workdir": tmp_path / "job"}
    flags = [f"--{name}={value}" for name, value in settings.items()]
    (job,) = submit.submit(executor, [["online", *flags]])
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("job/*/*/*/checkpoints/train-000080")):
        assert not job.done(), job.stderr()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    (task,) = Path(f"/proc/{job._process.pid}/task/{job._process.pid}/children").read_text().split()
    os.kill(int(task), signal.SIGUSR2)  # as SLURM does before it ends a job
    assert job.result() == 0
    (folder,) = tmp_path.glob("job/*/*/*")
    (of_whole,) = tmp_path.glob("whole/*/*/*")
    stretches = json.loads((folder / "result.json").read_text())["stretches"]
    assert len(stretches) == 2  # it was interrupted
    assert computed(json.loads((folder / "result.json").read_text())) == computed(whole)
    assert lines(folder / "metrics.jsonl") == lines(of_whole / "metrics.jsonl")
    ours, theirs = newest_arrays(folder), newest_arrays(of_whole)
    assert {name: array.tobytes() for name, array in ours.items()} == {
        name: array.tobytes() for name, array in theirs.items()
    }
