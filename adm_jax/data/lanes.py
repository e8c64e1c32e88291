"""A dataset that grows: what E environments go through, each in a lane of its own, in order of time.

Arrays are allocated once for T steps of every environment, so that nothing is compiled anew as they fill.
What slices inside episodes need (adm_jax.data.dataset) is worked out on the host whenever a model is fitted.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from adm_jax.data.dataset import Dataset, Index, index_rows, moments
from adm_jax.data.ring_buffer import zeros
from adm_jax.data.value_range import ValueRange, value_range_of
from adm_jax.types import Array, Key, Normalizer, Transition

_BLOCK = 50  # steps that are held out, or not, together


class Lanes(NamedTuple):
    """The first steps of every lane are in use; functions take how many."""

    transitions: Transition  # leaves [E, T, ...]


def abstract_block(shape: tuple[int, ...], obs_dim: int, action_dim: int) -> Transition:
    """Shapes of a block of steps: [E, S, ...], or [P, E, S, ...] that ``add`` is given for every member."""
    return jax.eval_shape(lambda: zeros(shape, obs_dim, action_dim))


def add(lanes: Lanes, block: Transition, start: Array) -> Lanes:
    """Writes a block of steps, leaves [E, S, ...], behind the first ``start`` [] steps."""

    def write(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, new.astype(old.dtype), start, axis=1)

    return Lanes(jax.tree.map(write, lanes.transitions, block))


def draw_rows(num_envs: int, num_steps: Array, key: Key, batch_size: int) -> tuple[Array, Array]:
    """Lanes and rows [batch_size] each, drawn uniformly from the first ``num_steps`` [] of all lanes."""
    index = jax.random.randint(key, (batch_size,), 0, num_envs * num_steps)
    return index // num_steps, index % num_steps


class LaneIndex(NamedTuple):
    """What fitting and rolling out need in addition to the lanes; the shapes stay the same as lanes fill."""

    index: Index
    normalizer: Normalizer
    value_range: ValueRange


def make_index(
    steps: Transition,
    ended: np.ndarray,
    *,
    capacity: int,
    max_backtrack: int,
    holdout_fraction: float,
    split_seed: int,
) -> LaneIndex:
    """Indexes the S steps recorded so far of ``capacity``, on the host; leaves of ``steps`` [E, S, ...].

    ``ended`` [E, S] is whether an episode ended with the step, in whichever way. Blocks of steps are held out
    at random, whether an episode ends in them or not: a block is held out for good or never, so that a model
    whose fit goes on from the one before has not seen what it is judged by.
    """
    num_envs, num_steps = ended.shape
    ends = ended.copy()
    ends[:, -1] = True  # an episode under way goes up to here
    blocks = -(-num_steps // _BLOCK)
    # drawn lane by lane and block by block: what was drawn does not change as lanes grow
    drawn = np.stack([np.random.default_rng((split_seed, lane)).random(blocks) for lane in range(num_envs)])
    held_out = np.repeat(drawn < holdout_fraction, _BLOCK, axis=1)[:, :num_steps]
    index = index_rows(ends.ravel(), held_out.ravel(), max_backtrack)
    rows = (np.arange(num_envs)[:, None] * capacity + np.arange(num_steps)).ravel()
    obs, action = (np.reshape(x, (-1, x.shape[-1])) for x in (steps.obs, steps.action))
    return LaneIndex(
        _spread(index, rows, num_envs * capacity),
        Normalizer(*moments(obs), *moments(action)),
        value_range_of(*(np.asarray(x) for x in (steps.obs, steps.next_obs, steps.reward))),
    )


def _spread(index: Index, rows: np.ndarray, num_rows: int) -> Index:
    """An index of consecutive rows as one of where these lie among ``num_rows``."""

    def place(values: np.ndarray) -> np.ndarray:
        placed = np.zeros(num_rows, np.int32)
        placed[rows] = values
        return placed

    def translate(starts):
        padded = np.zeros(num_rows, np.int32)
        padded[: len(starts.index)] = rows[starts.index]
        return starts._replace(index=padded)

    return Index(
        steps_to_end=place(index.steps_to_end),
        steps_from_start=place(index.steps_from_start),
        train=translate(index.train),
        holdout=translate(index.holdout),
        windows=translate(index.windows),
    )


def as_dataset(lanes: Lanes, index: LaneIndex) -> Dataset:
    """The lanes, one behind the other, as what models are fitted to and rolled out from."""
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), lanes.transitions)
    fields: dict[str, Any] = index.index._asdict()
    return Dataset(flat, **fields, normalizer=index.normalizer, value_range=index.value_range)
