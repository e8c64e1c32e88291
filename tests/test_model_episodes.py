"""Whole episodes in a model against a NumPy loop, from the dataset's initial states."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax import model_episodes
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics.interface import Dynamics
from adm_jax.types import InputError, Prediction
from tests.known_dynamics import DATA, M, X, known_simulation

GAMMAS = (1.0, 0.9)
STARTS = np.arange(0, 40, 10)  # the dataset's episodes have ten steps


def simulate(broken_field=None, horizon=30, chunk=3, low=-1e9, high=1e9):
    simulation = known_simulation(0.0, broken_field)
    dataset = make_dataset(DATA, M)
    bounds = jnp.full((3,), low).at[1:].set(-1e9), jnp.full((3,), high).at[1:].set(1e9)

    @jax.jit
    def run(key):
        return model_episodes.roll_out_episodes(
            simulation,
            dataset,
            jnp.asarray(STARTS),
            key,
            gammas=GAMMAS,
            bounds=bounds,
            horizon=horizon,
            chunk=chunk,
        )

    return jax.device_get(run(jax.random.key(0)))


def numpy_episode(start, horizon, broken_field=None):
    """Returns, rewards and the states x of the episode; no history counts at an initial state."""
    x, rewards, states = float(DATA.obs[start, X]), [], []
    for step in range(horizon):
        if broken_field and x > 1.0:
            break
        action = -0.2 * x + 0.01 * step
        rewards.append(x + action)
        x = 1.3 * x + 0.5 * action
        states.append(x)
        if abs(x) > 2.0:
            break
    discounted = [sum(r * gamma**t for t, r in enumerate(rewards)) for gamma in GAMMAS]
    return discounted, rewards, np.array(states)


@pytest.mark.parametrize("horizon", [4, 30])
@pytest.mark.parametrize("chunk", [1, 3, 4])
@pytest.mark.parametrize("broken_field", [None, "reward"])
def test_returns_equal_a_numpy_loop(horizon, chunk, broken_field):
    episodes = simulate(broken_field, horizon, chunk)
    lengths = []
    for index, start in enumerate(STARTS):
        returns, rewards, states = numpy_episode(start, horizon, broken_field)
        length = len(rewards)
        np.testing.assert_allclose(episodes.returns[index], returns, rtol=1e-4)
        assert episodes.lengths[index] == length
        sums = [sum(rewards[:mark]) for mark in model_episodes.MARKS]
        np.testing.assert_allclose(episodes.after[index], sums, rtol=1e-4)
        ended = length == horizon or abs(states[-1]) > 2.0
        assert episodes.finite[index] == ended
        lengths.append(length)
    assert len(set(lengths)) > 1 or horizon == 4


def test_states_out_of_range_are_told():
    reached = [np.abs(numpy_episode(start, 30)[2]).max() for start in STARTS]
    bound = float(np.mean(sorted(reached)[1:3]))
    episodes = simulate(low=-bound, high=bound)
    np.testing.assert_array_equal(episodes.in_range, np.array(reached) <= bound)
    assert 0 < episodes.in_range.sum() < len(STARTS)


def test_starts_come_once_before_any_comes_again():
    starts = model_episodes.draw_starts(STARTS, 10, seed=0)
    assert sorted(starts[:4]) == sorted(starts[4:8]) == list(STARTS)
    assert len(set(starts[8:])) == 2
    assert list(model_episodes.draw_starts(STARTS, 10, seed=0)) == list(starts)


def test_an_episode_that_goes_on_where_one_was_cut_does_not_begin_at_an_initial_state():
    np.testing.assert_array_equal(model_episodes.episode_starts(DATA), STARTS)
    obs, next_obs = DATA.obs.copy(), DATA.next_obs.copy()
    next_obs[9] = obs[10]
    data = dataclasses.replace(DATA, next_obs=next_obs)
    np.testing.assert_array_equal(model_episodes.episode_starts(data), [0, 20, 30])
    # the same state after a termination is a coincidence
    ended = dataclasses.replace(data, terminated=data.truncated, truncated=data.terminated)
    np.testing.assert_array_equal(model_episodes.episode_starts(ended), STARTS)
    next_obs[[19, 29]] = obs[[20, 30]]
    with pytest.raises(
        InputError, match="has no initial states: each of its 4 episodes but the first goes on"
    ):
        model_episodes.episode_starts(dataclasses.replace(DATA, next_obs=next_obs))


def test_the_range_is_widened_by_half_its_width():
    low, high = model_episodes.widened_range(np.array([[0.0, -1.0], [2.0, 3.0], [1.0, 0.0]]))
    np.testing.assert_array_equal(low, [-0.5, -2])
    np.testing.assert_array_equal(high, [2.5, 4])


def test_the_mean_of_the_units_that_count_is_taken():
    means = jnp.arange(12.0).reshape(3, 2, 2).at[2, 0].set(jnp.nan)  # [U, B, D + 1]
    valid = jnp.array([[True, True], [True, True], [False, True]])

    def step(params, carry, obs, action, key, batch_key):
        return carry, Prediction(obs, obs[:, 0], means, means, valid)

    dynamics = model_episodes.predict_means(Dynamics(*[None] * 5, step, 1))
    _, prediction = dynamics.step({}, None, jnp.zeros((2, 1)), None, None, None)
    np.testing.assert_allclose(prediction.next_obs[:, 0], [(0 + 4) / 2, (2 + 6 + 10) / 3])
    np.testing.assert_allclose(prediction.reward, [(1 + 5) / 2, (3 + 7 + 11) / 3])
    # units that no sample is of do not count: an ensemble's networks behind its elites
    elites = model_episodes.predict_means(dynamics._replace(step=step, num_drawn=2))
    _, prediction = elites.step({}, None, jnp.zeros((2, 1)), None, None, None)
    np.testing.assert_allclose(prediction.next_obs[:, 0], [(0 + 4) / 2, (2 + 6) / 2])
