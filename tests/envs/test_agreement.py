"""Policies are evaluated on what the data hold: its keys, in its order, of the environment recorded."""

import contextlib
import dataclasses
import json

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import wrappers

from adm_jax.config import config_for_task
from adm_jax.data.episodes import FIELDS
from adm_jax.data.formats import minari_files, minari_io
from adm_jax.envs import environment
from adm_jax.envs.agreement import check_agreement
from adm_jax.envs.batch import make_batch
from adm_jax.tasks import register_task, registry
from adm_jax.training.data import load_data
from adm_jax.types import EnvSpec, InputError
from tests.envs import recorded

ID = "tests/swing-v0"


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch):
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    recorded.register()


def load(task: str = "auto", **settings):
    return load_data(config_for_task(task, dataset=ID, **settings))


def warned(caplog) -> str:
    """What was told of this dataset, one line for each, without its name."""
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    lines = [line for line in lines if "never changes" not in line and "no episode terminates" not in line]
    assert all("\n" not in line for line in lines)
    return "\n".join(line.partition("main_data.hdf5): ")[2] for line in lines)


def refused(task: str = "auto", **settings) -> str:
    with pytest.raises(InputError) as caught:
        load(task, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value).rpartition("main_data.hdf5): ")[2]


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


def test_an_environment_that_has_its_keys_in_another_order_is_evaluated_in_the_datas(caplog):
    recorded.record(ID, recorded.SWING_ID, max_steps=1000)
    task, data = load(own_task(env_kwargs={"order": "angle velocity"}))
    assert list(data.metadata["obs_layout"]) == ["velocity", "angle"]
    assert_evaluated_as_recorded(task, data)
    assert warned(caplog) == (
        f"observations are joined as in the data, velocity, angle; {recorded.SWING_ID} has angle, velocity\n"
        "task swing is not evaluated as recorded: order angle velocity (recorded: velocity angle)"
    )


def test_a_vector_has_no_keys_to_compare_with_the_datas(caplog):
    """With seeds its first observation tells; without, only the user can."""
    recorded.record(ID, recorded.SWING_ID, max_steps=1000)
    task, data = load(own_task(env_kwargs={"order": ""}))
    assert "starts at obs[0] 0, and at" in warned(caplog)
    caplog.clear()
    check_agreement(dataclasses.replace(data, resets=()), task.env, "task swing")
    told = f"as in the data, velocity, angle; {recorded.SWING_ID} has no keys to compare them by"
    assert told in warned(caplog)


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


# --- the dataset's own eval_env ---

EVAL_ENVS = {
    "an argument": ({"unit": 57.3}, "unit 57.3 (recorded: 1.0)"),
    "two arguments": (
        {"order": "angle velocity", "unit": -1.0},
        "order angle velocity (recorded: velocity angle); unit -1.0 (recorded: 1.0)",
    ),
}


@pytest.mark.parametrize("kind", EVAL_ENVS)
def test_an_eval_env_that_differs_is_told_and_the_recorded_one_evaluated(kind, caplog):
    kwargs, told = EVAL_ENVS[kind]
    recorded.record(ID, recorded.SWING_ID, max_steps=50, eval_steps=40, eval_kwargs=kwargs)
    task, data = load()
    assert_evaluated_as_recorded(task, data)
    assert warned(caplog) == (
        f"evaluated in {recorded.SWING_ID} as it was recorded; the dataset's eval_env differs: {told}; "
        f"--eval_env=dataset evaluates there; its reference scores are left out\n"
        f"task {ID} is not evaluated as recorded: max_episode_steps 40 (recorded: 50)"
    )
    assert task.normalized_score(1.0) is None
    assert environment.step_limit(environment.make_env(task.env)) == 40


def test_the_datasets_eval_env_can_be_chosen(caplog):
    recorded.record(ID, recorded.SWING_ID, max_steps=50, eval_steps=50, eval_kwargs={"unit": 2.0})
    task, data = load(eval_env="dataset")
    told = "task tests/swing-v0 is not evaluated as recorded: unit 2.0 (recorded: 1.0); episode 0"
    assert told in warned(caplog)
    assert task.normalized_score(250.0) == 100.0
    env = environment.make_env(task.env)
    assert (env.reset(seed=0)[0] == 2 * data.obs[0]).all()


def test_an_eval_env_of_another_name_can_be_chosen(caplog):
    recorded.record(ID, recorded.SWING_ID, order="", unit=0.5, max_steps=1000)
    folder = minari_files.dataset_dir(ID) / "data" / "metadata.json"
    metadata = json.loads(folder.read_text())
    metadata["eval_env_spec"] = metadata["env_spec"].replace(recorded.SWING_ID, "TestSwing/Other-v3")
    folder.write_text(json.dumps(metadata))
    gymnasium.register("TestSwing/Other-v3", recorded.Swing, max_episode_steps=1000)
    try:
        assert load(eval_env="dataset")[0].env_id == "TestSwing/Other-v3"
        assert f"environment TestSwing/Other-v3 (recorded: {recorded.SWING_ID})" in warned(caplog)
        caplog.clear()
        assert load()[0].env_id == recorded.SWING_ID
        assert "the dataset's eval_env differs: environment TestSwing/Other-v3" in warned(caplog)
    finally:
        del gymnasium.registry["TestSwing/Other-v3"]


def test_an_eval_env_that_is_the_same_in_other_words_is_none(caplog):
    """An argument that is its default, and a renderer."""
    recorded.record(ID, recorded.SWING_ID, max_steps=50, eval_steps=50, eval_kwargs={"unit": 1.0})
    assert load()[0].normalized_score(250.0) == 100.0
    assert warned(caplog) == ""


def test_where_there_is_no_eval_env_to_choose():
    recorded.record(ID, recorded.SWING_ID)
    with pytest.raises(InputError, match=r"^eval_env: .* stores no eval_env; leave --eval_env out$"):
        load(eval_env="dataset")
    with pytest.raises(InputError, match=r"^eval_env: dataset needs --task=auto; task swing has its own env"):
        load(own_task(), eval_env="dataset")
    with pytest.raises(InputError, match=r"^eval_env: 'both' is unknown; one of recorded, dataset$"):
        load(eval_env="both")


def test_a_copy_keeps_both(caplog):
    recorded.record("tests/first-v0", recorded.SWING_ID, eval_steps=50, eval_kwargs={"unit": 2.0})
    minari_io.save(minari_io.load("tests/first-v0"), ID, env_id=recorded.SWING_ID)
    assert load()[0].env.kwargs == {}
    assert "the dataset's eval_env differs: unit 2.0 (recorded: 1.0)" in warned(caplog)
    assert load(eval_env="dataset")[0].env.kwargs == {"unit": 2.0}
    assert minari.load_dataset(ID).recover_environment(eval_env=True).spec.kwargs == {"unit": 2.0}


# --- wrappers ---


@pytest.mark.parametrize(
    ("wrapper", "what"),
    [
        (wrappers.NormalizeObservation, "running mean and variance are"),
        (wrappers.NormalizeReward, "running variance is"),
    ],
)
@pytest.mark.parametrize("is_own", [False, True])
def test_a_wrapper_whose_state_is_not_in_the_data_is_refused_by_name(wrapper, what, is_own):
    recorded.record(ID, recorded.SWING_ID, order="", wrap=wrapper)
    assert refused(own_task(env_kwargs={"order": ""}) if is_own else "auto") == (
        f"environment {recorded.SWING_ID} is wrapped in {wrapper.__name__}, whose {what} not in the data, so "
        "that nothing can be evaluated as it was recorded; record without it"
    )


def test_stacked_frames_must_be_flat():
    recorded.record(ID, recorded.SWING_ID, order="", wrap=lambda env: wrappers.FrameStackObservation(env, 3))
    assert refused() == (
        "observations are Box([3, 4]); must be a vector: record through FlattenObservation, over "
        "FrameStackObservation too"
    )


@pytest.mark.filterwarnings("ignore:.*precision lowered by casting")  # of Gymnasium's own wrappers
@pytest.mark.parametrize(
    "wrap",
    [
        lambda env: wrappers.FlattenObservation(wrappers.FrameStackObservation(env, 3)),
        lambda env: wrappers.RescaleAction(env, -3.0, 3.0),
        lambda env: wrappers.TimeAwareObservation(env),
        lambda env: wrappers.DelayObservation(env, 2),
    ],
)
def test_what_wrappers_without_such_a_state_do_is_evaluated(wrap, caplog):
    recorded.record(ID, recorded.SWING_ID, order="", wrap=wrap)
    assert_evaluated_as_recorded(*load())
    assert warned(caplog) == ""


def test_a_function_that_no_dataset_can_name_shows_in_the_first_observation():
    """Minari stores no environment at all then, so that a task names it."""

    def wrap(env):
        return wrappers.TransformObservation(env, lambda obs: 10 * obs, env.observation_space)

    recorded.record(ID, recorded.SWING_ID, order="", wrap=wrap)
    assert not load()[0].has_env
    start = gymnasium.make(recorded.SWING_ID, order="").reset(seed=0)[0][0]
    assert refused(own_task(env_kwargs={"order": ""})) == (
        f"episode 0, recorded with seed 0, starts at obs[0] {10 * start:g}, and at {start:g} in the "
        "environment reset with it (2 of 4 entries differ); the data or the environment were changed since, "
        "and task swing would be evaluated on other observations than it learns from; give --task=<name> of "
        "one that observes what the data hold"
    )


def test_a_function_of_the_reward_shows_in_the_first_step(caplog):
    def wrap(env):
        return wrappers.TransformReward(env, lambda reward: 10 * reward)

    recorded.record(ID, recorded.SWING_ID, order="", wrap=wrap)
    _, data = load(own_task(env_kwargs={"order": ""}))
    assert warned(caplog) == (
        f"task swing is not evaluated as recorded: a first step's reward {data.reward[0] / 10:g} "
        f"(recorded: {data.reward[0]:g})"
    )


# --- a task of one's own ---


def test_arguments_and_wrappers_that_differ_are_told(caplog):
    def wrap(env):
        return wrappers.RescaleAction(env, -0.5, 0.5)

    recorded.record(ID, recorded.SWING_ID, order="", unit=2.0, max_steps=50, wrap=wrap)
    _, data = load(own_task(env_kwargs={"order": ""}))
    start = data.obs[0, 0]
    assert warned(caplog) == (
        "task swing is not evaluated as recorded: unit 1.0 (recorded: 2.0); max_episode_steps 1000 "
        "(recorded: 50); wrappers none (recorded: RescaleAction(min_action=-0.5, max_action=0.5)); "
        "action[0] in [-1, 1] (recorded: [-0.5, 0.5]); episode 0, recorded with seed 0, starts at obs[0] "
        f"{start:g}, and at {start / 2:g} in the environment reset with it (2 of 4 entries differ)"
    )


def test_an_environment_that_was_changed_since_is_refused(monkeypatch):
    """Degrees where there were radians, under the same name; as the dataset names it, and as a task does."""
    recorded.record(ID, recorded.SWING_ID, order="")
    observe = recorded.Swing._observe
    monkeypatch.setattr(recorded.Swing, "_observe", lambda env: np.float32(57.3) * observe(env))
    for task in ("auto", own_task(env_kwargs={"order": ""})):
        assert "episode 0, recorded with seed 0, starts at obs[0] 1." in refused(task)


def test_another_version_explains_another_start(caplog):
    recorded.record(ID, recorded.SWING_ID, order="", max_steps=1000)
    gymnasium.register("TestSwing-v1", recorded.Swing, max_episode_steps=1000)
    try:
        load(own_task(env_id="TestSwing-v1", env_kwargs={"order": "", "unit": 3.0}))
    finally:
        del gymnasium.registry["TestSwing-v1"]
    assert "environment TestSwing-v1 (recorded: TestSwing-v0)" in warned(caplog)
    assert "starts at obs[0]" in warned(caplog)


def test_options_of_the_recorded_reset_are_given_again(caplog):
    options = {"angle": np.array([0.5, -0.5]), "nested": {"kind": "calm"}}
    recorded.record(ID, recorded.SWING_ID, options=options)
    task, data = load()
    assert data.obs[0].tolist() == [0.0, 0.0, 0.5, -0.5]
    (first, *_) = data.resets
    assert (first.episode, first.seed) == (0, 0)
    assert first.options is not None
    assert first.options["nested"] == {"kind": "calm"}
    assert warned(caplog) == ""
    without = tuple(reset._replace(options=None) for reset in data.resets)
    with pytest.raises(InputError, match="starts at obs"):
        check_agreement(dataclasses.replace(data, resets=without), task.env, "task x")


@pytest.mark.parametrize("kind", ["selected", "scaled"])
def test_arrays_that_were_worked_on(kind):
    """Episodes that are left out change nothing; other numbers do."""
    recorded.record(ID, recorded.SWING_ID)
    task, data = load()
    if kind == "selected":
        rows = slice(int(data.episode_ends[0]) + 1, None)
        data = dataclasses.replace(data, **{name: getattr(data, name)[rows] for name in FIELDS})
        check_agreement(data, task.env, "task x")
        return
    data = dataclasses.replace(data, obs=data.obs / 3, next_obs=data.next_obs / 3)
    with pytest.raises(InputError, match=r"starts at obs\[2\] 0"):
        check_agreement(data, task.env, "task x")


@pytest.mark.parametrize(
    ("reset", "told"),
    [
        (lambda env, **_: (np.random.default_rng().uniform(1, 2, 4).astype(np.float32), {}),
         "its environment starts elsewhere each time with one seed"),
        (lambda env, **_: 1 / 0, "episode 0 cannot be begun again (division by zero)"),
    ],
)  # fmt: skip
def test_a_start_that_cannot_be_had_again_is_told(monkeypatch, caplog, reset, told):
    recorded.record(ID, recorded.SWING_ID, order="")
    monkeypatch.setattr(recorded.Swing, "reset", reset)
    load()
    assert warned(caplog) == told


def test_the_built_in_data_are_evaluated_as_recorded(caplog):
    load_data(config_for_task("hopper-builtin"))
    assert caplog.text == ""
