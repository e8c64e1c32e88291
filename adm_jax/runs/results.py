"""What a run has to say at its end, put together from its own lines of metrics and evaluations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adm_jax.config import OfflineConfig
from adm_jax.data.dataset import count_short_episodes
from adm_jax.data.episodes import EpisodeData
from adm_jax.population.members import Member, seeds_of
from adm_jax.statistics import mean_interval
from adm_jax.tasks import Task
from adm_jax.types import InputError

_MEASURED = (
    "model/holdout_nll",
    "model/holdout_mse",
    "model/holdout_nll_per_k",
    "model/holdout_mse_per_k",
    "model/open_loop_mse_per_step",
)
_ESTIMATED = {
    "model/return": "model_return",
    "model/discounted_return": "model_discounted_return",
    "critic/q_initial": "q_initial",
    "critic/q_excess": "q_excess",
}

Lines = Sequence[Mapping[str, Any]]


def summarize(
    config: OfflineConfig,
    members: Sequence[Member],
    task: Task,
    data: EpisodeData,
    max_backtrack: int,
    metrics: Lines,
    evals: Lines,
) -> dict[str, Any]:
    """The dataset, each member's and each setting's returns, behaviour cloning's, the fits' held-out errors.

    Without an environment there are no returns, and the lists of them are empty.

    Args:
      config: the run's configuration.
      members: the population.
      task: the run's task, for its reference scores.
      data: the dataset.
      max_backtrack: m of the dynamics model.
      metrics: lines of metrics.jsonl.
      evals: lines of eval.jsonl.
    """
    trained = [row for row in evals if row["phase"] == "train"]
    firsts = {member.seed: index for index, member in reversed(list(enumerate(members)))}
    cloned = [
        {"eval/return": [row["eval/return"][firsts[seed]] for seed in seeds_of(members)]}
        for row in evals
        if row["phase"] == "bc"
    ]
    results, frozen = member_results(members, task, trained), frozen_members(members, metrics)
    return {
        "dataset": {
            "num_transitions": len(data.reward),
            "num_episodes": len(data.episode_ends),
            "num_short_episodes": count_short_episodes(data, max_backtrack),
            **data.return_statistics(),
        },
        "updates": config.num_epochs * config.updates_per_epoch,
        "members": results,
        "frozen": frozen,
        "settings": setting_results(members, results, frozen),
        "estimates": estimate_results(members, metrics),
        "bc": member_results([Member(seed, {}) for seed in seeds_of(members)], task, cloned),
        "model": model_results(seeds_of(members), metrics),
    }


def frozen_members(members: Sequence[Member], metrics: Lines) -> list[dict[str, Any]]:
    """The members whose policies were frozen: at which line of metrics.jsonl, and what was not finite."""
    found = []
    for index, member in enumerate(members):
        row = next((row for row in metrics if row.get("agent/frozen", [0.0] * len(members))[index]), None)
        if row is not None:
            broken = (name for name, values in row.items() if "/" in name and values[index] is None)
            found.append({**member.to_dict(), "epoch": row["epoch"], "quantity": next(broken, "parameters")})
    return found


def setting_results(members: Sequence[Member], results: Lines, frozen: Lines) -> list[dict[str, Any]]:
    """Means over the seeds of each setting that was swept (one of all seeds where none was).

    ``return_low`` and ``return_high`` are Student's 95 % interval of the last evaluation's return; a setting
    of a single seed has none. Members that were ``frozen`` are left out, and named; where another's return
    is not finite there is no mean.
    """
    out = {tuple(row[name] for name in members[0].to_dict()) for row in frozen}
    groups: dict[tuple[float, ...], list[int]] = {}
    for index, member in enumerate(members if results else ()):
        groups.setdefault(tuple(member.swept.values()), []).append(index)
    rows = []
    for group in groups.values():
        indices = [index for index in group if tuple(members[index].to_dict().values()) not in out]
        left_out = [members[index].tag for index in group if index not in indices]
        row: dict[str, Any] = {**members[group[0]].swept, "num_seeds": len(indices), "left_out": left_out}
        for name in ("return_mean", "normalized_score", "last_10_return_mean"):
            values = [results[index][name] for index in indices]
            whole = bool(values) and all(value is not None and math.isfinite(value) for value in values)
            row[name] = float(np.mean(values)) if whole else None
            if name == "return_mean":
                interval = mean_interval(values) if whole and len(values) > 1 else None
                row["return_low"], row["return_high"] = interval[1:] if interval else (None, None)
        rows.append(row)
    return rows


def member_results(members: Sequence[Member], task: Task, evaluations: Lines) -> list[dict[str, Any]]:
    """Each member's last evaluation, and its curve: last ten, best, area; empty without evaluations.

    The best is picked by the environment: what was there, not what a user without one would have. The area is
    the mean of the curve over its epochs (trapezoids). Where policies are
    averages, the actors that these are of have their last evaluation.
    """
    results = []
    for index, member in enumerate(members if evaluations else ()):
        per_evaluation = [_floats(row["eval/return"][index]) for row in evaluations]
        last, means = per_evaluation[-1], np.array([returns.mean() for returns in per_evaluation])
        unaveraged = evaluations[-1].get("eval/unaveraged_return")
        extra = (
            {} if unaveraged is None else {"unaveraged_return_mean": float(_floats(unaveraged[index]).mean())}
        )
        results.append(
            {
                **member.to_dict(),
                "return_mean": float(last.mean()),
                "return_std": float(last.std()),
                "num_episodes": len(last),
                "normalized_score": task.normalized_score(float(last.mean())),
                "last_10_return_mean": float(means[-10:].mean()),
                "best_return_mean": float(means.max()),
                "curve_mean": _curve_mean([row.get("epoch", 0) for row in evaluations], means),
                **extra,
            }
        )
    return results


def _floats(values: Sequence[float | None]) -> np.ndarray:
    """Numbers of a file; None, which was not finite, is NaN."""
    return np.asarray(values, np.float64)


def estimate_results(members: Sequence[Member], metrics: Lines) -> list[dict[str, Any]]:
    """What model and critics said last of each member's policy; empty where they were not asked."""
    asked = [row for row in metrics if row["phase"] == "train" and "model/return" in row]
    return [
        {**member.to_dict(), **{name: asked[-1][key][index] for key, name in _ESTIMATED.items()}}
        for index, member in enumerate(members if asked else ())
    ]


def _curve_mean(epochs: Sequence[int], means: np.ndarray) -> float:
    """The area under a curve over its width; a single point's own height."""
    if len(means) == 1:
        return float(means[0])
    return float(np.trapezoid(means, epochs) / (epochs[-1] - epochs[0]))


def model_results(seeds: Sequence[int], metrics: Lines) -> list[dict[str, Any]]:
    """How each seed's model came out: epochs fitted, the last that improved it, held-out errors.

    The errors are those of the selected parameters (of an ensemble: its elites' mean), None where they are
    not finite. A fit that never had a finite error selected nothing: its ``best_epoch`` is None.
    """
    fits = [row for row in metrics if row["phase"] == "fit"]
    measured = next((row for row in metrics if row["phase"] == "model"), None)
    if measured is None:
        raise InputError("metrics.jsonl: has lost its line of phase model, of which the result is made")
    results = []
    for member, seed in enumerate(seeds):
        epochs = 1 + sum(row["model/active"][member] for row in fits[:-1])  # logged after an epoch
        errors = [row["model/best_error"][member] for row in fits[:epochs]]
        errors = np.array([np.inf if error is None else error for error in errors])
        improved = np.flatnonzero(errors < np.append(np.inf, errors[:-1]))
        results.append(
            {
                "seed": seed,
                "epochs": epochs,
                "best_epoch": int(improved[-1]) + 1 if improved.size else None,
                **{name.removeprefix("model/"): measured[name][member] for name in _MEASURED},
            }
        )
    return results
