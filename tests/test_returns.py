"""Lambda-returns, computed and drawn, against their recursion in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.returns import lambda_returns, sample_lambda_returns
from adm_jax.types import Transition

STEPS, ROWS, GAMMA = 6, 3, 0.9


@pytest.fixture(scope="module")
def steps():
    """Row 0 runs through, row 1 terminates in its fourth step, row 2 is cut after its second."""
    rng = np.random.default_rng(0)
    next_obs = rng.normal(size=(STEPS, ROWS, 2)).astype(np.float32)
    terminated = np.zeros((STEPS, ROWS), bool)
    terminated[3, 1] = True
    continues = np.ones((STEPS, ROWS), bool)
    continues[-1] = False
    continues[3, 1] = continues[1, 2] = False
    transitions = Transition(
        obs=jnp.zeros((STEPS, ROWS, 2)),
        action=jnp.zeros((STEPS, ROWS, 1)),
        reward=jnp.asarray(rng.normal(size=(STEPS, ROWS)), jnp.float32),
        next_obs=jnp.asarray(next_obs),
        terminated=jnp.asarray(terminated),
    )
    return transitions, jnp.asarray(continues)


def value(next_obs):
    """Any function of the state does for V."""
    return np.sin(next_obs[..., 0]) + 2.0 * next_obs[..., 1]


def targets(drawn):
    alive = ~np.asarray(drawn.terminated)
    return np.float64(drawn.reward) + np.float64(drawn.discount) * alive * value(np.asarray(drawn.next_obs))


def recursion(transitions, continues, trace_decay):
    bootstrap = ~np.asarray(transitions.terminated) * value(np.asarray(transitions.next_obs))
    returns = np.zeros((STEPS, ROWS))
    for t in reversed(range(STEPS)):
        ahead = bootstrap[t].copy()
        goes_on = np.asarray(continues)[t]
        if t + 1 < STEPS:
            mixed = (1 - trace_decay) * bootstrap[t] + trace_decay * returns[t + 1]
            ahead = np.where(goes_on, mixed, ahead)
        returns[t] = np.asarray(transitions.reward)[t] + GAMMA * ahead
    return returns


@pytest.mark.parametrize("trace_decay", [0.0, 0.5, 1.0])
def test_lambda_returns_equal_the_recursion(steps, trace_decay):
    transitions, continues = steps
    # the rows behind each other, as a dataset has its episodes
    flat = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), (transitions, continues))
    rows, goes_on = flat
    found = lambda_returns(rows.reward, value(rows.next_obs), rows.terminated, goes_on, GAMMA, trace_decay)
    expected = recursion(transitions, continues, trace_decay)
    np.testing.assert_allclose(found.reshape(ROWS, STEPS).T, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("trace_decay", [0.5, 0.9])
def test_mean_over_draws_is_the_lambda_return(steps, trace_decay):
    transitions, continues = steps
    draw = jax.jit(
        jax.vmap(lambda key: sample_lambda_returns(transitions, continues, key, GAMMA, trace_decay))
    )
    drawn = targets(draw(jax.random.split(jax.random.key(0), 20_000)))
    error = drawn.std(axis=0) / np.sqrt(20_000) + 1e-5
    difference = np.abs(drawn.mean(axis=0) - recursion(transitions, continues, trace_decay))
    assert (difference < 4.5 * error).all()


def test_with_zero_each_step_is_its_own(steps):
    transitions, continues = steps
    drawn = sample_lambda_returns(transitions, continues, jax.random.key(1), GAMMA, 0.0)
    for name in ("reward", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(drawn, name), getattr(transitions, name))
    np.testing.assert_allclose(drawn.discount, GAMMA)


def test_with_one_every_return_goes_to_the_episode_s_end(steps):
    transitions, continues = steps
    drawn = sample_lambda_returns(transitions, continues, jax.random.key(1), GAMMA, 1.0)
    ends = np.array([[5, 5, 5, 5, 5, 5], [3, 3, 3, 3, 5, 5], [1, 1, 5, 5, 5, 5]]).T
    for t in range(STEPS):
        for row in range(ROWS):
            end = ends[t, row]
            rewards = np.asarray(transitions.reward)[t : end + 1, row]
            np.testing.assert_allclose(
                drawn.reward[t, row], np.sum(rewards * GAMMA ** np.arange(len(rewards))), rtol=1e-5
            )
            np.testing.assert_array_equal(drawn.next_obs[t, row], transitions.next_obs[end, row])
            assert drawn.terminated[t, row] == transitions.terminated[end, row]
            np.testing.assert_allclose(drawn.discount[t, row], GAMMA ** (end - t + 1), rtol=1e-6)
