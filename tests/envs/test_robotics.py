"""The robotics environments of D4RL, recorded and recovered for real; pip install 'adm_jax[robotics]'."""

import contextlib
import dataclasses
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from adm_jax.config import config_for_task
from adm_jax.data.formats import minari_files, minari_io
from adm_jax.envs import environment, recovered
from adm_jax.envs.agreement import check_agreement
from adm_jax.envs.experience import Experience
from adm_jax.tasks import get_task
from adm_jax.training.data import load_data
from adm_jax.types import InputError
from tests.envs import recorded

robotics = pytest.importorskip("gymnasium_robotics", reason="gymnasium-robotics is not installed")

DATASETS = {
    "D4RL/pointmaze/umaze-v2": (
        "PointMaze_UMaze-v3",
        (8, 2),
        {"continuing_task": True, "reset_target": False},
    ),
    "D4RL/pointmaze/large-v2": ("PointMaze_Large-v3", (8, 2), {"continuing_task": True}),
    "D4RL/antmaze/umaze-v1": ("AntMaze_UMaze-v4", (31, 8), {}),
    "D4RL/antmaze/medium-diverse-v1": ("AntMaze_Medium_Diverse_GR-v4", (31, 8), {}),
    "D4RL/pen/human-v2": ("AdroitHandPen-v1", (45, 24), {}),
    "D4RL/pen/cloned-v2": ("AdroitHandPen-v1", (45, 24), {}),
    "D4RL/pen/expert-v2": ("AdroitHandPen-v1", (45, 24), {}),
}


NEVER = "no episode terminates in the data, so that none does in the model"
REACH = [  # environment, dimensions, and whether a line says that termination is inferred from the data
    ("PointMaze_UMaze-v3", (8, 2), False),
    ("PointMaze_MediumDense-v3", (8, 2), False),
    ("AdroitHandPen-v1", (45, 24), False),
    ("AdroitHandDoor-v1", (39, 28), False),
    ("AdroitHandHammer-v1", (46, 26), False),
    ("AdroitHandRelocate-v1", (39, 30), False),
    ("FrankaKitchen-v1", (93, 9), True),
    ("FetchReach-v4", (16, 4), True),
    ("FetchPush-v4", (31, 4), True),
    ("FetchSlide-v4", (31, 4), True),
    ("FetchPickAndPlace-v4", (31, 4), True),
    ("HandReach-v3", (93, 20), True),
]


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))


@pytest.mark.parametrize("dataset_id", DATASETS)
def test_the_dataset_and_its_environment_agree(dataset_id):
    env_id, dims, kwargs = DATASETS[dataset_id]
    recorded.record(dataset_id, env_id, eval_steps=120, max_steps=60, **kwargs)
    data = minari_io.load(dataset_id)
    task = recovered.task_from_dataset(data)
    assert (task.obs_dim, task.action_dim) == dims == (data.obs.shape[1], data.action.shape[1])
    assert task.normalized_score(-1.5) == 0.0
    env = environment.make_env(task.env)
    assert environment.step_limit(env) == 120
    if env_id.startswith(("Point", "Ant")):
        assert list(data.metadata["obs_layout"]) == ["achieved_goal", "desired_goal", "observation"]
    recorded.assert_environment_repeats(env, data)
    env.close()


@pytest.mark.parametrize(("env_id", "dims", "inferred"), REACH)
def test_auto_takes_what_a_collector_records_without_a_further_flag(env_id, dims, inferred, caplog):
    recorded.record("tests/reach-v0", env_id, num_episodes=2, max_steps=20)
    task, data = load_data(config_for_task("auto", dataset="tests/reach-v0"))
    assert (task.env_id, task.obs_dim, task.action_dim, task.termination) == (env_id, *dims, "never")
    assert (NEVER in caplog.text) == inferred
    env = environment.make_env(task.env)
    if env.action_space.dtype == np.float32:
        recorded.assert_environment_repeats(env, data)
    else:  # the kitchen's actions: rounded they lead elsewhere by as much
        first = env.reset(seed=0)[0].astype(np.float32)
        assert first.tobytes() == data.obs[0].tobytes()
    env.close()


def test_a_maze_that_ends_at_its_goal_needs_a_termination():
    recorded.record("D4RL/pointmaze/umaze-v2", "PointMaze_UMaze-v3", continuing_task=False)
    data = minari_io.load("D4RL/pointmaze/umaze-v2")
    with pytest.raises(InputError, match="PointMaze_UMaze-v3 with continuing_task=False is not known"):
        recovered.task_from_dataset(data)


def test_a_maze_whose_eval_env_is_mirrored_is_evaluated_as_recorded(caplog):
    """As in Minari#304: the walls of the one stand where the other's ways are."""
    walls = [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]
    mirrored = {"maze_map": [row[::-1] for row in walls]}
    maze = "PointMaze_UMaze-v3"
    recorded.record("tests/maze-v0", maze, eval_steps=40, maze_map=walls, eval_kwargs=mirrored)
    task, data = load_data(config_for_task("auto", dataset="tests/maze-v0"))
    told = "as it was recorded; the dataset's eval_env differs: maze_map; --eval_env=dataset evaluates there"
    assert f"evaluated in {maze} {told}" in caplog.text
    with contextlib.closing(environment.make_env(task.env)) as env:
        assert environment.step_limit(env) == 40
        recorded.assert_environment_repeats(env, data, max_steps=40)
    caplog.clear()
    other, _ = load_data(config_for_task("auto", dataset="tests/maze-v0", eval_env="dataset"))
    assert (
        "not evaluated as recorded: maze_map; max_episode_steps 40 (recorded: 50); episode 0" in caplog.text
    )
    with contextlib.closing(environment.make_env(other.env)) as env:
        assert abs(env.reset(seed=0)[0] - data.obs[0]).max() > 1


def test_the_pen_is_reset_to_the_recorded_state(caplog):
    """Demonstrations begin in states of their own, which are options of the reset."""
    with contextlib.closing(environment.make_env("AdroitHandPen-v1")) as env:
        env.reset(seed=7)
        state: Any = env.unwrapped
        options = {"initial_state_dict": state.get_env_state()}
    recorded.record("D4RL/pen/human-v2", "AdroitHandPen-v1", max_steps=100, options=options)
    _, data = load_data(config_for_task("pen-human"))
    assert "not evaluated as recorded" not in caplog.text
    without = tuple(reset._replace(options=None) for reset in data.resets)
    raw = dataclasses.replace(minari_io.load("D4RL/pen/human-v2"), resets=without)
    with pytest.raises(InputError, match="episode 0, recorded with seed 0, starts at obs"):
        check_agreement(raw, get_task("pen-human").env, "task pen-human")
    check_agreement(raw, get_task("pen-human").env, "task pen-human", is_published=True)
    assert "task pen-human is not evaluated as recorded: episode 0" in caplog.text


@pytest.mark.parametrize("name", ["pen-human", "antmaze-umaze"])
def test_a_dataset_of_a_task_is_used_by_itself_again(name):
    """The pen preset's max_episode_steps is gymnasium.make's, not the environment's own."""
    task = get_task(name)
    experience = Experience(task.env, [0], num_steps=20)
    rng = np.random.default_rng(0)
    for _ in range(20):
        experience.step(experience.random_action([rng]))
    data = experience.episodes()
    experience.close()
    facts = {"env_id": task.env_id, "env_kwargs": task.env_kwargs}
    minari_io.save(dataclasses.replace(data, metadata=facts), "tests/own-v0", env_id=task.env_id)
    derived = recovered.task_from_dataset(minari_io.load("tests/own-v0"), task.termination)
    ours, theirs = environment.make_env(task.env), environment.make_env(derived.env)
    assert environment.step_limit(ours) == environment.step_limit(theirs) == (100 if "pen" in name else 700)
    assert ours.reset(seed=3)[0].tobytes() == theirs.reset(seed=3)[0].tobytes()
    for env in (ours, theirs):
        env.close()


def test_data_of_the_pen_end_at_the_drop():
    """Random actions drop it; the environment, and so the recording, goes on."""
    recorded.record("D4RL/pen/human-v2", "AdroitHandPen-v1", max_steps=100)
    raw = minari_io.load("D4RL/pen/human-v2")
    assert (len(raw.reward), raw.terminated.any()) == (300, False)
    _, data = load_data(config_for_task("pen-human"))
    assert data.terminated.sum() >= 2
    assert len(data.reward) < 300
    assert ((data.next_obs[:, 26] < 0.075) == data.terminated).all()
    assert (data.obs[:, 26] >= 0.075).all()


def test_the_simulator_is_still_the_one_scores_compare_with():
    import mujoco

    assert tuple(map(int, mujoco.__version__.split(".")[:2])) < (3, 5)
    assert np.isfinite(environment.make_env("Hopper-v4").reset(seed=0)[0]).all()


LOOK_UPS = {  # of an id
    "AdroitHandHammer-v1": "minari_write.env_spec(env_id, {}, 'test') is not None",
    "FetchReach-v4": "environment.is_registered(env_id)",
    "FetchPush-v4": "environment.make_env(env_id) is not None",
    "PointMaze_UMaze-v3": "datasets._action_bounds(data)[0][0] == -1",
}


@pytest.mark.parametrize("env_id", LOOK_UPS)
def test_robotics_is_imported_wherever_an_id_is_looked_up(env_id):
    """In a process that has not imported it yet."""
    code = f"""
import logging, sys, types
from adm_jax.api import datasets
from adm_jax.data.formats import minari_write
from adm_jax.envs import environment
assert "gymnasium_robotics" not in sys.modules
env_id = {env_id!r}
data = types.SimpleNamespace(metadata={{"env_id": env_id}})
assert {LOOK_UPS[env_id]}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_id_of_nobody_is_looked_up_in_silence():
    code = "from adm_jax.envs import environment; assert not environment.is_registered('mylab/Swing-v0')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
