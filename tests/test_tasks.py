"""Tasks: presets that the configuration accepts, dimensions and references that are the environments'."""

import gymnasium
import pytest

from adm_jax import config, tasks
from adm_jax.envs import environment, termination
from adm_jax.tasks import TASKS, get_task
from adm_jax.types import InputError

D4RL = [f"{env}-{data}" for env in ("hopper", "walker2d", "halfcheetah")
        for data in ("random", "medium", "medium-replay", "medium-expert")]  # fmt: skip


def test_the_registry_is_complete():
    assert set(TASKS) == {"hopper", "walker2d", "halfcheetah", "hopper-builtin", *D4RL}
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_every_setting_is_a_valid_leaf_of_the_configuration(name, preset):
    if preset == "paper" and name not in D4RL:
        with pytest.raises(InputError, match=f"no settings for task {name}; only for hopper-random, "):
            get_task(name).preset(preset)
        return
    settings = get_task(name).preset(preset)
    built = config.replace_flat(config.OfflineConfig(), {**settings, "task": name})
    flat = config.to_flat(built)
    assert {key: flat[key] for key in settings} == settings


@pytest.mark.parametrize("name", ["hopper", "walker2d", "halfcheetah"])
def test_dimensions_and_termination_are_the_environments(name):
    task = get_task(name)
    env = environment.make_env(task.env_id)
    assert isinstance(env.observation_space, gymnasium.spaces.Box)
    assert env.observation_space.shape == (task.obs_dim,)
    assert env.action_space.shape == (task.action_dim,)
    assert environment.action_scale(task.env_id) == 1.0
    assert task.termination in termination.TERMINATIONS
    env.close()


def test_an_unknown_task_or_preset_is_named():
    with pytest.raises(InputError, match="task: 'hopperr' is unknown; one of hopper, walker2d"):
        get_task("hopperr")
    with pytest.raises(InputError, match="preset: 'mine' is unknown"):
        get_task("hopper").preset("mine")


@pytest.mark.parametrize(
    ("name", "m", "length", "penalty", "alpha", "ratio", "epochs"),
    [
        ("hopper-random", 5, 50, 5, 1.0, 0.05, 3000),
        ("halfcheetah-random", 2, 10, 2.5, 0.1, 0.05, 3000),
        ("walker2d-random", 2, 50, 2.5, 1.0, 0.05, 3000),
        ("hopper-medium", 5, 10, 1, 0.05, 0.05, 5000),
        ("halfcheetah-medium", 2, 5, 2.5, 0.1, 0.05, 5000),
        ("walker2d-medium", 5, 10, 5, 0.01, 0.05, 5000),
        ("hopper-medium-replay", 5, 5, 0.1, 0.05, 0.5, 5000),
        ("halfcheetah-medium-replay", 2, 5, 2.5, 0.1, 0.05, 5000),
        ("walker2d-medium-replay", 5, 5, 0.1, 0.1, 0.5, 5000),
        ("hopper-medium-expert", 2, 20, 20, 0.05, 0.5, 5000),
        ("halfcheetah-medium-expert", 2, 20, 9.16, 0.05, 0.5, 5000),
        ("walker2d-medium-expert", 3, 2, 6, 0.011, 0.5, 5000),
    ],
)
def test_published_settings(name, m, length, penalty, alpha, ratio, epochs):
    s = get_task(name).settings
    assert (s["max_backtrack"], s["rollout_length"], s["penalty_coef"]) == (m, length, penalty)
    assert (s["entropy_weight"], s["real_ratio"], s["num_epochs"]) == (alpha, ratio, epochs)
    assert (s["rollout_batch_size"], s["retain_epochs"], s["updates_per_epoch"]) == (50_000, 5, 1000)
    replay_cheetah = name == "halfcheetah-medium-replay"
    assert (s["actor_lr"], s["actor_lr_schedule"]) == ((7e-5, "none") if replay_cheetah else (1e-4, "cosine"))
    assert s["model_hidden_dim"] == (400 if name == "halfcheetah-medium-expert" else 200)
    assert s["uncertainty"] == "std_of_means"


def test_the_paper_states_otherwise():
    paper = get_task("halfcheetah-medium-expert").preset("paper")
    assert (paper["rollout_length"], paper["penalty_coef"]) == (50, 10)
    assert get_task("halfcheetah-medium-replay").preset("paper")["actor_lr"] == 1e-4
    assert all(get_task(name).preset("paper")["uncertainty"] == "total_variance" for name in D4RL)


def test_normalized_scores():
    assert get_task("hopper-medium").normalized_score(3234.3) == pytest.approx(100.0)
    assert get_task("walker2d-random").normalized_score(1.629008) == pytest.approx(0.0)
    assert get_task("halfcheetah").normalized_score(5000.0) == pytest.approx(42.530, abs=1e-3)
    unreferenced = tasks.Task("own", "Own-v0", 3, 1, "halfcheetah")
    assert unreferenced.normalized_score(1.0) is None
