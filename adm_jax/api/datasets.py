"""Datasets from wherever users have them."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax.config.references import import_named
from adm_jax.data import validation
from adm_jax.data.episodes import FIELDS, EpisodeData
from adm_jax.data.formats import d4rl, minari_io, neorl
from adm_jax.envs import environment
from adm_jax.types import ActionBounds, InputError

_D4RL_NAMES = {
    "observations": "obs",
    "actions": "action",
    "rewards": "reward",
    "next_observations": "next_obs",
    "terminals": "terminated",
    "timeouts": "truncated",
}
READERS = {".hdf5": d4rl.read, ".h5": d4rl.read, ".npz": neorl.read}  # of files, by suffix


def load_dataset(
    source: str | os.PathLike[str] | Mapping[str, Any] | EpisodeData, *, env_id: str | None = None
) -> EpisodeData:
    """Reads and checks a dataset.

    Args:
      source: a Minari id, a file of D4RL's (``.hdf5``, ``.h5``) or NeoRL's (``.npz``) layout, or arrays by
        name: ``observations`` [N, D], ``actions`` [N, A], ``rewards`` [N], ``next_observations`` [N, D],
        ``terminals`` [N] and, where time limits end episodes, ``timeouts`` [N]; rows in order of time. The
        fields' names of ``EpisodeData`` will do too.
      env_id: Gymnasium's environment that the data are of, to evaluate in, or ``module:id`` of a module that
        registers it; files may name it themselves. Without one, or one that is not registered, policies are
        learned and not evaluated.

    Raises:
      InputError: there is no such dataset, or it is damaged or invalid; the message names what and where.
    """
    if not isinstance(env_id, str | None):
        raise InputError(f"env_id: {env_id!r} is no text; give the id of a Gymnasium environment")
    env_id = env_id and import_named(env_id, "env_id")
    if isinstance(source, Mapping):
        return _from_arrays(source, env_id)
    known = isinstance(source, EpisodeData)
    if not known and not isinstance(source, str | os.PathLike):
        raise InputError(
            f"dataset: {type(source).__name__} is none; give a Minari id, a file, or arrays by name"
        )
    if known or Path(source).suffix not in READERS:
        if env_id is not None:
            raise InputError(f"env_id: {env_id} goes with arrays or a file; a dataset has its own")
        return source if isinstance(source, EpisodeData) else minari_io.load(str(source))
    path = Path(source)
    data, _ = READERS[path.suffix](path, env_id=env_id)
    validation.validate(data, *_action_bounds(data).arrays())
    return data


def _from_arrays(arrays: Mapping[str, Any], env_id: str | None) -> EpisodeData:
    fields = {_D4RL_NAMES.get(name, name): value for name, value in arrays.items()}
    if len(fields) < len(arrays):
        twice = next(name for name, field in _D4RL_NAMES.items() if name in arrays and field in arrays)
        raise InputError(f"dataset: {twice} is there twice, as {_D4RL_NAMES[twice]} too")
    unknown = [name for name in arrays if _D4RL_NAMES.get(name, name) not in FIELDS]
    missing = [name for name in FIELDS if name not in fields and name != "truncated"]
    if unknown or missing:
        names = {field: name for name, field in _D4RL_NAMES.items()}
        wrong = f"{unknown[0]} is unknown" if unknown else f"{names[missing[0]]} is missing"
        raise InputError(f"dataset: {wrong}; give {', '.join(_D4RL_NAMES)} (the last is optional)")
    read: dict[str, Any] = {}
    for name in ("obs", "action", "reward", "next_obs"):
        try:
            read[name] = validation.as_float32(np.asarray(fields[name]), f"dataset: {name}")
        except ValueError as error:  # NumPy's, of rows of different lengths
            raise InputError(f"dataset: {name} is no array of numbers: {error}") from error
    for name in ("terminated", "truncated"):
        if name in fields:
            read[name] = validation.as_flags(fields[name], f"dataset: {name}")
    if "truncated" not in read:  # an episode was cut off where a row does not lead to the next one
        same_shape = read["obs"].ndim == 2 and read["obs"].shape == read["next_obs"].shape
        cut = ~validation.follows(read["obs"], read["next_obs"]) if same_shape else np.zeros(0, bool)
        read["truncated"] = np.append(cut, True) & ~read["terminated"]
    metadata = {} if env_id is None else {"env_id": env_id, "env_kwargs": {}}
    data = EpisodeData(**read, source="dataset", metadata=metadata)
    validation.validate(data, *_action_bounds(data).arrays())
    return data


def _action_bounds(data: EpisodeData) -> ActionBounds:
    """The environment's bounds of actions, where it is known; else the data's own largest."""
    if environment.is_registered(env_id := data.metadata.get("env_id")):
        with contextlib.suppress(environment.EnvUnavailable):  # registered, and what it needs is missing
            return environment.action_bounds(str(env_id))
    return data.action_bounds()[0]
