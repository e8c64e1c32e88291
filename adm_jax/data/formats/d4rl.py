"""Files in D4RL's HDF5 layout, read into episodes.

Rows follow one another in time; ``terminals`` and ``timeouts`` end episodes; ``next_observations`` and
``timeouts`` may be missing. What each file leaves unsaid, and what is done about it:

=================  ==================  =====================================================================
next_observations  timeouts            episodes
=================  ==================  =====================================================================
present            present             end at the flags, and where a row does not lead to the next (a split)
present            missing             end at ``terminals``, and where a row does not lead to the next
missing            present             end at the flags; the last transition of each is dropped
missing            missing             end at ``terminals`` and after ``max_episode_steps``, which must be
                                       given; the last transition of each is dropped
=================  ==================  =====================================================================

A dropped transition is one whose next observation the file does not hold. The one before it becomes the
episode's last and is *truncated*: marking it terminated would move the termination to a state that did not
terminate, and keeping the last one with a made-up next observation would teach that to a dynamics model.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import columns, containers
from adm_jax.types import InputError

_REQUIRED = ("observations", "actions", "rewards", "terminals")
_OPTIONAL = ("next_observations", "timeouts")
_NUMBERS = ("observations", "actions", "rewards", "next_observations")
_LONGEST_SHOWN = 80
_NAMES = columns.Names("observations", "next_observations", "terminals", "timeouts")


@dataclass(frozen=True)
class Report:
    """What reading a file found and did; indices are rows of the file."""

    data: EpisodeData
    env_id: str | None
    num_rows: int
    has_next_observations: bool
    has_timeouts: bool
    splits: tuple[int, ...]  # rows that do not lead to the next, where no flag ends an episode
    continued: tuple[int, ...]  # timeouts after which the next row goes on from the same state
    dropped: int  # last transitions of episodes, next observation unknown
    dropped_terminal: int  # how many of them were terminal
    dropped_episodes: int  # episodes of one such transition only
    last_row_open: bool  # the file ends in mid-episode
    converted: tuple[str, ...]  # "rewards from float64"

    def lines(self) -> list[str]:
        """One line per fact."""
        lines = [columns.what_was_read(self.data, self.num_rows)]
        if self.converted:
            lines.append(f"converted to float32: {', '.join(self.converted)}")
        if self.splits and self.has_timeouts:
            lines.append(
                f"split at {len(self.splits)} rows where next_observations[t] is not observations[t+1], "
                f"truncated there: t = {columns.shown(self.splits)}"
            )
        elif not self.has_timeouts:
            found = (
                "a row does not lead to the next"
                if self.has_next_observations
                else "max_episode_steps is reached"
            )
            lines.append(f"no timeouts in the file: truncated where {found}, {len(self.splits)} times")
        if self.continued:
            lines.append(
                f"{len(self.continued)} timeouts after which the next row goes on from the same state, "
                f"kept as truncations: t = {columns.shown(self.continued)}"
            )
        if self.last_row_open:
            lines.append("the file ends in mid-episode: its last episode is truncated there")
        if self.dropped:
            lines.append(
                f"no next_observations in the file: dropped the last transition of {self.dropped} episodes, "
                f"whose next observation it does not hold"
                + (f" ({self.dropped_episodes} episodes held no other)" if self.dropped_episodes else "")
            )
        if self.dropped_terminal:
            lines.append(
                f"{self.dropped_terminal} of them were terminal: these terminations are lost, "
                f"and their episodes now end truncated, one step earlier"
            )
        return lines


def read(
    path: Path, *, env_id: str | None = None, max_episode_steps: int | None = None
) -> tuple[EpisodeData, Report]:
    """Reads a file in D4RL's layout; the values are checked by ``validation.validate``.

    Without ``env_id`` it is the file's attribute, or none. ``max_episode_steps``, the time limit that ended
    episodes, is needed where the file has neither timeouts nor next observations; where given, no episode may
    be longer. Returns the episodes (``metadata`` holds ``env_id`` and ``imported_from``) and what was done to
    get them. Raises InputError: one line: the file is missing or damaged, lacks an array or holds one of a
    wrong shape; its terminals are set in mid-episode; its timeouts are a row off; its rows are not in order
    of time; an episode is longer than the limit.
    """
    source = str(path)
    rows, timeouts, env_id, converted = _read_file(path, source, env_id)
    if timeouts is None and rows.next_obs is None and not max_episode_steps:
        raise InputError(
            f"{source}: has neither timeouts nor next_observations, so that time limits cannot be told; "
            f"give the limit, as in --max_episode_steps=1000"
        )
    flagged = rows.terminals if timeouts is None else rows.terminals | timeouts
    splits, continued = _find_splits(rows, timeouts, flagged, max_episode_steps)
    ends = flagged.copy()
    ends[list(splits)] = True
    last_row_open = not ends[-1]
    ends[-1] = True
    columns.check_lengths(ends, max_episode_steps, source)
    data, dropped = _episodes(rows, timeouts, ends, env_id)
    report = Report(
        data=data,
        env_id=env_id,
        num_rows=len(rows.obs),
        has_next_observations=rows.next_obs is not None,
        has_timeouts=timeouts is not None,
        splits=splits,
        continued=continued,
        dropped=int(dropped.sum()),
        dropped_terminal=int((dropped & rows.terminals).sum()),
        dropped_episodes=int(dropped.sum()) - len(data.episode_ends) if dropped.any() else 0,
        last_row_open=last_row_open,
        converted=converted,
    )
    return data, report


def _read_file(
    path: Path, source: str, env_id: str | None
) -> tuple[columns.Columns, np.ndarray | None, str | None, tuple[str, ...]]:
    """What the file holds: its arrays, timeouts [N], environment, and which arrays were not float32."""
    if not path.is_file():
        raise InputError(f"{source}: no such file")
    try:
        with h5py.File(path, "r") as file:
            found = {name: _find_array(file, name, source) for name in (*_REQUIRED, *_OPTIONAL)}
            raw = {  # read once all shapes agree: a damaged one may ask for all memory
                name: item
                and containers.read_values(item[0].id, file.id, f"{source}: {name}").reshape(item[1])
                for name, item in found.items()
            }
            env_id = env_id or _read_env_id(file, source)
    except InputError:
        raise
    except Exception as error:  # whatever a damaged file makes of h5py; of memory, a size may ask for any
        raise containers.unreadable(path, source, "HDF5", error) from error
    read: dict[str, Any] = {}  # None where the file lacks it; _find_array refuses that of what is required
    for name, values in raw.items():
        convert = validation.as_float32 if name in _NUMBERS else validation.as_flags
        read[name] = None if values is None else convert(values, f"{source}: {name}")
    obs, action, reward, next_obs = (read[name] for name in _NUMBERS)
    rows = columns.Columns(obs, action, reward, next_obs, read["terminals"], source, _NAMES)
    return rows, read["timeouts"], env_id, columns.converted({name: raw[name] for name in _NUMBERS})


def _read_env_id(file: h5py.File, source: str) -> str | None:
    env_id = file.attrs.get("env_id")
    if env_id is None or (isinstance(env_id, str) and not env_id):
        return None
    try:  # h5py gives what is not UTF-8 as bytes or surrogates, depending on how the attribute was declared
        text = bytes(env_id).decode() if isinstance(env_id, bytes) else env_id.encode().decode()
    except (AttributeError, UnicodeError):
        shown = " ".join(repr(env_id).split())[:_LONGEST_SHOWN]
        raise InputError(
            f"{source}: attribute env_id is no UTF-8 text ({shown}); give the environment, as in "
            f"--env_id=Hopper-v4"
        ) from None
    if ":" in text:  # to Gymnasium a module that it would import
        raise InputError(
            f"{source}: attribute env_id, {text!r}, names a module, which is not imported on a file's word; "
            f"give the environment, as in --env_id=Hopper-v4"
        )
    return text


def _find_array(file: h5py.File, name: str, source: str) -> tuple[h5py.Dataset, tuple[int, ...]] | None:
    """One array of the file, and its shape, of the right rank and row count; None where it may be missing.

    What should be [N] may be a column, [N, 1].
    """
    where = f"{source}: {name}"
    containers.check_link(file.id, name, where)
    item = file.get(name)
    if item is None and name in _OPTIONAL:
        return None
    if not isinstance(item, h5py.Dataset):
        raise InputError(f"{where} is missing; a D4RL file holds {', '.join(_REQUIRED)}")
    first = file["observations"]
    assert isinstance(first, h5py.Dataset)  # it was found before this one
    shape, wanted = (tuple(map(int, x.shape or ())) for x in (item, first))
    rank = 2 if name in ("observations", "actions", "next_observations") else 1
    if rank == 1 and shape[1:] == (1,):
        shape = shape[:1]
    columns.check_shape(shape, rank, wanted[0] if wanted else 0, where, "observations")
    if name == "next_observations" and shape != wanted:
        raise InputError(f"{where} has {shape[1]} dimensions; observations have {wanted[1]}")
    return item, shape


def _find_splits(
    rows: columns.Columns, timeouts: np.ndarray | None, flagged: np.ndarray, max_episode_steps: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Rows [of the file] where an episode ends though no flag says so, and timeouts that end none really."""
    if rows.next_obs is not None:
        splits, continued = columns.find_breaks(rows, flagged)
        if timeouts is not None:
            columns.refuse_shifted(rows, timeouts, splits, continued)
        return splits, continued
    if timeouts is not None:
        _refuse_uneven(rows.terminals, timeouts, rows.source)
        return (), ()
    assert max_episode_steps is not None
    starts = np.flatnonzero(np.concatenate([[True], flagged[:-1]]))
    lengths = np.diff(np.append(starts, len(flagged)))
    age = np.arange(1, len(flagged) + 1) - np.repeat(starts, lengths)
    return tuple(np.flatnonzero((age % max_episode_steps == 0) & ~flagged).tolist()), ()


def _refuse_uneven(terminals: np.ndarray, timeouts: np.ndarray, source: str) -> None:
    """Refuses timeouts that next observations are not there to check, where their distances show a shift.

    Shifted by a row, they leave the episode after a timeout its length, and make the one after a termination
    (or at the file's start) longer or shorter by one.
    """
    ends = np.flatnonzero(terminals | timeouts)
    lengths = np.diff(ends, prepend=-1)
    timed_out = timeouts[ends] & ~terminals[ends]
    after_timeout = np.concatenate([[False], timed_out[:-1]])
    regular = np.unique(lengths[timed_out & after_timeout])
    first = np.unique(lengths[timed_out & ~after_timeout])
    if regular.size == first.size == 1 and abs(first[0] - regular[0]) == 1:
        raise InputError(
            f"{source}: timeouts end episodes of {regular[0]} steps after a timeout, but of {first[0]} after "
            f"a termination or the start; they are one row off, and must be set at the last row of an episode"
        )


def _episodes(
    rows: columns.Columns, timeouts: np.ndarray | None, ends: np.ndarray, env_id: str | None
) -> tuple[EpisodeData, np.ndarray]:
    """Episodes that end at ``ends`` [N], and which rows [N] had to be dropped."""
    terminated, truncated = rows.terminals, ends & ~rows.terminals
    if timeouts is not None:
        truncated = truncated | timeouts
    dropped = np.zeros_like(ends)
    next_obs = rows.next_obs
    if next_obs is None:
        dropped = ends
        next_obs = np.roll(rows.obs, -1, axis=0)  # wrong at the ends, which are dropped
        terminated, truncated = np.zeros_like(ends), np.append(ends[1:], False)
    keep = ~dropped
    if not keep.any():
        raise InputError(
            f"{rows.source}: every episode is one row long, and without next_observations none is left"
        )
    data = EpisodeData(
        obs=rows.obs[keep],
        action=rows.action[keep],
        reward=rows.reward[keep],
        next_obs=next_obs[keep],
        terminated=terminated[keep],
        truncated=truncated[keep],
        source=rows.source,
        metadata={
            **({} if env_id is None else {"env_id": env_id}),
            "imported_from": Path(rows.source).name,
        },
    )
    return data, dropped
