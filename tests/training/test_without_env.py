"""Data without an environment: learned from, estimated, and nothing said to be evaluated."""

import dataclasses
import json
import re
import warnings
from functools import partial

import gymnasium
import h5py
import numpy as np
import pytest

import adm_jax
from adm_jax import InputError
from adm_jax.api.runs import Run, load_run
from adm_jax.config import config_for_task, offline_from_flat
from adm_jax.config.evaluation import OPEConfig
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_io
from adm_jax.envs import environment, recovered
from adm_jax.envs.recovered import task_from_dataset
from adm_jax.evaluation import ope
from adm_jax.population.members import Member
from adm_jax.runs.batches import merge_results
from adm_jax.tasks import EnvlessTask
from adm_jax.training import driver, offline
from adm_jax.types import ActionBounds
from benchmarks.runs import summarize_run
from tests.evaluation.policy_files import write
from tests.stopping import Stop, stop_behind
from tests.tiny import TINY
from tests.training.run_files import computed, lines, newest_arrays

pytestmark = pytest.mark.usefixtures("small_curves")
# of a run in test_offline.py, whose compiled programs serve here too
SETTINGS = {**TINY, "task": "auto", "dataset": None, "termination": "hopper", "estimate_rows": 4}
GONE = "TestGone-v0"  # nobody registers it
IN_MODEL = ("model/return", "model/discounted_return", "critic/q_excess")  # over the length of episodes


def buffers_of(data: EpisodeData) -> list:
    from minari.data_collector.episode_buffer import EpisodeBuffer

    starts = data.episode_ends - data.episode_lengths + 1
    parts = [slice(start, end + 1) for start, end in zip(starts, data.episode_ends, strict=True)]
    return [
        EpisodeBuffer(
            observations=np.concatenate([data.obs[part], data.next_obs[part][-1:]]),
            actions=data.action[part],
            rewards=data.reward[part],
            terminations=data.terminated[part],
            truncations=data.truncated[part],
        )
        for part in parts
    ]


def store(dataset_id: str, data: EpisodeData, action_space: gymnasium.spaces.Box) -> str:
    """As Minari itself writes logged data."""
    import minari

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for an author and more
        minari.create_dataset_from_buffers(
            dataset_id,
            buffers_of(data),
            observation_space=gymnasium.spaces.Box(-np.inf, np.inf, data.obs.shape[1:], np.float32),
            action_space=action_space,
        )
    return dataset_id


def box(low: float, high: float) -> gymnasium.spaces.Box:
    return gymnasium.spaces.Box(low, high, (3,), np.float32)


@pytest.fixture(scope="module")
def data(tiny_dataset: str) -> EpisodeData:
    return minari_io.load(tiny_dataset)


@pytest.fixture(scope="module")
def logged(data) -> str:
    return store("tests/logged-v0", data, box(-1, 1))


def train(dataset: str | EpisodeData, workdir) -> Run:
    data, dataset_id = (None, dataset) if isinstance(dataset, str) else (dataset, None)
    config = offline_from_flat({**SETTINGS, "dataset": dataset_id, "workdir": str(workdir)})
    return Run(driver.run_in(config, partial(offline.plan, data=data))[0])


@pytest.fixture(scope="module")
def run(logged, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(logged, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def evaluated(tiny_dataset: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same transitions with their environment."""
    return train(tiny_dataset, tmp_path_factory.mktemp("evaluated"))


def test_the_policies_are_those_of_a_run_with_the_environment(run, evaluated, data) -> None:
    """All that is logged but the length of episodes in the model, and every array, to the last bit."""

    def metrics(of: Run) -> list[dict]:
        rows = lines(of.path / "metrics.jsonl")
        return [{name: row[name] for name in row if name not in IN_MODEL} for row in rows]

    assert metrics(run) == metrics(evaluated)
    ours, theirs = newest_arrays(run.path), newest_arrays(evaluated.path)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    obs = data.obs[:5]
    np.testing.assert_array_equal(run.policy(seed=1)(obs), evaluated.policy(seed=1)(obs))


def test_everything_says_that_nothing_was_evaluated(run, capsys) -> None:
    assert run.result is not None
    reason = run.result["evaluation"]["reason"]
    assert "names no environment; give --task=<name> of a registered one, or arrays" in reason
    assert run.result["evaluation"] == {"env_id": None, "num_episodes": 0, "reason": reason}
    assert run.result["members"] == run.result["bc"] == run.result["settings"] == []
    assert "return_mean" not in json.dumps({**run.result, "dataset": None})
    assert not (run.path / "eval.jsonl").exists()
    assert (run.path / "curves.png").stat().st_size > 1_000
    assert load_run(run.path).evaluations == {}
    assert load_run(run.path).env_id is None
    last = lines(run.path / "metrics.jsonl")[-1]
    for index, row in enumerate(run.result["estimates"]):
        assert row == {
            "seed": index,
            "model_return": last["model/return"][index],
            "model_discounted_return": last["model/discounted_return"][index],
            "q_initial": last["critic/q_initial"][index],
            "q_excess": last["critic/q_excess"][index],
        }
    assert adm_jax.resume(run.path).result == run.result
    shown = capsys.readouterr().out
    assert f"nothing was evaluated for real: {reason}" in shown
    assert "model return" in shown
    assert "return in the real environment" not in shown
    summary = summarize_run.summarize(run.path)
    assert (summary["returns"], summary["evaluations"], summary["steadiness"]) == ({}, [], [])
    with pytest.raises(InputError, match=r"^env: auto is made from a dataset"):
        adm_jax.evaluate(run.policy(seed=0), "auto")
    with pytest.raises(InputError, match=r"^env: None is no text"):
        adm_jax.evaluate(run.policy(seed=0), run.env_id)  # type: ignore[arg-type]


def test_a_line_before_training_says_so_and_what_to_do(logged, data, capsys, tmp_path) -> None:
    """Resumed where the environment is registered by now: without it, and as if never stopped."""
    arrays = {name: getattr(data, name) for name in ("obs", "action", "reward", "next_obs")}
    arrays |= {"terminated": data.terminated, "truncated": data.truncated}
    arrays["action"] = arrays["action"].copy()
    arrays["action"][0, 0] = -1.0  # bounded by 1, as in all runs here: nothing is compiled anew
    loaded = adm_jax.load_dataset(arrays, env_id=GONE)
    whole = train(loaded, tmp_path / "a")
    shown = capsys.readouterr().out
    assert (
        "warning: policies are not evaluated for real, for want of an environment (--task=<name> of a "
        f"registered task gives one): dataset: environment {GONE} is not registered with Gymnasium" in shown
    )
    longest = data.episode_lengths.max()
    assert (
        "actions lie within +-1: the largest action in the data, which have no action space; returns are "
        f"estimated over {longest} steps, the longest recorded episode" in shown
    )
    assert shown.index("warning: policies are") < shown.index("compiling ...")
    with pytest.MonkeyPatch.context() as patch:
        stop_behind(patch, "train", 3)
        with pytest.raises(Stop):
            train(loaded, tmp_path / "b")
    (folder,) = (tmp_path / "b" / "admpo_off" / "dataset").iterdir()
    gymnasium.register(GONE, "gymnasium.envs.mujoco.hopper_v4:HopperEnv", max_episode_steps=10)
    try:
        with pytest.raises(InputError, match=r"other conditions: dataset_sha256\.action was"):
            adm_jax.resume(folder, logged)
        resumed = adm_jax.resume(folder, loaded)
    finally:
        del gymnasium.registry[GONE]
    assert lines(folder / "metrics.jsonl") == lines(whole.path / "metrics.jsonl")
    ours, theirs = newest_arrays(folder), newest_arrays(whole.path)
    for name, array in ours.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
    assert whole.result
    assert resumed.result
    assert computed(whole.result) == computed(resumed.result)


def test_a_run_that_was_evaluated_is_not_resumed_without(evaluated, tiny_dataset, monkeypatch) -> None:
    def unavailable(*_):
        raise environment.EnvUnavailable("Hopper-v4 is gone")

    monkeypatch.setattr(recovered, "recover_env", unavailable)
    with pytest.raises(
        InputError, match=r"is evaluated in Hopper-v4, which is not available: Hopper-v4 is gone"
    ):
        adm_jax.resume(evaluated.path)


def test_the_bounds_of_actions_are_the_datas(data) -> None:
    def bounds(name: str, action_space: gymnasium.spaces.Box) -> tuple[ActionBounds, str]:
        task = task_from_dataset(minari_io.load(store(name, data, action_space)), "hopper")
        assert isinstance(task, EnvlessTask)
        return environment.bounds_of_task(task), task.bounds_from

    assert bounds("tests/twice-v0", box(-2, 2)) == (
        ActionBounds.symmetric(2.0, 3),
        "the dataset's action space",
    )
    largest = float(np.abs(data.action).max())
    assert 0.9 < largest < 1.0
    from_data = "the largest action in the data, which have no action space"
    assert bounds("tests/open-v0", box(-np.inf, np.inf)) == (ActionBounds.symmetric(largest, 3), from_data)
    uneven = ActionBounds((-1.0,) * 3, (3.0,) * 3)
    assert bounds("tests/uneven-v0", box(-1, 3)) == (uneven, "the dataset's action space")
    hair = gymnasium.spaces.Box(0.7, 0.7 + 1e-9, (3,), np.float64)
    alike = dataclasses.replace(data, action=np.full_like(data.action, 0.7))
    with pytest.raises(
        InputError, match=r"^tests/hair-v0 .*: its action\[0\] lies within .* leaves no choice"
    ):
        task_from_dataset(minari_io.load(store("tests/hair-v0", alike, hair)), "hopper")


def test_terminations_are_given_or_never(data, caplog) -> None:
    named = dataclasses.replace(data, metadata={})
    with pytest.raises(
        InputError, match=r"what terminates an episode is not known; give --termination=module"
    ):
        task_from_dataset(named)
    assert task_from_dataset(named, "walker2d").termination == "walker2d"
    goes_on = dataclasses.replace(
        named, terminated=data.terminated & False, truncated=data.terminated | data.truncated
    )
    assert task_from_dataset(goes_on).termination == "never"
    assert "no episode terminates in the data, so that none does in the model" in caplog.text
    # an environment that is not available is known by its name, but not one whose arguments move what ends it
    hopper = dataclasses.replace(data, metadata={"env_id": "Hopper-v99"})
    assert task_from_dataset(hopper).termination == "hopper"
    moved = {"env_id": "Hopper-v99", "env_kwargs": {"healthy_z_range": [0.5, 2.0]}}
    with pytest.raises(InputError, match=r"what terminates Hopper-v99 with healthy_z_range"):
        task_from_dataset(dataclasses.replace(data, metadata=moved))
    with pytest.raises(InputError, match=r"what terminates an episode is not known"):
        task_from_dataset(dataclasses.replace(data, metadata={"env_id": "Hopper-v4", "env_kwargs": None}))


@pytest.mark.parametrize(
    ("env_id", "reason"),
    [
        # Gymnasium 1.2 and older name the module that lacks, newer ones where the environments went
        ("Hopper-v3", "The mujoco v2 and v3 based environments have been moved|No module named 'mujoco_py'"),
        ("LunarLanderContinuous-v3", "Box2D is not installed"),
    ],
)
def test_environments_that_cannot_be_made_here(data, env_id, reason) -> None:
    try:
        environment.make_env(env_id).close()
        pytest.skip(f"{env_id} is installed here")
    except environment.EnvUnavailable:
        pass
    fields = {name: getattr(data, name) for name in ("obs", "action", "reward", "next_obs", "terminated")}
    task = task_from_dataset(adm_jax.load_dataset(fields, env_id=env_id), "hopper")
    assert isinstance(task, EnvlessTask)
    assert re.match(rf"environment {env_id}: .*?({reason})", task.reason)
    with pytest.raises(
        InputError, match=r"^task dataset: there is no environment to evaluate in: environment"
    ):
        _ = task.env


def test_policies_are_estimated_without_truth(logged, data, tmp_path, capsys) -> None:
    names = ("fit_steps_per_epoch", "holdout_batch_size", "model_hidden_dim", "seeds", "max_backtrack")
    fits = [
        config_for_task(
            "auto",
            dynamics="adm_v2",
            **{name: TINY[name] for name in names},
            dataset=logged,
            termination="hopper",
            fit_max_epochs=2,
            workdir=str(tmp_path),
            num_gru_layers=1,
            num_residual_blocks=1,
            num_encoder_blocks=0,
        )
    ]
    content = {"w0": np.zeros((11, 3)), "b0": np.zeros(3), "log_std": np.full(3, -1.0)}
    write(tmp_path / "still.npz", content)
    write(tmp_path / "moving.npz", {**content, "b0": np.ones(3)})
    config = OPEConfig(policies=str(tmp_path), num_episodes=4, fqe_steps=5, gammas=(0.9,))
    with pytest.raises(InputError, match=r"^real_episodes: there is no environment for true returns: "):
        ope.run(dataclasses.replace(config, real_episodes=2), fits)
    truth = {"policies": {f"{name}.npz": {"discounted_0.9_mean": 1.0} for name in ("still", "moving")}}
    (tmp_path / "truth.json").write_text(json.dumps({**truth, "env_id": "TheRobot"}))
    result = ope.run(dataclasses.replace(config, truth=str(tmp_path / "truth.json")), fits)
    assert result["horizon"] == data.episode_lengths.max()
    assert result["truth"] == [[1.0, 1.0]]  # measured elsewhere
    assert all(np.isfinite(row["mean"]) for row in result["estimates"]["0.9"]["adm_v2"])
    assert "policies are not evaluated for real" in capsys.readouterr().out
    (folder,) = (tmp_path / "ope" / "tests" / "logged-v0").iterdir()
    assert json.loads((folder / "config.json").read_text())["env_id"] is None


def test_a_file_is_a_dataset_by_its_stem(data, tmp_path) -> None:
    """Its run's folder lies in the working folder, not below the file."""
    path = tmp_path / "the plant.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"], file["actions"], file["rewards"] = data.obs, data.action, data.reward
        file["next_observations"], file["terminals"] = data.next_obs, data.terminated
        file["timeouts"] = data.truncated
    task = task_from_dataset(adm_jax.load_dataset(path), "hopper")
    assert (task.name, task.has_env) == ("the plant", False)


def test_estimates_of_batches_are_put_together() -> None:
    members = [Member(seed, {}) for seed in (0, 1)]
    shared = {
        "members": [],
        "frozen": [],
        "bc": [],
        "evaluation": {"env_id": None, "num_episodes": 0, "reason": "none"},
    }
    parts = [
        {**shared, "estimates": [{"seed": seed}], "model": [{"seed": seed}], "wall_clock": {"total": 1.0}}
        for seed in (0, 1)
    ]
    merged = merge_results(members, parts)
    assert merged["estimates"] == [{"seed": 0}, {"seed": 1}]
    assert (merged["members"], merged["settings"], merged["evaluation"]["reason"]) == ([], [], "none")
