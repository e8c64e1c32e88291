"""How a model's error grows over an episode, fed its own predictions on the recorded actions.

Held-out episodes, from their first state on: at every step the squared error of the predicted observation, in
units of the dataset's standard deviation, averaged over dimensions. Predictions are samples, as in roll-outs.
A model that diverges is held at a bound, so that every number is finite.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.config import OfflineConfig
from adm_jax.config.evaluation import CompoundingErrorConfig
from adm_jax.data.dataset import Dataset, gather_segments
from adm_jax.dynamics.interface import Carry, Dynamics, ModelParams
from adm_jax.evaluation import plots
from adm_jax.evaluation.fitted_models import FittedModels, create_folder, fit_models, prepare_models
from adm_jax.files import resolve_path
from adm_jax.nn.precision import matmul_precision
from adm_jax.rollout import open_loop
from adm_jax.runs.progress import Progress, print_table
from adm_jax.training.data import load_data
from adm_jax.types import Array, InputError, Key, Prediction, Segment

BOUND = 1e6  # standard deviations from the mean at which a diverging state is held
DIVERGED = 1e6  # squared error, in variances, from which on a prediction says nothing any more
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def bounded(dynamics: Dynamics, low: Array, high: Array) -> Dynamics:
    """The model with sampled next observations [B, D] held within bounds [D]; low where not finite."""

    def step(
        params: ModelParams, carry: Carry, obs: Array, action: Array, key: Key, batch_key: Key
    ) -> tuple[Carry, Prediction]:
        carry, prediction = dynamics.step(params, carry, obs, action, key, batch_key)
        next_obs = jnp.where(jnp.isfinite(prediction.next_obs), prediction.next_obs, low[None])
        return carry, prediction._replace(next_obs=jnp.clip(next_obs, low[None], high[None]))

    return dynamics._replace(step=step)


def errors(fitted: FittedModels, segment: Segment, chunk: int) -> np.ndarray:
    """Errors [S, B, K] of every seed's model, finite, over B whole episodes of K steps at most.

    Where ``segment`` is not valid an error says nothing. Rows are predicted ``chunk`` at a time.
    """
    normalizer = fitted.dataset.normalizer
    mean, std = normalizer.obs_mean, normalizer.obs_std
    dynamics = bounded(fitted.components.model, mean - BOUND * std, mean + BOUND * std)

    @jax.jit
    def predict(params: ModelParams, rows: Segment, key: Key) -> Array:
        predicted = open_loop(dynamics, params, rows, key)
        return jnp.square((predicted - rows.obs[:, 1:]) / std[None, None]).mean(axis=-1)

    per_seed = []
    num_rows = segment.valid.shape[0]
    for index, seed in enumerate(fitted.config.seeds):
        params = jax.tree.map(lambda x, i=index: x[i], fitted.params)
        parts = []
        for begin in range(0, num_rows, chunk):
            rows = np.minimum(np.arange(begin, begin + chunk), num_rows - 1)  # the last chunk is filled up
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(3), seed), begin)
            parts.append(np.asarray(predict(params, jax.tree.map(lambda x, r=rows: x[r], segment), key)))
        per_seed.append(np.concatenate(parts)[:num_rows])
    return np.stack(per_seed)


def held_out_episodes(dataset: Dataset, horizon: int) -> Segment:
    """Held-out episodes from their first states, cut at ``horizon`` steps.

    Raises InputError: no episode is held out from its beginning.
    """
    held_out = np.asarray(dataset.holdout.index)
    starts = np.sort(held_out[np.asarray(dataset.steps_from_start)[held_out] == 0])
    if not starts.size:
        raise InputError("holdout: no episode is held out from its first state; use --holdout=episodes")
    longest = int(np.asarray(dataset.steps_to_end)[starts].max())
    return gather_segments(dataset, jnp.asarray(starts), min(horizon, longest))


def run(config: CompoundingErrorConfig, fits: Sequence[OfflineConfig]) -> dict[str, Any]:
    """Measures every model; returns what ``result.json`` holds.

    ``fits`` are how each of ``config.dynamics`` is fitted: one task, dataset and set of seeds for all. Raises
    InputError: data or settings do not serve; nothing has been computed then.
    """
    task, data = load_data(fits[0])
    store = None if config.models is None else resolve_path("models", config.models)
    models = prepare_models(fits, task, data, store)
    horizon = config.horizon or int(data.episode_lengths.max())
    segment = held_out_episodes(models[0].data.dataset, horizon)
    folder = create_folder("compounding_error", config, fits, task, data)
    curves: dict[str, Any] = {}
    with Progress() as progress, matmul_precision(fits[0].matmul_precision):
        progress.note(f"run folder: {folder.path}\n{segment.valid.shape[0]} held-out episodes")
        for model in models:
            fitted = fit_models(model, store or folder.path / "models", progress)
            progress.note(f"{model.config.dynamics}: predicting")
            error = errors(fitted, segment, config.episode_chunk)
            curves[model.config.dynamics] = summarize(error, np.asarray(segment.valid))
    result = {
        "unit": "squared standard deviations of the dataset, mean over dimensions",
        "quantiles": QUANTILES,
        "models": curves,
    }
    folder.write_result(result)
    _print(curves)
    title = str(fits[0].dataset or task.dataset)
    plots.error_growth(folder.path / "compounding_error.png", result, title)
    return result


def _print(curves: Mapping[str, Any]) -> None:
    """Medians after some numbers of predictions."""
    longest = max(len(curve["median"]) for curve in curves.values())
    shown = [k for k in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if k <= longest]
    rows = [[name, *(curve["median"][k - 1] for k in shown)] for name, curve in curves.items()]
    print_table("median squared error (in variances) after k predictions", ["model", *map(str, shown)], rows)


def summarize(error: np.ndarray, valid: np.ndarray) -> dict[str, Any]:
    """Of errors [S, B, K] of valid rows [B, K]: quantiles over seeds and episodes, and how many there are."""
    columns = [error[:, valid[:, k], k].ravel() for k in range(error.shape[2])]
    return {
        "num_episodes": valid.sum(axis=0).tolist(),
        "median": [float(np.median(column)) for column in columns],
        "per_quantile": [np.quantile(column, QUANTILES).tolist() for column in columns],
        "diverged_share": [float((column >= DIVERGED).mean()) for column in columns],
    }
