"""Termination functions against Gymnasium's own ``is_healthy``, state by state."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.envs import environment
from adm_jax.envs.termination import TERMINATIONS, get_termination
from adm_jax.tasks import get_task
from adm_jax.types import InputError

NUM_STATES = 100_000
BOUNDS = {
    "hopper": [0.7, -0.2, 0.2, 100.0, -100.0],
    "walker2d": [0.8, 2.0, -1.0, 1.0],
    "ant": [0.2, 1.0],
    "humanoid": [1.0, 2.0],
}


def float32_neighbours(bound):
    """The float32 nearest to a bound and the ones around it."""
    at = np.float32(bound)
    return [np.nextafter(at, np.float32(-np.inf)), at, np.nextafter(at, np.float32(np.inf))]


def draw_states(rng, name, nq, nv):
    """qpos [N, nq] and qvel [N, nv] that float32 represents: healthy, near and at the bounds, far outside."""
    qpos = rng.uniform(-0.5, 0.5, (NUM_STATES, nq))
    qvel = rng.uniform(-10.0, 10.0, (NUM_STATES, nv))
    heights = rng.choice([0.2, 0.7, 0.8, 1.0, 1.25, 2.0], NUM_STATES) + rng.normal(0.0, 0.1, NUM_STATES)
    angles = rng.choice([-1.0, -0.2, 0.0, 0.0, 0.2, 1.0], NUM_STATES) + rng.normal(0.0, 0.05, NUM_STATES)
    planar = name in ("hopper", "walker2d")  # x, height, angle; the others x, y, height
    qpos[:, 1], qpos[:, 2] = (heights, angles) if planar else (qpos[:, 1], heights)
    far = rng.random((NUM_STATES, nq)) < 0.03
    qpos[far] = rng.choice([-1.0, 1.0], far.sum()) * 10.0 ** rng.uniform(0.0, 6.0, far.sum())
    joint = rng.random((NUM_STATES, nq)) < 0.03  # around Hopper's bound of 100
    joint[:, 1 if planar else 2] = False
    qpos[joint] = rng.choice([-1.0, 1.0], joint.sum()) * rng.uniform(99.0, 101.0, joint.sum())
    edges = [value for bound in BOUNDS[name] for value in float32_neighbours(bound)]
    at_edge = rng.random((NUM_STATES, nq)) < 0.05
    qpos[at_edge] = rng.choice(edges, at_edge.sum())
    return qpos.astype(np.float32), qvel.astype(np.float32)


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("hopper", "hopper"),
        ("walker2d", "walker2d"),
        ("neorl-hopper-low", "hopper"),
        ("neorl-walker2d-high", "walker2d"),
        ("ant", "ant"),
        ("humanoid", "humanoid"),
    ],
)
def test_equals_is_healthy_on_100_000_states(name, like):
    task = get_task(name)
    env = environment.make_env(task.env)
    env.reset(seed=0)
    real = env.unwrapped
    qpos, qvel = draw_states(np.random.default_rng(0), like, real.model.nq, real.model.nv)
    healthy = np.zeros(NUM_STATES, bool)
    obs = np.zeros((NUM_STATES, *env.observation_space.shape), np.float32)
    for i in range(NUM_STATES):
        # is_healthy and the observation read nothing but these, so no dynamics need be computed
        real.data.qpos[:], real.data.qvel[:] = qpos[i], qvel[i]
        healthy[i] = real.is_healthy
        if task.obs_limit is None:
            obs[i] = real._get_obs()
    env.close()
    if task.obs_limit is not None:  # the rest of the observation, contact forces and the like, takes long
        obs = np.concatenate([qpos[:, 2:], qvel], axis=-1)
    assert obs.shape[1] == task.obs_dim
    assert 0.1 < healthy.mean() < 0.9
    terminated = np.asarray(jax.jit(get_termination(task.termination))(obs))
    np.testing.assert_array_equal(terminated, ~healthy)


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


@pytest.mark.parametrize("name", ["ant", "humanoid"])
def test_steps_of_the_truncated_environments_terminate_as_told(name):
    """Real steps, so that the observation's layout counts as well; ~50 episodes of random actions."""
    task = get_task(name)
    env = environment.make_env(task.env)
    rng = np.random.default_rng(0)
    seen, ended = [], []
    env.reset(seed=0)
    for _ in range(1_000):
        action = rng.uniform(env.action_space.low, env.action_space.high).astype(np.float32)
        obs, _, terminated, truncated, _ = env.step(action)
        seen.append(obs)
        ended.append(terminated)
        if terminated or truncated:
            env.reset(seed=len(ended))
    env.close()
    assert name == "ant" or sum(ended) > 20
    np.testing.assert_array_equal(get_termination(name)(np.asarray(seen, np.float32)), ended)


def test_the_pen_ends_where_it_is_dropped():
    obs = np.zeros((4, 45), np.float32)
    obs[:, 26] = [0.0, 0.07499, 0.075001, 0.2]
    assert get_termination("pen")(obs).tolist() == [True, True, False, False]


def test_antmaze_ends_at_its_goal():
    obs = np.full((4, 31), 3.0, np.float32)
    obs[:, 0:2] = [[3.0, 3.0], [3.3, 3.3], [3.3, 3.4], [3.0, -3.0]]
    assert get_termination("antmaze")(obs).tolist() == [True, True, False, False]


def test_antmaze_terminates_as_gymnasium_robotics_does():
    pytest.importorskip("gymnasium_robotics", reason="the extra [robotics] is not installed")
    env = environment.make_env(get_task("antmaze-umaze").env)
    env.reset(seed=0)
    real = env.unwrapped
    rng, ended, seen = np.random.default_rng(0), [], []
    for _ in range(200):
        offset = rng.uniform(-0.5, 0.5, 2)
        qpos = real.ant_env.init_qpos.copy()
        qpos[:2] = real.goal + offset
        real.ant_env.set_state(qpos, real.ant_env.init_qvel)
        obs, _, terminated, _, _ = env.step(np.zeros(8, np.float32))
        seen.append(obs)
        ended.append(terminated)
    env.close()
    assert 20 < sum(ended) < 180
    np.testing.assert_array_equal(get_termination("antmaze")(np.asarray(seen, np.float32)), ended)


DIMS = {"neorl_hopper": 12, "neorl_walker2d": 18, "ant": 27, "humanoid": 45, "pen": 45, "antmaze": 31}


def healthy_obs(name):
    dim = DIMS.get(name.removesuffix("_authors"), 11 if "hopper" in name else 17)
    obs = np.zeros(dim, np.float32)
    obs[0] = 1.0 if name == "ant" else 1.25
    obs[1 if name.startswith("neorl") else 0] = obs[0]
    if name == "pen":
        obs[26] = 0.2
    return obs


@pytest.mark.parametrize("name", [n for n in TERMINATIONS if "walker2d_authors" not in n])
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


def test_the_authors_neorl_walker2d_ends_beyond_100():
    obs = healthy_obs("neorl_walker2d")
    obs[9] = -150.0
    assert not get_termination("neorl_walker2d")(obs)
    assert get_termination("neorl_walker2d_authors")(obs)


@pytest.mark.parametrize("name", ["neorl_hopper", "neorl_walker2d"])
def test_neorl_reads_height_and_angle_one_index_on(name):
    for index, fallen in ((1, 0.5), (2, 1.5)):
        obs = healthy_obs(name)
        obs[0] = -1e6  # x is unbounded
        assert not get_termination(name)(obs)
        obs[index] = fallen
        assert get_termination(name)(obs)


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
    with pytest.raises(InputError, match="termination: 'ants' is unknown; one of hopper, walker2d"):
        get_termination("ants")


@pytest.mark.parametrize(("name", "obs_dim"), [("pen", 3), ("pen", 26), ("hopper", 1), ("neorl_hopper", 2)])
def test_a_rule_that_reads_what_observations_lack_is_refused(name, obs_dim):
    message = f"termination: {name} reads entries that observations of {obs_dim} dimensions lack"
    with pytest.raises(InputError, match=message):
        get_termination(name, obs_dim)
