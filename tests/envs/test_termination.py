"""Termination functions against Gymnasium's own ``is_healthy``, state by state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.envs import environment
from adm_jax.envs.termination import TERMINATIONS, get_termination
from adm_jax.types import InputError

NUM_STATES = 100_000
BOUNDS = {"hopper": [0.7, -0.2, 0.2, 100.0, -100.0], "walker2d": [0.8, 2.0, -1.0, 1.0]}


def float32_neighbours(bound):
    """The float32 nearest to a bound and the ones around it."""
    at = np.float32(bound)
    return [np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf))]


def draw_states(rng, name, nq, nv):
    """qpos [N, nq] and qvel [N, nv] that float32 represents: healthy, near and at the bounds, far outside."""
    qpos = rng.uniform(-0.5, 0.5, (NUM_STATES, nq))
    qvel = rng.uniform(-10.0, 10.0, (NUM_STATES, nv))
    qpos[:, 1] = rng.choice([0.7, 0.8, 1.25, 2.0], NUM_STATES) + rng.normal(0.0, 0.1, NUM_STATES)
    qpos[:, 2] = rng.choice([-1.0, -0.2, 0.0, 0.0, 0.2, 1.0], NUM_STATES) + rng.normal(0.0, 0.05, NUM_STATES)
    far = rng.random((NUM_STATES, nq)) < 0.03
    qpos[far] = rng.choice([-1.0, 1.0], far.sum()) * 10.0 ** rng.uniform(0.0, 6.0, far.sum())
    joint = rng.random((NUM_STATES, nq)) < 0.03  # around Hopper's bound of 100
    joint[:, 1] = False
    qpos[joint] = rng.choice([-1.0, 1.0], joint.sum()) * rng.uniform(99.0, 101.0, joint.sum())
    edges = [value for bound in BOUNDS[name] for value in float32_neighbours(bound)]
    at_edge = rng.random((NUM_STATES, nq)) < 0.05
    qpos[at_edge] = rng.choice(edges, at_edge.sum())
    return qpos.astype(np.float32), qvel.astype(np.float32)


@pytest.mark.parametrize(("name", "env_id"), [("hopper", "Hopper-v4"), ("walker2d", "Walker2d-v4")])
def test_equals_is_healthy_on_100_000_states(name, env_id):
    env = environment.make_env(env_id)
    env.reset(seed=0)
    real = env.unwrapped
    qpos, qvel = draw_states(np.random.default_rng(0), name, real.model.nq, real.model.nv)
    healthy = np.zeros(NUM_STATES, bool)
    obs = np.zeros((NUM_STATES, *env.observation_space.shape), np.float32)
    for i in range(NUM_STATES):
        # is_healthy and the observation read nothing but these, so no dynamics need be computed
        real.data.qpos[:], real.data.qvel[:] = qpos[i], qvel[i]
        healthy[i] = real.is_healthy
        obs[i] = real._get_obs()
    env.close()
    assert 0.1 < healthy.mean() < 0.9
    np.testing.assert_array_equal(np.asarray(jax.jit(get_termination(name))(obs)), ~healthy)


def test_halfcheetah_never_terminates():
    env = environment.make_env("HalfCheetah-v4")
    env.reset(seed=0)
    real, rng = env.unwrapped, np.random.default_rng(0)
    obs = []
    for scale in (0.1, 1.0, 10.0, 99.0, 150.0, 1000.0):
        real.set_state(rng.normal(0.0, scale, real.model.nq), rng.normal(0.0, scale, real.model.nv))
        next_obs, _, terminated, _, _ = env.step(np.zeros(6, np.float32))
        assert not terminated
        obs.append(next_obs)
    env.close()
    obs = np.asarray(obs, np.float32)
    assert not get_termination("halfcheetah")(obs).any()
    states = np.random.default_rng(1).normal(0.0, 1e4, (NUM_STATES, 17)).astype(np.float32)
    assert not get_termination("halfcheetah")(states).any()


def healthy_obs(name):
    obs = np.zeros(11 if "hopper" in name else 17, np.float32)
    obs[0] = 1.25
    return obs


@pytest.mark.parametrize(
    "name", ["hopper", "walker2d", "halfcheetah", "hopper_authors", "halfcheetah_authors"]
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_state_that_is_not_finite_is_terminated(name, value):
    good = healthy_obs(name)
    assert not get_termination(name)(good)
    broken = np.tile(good, (good.size, 1))
    np.fill_diagonal(broken, value)
    assert get_termination(name)(broken).all()


def test_the_authors_hopper_lets_states_below_minus_100_live():
    below, above = healthy_obs("hopper"), healthy_obs("hopper")
    below[2], above[2] = -150.0, 150.0
    assert get_termination("hopper")(below)
    assert not get_termination("hopper_authors")(below)
    assert get_termination("hopper")(above)
    assert get_termination("hopper_authors")(above)


def test_the_authors_halfcheetah_ends_beyond_100():
    for value in (-150.0, 150.0):
        obs = healthy_obs("halfcheetah")
        obs[8] = value
        assert not get_termination("halfcheetah")(obs)
        assert get_termination("halfcheetah_authors")(obs)


def test_the_authors_walker2d_lets_what_is_not_finite_live():
    obs = healthy_obs("walker2d")
    obs[9] = np.nan
    assert get_termination("walker2d")(obs)
    assert not get_termination("walker2d_authors")(obs)


@pytest.mark.parametrize("name", ["hopper", "walker2d", "halfcheetah"])
def test_parity_options_agree_within_plus_minus_100(name):
    states = (
        np.random.default_rng(2).uniform(-99.0, 99.0, (10_000, healthy_obs(name).size)).astype(np.float32)
    )
    states[:5_000, 0] = 1.25
    states[:5_000, 1] = np.linspace(-0.4, 0.4, 5_000)
    np.testing.assert_array_equal(get_termination(name)(states), get_termination(f"{name}_authors")(states))


@pytest.mark.parametrize("name", TERMINATIONS)
def test_leading_axes_and_dtype(name):
    obs = jnp.asarray(np.tile(healthy_obs(name), (2, 3, 4, 1)))
    terminated = get_termination(name)(obs)
    assert terminated.shape == (2, 3, 4)
    assert terminated.dtype == bool
    assert get_termination(name)(obs[0, 0, 0]).shape == ()


def test_an_unknown_name_is_named():
    with pytest.raises(InputError, match="termination: 'ant' is unknown; one of hopper, walker2d"):
        get_termination("ant")
