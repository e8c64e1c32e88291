"""Minari datasets as folders on disk: their ids and places, reading one, writing one.

Reading goes to Minari's HDF5 layout directly with h5py's low-level calls rather than through
``iterate_episodes``: less than half of Minari's time per episode (0.35 ms against 0.8), a line for each
thing that can be wrong instead of an assertion, and neither Minari nor gymnasium imported to load data.

Dictionary observations (AntMaze, PointMaze) are flattened as Gymnasium's ``FlattenObservation`` does: the
keys in alphabetical order, one after the other.

A dataset of ours keeps its own facts under ``adm_jax`` in Minari's ``metadata.json``: environment id,
command, seed, versions, return statistics, and a SHA-256 of every field.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats.minari_metadata import (
    action_bounds,
    check_observation_space,
    foreign_facts,
    one_line,
    read_metadata,
)
from adm_jax.types import InputError

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
METADATA_KEY = "adm_jax"
# Minari's pattern with the version required: Minari takes an id without one, then fails and leaves a folder.
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v(?:0|[1-9]\d*)", re.ASCII)
_ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


def datasets_root() -> Path:
    """The folder of all local datasets: ``MINARI_DATASETS_PATH``, or Minari's own in the user's home."""
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given).absolute() if given else Path.home() / ".minari" / "datasets"


def check_id(dataset_id: str) -> str:
    """The id itself; raises InputError, before anything is touched, where Minari could not store it."""
    namespaces = dataset_id.split("/")[:-1]
    if not _ID.fullmatch(dataset_id) or any(len(name) < 2 for name in namespaces[:1]):
        raise InputError(
            f"dataset: {dataset_id!r} is no Minari id; must be letters, digits, - and _, perhaps after a "
            f"namespace of two letters or more and a slash, and end in a version, as in hopper/replay-v0"
        )
    return dataset_id


def dataset_dir(dataset_id: str, root: Path | None = None) -> Path:
    """Where a dataset lives under ``root`` (``datasets_root()`` when None)."""
    return (datasets_root() if root is None else root) / check_id(dataset_id)


def exists(dataset_id: str, root: Path | None = None) -> bool:
    """Whether a dataset, sound or not, is stored under this id."""
    return (dataset_dir(dataset_id, root) / "data").is_dir()


def check_free(dataset_id: str, root: Path | None = None, *, instead: str = "remove it") -> None:
    """Raises InputError where a dataset cannot be written under this id, because something is there.

    ``instead`` is what the message offers in place of another id.
    """
    folder = dataset_dir(dataset_id, root)
    if exists(dataset_id, root):
        raise InputError(f"dataset: {dataset_id} exists in {folder.parent}; choose another id or {instead}")
    if folder.exists():
        raise InputError(f"dataset: {folder} exists and is no dataset; remove it or choose another id")
    base = datasets_root() if root is None else root
    for parent in folder.parents:
        if parent == base:
            break
        if (parent / "data").is_dir():
            raise InputError(
                f"dataset: {dataset_id} would lie inside the dataset {parent}; choose another id"
            )


def read(dataset_id: str, root: Path | None = None) -> EpisodeData:
    """Reads and validates a local Minari dataset.

    Observations must be boxes or dictionaries of boxes, which are flattened, actions plain boxes; they are
    converted to float32. The last step of an episode that carries neither flag is taken as truncated: its
    data end there. Actions' bounds are the dataset's. Without ``root`` it is ``datasets_root()``. Returns the
    data; ``source`` names id and file, ``metadata`` holds what the dataset says of its environment
    (``env_id``, ``env_spec`` as JSON) and of reference scores (``reference_min``, ``reference_max``), and
    where observations were flattened ``obs_layout``: the keys in order, with the entries of each. Raises
    InputError: one line for whatever is missing, unreadable or wrong.
    """
    folder = dataset_dir(dataset_id, root) / "data"
    path = folder / "main_data.hdf5"
    source = f"{dataset_id} ({path})"
    metadata = read_metadata(folder / "metadata.json", dataset_id)
    check_observation_space(metadata, source)
    try:
        with h5py.File(path, "r") as file:
            episodes = _read_episodes(file, metadata, source)
            layout = _common_layout(file, source)
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError) as error:
        raise InputError(f"{source}: cannot be read, damaged or cut short ({one_line(error)})") from error
    own = metadata.get(METADATA_KEY)
    own = dict(own) if isinstance(own, Mapping) else {}
    facts = foreign_facts(metadata) | ({"obs_layout": layout} if layout else {})
    data = _assemble(episodes, source, {**facts, **own})
    validation.validate(data, *action_bounds(metadata, source))
    if own:
        validation.check_digests(data, own.get("sha256"))
    return data


def _read_episodes(file: Any, metadata: Mapping[str, Any], source: str) -> list[dict[str, np.ndarray]]:
    """All episodes' arrays by Minari's names, each checked in itself and against the first."""
    count = len(file)
    if count == 0:
        raise InputError(f"{source}: empty, holds no episode; at least one is needed")
    if metadata.get("total_episodes") != count:
        raise InputError(
            f"{source}: holds {count} episodes, its metadata say "
            f"total_episodes={metadata.get('total_episodes')}; both must agree"
        )
    episodes = []
    for i in range(count):
        where = f"{source}: episode {i}"
        episode = {name: _read_array(file, i, name, where) for name in _ARRAYS}
        _check_episode(episode, episodes[0] if episodes else episode, where)
        episodes.append(episode)
    steps = sum(len(episode["rewards"]) for episode in episodes)
    if metadata.get("total_steps") != steps:
        raise InputError(
            f"{source}: holds {steps} steps, its metadata say total_steps={metadata.get('total_steps')}; "
            f"both must agree"
        )
    return episodes


def _read_array(file: Any, i: int, name: str, where: str) -> np.ndarray:
    path = f"episode_{i}/{name}"
    try:
        dataset = h5py.h5d.open(file.id, path.encode())
    except (KeyError, ValueError, TypeError) as error:
        item = file.get(path)
        if isinstance(item, h5py.Group):
            if name == "observations":
                return _flatten(item, f"{where}: {name}")
            raise InputError(f"{where}: {name} is a group of arrays; must be one array of numbers") from error
        if item is None:
            raise InputError(f"{where}: {name} is missing; must hold {', '.join(_ARRAYS)}") from error
        raise
    values = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, values)
    return values


def _flatten(group: h5py.Group, where: str) -> np.ndarray:
    """A dictionary's arrays [T + 1, ...] side by side [T + 1, D], in Gymnasium's order."""
    parts = []
    for key in sorted(group):
        item, inside = group[key], f"{where}[{key!r}]"
        if isinstance(item, h5py.Group):
            parts.append(_flatten(item, inside))
            continue
        if not isinstance(item, h5py.Dataset) or item.ndim == 0:
            raise InputError(f"{inside} is no array; must be one of [T + 1, ...]")
        parts.append(validation.as_float32(item[()], inside).reshape(len(item), -1))
        if len(parts[-1]) != len(parts[0]):
            raise InputError(
                f"{inside} has {len(parts[-1])} rows; must have {len(parts[0])}, as the keys before"
            )
    if not parts:
        raise InputError(f"{where} is an empty group; must be an array or a dictionary of arrays")
    return np.concatenate(parts, axis=1)


def _common_layout(file: h5py.File, source: str) -> dict[str, int]:
    """The layout of all episodes' observations; equal widths alone could hide keys that differ."""
    first = _obs_layout(file["episode_0/observations"])
    for i in range(1, len(file)):
        layout = _obs_layout(file[f"episode_{i}/observations"])
        if layout != first:
            raise InputError(
                f"{source}: episode {i}: observations hold {layout or 'one array'}; must hold episode 0's "
                f"keys and sizes, {first or 'one array'}"
            )
    return first


def _obs_layout(item: Any) -> dict[str, int]:
    """Keys of dictionary observations in the order of flattening, and how many entries each has."""
    if not isinstance(item, h5py.Group):
        return {}
    layout: dict[str, int] = {}
    for key in sorted(item):
        part: Any = item[key]
        inner = {f"{key}/{name}": size for name, size in _obs_layout(part).items()}
        layout |= inner or {key: int(np.prod(part.shape[1:]))}
    return layout


def _check_episode(episode: dict[str, np.ndarray], first: dict[str, np.ndarray], where: str) -> None:
    """Counts, dimensions and flags of one episode; converts its arrays in place."""
    for name in ("observations", "actions", "rewards"):
        episode[name] = validation.as_float32(episode[name], f"{where}: {name}")
    for name in ("terminations", "truncations"):
        episode[name] = validation.as_flags(episode[name], f"{where}: {name}")
    num_steps = episode["rewards"].size
    if num_steps == 0:
        raise InputError(f"{where}: empty, rewards holds no step; at least one is needed")
    for name, array in episode.items():
        if name in ("observations", "actions"):
            dim = first[name].shape[-1] if first[name].ndim else 0
            wanted = (num_steps + (name == "observations"), dim)
            if array.ndim == 2 and array.shape[1] != dim:
                raise InputError(
                    f"{where}: {name} has {array.shape[1]} dimensions; must have episode 0's, {dim}"
                )
        else:
            wanted = (num_steps,)
        if array.shape != wanted:
            raise InputError(
                f"{where}: {name} has shape {array.shape}; for {num_steps} rewards must be {wanted}"
            )
        if array.dtype == bool and array[:-1].any():
            raise InputError(
                f"{where}: {name}[{int(np.argmax(array))}] is set in mid-episode; "
                f"only the last step, {num_steps - 1}, may be"
            )


def _assemble(episodes: list[dict[str, np.ndarray]], source: str, metadata: Mapping[str, Any]) -> EpisodeData:
    def joined(name: str, part: slice = slice(None)) -> np.ndarray:
        return np.concatenate([episode[name][part] for episode in episodes])

    terminated, truncated = joined("terminations"), joined("truncations")
    ends = np.cumsum([len(episode["rewards"]) for episode in episodes]) - 1
    truncated[ends] |= ~terminated[ends]
    return EpisodeData(
        obs=joined("observations", slice(None, -1)),
        action=joined("actions"),
        reward=joined("rewards"),
        next_obs=joined("observations", slice(1, None)),
        terminated=terminated,
        truncated=truncated,
        source=source,
        metadata=metadata,
    )
