"""The range that predictions are held against, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.data import value_range
from adm_jax.data.dataset import make_dataset
from adm_jax.data.value_range import ValueRange, value_range_of
from adm_jax.types import Prediction
from tests.known_dynamics import DATA, M


def test_half_the_width_is_added_on_each_side():
    """And the last states of episodes, which are next observations alone, count."""
    obs = np.array([[0.0, -4.0], [2.0, -2.0], [1.0, -3.0]])
    next_obs = np.array([[2.0, -2.0], [1.0, -3.0], [4.0, -3.0]])
    found = value_range_of(obs, next_obs, np.array([1.0, 3.0, 2.0]))
    for ours, wanted in zip(found, ([-2.0, -5.0], [6.0, -1.0], 0.0, 4.0), strict=True):
        np.testing.assert_array_equal(ours, np.float32(wanted))
        assert ours.dtype == np.float32


def test_leading_axes_make_no_difference():
    rng = np.random.default_rng(0)
    obs, next_obs, reward = rng.normal(size=(3, 7, 2)), rng.normal(size=(3, 7, 2)), rng.normal(size=(3, 7))
    flat = value_range_of(obs.reshape(-1, 2), next_obs.reshape(-1, 2), reward.ravel())
    for ours, wanted in zip(value_range_of(obs, next_obs, reward), flat, strict=True):
        np.testing.assert_array_equal(ours, wanted)


@pytest.mark.parametrize("constant", [0.0, -3.0, 1e6])
def test_what_does_not_vary_counts_as_of_width_one(constant):
    obs = np.full((4, 1), constant, np.float32)
    found = value_range_of(obs, obs, obs[:, 0])
    np.testing.assert_array_equal(found.obs_low, np.float32([constant - 0.5]))
    np.testing.assert_array_equal(found.obs_high, np.float32([constant + 0.5]))
    assert (found.reward_low, found.reward_high) == (constant - 0.5, constant + 0.5)
    # rounding is no prediction out of range, another value is
    near = np.nextafter(obs[:2], np.float32(np.inf))
    inside = value_range.is_within(found, jnp.concatenate([near, obs[:2] + 0.75]))
    np.testing.assert_array_equal(inside, [True, True, False, False])


def test_numbers_as_large_as_float32_has_them_are_no_infinity():
    largest = np.finfo(np.float32).max
    obs = np.array([[-largest], [largest]])
    found = value_range_of(obs, obs, obs[:, 0])
    assert all(np.isfinite(x).all() for x in found)
    assert (found.obs_low, found.obs_high) == (-largest, largest)


def test_a_dataset_has_its_range():
    reach = 2 * np.abs(DATA.obs[:, 0]).max()
    dataset = make_dataset(DATA, M)
    for ours, wanted in zip(
        dataset.value_range, value_range_of(DATA.obs, DATA.next_obs, DATA.reward), strict=True
    ):
        np.testing.assert_array_equal(ours, wanted)
    assert -reach <= dataset.value_range.obs_low[0] < -1
    assert dataset.value_range.obs_low[2] == -0.5  # the clock stands still


BOUNDS = ValueRange(jnp.array([-1.0, 0.0]), jnp.array([1.0, 2.0]), jnp.array(-3.0), jnp.array(0.5))


def predictions(obs, reward) -> Prediction:
    means = jnp.zeros((1, len(obs), 3))
    return Prediction(jnp.array(obs), jnp.array(reward), means, means, jnp.ones((1, len(obs)), bool))


def test_any_dimension_out_of_range_counts_and_the_bounds_do_not():
    obs = [[0.0, 1.0], [-1.0, 2.0], [1.5, 1.0], [0.0, -0.1], [jnp.nan, 1.0], [0.0, jnp.inf]]
    inside = jax.jit(value_range.is_within)(BOUNDS, jnp.array(obs))
    np.testing.assert_array_equal(inside, [True, True, False, False, False, False])
    assert value_range.is_within(None, jnp.array(obs)).all()


def test_clipping_equals_numpy_and_leaves_what_is_not_finite():
    rng = np.random.default_rng(0)
    obs, reward = np.float32(rng.normal(size=(20, 2)) * 3), np.float32(rng.normal(size=20) * 3)
    given = predictions(obs, reward)
    clipped = jax.jit(value_range.clip)(BOUNDS, given)
    np.testing.assert_array_equal(clipped.next_obs, np.clip(obs, [-1, 0], [1, 2]))
    np.testing.assert_array_equal(clipped.reward, np.clip(reward, -3.0, 0.5))
    assert (np.asarray(clipped.next_obs) != obs).any()
    assert (np.asarray(clipped.reward) != reward).any()
    np.testing.assert_array_equal(clipped.means, given.means)  # the uncertainty is the prediction's own
    broken = value_range.clip(BOUNDS, predictions([[jnp.inf, 9.0], [jnp.nan, 1.0]], [-jnp.inf, jnp.nan]))
    np.testing.assert_array_equal(broken.next_obs, [[np.inf, 2.0], [np.nan, 1.0]])
    np.testing.assert_array_equal(broken.reward, [-np.inf, np.nan])
