"""Tasks: presets that the configuration accepts, dimensions and references that are the environments'."""

import dataclasses
from pathlib import Path

import gymnasium
import pytest

from adm_jax import config, tasks
from adm_jax.config.presets import settings_of, source_of
from adm_jax.config.presets.offline import STEADY
from adm_jax.config.presets.preset import Preset
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.dynamics.interface import make_dynamics
from adm_jax.envs import environment, termination
from adm_jax.tasks import TASKS, Task, get_task, register_task, registry
from adm_jax.types import InputError

D4RL = [f"{env}-{data}" for env in ("hopper", "walker2d", "halfcheetah")
        for data in ("random", "medium", "medium-replay", "medium-expert")]  # fmt: skip
NEORL = [f"neorl-{env}-{data}" for env in ("hopper", "walker2d", "halfcheetah")
         for data in ("low", "medium", "high")]  # fmt: skip
PEN = ["pen-human", "pen-cloned"]
ANTMAZE = [f"antmaze-{data}" for data in ("umaze", "umaze-diverse", "medium-play", "medium-diverse",
           "large-play", "large-diverse")]  # fmt: skip
BARE = ["hopper", "walker2d", "halfcheetah", "ant", "humanoid", "inverted_pendulum"]
BUILTIN = [*BARE, "hopper-builtin", *D4RL, *NEORL, *PEN, *ANTMAZE]


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch):
    before = dict(TASKS)
    yield
    registry._TASKS.clear()
    registry._TASKS.update(before)


def settings(name, family="admpo_off", preset="code"):
    return settings_of(name, get_task(name).presets, family, preset)


def test_the_registry_is_complete():
    assert set(TASKS) == set(BUILTIN)
    assert all(task.name == name for name, task in TASKS.items())


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("preset", ["code", "paper"])
def test_every_setting_is_a_valid_leaf_of_the_configuration(name, preset):
    if preset == "paper" and name not in (*D4RL, *NEORL):
        with pytest.raises(InputError, match=f"no settings for task {name}; give preset=code"):
            settings(name, preset=preset)
        return
    published = settings(name, preset=preset)
    built = replace_flat(config.OfflineConfig(), {**published, "task": name})
    flat = to_flat(built)
    assert {key: flat[key] for key in published} == published


@pytest.mark.parametrize("name", BUILTIN)
def test_what_mopo_published_is_a_valid_configuration(name):
    published = settings(name, "mopo")
    flat = to_flat(config.config_for_task(name, dynamics="ensemble"))
    assert {key: flat[key] for key in published} == published
    assert published["uncertainty"] == ("std_of_means" if name == "hopper-builtin" else "max_aleatoric")
    assert get_task(name).presets["mopo"].source


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("dynamics", ["adm_v2", "adm", "ensemble"])
def test_what_full_horizon_takes_is_a_valid_configuration(name, dynamics):
    published = settings(name, "adm2po")
    built = config.config_for_task(name, dynamics=dynamics, persistent=True)
    flat = to_flat(built)
    known = {key: value for key, value in published.items() if key in flat}
    assert {key: flat[key] for key in known} == known
    assert set(published) - set(flat) <= ({"num_streams", "max_backtrack"} if dynamics != "adm_v2" else set())
    assert (flat["rollout_length"], flat["updates_per_epoch"]) == (25, 500)
    assert flat["persistent"]
    assert get_task(name).presets["adm2po"].source
    offered = make_dynamics(built.dynamics, 11, 3, built.model).uncertainties
    assert built.rollout.uncertainty in offered


def test_a_task_without_a_row_takes_the_full_horizon_defaults():
    task = get_task("hopper")
    built = config.config_for_task("hopper", dynamics="adm_v2", persistent=True)
    assert built.rollout.rollout_batch_size == 4096
    assert built.rollout.rollout_batch_size * 25 * built.rollout.retain_epochs == pytest.approx(
        10e6, rel=0.02
    )
    assert (built.penalty_coef, built.num_epochs, built.model.streams) == (5.0, 2000, 5)
    assert "no settings for hopper" in source_of("hopper", task.presets, "adm2po")


def test_a_task_of_ones_own_takes_the_librarys_settings():
    task = register_task(name="mine", env_id="Hopper-v4", obs_dim=11, action_dim=3, termination="hopper")
    built = config.config_for_task("mine", dynamics="adm_v2", persistent=True)
    assert (built.start, built.num_epochs) == ("cloned", STEADY["num_epochs"])
    assert "preset steady" in source_of("mine", task.presets, "adm2po")


@pytest.mark.parametrize(
    ("name", "m", "streams", "envs", "ratio", "penalty", "alpha", "epochs"),
    [
        ("hopper-random", 5, 5, 4096, 0.05, 100, 0.5, 6000),
        ("halfcheetah-random", 3, 3, 10_000, 0.2, 0.05, 0.1, 3000),
        ("walker2d-random", 5, 5, 4096, 0.05, 5, 0.05, 3000),
        ("walker2d-medium", 5, 5, 4096, 0.05, 2.5, 0.05, 3000),
        ("halfcheetah-medium-expert", 2, 2, 10_000, 0.25, 2.9, None, 5000),
        ("walker2d-medium-expert", 5, 5, 4096, 0.06, 2.5, 0.05, 3000),
        ("neorl-halfcheetah-high", 2, 2, 5000, 0.05, 5, 0.2, 5000),
        ("neorl-walker2d-medium", 5, 5, 512, 0.1, 3, 0.25, 3000),
        ("neorl-walker2d-high", 5, 5, 2048, 0.1, 3, 0.4, 3000),
        ("hopper-medium", 6, 6, 512, 0.2, 20, 0.1, 2000),
        ("halfcheetah-medium", 2, 2, 10_000, 0.05, 3, None, 3000),
        ("hopper-medium-replay", 5, 5, 4096, 0.05, 25, 0.3, 2000),
        ("walker2d-medium-replay", 5, 5, 4096, 0.05, 0.26, 0.02, 5000),
        ("neorl-hopper-medium", 5, 4, 512, 0.05, 20, 0.5, 2000),
        # nothing is known of these, or little: the defaults
        ("hopper-medium-expert", 2, 2, 4096, 0.05, 20, 0.05, 2000),
        ("neorl-hopper-low", 5, 5, 4096, 0.05, 5, 0.1, 2000),
        ("halfcheetah-medium-replay", 2, 2, 4096, 0.05, 2.5, 0.1, 2000),
    ],
)
def test_full_horizon_settings(name, m, streams, envs, ratio, penalty, alpha, epochs):
    built = config.config_for_task(name, dynamics="adm_v2", persistent=True)
    assert (built.model.max_backtrack, built.model.streams) == (m, streams)
    assert (built.rollout.rollout_batch_size, built.real_ratio, built.penalty_coef) == (envs, ratio, penalty)
    assert built.sac.auto_entropy == (alpha is None)
    assert alpha is None or built.sac.entropy_weight == alpha
    assert built.num_epochs == epochs
    assert built.sac.batch_size == 1024
    assert built.model.model_hidden_dim == (400 if "halfcheetah" in name else 200)
    rows = envs * 25 * built.rollout.retain_epochs  # 1e7, or 3e7, in whole epochs
    large = ("hopper-medium", "neorl-hopper-medium", "neorl-walker2d-medium")
    assert 0 <= rows - (30e6 if name in large else 10e6) < envs * 25
    slower = name == "halfcheetah-medium-replay"
    constant = ("walker2d-medium", "walker2d-medium-replay", "walker2d-medium-expert")
    assert built.actor_lr_schedule == ("none" if slower or name in constant else "cosine")
    assert built.sac.deterministic_backup == (name == "halfcheetah-medium-expert")
    assert (built.sac.actor_lr, built.sac.critic_lr) == (7e-5 if slower else 1e-4, 3e-4)
    assert alpha is not None or built.sac.entropy_lr == 1e-4  # the authors' default offline
    assert built.rollout.uncertainty == "sample_std_of_means"


@pytest.mark.parametrize(
    ("name", "length", "penalty"),
    [
        ("halfcheetah-medium", 5, 0.5),
        ("hopper-medium", 5, 5),
        ("walker2d-medium", 5, 0.5),
        ("halfcheetah-medium-replay", 5, 0.5),
        ("hopper-medium-replay", 5, 2.5),
        ("walker2d-medium-replay", 1, 2.5),
        ("halfcheetah-medium-expert", 5, 2.5),
        ("hopper-medium-expert", 5, 5),
        ("walker2d-medium-expert", 1, 2.5),
        # nobody published these: their environment's medium ones
        ("walker2d-random", 5, 0.5),
        ("hopper", 5, 5),
        ("neorl-halfcheetah-high", 5, 0.5),
    ],
)
def test_mopo_settings(name, length, penalty):
    s = settings(name, "mopo")
    assert (s["rollout_length"], s["penalty_coef"], s["num_epochs"]) == (length, penalty, 3000)
    assert (s["rollout_batch_size"], s["retain_epochs"], s["real_ratio"]) == (50_000, 5, 0.05)
    assert (s["actor_lr"], s["critic_lr"], s["entropy_lr"], s["auto_entropy"]) == (1e-4, 3e-4, 1e-4, True)
    assert config.config_for_task(name, dynamics="ensemble").sac.max_entropy_weight == 1.0


@pytest.mark.parametrize(
    ("name", "width"),
    [*((name, None) for name in ("ant", "hopper-medium", "antmaze-umaze")),
     *((name, 400) for name in ("humanoid", "pen-human", "pen-cloned"))],
)  # fmt: skip
def test_the_width_of_mopos_networks(name, width):
    """MBPO's are twice as wide for Humanoid and adroit."""
    mopo = get_task(name).presets["mopo"]
    assert mopo.settings.get("model_hidden_dim") == width
    assert ("400 hidden units" in mopo.source) == (width is not None)
    assert config.config_for_task(name, dynamics="ensemble").model.model_hidden_dim == width or width is None


@pytest.mark.parametrize("name", ["ant", "pen-human", "antmaze-large-play"])
def test_where_mopo_published_nothing_it_is_said(name):
    mopo = get_task(name).presets["mopo"]
    assert not {"rollout_length", "penalty_coef"} & set(mopo.settings)
    assert "has no rollout_length and penalty_coef" in mopo.source
    for other in ("walker2d-random", "neorl-hopper-low"):
        assert "none is published" in get_task(other).presets["mopo"].source


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


@pytest.mark.parametrize(
    ("name", "m", "length", "penalty", "alpha", "ratio", "epochs"),
    [
        ("hopper-random", 5, 50, 5, 1.0, 0.05, 3000),
        ("halfcheetah-random", 2, 10, 2.5, 0.1, 0.05, 3000),
        ("walker2d-random", 2, 50, 2.5, 1.0, 0.05, 3000),
        ("hopper-medium", 5, 10, 1, 0.05, 0.05, 5000),
        ("halfcheetah-medium", 2, 5, 2.5, 0.1, 0.05, 5000),
        ("walker2d-medium", 5, 10, 5, 0.01, 0.05, 5000),
        ("hopper-medium-replay", 5, 5, 0.1, 0.05, 0.5, 5000),
        ("halfcheetah-medium-replay", 2, 5, 2.5, 0.1, 0.05, 5000),
        ("walker2d-medium-replay", 5, 5, 0.1, 0.1, 0.5, 5000),
        ("hopper-medium-expert", 2, 20, 20, 0.05, 0.5, 5000),
        ("halfcheetah-medium-expert", 2, 20, 9.16, 0.05, 0.5, 5000),
        ("walker2d-medium-expert", 3, 2, 6, 0.011, 0.5, 5000),
        ("neorl-hopper-low", 5, 20, 5, 0.1, 0.05, 5000),
        ("neorl-halfcheetah-low", 2, 20, 10, 0.1, 0.05, 5000),
        ("neorl-walker2d-low", 5, 10, 2.5, 0.1, 0.05, 5000),
        ("neorl-hopper-medium", 5, 20, 50, 0.5, 0.05, 5000),
        ("neorl-halfcheetah-medium", 2, 5, 20, 0.1, 0.05, 5000),
        ("neorl-walker2d-medium", 5, 10, 5, 0.05, 0.05, 5000),
        ("neorl-hopper-high", 5, 20, 50, 0.5, 0.05, 5000),
        ("neorl-halfcheetah-high", 2, 10, 50, 0.1, 0.05, 5000),
        ("neorl-walker2d-high", 5, 10, 2.5, 0.1, 0.05, 5000),
        ("pen-human", 2, 10, 25, 0.05, 0.8, 1000),
        ("pen-cloned", 2, 10, 25, 0.05, 0.5, 1000),
        ("antmaze-umaze", 2, 10, 25, 0.05, 0.5, 5000),
        ("antmaze-umaze-diverse", 2, 5, 25, 0.05, 0.25, 5000),
        ("antmaze-medium-play", 2, 5, 25, 1.0, 0.75, 5000),
        ("antmaze-medium-diverse", 2, 5, 25, 0.05, 0.95, 5000),
        ("antmaze-large-play", 2, 5, 25, 0.05, 0.95, 5000),
        ("antmaze-large-diverse", 2, 5, 25, 0.05, 0.95, 5000),
    ],
)
def test_published_settings(name, m, length, penalty, alpha, ratio, epochs):
    s = settings(name)
    assert (s["max_backtrack"], s["rollout_length"], s["penalty_coef"]) == (m, length, penalty)
    assert (s["entropy_weight"], s["real_ratio"], s["num_epochs"]) == (alpha, ratio, epochs)
    assert (s["rollout_batch_size"], s["retain_epochs"], s["updates_per_epoch"]) == (50_000, 5, 1000)
    replay_cheetah = name == "halfcheetah-medium-replay"
    play = name == "antmaze-medium-play"
    expected_lr = (7e-5 if replay_cheetah else 1e-4, "none" if replay_cheetah or play else "cosine")
    assert (s["actor_lr"], s["actor_lr_schedule"]) == expected_lr
    assert (s["auto_entropy"], s.get("entropy_lr")) == (play, 1e-4 if play else None)
    assert s.get("deterministic_backup", False) is (name in (*PEN, *ANTMAZE) and not play)
    assert s["model_hidden_dim"] == (400 if name == "halfcheetah-medium-expert" else 200)
    assert s["uncertainty"] == "std_of_means"


def test_the_paper_states_otherwise():
    paper = settings("halfcheetah-medium-expert", preset="paper")
    assert (paper["rollout_length"], paper["penalty_coef"]) == (50, 10)
    assert settings("halfcheetah-medium-replay", preset="paper")["actor_lr"] == 1e-4
    assert all(settings(name, preset="paper")["uncertainty"] == "total_variance" for name in D4RL + NEORL)


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


FIELDS = {
    "name": "mine",
    "env_id": "InvertedPendulum-v4",
    "obs_dim": 4,
    "action_dim": 1,
    "termination": "hopper",
}


def test_a_registered_task_is_known_everywhere():
    task = register_task(**FIELDS, settings={"max_backtrack": 2, "penalty_coef": 0.3})
    assert get_task("mine") is task is TASKS["mine"]
    built = config.config_for_task("mine", penalty_coef=0.4)
    assert (built.task, built.model.max_backtrack, built.penalty_coef) == ("mine", 2, 0.4)


def test_a_preset_may_be_given_whole_or_in_parts():
    task = register_task(
        **FIELDS,
        presets={"mopo": ({"penalty_coef": 3.0}, "ours")},
        settings={"penalty_coef": 0.3},
        source="mine",
        paper_settings={"penalty_coef": 0.4},
        online_settings={"admpo": {"num_steps": 6_000}},
        online_sources={"admpo": "theirs"},
    )
    assert task.presets == {
        "mopo": Preset({"penalty_coef": 3.0}, "ours"),
        "admpo_off": Preset({"penalty_coef": 0.3}, "mine"),
        "admpo_paper": Preset({"penalty_coef": 0.4}),
        "admpo_on": Preset({"num_steps": 6_000}, "theirs"),
    }
    assert config.config_for_task("mine", "paper").penalty_coef == 0.4
    assert config.online_config_for_task("mine").num_steps == 6_000
    again = register_task(task, settings={"penalty_coef": 0.5}, overwrite=True)
    assert again.presets == {**task.presets, "admpo_off": Preset({"penalty_coef": 0.5}, "mine")}


def test_a_name_is_taken_once():
    task = register_task(**FIELDS)
    register_task(dataclasses.replace(task))  # the same again
    with pytest.raises(InputError, match=r"task: 'mine' is registered already; .* overwrite=True"):
        register_task(**{**FIELDS, "obs_dim": 5})
    assert get_task("mine").obs_dim == 4
    register_task(task, obs_dim=5, overwrite=True)
    assert get_task("mine").obs_dim == 5
    with pytest.raises(InputError, match="task: 'hopper' is registered already"):
        register_task(**{**FIELDS, "name": "hopper"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": ""}, "name: ''"),
        ({"name": "a/b"}, "name: 'a/b': must be letters"),
        ({"name": "a:b"}, "name: 'a:b': must be letters"),
        ({"env_id": None}, "env_id: None: must be a text"),
        ({"obs_dim": 0}, "obs_dim: 0: must be at least 1"),
        ({"obs_dim": True}, "obs_dim: True: must be at least 1"),
        ({"action_dim": 1.5}, "action_dim: 1.5: must be at least 1"),
        ({"termination": print}, "termination: <built-in function print>: must be a text"),
        ({"obs_limit": 3}, "obs_limit: 3: must be obs_dim, 4"),
        ({"relabel_terminations": "yes"}, "relabel_terminations: 'yes': must be True or False"),
        ({"settings": [1]}, r"settings: \[1\]: must be a mapping"),
        ({"dataset": 3}, "dataset: 3: must be a text"),
        ({"online_settings": {"ppo": {}}}, "online_settings: 'ppo': is no family of settings: admpo, mbpo, "),
        (
            {"presets": {"ppo": ({}, "")}},
            "presets: 'ppo': is no family of settings: admpo_off, ",
        ),
        ({"presets": {"sac": 3}}, r"presets\['sac'\]: 3: must be \(settings, source\)"),
        ({"presets": {"sac": (3, "")}}, r"presets\['sac'\].settings: 3: must be a mapping"),
        ({"online_settings": {"sac": 3}}, r"online_settings\['sac'\]: 3: must be a mapping"),
        ({"online_sources": {"sac": 3}}, r"online_sources\['sac'\]: 3: must be a text"),
        ({"reference_min": 1.0}, "reference_max: None: must be a number, or both references None"),
        ({"reference_min": 1.0, "reference_max": float("nan")}, "reference_max: nan: must be a number"),
        (
            {"reference_min": 1.0, "reference_max": 1.0},
            "reference_max: 1.0: must be above reference_min, 1.0",
        ),
        ({"colour": "red"}, "got an unexpected keyword argument 'colour'; the fields are those of"),
    ],
)
def test_a_wrong_field_is_named_in_one_line(changes, message):
    with pytest.raises(InputError, match=f"^register_task: {message}") as error:
        register_task(**{**FIELDS, **changes})
    assert "\n" not in str(error.value)
    assert "mine" not in TASKS


def test_a_missing_field_is_named():
    with pytest.raises(InputError, match=r"register_task: missing .* 'obs_dim'"):
        register_task(name="mine", env_id="Hopper-v4")


def test_a_setting_that_is_none_is_named_with_its_task():
    register_task(**FIELDS, settings={"penalty": 1.0})
    with pytest.raises(InputError, match="task: mine: settings: penalty is no field of the configuration"):
        config.config_for_task("mine")


def test_a_task_of_a_module_in_the_current_folder():
    Path("my_robot_of_test_tasks.py").write_text(
        f"from adm_jax.tasks import register_task\nregister_task(**{FIELDS!r})\n"
    )
    assert get_task("my_robot_of_test_tasks:mine").obs_dim == 4
    assert config.config_for_task("my_robot_of_test_tasks:mine").task == "my_robot_of_test_tasks:mine"
    with pytest.raises(InputError, match=r"task: 'other' is unknown; one of hopper, .*, mine; or register"):
        get_task("my_robot_of_test_tasks:other")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "task: module 'broken_of_test_tasks' cannot be imported; it must lie in the current folder"),
        ("import no_such_module", "cannot be imported: No module named 'no_such_module'"),
        ("x = (", "task: importing 'broken_of_test_tasks' fails: SyntaxError: "),
        ("1 / 0", "task: importing 'broken_of_test_tasks' fails: ZeroDivisionError: division by zero"),
    ],
)
def test_a_module_that_cannot_be_imported_is_one_line(content, message):
    if content is not None:
        Path("broken_of_test_tasks.py").write_text(content)
    with pytest.raises(InputError, match=message) as error:
        get_task("broken_of_test_tasks:mine")
    assert "\n" not in str(error.value)
    assert isinstance(get_task("hopper"), Task)
