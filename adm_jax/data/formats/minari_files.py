"""Minari datasets as folders on disk: their ids and places, reading one, writing one.

Reading goes to Minari's HDF5 layout directly with h5py's low-level calls rather than through
``iterate_episodes``: less than half of Minari's time per episode (0.35 ms against 0.8), a line for each
thing that can be wrong instead of an assertion, and neither Minari nor gymnasium imported to load data. Its
Arrow and Parquet layouts are read likewise, see ``minari_arrow``.

Observations in dictionaries (AntMaze, PointMaze) and tuples are joined, one key after the other, in the
order of the dataset's own space, which is that of the recorded environment's.

A dataset of ours keeps its own facts under ``adm_jax`` in Minari's ``metadata.json``: environment id,
command, seed, versions, return statistics, and a SHA-256 of every field; all of it is sealed.
"""

import contextlib
import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import containers, minari_arrow
from adm_jax.data.formats.minari_metadata import (
    METADATA_KEY,
    SEALED,
    action_bounds,
    check_references,
    check_seal,
    foreign_facts,
    observation_bounds,
    observation_keys,
    one_line,
    read_metadata,
    recorded_resets,
    shown,
)
from adm_jax.types import InputError

ROOT_VARIABLE = "MINARI_DATASETS_PATH"
FILES = {".hdf5": "d4rl", ".h5": "d4rl", ".npz": "neorl"}  # layouts that are imported, by suffix
# Minari's pattern with the version required: Minari takes an id without one, then fails and leaves a folder.
_ID = re.compile(r"(?:[-\w]+/)*[-\w]+-v(?:0|[1-9]\d*)", re.ASCII)
_ReadArray = Callable[[int, str, str], Any]  # episode, name, where -> array, or dictionary of arrays
_ARRAYS = ("observations", "actions", "rewards", "terminations", "truncations")


def datasets_root() -> Path:
    """The folder of all local datasets: ``MINARI_DATASETS_PATH``, or Minari's own in the user's home."""
    given = os.environ.get(ROOT_VARIABLE)
    return Path(given).absolute() if given else Path.home() / ".minari" / "datasets"


def check_id(dataset_id: str) -> str:
    """The id itself; raises InputError, before anything is touched, where Minari could not store it."""
    if Path(dataset_id).name == "main_data.hdf5":
        raise InputError(
            f"dataset: {dataset_id} is a Minari dataset's own file; give the dataset's id, its folders below "
            f"{datasets_root()}, as hopper/replay-v0; {ROOT_VARIABLE} names another place"
        )
    if Path(dataset_id).suffix.lower() in FILES:
        raise InputError(
            f"dataset: {dataset_id} is a file, not an id; import it: adm-jax import "
            f"--source={FILES[Path(dataset_id).suffix.lower()]} --path={shlex.quote(dataset_id)} "
            f"--dataset=mine/data-v0, and give --dataset=mine/data-v0"
        )
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

    Observations must be boxes or dictionaries of boxes, which are joined, actions plain boxes; they are
    converted to float32. The last step of an episode that carries neither flag is taken as truncated: its
    data end there. Actions' bounds are those of the dataset's action space, which is kept. Without ``root``
    it is ``datasets_root()``. Returns the data; ``source`` names id and file, ``metadata`` holds what the
    dataset says of its environment (``env_id``, ``env_spec`` as JSON) and of reference scores
    (``reference_min``, ``reference_max``), and where observations were joined ``obs_layout``: the keys in
    order, with the entries of each. Raises InputError: one line for whatever is missing, unreadable or wrong.
    """
    folder = dataset_dir(dataset_id, root) / "data"
    metadata = read_metadata(folder / "metadata.json", dataset_id)
    data_format = metadata.get("data_format", "hdf5")
    path = folder if data_format in minari_arrow.FORMATS else folder / "main_data.hdf5"
    source = f"{dataset_id} ({path})"
    keys = observation_keys(metadata, source)
    bounds = action_bounds(metadata, source)
    try:
        with _opened(path, data_format, source) as (count, read_array, read_attributes):
            episodes, layout = _read_episodes(count, read_array, metadata, source, keys)
            resets = recorded_resets(count, read_attributes)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of its reader; a size may ask for any memory
        if path.is_file() and containers.kind_of(path)[0] not in ("", containers.HDF5):
            raise containers.unreadable(path, source, "HDF5", error) from error
        raise InputError(f"{source}: cannot be read, damaged or cut short ({one_line(error)})") from error
    own = metadata.get(METADATA_KEY)
    own = dict(own) if isinstance(own, Mapping) else {}
    facts = foreign_facts(metadata) | ({"obs_layout": layout} if layout else {}) | own
    facts.pop(SEALED, None)
    check_references(facts, source)
    data = _assemble(episodes, source, facts)
    validation.validate(data, *bounds)
    low, high = (np.broadcast_to(bound, data.action.shape[1:]) for bound in bounds)
    obs_space = None if own else observation_bounds(metadata, source)
    data = dataclasses.replace(data, action_space=(low, high), obs_space=obs_space, resets=resets)
    if own:
        validation.check_digests(data, own.get("sha256"))
    check_seal(folder, metadata, source)
    return data


@contextlib.contextmanager
def _opened(
    path: Path, data_format: str, source: str
) -> Iterator[tuple[int, _ReadArray, Callable[[int], Mapping[str, Any]]]]:
    """How many episodes a dataset holds, what reads an array of one, and what is kept beside its arrays."""
    if data_format in minari_arrow.FORMATS:
        minari_arrow.require_pyarrow(data_format, source)
        episodes: dict[int, dict[str, Any]] = {}

        def read_array(i: int, name: str, where: str) -> Any:
            if i not in episodes:
                episodes.clear()
                episodes[i] = minari_arrow.read_episode(path / str(i), data_format, _ARRAYS)
            if name not in episodes[i]:
                raise InputError(f"{where}: {name} is missing; must hold {', '.join(_ARRAYS)}")
            return episodes[i][name]

        count = sum(folder.name.isdecimal() for folder in path.iterdir() if folder.is_dir())
        yield count, read_array, lambda i: minari_arrow.read_attributes(path / str(i))
        return
    with h5py.File(path, "r") as file:
        yield (
            len(file),
            lambda i, name, where: _read_hdf5(file, i, name, where),
            lambda i: file[f"episode_{i}"].attrs,
        )


def _read_episodes(
    count: int, read_array: _ReadArray, metadata: Mapping[str, Any], source: str, keys: tuple[str, ...]
) -> tuple[list[dict[str, np.ndarray]], dict[str, int]]:
    """All episodes' arrays by Minari's names, each checked in itself and against the first; the layout."""
    if count == 0:
        raise InputError(f"{source}: empty, holds no episode; at least one is needed")
    if metadata.get("total_episodes") != count:
        raise InputError(
            f"{source}: holds {count} episodes, its metadata say "
            f"total_episodes={shown(metadata.get('total_episodes'))}; both must agree"
        )
    episodes, layouts = [], []
    for i in range(count):
        where = f"{source}: episode {i}"
        episode = {name: read_array(i, name, where) for name in _ARRAYS}
        layouts.append({})
        for name, values in episode.items():
            if isinstance(values, Mapping):
                if name != "observations":
                    raise InputError(f"{where}: {name} is a group of arrays; must be one array of numbers")
                episode[name], layouts[i] = _join(values, keys, f"{where}: {name}")
        _check_episode(episode, episodes[0] if episodes else episode, where)
        if layouts[i] != layouts[0]:  # equal widths alone could hide keys that differ
            raise InputError(
                f"{where}: observations hold {layouts[i] or 'one array'}; must hold episode 0's keys and "
                f"sizes, {layouts[0] or 'one array'}"
            )
        episodes.append(episode)
    steps = sum(len(episode["rewards"]) for episode in episodes)
    if metadata.get("total_steps") != steps:
        raise InputError(
            f"{source}: holds {steps} steps, its metadata say "
            f"total_steps={shown(metadata.get('total_steps'))}; both must agree"
        )
    return episodes, layouts[0]


def _read_hdf5(file: h5py.File, i: int, name: str, where: str) -> np.ndarray | dict[str, Any]:
    """An array of an episode, or a dictionary of arrays as its group holds them."""
    path = f"episode_{i}/{name}"
    containers.check_link(file.id, f"episode_{i}", where)
    containers.check_link(file.id, path, f"{where}: {name}")
    try:
        dataset = h5py.h5d.open(file.id, path.encode())
    except (KeyError, ValueError, TypeError) as error:
        item = file.get(path)
        if isinstance(item, h5py.Group):
            return _read_group(item, f"{where}: {name}")
        if item is None:
            raise InputError(f"{where}: {name} is missing; must hold {', '.join(_ARRAYS)}") from error
        raise
    return containers.read_values(dataset, file.id, f"{where}: {name}")


def _read_group(group: h5py.Group, where: str) -> dict[str, Any]:
    """What a group holds: arrays, and groups of them as dictionaries."""
    arrays = {}
    for key in map(str, group):
        inside = f"{where}[{key!r}]"
        containers.check_link(group.id, key, inside)
        item = group.get(key)
        if isinstance(item, h5py.Group):
            arrays[key] = _read_group(item, inside)
        elif isinstance(item, h5py.Dataset):
            arrays[key] = containers.read_values(item.id, group.file.id, inside)
        else:
            raise InputError(f"{inside} is no array; must be one of [T + 1, ...]")
    return arrays


def _join(arrays: Mapping[str, Any], keys: tuple[str, ...], where: str) -> tuple[np.ndarray, dict[str, int]]:
    """A dictionary's arrays [T + 1, ...] side by side [T + 1, D], and how many entries each key has."""
    present = _by_path(arrays)
    if not present:
        raise InputError(f"{where} is an empty group; must be an array or a dictionary of arrays")
    keys = keys or tuple(present)
    for key in sorted(set(keys).symmetric_difference(present)):
        problem = "missing" if key in keys else "there"
        raise InputError(f"{where}[{key!r}] is {problem}; the keys must be observation_space's, {list(keys)}")
    parts: list[np.ndarray] = []
    for key in keys:
        item, inside = present[key], f"{where}[{key!r}]"
        if item.ndim == 0:
            raise InputError(f"{inside} is no array; must be one of [T + 1, ...]")
        parts.append(validation.as_float32(item, inside).reshape(len(item), -1))
        if len(parts[-1]) != len(parts[0]):
            raise InputError(
                f"{inside} has {len(parts[-1])} rows; must have {len(parts[0])}, as the keys before"
            )
    layout = {key: part.shape[1] for key, part in zip(keys, parts, strict=True)}
    return np.concatenate(parts, axis=1), layout


def _by_path(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays inside a dictionary by key, nested ones as "a/b", in alphabetical order."""
    found: dict[str, np.ndarray] = {}
    for key in sorted(arrays):
        item = arrays[key]
        found |= (
            {f"{key}/{name}": x for name, x in _by_path(item).items()}
            if isinstance(item, Mapping)
            else {key: item}
        )
    return found


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
            must_be = f"({wanted[0]}, dimension)" if array.ndim == 1 < len(wanted) else wanted
            raise InputError(
                f"{where}: {name} has shape {array.shape}; for {num_steps} rewards must be {must_be}"
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
