"""Submit a learning command to SLURM: seeds dealt to jobs of one device each, through submitit.

adm-jax submit --jobs=4 --partition=gpu --hours=24 offline --preset=steady --seeds=0,1,2,3

A job whose time runs out, or that is preempted, saves a checkpoint, is requeued and goes on from it; one
whose node fails goes on from the newest.
"""

import contextlib
import importlib
import itertools
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import flags

from adm_jax import files
from adm_jax.cli import app
from adm_jax.types import InputError

FLAGS = flags.FLAGS
_COMMANDS = {"offline": "admpo_off", "adm2po": "adm2po", "online": "admpo_on"}  # name -> module
_command: list[str] = []  # that is submitted, with its flags
_SAVING_SECONDS = 300  # that SLURM's signal comes before the end
_STOPPED = (130, 138, 143)  # a signal has ended a run, which has saved


def define() -> None:
    """Defines the flags; what follows the first argument that is none is the command to submit."""
    at = next((i for i, each in enumerate(sys.argv[1:], 1) if not each.startswith("-")), len(sys.argv))
    _command[:] = sys.argv[at:]
    del sys.argv[at:]
    flags.DEFINE_integer("jobs", 1, "jobs that the seeds are dealt to, as evenly as they go", 1)
    flags.DEFINE_string("logs", "slurm", "folder of the jobs' output and of submitit's files")
    flags.DEFINE_string("partition", None, "SLURM's partition; its default one when empty")
    flags.DEFINE_float("hours", 24.0, "time limit of a job, after which it is requeued", 0.1)
    flags.DEFINE_integer("requeues", 10, "how often a job whose time runs out is requeued", 0)
    flags.DEFINE_integer("gpus", 1, "GPUs of a job; 0: none", 0)
    flags.DEFINE_integer("cpus", 8, "CPU cores of a job", 1)
    text = "a further parameter of sbatch, as account=lab; may be given several times"
    flags.DEFINE_multi_string("sbatch", [], text)


def main(_: list[str]) -> int:
    """Submits, and prints each job with what it runs and where its output goes; returns the exit code."""
    commands = deal(_command, FLAGS.jobs)
    code = _parse(_command)
    if code or any(each in _command for each in ("--help", "-help", "-h")):
        return code
    for job, command in zip(submit(_executor(), commands), commands, strict=True):
        print(f"job {job.job_id}: adm-jax {' '.join(command)}; output in {job.paths.stdout}")
    return 0


def _parse(command: Sequence[str]) -> int:
    """Parses a command's flags, so that a mistyped one is not found in a queue; returns the exit code."""
    name, *given = command
    importlib.import_module(f"adm_jax.cli.{_COMMANDS[name]}").define()
    return app.call(lambda _: 0, [f"adm-jax {name}", *given])


def deal(command: Sequence[str], num_jobs: int) -> list[list[str]]:
    """The command of each job, which has a stretch of the seeds.

    Raises InputError: it is no command that learns, or there are fewer seeds than jobs.
    """
    if not command or command[0] not in _COMMANDS:
        raise InputError(
            f"submit: {command[0] if command else 'nothing'!r} is no command that learns policies; one of "
            f"{', '.join(_COMMANDS)}, behind the flags of submit"
        )
    if num_jobs == 1:
        return [list(command)]
    given = [each.partition("=")[2].split(",") for each in command if re.match(r"--?seeds=", each)]
    seeds = given[-1] if given else []
    if len(seeds) < num_jobs:
        raise InputError(
            f"jobs: {num_jobs} cannot share {len(seeds)} seeds; give them behind the command, as "
            "--seeds=0,1,2,3"
        )
    others = [each for each in command if not re.match(r"--?seeds=", each)]
    cuts = [len(seeds) * i // num_jobs for i in range(num_jobs + 1)]
    return [[*others, f"--seeds={','.join(seeds[start:stop])}"] for start, stop in itertools.pairwise(cuts)]


def submit(executor: Any, commands: Sequence[Sequence[str]]) -> list[Any]:
    """Submits commands to a ``submitit.Executor``, together; returns its jobs.

    Raises InputError: the scheduler refuses them.
    """
    try:
        with executor.batch():
            return [executor.submit(Job(command)) for command in commands]
    except _submitit().core.utils.FailedJobError as error:
        reason = next((line for line in str(error).splitlines() if "error" in line), str(error))
        raise InputError(f"submit: sbatch refuses the jobs ({' '.join(reason.split())})") from error


def _executor() -> Any:
    submitit = _submitit()
    further = dict(each.split("=", 1) if "=" in each else (each, True) for each in FLAGS.sbatch)
    try:
        executor = submitit.SlurmExecutor(FLAGS.logs, max_num_timeout=FLAGS.requeues)
    except RuntimeError as error:
        raise InputError("submit: finds no SLURM here (no srun); run it on a login node") from error
    executor.update_parameters(
        job_name="adm-jax",
        time=round(60 * FLAGS.hours),
        partition=FLAGS.partition,
        gpus_per_node=FLAGS.gpus or None,
        cpus_per_task=FLAGS.cpus,
        signal_delay_s=_SAVING_SECONDS,
        additional_parameters=further,
    )
    return executor


def _submitit() -> Any:
    try:
        import submitit  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("submit: needs submitit; pip install 'adm_jax[slurm]'") from error
    return submitit


class Job:
    """A run in a process of its own; what submitit calls on the node, and what it asks for a checkpoint.

    The run's folder is noted beside the job's output: whoever requeues the job, it goes on there.
    """

    def __init__(self, command: Sequence[str]):
        self._command = list(command)
        self._code: int | None = None
        self._process: subprocess.Popen[str] | None = None

    def __call__(self) -> int:
        """The run's exit code, 0 or 3; raises RuntimeError where it is another one."""
        job = _submitit().JobEnvironment()
        note = job.paths.folder / f"{job.job_id}_run_folder"
        command = _going_on(self._command, note)
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", "from adm_jax.cli.main import main; main()", *command],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_ignore_submitits_signal,
        )
        # The signal's handler may come between any two instructions here, and waits for the same: no locks.
        threading.Thread(target=self._follow, args=(self._process, note), daemon=True).start()
        code = self._wait()
        if (
            code in _STOPPED
        ):  # SLURM has told all processes: submitit hears of it, or SLURM ends this one, too
            time.sleep(_SAVING_SECONDS)
        if code not in (0, 3):
            raise RuntimeError(f"adm-jax {' '.join(command)} ended with exit code {code}")
        return code

    def checkpoint(self) -> Any:
        """Lets the run save and leave; what is to be done when the job has been requeued."""
        if self._process is not None and self._code is None:
            self._process.send_signal(signal.SIGTERM)
            self._wait()
        return _submitit().helpers.DelayedSubmission(Job(self._command))

    def _follow(self, process: subprocess.Popen[str], note: Path) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with contextlib.suppress(OSError):  # the run shall not end with its log
                print(line, end="", flush=True)
                if found := re.match(r"run folder: (.+?)(/batches/\d+)?$", line.rstrip()):
                    files.write_atomically(note, found[1])
        self._code = process.wait()

    def _wait(self) -> int:
        while self._code is None:
            time.sleep(0.2)
        return self._code


def _going_on(command: list[str], note: Path) -> list[str]:
    """The command that resumes a job's run, once it has a checkpoint; else the job's own."""
    folder = Path(note.read_text()) if note.exists() else None
    if folder is None or not any(folder.glob("**/checkpoints/*-*/record.json")):
        return command
    # it may name the node where this job ran before, and SLURM has ended it there
    for lock in folder.rglob(".lock.json"):
        lock.unlink()
    return [command[0], f"--resume={folder}"]


def _ignore_submitits_signal() -> None:
    """SLURM sends it to all processes of a job; the run gets SIGTERM from ``checkpoint``."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
