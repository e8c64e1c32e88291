"""What a run has to say at its end, put together from its own lines of metrics and evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from adm_jax.config import OfflineConfig
from adm_jax.data.dataset import count_short_episodes
from adm_jax.data.episodes import EpisodeData
from adm_jax.tasks import Task

Rows = Sequence[Mapping[str, Any]]


def summarize(
    config: OfflineConfig, task: Task, data: EpisodeData, max_backtrack: int, metrics: Rows, evals: Rows
) -> dict[str, Any]:
    """The dataset, each member's returns, behaviour cloning's and the fits' held-out errors.

    Args:
      config: the run's configuration.
      task: the run's task, for its reference scores.
      data: the dataset.
      max_backtrack: m of the dynamics model.
      metrics: lines of metrics.jsonl.
      evals: lines of eval.jsonl.
    """
    trained = [row for row in evals if row["phase"] == "train"]
    cloned = [row for row in evals if row["phase"] == "bc"]
    return {
        "dataset": {
            "num_transitions": len(data.reward),
            "num_episodes": len(data.episode_ends),
            "num_short_episodes": count_short_episodes(data, max_backtrack),
            **data.return_statistics(),
        },
        "updates": config.num_epochs * config.updates_per_epoch,
        "members": member_results(config.seeds, task, trained),
        "bc": member_results(config.seeds, task, cloned),
        "model": best_fits(config, [row for row in metrics if row["phase"] == "fit"]),
    }


def member_results(seeds: Sequence[int], task: Task, evaluations: Rows) -> list[dict[str, Any]]:
    """Each member's last evaluation, and the mean of its last ten; empty without evaluations."""
    results = []
    for member, seed in enumerate(seeds if evaluations else ()):
        per_evaluation = [np.asarray(row["eval/return"][member], np.float64) for row in evaluations[-10:]]
        last = per_evaluation[-1]
        results.append(
            {
                "seed": seed,
                "return_mean": float(last.mean()),
                "return_std": float(last.std()),
                "num_episodes": len(last),
                "normalized_score": task.normalized_score(float(last.mean())),
                "last_10_return_mean": float(np.mean([returns.mean() for returns in per_evaluation])),
            }
        )
    return results


def best_fits(config: OfflineConfig, fits: Rows) -> list[dict[str, Any]]:
    """Held-out errors, also per backtracking length, of each member's selected parameters.

    A fit that never had a finite error selected nothing: its ``best_epoch`` and errors are None.
    """
    metric = f"model/holdout_{config.fit.selection_metric}"
    names = ("holdout_nll", "holdout_mse", "holdout_nll_per_k", "holdout_mse_per_k")
    results = []
    for member, seed in enumerate(config.seeds):
        errors = np.array(
            [row[metric][member] for row in fits], np.float64
        )  # null, a stopped fit, becomes NaN
        num_epochs = int(np.isfinite(errors).sum())
        if num_epochs == 0:
            results.append({"seed": seed, "best_epoch": None, "epochs": 0, **dict.fromkeys(names)})
            continue
        best = int(np.nanargmin(errors))
        selected = {name: fits[best][f"model/{name}"][member] for name in names}
        results.append({"seed": seed, "best_epoch": fits[best]["epoch"], "epochs": num_epochs, **selected})
    return results
