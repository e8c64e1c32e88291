"""Files in NeoRL's layout: one ``.npz`` archive with ``obs, next_obs, action, reward, done, index``.

``index`` cuts the rows into episodes. NeoRL's documentation calls it the beginnings of trajectories. That is
what its ``get_dataset`` returns, having put a 0 in front of what the file holds: the file itself lists the
row behind each trajectory's last. Both are the same cuts, but for the outermost ones, and both are read.
The last rows of trajectories, a third convention, show by rows that go on across a cut, and are refused.

``done`` is Gym's of that time: true at a termination and at the step limit alike. At the limit it is taken
for the time limit, so the episode is *truncated*; a robot that falls in that very step is the price.

NeoRL's MuJoCo environments are Gym's ``-v3`` with the x position kept in front of the observation.
Gymnasium's ``-v4`` have the same observations, rewards and terminations, and stand for them here.
"""

import re
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import columns
from adm_jax.data.formats.minari_files import one_line
from adm_jax.types import InputError

MAX_EPISODE_STEPS = 1000  # of the MuJoCo environments

_REQUIRED = ("obs", "next_obs", "action", "reward", "done", "index")
_NUMBERS = ("obs", "next_obs", "action", "reward")
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)
_NAMES = columns.Names("obs", "next_obs", "done")
# name -> dimensions of observation and action, height at a reset (to 0.2), by which the last two differ
_ENVIRONMENTS = {"Hopper": (12, 3, 1.25), "HalfCheetah": (18, 6, 0.0), "Walker2d": (18, 6, 1.25)}
_KWARGS: dict[str, Any] = {"exclude_current_positions_from_observation": False}


@dataclass(frozen=True)
class Report:
    """What reading a file found and did; indices are rows of the file."""

    data: EpisodeData
    env_id: str
    leading_zero: bool  # index begins with 0, as get_dataset returns it
    max_episode_steps: int
    done_at_limit: int  # episodes whose done was taken for the time limit
    splits: tuple[int, ...]  # rows that do not lead to the next, where index has no cut
    converted: tuple[str, ...]  # "reward from float64"

    def lines(self) -> list[str]:
        """One line per fact."""
        lines = [
            columns.what_was_read(self.data, len(self.data.obs)),
            "index begins with 0: the first rows of episodes, as NeoRL's get_dataset returns it"
            if self.leading_zero
            else "index does not begin with 0: the rows behind episodes' last, as NeoRL's files hold it",
        ]
        if self.converted:
            lines.append(f"converted to float32: {', '.join(self.converted)}")
        if self.done_at_limit:
            lines.append(
                f"done is set at the step limit, {self.max_episode_steps}, of {self.done_at_limit} episodes: "
                f"stored as truncated, not terminated"
            )
        if self.splits:
            lines.append(
                f"split at {len(self.splits)} rows where next_obs[t] is not obs[t+1], truncated there: "
                f"t = {columns.shown(self.splits)}; a done behind a split may be a "
                f"time limit and is stored as truncated"
            )
        return lines


def read(
    path: Path, *, env_id: str | None = None, max_episode_steps: int | None = None
) -> tuple[EpisodeData, Report]:
    """Reads a file in NeoRL's layout; the values are checked by ``validation.validate``.

    Without ``env_id`` the environment is found by the dimensions, and HalfCheetah from Walker2d by the height
    at which episodes start; the MuJoCo environments' step limit is 1000 without ``max_episode_steps``.
    Returns the episodes (``metadata`` holds ``env_id``, ``env_kwargs`` of the MuJoCo environments, and
    ``imported_from``) and what was done to get them. Raises InputError: one line: the file is missing or
    damaged, lacks an array, holds one twice or of a wrong shape; index is no list of cuts; done is set in
    mid-episode; an episode is longer than the limit; its environment is not clear.
    """
    source = str(path)
    raw = _read_arrays(path, source)
    obs, next_obs, action, reward = (validation.as_float32(raw[n], f"{source}: {n}") for n in _NUMBERS)
    done = validation.as_flags(raw["done"], f"{source}: done")
    ends, leading_zero = _ends(raw["index"], len(obs), source)
    starts = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
    env_id, kwargs = _environment(env_id, obs, action, starts, source)
    limit = max_episode_steps or (MAX_EPISODE_STEPS if kwargs else None)
    if limit is None:
        raise InputError(
            f"{source}: the step limit of {env_id} is unknown; give it, as in --max_episode_steps=1000"
        )
    columns.check_lengths(ends, limit, source)
    splits = _find_splits(columns.Columns(obs, action, reward, next_obs, done, source, _NAMES), ends)
    at_limit, doubtful = _time_limits(ends, splits, limit)
    ends[list(splits)] = True
    terminated = done & ~at_limit & ~doubtful
    metadata = {
        "env_id": env_id,
        "imported_from": Path(source).name,
        **({"env_kwargs": kwargs} if kwargs else {}),
    }
    data = EpisodeData(obs, action, reward, next_obs, terminated, ends & ~terminated, source, metadata)
    report = Report(
        data=data,
        env_id=env_id,
        leading_zero=leading_zero,
        max_episode_steps=limit,
        done_at_limit=int((done & at_limit).sum()),
        splits=splits,
        converted=columns.converted({name: raw[name] for name in _NUMBERS}),
    )
    return data, report


def _read_arrays(path: Path, source: str) -> dict[str, np.ndarray]:
    """The archive's arrays, of the right rank and row count."""
    if not path.is_file():
        raise InputError(f"{source}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            names = Counter(name.removesuffix(".npy") for name in archive.namelist())
        twice = [name for name, count in names.items() if count > 1]
        if twice:
            raise InputError(f"{source}: holds {twice[0]} twice; each array must be there once")
        missing = [name for name in _REQUIRED if name not in names]
        if missing:
            raise InputError(f"{source}: {missing[0]} is missing; a NeoRL file holds {', '.join(_REQUIRED)}")
        with np.load(path, allow_pickle=False) as archive:
            raw: dict[str, np.ndarray] = {name: archive[name] for name in _REQUIRED}
    except InputError:
        raise
    except (*_DAMAGE, MemoryError) as error:  # a damaged size may ask for any memory
        raise InputError(
            f"{source}: cannot be read as npz, damaged or cut short ({one_line(error)})"
        ) from error
    num_rows = len(raw["obs"]) if raw["obs"].ndim else 0
    for name in _REQUIRED[:-1]:
        if name in ("reward", "done") and raw[name].ndim == 2 and raw[name].shape[1] == 1:
            raw[name] = raw[name][:, 0]
        columns.check_shape(raw[name].shape, 1 + (name in _NUMBERS[:3]), num_rows, f"{source}: {name}", "obs")
    if raw["next_obs"].shape != raw["obs"].shape:
        raise InputError(
            f"{source}: next_obs has {raw['next_obs'].shape[1]} dimensions; obs have {raw['obs'].shape[1]}"
        )
    return raw


def _ends(index: np.ndarray, num_rows: int, source: str) -> tuple[np.ndarray, bool]:
    """Which rows [N] are the last of a trajectory, and whether index begins with 0."""
    if index.dtype.kind not in "iu" or index.size == 0 or index.size != max(index.shape, default=0):
        raise InputError(
            f"{source}: index has dtype {index.dtype} and shape {index.shape}; must be row numbers [E], one "
            f"for each episode"
        )
    cuts = index.reshape(-1).astype(np.int64)
    wrong = np.flatnonzero((cuts < 0) | (cuts > num_rows))
    if wrong.size:
        i = int(wrong[0])
        raise InputError(f"{source}: index[{i}] is {cuts[i]}; must be a row of the file, 0 to {num_rows}")
    wrong = np.flatnonzero(np.diff(cuts) <= 0)
    if wrong.size:
        i = int(wrong[0]) + 1
        raise InputError(f"{source}: index[{i}] is {cuts[i]} after {cuts[i - 1]}; must increase")
    ends = np.zeros(num_rows, bool)
    ends[np.append(cuts[cuts > 0], num_rows) - 1] = True
    return ends, bool(cuts[0] == 0)


def _find_splits(rows: columns.Columns, ends: np.ndarray) -> tuple[int, ...]:
    """Rows that don't lead to the next where index has no cut; refuses wrong cuts and a wrong done."""
    source = rows.source
    loose = np.flatnonzero(rows.terminals & ~ends)
    if loose.size:
        t = int(loose[0])
        raise InputError(
            f"{source}: episode {int(ends[:t].sum())}: done[{t}] is set in mid-episode, where index ends no "
            f"episode ({loose.size} such in all); only an episode's last row may be done"
        )
    assert rows.next_obs is not None
    wrong = np.flatnonzero(validation.follows(rows.obs, rows.next_obs) & ends[:-1])
    if wrong.size:
        t = int(wrong[0])
        raise InputError(
            f"{source}: index cuts at row {t + 1}, but obs[{t + 1}] goes on from next_obs[{t}] ({wrong.size} "
            f"such in all); must hold the first rows of episodes"
        )
    return columns.find_breaks(rows, ends)[0]


def _time_limits(ends: np.ndarray, splits: tuple[int, ...], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Last rows [N] of trajectories as long as the limit, and of those that lack rows."""
    last = np.flatnonzero(ends)
    at_limit, doubtful = np.zeros_like(ends), np.zeros_like(ends)
    at_limit[last[np.diff(last, prepend=-1) == limit]] = True
    doubtful[last[np.searchsorted(last, np.asarray(splits, np.int64))]] = True
    return at_limit, doubtful


def _environment(
    env_id: str | None, obs: np.ndarray, action: np.ndarray, starts: np.ndarray, source: str
) -> tuple[str, dict[str, Any]]:
    """Gymnasium id and arguments of the file's environment."""
    dims = (obs.shape[1], action.shape[1])
    if env_id is not None:
        name, _, version = env_id.rpartition("-v")
        if name not in _ENVIRONMENTS:
            return env_id, {}
        if dims != _ENVIRONMENTS[name][:2]:
            raise InputError(
                f"{source}: obs has {dims[0]} and action {dims[1]} dimensions; NeoRL's {name}, with the x "
                f"position, has {_ENVIRONMENTS[name][0]} and {_ENVIRONMENTS[name][1]}"
            )
        return f"{name}-v{4 if version in ('2', '3') else version}", _KWARGS
    height = float(np.median(obs[starts, 1])) if dims[0] > 1 else 0.0
    fitting = [name for name, (*d, h) in _ENVIRONMENTS.items() if dims == tuple(d) and abs(height - h) < 0.2]
    if len(fitting) != 1:
        raise InputError(
            f"{source}: obs has {dims[0]} and action {dims[1]} dimensions, and episodes start at obs[1] = "
            f"{height:.3g}: none of NeoRL's {', '.join(_ENVIRONMENTS)}; say which, as in --env_id=Hopper-v4"
        )
    named = re.search("|".join(_ENVIRONMENTS), Path(source).name)
    if named and named.group() != fitting[0]:
        raise InputError(
            f"{source}: named after {named.group()}, but its rows are {fitting[0]}'s ({dims[0]} dimensions, "
            f"episodes start at obs[1] = {height:.3g}); rename it, or say which, as in "
            f"--env_id={fitting[0]}-v4"
        )
    return f"{fitting[0]}-v4", _KWARGS
