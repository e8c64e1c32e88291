"""The shipped dataset is worth learning from, and is what the real environment did."""

import mujoco
import numpy as np
import pytest

from adm_jax.data import builtin
from adm_jax.envs import environment
from adm_jax.tasks import get_task


@pytest.fixture(scope="module")
def replay():
    return builtin.unpack(builtin.FILES[builtin.BUILTIN_ID])


def test_there_is_something_to_learn_and_something_to_beat(replay):
    statistics = replay.return_statistics()
    assert len(replay.reward) >= 50_000
    assert statistics["transition_weighted_return_mean"] >= 500.0
    assert statistics["episode_return_max"] >= 3.0 * statistics["transition_weighted_return_mean"]
    assert builtin.FILES[builtin.BUILTIN_ID].stat().st_size <= 5e6


def test_it_says_how_it_was_made(replay):
    assert replay.metadata["command"].startswith("python -m experiments.collect --task=hopper ")
    assert f"--seed={replay.metadata['seed']} " in replay.metadata["command"]
    assert {"python", "jax", "mujoco", "gymnasium", "adm_jax"} <= set(replay.metadata["versions"])
    assert {name: replay.metadata[name] for name in replay.return_statistics()} == replay.return_statistics()
    task = get_task("hopper-builtin")
    assert (task.dataset, task.env_id) == (builtin.BUILTIN_ID, replay.metadata["env_id"])


def test_the_real_environment_repeats_it(replay):
    made_with = replay.metadata["versions"]["mujoco"]
    if mujoco.__version__ != made_with:
        pytest.skip(f"made with MuJoCo {made_with}; other versions may step differently")
    env = environment.make_env(replay.metadata["env_id"])
    best = int(replay.episode_returns.argmax())
    for episode in (0, 100, best, len(replay.episode_ends) - 1):
        obs, _ = env.reset(seed=environment.reset_seed(replay.metadata["seed"], episode))
        end = replay.episode_ends[episode]
        for i in range(end + 1 - replay.episode_lengths[episode], end + 1):
            # another processor may round otherwise, and an episode amplifies it
            np.testing.assert_allclose(replay.obs[i], obs, rtol=1e-3, atol=1e-3)
            obs, reward, terminated, _, _ = env.step(replay.action[i])
            assert replay.reward[i] == pytest.approx(reward, rel=1e-3, abs=1e-3)
            assert replay.terminated[i] == terminated
    env.close()
