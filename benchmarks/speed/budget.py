"""Shares a given time among parts: what does not fit is left out, and the others end in time."""

import math
import time
from collections.abc import Callable


class Budget:
    """The time that is left, and how long parts really take beside what was expected of them."""

    def __init__(self, minutes: float | None, clock: Callable[[], float] = time.perf_counter):
        """Begins now; there is no end when ``minutes`` is None."""
        self._clock = clock
        self._end = math.inf if minutes is None else clock() + 60.0 * minutes
        self._pace = 1.0

    def left(self) -> float:
        """Seconds until the end."""
        return self._end - self._clock()

    def expected(self, seconds: float) -> float:
        """Seconds that a part takes at the pace of those before, of which ``seconds`` are expected."""
        return seconds * self._pace

    def share(self, seconds: float, later: float) -> float | None:
        """Seconds that the next part may take: its share of what is left, at least what is expected of it.

        Args:
          seconds: expected of the part.
          later: expected of all parts after it.

        Returns:
          None where the part does not fit.
        """
        if self.left() < self.expected(seconds):
            return None
        if math.isinf(self.left()):
            return math.inf
        return max(self.expected(seconds), self.left() * seconds / (seconds + later))

    def took(self, seconds: float, share: float) -> None:
        """A part took so long of its share: what others are expected to take grows where it took more."""
        self._pace = max(self._pace, self._pace * seconds / share)
