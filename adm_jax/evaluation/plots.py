"""Figures of measured models."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")


def scatter(path: Path, result: Mapping[str, Any], gamma: float, title: str) -> None:
    """Estimated against true returns of every policy, a panel for each estimator of ``ope.run``'s result."""
    estimates = result["estimates"][f"{gamma:g}"]
    truth = np.asarray(result["truth"][list(result["estimates"]).index(f"{gamma:g}")])
    figure = Figure(figsize=(3.6 * len(estimates), 4.2), layout="constrained", dpi=110)
    figure.suptitle(f"{title}, gamma {gamma:g}", fontsize=11)
    axes = figure.subplots(1, len(estimates), sharex=True, squeeze=False)[0]
    for panel, (name, rows) in zip(axes, estimates.items(), strict=True):
        known = [i for i, row in enumerate(rows) if row["mean"] is not None]
        mean = np.array([rows[i]["mean"] for i in known])
        ends = [
            [rows[i]["mean"] if rows[i][end] is None else rows[i][end] for i in known]
            for end in ("low", "high")
        ]
        spread = np.abs(np.array(ends) - mean)
        panel.axline((truth.min(), truth.min()), slope=1, color="#999999", linewidth=1)
        panel.errorbar(truth[known], mean, yerr=spread, fmt="o", color=_COLORS[0], ms=4, lw=1)
        correlation = result["metrics"][f"{gamma:g}"][name]["rank_correlation"]["value"]
        panel.set_title(f"{name}: Spearman {correlation:.2f}", fontsize=10)
        panel.set_xlabel("true return")
    axes[0].set_ylabel("estimated return")
    figure.savefig(path)


def error_growth(path: Path, result: Mapping[str, Any], title: str) -> None:
    """Error against steps fed back, medians with the middle half, of ``compounding_error.run``."""
    figure = Figure(figsize=(7, 4.5), layout="constrained", dpi=110)
    panel = figure.subplots()
    low, high = (result["quantiles"].index(q) for q in (0.25, 0.75))
    for color, (name, curve) in zip(itertools.cycle(_COLORS), result["models"].items(), strict=False):
        quantiles = np.asarray(curve["per_quantile"])
        steps = np.arange(1, len(quantiles) + 1)
        panel.plot(steps, curve["median"], color=color, label=name)
        panel.fill_between(steps, quantiles[:, low], quantiles[:, high], color=color, alpha=0.2, linewidth=0)
    panel.set(
        xscale="log", yscale="log", xlabel="predictions fed back", ylabel="squared error (in variances)"
    )
    panel.set_title(title, fontsize=11)
    panel.legend(frameon=False)
    figure.savefig(path)
