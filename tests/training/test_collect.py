"""What a collection is asked for, and each kind's data against what is said of it."""

import dataclasses

import numpy as np
import pytest

from adm_jax.config import ReplayConfig
from adm_jax.config.collect import KINDS, CollectConfig
from adm_jax.config.settings import replace_flat
from adm_jax.envs import environment
from adm_jax.runs.progress import Progress
from adm_jax.tasks import get_task, register_task
from adm_jax.training import collect
from adm_jax.training.collect import medium_return
from adm_jax.types import ActionBounds, InputError

CONFIG = replace_flat(
    ReplayConfig(),
    {"task": "pendulum", "num_steps": 240, "warmup_steps": 120, "steps_per_iteration": 20, "num_envs": 2,
     "eval_every": 60, "eval_episodes": 2, "batch_size": 16, "policy_hidden_dim": 8, "seed": 7},
)  # fmt: skip
TASK = {"env_id": "InvertedPendulum-v4", "obs_dim": 4, "action_dim": 1, "termination": "halfcheetah"}


@pytest.fixture(scope="module", autouse=True)
def _pendulum():
    register_task(name="pendulum", **TASK)


def run(wanted, config=CONFIG):
    with Progress() as progress:
        return collect.collect(config, wanted, progress)


@pytest.fixture(scope="module")
def collected(_pendulum):
    return run(CollectConfig(KINDS, num_transitions=100, medium_return=0.0))


def test_every_kind_is_there_and_of_its_size(collected):
    assert collected.missing is None
    sizes = {kind: len(data.reward) for kind, data in collected.datasets.items()}
    steps = collected.datasets["replay"].metadata["policy_steps"]
    assert steps in range(120, 241, 20)
    assert sizes == {
        **{"random": 100, "medium": 100, "expert": 100, "medium-expert": 200},
        **{"replay": steps, "full-replay": 240},
    }
    assert list(collected.datasets) == list(KINDS)


@pytest.mark.parametrize("kind", ["random", "medium", "expert", "replay", "full-replay"])
def test_episodes_are_the_environments_from_the_seed_that_is_told(collected, kind):
    data = collected.datasets[kind]
    env = environment.make_env("InvertedPendulum-v4")
    start = 0
    for episode, end in enumerate(data.episode_ends + 1):
        obs, _ = env.reset(seed=environment.reset_seed(data.metadata["seed"], episode))
        for i in range(start, end):
            np.testing.assert_array_equal(data.obs[i], obs.astype(np.float32))
            obs, reward, terminated, _, _ = env.step(data.action[i])
            np.testing.assert_array_equal(data.next_obs[i], obs.astype(np.float32))
            assert (data.reward[i], data.terminated[i]) == (np.float32(reward), terminated)
        start = end
    env.close()


def test_what_is_said_of_a_dataset(collected):
    policies = {kind: data.metadata["policy"] for kind, data in collected.datasets.items()}
    assert policies["random"] == "uniform random"
    assert policies["medium"] == policies["medium-expert"] == "SAC, stochastic (sampled actions)"
    assert policies["replay"] == "SAC, stochastic, while it learns"
    for kind, data in collected.datasets.items():
        metadata = data.metadata
        assert (metadata["kind"], metadata["task"], metadata["num_envs"]) == (kind, "pendulum", 2)
        assert metadata["env_id"] == "InvertedPendulum-v4"
        assert metadata["config"]["seed"] == 7
        # the task has no references of its own, and after 240 steps SAC is no better than chance
        assert np.mean(metadata["random_policy_returns"]) > np.mean(metadata["final_policy_returns"])
        assert not {"references", "ref_min_score", "ref_max_score"} & metadata.keys()
    assert np.mean(collected.datasets["medium"].metadata["policy_returns"]) >= 0.0
    assert len({data.metadata["seed"] for kind, data in collected.datasets.items() if "-" not in kind}) == 4


def test_medium_expert_is_both(collected):
    both = collected.datasets["medium-expert"]
    for name in ("obs", "action", "reward", "next_obs", "terminated", "truncated"):
        halves = [getattr(collected.datasets[kind], name) for kind in ("medium", "expert")]
        np.testing.assert_array_equal(getattr(both, name), np.concatenate(halves))
    seeds = {kind: collected.datasets[kind].metadata["seed"] for kind in ("medium", "expert")}
    assert both.metadata["part_seeds"] == seeds
    assert sum(both.metadata["part_episodes"].values()) == len(both.episode_ends)


def test_the_same_again_is_bitwise_equal(collected):
    again = run(CollectConfig(("expert", "replay", "random"), num_transitions=100, medium_return=0.0))
    for kind, data in again.datasets.items():
        assert data.digests() == collected.datasets[kind].digests()


def test_deterministic_policies_repeat_their_action():
    wanted = CollectConfig(("expert",), num_transitions=60, deterministic=True)
    result = run(wanted)
    data, (actor_params, info) = result.datasets["expert"], result.policies["expert"]
    assert data.metadata["policy"] == "SAC, deterministic (mode actions)"
    assert info["policy_steps"] == 240
    sac = collect.make_sac(4, ActionBounds.symmetric(3.0, 1), CONFIG.sac)
    np.testing.assert_allclose(data.action, sac.mode_action(actor_params, data.obs), rtol=1e-5, atol=1e-6)
    assert "medium" not in result.policies


def test_references_are_measured_where_the_task_has_none(monkeypatch):
    monkeypatch.setattr(collect, "_random_returns", lambda *_: [0.5, 1.0])
    metadata = run(CollectConfig(("expert",), num_transitions=40)).datasets["expert"].metadata
    assert metadata["ref_min_score"] == 0.75
    assert metadata["ref_max_score"] == pytest.approx(np.mean(metadata["final_policy_returns"]))
    assert metadata["references"] == "measured: random_policy_returns and final_policy_returns"


def test_a_medium_that_is_not_reached_is_told_and_the_rest_is_there():
    result = run(CollectConfig(("random", "medium", "replay"), num_transitions=40, medium_return=1e5))
    assert list(result.datasets) == ["random"]
    assert "medium_return: 100000.0 was not reached in 240 steps (best evaluation" in result.missing
    assert "no medium, replay" in result.missing


def test_random_alone_trains_nothing(monkeypatch):
    monkeypatch.setattr(collect, "collect_replay", None)
    result = run(CollectConfig(("random",), num_transitions=40))
    assert not result.policies
    assert "ref_max_score" not in result.datasets["random"].metadata


def test_a_truncated_observation_and_its_references_are_recorded():
    config = dataclasses.replace(CONFIG, task="ant", num_envs=1)
    data = run(CollectConfig(("random",), num_transitions=30), config).datasets["random"]
    assert data.obs.shape == (30, 27)
    assert data.metadata["obs_limit"] == 27
    assert (data.metadata["ref_min_score"], data.metadata["ref_max_score"]) == (-325.6, 3879.7)
    config = dataclasses.replace(CONFIG, task="neorl-hopper-low", num_envs=1)
    data = run(CollectConfig(("random",), num_transitions=30), config).datasets["random"]
    assert data.obs.shape == (30, 12)
    assert data.metadata["env_kwargs"] == {"exclude_current_positions_from_observation": False}


def test_medium_is_a_third_of_the_way_unless_it_is_given():
    hopper, wanted = get_task("hopper"), CollectConfig(("replay",))
    assert medium_return(hopper, wanted) == pytest.approx(-20.272305 + (3234.3 + 20.272305) / 3)
    assert medium_return(hopper, dataclasses.replace(wanted, medium_return=5.0)) == 5.0
    assert medium_return(hopper, CollectConfig(("random", "expert"))) is None
    without = dataclasses.replace(hopper, name="mine", reference_max=None)
    for task in (get_task("humanoid"), get_task("inverted_pendulum"), without):
        told = rf"task {task.name} has no reference scores .*, as in --medium_return=1000$"
        with pytest.raises(InputError, match=told):
            medium_return(task, wanted)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kinds": ("best",)}, "kinds: 'best' is unknown; some of random, medium"),
        ({"kinds": ()}, "kinds: '' is unknown"),
        ({"kinds": ("random", "random")}, "kinds: random,random names a kind twice"),
        ({"num_transitions": 0}, "num_transitions: 0 is out of range; at least 1"),
        ({"medium_return": float("nan")}, "medium_return: nan is out of range; a finite number"),
    ],
)
def test_wrong_wishes_are_refused(values, message):
    with pytest.raises(InputError, match=f"^{message}"):
        CollectConfig(**values)


def test_what_cannot_be_had_is_told_before_anything_runs():
    with pytest.raises(InputError, match="num_envs: 2 does not divide num_transitions 41"):
        run(CollectConfig(("random",), num_transitions=41))
    register_task(name="wrong-pendulum", **{**TASK, "obs_dim": 5})
    with pytest.raises(InputError, match=r"task wrong-pendulum: obs_dim 5 .* are not those of Inverted"):
        run(CollectConfig(("random",)), dataclasses.replace(CONFIG, task="wrong-pendulum"))
