"""Stops a run where a test wants it to, as an error would."""

import os
import signal
from collections.abc import Callable

import pytest

from adm_jax.training.driver import Run
from adm_jax.training.loop import Step


class Stop(Exception):
    """Raised by the run."""


def stop_behind(patch: pytest.MonkeyPatch, phase: str, epoch: int, batch: str | None = None) -> None:
    """Runs stop behind the line of metrics of an epoch, before its checkpoint, or of one batch's."""
    record = Run._record

    def record_and_stop(run: Run, step: Step) -> None:
        record(run, step)
        if step[:2] == (phase, epoch) and batch in (None, run.folder.path.name):
            raise Stop

    patch.setattr(Run, "_record", record_and_stop)


def signal_in(
    patch: pytest.MonkeyPatch, phase: str, epoch: int, number: signal.Signals = signal.SIGTERM
) -> None:
    """Runs get a signal while an epoch's step is under way."""
    done = Run._done

    def signalled(run: Run, step: Step, stopped: Callable[[], bool]) -> None:
        if step[:2] == (phase, epoch):
            os.kill(os.getpid(), number)
        done(run, step, stopped)

    patch.setattr(Run, "_done", signalled)
