"""Dynamics models fitted to be measured, and kept on disk, so that several measurements share them."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from adm_jax.config import OfflineConfig
from adm_jax.data.dataset import Dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import ModelParams
from adm_jax.settings import leaves, to_flat
from adm_jax.tasks import Task
from adm_jax.training import programs
from adm_jax.training.checkpoint import Checkpointer
from adm_jax.training.population import fold_keys, member_keys, shared_key
from adm_jax.training.progress import Progress
from adm_jax.training.session import Stream, prepare
from adm_jax.types import InputError

_RECORD = "fitted"  # in the checkpoint: what the models were fitted with


class FittedModels(NamedTuple):
    """One dynamics model, fitted with several seeds."""

    config: OfflineConfig
    parts: programs.OfflineParts
    dataset: Dataset
    params: ModelParams  # [S, ...]
    holdout_nll: list[float]  # [S], over the backtracking lengths


def fit_models(
    config: OfflineConfig, task: Task, data: EpisodeData, store: Path, progress: Progress
) -> FittedModels:
    """The models of ``config.seeds``: those in ``<store>/<dynamics>``, or fitted now and kept there.

    Raises:
      InputError: the folder has models of other data, seeds or settings.
    """
    parts, dataset = prepare(config, task, data)
    holdout = fitting.holdout_segments(dataset, parts.dynamics.max_backtrack, config.fit)
    keys = member_keys(config.seeds, Stream.INIT_FIT)
    init, best = programs.init_fit_program(parts), jax.jit(programs.best_program(parts))
    checkpointer = Checkpointer(store / config.dynamics.replace(":", "-"), keep=1)
    wanted = _identity(config, task, data)
    if checkpointer.latest() is not None:
        fit = jax.eval_shape(init, keys, dataset)
        abstract = jax.eval_shape(best, fit, dataset, holdout)
        restored = checkpointer.restore_latest({"fit": lambda _: abstract})
        _require_same(store, restored.extra[_RECORD], wanted)
        progress.note(f"{config.dynamics}: fitted models taken from {store}")
        params = restored.state
    else:
        state = jax.jit(init)(keys, dataset)
        fit_epoch = jax.jit(programs.fit_program(parts, config), donate_argnums=(0,))
        bootstrap = member_keys(config.seeds, Stream.BOOTSTRAP)
        fit_keys, epoch = member_keys(config.seeds, Stream.FIT), 0
        progress.begin(f"fit {config.dynamics}", config.fit.fit_max_epochs)
        while bool(state.active.any()):
            shared = shared_key(config.fit.split_seed, epoch)
            state, metrics = fit_epoch(state, fold_keys(fit_keys, epoch), bootstrap, dataset, holdout, shared)
            epoch += 1
            error = float(np.nanmean(metrics["model/best_error"]))
            progress.advance(info={f"held-out {config.fit.selection_metric.upper()}": error})
        progress.end()
        params = best(state, dataset, holdout)
        checkpointer.save("fit", epoch, params, extra={_RECORD: wanted})
    errors = jax.jit(jax.vmap(parts.dynamics.validate, in_axes=(0, None)))(params, holdout)
    nll = np.asarray(errors.nll).mean(axis=1)  # [S, K]
    known = np.asarray(holdout.valid.any(axis=0))
    return FittedModels(config, parts, dataset, params, nll[:, known].mean(axis=1).tolist())


def _identity(config: OfflineConfig, task: Task, data: EpisodeData) -> dict[str, Any]:
    """What fitted models depend on."""
    of_fit = {leaf.name for part in (config.model, config.fit) for leaf in leaves(type(part))}
    flat = {name: value for name, value in to_flat(config).items() if name in of_fit}
    flat = {name: list(value) if isinstance(value, tuple) else value for name, value in flat.items()}
    return {"task": task.name, "seeds": list(config.seeds), "dataset": data.digests(), **flat}


def _require_same(store: Path, have: dict[str, Any], wanted: dict[str, Any]) -> None:
    for name in wanted:
        if have.get(name) != wanted[name]:
            raise InputError(
                f"models: {store} has models of {name}={have.get(name)}, not {wanted[name]}; name another "
                "folder"
            )
