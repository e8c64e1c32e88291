"""How well estimated returns tell policies apart: the metrics of DOPE (Fu et al., ICLR 2021), and Pearson's.

Values are normalised by the worst and the best true return of the policies, estimates clipped above at 2, as
in the benchmark's code. Intervals are of a bootstrap over policies; of two estimators the same resamples are
drawn, so that the interval of their difference is a paired one.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

METRICS = ("normalized_absolute_error", "rank_correlation", "regret@1", "regret@3", "pearson_correlation")
_CLIP = 2.0


def rank_metrics(
    estimates: Sequence[float] | np.ndarray, truth: Sequence[float] | np.ndarray
) -> dict[str, float]:
    """The metrics of P policies; NaN where all true, or all estimated, returns are the same.

    Args:
      estimates: [P].
      truth: [P].
    """
    estimated, true = np.asarray(estimates, np.float64), np.asarray(truth, np.float64)
    if estimated.shape != true.shape or true.ndim != 1 or true.size < 2:
        raise ValueError(
            f"estimates {estimated.shape} and truth {true.shape} must be of the same two or more"
        )
    width = true.max() - true.min()
    if width == 0 or not np.isfinite(estimated).all():
        return dict.fromkeys(METRICS, float("nan"))
    true_unit = (true - true.min()) / width
    unit = np.minimum((estimated - true.min()) / width, _CLIP)
    order = np.argsort(-estimated, kind="stable")
    varies = np.ptp(estimated) > 0
    return {
        "normalized_absolute_error": float(np.abs(unit - true_unit).mean()),
        "rank_correlation": _correlation(stats.rankdata(estimated), stats.rankdata(true))
        if varies
        else float("nan"),
        "regret@1": float(1.0 - true_unit[order[:1]].max()),
        "regret@3": float(1.0 - true_unit[order[:3]].max()),
        "pearson_correlation": _correlation(unit, true_unit) if np.ptp(unit) > 0 else float("nan"),
    }


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one, other)[0, 1])


def compare(
    estimates: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """Every estimator's metrics with 95 % intervals, and the differences of each two.

    Args:
      estimates: name of the estimator -> [P].
      truth: [P].
      num_resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      ``{name or "one - other": {metric: {"value", "low", "high"}}}``.
    """
    true = np.asarray(truth, np.float64)
    draws = np.random.default_rng(seed).integers(0, true.size, (num_resamples, true.size))
    values: dict[str, dict[str, np.ndarray]] = {}
    for name, estimated in estimates.items():
        array = np.asarray(estimated, np.float64)
        rows = [rank_metrics(array, true)] + [_resampled(array[draw], true[draw]) for draw in draws]
        values[name] = {metric: np.array([row[metric] for row in rows]) for metric in METRICS}
    names = list(estimates)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            values[f"{one} - {other}"] = {m: values[one][m] - values[other][m] for m in METRICS}
    return {
        name: {metric: _interval(column) for metric, column in metrics.items()}
        for name, metrics in values.items()
    }


def _resampled(estimated: np.ndarray, true: np.ndarray) -> dict[str, float]:
    if np.ptp(true) == 0:  # one policy drawn again and again says nothing
        return dict.fromkeys(METRICS, float("nan"))
    return rank_metrics(estimated, true)


def _interval(values: np.ndarray) -> dict[str, float]:
    resamples = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(resamples, [2.5, 97.5]) if resamples.size else (float("nan"),) * 2
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
