"""Files in NeoRL's layouts: ``.npz`` archives of ``obs, next_obs, action, reward, done`` and what cuts them.

NeoRL's files have ``index``, which cuts the rows into episodes. Its documentation calls it the beginnings of
trajectories. That is what its ``get_dataset`` returns, having put a 0 in front of what the file holds: the
file itself lists the row behind each trajectory's last. Both are the same cuts, but for the outermost ones,
and both are read. The last rows of trajectories, a third convention, show by rows that go on across a cut,
and are refused. ``done`` is Gym's of that time: true at a termination and at the step limit alike. At the
limit it is taken for the time limit, so the episode is *truncated*; a robot that falls in that very step is
the price.

NeoRL2's files have ``truncated`` instead: ``done`` is Gymnasium's ``terminated``, and either ends an episode.

A file does not say what environment it is of, but by its name. NeoRL's MuJoCo environments are Gym's ``-v3``
with the x position kept in front of the observation; Gymnasium's ``-v4`` have the same observations, rewards
and terminations, and stand for them here, where the data look like them. NeoRL2's environments are a package
of their own, and none is taken for them; what their names tell, where the data agree, is that actions lie
within +-1, of which data may use but a part (Pipeline's a thirtieth). Other names are not trusted.
"""

import re
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import columns, containers
from adm_jax.types import InputError

MAX_EPISODE_STEPS = 1000  # of the MuJoCo environments

_REQUIRED = ("obs", "next_obs", "action", "reward", "done")
_CUTS = ("index", "truncated")  # one of them, or both
_NUMBERS = ("obs", "next_obs", "action", "reward")
_NAMES = columns.Names("obs", "next_obs", "done", "truncated")
# name -> dimensions of observation and action, height at a reset, by which the last two differ
_ENVIRONMENTS = {"Hopper": (12, 3, 1.25), "HalfCheetah": (18, 6, 0.0), "Walker2d": (18, 6, 1.25)}
_HEIGHT_RANGE = 0.2
_KWARGS: dict[str, Any] = {"exclude_current_positions_from_observation": False}
# NeoRL2's, by their Gymnasium ids -> dimensions of observation and action
_NEORL2 = {
    "Pipeline": (52, 1),
    "Simglucose": (31, 1),
    "RocketRecovery": (7, 2),
    "RandomFrictionHopper": (13, 3),
    "DMSD": (6, 2),
    "Fusion": (15, 6),
    "Salespromotion": (8, 2),
    "SafetyHalfCheetah": (18, 6),
}


@dataclass(frozen=True)
class Report:
    """What reading a file found and did; indices are rows of the file."""

    data: EpisodeData
    env_id: str | None
    no_environment: str  # why none is known; empty where one is
    neorl2_id: str | None  # of NeoRL2's environment that the file is of, by name and data
    index: str | None  # what the file's index holds, where it has one
    has_truncated: bool  # else done may be a time limit
    max_episode_steps: int | None
    done_at_limit: int  # episodes whose done was taken for a time limit
    splits: tuple[int, ...]  # rows that do not lead to the next, where no end is said to be
    continued: tuple[int, ...]  # truncated rows after which the next goes on from the same state
    last_row_open: bool  # the file ends in mid-episode
    converted: tuple[str, ...]  # "reward from float64"

    def lines(self) -> list[str]:
        """One line per fact."""
        lines = [columns.what_was_read(self.data, len(self.data.obs))]
        if self.no_environment:
            as_in = f", as in --env_id=neorl2:{self.neorl2_id}" if self.neorl2_id else ""
            lines.append(
                f"stored without an environment: {self.no_environment}; where one is registered with "
                f"Gymnasium, --env_id names it{as_in}"
            )
        if self.index:
            lines.append(self.index)
        if self.converted:
            lines.append(f"converted to float32: {', '.join(self.converted)}")
        if self.done_at_limit:
            where = f"at the step limit, {self.max_episode_steps}, of {self.done_at_limit} episodes"
            if self.has_truncated:
                where = f"at each of the {self.done_at_limit} truncated rows, as Gym's was"
            lines.append(f"done is set {where}: stored as truncated, not terminated")
        if self.splits:
            line = (
                f"split at {len(self.splits)} rows where next_obs[t] is not obs[t+1], truncated there: "
                f"t = {columns.shown(self.splits)}"
            )
            doubt = "; a done behind a split may be a time limit and is stored as truncated"
            lines.append(line if self.has_truncated else line + doubt)
        if self.continued:
            lines.append(
                f"{len(self.continued)} truncated rows after which the next goes on from the same state, "
                f"kept as truncations: t = {columns.shown(self.continued)}"
            )
        if self.last_row_open:
            lines.append("the file ends in mid-episode: its last episode is truncated there")
        return lines


def read(
    path: Path, *, env_id: str | None = None, max_episode_steps: int | None = None
) -> tuple[EpisodeData, Report]:
    """Reads a file in NeoRL's or NeoRL2's layout; the values are checked by ``validation.validate``.

    Without ``env_id`` the environment is the one that the file is named after, where its dimensions, actions
    and first heights agree with it, else none; the MuJoCo environments' step limit is 1000 without
    ``max_episode_steps``. Data of NeoRL2's environments have no environment, but its action space, +-1.
    Returns the episodes (``metadata`` holds ``imported_from`` and, where known, ``env_id``, and
    ``env_kwargs`` of the MuJoCo environments) and what was done to get them. Raises InputError: one line: the
    file is missing or damaged, lacks an array, holds one twice or of a wrong shape; index is no list of cuts;
    done or truncated is set in mid-episode; an episode is longer than the limit, or that is unknown where
    only it tells whether done is a termination.
    """
    source = str(path)
    raw = _read_arrays(path, source)
    obs, next_obs, action, reward = (validation.as_float32(raw[n], f"{source}: {n}") for n in _NUMBERS)
    done = validation.as_flags(raw["done"], f"{source}: done")
    truncated = validation.as_flags(raw["truncated"], f"{source}: truncated") if "truncated" in raw else None
    rows = columns.Columns(obs, action, reward, next_obs, done, source, _NAMES)
    ends, index = _episode_ends(raw.get("index"), truncated, rows)
    starts = np.flatnonzero(np.concatenate([[True], ends[:-1]]))
    env_id, kwargs, unknown, neorl2_id = _environment(env_id, obs, action, starts, source)
    limit = max_episode_steps or (MAX_EPISODE_STEPS if kwargs else None)
    if truncated is None and limit is None:
        wanted = f"the step limit of {env_id or 'its environment'} is unknown; give it, as in "
        wanted = f"{unknown}; {wanted}" if unknown else wanted
        raise InputError(f"{source}: {wanted}--max_episode_steps=1000")
    columns.check_lengths(ends, limit, source)
    splits, continued = columns.find_breaks(rows, ends)
    if truncated is None:
        assert limit is not None
        at_limit, doubtful = _time_limits(ends, splits, limit)
    else:
        columns.refuse_shifted(rows, truncated, splits, continued)
        is_gyms = done[truncated].all()  # Gym's done is set at time limits too
        at_limit, doubtful = truncated & is_gyms, np.zeros_like(done)
    ends[list(splits)] = True
    terminated = done & ~at_limit & ~doubtful
    cut_off = (ends & ~terminated) | (False if truncated is None else truncated)
    known = {"env_id": env_id, "imported_from": Path(source).name, "env_kwargs": kwargs}
    metadata = {name: value for name, value in known.items() if value}
    one = np.ones(action.shape[1], np.float32)
    space = (-one, one) if neorl2_id else None
    data = EpisodeData(obs, action, reward, next_obs, terminated, cut_off, source, metadata, space)
    report = Report(
        data=data,
        env_id=env_id,
        no_environment=unknown,
        neorl2_id=neorl2_id,
        index=index,
        has_truncated=truncated is not None,
        max_episode_steps=limit,
        done_at_limit=int((done & at_limit).sum()),
        splits=splits,
        continued=continued,
        last_row_open=index is None and truncated is not None and not (done[-1] or truncated[-1]),
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
        cuts = [name for name in _CUTS if name in names]
        if missing or not cuts:
            raise InputError(
                f"{source}: {missing[0] if missing else ' or '.join(_CUTS)} is missing; a NeoRL file holds "
                f"{', '.join(_REQUIRED)}, and index or truncated"
            )
        with np.load(path, allow_pickle=False) as archive:
            raw: dict[str, np.ndarray] = {name: archive[name] for name in (*_REQUIRED, *cuts)}
        strange = [name for name, array in raw.items() if not isinstance(array, np.ndarray)]
        if strange:  # np.load gives what is no npy file as bytes
            raise ValueError(f"{strange[0]} is no array")
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of NumPy; of memory, a size may ask for any
        raise containers.unreadable(path, source, "npz", error) from error
    num_rows = len(raw["obs"]) if raw["obs"].ndim else 0
    for name in raw:
        if name == "index":
            continue
        if name not in _NUMBERS[:3] and raw[name].shape[1:] == (1,):
            raw[name] = raw[name][:, 0]
        columns.check_shape(raw[name].shape, 1 + (name in _NUMBERS[:3]), num_rows, f"{source}: {name}", "obs")
    if raw["next_obs"].shape != raw["obs"].shape:
        raise InputError(
            f"{source}: next_obs has {raw['next_obs'].shape[1]} dimensions; obs have {raw['obs'].shape[1]}"
        )
    return raw


def _episode_ends(
    index: np.ndarray | None, truncated: np.ndarray | None, rows: columns.Columns
) -> tuple[np.ndarray, str | None]:
    """Which rows [N] are said to be the last of an episode, and what index holds, where there is one."""
    if index is None:
        assert truncated is not None
        ends = rows.terminals | truncated
        ends[-1] = True
        return ends, None
    ends, leading_zero = _ends(index, len(rows.obs), rows.source)
    for name, flags in (("done", rows.terminals), ("truncated", truncated)):
        loose = np.flatnonzero(flags & ~ends) if flags is not None else np.zeros(0)
        if loose.size:
            t = int(loose[0])
            raise InputError(
                f"{rows.source}: episode {int(ends[:t].sum())}: {name}[{t}] is set in mid-episode, where "
                f"index ends no episode ({loose.size} such in all); only an episode's last row may be {name}"
            )
    _refuse_continued_cuts(rows, ends)
    if leading_zero:
        return ends, "index begins with 0: the first rows of episodes, as NeoRL's get_dataset returns it"
    return ends, "index does not begin with 0: the rows behind episodes' last, as NeoRL's files hold it"


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


def _refuse_continued_cuts(rows: columns.Columns, ends: np.ndarray) -> None:
    assert rows.next_obs is not None
    wrong = np.flatnonzero(validation.follows(rows.obs, rows.next_obs) & ends[:-1])
    if wrong.size:
        t = int(wrong[0])
        raise InputError(
            f"{rows.source}: index cuts at row {t + 1}, but obs[{t + 1}] goes on from next_obs[{t}] "
            f"({wrong.size} such in all); must hold the first rows of episodes"
        )


def _time_limits(ends: np.ndarray, splits: tuple[int, ...], limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Last rows [N] of trajectories as long as the limit, and of those that lack rows."""
    last = np.flatnonzero(ends)
    at_limit, doubtful = np.zeros_like(ends), np.zeros_like(ends)
    at_limit[last[np.diff(last, prepend=-1) == limit]] = True
    doubtful[last[np.searchsorted(last, np.asarray(splits, np.int64))]] = True
    return at_limit, doubtful


def _environment(
    env_id: str | None, obs: np.ndarray, action: np.ndarray, starts: np.ndarray, source: str
) -> tuple[str | None, dict[str, Any], str, str | None]:
    """Gymnasium id and arguments of the file's environment, why it has none, and NeoRL2's id of it."""
    first = re.split(r"[^a-z0-9]", Path(source).stem.lower())[0]  # of Hopper-v3-low-1000-train-noise
    name = next((name for name in (*_ENVIRONMENTS, *_NEORL2) if name.lower() == first), None)
    if env_id is not None:
        given, kwargs = _given_environment(env_id, (obs.shape[1], action.shape[1]), source)
        is_neorl2 = given == name and name in _NEORL2 and not _disagreement(name, obs, action, starts)
        return given, kwargs, "", given if is_neorl2 else None
    if name is None:
        names = f"NeoRL's {', '.join(_ENVIRONMENTS)} or one of NeoRL2's environments"
        return None, {}, f"the file is not named after {names}", None
    wrong = _disagreement(name, obs, action, starts)
    if wrong:
        return None, {}, f"the file is named after {name}, {wrong}", None
    if name in _NEORL2:
        return None, {}, f"NeoRL2's {name} comes with the package neorl2", name
    return f"{name}-v4", _KWARGS, "", None


def _given_environment(env_id: str, dims: tuple[int, int], source: str) -> tuple[str, dict[str, Any]]:
    """The Gymnasium id and arguments that stand for a given one, of data with ``dims`` (D, A)."""
    name, _, version = env_id.rpartition("-v")
    if name not in _ENVIRONMENTS:
        return env_id, {}
    if dims != _ENVIRONMENTS[name][:2]:
        raise InputError(
            f"{source}: obs has {dims[0]} and action {dims[1]} dimensions; NeoRL's {name}, with the x "
            f"position, has {_ENVIRONMENTS[name][0]} and {_ENVIRONMENTS[name][1]}"
        )
    return f"{name}-v{4 if version in ('2', '3') else version}", _KWARGS


def _disagreement(name: str, obs: np.ndarray, action: np.ndarray, starts: np.ndarray) -> str:
    """What of the data the environment that their file is named after cannot have had; empty if nothing."""
    obs_dim, action_dim, *heights = _NEORL2.get(name) or _ENVIRONMENTS[name]
    if (obs.shape[1], action.shape[1]) != (obs_dim, action_dim):
        whose = "NeoRL2" if name in _NEORL2 else "NeoRL"
        return (
            f"but obs has {obs.shape[1]} and action {action.shape[1]} dimensions, where {whose}'s {name} has "
            f"{obs_dim} and {action_dim}"
        )
    start, largest = float(np.median(obs[starts, 1])), float(np.abs(action).max())
    if heights and not abs(start - heights[0]) < _HEIGHT_RANGE:
        return f"but episodes start at obs[1] = {start:.3g}, where {name} is at {heights[0]:g}"
    if not largest <= 1 + validation.ACTION_TOLERANCE:
        return f"whose actions lie within +-1, not +-{largest:.3g}"
    return ""
