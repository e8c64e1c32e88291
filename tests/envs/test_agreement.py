"""Policies are evaluated on what the data hold: its keys, in its order, of the environment recorded."""

import contextlib

import gymnasium
import numpy as np
import pytest

from adm_jax.config import config_for_task
from adm_jax.data.formats import minari_files, minari_io
from adm_jax.envs import environment
from adm_jax.envs.batch import make_batch
from adm_jax.tasks import register_task, registry
from adm_jax.training.data import load_data
from adm_jax.types import EnvSpec, InputError

from . import recorded

ID = "tests/swing-v0"


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch):
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    recorded.register()


def load(task: str = "auto", **settings):
    return load_data(config_for_task(task, dataset=ID, **settings))


def own_task(obs_dim: int = 4, **fields) -> str:
    env_id = fields.pop("env_id", recorded.SWING_ID)
    register_task(name="swing", env_id=env_id, obs_dim=obs_dim, action_dim=1, termination="never", **fields)
    return "swing"


def assert_evaluated_as_recorded(task, data) -> None:
    """Every episode again, and the first observations of the evaluation's own batch."""
    with contextlib.closing(environment.make_env(task.env)) as env:
        recorded.assert_environment_repeats(env, data)
    with contextlib.closing(make_batch(task.env, 3)) as batch:
        starts = data.episode_ends - data.episode_lengths + 1
        assert batch.reset([0, 1, 2]).astype(np.float32).tobytes() == data.obs[starts].tobytes()


@pytest.mark.parametrize("order", ["velocity angle", "angle velocity"])
@pytest.mark.parametrize("is_own", [False, True])
def test_keys_are_joined_in_the_datas_order(order, is_own):
    recorded.record(ID, recorded.SWING_ID, order=order)
    task, data = load(own_task(env_kwargs={"order": order}) if is_own else "auto")
    assert list(data.metadata["obs_layout"]) == order.split()
    first = gymnasium.make(recorded.SWING_ID).reset(seed=0)[0]
    assert data.obs[0].tobytes() == np.concatenate([first[key] for key in order.split()]).tobytes()
    assert_evaluated_as_recorded(task, data)


def test_an_environment_that_has_its_keys_in_another_order_is_evaluated_in_the_datas():
    recorded.record(ID, recorded.SWING_ID)
    task, data = load(own_task(env_kwargs={"order": "angle velocity"}))
    assert list(data.metadata["obs_layout"]) == ["velocity", "angle"]
    assert_evaluated_as_recorded(task, data)


@pytest.mark.parametrize("is_own", [False, True])
def test_nested_dictionaries_and_tuples(is_own):
    recorded.record(ID, recorded.SWING_ID, nested=True)
    task, data = load(own_task(6, env_kwargs={"nested": True}) if is_own else "auto")
    keys = ["state/_index_0", "state/_index_1/velocity", "state/_index_1/angle"]
    assert list(data.metadata["obs_layout"]) == keys
    assert (data.obs[:, :2] == -data.obs[:, 4:]).all()
    assert_evaluated_as_recorded(task, data)


def test_more_than_ten_entries_of_a_tuple():
    """In the file _index_10 comes before _index_2."""
    recorded.record(ID, recorded.SWING_ID, wrap=Many)
    data = minari_io.load(ID)
    assert list(data.metadata["obs_layout"]) == [f"_index_{i}" for i in range(12)]
    assert (data.obs[0] == np.repeat(np.arange(12), 2)).all()


class Many(gymnasium.ObservationWrapper):
    """Twelve numbers, each twice, in a tuple."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        self.observation_space = gymnasium.spaces.Tuple([gymnasium.spaces.Box(-99, 99, (2,))] * 12)

    def observation(self, observation):
        return tuple(np.full(2, i, np.float32) for i in range(12))


def test_keys_that_the_data_lack_are_left_out_and_keys_that_the_environment_lacks_refused():
    spec = EnvSpec(recorded.SWING_ID, obs_keys=("angle",))
    env = environment.make_env(spec)
    assert (
        env.reset(seed=0)[0].tobytes()
        == gymnasium.make(recorded.SWING_ID).reset(seed=0)[0]["angle"].tobytes()
    )
    assert env.observation_space.contains(env.reset(seed=0)[0])
    with pytest.raises(InputError) as caught:
        environment.make_env(spec._replace(obs_keys=("angle", "torque")))
    assert str(caught.value) == (
        f"environment {recorded.SWING_ID}: its observations have no 'torque', which the data have; they are "
        "velocity, angle"
    )
