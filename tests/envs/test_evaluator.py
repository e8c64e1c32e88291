"""Evaluation in real MuJoCo against the plain loop anyone would write."""

import gymnasium
import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

from adm_jax.envs import environment
from adm_jax.envs.evaluator import Evaluator
from adm_jax.types import InputError


def linear_policy(num_members, obs_dim, action_dim):
    """A jitted policy [P, E, D] -> [P, E, A], another one for each member."""
    weights = np.random.default_rng(0).normal(0.0, 0.3, (num_members, obs_dim, action_dim)).astype(np.float32)
    # a sum in fixed order: a matrix product may round otherwise for another batch size
    return jax.jit(lambda obs: jnp.tanh((obs[..., None] * weights[:, None]).sum(axis=-2))), weights


def sequential_return(env_id, seed, act):
    """Return and length of one episode in an environment of its own."""
    with pytest.warns(DeprecationWarning, match="is out of date"):
        env = gymnasium.make(env_id)
    obs, _ = env.reset(seed=seed)
    total, length, done = 0.0, 0, False
    while not done:
        obs, reward, terminated, truncated, _ = env.step(act(obs.astype(np.float32)))
        total, length, done = total + float(reward), length + 1, terminated or truncated
    env.close()
    return total, length


@pytest.mark.parametrize(("env_id", "obs_dim", "action_dim", "num_episodes"), [
    ("Hopper-v4", 11, 3, 4), ("Walker2d-v4", 17, 6, 3), ("HalfCheetah-v4", 17, 6, 1),
])  # fmt: skip
def test_equals_a_sequential_loop_bitwise(env_id, obs_dim, action_dim, num_episodes):
    member_seeds = [7, 3]
    policy, _ = linear_policy(2, obs_dim, action_dim)
    evaluator = Evaluator(env_id, member_seeds, num_episodes)
    result = evaluator.evaluate(policy, evaluation=2)
    evaluator.close()
    assert result.returns.shape == (2, num_episodes)
    assert result.returns.dtype == np.float64
    for member, member_seed in enumerate(member_seeds):
        for episode in range(num_episodes):

            def act(obs, member=member):
                return np.asarray(policy(np.broadcast_to(obs, (2, num_episodes, obs_dim))))[member, 0]

            seed = environment.reset_seed(0, 2, member_seed, episode)
            expected = sequential_return(env_id, seed, act)
            assert (result.returns[member, episode], result.lengths[member, episode]) == expected


def test_evaluations_repeat_and_leave_no_trace():
    policy, _ = linear_policy(2, 11, 3)
    evaluator = Evaluator("Hopper-v4", [0, 1], 3)
    first = evaluator.evaluate(policy, 0)
    other = evaluator.evaluate(policy, 1)
    again = evaluator.evaluate(policy, 0)
    np.testing.assert_array_equal(first.returns, again.returns)
    assert not np.intersect1d(first.returns, other.returns).size
    fresh = Evaluator("Hopper-v4", [0, 1], 3, root_seed=1)
    assert not np.intersect1d(first.returns, fresh.evaluate(policy, 0).returns).size


def test_a_member_sees_the_same_starts_alone_and_among_others():
    starts = []

    def record(obs):
        starts.append(obs.copy())
        return np.zeros((*obs.shape[:2], 3), np.float32)

    Evaluator("Hopper-v4", [5, 8, 2], 2).evaluate(record)
    among_others = starts[0]
    starts.clear()
    Evaluator("Hopper-v4", [8], 2).evaluate(record)
    np.testing.assert_array_equal(starts[0][0], among_others[1])
    assert len(np.unique(among_others.reshape(6, -1), axis=0)) == 6


def test_one_policy_call_a_step_and_finished_environments_stand_still():
    batches = []

    def act(obs):
        batches.append(obs)
        return np.zeros((*obs.shape[:2], 3), np.float32)

    result = Evaluator("Hopper-v4", [0, 1], 4).evaluate(act)
    assert len(batches) == result.lengths.max()
    assert result.lengths.min() < result.lengths.max()
    for step, obs in enumerate(batches):
        finished = result.lengths < step
        np.testing.assert_array_equal(obs[finished], batches[step - 1][finished])


def test_the_environments_own_time_limit_ends_an_episode():
    evaluator = Evaluator("HalfCheetah-v4", [0], 2)
    lengths = evaluator.evaluate(lambda obs: np.zeros((1, 2, 6), np.float32)).lengths
    assert evaluator.step_limit == 1000
    np.testing.assert_array_equal(lengths, 1000)


def test_actions_outside_the_bounds_are_clipped():
    returns = [
        Evaluator("Hopper-v4", [0], 2).evaluate(lambda obs, a=a: np.full((1, 2, 3), a, np.float32)).returns
        for a in (1.0, 7.0)
    ]
    np.testing.assert_array_equal(*returns)


def test_an_action_that_is_not_finite_names_the_member():
    calls = []

    def act(obs):
        calls.append(0)
        action = np.zeros((2, 2, 3), np.float32)
        if len(calls) == 4:
            action[1, 0, 2] = np.nan
        return action

    with pytest.raises(
        InputError, match=r"Hopper-v4: the policy of member 1 \(seed 9\) gave .*must be finite"
    ):
        Evaluator("Hopper-v4", [4, 9], 2).evaluate(act)


class _Breaking(gymnasium.Env):
    """Gives what is not finite in the third step, or at once."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, part: str):
        self._part = part

    def reset(self, *, seed=None, options=None):
        self._steps = 0
        return np.full(2, np.nan if self._part == "start" else 0.0, np.float32), {}

    def step(self, action):
        self._steps += 1
        broken = self._steps == 3
        obs = np.array([0.0, np.inf if broken and self._part == "obs" else 0.0], np.float32)
        ends = broken and self._part == "end"
        obs = np.full(2, np.nan, np.float32) if ends else obs
        return obs, np.nan if broken and self._part == "reward" else 1.0, ends, False, {}


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("start", r"after 0 steps .*the return is 0.0 and the observation \[nan nan\]"),
        ("obs", r"after 3 steps .*the return is 3.0 and the observation \[ ?0. inf\]"),
        ("reward", r"after 3 steps .*the return is nan and the observation \[0. 0.\]"),
    ],
)
def test_an_environment_that_is_not_finite_is_told_and_no_policy_blamed(monkeypatch, part, told):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Breaking-v0", _Breaking, max_episode_steps=5, kwargs={"part": part})
    with pytest.raises(InputError, match=rf"^environment Breaking-v0: {told}; must be finite"):
        Evaluator("Breaking-v0", [7], 2).evaluate(lambda obs: np.zeros((1, 2, 1), np.float32))


def test_an_episode_may_end_in_an_observation_that_is_not_finite(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Breaking-v0", _Breaking, max_episode_steps=5, kwargs={"part": "end"})
    seen = []

    def act(obs):
        seen.append(obs)
        return np.zeros((1, 2, 1), np.float32)

    np.testing.assert_array_equal(Evaluator("Breaking-v0", [7], 2).evaluate(act).returns, 3.0)
    assert np.isfinite(seen).all()


def test_wrong_shapes_and_empty_evaluations_are_refused():
    with pytest.raises(ValueError, match=r"actions of shape \(2, 3\), not \(1, 2, 3\)"):
        Evaluator("Hopper-v4", [0], 2).evaluate(lambda obs: np.zeros((2, 3)))
    with pytest.raises(InputError, match="0 members"):
        Evaluator("Hopper-v4", [], 2)
    with pytest.raises(InputError, match="environment Hoper-v4: "):
        Evaluator("Hoper-v4", [0], 2)
    with pytest.raises(InputError, match=r"environment CartPole-v1: actions are Discrete\(2\); only Box"):
        Evaluator("CartPole-v1", [0], 2)


def test_describe_names_environment_and_versions():
    described = Evaluator("Hopper-v4", [0], 5).describe()
    assert described == {
        "env_id": "Hopper-v4",
        "step_limit": 1000,
        "num_episodes": 5,
        "mujoco": mujoco.__version__,
        "gymnasium": gymnasium.__version__,
    }


def test_reset_seeds_are_fixed_and_distinct():
    assert environment.reset_seed(0, 1, 2, 3) == environment.reset_seed(0, 1, 2, 3)
    paths = [(a, b, c) for a in range(20) for b in range(20) for c in range(20)]
    assert len({environment.reset_seed(*path) for path in paths}) == len(paths)
    assert environment.reset_seed(4) != environment.reset_seed(4, 0)


def test_mujocos_warnings_go_to_the_log_not_to_a_file(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    env = environment.make_env("Hopper-v4")
    env.reset(seed=0)
    env.unwrapped.data.qvel[:] = 1e12
    env.step(np.zeros(3, np.float32))
    env.close()
    assert "The simulation is unstable" in caplog.text
    assert not list(tmp_path.iterdir())
