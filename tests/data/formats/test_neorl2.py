"""NeoRL2's files, of all its tasks: imported without an environment, and learned from all the same."""

import logging
from pathlib import Path

import numpy as np
import pytest

import adm_jax
from adm_jax import InputError
from adm_jax.data import validation
from adm_jax.data.formats import minari_io, neorl
from adm_jax.envs.recovered import task_from_dataset
from adm_jax.tasks import EnvlessTask
from adm_jax.types import ActionBounds
from tests.cli import scripts
from tests.data import neorl2_files
from tests.data.neorl2_files import TASKS
from tests.data.sample_data import assert_same_bits


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.mark.parametrize("name", TASKS)
def test_every_task_imports_as_its_file_is(name, store, tmp_path):
    """Bit for bit; by the command, with the bounds that the environment has and the data may not reach."""
    task, path = TASKS[name], neorl2_files.write(tmp_path, name)
    done = scripts.run("import_dataset", "--source=neorl", f"--path={path}", "--dataset=neorl2/plant-v0")
    assert done.returncode == 0, done.stderr
    arrays = np.load(path)
    rows, flags = len(arrays["obs"]), [int(arrays[key].sum()) for key in ("done", "truncated")]
    assert done.stdout.splitlines()[:-2] == [
        f"read {rows} rows of {path} (no environment): {rows} transitions, 3 episodes, {flags[0]} "
        f"terminated, {flags[1]} truncated",
        f"stored without an environment: NeoRL2's {name} comes with the package neorl2; where one is "
        f"registered with Gymnasium, --env_id names it, as in --env_id=neorl2:{name}",
        "no environment is named, so that policies of these data are not evaluated for real; --env_id names "
        "one here, --task=<name> in a run",
        "actions lie within +-1: the dataset's action space; --action_low and --action_high give others",
    ]
    loaded = minari_io.load("neorl2/plant-v0")
    validation.validate(loaded)
    for field, key in {"reward": "reward", "terminated": "done", "truncated": "truncated"}.items():
        assert getattr(loaded, field).tolist() == arrays[key].tolist()
    for key in ("obs", "action", "next_obs"):
        assert getattr(loaded, key).tobytes() == arrays[key].tobytes()
    assert loaded.action_bounds()[0] == ActionBounds.symmetric(1.0, task.action_dim)
    assert not {"env_id", "env_spec", "env_kwargs"} & set(loaded.metadata)
    assert_same_bits(loaded, adm_jax.load_dataset(path))


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_a_task_without_an_environment(name, tmp_path):
    """What --task=auto makes of it: only how those end that terminate has to be said."""
    task, data = TASKS[name], adm_jax.load_dataset(neorl2_files.write(tmp_path, name))
    ends = task.termination != "never"
    if ends:
        with pytest.raises(InputError, match="what terminates an episode is not known; give --termination="):
            task_from_dataset(data)
    made = task_from_dataset(data, task.termination if ends else None)
    assert isinstance(made, EnvlessTask)
    assert "names no environment" in made.reason
    assert (made.obs_dim, made.action_dim) == (task.obs_dim, task.action_dim)
    assert made.bounds == ActionBounds.symmetric(1.0, task.action_dim)
    assert (made.termination, made.longest_episode) == (task.termination, data.episode_lengths.max())
    assert "actions lie within +-1" in made.lines()[1]


NAMES = (  # as get_dataset, its own script and other copies call them
    "Pipeline-val.npz",
    "Pipeline-high-100000-train.npz",
    "pipeline-v1-train.npz",
)


@pytest.mark.parametrize("name", NAMES)
def test_actions_that_never_change_are_bounded_as_in_the_environment(name, tmp_path, caplog):
    """As in Pipeline's validation data, which hold one action."""
    arrays = neorl2_files.arrays_of("DMSD")
    rows = len(arrays["obs"])
    wide = {key: np.pad(arrays[key], ((0, 0), (0, 46))) for key in ("obs", "next_obs")}
    arrays |= {**wide, "action": np.full((rows, 1), -0.0109, np.float32)}
    np.savez(tmp_path / name, **arrays)  # pyright: ignore[reportArgumentType]
    with caplog.at_level(logging.WARNING):
        data = adm_jax.load_dataset(tmp_path / name)
    assert "never changes" in caplog.text
    assert data.action_bounds()[0] == ActionBounds.symmetric(1.0, 1)
    named, report = neorl.read(tmp_path / name, env_id="Pipeline")
    assert (report.env_id, named.action_bounds()[0]) == ("Pipeline", ActionBounds.symmetric(1.0, 1))
    foreign, _ = neorl.read(tmp_path / name, env_id="MyPlant-v0")  # whose bounds are not Pipeline's
    assert foreign.action_space is None


CHANGED = {  # of Salespromotion -> why it is not taken for it
    "whose actions lie within +-1, not +-5": {"action": lambda a: np.array([2.5, 0.15]) * (a + 1) + [0, 0.7]},
    "but obs has 4 and action 2 dimensions, where NeoRL2's Salespromotion has 8 and 2": {
        "obs": lambda x: x[:, :4],
        "next_obs": lambda x: x[:, :4],
    },
}


@pytest.mark.parametrize("why", CHANGED)
def test_data_unlike_the_name_are_bounded_by_themselves(why, tmp_path):
    path, arrays = tmp_path / "Salespromotion-train.npz", neorl2_files.arrays_of("Salespromotion")
    arrays |= {key: change(arrays[key]).astype(np.float32) for key, change in CHANGED[why].items()}
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    data, report = neorl.read(path)
    assert report.no_environment == f"the file is named after Salespromotion, {why}"
    assert report.neorl2_id is None
    assert data.action_space is None


def test_bounds_of_each_dimension_can_be_given(store, tmp_path):
    """Coupons to give, 0 to 5, and their discount, 0.7 to 1; counts up to a hundred thousand."""
    path, arrays = tmp_path / "coupons.npz", neorl2_files.arrays_of("Salespromotion")
    arrays["action"] = (np.array([2.5, 0.15]) * (arrays["action"] + 1) + [0, 0.7]).astype(np.float32)
    for key in ("obs", "next_obs"):
        arrays[key][:, 0] = arrays[key][:, 0] * 1000  # e5, beside discounts of 1e-1
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    of = ("--source=neorl", f"--path={path}", "--dataset=neorl2/plant-v0", "--overwrite")
    assert (
        "actions lie within +-5: the largest action in the data" in scripts.run("import_dataset", *of).stdout
    )
    done = scripts.run("import_dataset", *of, "--action_low=0,0.7", "--action_high=5,1")
    assert done.returncode == 0, done.stderr
    assert "actions lie" not in done.stdout  # as they were given
    task = task_from_dataset(minari_io.load("neorl2/plant-v0"))
    assert isinstance(task, EnvlessTask)
    np.testing.assert_allclose(task.bounds.low, (0, 0.7), rtol=1e-6)
    assert task.bounds.high == (5, 1)
    refused = scripts.run("import_dataset", *of, "--action_low=0,0.8", "--action_high=5,1")
    assert "must lie in the action bounds [0.8, 1]" in refused.stderr
