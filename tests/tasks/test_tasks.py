"""The registry of tasks: dimensions, terminations and references that are the environments'."""

import gymnasium
import pytest

from adm_jax import tasks
from adm_jax.envs import environment, termination
from adm_jax.tasks import TASKS, get_task
from adm_jax.types import InputError
from tests.tasks.builtin import ANTMAZE, BUILTIN, PEN, settings


def test_the_registry_is_complete():
    assert set(TASKS) == set(BUILTIN)
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize(
    ("name", "dims"),
    [
        ("hopper", (11, 3)),
        ("walker2d", (17, 6)),
        ("halfcheetah", (17, 6)),
        ("neorl-hopper-low", (12, 3)),
        ("neorl-walker2d-medium", (18, 6)),
        ("neorl-halfcheetah-high", (18, 6)),
        ("ant", (27, 8)),
        ("humanoid", (45, 17)),
    ],
)
def test_dimensions_and_termination_are_the_environments(name, dims):
    task = get_task(name)
    assert (task.obs_dim, task.action_dim) == dims
    env = environment.make_env(task.env)
    assert isinstance(env.observation_space, gymnasium.spaces.Box)
    assert env.observation_space.shape == (task.obs_dim,)
    assert env.action_space.shape == (task.action_dim,)
    assert str(environment.action_bounds(task.env)) == ("+-0.4" if name == "humanoid" else "+-1")
    assert task.termination in termination.TERMINATIONS
    env.close()


@pytest.mark.parametrize("name", [*PEN, *ANTMAZE])
def test_robotics_tasks_are_the_environments(name):
    pytest.importorskip("gymnasium_robotics", reason="the extra [robotics] is not installed")
    task = get_task(name)
    env = environment.make_env(task.env)
    assert env.observation_space.shape == (task.obs_dim,)
    assert env.action_space.shape == (task.action_dim,)
    assert environment.step_limit(env) == {"pen": 100, "umaze": 700}.get(
        name.split("-")[0 if "pen" in name else 1], 1000
    )
    env.close()


@pytest.mark.parametrize("name", BUILTIN)
def test_whose_terminations_redefine_the_datas_episodes(name):
    """Minari's data go on behind a drop and a goal; all others terminate as their environments do."""
    assert get_task(name).relabel_terminations == (name in (*PEN, *ANTMAZE))


def test_neorl_keeps_x_and_the_truncated_ones_do_not():
    for name, x_at in (("neorl-hopper-low", 0), ("ant", None), ("humanoid", None)):
        env = environment.make_env(get_task(name).env)
        obs, _ = env.reset(seed=0)
        real = env.unwrapped
        position = real.data.qpos if x_at == 0 else real.data.qpos[2:]
        expected = list(position) + list(real.data.qvel)
        assert obs.tolist() == pytest.approx(expected)
        env.close()


def test_an_unknown_task_or_preset_is_named():
    with pytest.raises(
        InputError, match=r"task: 'hopperr' is unknown \(did you mean hopper\?\); one of hopper, "
    ) as error:
        get_task("hopperr")
    assert "register_task" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="preset: 'mine' is unknown"):
        settings("hopper", preset="mine")


def test_normalized_scores():
    assert get_task("hopper-medium").normalized_score(3234.3) == pytest.approx(100.0)
    assert get_task("walker2d-random").normalized_score(1.629008) == pytest.approx(0.0)
    assert get_task("halfcheetah").normalized_score(5000.0) == pytest.approx(42.530, abs=1e-3)
    assert get_task("neorl-hopper-low").normalized_score(3294.0) == pytest.approx(100.0)
    assert get_task("neorl-walker2d-high").normalized_score(1.0) == pytest.approx(0.0)
    assert get_task("neorl-halfcheetah-medium").normalized_score(12284.0) == pytest.approx(100.0)
    assert get_task("pen-human").normalized_score(96.262799) == pytest.approx(0.0)
    assert get_task("antmaze-large-play").normalized_score(0.5) == pytest.approx(50.0)
    assert get_task("ant").normalized_score(3879.7) == pytest.approx(100.0)
    assert get_task("humanoid").normalized_score(1.0) is None
    unreferenced = tasks.Task("own", "Own-v0", 3, 1, "halfcheetah")
    assert unreferenced.normalized_score(1.0) is None
