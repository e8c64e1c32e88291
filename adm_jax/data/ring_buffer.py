"""A ring buffer of transitions as a pure data structure: allocated once, used up to a growing capacity."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from adm_jax.types import Array, Key, Transition


class RingBuffer(NamedTuple):
    """Transitions and where the next one goes."""

    data: Transition  # leaves [C, ...]
    position: Array  # [] int32, the next row to write
    size: Array  # [] int32, rows in use
    capacity: Array  # [] int32, at most C: rows used before the oldest are overwritten


def zeros(shape: tuple[int, ...], obs_dim: int, action_dim: int) -> Transition:
    """Room for transitions, leaves [*shape, ...]."""
    obs, scalar = jnp.zeros((*shape, obs_dim)), jnp.zeros(shape)
    action, flag = jnp.zeros((*shape, action_dim)), jnp.zeros(shape, bool)
    return Transition(obs, action, scalar, jnp.zeros_like(obs), flag)


def init(capacity: int, obs_dim: int, action_dim: int, discounts: bool = False) -> RingBuffer:
    """An empty buffer of ``capacity`` transitions, with discounts of their own or without."""
    data, zero = zeros((capacity,), obs_dim, action_dim), jnp.zeros((), jnp.int32)
    if discounts:
        data = data._replace(discount=jnp.zeros((capacity,)))
    return RingBuffer(data, zero, zero, jnp.asarray(capacity, jnp.int32))


def add(buffer: RingBuffer, batch: Transition, valid: Array | None = None) -> RingBuffer:
    """Appends a batch's rows, leaves [B, ...], that are ``valid`` [B] (None: all), over the oldest."""
    allocated = buffer.data.reward.shape[0]
    num_rows = batch.reward.shape[0]
    if num_rows > allocated:
        raise ValueError(f"a batch of {num_rows} rows does not fit into a buffer of {allocated}")
    valid = jnp.ones((num_rows,), bool) if valid is None else valid
    chex.assert_shape(valid, (num_rows,))
    order = jnp.cumsum(valid, dtype=jnp.int32)
    # an index out of range is dropped by the scatter: that is where invalid rows go
    capacity = buffer.capacity
    index = jnp.where(valid, (buffer.position + order - 1) % capacity, allocated)
    data = jax.tree.map(lambda old, new: old.at[index].set(new, mode="drop"), buffer.data, batch)
    count = order[-1]
    size = jnp.minimum(buffer.size + count, capacity)
    return RingBuffer(data, (buffer.position + count) % capacity, size, capacity)


def draw_rows(size: Array, key: Key, batch_size: int) -> Array:
    """Rows [batch_size] drawn uniformly with replacement from a buffer of which ``size`` [] are in use."""
    return jax.random.randint(key, (batch_size,), 0, jnp.maximum(size, 1))


def resize(buffer: RingBuffer, capacity: Array) -> RingBuffer:
    """Lets a ring use ``capacity`` [] of its C rows from now on, at least as many as are in use.

    The rows are moved so that the oldest is the first: what is added next goes behind the newest.
    """
    allocated = buffer.data.reward.shape[0]
    start = jnp.where(buffer.size < buffer.capacity, 0, buffer.position)
    order = (start + jnp.arange(allocated)) % buffer.capacity
    data = jax.tree.map(lambda leaf: leaf[order], buffer.data)
    return RingBuffer(data, buffer.size % capacity, buffer.size, jnp.asarray(capacity, jnp.int32))
