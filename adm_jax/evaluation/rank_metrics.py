"""How well estimated returns tell policies apart: the metrics of DOPE (Fu et al., ICLR 2021), and Pearson's.

Values are normalised by the worst and the best true return of all policies, estimates clipped above at 2
where their size counts. Intervals are of a bootstrap over policies; of two estimators the same resamples are
drawn, so that the interval of their difference is a paired one.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from adm_jax.config.evaluation import REGRET_AT

_CLIP = 2.0
Returns = Sequence[float] | np.ndarray


def rank_metrics(
    estimates: Returns, truth: Returns, regret_at: Sequence[int] = REGRET_AT
) -> dict[str, float]:
    """The metrics of P policies, at least two; NaN where all true, or all estimated, returns are the same.

    regret@k, for every k of ``regret_at``, is how far the best of the k policies with the largest estimates
    is below the best of all.
    """
    return _metrics(*_normalize(estimates, truth), regret_at)


def _normalize(estimates: Returns, truth: Returns) -> tuple[np.ndarray, np.ndarray]:
    """Both [P] in units of the true returns' range."""
    estimated, true = np.asarray(estimates, np.float64), np.asarray(truth, np.float64)
    if estimated.shape != true.shape or true.ndim != 1 or true.size < 2:
        raise ValueError(
            f"estimates {estimated.shape} and truth {true.shape} must be of the same two or more"
        )
    with np.errstate(divide="ignore", invalid="ignore"):  # of one value there is no range: all is NaN
        return tuple((x - true.min()) / np.ptp(true) for x in (estimated, true))


def _metrics(estimated: np.ndarray, true: np.ndarray, regret_at: Sequence[int]) -> dict[str, float]:
    """Of normalised values."""
    if not (np.isfinite(estimated).all() and np.isfinite(true).all()):
        names = [f"regret@{k}" for k in regret_at]
        names = ["normalized_absolute_error", "rank_correlation", *names, "pearson_correlation"]
        return dict.fromkeys(names, float("nan"))
    clipped = np.minimum(estimated, _CLIP)
    order = np.argsort(-estimated, kind="stable")
    return {
        "normalized_absolute_error": float(np.abs(clipped - true).mean()),
        "rank_correlation": _correlation(stats.rankdata(estimated), stats.rankdata(true)),
        **{f"regret@{k}": float(true.max() - true[order[:k]].max()) for k in regret_at},
        "pearson_correlation": _correlation(clipped, true),
    }


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def compare(
    estimates: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    **how: Any,
) -> dict[str, dict[str, dict[str, float]]]:
    """Every estimator's metrics with 95 % bootstrap intervals, and the differences of each two.

    ``estimates`` are name of the estimator -> [P]. Returns ``{name or "one - other": {metric: {"value",
    "low", "high"}}}``; ``how`` as in ``compare_over``.
    """
    return compare_over([(estimates, truth)], **how)


def compare_over(
    datasets: Sequence[tuple[Mapping[str, Sequence[float]], Sequence[float]]],
    *,
    regret_at: Sequence[int] = REGRET_AT,
    num_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """``compare``, averaged over datasets' (estimates, truth); policies are resampled within each.

    Estimators that not all datasets have are left out.
    """
    rng = np.random.default_rng(seed)
    names = [name for name in datasets[0][0] if all(name in estimates for estimates, _ in datasets)]
    rows: dict[str, list[np.ndarray]] = {name: [] for name in names}  # of each dataset [1 + R, metrics]
    metrics: list[str] = []
    for estimates, truth in datasets:
        draws = [np.arange(len(truth)), *rng.integers(0, len(truth), (num_resamples, len(truth)))]
        for name in names:
            estimated, true = _normalize(estimates[name], truth)  # once: a resample has no range of its own
            table = [_metrics(estimated[draw], true[draw], regret_at) for draw in draws]
            rows[name].append(np.array([list(row.values()) for row in table]))
            metrics = list(table[0])
    values = {name: np.mean(parts, axis=0) for name, parts in rows.items()}
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            values[f"{one} - {other}"] = values[one] - values[other]
    return {
        name: {metric: _interval(column) for metric, column in zip(metrics, table.T, strict=True)}
        for name, table in values.items()
    }


def _interval(values: np.ndarray) -> dict[str, float]:
    if not np.isfinite(values[0]):  # resamples without the policy that has no estimate have a value
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    resamples = values[1:][np.isfinite(values[1:])]
    low, high = np.percentile(resamples, [2.5, 97.5]) if resamples.size else (float("nan"),) * 2
    return {"value": float(values[0]), "low": float(low), "high": float(high)}
