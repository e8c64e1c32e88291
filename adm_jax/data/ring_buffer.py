"""A fixed-capacity ring buffer of transitions as a pure data structure."""

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


def init(capacity: int, obs_dim: int, action_dim: int) -> RingBuffer:
    """An empty buffer of ``capacity`` transitions."""
    data = Transition(
        obs=jnp.zeros((capacity, obs_dim)),
        action=jnp.zeros((capacity, action_dim)),
        reward=jnp.zeros((capacity,)),
        next_obs=jnp.zeros((capacity, obs_dim)),
        terminated=jnp.zeros((capacity,), bool),
    )
    return RingBuffer(data, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))


def add(buffer: RingBuffer, batch: Transition, valid: Array | None = None) -> RingBuffer:
    """Appends the valid rows of a batch of B transitions, oldest rows overwritten first.

    Args:
      buffer: capacity C, at least B.
      batch: leaves [B, ...].
      valid: [B] bool; rows that are False leave no trace. All rows when None.
    """
    capacity = buffer.data.reward.shape[0]
    num_rows = batch.reward.shape[0]
    if num_rows > capacity:
        raise ValueError(f"a batch of {num_rows} rows does not fit into a buffer of {capacity}")
    valid = jnp.ones((num_rows,), bool) if valid is None else valid
    chex.assert_shape(valid, (num_rows,))
    order = jnp.cumsum(valid, dtype=jnp.int32)
    # an index out of range is dropped by the scatter: that is where invalid rows go
    index = jnp.where(valid, (buffer.position + order - 1) % capacity, capacity)
    data = jax.tree.map(lambda old, new: old.at[index].set(new, mode="drop"), buffer.data, batch)
    count = order[-1]
    return RingBuffer(data, (buffer.position + count) % capacity, jnp.minimum(buffer.size + count, capacity))


def sample(buffer: RingBuffer, key: Key, batch_size: int) -> Transition:
    """Rows drawn uniformly with replacement from a buffer that is not empty; leaves [batch_size, ...]."""
    index = jax.random.randint(key, (batch_size,), 0, jnp.maximum(buffer.size, 1))
    return jax.tree.map(lambda leaf: leaf[index], buffer.data)
