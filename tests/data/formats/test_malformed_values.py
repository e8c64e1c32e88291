"""Values, tasks and ids that cannot be, each with its line."""

import dataclasses

import numpy as np
import pytest

from adm_jax.data import validation
from adm_jax.data.formats import minari_files, minari_io
from adm_jax.envs import recovered
from adm_jax.envs.termination import get_termination
from adm_jax.types import ActionBounds
from tests.data.sample_data import error_line, make_data

DATA = make_data((4, 3, 5, 3))


def put(array: np.ndarray, index, value) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("name", "index", "value", "line"),
    [
        ("obs", (0, 2), -2e6, "episode 0, step 0: obs[2] is -2000000"),
        ("reward", (5,), 1e30, "episode 1, step 1: reward is 1e+30"),
        ("next_obs", (14, 0), 3e38, "episode 3, step 2: next_obs[0] is 3e+38"),
    ],
)
def test_huge_values(name, index, value, line):
    data = dataclasses.replace(DATA, **{name: put(getattr(DATA, name), index, value)})
    assert error_line(validation.validate, data) == (
        f"some.hdf5: {line} (1 such in all); must lie within +-1e+06: replace markers of missing values, or "
        f"choose a larger unit"
    )


def test_the_largest_value_passes_and_the_next_does_not():
    largest = np.float32(validation.LARGEST_VALUE)
    at_the_bound, beyond = (
        dataclasses.replace(DATA, reward=put(DATA.reward, 0, value))
        for value in (largest, np.nextafter(largest, np.float32(np.inf)))
    )
    validation.validate(at_the_bound)
    assert "must lie within +-1e+06" in error_line(validation.validate, beyond)


def test_states_that_the_task_would_have_terminated(caplog):
    """Heights of a cheetah in Hopper's dimensions: no check of dimensions can tell."""
    data = make_data((4, 3, 5), obs_dim=11, action_dim=3)
    line = error_line(recovered.check_terminations, data, get_termination("hopper"), "task hopper")
    ended = np.asarray(get_termination("hopper")(data.next_obs)) & ~data.terminated
    assert line == (
        f"some.hdf5: task hopper ends at {ended.sum()} of the 10 states that do not terminate in the data "
        f"(first in episode 0); these are data of another environment, or another --termination is meant"
    )
    recovered.check_terminations(data, get_termination("halfcheetah"), "task cheetah")
    assert caplog.messages == [
        "some.hdf5: task cheetah goes on at 2 of the 2 states that terminate in the data; time limits or "
        "data of another environment look like this"
    ]


def test_actions_that_the_task_cannot_take():
    data = dataclasses.replace(DATA, action=put(np.clip(DATA.action, -0.4, 0.4), (5, 1), 0.75))
    assert error_line(validation.check_actions, data, ActionBounds.symmetric(0.4, 2), "task humanoid") == (
        "some.hdf5: episode 1, step 1: action[1] is 0.75 (1 such in all); actions of task humanoid lie "
        "within +-0.4: data of another environment, or actions in another unit"
    )
    validation.check_actions(data, ActionBounds.symmetric(0.75, 2), "task ant")


@pytest.mark.parametrize("dataset_id", ["neorl/hopper-low-v0", "mujoco/hopper/medium-v0"])
def test_ids_that_do_not_exist(dataset_id, tmp_path, monkeypatch):
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))
    source = dataset_id.partition("/")[0].replace("mujoco", "d4rl")
    assert error_line(minari_io.load, dataset_id) == (
        f"dataset: {dataset_id} is not in {tmp_path} and hf://farama-minari cannot be reached "
        f"(HF_HUB_OFFLINE is set); "
        f"to import a file: adm-jax import --source={source} --path=FILE "
        f"--dataset={dataset_id}"
    )


def test_dimensions_that_never_change_are_told_once(caplog):
    obs = DATA.obs.copy()
    obs[:, 1] = 0.5
    next_obs = DATA.next_obs.copy()
    next_obs[:, 1] = 0.5
    action = np.zeros_like(DATA.action)
    validation.validate(dataclasses.replace(DATA, obs=obs, next_obs=next_obs, action=action))
    assert caplog.messages == ["some.hdf5: never changes: obs[1], action[0], action[1]"]
    caplog.clear()
    wide = np.zeros((15, 20), np.float32)
    validation.validate(dataclasses.replace(DATA, obs=wide, next_obs=wide))
    shown = ", ".join(f"obs[{i}]" for i in range(8))
    assert caplog.messages == [f"some.hdf5: never changes: {shown} and 12 more"]
