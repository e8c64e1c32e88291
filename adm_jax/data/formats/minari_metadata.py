"""What a Minari dataset's ``metadata.json`` says: bounds, spaces, environment, reference scores.

That of a dataset of ours is sealed: what of it counts has a digest in ``main_data.hdf5``, and says itself
that it has one. So neither file can lose its word, or change it, without the other's telling.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from adm_jax.data.episodes import Reset
from adm_jax.types import InputError

_LONGEST_SHOWN, _LONGEST_ERROR = 80, 300
_FORMATS = ("hdf5", "arrow", "parquet")
_UNREADABLE = (KeyError, TypeError, ValueError, RecursionError)  # what JSON of another form ends in
METADATA_KEY, SEALED = "adm_jax", "sealed"  # our own facts; whether they are sealed, in them
_SEAL = "adm_jax_metadata_sha256"  # attribute of the HDF5 file's root
_COUNT = (  # entries that are read here
    *("action_space", "observation_space", "data_format", "total_episodes", "total_steps"),
    *("env_spec", "eval_env_spec", "ref_min_score", "ref_max_score", METADATA_KEY),
)
_NUM_RESETS = 5  # episodes that are asked for their seed


def one_line(error: BaseException) -> str:
    """An exception's text without line breaks, and no longer than a line: a file may put anything in it."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]} ..."


def shown(value: Any) -> str:
    """The beginning of a value's text."""
    return str(value)[:_LONGEST_SHOWN]


def read_metadata(path: Path, dataset_id: str) -> dict[str, Any]:
    """The file's table.

    Raises InputError: one line: it cannot be read, is no UTF-8 text, no JSON table, has a key twice, or tells
    of another format than HDF5, Arrow and Parquet.
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
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{where}: cannot be read ({one_line(error)})") from error
    if not isinstance(metadata, dict):
        raise InputError(f"{where}: holds no table of metadata")
    if metadata.get("data_format", "hdf5") not in _FORMATS:
        raise InputError(
            f"{where}: data_format is {shown(metadata['data_format'])}; only {', '.join(_FORMATS)} can be "
            "read"
        )
    return metadata


def seal(folder: Path, dataset_id: str) -> None:
    """Seals the metadata of a dataset that is complete; ``folder`` holds both files."""
    metadata = read_metadata(folder / "metadata.json", dataset_id)
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file.attrs[_SEAL] = _digest(metadata)


def check_seal(folder: Path, metadata: Mapping[str, Any], source: str) -> None:
    """Raises InputError: the metadata are not those that were sealed, or have lost their seal."""
    file_seal, own = None, metadata.get(METADATA_KEY)
    if (folder / "main_data.hdf5").exists():
        try:
            with h5py.File(folder / "main_data.hdf5", "r") as file:
                file_seal = file.attrs.get(_SEAL)
        except Exception as error:  # whatever h5py makes of a damaged attribute
            raise InputError(f"{source}: cannot be read, damaged or cut short ({one_line(error)})") from error
    if file_seal is None and not (isinstance(own, Mapping) and own.get(SEALED)):
        return  # another's, or of an earlier version
    if str(file_seal) != _digest(metadata):
        raise InputError(
            f"{source}: metadata: not what was written (SHA-256 differs): environment, step limit, spaces, "
            "reference scores or digests were damaged or changed since; make or import the dataset again"
        )


def _digest(metadata: Mapping[str, Any]) -> str:
    """SHA-256 of what of the metadata counts."""
    counting = {name: metadata[name] for name in _COUNT if name in metadata}
    return hashlib.sha256(json.dumps(counting, sort_keys=True).encode()).hexdigest()


def foreign_facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What any Minari dataset says of its origin, by this library's names.

    ``env_id`` and ``env_spec`` (JSON) are of the environment that was recorded, ``eval_env_spec`` of the one
    that the dataset would have policies evaluated in, where it names one; that of a dataset without the first
    stands for it. ``reference_min`` and ``reference_max`` are the returns that score 0 and 100, as they are:
    see ``check_references``.
    """
    facts: dict[str, Any] = {}
    for name in ("eval_env_spec", "env_spec"):
        try:
            env_id = json.loads(metadata[name])["id"]
        except _UNREADABLE:
            continue
        facts |= {"env_id": env_id, "env_spec": metadata[name], name: metadata[name]}
    for ours, theirs in {"reference_min": "ref_min_score", "reference_max": "ref_max_score"}.items():
        if metadata.get(theirs) is not None:
            facts[ours] = metadata[theirs]
    return facts


def check_references(facts: Mapping[str, Any], source: str) -> None:
    """Raises InputError where scores could not be computed from the reference scores."""
    given = [facts[name] for name in ("reference_min", "reference_max") if facts.get(name) is not None]
    try:
        sound = all(not isinstance(score, bool | str) and math.isfinite(float(score)) for score in given)
    except (OverflowError, TypeError, ValueError):  # a whole number beyond any float, or no number
        sound = False
    if not sound or given != sorted(set(given)):
        shown = " and ".join(f"{score!r:.40}" for score in given)
        raise InputError(
            f"{source}: metadata: reference scores, ref_min_score and ref_max_score, are {shown}; must be "
            "finite numbers, the first below the second"
        )


def action_bounds(metadata: Mapping[str, Any], source: str) -> tuple[np.ndarray | float, np.ndarray | float]:
    """Bounds of the dataset's action space; infinite where it names none (an old dataset).

    Raises InputError: the actions are no vectors of numbers.
    """
    space = _space(metadata, "action_space", source)
    if space is None:
        return -np.inf, np.inf
    if space["type"] != "Box":
        raise InputError(f"{source}: actions are {_described(space)}; only Box, a vector of numbers, will do")
    try:
        bounds = np.asarray(space["low"], np.float64), np.asarray(space["high"], np.float64)
    except (*_UNREADABLE, OverflowError) as error:
        raise InputError(f"{source}: metadata: action_space cannot be read ({one_line(error)})") from error
    if bounds[0].shape != bounds[1].shape or bounds[0].ndim > 1:
        raise InputError(
            f"{source}: metadata: action_space has bounds of shapes {bounds[0].shape} and {bounds[1].shape}; "
            f"must be a vector of numbers"
        )
    return bounds


def observation_keys(metadata: Mapping[str, Any], source: str) -> tuple[str, ...]:
    """Keys of the observations in the order of the dataset's space, nested ones as "a/b".

    It is empty for a Box, and where no space is given. An entry of a tuple is ``_index_0``, as in Minari's
    files. Gymnasium would flatten other spaces too, but into one-hot vectors, which no dynamics model here
    predicts. Raises InputError: one line naming the kind of space and its key.
    """
    return tuple(key for key, _ in _boxes(metadata, source) if key)


def observation_bounds(metadata: Mapping[str, Any], source: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Lowest and highest observation [D] of the dataset's space, keys joined; None where it does not say."""
    boxes = [box for _, box in _boxes(metadata, source)]
    try:
        low, high = (
            np.concatenate([np.ravel(np.asarray(box[end], float)) for box in boxes])
            for end in ("low", "high")
        )
    except (*_UNREADABLE, OverflowError):
        return None
    return low, high


def recorded_resets(count: int, read_attributes: Callable[[int], Mapping[str, Any]]) -> tuple[Reset, ...]:
    """Seeds and options of the first of ``count`` episodes, of those that have a seed.

    Minari's HDF5 attributes hold an option as "options/a/b", its other layouts a table of them.
    """
    found = []
    for i in range(min(count, _NUM_RESETS)):
        given = dict(read_attributes(i))
        options = dict(given.get("options") or {})
        for path in [path for path in given if path.startswith("options/")]:
            inner = options
            *outer, last = path.split("/")[1:]
            for name in outer:
                inner = inner.setdefault(name, {})
            inner[last] = given[path]
        if given.get("seed") is not None:
            found.append(Reset(i, int(given["seed"]), options or None))
    return tuple(found)


def _boxes(metadata: Mapping[str, Any], source: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The boxes of the observation space by key, in its order; the key of a Box alone is empty."""

    def boxes(space: Any, where: str) -> list[tuple[str, Mapping[str, Any]]]:
        if not isinstance(space, Mapping):
            raise InputError(f"{source}: metadata: observation_space{where} is no space ({shown(space)})")
        kind, parts = space.get("type"), space.get("subspaces")
        if kind == "Tuple" and isinstance(parts, list):
            parts = {f"_index_{i}": part for i, part in enumerate(parts)}
        if kind in ("Dict", "Tuple") and isinstance(parts, dict):
            found = [(name, boxes(part, f"{where}[{name!r}]")) for name, part in parts.items()]
            return [(f"{name}/{key}" if key else name, box) for name, inner in found for key, box in inner]
        if kind != "Box":
            raise InputError(
                f"{source}: observations{where} are {_described(space)}; only Box, or a Dict or Tuple of "
                "nothing but Box, will do"
            )
        return [("", space)]

    space = _space(metadata, "observation_space", source)
    space = _space(metadata, "observation_space", source)
    if space is None:
        return []
    found = boxes(space, "")
    shape = space.get("shape")
    if space["type"] == "Box" and isinstance(shape, list) and len(shape) != 1:
        raise InputError(
            f"{source}: observations are {_described(space)}; must be a vector: record through "
            "FlattenObservation, over FrameStackObservation too"
        )
    return found


def _described(space: Mapping[str, Any]) -> str:
    """A space in Gymnasium's words, as Discrete(2)."""
    size = next((space[name] for name in ("n", "nvec", "shape") if name in space), None)
    return f"{shown(space.get('type'))}{'' if size is None else f'({shown(size)})'}"


def _space(metadata: Mapping[str, Any], name: str, source: str) -> dict[str, Any] | None:
    """One of the dataset's spaces as Minari writes it; None where it is not given."""
    if name not in metadata:
        return None
    try:
        space = json.loads(metadata[name])
        space["type"]
    except _UNREADABLE as error:
        raise InputError(f"{source}: metadata: {name} cannot be read ({one_line(error)})") from error
    return space
