"""Files whose rows follow one another in time: what D4RL's and NeoRL's layouts are both read into."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.types import InputError

_NUM_SHOWN = 5


@dataclass(frozen=True)
class Names:
    """What a layout calls its arrays, for messages."""

    obs: str
    next_obs: str
    terminals: str
    timeouts: str


@dataclass(frozen=True)
class Columns:
    """A file's arrays, all of N rows, and what they are called there."""

    obs: np.ndarray  # [N, D] float32
    action: np.ndarray  # [N, A] float32
    reward: np.ndarray  # [N] float32
    next_obs: np.ndarray | None  # [N, D] float32
    terminals: np.ndarray  # [N] bool
    source: str
    names: Names


def shown(indices: tuple[int, ...]) -> str:
    """The first few of many row numbers."""
    return ", ".join(map(str, indices[:_NUM_SHOWN])) + (", ..." if len(indices) > _NUM_SHOWN else "")


def what_was_read(data: EpisodeData, num_rows: int) -> str:
    """A report's first line."""
    env_id = data.metadata.get("env_id") or "no environment"
    return (
        f"read {num_rows} rows of {data.source} ({env_id}): {len(data.obs)} transitions, "
        f"{len(data.episode_ends)} episodes, {data.terminated.sum()} terminated, "
        f"{data.truncated.sum()} truncated"
    )


def converted(arrays: Mapping[str, np.ndarray | None]) -> tuple[str, ...]:
    """Which arrays are not float32 already, as ``"rewards from float64"``; flags and None left out."""
    return tuple(
        f"{name} from {array.dtype}"
        for name, array in arrays.items()
        if array is not None and array.dtype != np.float32
    )


def check_shape(shape: tuple[int, ...], rank: int, num_rows: int, where: str, first: str) -> None:
    """Checks that an array is [N] (``rank`` 1) or [N, dimension] (2), and not empty.

    Raises InputError: one line that begins with ``where``, as "file: rewards", and names the shape and the
    right one; ``first`` is the array that sets N.
    """
    if len(shape) != rank:
        raise InputError(f"{where} has shape {shape}; must be {('[N]', '[N, dimension]')[rank - 1]}")
    if shape[0] != num_rows:
        raise InputError(f"{where} has {shape[0]} rows; must have as many as {first}, {num_rows}")
    if num_rows == 0:
        raise InputError(f"{where.replace(': ', ': empty, ', 1)} holds no row; at least one is needed")


def find_breaks(rows: Columns, ends: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Compares where episodes are said to end, ``ends`` [N], with where rows do not lead to the next.

    Returns rows that do not lead to the next though no end is said to be there, and ends after which the next
    row goes on from the same state. Raises InputError: a terminal row is followed by its own next state, or
    the rows are not in order of time.
    """
    assert rows.next_obs is not None
    source, names = rows.source, rows.names
    follows = validation.follows(rows.obs, rows.next_obs)
    wrong = np.flatnonzero(rows.terminals[:-1] & follows)
    if wrong.size:
        t = int(wrong[0])
        raise InputError(
            f"{source}: episode {int(ends[:t].sum())}: {names.terminals}[{t}] is set in mid-episode: "
            f"{names.obs}[{t + 1}] goes on from {names.next_obs}[{t}] ({wrong.size} such in all); "
            f"the row after a terminal one must be the start of another episode"
        )
    inside = ~ends[:-1]
    splits = np.flatnonzero(inside & ~follows)
    if 2 * splits.size > inside.sum():
        raise InputError(
            f"{source}: {names.next_obs}[t] is not {names.obs}[t+1] at {splits.size} of the {inside.sum()} "
            f"rows inside episodes, first at t = {splits[0]}; rows must be in order of time"
        )
    return tuple(splits.tolist()), tuple(np.flatnonzero(ends[:-1] & follows).tolist())


def refuse_shifted(
    rows: Columns, timeouts: np.ndarray, splits: tuple[int, ...], continued: tuple[int, ...]
) -> None:
    """Refuses timeouts [N] one row off the ends of episodes, if most of them are off to the same side."""
    names = rows.names
    for offset, side in ((1, "after"), (-1, "before")):
        shifted = sorted(set(continued) & {t + offset for t in splits})
        if shifted and 2 * len(shifted) >= timeouts.sum():
            t = shifted[0]
            raise InputError(
                f"{rows.source}: {names.timeouts}[{t}] is set one row {side} an episode's end: "
                f"{names.next_obs}[{t - offset}] is not {names.obs}[{t - offset + 1}] ({len(shifted)} such "
                f"in all); {names.timeouts} must be set at the last row of an episode"
            )


def check_lengths(ends: np.ndarray, max_episode_steps: int | None, source: str) -> None:
    """Raises InputError at the first episode, by ``ends`` [N], that is longer than the step limit."""
    if max_episode_steps is None:
        return
    last = np.flatnonzero(ends)
    lengths = np.diff(last, prepend=-1)
    long = np.flatnonzero(lengths > max_episode_steps)
    if long.size:
        i = int(long[0])
        raise InputError(
            f"{source}: episode {i} has {lengths[i]} steps, ending at row {last[i]} ({long.size} such in "
            f"all); no episode may be longer than max_episode_steps={max_episode_steps}"
        )
