"""One task in the background, on a thread of its own."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from adm_jax.runs.clock import WallClock


class Stopped(Exception):
    """The run ends in an error: what the thread computes is no longer needed."""


class Background:
    """Runs one task at a time on a worker thread; ``start`` waits for the one before.

    What a task raises is raised again in the main thread by whichever call comes next. Used as a context
    manager, leaving it without an exception waits for the task; leaving it with one stops the task, as soon
    as it asks ``raise_if_stopped``, and forgets it.

    The clock gets the seconds of the thread, which others overlap, as ``evaluate_background``, and those
    that the main thread had to wait for it as ``evaluate``.
    """

    def __init__(self, clock: WallClock):
        self._clock = clock
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="evaluation")
        self._task: Future[float] | None = None
        self._stopping = threading.Event()
        self.name: object = None  # of the task that is outstanding

    def __enter__(self) -> "Background":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self.wait()
        finally:
            self._stopping.set()
            self._executor.shutdown()

    def start(self, name: object, task: Callable[[], None]) -> None:
        """Begins a task, after the one before it has ended."""
        self.wait()
        self.name = name
        self._task = self._executor.submit(self._timed, task)

    def poll(self) -> None:
        """Raises what the task has raised, if it has ended by now; never waits."""
        if self._task is not None and self._task.done():
            self.wait()

    def wait(self) -> None:
        """Returns when no task is outstanding; raises what the last one has raised."""
        if self._task is None:
            return
        task, self._task, self.name = self._task, None, None
        with self._clock.phase("evaluate"):
            seconds = task.result()
        self._clock.add_background(seconds)

    def raise_if_stopped(self) -> None:
        """Called by the task every now and then.

        Raises:
          Stopped: the main loop has failed.
        """
        if self._stopping.is_set():
            raise Stopped

    def _timed(self, task: Callable[[], None]) -> float:
        start = time.perf_counter()
        task()
        return time.perf_counter() - start
