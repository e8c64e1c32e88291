"""Where a run's time goes."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

KINDS = ("compile", "environment", "fit", "rollout", "update", "evaluate")
BACKGROUND = "evaluate_background"


class WallClock:
    """Sums the seconds spent in each of ``KINDS``; what lies between them counts into the total only.

    Kinds may be nested, and then exclude each other: compiling inside of ``fit`` counts as ``compile``.
    JAX computes asynchronously, so block on a result before its kind ends.

    Evaluation goes on during the other kinds: ``evaluate`` are the seconds that the run waited for it, and
    ``evaluate_background`` those it took on its own thread, which overlap the other kinds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        """Starts the clock."""
        self._now = now
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._background = 0.0  # seconds of work in the background
        self._before = 0.0  # seconds of the run's earlier processes
        self._start = now()
        self._nested = [0.0]  # for each open kind the seconds that kinds inside it took

    @contextlib.contextmanager
    def phase(self, kind: str) -> Iterator[None]:
        """Counts the seconds of a ``with`` block, also if it raises."""
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {KINDS}")
        start = self._now()
        self._nested.append(0.0)
        try:
            yield
        finally:
            seconds = self._now() - start
            self._seconds[kind] += seconds - self._nested.pop()
            self._nested[-1] += seconds

    def add(self, seconds: Mapping[str, float]) -> None:
        """Adds what a run had spent before it was stopped: an earlier ``to_dict()``."""
        for kind in KINDS:
            self._seconds[kind] += seconds.get(kind, 0.0)  # an earlier version's run lacks some
        self._background += seconds.get(BACKGROUND, 0.0)
        self._before += seconds["total"]

    def add_background(self, seconds: float) -> None:
        """Adds a background thread's seconds; called by the main thread."""
        self._background += seconds

    def to_dict(self) -> dict[str, float]:
        """Seconds of each kind, ``evaluate_background`` and ``total``, all since the run first began."""
        overlapping = {BACKGROUND: self._background}
        return {**self._seconds, **overlapping, "total": self._before + self._now() - self._start}


def sum_clocks(clocks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What runs one after the other took together, from the ``to_dict()`` of each."""
    return {kind: sum(clock.get(kind, 0.0) for clock in clocks) for kind in clocks[0]}
