"""How figures over seeds are stated."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Interval(NamedTuple):
    """A mean over seeds with its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: Sequence[float], confidence: float = 0.95) -> Interval:
    """Mean of one value per seed with Student's t interval.

    Seeds are what varies between runs, so a seed's episodes are averaged before they come here.

    Args:
      values: at least two, finite.
      confidence: coverage of the interval.

    Raises:
      ValueError: fewer than two values, or one that is not finite: there is no interval then.
    """
    array = np.asarray(values, np.float64)
    if array.ndim != 1 or array.size < 2 or not np.isfinite(array).all():
        raise ValueError(f"an interval needs at least two finite values, got {values}")
    half = stats.t.ppf(0.5 + confidence / 2, array.size - 1) * stats.sem(array)
    return Interval(float(array.mean()), float(array.mean() - half), float(array.mean() + half))
