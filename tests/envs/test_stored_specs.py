"""What is stored of the environment that data come from, and what is recovered of it."""

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
from adm_jax.types import EnvSpec, InputError

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
