"""Minari's own datasets: their observations and environments are the same thing, and make a task."""

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import config_for_task
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_io
from adm_jax.envs import environment, recovered
from adm_jax.envs.termination import get_termination
from adm_jax.tasks import EnvlessTask, register_task, registry
from adm_jax.training.data import load_data
from adm_jax.types import EnvSpec, InputError
from tests.envs import recorded

V5 = {
    "hopper": ("Hopper-v5", 11, 3),
    "halfcheetah": ("HalfCheetah-v5", 17, 6),
    "walker2d": ("Walker2d-v5", 17, 6),
}


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def goals() -> EpisodeData:
    recorded.register()
    recorded.record("tests/goals-v0", recorded.GOAL_ID, eval_steps=400, goal=7.0)
    return minari_io.load("tests/goals-v0")


def changed(data: EpisodeData, **parts) -> EpisodeData:
    """The dataset with other entries in its environment's specification."""
    spec = {**json.loads(data.metadata["env_spec"]), **parts}
    return dataclasses.replace(data, metadata={**data.metadata, "env_spec": json.dumps(spec)})


def line(data: EpisodeData, termination: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        recovered.task_from_dataset(data, termination)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{data.source}: ")
    return str(caught.value).removeprefix(f"{data.source}: ")


def reason(data: EpisodeData) -> str:
    """Why a task of the data has no environment; none can be recovered, in the same words."""
    task = recovered.task_from_dataset(data, "hopper")
    assert isinstance(task, EnvlessTask)
    with pytest.raises(environment.EnvUnavailable) as caught:
        recovered.recover_env(data.metadata, data.source)
    assert str(caught.value) == task.reason
    return task.reason.removeprefix(f"{data.source}: ")


@pytest.mark.parametrize("name", V5)
def test_mujoco_datasets_make_a_task(name):
    env_id, obs_dim, action_dim = V5[name]
    recorded.record(f"mujoco/{name}/medium-v0", env_id, eval_steps=1000)
    data = minari_io.load(f"mujoco/{name}/medium-v0")
    task = recovered.task_from_dataset(data)
    termination = "never" if name == "halfcheetah" else name
    assert (task.name, task.env_id, task.termination) == (f"mujoco/{name}/medium-v0", env_id, termination)
    assert (
        (task.obs_dim, task.action_dim) == (obs_dim, action_dim) == (data.obs.shape[1], data.action.shape[1])
    )
    assert (task.reference_min, task.reference_max) == (-1.5, 250.0)
    assert task.normalized_score(250.0) == 100.0
    env = environment.make_env(task.env)
    assert environment.step_limit(env) == 1000  # the evaluation's, not the recording's
    recorded.assert_environment_repeats(env, data)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "termination"),
    [
        ("InvertedPendulum-v5", {}, "inverted_pendulum"),
        ("Humanoid-v5", {}, "humanoid"),
        ("Ant-v5", {}, "ant"),
        ("Hopper-v5", {"terminate_when_unhealthy": False}, "never"),
    ],
)
def test_what_terminates_versions_of_known_environments_is_known(env_id, kwargs, termination, caplog):
    recorded.record("tests/known-v0", env_id, num_episodes=2, **kwargs)
    data = minari_io.load("tests/known-v0")
    task = recovered.task_from_dataset(data)
    assert task.termination == termination
    assert "no episode terminates" not in caplog.text
    terminal = recovered.terminal_states(data, get_termination(termination, task.obs_dim))
    np.testing.assert_array_equal(terminal, data.terminated)


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "Reacher-v5", "Swimmer-v5", "Pusher-v5"])
def test_where_no_episode_terminates_none_does_in_the_model_and_a_line_says_so(env_id, caplog):
    recorded.record("tests/never-v0", env_id, num_episodes=2)
    task = recovered.task_from_dataset(minari_io.load("tests/never-v0"))
    assert task.termination == "never"
    assert "no episode terminates in the data, so that none does in the model; --termination" in caplog.text
    assert recovered.task_from_dataset(minari_io.load("tests/never-v0"), "ant").termination == "ant"


def test_dictionaries_are_flattened_as_the_environment_is(goals):
    assert goals.obs.shape[1] == 13
    assert goals.metadata["obs_layout"] == {"achieved_goal": 1, "desired_goal": 1, "observation": 11}
    assert (goals.obs[:, 1] == 7.0).all()
    assert goals.obs[:, 0].tobytes() == goals.obs[:, 7].tobytes()  # the velocity, 5 of observation
    spec = recovered.recover_env(goals.metadata)
    assert spec.kwargs == {"goal": 7.0}
    env = environment.make_env(spec)
    assert environment.step_limit(env) == 50
    recorded.assert_environment_repeats(env, goals)
    evaluated = environment.make_env(recovered.task_from_dataset(goals, "hopper").env)
    assert environment.step_limit(evaluated) == 400


def test_nested_dictionaries_and_matrices_in_gymnasiums_order(store):
    """Against gymnasium.spaces.flatten itself, for a space deeper than any published one."""
    import minari
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    space = spaces.Dict(
        {
            "b": spaces.Box(-1, 1, (2, 3)),
            "a": spaces.Dict({"z": spaces.Box(-1, 1, (1,)), "Y": spaces.Box(-1, 1, (2,), np.float64)}),
            "B": spaces.Box(-1, 1, ()),
        }
    )
    space.seed(0)
    samples = [space.sample() for _ in range(4)]

    def stacked(of: spaces.Dict, values: list) -> dict:
        return {
            key: stacked(sub, [v[key] for v in values])
            if isinstance(sub, spaces.Dict)
            else np.stack([v[key] for v in values])
            for key, sub in of.spaces.items()
        }

    buffer = EpisodeBuffer(
        observations=stacked(space, samples),
        actions=np.zeros((3, 1), np.float32),
        rewards=np.arange(3.0),
        terminations=np.zeros(3, bool),
        truncations=np.array([False, False, True]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for an author and more
        minari.create_dataset_from_buffers(
            "tests/deep-v0", [buffer], observation_space=space, action_space=spaces.Box(-1, 1, (1,))
        )
    data = minari_io.load("tests/deep-v0")
    flat = np.stack([spaces.flatten(space, sample) for sample in samples]).astype(np.float32)
    assert data.obs.tobytes() == flat[:-1].tobytes()
    assert data.next_obs.tobytes() == flat[1:].tobytes()
    assert data.metadata == {"obs_layout": {"B": 1, "a/Y": 2, "a/z": 1, "b": 6}}


def test_a_copy_keeps_the_environment(goals, store):
    minari_io.save(goals, "tests/copy-v0", env_id=goals.metadata["env_id"])
    copy = minari_io.load("tests/copy-v0")
    assert copy.metadata["env_spec"] == goals.metadata["env_spec"]
    recorded.assert_environment_repeats(environment.make_env(recovered.recover_env(copy.metadata)), copy)
    minari_io.save(goals, "tests/other-v0", env_id="Hopper-v5")
    assert recovered.recover_env(minari_io.load("tests/other-v0").metadata).env_id == "Hopper-v5"


def test_arguments_of_the_environment_are_stored():
    """As an import from NeoRL has them."""
    kwargs = {"exclude_current_positions_from_observation": False, "healthy_z_range": [0.5, 2.0]}
    env = environment.make_env(EnvSpec("Hopper-v4", kwargs))
    obs = np.stack([env.reset(seed=i)[0] for i in range(4)]).astype(np.float32)
    last = np.array([False, False, True])
    data = EpisodeData(
        obs[:-1], np.eye(3, dtype=np.float32), np.arange(3, dtype=np.float32), obs[1:], last & False, last,
        metadata={"env_id": "Hopper-v4", "env_kwargs": kwargs},
    )  # fmt: skip
    minari_io.save(data, "neorl/hopper-v0", env_id="Hopper-v4")
    loaded = minari_io.load("neorl/hopper-v0")
    assert recovered.recover_env(loaded.metadata).kwargs == kwargs
    assert line(loaded).startswith(
        "what terminates Hopper-v4 with healthy_z_range=[0.5, 2.0] is not known; give "
        "--termination=module:function (next observations [..., D] to booleans [...]), or a name, one of "
    )
    assert recovered.task_from_dataset(loaded, "halfcheetah").obs_dim == 12
    by_name = {name: loaded.metadata[name] for name in ("env_id", "env_kwargs")}
    assert recovered.recover_env(by_name) == EnvSpec("Hopper-v4", kwargs)
    assert recovered.recover_env({**by_name, "obs_limit": 5}).obs_limit == 5


def test_specifications_of_older_versions(goals):
    older = changed(goals, apply_api_compatibility=False)
    assert recovered.task_from_dataset(older, "hopper").obs_dim == 13


def test_the_maker_is_the_registered_one(goals):
    """A dataset cannot make this process run code of its choice."""
    hostile = changed(goals, entry_point="os:abort")
    assert recovered.task_from_dataset(hostile, "hopper").obs_dim == 13
    wrapper = {"name": "X", "entry_point": "os:abort", "kwargs": {}}
    assert line(changed(goals, additional_wrappers=[wrapper])) == (
        f"environment {recorded.GOAL_ID} is wrapped in os:abort, which is not run on a dataset's word; give "
        f"--task=<name> of a registered task"
    )


def test_environments_that_cannot_be_recovered(goals):
    assert reason(changed(goals, id="Nobodys-v0")) == (
        f"environment Nobodys-v0 is not registered with Gymnasium {gymnasium.__version__}; import the "
        f"package that registers it first, as --task=my_envs:auto imports my_envs"
    )
    assert line(changed(goals, id="Hopper-v5", kwargs={})) == (
        "obs has 13 and action 3 dimensions; its environment Hopper-v5 has 11 and 3"
    )
    assert line(goals).startswith(
        f"what terminates {recorded.GOAL_ID} is not known; give --termination=module:function"
    )
    damaged = dataclasses.replace(goals, metadata={"env_spec": "{"})
    assert line(damaged).startswith("metadata: env_spec cannot be read (Expecting property name")
    unnamed = dataclasses.replace(goals, metadata={})
    assert reason(unnamed) == (
        "names no environment; give --task=<name> of a registered one, or arrays to load_dataset with env_id"
    )


def by_id(env_id: Any) -> dict[str, Any]:
    """Metadata without a specification, as an import of an environment that nobody has registered leaves."""
    return {"env_id": env_id}


@pytest.mark.parametrize("metadata", [by_id, lambda env_id: {"env_spec": json.dumps({"id": env_id})}])
@pytest.mark.parametrize("env_id", ["intruder:Hopper-v4", "intruder.deep:lab/Hopper-v4", "intruder:"])
def test_no_module_is_imported_on_a_datasets_word(metadata, env_id, monkeypatch):
    Path("intruder.py").write_text("raise SystemExit('this was run')")
    monkeypatch.syspath_prepend(str(Path.cwd()))
    with pytest.raises(InputError) as caught:
        recovered.recover_env(metadata(env_id), "data")
    assert str(caught.value) == (
        f"data: environment {env_id} names a module, which is not imported on a dataset's word; must be an "
        "id alone, as MyRobot-v0; give --task=<name> of a registered task"
    )


@pytest.mark.parametrize("env_id", ["Hopper", "lab/Nobodys-v0", "Hopper-v999"])
def test_an_id_alone_must_be_registered_too(env_id):
    with pytest.raises(InputError, match=f"data: environment {env_id} is not registered with Gymnasium"):
        recovered.recover_env(by_id(env_id), "data")
    with pytest.raises(
        InputError, match=r"data: metadata: the id of its environment is \['x'\]; must be a text"
    ):
        recovered.recover_env(by_id(["x"]), "data")


@pytest.mark.parametrize("env_id", ["PointMaze_UMaze-v3", "FetchReach-v4"])
def test_a_package_that_is_missing_is_named(goals, monkeypatch, env_id):
    """Known by the environment's maker, or by its id: in the same words."""
    monkeypatch.setitem(__import__("sys").modules, "gymnasium_robotics", None)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {})
    monkeypatch.setattr(gymnasium, "registry", {})
    message = (
        f"environment {env_id} needs gymnasium-robotics (import of gymnasium_robotics halted; None in "
        "sys.modules); pip install 'adm_jax[robotics]'"
    )
    assert reason(changed(goals, id=env_id, entry_point="gymnasium_robotics.envs.maze:Any")) == message
    if env_id.startswith("Point"):
        with pytest.raises(InputError) as caught:
            environment.make_env(env_id)
        assert str(caught.value) == message


def test_a_termination_is_compiled_for_arrays_of_jax(goals):
    """As in roll-outs, and in the trial of a user's function: NumPy's arrays have no ``at``."""
    assert not recovered.terminal_states(goals, lambda next_obs: next_obs.at[..., 1].get() != 7.0).any()
    with pytest.raises(InputError, match="task mine ends at 124 of the 124 states that do not terminate"):
        recovered.check_terminations(goals, lambda next_obs: next_obs.at[..., 1].get() == 7.0, "task mine")


@pytest.mark.parametrize("relabel", [False, True])
def test_a_task_may_end_the_datas_episodes_itself(monkeypatch, caplog, relabel):
    """A Hopper that goes on where it has fallen, as Minari's pen does behind the drop."""
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    recorded.record("tests/falls-v0", "Hopper-v4", num_episodes=4, terminate_when_unhealthy=False)
    whole = minari_io.load("tests/falls-v0")
    fallen = np.asarray(get_termination("hopper")(jnp.asarray(whole.next_obs)))
    firsts = [np.flatnonzero(part)[0] for part in np.split(fallen, whole.episode_ends[:-1] + 1)]
    register_task(
        name="falling", env_id="Hopper-v4", obs_dim=11, action_dim=3, termination="hopper",
        dataset="tests/falls-v0", relabel_terminations=relabel,
    )  # fmt: skip
    if not relabel:
        with pytest.raises(InputError, match=r"task falling ends at .* states that do not terminate"):
            load_data(config_for_task("falling"))
        return
    _, data = load_data(config_for_task("falling"))
    assert data.episode_lengths.tolist() == [first + 1 for first in firsts]
    assert data.terminated.sum() == 4
    assert not fallen[: firsts[0]].any()
    assert (
        np.asarray(get_termination("hopper")(jnp.asarray(data.next_obs))).tolist() == data.terminated.tolist()
    )
    dropped = 200 - len(data.reward)
    told = f"ends 4 of its 4 episodes earlier; {dropped} of 200 transitions lie behind and are left out"
    assert [told in record.getMessage() for record in caplog.records].count(True) == 1
    _, untouched = load_data(config_for_task("falling", termination="halfcheetah"))
    assert len(untouched.reward) == 200


def test_a_run_loads_its_task_from_the_dataset():
    recorded.record("mujoco/hopper/simple-v0", "Hopper-v5", eval_steps=1000)
    task, data = load_data(config_for_task("auto", dataset="mujoco/hopper/simple-v0"))
    assert (task.env_id, task.dataset) == ("Hopper-v5", "mujoco/hopper/simple-v0")
    assert len(data.obs) == data.episode_lengths.sum()
    with pytest.raises(InputError) as caught:
        load_data(config_for_task("auto"))
    assert str(caught.value) == (
        "dataset: task auto is made from a dataset; give its Minari id, as "
        "--dataset=mujoco/hopper/medium-v0; a run on arrays goes on with "
        "adm_jax.resume(folder, adm_jax.load_dataset(arrays, env_id=...))"
    )
    with pytest.raises(InputError, match=r"task halfcheetah needs 17 and 6$"):
        load_data(config_for_task("halfcheetah", dataset="mujoco/hopper/simple-v0"))
