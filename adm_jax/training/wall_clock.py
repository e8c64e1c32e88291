"""Where a run's time goes."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

KINDS = ("compile", "fit", "rollout", "update", "evaluate")


class WallClock:
    """Sums the seconds spent in each of ``KINDS``; what lies between them counts into the total only.

    Kinds may be nested, and then exclude each other: compiling inside of ``fit`` counts as ``compile``.
    JAX computes asynchronously, so block on a result before its kind ends.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter):
        """Starts the clock."""
        self._now = now
        self._seconds = dict.fromkeys(KINDS, 0.0)
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
            self._seconds[kind] += seconds[kind]
        self._before += seconds["total"]

    def to_dict(self) -> dict[str, float]:
        """Seconds of each kind and ``total``, all since the run first began."""
        return {**self._seconds, "total": self._before + self._now() - self._start}
