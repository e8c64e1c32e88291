"""Checkpoints that are written beside the run, on a thread of their own."""

import copy
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from adm_jax.runs import signals
from adm_jax.runs.checkpoint import Checkpointer


class Saving:
    """Saves a run's checkpoints: copied at their step, digested and written while the next ones compute.

    One at a time: the next one waits. What a write raises is raised again in the main thread by whichever
    call comes next. Used as a context manager, leaving it waits for the write under way, whatever it is left
    by; the write's error comes out of it unless one of the run's own does.
    """

    def __init__(self, checkpointer: Checkpointer, share: float):
        """``share``: the largest of the time that checkpoints may take."""
        self._checkpointer, self._share = checkpointer, share
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[tuple[float, float]] | None = None
        self._held = 0.0  # seconds that the newest one has held up the run
        self._ended: tuple[float, float] | None = None  # when the newest one did, and what it took in all

    def __enter__(self) -> "Saving":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with signals.held(raises=False):  # what is under way is written, whatever comes
            try:
                if kind is None or issubclass(kind, signals.Interrupted):
                    self.wait()
            finally:
                self._executor.shutdown()

    def keeps_to_share(self) -> bool:
        """Whether another one, now, does; the first does.

        One counts with the seconds that it holds up the run, to be copied and to wait for the one before, and
        those of its write. These overlap with what the run computes, but on a CPU the two share its cores; on
        an accelerator the run is held up for less than its share.
        """
        self.poll()
        if self._writing is not None:  # it is all that the time since has been used for
            return self._share == 1.0
        if self._ended is None:
            return True
        ended, took = self._ended
        return time.monotonic() - ended >= took * (1.0 / self._share - 1.0)

    def begin(
        self, phase: str, epoch: int, state: Callable[[], Any], extra: Callable[[], Mapping[str, Any]]
    ) -> None:
        """Takes a checkpoint and begins to write it, after the one before is written.

        Args:
          phase: see Checkpointer.save, as all others.
          epoch: epochs of that phase done.
          state: gives the state, of which nothing is used any more when this returns.
          extra: gives the host's values, likewise.
        """
        began = time.monotonic()
        self.wait()
        leaves, values = self._checkpointer.copied(state()), copy.deepcopy(extra())
        self._held = time.monotonic() - began
        self._writing = self._executor.submit(self._write, phase, epoch, leaves, values)

    def poll(self) -> None:
        """Raises what a write has raised, if it has ended by now; never waits."""
        if self._writing is not None and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Returns when no write is under way; raises what the last one has raised."""
        if self._writing is None:
            return
        ended, seconds = self._writing.result()  # stays under way if a signal interrupts this
        self._writing, self._ended = None, (ended, self._held + seconds)

    def _write(
        self, phase: str, epoch: int, leaves: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> tuple[float, float]:
        """When it was written, and the seconds that took."""
        began = time.monotonic()
        self._checkpointer.write(phase, epoch, leaves, extra)
        ended = time.monotonic()
        return ended, ended - began
