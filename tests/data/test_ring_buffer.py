"""The ring buffer against a deque that keeps the last C transitions."""

from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.data import ring_buffer
from adm_jax.types import Transition

CAPACITY, OBS_DIM, ACTION_DIM = 11, 2, 3
add = jax.jit(ring_buffer.add)


def make_batch(first, size):
    """Transitions numbered from ``first``; every field tells the number."""
    number = np.arange(first, first + size, dtype=np.float32)
    obs = np.stack([number, -number], axis=-1)
    return Transition(
        obs=jnp.asarray(obs),
        action=jnp.asarray(np.stack([number] * ACTION_DIM, axis=-1) + 0.5),
        reward=jnp.asarray(10 * number),
        next_obs=jnp.asarray(obs + 1),
        terminated=jnp.asarray(number % 3 == 0),
    )


def contents(buffer):
    """The stored numbers, oldest first; checks that every row's fields belong together."""
    size, position = int(buffer.size), int(buffer.position)
    order = (position - size + np.arange(size)) % int(buffer.capacity)
    rows = jax.tree.map(lambda x: np.asarray(x)[order], buffer.data)
    expected = make_batch(0, 1000)
    number = rows.obs[:, 0].astype(int)
    jax.tree.map(lambda a, e: np.testing.assert_array_equal(a, np.asarray(e)[number]), rows, expected)
    return number.tolist()


@pytest.mark.parametrize("share_valid", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("batch_size", [1, 4, CAPACITY])
def test_equals_a_deque(batch_size, share_valid):
    """Through several laps; invalid rows leave no trace."""
    rng = np.random.default_rng(batch_size)
    buffer = ring_buffer.init(CAPACITY, OBS_DIM, ACTION_DIM)
    kept = deque(maxlen=CAPACITY)
    for i in range(20):
        valid = rng.random(batch_size) < share_valid
        numbers = range(i * batch_size, (i + 1) * batch_size)
        kept.extend(n for n, v in zip(numbers, valid, strict=True) if v)
        buffer = add(buffer, make_batch(numbers[0], batch_size), jnp.asarray(valid))
        assert contents(buffer) == list(kept)
        assert int(buffer.size) == len(kept)


def test_all_rows_are_valid_when_nothing_is_said():
    buffer = ring_buffer.init(CAPACITY, OBS_DIM, ACTION_DIM)
    for first in (0, 7):
        buffer = add(buffer, make_batch(first, 7))
    assert contents(buffer) == list(range(3, 14))


def test_a_batch_larger_than_the_buffer_is_refused():
    buffer = ring_buffer.init(CAPACITY, OBS_DIM, ACTION_DIM)
    with pytest.raises(ValueError, match="a batch of 12 rows does not fit into a buffer of 11"):
        add(buffer, make_batch(0, CAPACITY + 1))


def test_a_mask_of_the_wrong_shape_is_refused():
    buffer = ring_buffer.init(CAPACITY, OBS_DIM, ACTION_DIM)
    with pytest.raises(AssertionError):
        add(buffer, make_batch(0, 4), jnp.ones((4, 1), bool))


@pytest.mark.parametrize(("num_added", "stored"), [(3, range(3)), (16, range(5, 16))])
def test_samples_are_uniform_over_what_is_stored(num_added, stored):
    buffer = ring_buffer.init(CAPACITY, OBS_DIM, ACTION_DIM)
    for first in range(num_added):
        buffer = add(buffer, make_batch(first, 1))
    rows = jax.jit(ring_buffer.draw_rows, static_argnums=2)(buffer.size, jax.random.key(0), 110_000)
    batch = jax.tree.map(lambda x: x[rows], buffer.data)
    number = np.asarray(batch.obs)[:, 0].astype(int)
    expected = jax.tree.map(lambda x: np.asarray(x)[number], make_batch(0, num_added))
    jax.tree.map(np.testing.assert_array_equal, batch, expected)
    counts = np.bincount(number, minlength=num_added)[stored]
    assert counts.sum() == 110_000
    # five standard deviations of a bin of at least 10,000
    np.testing.assert_allclose(counts, 110_000 / len(stored), rtol=0.05)


@pytest.mark.parametrize("before", [0, 3, 5, 8, 12])
def test_a_ring_that_may_hold_more_keeps_what_it_has_oldest_first(before):
    """From 5 to 9 of 11 rows, having been filled in part, exactly, or past its end once and twice."""
    buffer = ring_buffer.init(CAPACITY, OBS_DIM, ACTION_DIM)._replace(capacity=jnp.int32(5))
    expected = deque(maxlen=5)
    for first in range(0, before, 4):
        size = min(4, before - first)
        buffer = add(buffer, make_batch(first, size))
        expected.extend(range(first, first + size))
    buffer = jax.jit(ring_buffer.resize)(buffer, jnp.int32(9))
    expected = deque(expected, maxlen=9)
    assert contents(buffer) == list(expected)
    for first in range(before, before + 15, 3):
        buffer = add(buffer, make_batch(first, 3))
        expected.extend(range(first, first + 3))
        assert contents(buffer) == list(expected)
    assert int(buffer.size) == 9
