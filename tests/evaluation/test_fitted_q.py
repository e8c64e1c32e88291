"""Fitted Q evaluation on processes whose values are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.data.dataset import make_dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.evaluation.fitted_q import FQESettings, fitted_q

GAMMA, LENGTH = 0.8, 10


def chain(terminates):
    """s counts the steps, r = a: episodes of ten steps end, or are cut off in a world that goes on."""
    rng = np.random.default_rng(0)
    num_rows = 2_000
    step = np.arange(num_rows) % LENGTH if terminates else rng.integers(0, LENGTH, num_rows)
    last = np.arange(num_rows) % LENGTH == LENGTH - 1
    obs = np.float32(step)[:, None]
    next_obs = obs + 1 if terminates else np.float32(rng.integers(0, LENGTH, (num_rows, 1)))
    action = np.float32(rng.uniform(-1, 1, (num_rows, 1)))
    ends = last, np.zeros_like(last)
    terminated, truncated = ends if terminates else ends[::-1]
    return EpisodeData(obs, action, 30 * action[:, 0], next_obs, terminated, truncated)


def test_the_default_steps_reach_the_value_at_the_usual_discount():
    """0.995 has the longest way: what is left after so many time constants is what the class says."""
    dataset = make_dataset(chain(False), 1)
    settings = FQESettings(0.995, 10_000, 32, 1e-3, 0.1, 16, 1)
    assert settings.time_constants == pytest.approx(5.0)
    assert FQESettings(0.995, 50_000).time_constants == pytest.approx(5.0)

    def policy(obs, key):
        return jnp.full((len(obs), 1), 0.5)

    result = jax.jit(lambda key: fitted_q(policy, dataset, jnp.arange(10), key, settings))(jax.random.key(0))
    np.testing.assert_allclose(result.value, 30 * 0.5 / 0.005, rtol=0.08)


@pytest.mark.parametrize("terminates", [True, False])
@pytest.mark.parametrize("mean_action", [0.5, -0.25])
def test_learns_the_known_value(terminates, mean_action):
    """Of a policy whose actions scatter around a mean: 30 times it, for ten steps, or for ever."""
    dataset = make_dataset(chain(terminates), 1)
    starts = jnp.arange(0, 2_000, LENGTH)

    def policy(obs, key):
        return mean_action + 0.2 * jax.random.normal(key, (len(obs), 1))

    settings = FQESettings(GAMMA, 4_000, 64, 1e-3, 0.02, 32)
    result = jax.jit(lambda key: fitted_q(policy, dataset, starts, key, settings))(jax.random.key(0))
    steps = LENGTH if terminates else np.inf
    expected = 30 * mean_action * (1 - GAMMA**steps) / (1 - GAMMA)
    np.testing.assert_allclose(result.value, expected, rtol=0.08, atol=3.0)
    assert np.isfinite(result.loss)


def test_the_estimate_is_the_target_networks():
    """Where the target stands still the estimate does, however far the network itself has moved."""
    dataset = make_dataset(chain(True), 1)

    def value(num_steps):
        settings = FQESettings(GAMMA, num_steps, 32, 1e-2, 1e-9, 16, 1)
        result = fitted_q(lambda obs, key: 0.0 * obs, dataset, jnp.arange(10), jax.random.key(0), settings)
        return float(result.value)

    assert value(200) == pytest.approx(value(1), rel=1e-4, abs=1e-3)
