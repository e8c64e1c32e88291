"""The dataset as one set of device arrays, with what is needed to draw slices inside episodes."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.data.episodes import EpisodeData
from adm_jax.data.value_range import ValueRange, value_range_of
from adm_jax.types import Array, InputError, Key, Normalizer, Segment, Transition, Window


class Starts(NamedTuple):
    """Indices where slices may start, deepest first.

    The first ``count[j]`` entries of ``index`` have room for more than ``j`` steps, so a start
    with enough room is one uniform draw.
    """

    index: Array | np.ndarray  # [S] int32
    count: Array | np.ndarray  # [m] int32


class Index(NamedTuple):
    """Where slices may start in N consecutive rows; on the host."""

    steps_to_end: np.ndarray  # the fields of Dataset
    steps_from_start: np.ndarray
    train: Starts
    holdout: Starts
    windows: Starts


class Dataset(NamedTuple):
    """N transitions in the order of their episodes; shared by all members of a population."""

    transitions: Transition  # leaves [N, ...]
    steps_to_end: Array  # [N] int32 >= 1: transitions left up to the episode's (or the held-out part's) edge
    steps_from_start: Array  # [N] int32 >= 0: transitions before this one in its episode
    train: Starts  # of segments, depth = steps_to_end
    holdout: Starts  # of segments, among the held-out transitions
    windows: Starts  # of roll-outs: count[h] states have at least h transitions of history
    normalizer: Normalizer
    value_range: ValueRange


def make_dataset(
    data: EpisodeData,
    max_backtrack: int,
    *,
    holdout: str = "episodes",
    holdout_fraction: float = 0.1,
    holdout_max_size: int = 10_000,
    split_seed: int = 0,
    split_length: int | None = None,
) -> Dataset:
    """Puts episodes on the device and indexes them.

    Segments have up to m steps, windows up to m - 1. ``holdout`` by ``episodes`` takes whole ones chosen at
    random, at least one, ``tail`` the last transitions; ``holdout_fraction`` and ``holdout_max_size`` are
    their share and number at most. Both parts have an episode of ``split_length`` steps (m when None): models
    that differ in m are held out the same episodes where it is the same. Raises InputError: no roll-out
    window or no training segment of m steps is left, or one episode is all there is to split.
    """
    length = max(split_length or 0, max_backtrack)
    held_out = _held_out_mask(data, length, holdout, holdout_fraction, holdout_max_size, split_seed)
    is_end = np.zeros(len(data.reward), bool)
    is_end[data.episode_ends] = True
    index = index_rows(is_end, held_out, max_backtrack)
    for name, part in (("roll-out window", index.windows), ("training segment", index.train)):
        if int(part.count[-1]) == 0:
            longest = int(data.episode_lengths.max())
            raise InputError(
                f"{data.source or 'dataset'}: no {name} of max_backtrack={max_backtrack} steps is left; the "
                f"longest of {len(data.episode_ends)} episodes has {longest} transitions: lower "
                "max_backtrack or bring more episodes"
            )
    transitions = Transition(
        *(jnp.asarray(x) for x in (data.obs, data.action, data.reward, data.next_obs, data.terminated))
    )
    normalizer = Normalizer(*moments(data.obs), *moments(data.action))
    values = value_range_of(data.obs, data.next_obs, data.reward)
    index, values = jax.tree.map(jnp.asarray, (index, values))
    return Dataset(transitions, **index._asdict(), normalizer=normalizer, value_range=values)


def index_rows(is_end: np.ndarray, held_out: np.ndarray, max_backtrack: int) -> Index:
    """Indexes N consecutive rows, on the host: ``is_end`` [N], true of the last one, and ``held_out`` [N]."""
    rows, ends = np.arange(len(is_end)), np.flatnonzero(is_end)
    starts = np.append(0, ends[:-1] + 1)
    steps_from_start = rows - np.repeat(starts, np.diff(np.append(starts, len(is_end))))
    # a segment must not cross from one part into the other: the split's edges end segments too
    edges = np.union1d(ends, np.flatnonzero(held_out[1:] != held_out[:-1]))
    steps_to_end = edges[np.searchsorted(edges, rows)] - rows + 1
    return Index(
        steps_to_end=steps_to_end.astype(np.int32),
        steps_from_start=steps_from_start.astype(np.int32),
        train=_starts(rows[~held_out], steps_to_end[~held_out], max_backtrack),
        holdout=_starts(rows[held_out], steps_to_end[held_out], max_backtrack),
        windows=_starts(rows, steps_from_start + 1, max_backtrack),
    )


def count_short_episodes(data: EpisodeData, max_backtrack: int) -> int:
    """Episodes with no full window: no state in them has m - 1 transitions of history."""
    return int((data.episode_lengths < max_backtrack).sum())


def _held_out_mask(
    data: EpisodeData, min_length: int, how: str, fraction: float, max_size: int, seed: int
) -> np.ndarray:
    num_rows = len(data.reward)
    size = max(1, min(int(fraction * num_rows), max_size))
    if how == "tail":
        return np.arange(num_rows) >= num_rows - size
    lengths = data.episode_lengths
    if len(lengths) < 2:
        raise InputError(
            f"{data.source or 'dataset'}: one episode cannot be split by episodes; use --holdout=tail"
        )
    order = np.random.default_rng(seed).permutation(len(lengths))
    # both parts need an episode long enough for a whole segment: the last such one is trained on, then
    # the first one is held out
    long_enough = order[lengths[order] >= min_length]
    first, last = long_enough[:-1][:1], long_enough[-1:]
    order = np.concatenate([first, order[~np.isin(order, [*first, *last])], last])
    total = np.cumsum(lengths[order])
    num_episodes = min(max(1, int(np.searchsorted(total, size, side="right"))), len(lengths) - 1)
    chosen = np.zeros(len(lengths), bool)
    chosen[order[:num_episodes]] = True
    return np.repeat(chosen, lengths)


def _starts(rows: np.ndarray, depth: np.ndarray, max_depth: int) -> Starts:
    depth = np.minimum(depth, max_depth)
    order = np.argsort(-depth, kind="stable")
    count = [(depth > j).sum() for j in range(max_depth)]
    return Starts(rows[order].astype(np.int32), np.asarray(count, np.int32))


def moments(x: np.ndarray) -> tuple[Array, Array]:
    """Mean and standard deviation [D] of rows [N, D]; 1 for what does not vary."""
    mean, std = x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    return jnp.asarray(mean, jnp.float32), jnp.asarray(np.where(std < 1e-12, 1.0, std), jnp.float32)


def _draw(
    starts: Starts, key: Key, batch_size: int, min_depth: int, bootstrap_key: Key | None = None
) -> Array:
    count = starts.count[min_depth]
    rank = jax.random.randint(key, (batch_size,), 0, count)
    if bootstrap_key is not None:
        # the bootstrap sample's member of a rank is a fixed random function of the rank: no table is needed
        rank = jax.vmap(lambda i: jax.random.randint(jax.random.fold_in(bootstrap_key, i), (), 0, count))(
            rank
        )
    return starts.index[rank]


def sample_segments(
    dataset: Dataset,
    starts: Starts,
    key: Key,
    batch_size: int,
    length: int,
    min_length: int | None = None,
    bootstrap_key: Key | None = None,
) -> Segment:
    """Segments of ``length`` transitions, the first ``min_length`` (None: all) inside the episode.

    They are drawn uniformly from all starts; with a ``bootstrap_key`` from the bootstrap sample of the starts
    (as many, drawn with replacement) which that key stands for.
    """
    min_depth = (length if min_length is None else min_length) - 1
    return gather_segments(dataset, _draw(starts, key, batch_size, min_depth, bootstrap_key), length)


def gather_segments(dataset: Dataset, index: Array, length: int) -> Segment:
    """The segments that start at ``index`` [B]; steps past the episode's end are not valid."""
    chex.assert_rank(index, 1)
    offset = jnp.arange(length)
    valid = offset[None] < dataset.steps_to_end[index][:, None]
    rows = index[:, None] + jnp.where(valid, offset[None], 0)
    data = dataset.transitions
    obs = jnp.concatenate([data.obs[index][:, None], data.next_obs[rows]], axis=1)
    return Segment(obs, data.action[rows], data.reward[rows], valid)


def sample_starts(
    dataset: Dataset, key: Key, batch_size: int, max_backtrack: int, min_history: int | None = None
) -> Array:
    """Rows [B] of the current states that roll-outs start from; ``gather_windows`` has their histories.

    A current state is the observation of a stored transition: it has never terminated. Its history has
    ``min_history`` transitions at least; m - 1, as the authors have it, when None.
    """
    history = max_backtrack - 1 if min_history is None else min_history
    return _draw(dataset.windows, key, batch_size, history)


def gather_windows(dataset: Dataset, index: Array, max_backtrack: int) -> tuple[Window, Array]:
    """The windows that lead to the states at ``index`` [B], and those states [B, D]."""
    chex.assert_rank(index, 1)
    back = jnp.arange(max_backtrack - 1, 0, -1)  # [m - 1], oldest first
    valid = back[None] <= dataset.steps_from_start[index][:, None]
    rows = index[:, None] - jnp.where(valid, back[None], 0)
    data = dataset.transitions
    return Window(data.obs[rows], data.action[rows], valid), data.obs[index]


def sample_transitions(dataset: Dataset, key: Key, batch_size: int) -> Transition:
    """Transitions drawn uniformly with replacement; leaves [batch_size, ...]."""
    return transitions_at(dataset, sample_rows(dataset, key, batch_size))


def sample_rows(dataset: Dataset, key: Key, batch_size: int) -> Array:
    """Rows [batch_size] of transitions, drawn uniformly with replacement."""
    return jax.random.randint(key, (batch_size,), 0, dataset.transitions.reward.shape[0])


def transitions_at(dataset: Dataset, rows: Array) -> Transition:
    """The transitions at ``rows`` [B]; leaves [B, ...]."""
    return jax.tree.map(lambda leaf: leaf[rows], dataset.transitions)
