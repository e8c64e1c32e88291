"""What is stored of the environment that data come from, and what is recovered of it."""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest

from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_io, minari_write
from adm_jax.envs import environment, recovered
from adm_jax.envs.agreement import check_agreement
from adm_jax.types import EnvSpec, InputError
from tests.data.sample_data import make_data

CLASS_ID, LAMBDA_ID = "TestOfAClass-v0", "TestOfALambda-v0"


class Reacher(gymnasium.Env):
    """Goes where it is told, and observes that times a gain."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, gain: Any = 1.0, hook: Any = None):
        self._gain, self._hook = np.asarray(gain, np.float32), hook

    def reset(self, *, seed=None, options=None):
        return np.ones(2, np.float32) * self._gain, {}

    def step(self, action):
        return (action * self._gain).astype(np.float32), 0.0, False, False, {}


@pytest.fixture(autouse=True)
def _registered(tmp_path, monkeypatch):
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))
    gymnasium.register(CLASS_ID, Reacher, max_episode_steps=50)
    gymnasium.register(LAMBDA_ID, lambda **kwargs: Reacher(**kwargs), max_episode_steps=50)
    yield
    del gymnasium.registry[CLASS_ID], gymnasium.registry[LAMBDA_ID]


def save(env_id: str, env_kwargs: dict[str, Any]) -> EpisodeData:
    """Three steps in an environment made so, through the store."""
    env = environment.make_env(EnvSpec(env_id, env_kwargs))
    env.action_space.seed(0)
    obs = [env.reset(seed=0)[0]]
    actions = [env.action_space.sample() for _ in range(3)]
    obs = np.stack(obs + [env.step(action)[0] for action in actions]).astype(np.float32)
    last = np.array([False, False, True])
    data = EpisodeData(
        obs[:-1], np.stack(actions), np.zeros(3, np.float32), obs[1:], last & False, last,
        metadata={"env_id": env_id, "env_kwargs": env_kwargs},
    )  # fmt: skip
    minari_io.save(data, "tests/stored-v0", env_id=env_id)
    return minari_io.load("tests/stored-v0")


def test_an_environment_registered_by_its_class():
    data = save(CLASS_ID, {"gain": np.array([2.0, 3.0]), "hook": (np.int64(4), Path("a/b"))})
    stored = json.loads(data.metadata["env_spec"])
    assert stored["entry_point"] == f"{__name__}:Reacher"
    assert stored["kwargs"] == {"gain": [2.0, 3.0], "hook": [4, "a/b"]} == data.metadata["env_kwargs"]
    task = recovered.task_from_dataset(data, "halfcheetah")
    env = environment.make_env(task.env)
    assert isinstance(env.unwrapped, Reacher)
    assert env.reset()[0].tolist() == [2.0, 3.0]
    assert minari.load_dataset("tests/stored-v0").recover_environment().reset()[0].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "reason"),
    [
        (LAMBDA_ID, {"gain": 2.0}, f"its maker {__name__}:_registered.<locals>.<lambda> cannot be imported"),
        (CLASS_ID, {"hook": print}, "its argument hook, a builtin_function_or_method, is no JSON"),
        (CLASS_ID, {"hook": {1j: 0}}, "its argument hook, a dict, is no JSON"),
    ],
)
def test_what_cannot_be_written_is_told_and_left_out(env_id, env_kwargs, reason, caplog):
    data = save(env_id, env_kwargs)
    assert f"tests/stored-v0: {env_id} cannot be stored (" in caplog.text
    assert "env_spec" not in data.metadata
    (record,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert "\n" not in record.getMessage()
    assert reason in caplog.text
    if "hook" in env_kwargs:
        with pytest.raises(InputError, match=f"arguments of its environment {CLASS_ID} could not be stored"):
            recovered.recover_env(data.metadata, data.source)
    else:
        assert recovered.recover_env(data.metadata) == EnvSpec(LAMBDA_ID, {"gain": 2.0})
    assert minari_write.env_spec(env_id, env_kwargs, "task mine") is None
    assert f"task mine: {env_id} cannot be stored ({reason}" in caplog.text


@pytest.mark.parametrize(
    ("given", "kwargs", "limit", "unchecked"),
    [
        ({"max_episode_steps": 7}, {}, 7, False),
        ({"max_episode_steps": 7, "gain": np.float32(2.0)}, {"gain": 2.0}, 7, False),
        ({"disable_env_checker": True}, {}, 50, True),
        ({"max_episode_steps": None, "disable_env_checker": None}, {}, 50, False),
    ],
)
def test_what_gymnasium_make_takes_itself_is_the_specifications_own(given, kwargs, limit, unchecked):
    data = save(CLASS_ID, given)
    stored = json.loads(data.metadata["env_spec"])
    assert (stored["kwargs"], stored["max_episode_steps"]) == (kwargs, limit)
    assert stored["disable_env_checker"] is unchecked
    task = recovered.task_from_dataset(data, "halfcheetah")
    assert environment.step_limit(environment.make_env(task.env)) == limit
    again = minari.load_dataset("tests/stored-v0").recover_environment()
    assert environment.step_limit(again) == limit


def test_no_step_limit_at_all_is_kept():
    spec = json.loads(minari_write.env_spec(CLASS_ID, {"max_episode_steps": -1}, "x") or "")
    assert (spec["max_episode_steps"], spec["kwargs"]) == (None, {})


BAD_SPECS = {  # what stands in a stored specification, and the line
    "id a number": ({"id": 5}, "id is 5; must be a str"),
    "kwargs a list": ({"kwargs": [1]}, "kwargs is [1]; must be a dict"),
    "kwargs a text": ({"kwargs": "fast"}, "kwargs is 'fast'; must be a dict"),
    "no steps": ({"max_episode_steps": 0}, "max_episode_steps is 0; must be a whole number from 1"),
    "fewer": ({"max_episode_steps": -3}, "max_episode_steps is -3; must be a whole number from 1"),
    "a fraction": ({"max_episode_steps": 2.5}, "max_episode_steps is 2.5; must be a whole number from 1"),
    "a truth": ({"max_episode_steps": True}, "max_episode_steps is True; must be a whole number from 1"),
    "wrappers a table": ({"additional_wrappers": {}}, "additional_wrappers is {}; must be a list"),
    "a wrapper a number": ({"additional_wrappers": [7]}, "'int' object is not subscriptable"),
    "a wrapper's kwargs a list": (
        {"additional_wrappers": [{"name": "Any", "entry_point": "gymnasium.wrappers:Any", "kwargs": [1]}]},
        "kwargs of gymnasium.wrappers:Any is [1]; must be a dict",
    ),
}


def hopper_data(spec: str | None = None, /, **parts) -> EpisodeData:
    """Hopper's dimensions and specification, parts of it changed, with noise for states."""
    spec = spec or json.dumps({**json.loads(gymnasium.spec("Hopper-v4").to_json()), **parts})
    metadata = {"env_id": "Hopper-v4", "env_spec": spec}
    return dataclasses.replace(make_data((4, 3, 5), 11, 3), metadata=metadata)


def refused(data: EpisodeData) -> str:
    with pytest.raises(InputError) as caught:
        recovered.task_from_dataset(data)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{data.source}: ")


@pytest.mark.parametrize("kind", BAD_SPECS)
def test_damaged_specifications_are_one_line(kind):
    parts, text = BAD_SPECS[kind]
    assert refused(hopper_data(**parts)) == f"metadata: env_spec cannot be read ({text})"


def test_a_specification_nested_too_deep_is_one_line():
    told = "metadata: env_spec cannot be read (maximum recursion depth exceeded"
    assert refused(hopper_data("[" * 100_000)).startswith(told)


@pytest.mark.parametrize("limit", ["all", 0, -1, 2.0, [3], True])
def test_an_obs_limit_that_is_no_count_is_one_line(limit):
    data = hopper_data()
    data = dataclasses.replace(data, metadata={**data.metadata, "obs_limit": limit})
    assert refused(data) == f"metadata: obs_limit is {limit!r}; must be a whole number from 1"


def wrapped(module: str, name: str, **kwargs) -> dict:
    return {"name": name, "entry_point": f"gymnasium.wrappers.{module}:{name}", "kwargs": kwargs}


@pytest.mark.parametrize(
    "parts",
    [
        {"additional_wrappers": None},
        {"additional_wrappers": [wrapped("rendering", "RecordVideo", video_folder="videos")]},
        {"additional_wrappers": [{**wrapped("common", "RecordEpisodeStatistics"), "kwargs": None}]},
        {"additional_wrappers": [wrapped("rendering", "HumanRendering")], "kwargs": {"render_mode": "human"}},
    ],
)
def test_what_only_watches_is_left_out(parts, tmp_path, monkeypatch, caplog):
    """Evaluation would write videos into a folder that the dataset names, and open windows."""
    monkeypatch.chdir(tmp_path)
    data = hopper_data(**parts)
    task = recovered.task_from_dataset(data)
    env = environment.make_env(task.env)
    obs, _ = env.reset(seed=3)
    np.testing.assert_array_equal(obs, environment.make_env("Hopper-v4").reset(seed=3)[0])
    assert env.render_mode is None
    assert not (tmp_path / "videos").exists()
    check_agreement(data, task.env, "task x")
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("module", "name", "what"),
    [
        ("transform_observation", "TransformObservation", "function is"),
        ("transform_action", "TransformAction", "function is"),
        ("vector.stateful_observation", "NormalizeObservation", "running mean and variance are"),
    ],
)
def test_wrappers_whose_state_nobody_has_are_refused_between_others(module, name, what):
    others = [wrapped("common", "RecordEpisodeStatistics"), wrapped("stateful_action", "StickyAction")]
    data = hopper_data(additional_wrappers=[others[0], wrapped(module, name), others[1]])
    message = (
        f"environment Hopper-v4 is wrapped in {name}, whose {what} not in the data, so that nothing can be "
        "evaluated as it was recorded; record without it"
    )
    assert refused(data) == message
    with pytest.raises(InputError, match=message):
        check_agreement(data, EnvSpec("Hopper-v4"), "task hopper")


def test_a_specification_without_wrappers_named():
    stored = json.loads(hopper_data().metadata["env_spec"])
    del stored["additional_wrappers"]
    assert recovered.task_from_dataset(hopper_data(json.dumps(stored))).env_id == "Hopper-v4"
