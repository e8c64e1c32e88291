"""Dynamics models fitted to be measured, and kept on disk, so that several measurements share them."""

import hashlib
import json
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
from adm_jax.dynamics.interface import ModelParams, make_dynamics
from adm_jax.files import require_writable, write_atomically
from adm_jax.population.keys import Purpose, offline_keys
from adm_jax.population.members import Member
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.folder import RunFolder
from adm_jax.runs.progress import Progress
from adm_jax.runs.surroundings import code_digest, describe_surroundings
from adm_jax.tasks import Task
from adm_jax.training import fit as training_fit
from adm_jax.training.components import Components, SharedData, make_components
from adm_jax.training.data import put_on_device
from adm_jax.training.fit import FitEpoch, best_program, init_fit_program
from adm_jax.types import InputError

_RECORD = "fitted.json"  # what the models in a folder were fitted with; written when they are
_CODE = "code"  # in it: digest of the package's sources


class Prepared(NamedTuple):
    """A model that can be fitted, and what it is fitted to."""

    config: OfflineConfig
    components: Components
    data: SharedData
    record: dict[str, Any]  # what its parameters depend on
    kept: ModelParams | None  # what was fitted before, [S, ...]
    outdated: bool  # what was fitted before, by other code, is not used


class FittedModels(NamedTuple):
    """One dynamics model, fitted with several seeds."""

    config: OfflineConfig
    components: Components
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
        components = make_components(fit, task)
        on_device = put_on_device(fit, data, components.model.max_backtrack, split_length)
        held_out = np.sort(np.asarray(on_device.dataset.holdout.index))
        record = {
            **_settings(fit),
            "task": task.name,
            "dataset": data.digests(),
            "held_out": hashlib.sha256(held_out.tobytes()).hexdigest(),
            "source": source_digest(fit.dynamics, "dynamics"),
            _CODE: code_digest(),
        }
        if prepared and prepared[0].record["held_out"] != record["held_out"]:
            raise InputError(
                f"holdout: {fit.dynamics} and {fits[0].dynamics} would be held out different episodes by the "
                "task's settings; give --holdout, --holdout_fraction, --holdout_max_size and --split_seed"
            )
        model = Prepared(fit, components, on_device, json.loads(json.dumps(record)), None, False)
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
            "env_id": task.env_id or None,
            "dataset_sha256": data.digests(),
            "fits": {fit.dynamics: to_flat(fit) for fit in fits},
        },
    )


def fit_models(model: Prepared, store: Path, progress: Progress) -> FittedModels:
    """The models of all seeds: those that ``store`` has, or fitted now and kept there.

    Raises InputError: too few networks of a fit had a finite held-out error; nothing of the model is kept.
    """
    config, components, data, record, params, outdated = model
    dynamics, seeds = components.model, config.seeds
    if params is not None:
        progress.note(f"{config.dynamics}: fitted models taken from {store}")
    else:
        if outdated:
            progress.note(
                f"warning: {config.dynamics}: the models in {store} are of another version of adm_jax's code "
                "and are not used"
            )
        num_epochs = 0

        def advance(done: FitEpoch) -> None:
            nonlocal num_epochs
            num_epochs = done.number
            error = float(np.nanmean(done.metrics["model/best_error"]))
            progress.advance(info={f"held-out {config.fit.selection_metric.upper()}": error})

        progress.begin(f"fit {config.dynamics}", config.fit.fit_max_epochs)
        params = training_fit.fit_models(components, config.dynamics, config.fit, seeds, data, advance)
        progress.end()
        folder = _folder(store, model)
        if outdated:
            shutil.rmtree(folder)
        Checkpointer(folder, keep=1).save("fit", num_epochs, params)
        text = json.dumps({**record, **describe_surroundings()}, indent=1) + "\n"
        write_atomically(folder / _RECORD, text)
    errors = jax.jit(jax.vmap(dynamics.validate, in_axes=(0, None)))(params, data.holdout)
    nll = np.asarray(errors.nll).mean(axis=1)  # [S, K]
    known = np.asarray(data.holdout.valid.any(axis=0))
    return FittedModels(config, components, data.dataset, params, nll[:, known].mean(axis=1).tolist())


def _settings(config: OfflineConfig) -> dict[str, Any]:
    names = {leaf.name for part in (config.model, config.fit) for leaf in leaves(type(part))}
    names = (names | {"seeds", "matmul_precision"}) - {"fused_kernels"}  # no part of a fit
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
    keys = offline_keys(model.config.seeds, Purpose.INIT_FIT)
    state = init_fit_program(model.components, model.config.fit).shapes(keys, model.data)
    abstract = best_program(model.components, model.config.fit).shapes(state, model.data)
    return model._replace(kept=Checkpointer(folder).restore_latest({"fit": lambda _: abstract}).state)
