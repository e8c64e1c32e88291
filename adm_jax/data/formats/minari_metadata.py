"""What a Minari dataset's ``metadata.json`` says: bounds, spaces, environment, reference scores."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax.types import InputError


def one_line(error: BaseException) -> str:
    """An exception's text without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__


def read_metadata(path: Path, dataset_id: str) -> dict[str, Any]:
    """The file's table.

    Raises InputError: one line: it cannot be read, is no UTF-8 text, no JSON table, has a key twice, or tells
    of another format than HDF5.
    """
    where = f"{dataset_id} ({path})"

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) < len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"{where}: holds the key {twice!r} twice; each must be there once")
        return table

    try:
        metadata = json.loads(path.read_bytes().decode(), object_pairs_hook=unique)
    except InputError:
        raise
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: is no UTF-8 text (byte {error.object[error.start]:#x} at {error.start}); write it anew"
        ) from error
    except (OSError, ValueError) as error:
        raise InputError(f"{where}: cannot be read ({one_line(error)})") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: holds no table of metadata")
    if metadata.get("data_format", "hdf5") != "hdf5":
        raise InputError(f"{where}: data_format is {metadata['data_format']}; only hdf5 can be read")
    return metadata


def foreign_facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What any Minari dataset says of its origin, by this library's names.

    ``env_id`` and ``env_spec`` (JSON) are of the environment to evaluate in, where Minari names one, else of
    the one the data come from; ``reference_min`` and ``reference_max`` the returns that score 0 and 100.
    """
    facts: dict[str, Any] = {}
    for name in ("eval_env_spec", "env_spec"):
        try:
            env_id = json.loads(metadata[name])["id"]
        except (KeyError, TypeError, ValueError):
            continue
        facts = {"env_id": env_id, "env_spec": metadata[name]}
        break
    for ours, theirs in {"reference_min": "ref_min_score", "reference_max": "ref_max_score"}.items():
        score = metadata.get(theirs)
        if isinstance(score, (int, float)) and np.isfinite(score):
            facts[ours] = float(score)
    return facts


def action_bounds(metadata: Mapping[str, Any], source: str) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Bounds of the dataset's action space; infinite where it names none (an old dataset).

    Raises InputError: the actions are no vectors of numbers.
    """
    space = _space(metadata, "action_space", source)
    if space is None:
        return -np.inf, np.inf
    if space["type"] != "Box":
        raise InputError(
            f"{source}: metadata: action_space is {space['type']}; must be Box, a vector of numbers"
        )
    try:
        return np.asarray(space["low"], np.float64), np.asarray(space["high"], np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: metadata: action_space cannot be read ({one_line(error)})") from error


def check_observation_space(metadata: Mapping[str, Any], source: str) -> None:
    """Refuses observations that are neither Box nor dictionaries of Box.

    Gymnasium would flatten others too, but into one-hot vectors, which no dynamics model here predicts.
    Raises InputError: one line naming the kind of space and its key.
    """

    def check(space: Mapping[str, Any], key: str) -> None:
        kind = space.get("type")
        if kind == "Dict" and isinstance(space.get("subspaces"), dict):
            for name, subspace in space["subspaces"].items():
                check(subspace, f"{key}[{name!r}]")
        elif kind != "Box":
            raise InputError(
                f"{source}: metadata: {key} is {kind}; must be Box, or a Dict of nothing but Box"
            )

    space = _space(metadata, "observation_space", source)
    if space is not None:
        check(space, "observation_space")


def _space(metadata: Mapping[str, Any], name: str, source: str) -> dict[str, Any] | None:
    """One of the dataset's spaces as Minari writes it; None where it is not given."""
    if name not in metadata:
        return None
    try:
        space = json.loads(metadata[name])
        space["type"]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: metadata: {name} cannot be read ({one_line(error)})") from error
    return space
