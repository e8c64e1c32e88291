"""The replay that datasets are made of: repeatable, complete, and learned from as it should be."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import ReplayConfig, SACConfig
from adm_jax.config.settings import replace_flat
from adm_jax.data import builtin
from adm_jax.envs import environment
from adm_jax.training.collect import collect_replay
from adm_jax.types import InputError

CONFIG = ReplayConfig(
    num_steps=300,
    warmup_steps=200,
    steps_per_iteration=20,
    seed=4,
    eval_episodes=2,
    sac=SACConfig(policy_hidden_dim=16, batch_size=32, auto_entropy=True, entropy_weight=1.0),
)


@pytest.fixture(scope="module")
def collected():
    return collect_replay(CONFIG)


def test_the_same_seed_twice_is_bitwise_equal(collected):
    data, actor_params, info = collected
    again, again_params, again_info = collect_replay(CONFIG)
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


def test_progress_is_told_after_every_block():
    progress = []
    collect_replay(CONFIG, lambda steps, metrics: progress.append((steps, set(metrics))))
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
        collect_replay(ReplayConfig(task="hoper"))


FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


@pytest.fixture(scope="module")
def watched():
    """The same run, its policy evaluated until it reaches a return that any policy reaches."""
    return collect_replay(replace_flat(CONFIG, {"eval_every": 110}), target_return=-1e6)


def test_waiting_for_a_return_changes_nothing_else(collected, watched):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(collected[0], name), getattr(watched[0], name))
    jax.tree.map(np.testing.assert_array_equal, collected[1], watched[1])
    assert watched[2]["eval_returns"] == collected[2]["eval_returns"]
    assert collected[2]["snapshot"] is None


def test_the_snapshot_is_the_first_policy_at_the_return(collected, watched):
    data, actor_params, info = watched
    snapshot = info["snapshot"]
    assert snapshot.num_steps == 200  # the warm-up's end: a multiple of 110 lies behind it
    assert len(snapshot.returns) == CONFIG.eval_episodes
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(snapshot.replay, name), getattr(data, name)[:200])
    assert snapshot.replay.episode_ends[-1] == 199
    short, params, _ = collect_replay(replace_flat(CONFIG, {"num_steps": 200}))
    jax.tree.map(np.testing.assert_array_equal, snapshot.actor_params, jax.device_get(params))
    np.testing.assert_array_equal(short.action, data.action[:200])
    leaves = zip(jax.tree.leaves(snapshot.actor_params), jax.tree.leaves(actor_params), strict=True)
    assert any(not np.array_equal(early, late) for early, late in leaves)


def test_a_return_that_is_not_reached_leaves_no_snapshot():
    config = replace_flat(CONFIG, {"eval_every": 50, "num_steps": 220})
    _, _, info = collect_replay(config, target_return=1e6)
    assert info["snapshot"] is None
    assert np.mean(info["eval_returns"]) <= info["best_return"] < 1e6


def test_several_environments_are_repeatable():
    config = replace_flat(CONFIG, {"num_envs": 4})
    data, actor_params, _ = collect_replay(config)
    again, again_params, _ = collect_replay(config)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(data, name), getattr(again, name))
    jax.tree.map(np.testing.assert_array_equal, actor_params, again_params)
    assert len(data.reward) == config.num_steps


def test_the_environments_divide_an_iteration():
    with pytest.raises(InputError, match="num_envs: 3 does not divide steps_per_iteration 20"):
        replace_flat(CONFIG, {"num_envs": 3})


def test_the_built_in_dataset_is_what_its_configuration_begins_with():
    """5,000 uniform steps, then the first block that a policy acts in; so the whole run goes on."""
    replay = builtin.unpack(builtin.FILES[builtin.BUILTIN_ID])
    stored = dict(replay.metadata["config"])
    assert stored.pop("actor_lr_schedule") == "none"  # which was a setting of the collection, too
    config = replace_flat(ReplayConfig(), {**stored, "num_steps": 5_050, "eval_episodes": 1})
    data, _, _ = collect_replay(config)
    np.testing.assert_array_equal(data.action[:5_000], replay.action[:5_000])
    # another processor may round otherwise
    np.testing.assert_allclose(data.action, replay.action[:5_050], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(data.next_obs, replay.next_obs[:5_050], rtol=1e-3, atol=1e-3)
