"""Collected transitions are what the environment did."""

import re

import gymnasium
import numpy as np
import pytest

from adm_jax.envs import environment
from adm_jax.envs.experience import Experience, concatenate
from adm_jax.types import EnvSpec, InputError


def collect(env_id, seeds, num_steps, num_envs=1, room=None):
    """Uniformly random actions of every member."""
    seeds = [seeds] if isinstance(seeds, int) else seeds
    experience = Experience(env_id, seeds, room or num_steps, num_envs)
    rngs = [np.random.default_rng(seed) for seed in seeds]
    while experience.num_steps < num_steps:
        experience.step(experience.random_action(rngs))
    return experience


def replay(env_id, seed, data):
    """What a fresh environment does with the recorded actions, episode by episode."""
    env = environment.make_env(env_id)
    bounds = np.concatenate([[0], data.episode_ends + 1])
    for episode in range(len(bounds) - 1):
        obs, _ = env.reset(seed=environment.reset_seed(seed, episode))
        for i in range(bounds[episode], bounds[episode + 1]):
            next_obs, reward, terminated, truncated, _ = env.step(data.action[i])
            yield i, obs, reward, next_obs, terminated, truncated
            obs = next_obs
    env.close()


@pytest.mark.parametrize(("env_id", "num_steps"), [("Hopper-v4", 500), ("HalfCheetah-v4", 1100)])
def test_every_transition_is_what_a_fresh_environment_does(env_id, num_steps):
    data = collect(env_id, 3, num_steps).episodes()
    last = num_steps - 1
    for i, obs, reward, next_obs, terminated, truncated in replay(env_id, 3, data):
        np.testing.assert_array_equal(data.obs[i], obs.astype(np.float32))
        np.testing.assert_array_equal(data.next_obs[i], next_obs.astype(np.float32))
        assert data.reward[i] == np.float32(reward)
        assert data.terminated[i] == terminated
        assert data.truncated[i] == (truncated or (i == last and not terminated))
    assert i == last


def test_time_limit_and_unfinished_episode_are_truncations():
    data = collect("HalfCheetah-v4", 0, 1100).episodes()
    np.testing.assert_array_equal(data.episode_lengths, [1000, 100])
    assert not data.terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(data.truncated), [999, 1099])


def test_returns_are_the_finished_episodes():
    experience = collect("Hopper-v4", 2, 100)
    data = experience.episodes()
    finished = data.episode_returns if data.terminated[-1] else data.episode_returns[:-1]
    np.testing.assert_allclose(experience.returns[0], finished, rtol=1e-5)


def test_latest_gives_the_last_block_in_order():
    experience = collect("Hopper-v4", 1, 60)
    data, block = experience.episodes(), experience.latest(20)._asdict()
    assert block.pop("discount") is None
    for name, rows in block.items():
        np.testing.assert_array_equal(rows[0, 0], getattr(data, name)[40:])


def test_a_collection_stopped_early_gives_what_it_has():
    experience = Experience("Hopper-v4", [0], 100)
    assert experience.episodes().reward.shape == (0,)
    for _ in range(5):
        experience.step(np.zeros((1, 1, 3), np.float32))
    data = experience.episodes()
    assert data.reward.shape == (5,)
    assert data.episode_ends.tolist() == [4]
    experience.step(np.zeros((1, 1, 3), np.float32))
    assert experience.episodes().episode_ends.tolist() == [5]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1.5, -1.01])
def test_an_action_out_of_bounds_is_refused(value):
    experience = Experience("Hopper-v4", [0], 10)
    with pytest.raises(ValueError, match=r"step 0: action .* is not within"):
        experience.step(np.array([[[0.0, value, 0.0]]], np.float32))
    assert experience.num_steps == 0


def test_an_unknown_environment_is_named():
    with pytest.raises(InputError, match="environment Nothing-v9: "):
        Experience("Nothing-v9", [0], 10)


class Asymmetric(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(np.float32([-1.0, 0.0]), np.float32([1.0, 1.0]))


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (
            [-1, -np.inf],
            [1, 1],
            "actions are unbounded (action[1] lies within [-inf, 1.0]); a policy needs a Box",
        ),
        (
            [0, 0],
            [3.4e38, 1],
            "actions are unbounded (action[0] lies within [0.0, 3.4e+38]); a policy needs a Box",
        ),
        ([-1, 0.5], [1, 0.5], "action[1] lies within [0.5, 0.5], which leaves no choice"),
        (
            [0, 1],
            [1, 1 + 1e-9],
            "action[1] lies within [1.0, 1.000000001], which leaves no choice in float32",
        ),
        ([0, 3], [1, 2], "action[1] lies within [3.0, 2.0], which leaves no choice"),
        ([0], [10], "actions are whole numbers, int64; a policy needs float32"),
    ],
)
def test_actions_are_bounded_and_there_is_a_choice(low, high, message, monkeypatch):
    dtype = np.int64 if "whole" in message else np.float64

    class Own(Asymmetric):
        action_space = gymnasium.spaces.Box(
            np.array(low, dtype), np.maximum(low, high).astype(dtype), dtype=dtype
        )

    Own.action_space.high[:] = high  # Gymnasium itself refuses a Box that is made reversed
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Own-v0", Own, max_episode_steps=5)
    with pytest.raises(InputError, match=re.escape(f"environment Own-v0: its {message}")) as error:
        environment.action_bounds("Own-v0")
    assert "\n" not in str(error.value)


def test_an_environment_needs_a_step_limit(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Own-v0", Asymmetric)
    with pytest.raises(InputError, match=r"Own-v0: it has no step limit.*; register it with max_ep"):
        environment.make_env("Own-v0")


def test_only_the_first_entries_of_an_observation_are_kept():
    """The truncated Humanoid: qpos[2:] and qvel, 45 of 376 numbers, and nothing else changes."""
    env, whole = (
        environment.make_env(EnvSpec("Humanoid-v4", obs_limit=45)),
        environment.make_env("Humanoid-v4"),
    )
    assert environment.obs_dim(env) == 45
    np.testing.assert_array_equal(env.reset(seed=0)[0], whole.reset(seed=0)[0][:45])
    data = env.unwrapped.data
    action = np.full(17, 0.1, np.float32)
    (obs, reward, *_), (expected, expected_reward, *_) = env.step(action), whole.step(action)
    np.testing.assert_array_equal(obs, expected[:45])
    np.testing.assert_array_equal(obs, np.concatenate([data.qpos[2:], data.qvel]))
    assert reward == expected_reward


def test_an_environment_made_with_arguments_keeps_x():
    spec = EnvSpec("Hopper-v4", {"exclude_current_positions_from_observation": False})
    env = environment.make_env(spec)
    obs, _ = env.reset(seed=0)
    assert environment.obs_dim(env) == 12
    assert obs[0] == env.unwrapped.data.qpos[0]
    with pytest.raises(InputError, match=r"^environment Hopper-v4: .*no_such_argument"):
        environment.make_env(EnvSpec("Hopper-v4", {"no_such_argument": 1}))
    with pytest.raises(InputError, match=r"^obs_limit: 12 of 11 entries"):
        environment.make_env(EnvSpec("Hopper-v4", obs_limit=12))


FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


def assert_same_data(one, other):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)


def test_every_episode_of_several_environments_is_what_a_fresh_one_does():
    """Episode e of the file is reset with reset_seed(seed, e), whichever environment it was in."""
    envs = collect("Hopper-v4", 3, 600, num_envs=4)
    data = envs.episodes()
    assert len(data.reward) == envs.num_steps == 600
    assert len(data.episode_ends) > 12
    cut = 0
    for i, obs, reward, next_obs, terminated, truncated in replay("Hopper-v4", 3, data):
        np.testing.assert_array_equal(data.obs[i], obs.astype(np.float32))
        np.testing.assert_array_equal(data.next_obs[i], next_obs.astype(np.float32))
        assert data.reward[i] == np.float32(reward)
        assert data.terminated[i] == terminated
        cut += bool(data.truncated[i]) and not truncated
    assert 0 < cut <= 4  # those under way at the end
    finished = np.sort(data.episode_returns[data.terminated[data.episode_ends]])
    np.testing.assert_allclose(np.sort(envs.returns[0]), finished, rtol=1e-5)


def test_the_number_of_environments_counts():
    first, again = (collect("Hopper-v4", 0, 300, num_envs=3).episodes() for _ in range(2))
    assert_same_data(first, again)
    other = collect("Hopper-v4", 0, 300, num_envs=2).episodes()
    assert not np.array_equal(first.action, other.action)


@pytest.mark.parametrize("env_id", ["Hopper-v4", "InvertedPendulum-v4"])  # a batch's, and Gymnasium's
def test_a_member_s_data_do_not_depend_on_the_others(env_id):
    together = collect(env_id, [5, 7, 6], 200, num_envs=2)
    for member, seed in enumerate((5, 7, 6)):
        alone = collect(env_id, seed, 200, num_envs=2)
        assert_same_data(together.episodes(member), alone.episodes())
        assert together.returns[member] == alone.returns[0]


def test_the_latest_rows_are_those_of_the_last_steps():
    envs, seen = Experience("Hopper-v4", [0, 1], 60, 3), []
    rngs = [np.random.default_rng(seed) for seed in range(2)]
    while envs.num_steps < 60:
        obs, action = envs.obs, envs.random_action(rngs)
        assert obs.shape == (2, 3, 11)
        envs.step(action)
        seen.append((obs, action))
    latest = envs.latest(12)
    np.testing.assert_array_equal(latest.obs, np.stack([obs for obs, _ in seen[-4:]], axis=2))
    np.testing.assert_array_equal(latest.action, np.stack([action for _, action in seen[-4:]], axis=2))
    assert envs.ended().shape == (2, 3, 20)


def test_an_episode_that_has_just_begun_is_no_episode_yet():
    envs = Experience("InvertedPendulum-v4", [0], 200, 2)
    while not envs.returns[0]:
        envs.step(np.full((1, 2, 1), 3.0, np.float32))
    data = envs.episodes()
    assert len(data.reward) == envs.num_steps
    assert data.episode_lengths.min() > 0


@pytest.mark.parametrize("env_id", ["Hopper-v4", "InvertedPendulum-v4"])
def test_restored_it_goes_on_as_if_never_stopped(env_id):
    """To the last bit, at any moment: in the middle of episodes, right behind an end, before the first."""
    whole = collect(env_id, [2, 9], 240, num_envs=2)
    just_ended = 2 * int(np.flatnonzero(whole.ended()[1, 0])[0] + 1)
    for stop in (0, 2, 130, just_ended):
        first = Experience(env_id, [2, 9], 240, 2)
        rngs = [np.random.default_rng(seed) for seed in (2, 9)]
        while first.num_steps < stop:
            first.step(first.random_action(rngs))
        second = Experience(env_id, [2, 9], 240, 2)
        second.restore(first.recorded, stop)
        np.testing.assert_array_equal(second.obs, first.obs)
        while second.num_steps < 240:
            second.step(second.random_action(rngs))
        for field, expected in zip(second.recorded, whole.recorded, strict=True):
            np.testing.assert_array_equal(field, expected)
        assert second.returns == whole.returns


def test_a_replay_that_leads_elsewhere_is_refused():
    experience = collect("HalfCheetah-v4", 0, 50, room=100)
    recorded = experience.recorded._replace(action=experience.recorded.action * np.float32(0.5))
    with pytest.raises(InputError, match=r"^environment HalfCheetah-v4: the recorded actions do not lead"):
        Experience("HalfCheetah-v4", [0], 100).restore(recorded, 50)


class Breaking(Asymmetric):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def reset(self, *, seed=None, options=None):
        self._steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self._steps += 1
        return np.zeros(2, np.float32), np.nan if self._steps == 3 else 0.0, False, False, {}


def test_a_number_that_is_not_finite_is_told_with_its_step(monkeypatch):
    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Own-v0", Breaking, max_episode_steps=5)
    message = (
        r"^environment Own-v0: step 2 of seed 7 gave the reward nan and the observation .*must be finite"
    )
    with pytest.raises(InputError, match=message):
        collect("Own-v0", [7, 8], 5)


def test_an_episode_that_does_not_begin_with_numbers_is_refused(monkeypatch):
    class Born(Breaking):
        def reset(self, *, seed=None, options=None):
            return np.full(2, np.nan, np.float32), {}

    monkeypatch.setattr(gymnasium.envs.registration, "registry", dict(gymnasium.registry))
    gymnasium.register("Own-v0", Born, max_episode_steps=5)
    message = r"^environment Own-v0: an episode of seed 7 begins with the observation \[nan nan\]; must be"
    with pytest.raises(InputError, match=message):
        Experience("Own-v0", [7, 8], 5)


def test_joined_datasets_keep_their_episodes():
    first, second = collect("Hopper-v4", 0, 60).episodes(), collect("Hopper-v4", 1, 70).episodes()
    joined = concatenate([first, second])
    np.testing.assert_array_equal(joined.obs, np.concatenate([first.obs, second.obs]))
    assert len(joined.episode_ends) == len(first.episode_ends) + len(second.episode_ends)
    np.testing.assert_array_equal(joined.episode_returns[-len(second.episode_ends) :], second.episode_returns)
