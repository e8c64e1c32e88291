"""Tasks of one's own: registered, and in modules of the current folder."""

import dataclasses
from pathlib import Path

import pytest

from adm_jax import config
from adm_jax.config.presets.preset import Preset
from adm_jax.tasks import TASKS, Task, get_task, register_task
from adm_jax.types import InputError

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
