"""Dynamics models fitted to be measured, and kept on disk, so that several measurements share them."""

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from adm_jax.config import OfflineConfig
from adm_jax.config.evaluation import EvaluationConfig
from adm_jax.config.references import source_digest
from adm_jax.config.settings import leaves, to_flat
from adm_jax.data.dataset import Dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import ModelParams, make_dynamics
from adm_jax.evaluation.kept_results import code_digest
from adm_jax.population.members import Member, fold_keys, member_keys, shared_key
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.folder import RunFolder, describe_surroundings, require_writable
from adm_jax.runs.progress import Progress
from adm_jax.tasks import Task
from adm_jax.training import programs
from adm_jax.training.session import Stream, prepare
from adm_jax.types import InputError, Segment

_RECORD = "fitted.json"  # what the models in a folder were fitted with; written when they are
_CODE = "code"  # in it: digest of the package's sources


class Prepared(NamedTuple):
    """A model that can be fitted, and what it is fitted to."""

    config: OfflineConfig
    parts: programs.OfflineParts
    dataset: Dataset
    holdout: Segment
    record: dict[str, Any]  # what its parameters depend on
    kept: ModelParams | None  # what was fitted before, [S, ...]
    outdated: bool  # what was fitted before, by other code, is not used


class FittedModels(NamedTuple):
    """One dynamics model, fitted with several seeds."""

    config: OfflineConfig
    parts: programs.OfflineParts
    dataset: Dataset
    params: ModelParams  # [S, ...]
    holdout_nll: list[float]  # [S], over the backtracking lengths


def prepare_models(
    fits: Sequence[OfflineConfig], task: Task, data: EpisodeData, store: Path | None
) -> list[Prepared]:
    """Every model with its dataset, and with what ``store`` has of it; all are held out the same episodes.

    Raises InputError: data or settings do not serve, models would be held out different episodes, or the
    folder has models of other data, seeds or settings, damaged ones, or cannot be written.
    """
    dims = task.obs_dim, task.action_dim
    split_length = max(make_dynamics(fit.dynamics, *dims, fit.model).max_backtrack for fit in fits)
    if store is not None:
        require_writable("models", store)
    prepared: list[Prepared] = []
    for fit in fits:
        parts, dataset = prepare(fit, task, data, split_length)
        holdout = fitting.holdout_segments(dataset, parts.dynamics.max_backtrack, fit.fit)
        record = {
            **_settings(fit),
            "task": task.name,
            "dataset": data.digests(),
            "held_out": hashlib.sha256(np.sort(np.asarray(dataset.holdout.index)).tobytes()).hexdigest(),
            "source": source_digest(fit.dynamics, "dynamics"),
            _CODE: code_digest(),
        }
        if prepared and prepared[0].record["held_out"] != record["held_out"]:
            raise InputError(
                f"holdout: {fit.dynamics} and {fits[0].dynamics} would be held out different episodes by the "
                "task's settings; give --holdout, --holdout_fraction, --holdout_max_size and --split_seed"
            )
        model = Prepared(fit, parts, dataset, holdout, json.loads(json.dumps(record)), None, False)
        prepared.append(model if store is None else _restore(model, store))
    return prepared


def create_folder(
    measurement: str, config: EvaluationConfig, fits: Sequence[OfflineConfig], task: Task, data: EpisodeData
) -> RunFolder:
    """The folder of a measurement's run."""
    return RunFolder.create(
        fits[0].workdir,
        measurement,
        task.name,
        {**to_flat(fits[0]), **to_flat(config)},
        [Member(seed, {}) for seed in fits[0].seeds],
        {
            "env_id": task.env_id,
            "dataset_sha256": data.digests(),
            "fits": {fit.dynamics: to_flat(fit) for fit in fits},
        },
    )


def fit_models(model: Prepared, store: Path, progress: Progress) -> FittedModels:
    """The models of all seeds: those that ``store`` has, or fitted now and kept there.

    Raises InputError: too few networks of a fit had a finite held-out error; nothing of the model is kept.
    """
    config, parts, dataset, holdout, record, params, outdated = model
    if params is not None:
        progress.note(f"{config.dynamics}: fitted models taken from {store}")
    else:
        if outdated:
            progress.note(
                f"warning: {config.dynamics}: the models in {store} are of another version of adm_jax's code "
                "and are not used"
            )
        best = jax.jit(programs.best_program(parts))
        init = jax.jit(programs.init_fit_program(parts))
        state = init(member_keys(config.seeds, Stream.INIT_FIT), dataset)
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
        needed = parts.dynamics.num_drawn or parts.dynamics.num_networks
        for seed, errors in zip(config.seeds, np.asarray(state.best_error), strict=True):
            if np.isfinite(errors).sum() < needed:
                raise InputError(
                    f"fit_learning_rate: {config.fit.fit_learning_rate:g} is too high for {config.dynamics}: "
                    f"seed {seed} has no finite held-out error after {epoch} epochs"
                )
        params = best(state, dataset, holdout)
        folder = _folder(store, model)
        if outdated:
            shutil.rmtree(folder)
        Checkpointer(folder, keep=1).save("fit", epoch, params)
        temporary = folder / f".{_RECORD}"
        temporary.write_text(json.dumps({**record, **describe_surroundings()}, indent=1) + "\n")
        os.replace(temporary, folder / _RECORD)
    errors = jax.jit(jax.vmap(parts.dynamics.validate, in_axes=(0, None)))(params, holdout)
    nll = np.asarray(errors.nll).mean(axis=1)  # [S, K]
    known = np.asarray(holdout.valid.any(axis=0))
    return FittedModels(config, parts, dataset, params, nll[:, known].mean(axis=1).tolist())


def _settings(config: OfflineConfig) -> dict[str, Any]:
    names = {leaf.name for part in (config.model, config.fit) for leaf in leaves(type(part))}
    names |= {"seeds", "matmul_precision"}
    return {name: value for name, value in to_flat(config).items() if name in names}


def _folder(store: Path, model: Prepared) -> Path:
    return store / model.config.dynamics.replace(":", "-")


def _restore(model: Prepared, store: Path) -> Prepared:
    """The model with what the folder has of it, unless other code fitted that.

    Raises InputError: it is damaged, or was fitted otherwise.
    """
    folder, wanted = _folder(store, model), model.record
    try:
        have = json.loads((folder / _RECORD).read_text())
    except FileNotFoundError:
        return model
    except (OSError, ValueError):
        have = None
    if not isinstance(have, dict):
        raise InputError(f"models: {folder / _RECORD} is damaged; name another folder")
    for name in wanted:
        if name != _CODE and have.get(name) != wanted[name]:
            raise InputError(
                f"models: {folder} has models of {name}={have.get(name)}, not {wanted[name]}; name another "
                "folder"
            )
    if have.get(_CODE) != wanted[_CODE]:
        return model._replace(outdated=True)
    parts, dataset = model.parts, model.dataset
    keys = member_keys(model.config.seeds, Stream.INIT_FIT)
    state = jax.eval_shape(programs.init_fit_program(parts), keys, dataset)
    abstract = jax.eval_shape(programs.best_program(parts), state, dataset, model.holdout)
    kept = Checkpointer(folder, read_only=True).restore_latest({"fit": lambda _: abstract}).state
    return model._replace(kept=kept)
