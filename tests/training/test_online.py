"""The online loop: repeatable, complete, and learning from what it should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import OnlineConfig, SACConfig
from adm_jax.envs import environment
from adm_jax.training import online
from adm_jax.types import InputError

CONFIG = OnlineConfig(
    num_steps=300,
    warmup_steps=200,
    steps_per_iteration=20,
    seed=4,
    eval_episodes=2,
    sac=SACConfig(
        policy_hidden_dim=16, batch_size=32, actor_lr_schedule="none", auto_entropy=True, entropy_weight=1.0
    ),
)


@pytest.fixture(scope="module")
def collected():
    return online.collect_replay(CONFIG)


def test_the_same_seed_twice_is_bitwise_equal(collected):
    data, actor_params, info = collected
    again, again_params, again_info = online.collect_replay(CONFIG)
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        np.testing.assert_array_equal(getattr(data, name), getattr(again, name))
    jax.tree.map(np.testing.assert_array_equal, actor_params, again_params)
    assert info == again_info


def test_every_transition_equals_a_replay_of_its_action(collected):
    data, _, _ = collected
    env = environment.make_env("Hopper-v4")
    starts = np.concatenate([[0], data.episode_ends[:-1] + 1])
    for episode, (start, end) in enumerate(zip(starts, data.episode_ends, strict=True)):
        obs, _ = env.reset(seed=environment.reset_seed(CONFIG.seed, episode))
        for i in range(start, end + 1):
            np.testing.assert_array_equal(data.obs[i], obs.astype(np.float32))
            obs, reward, terminated, _, _ = env.step(data.action[i])
            np.testing.assert_array_equal(data.next_obs[i], obs.astype(np.float32))
            assert data.reward[i] == np.float32(reward)
            assert data.terminated[i] == terminated
    env.close()
    assert end == CONFIG.num_steps - 1


def test_warm_up_is_uniform_and_learning_follows_it(collected):
    data, _, info = collected
    rng = np.random.default_rng(CONFIG.seed)
    uniform = np.stack([rng.uniform(-1.0, 1.0, 3).astype(np.float32) for _ in range(CONFIG.warmup_steps)])
    np.testing.assert_array_equal(data.action[: CONFIG.warmup_steps], uniform)
    # the block that completes the warm-up is the first to be followed by updates
    assert {len(values) for values in info["metrics"].values()} == {6}
    assert np.isfinite([*info["metrics"].values()]).all()
    np.testing.assert_allclose(
        info["metrics"]["collect/return"][-1], data.episode_returns[-11:-1].mean(), rtol=1e-5
    )
    assert len(info["eval_returns"]) == CONFIG.eval_episodes
    assert info["eval"]["env_id"] == "Hopper-v4"


def test_the_buffer_holds_the_replay_and_updates_count(monkeypatch):
    seen, updates = [], []
    make_programs = online._make_programs

    def spy(sac, config):
        programs = make_programs(sac, config)

        def update(state, buffer, key):
            seen.append(jax.tree.map(np.asarray, buffer))
            state, metrics = programs.update(state, buffer, key)
            updates.append(int(state.actor_opt.count))
            return state, metrics

        return programs._replace(update=update)

    monkeypatch.setattr(online, "_make_programs", spy)
    progress = []
    data, _, _ = online.collect_replay(CONFIG, lambda steps, metrics: progress.append((steps, set(metrics))))
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(seen[-1].data, name), getattr(data, name))
    assert [int(buffer.size) for buffer in seen] == [200, 220, 240, 260, 280, 300]
    assert updates == [20, 40, 60, 80, 100, 120]
    assert [steps for steps, _ in progress] == list(range(20, 301, 20))
    assert progress[0][1] == set()
    assert "critic/loss" in progress[-1][1]


def test_actions_are_sampled_with_a_key_of_their_own(collected):
    data, _, _ = collected
    acted = data.action[CONFIG.warmup_steps :]
    assert len(np.unique(acted, axis=0)) == len(acted)
    assert jnp.all(jnp.abs(acted) <= 1.0)


def test_an_unknown_task_is_named():
    with pytest.raises(InputError, match="task: 'hoper' is unknown"):
        online.collect_replay(OnlineConfig(task="hoper"))
