"""Learning curves of a run, drawn from its logged lines."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from adm_jax.population.members import Member

Lines = Sequence[Mapping[str, Any]]

# Okabe and Ito's palette: tells members apart for colour-blind readers too
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_LABELS = {"updates": "updates", "steps": "environment steps", "epoch": "fitting epoch"}
_PANELS = (  # key of metrics.jsonl, title
    ("critic/loss", "critic loss"),
    ("critic/q", "mean Q value"),
    ("actor/entropy", "policy entropy"),
    ("rollout/uncertainty", "uncertainty in roll-outs"),
    ("critic/q_excess", "critics above the model's return"),  # where policies are estimated
)


def draw(
    path: str | os.PathLike[str],
    metrics: Lines,
    evals: Lines,
    title: str,
    members: Sequence[Member],
    references: Mapping[str, float],
    warmup_steps: int = 0,
    *,
    evaluated: bool = True,
) -> None:
    """Writes a PNG with the returns, the held-out errors and the learners' curves.

    Args:
      path: the file to write; its name's ending does not matter.
      metrics: lines of metrics.jsonl.
      evals: lines of eval.jsonl.
      title: what was run.
      members: the population, in the order of its axis.
      references: label -> return, drawn as horizontal lines.
      warmup_steps: environment steps of random actions before anything is learned, shaded.
      evaluated: whether there is a real environment; without one, returns are those in the model.
    """
    figure = Figure(figsize=(13, 7), layout="constrained", dpi=110)
    figure.suptitle(title, fontsize=13, fontweight="bold")
    top, bottom = figure.add_gridspec(2, 1)
    grid = top.subgridspec(1, 4)
    train = [row for row in metrics if row["phase"] == "train"]
    # online the axis is environment steps, and models are fitted again and again
    x_key = "steps" if any("steps" in row for row in (*train, *evals)) else "updates"
    fit, fit_key = [row for row in metrics if row["phase"] == "fit"], "epoch"
    if x_key == "steps":
        fit, fit_key = train, x_key
    returns = figure.add_subplot(grid[:2])
    if warmup_steps:
        returns.axvspan(0, warmup_steps, color="#DDDDDD", alpha=0.6, label="warm-up", linewidth=0)
    if evaluated:
        _draw_estimates(returns, train, evals, x_key)
        _draw_returns(returns, evals, members, references, x_key)
    else:
        in_model = [{**row, "eval/return": row["model/return"]} for row in train if "model/return" in row]
        heading = "return in the model: nothing is evaluated for real"
        _draw_returns(returns, in_model, members, references, x_key, heading)
    _draw_members(figure.add_subplot(grid[2]), fit, fit_key, "model/holdout_nll", "held-out NLL per seed", ())
    _draw_backtracks(figure.add_subplot(grid[3]), fit, fit_key)
    panels = _PANELS if any("critic/q_excess" in row for row in train) else _PANELS[:-1]
    grid = bottom.subgridspec(1, len(panels))
    for column, (key, name) in enumerate(panels):
        _draw_members(figure.add_subplot(grid[column]), train, x_key, key, name, members)
    figure.savefig(Path(path), format="png")


def finite_mean(values: Any) -> float:
    """Mean of an array's (or nested lists') finite values; NaN if there are none."""
    array = np.array(values, float)
    array = array[np.isfinite(array)]
    return float(array.mean()) if array.size else float("nan")


def _draw_returns(
    axes: Axes,
    evals: Lines,
    members: Sequence[Member],
    references: Mapping[str, float],
    x_key: str,
    title: str = "return in the real environment",
) -> None:
    rows = [row for row in evals if row["phase"] == "train"]
    x = [row[x_key] for row in rows]
    values = _array([[finite_mean(episodes) for episodes in row["eval/return"]] for row in rows])
    num_members = values.shape[1]
    colors = _colors(members, num_members)
    settings = _settings(members) if rows else {}
    for member in range(num_members):
        labelled = members and not settings and num_members <= len(_COLORS)
        label = f"seed {members[member].seed}" if labelled else None
        width = 0.7 if settings else 1.2
        _plot(axes, x, values[:, member], color=colors[member], label=label, linewidth=width)
    for label, indices in settings.items():
        mean = [finite_mean(row) for row in values[:, indices]]
        _plot(axes, x, mean, color=colors[indices[0]], linewidth=2.4, label=label)
    if num_members > 1 and not settings:
        mean = [finite_mean(row) for row in values]
        _plot(axes, x, mean, color="black", linewidth=2.4, label=f"mean of {num_members} seeds")
    for number, (label, value) in enumerate(references.items()):
        style = ("--", ":", "-.")[number % 3]
        axes.axhline(value, color="#555555", linestyle=style, linewidth=1.5, label=f"{label} ({value:,.0f})")
    _finish(axes, title, _LABELS[x_key], bool(rows))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best", framealpha=0.8)


def _draw_estimates(axes: Axes, metrics: Lines, evals: Lines, x_key: str) -> None:
    """Means over members: the model's estimate, and the return of actors that policies are averages of."""
    unaveraged = [row for row in evals if row["phase"] == "train" and "eval/unaveraged_return" in row]
    estimated = [row for row in metrics if "model/return" in row]
    for rows, key, label, style in (
        (unaveraged, "eval/unaveraged_return", "actors before averaging, mean", "-"),
        (estimated, "model/return", "the model's estimate, mean", ":"),
    ):
        if rows:
            x, y = [row[x_key] for row in rows], [finite_mean(row[key]) for row in rows]
            _plot(axes, x, y, color="#999999", linewidth=1.6, linestyle=style, label=label)


def _draw_members(
    axes: Axes, rows: Lines, x_key: str, y_key: str, title: str, members: Sequence[Member]
) -> None:
    """One line per member of a key whose values are [P]."""
    rows = [row for row in rows if y_key in row and x_key in row]
    values = _array([row[y_key] for row in rows])
    colors = _colors(members, values.shape[1])
    for member in range(values.shape[1]):
        x = [row[x_key] for row in rows]
        _plot(axes, x, values[:, member], color=colors[member], linewidth=1.2)
    _finish(axes, title, _LABELS[x_key], bool(rows))


def _draw_backtracks(axes: Axes, rows: Lines, x_key: str) -> None:
    """Held-out error of each backtracking length, a mean over the members for legibility."""
    key = "model/holdout_nll_per_k"
    rows = [row for row in rows if key in row]
    per_k = [
        [finite_mean(member) for member in zip(*row[key], strict=True)] for row in rows
    ]  # rows hold [P][m]
    values = _array(per_k)
    num_backtracks = values.shape[1]
    for index in range(num_backtracks):
        shade = 0.15 + 0.7 * index / max(num_backtracks - 1, 1)
        label = f"k = {index + 1}" if index in (0, num_backtracks - 1) or num_backtracks <= 6 else None
        x = [row[x_key] for row in rows]
        _plot(axes, x, values[:, index], color=(shade, 0.25, 1 - shade), linewidth=1.2, label=label)
    _finish(axes, "held-out NLL per k, mean of seeds", _LABELS[x_key], bool(rows))
    if num_backtracks:
        axes.legend(fontsize=8, loc="best", framealpha=0.8)


def _plot(axes: Axes, x: Any, y: Any, **style: Any) -> None:
    # A single point would be invisible as a line.
    axes.plot(x, y, marker="o" if len(y) < 30 else None, markersize=3, **style)


def _finish(axes: Axes, title: str, x_label: str, has_data: bool) -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x_label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))  # epochs and updates are whole
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 50k
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if not has_data:
        axes.text(
            0.5, 0.5, "no data yet", ha="center", va="center", color="#888888", transform=axes.transAxes
        )


def _settings(members: Sequence[Member]) -> dict[str, list[int]]:
    """The members of each swept setting by its name; empty where nothing is swept."""
    settings: dict[str, list[int]] = {}
    for index, member in enumerate(members):
        if member.swept:
            name = ", ".join(f"{name} {value:g}" for name, value in member.swept.items())
            settings.setdefault(name, []).append(index)
    return settings


def _colors(members: Sequence[Member], num_members: int) -> list[str]:
    """One for each member, or for each setting if one is swept; one for all if there are too many."""
    groups = list(_settings(members).values()) or [[index] for index in range(num_members)]
    colors = _COLORS if len(groups) <= len(_COLORS) else ["#7FA9CC"] * len(groups)
    of_member = {index: color for color, group in zip(colors, groups, strict=False) for index in group}
    return [of_member[index] for index in range(num_members)]


def _array(rows: Sequence[Any]) -> np.ndarray:
    """Rows of numbers or nulls as [rows, P]; a scalar row counts as one member."""
    if not rows:
        return np.zeros((0, 0))
    return np.array([np.atleast_1d(np.array(row, float)) for row in rows])
