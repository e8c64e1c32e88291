"""Whose settings a run has: told at its start, and kept in its config.json."""

import json
from pathlib import Path

import pytest

from adm_jax.config import OfflineConfig, config_for_task, online_config_for_task, settings_source
from adm_jax.config.presets import source_of
from adm_jax.config.presets.offline import STEADY
from adm_jax.config.presets.preset import Preset
from adm_jax.config.settings import replace_flat
from adm_jax.envs.recovered import task_from_dataset
from adm_jax.tasks import Task, get_task
from adm_jax.training import offline
from adm_jax.training.data import load_data

FIELDS = {"name": "mine", "env_id": "Hopper-v4", "obs_dim": 11, "action_dim": 3, "termination": "hopper"}


@pytest.mark.parametrize(
    ("task", "dynamics", "expected"),
    [
        (
            "hopper-medium",
            "adm",
            "the authors' code (HxLyn3/ADMPO, 2025-02-13); with preset=paper where they",
        ),
        ("hopper-medium", "bootstrapped_rnn", "the authors' code (HxLyn3/ADMPO, 2025-02-13)"),
        ("hopper-medium", "ensemble", "OfflineRL-Kit's MOPO"),
        ("pen-human", "ensemble", "OfflineRL-Kit's MOPO: what its tasks share; it has no rollout_length"),
    ],
)
def test_the_family_of_the_model_decides(task, dynamics, expected):
    source = settings_source(config_for_task(task, dynamics=dynamics), get_task(task))
    assert source.startswith(expected)
    assert "given instead" not in source


def test_what_was_given_is_told():
    config = config_for_task("hopper-medium", penalty_coef=3.0, rollout_length=10, bc_steps=5)
    assert settings_source(config, get_task("hopper-medium")).endswith("; given instead: penalty_coef")


def test_a_task_that_does_not_say():
    silent = Task(**FIELDS, presets={"admpo_off": Preset({"gamma": 0.5})})
    assert settings_source(OfflineConfig(), silent) == (
        "task mine, which does not say where they come from; given instead: gamma"
    )


@pytest.mark.parametrize(("dynamics", "own"), [("adm", "max_backtrack=5, "), ("ensemble", "")])
def test_a_task_made_from_a_dataset_takes_the_librarys_own(tiny_dataset, dynamics, own):
    config = config_for_task("auto", dynamics=dynamics, dataset=tiny_dataset)
    task, data = load_data(config)
    assert task == task_from_dataset(data)
    assert settings_source(config, task) == (
        "no settings are published for this data: the library's preset steady, one setting for all data; "
        f"{own}rollout_length=5, rollout_batch_size=5000, penalty_coef=1.0, entropy_weight=0.05, "
        f"real_ratio=0.5, num_epochs={STEADY['num_epochs']}"
    )


def test_a_run_keeps_and_tells_it(tiny_config, monkeypatch, capsys):
    """Up to where it would begin to compile."""

    class Stop(Exception):
        pass

    def stop(*_):
        (path,) = Path(tiny_config.workdir).rglob("config.json")
        raise Stop(json.loads(path.read_text())["settings_source"])

    monkeypatch.setattr(offline, "compile_programs", stop)
    config = replace_flat(tiny_config, {"task": "hopper"})
    with pytest.raises(Stop) as stopped:
        offline.run(config)
    kept = str(stopped.value)
    assert kept.startswith("the published settings of hopper-medium; given instead: num_epochs, ")
    assert capsys.readouterr().out.count(f"settings: {kept}\n") == 1


@pytest.mark.parametrize(
    ("task", "dynamics", "expected"),
    [
        (
            "hopper",
            "adm",
            "arXiv 2405.17031, Table 4, and what the authors' code (",
        ),
        ("hopper", "ensemble", "the configurations of MBPO's authors"),
        ("hopper", "none", "what SAC has for all tasks"),
        ("halfcheetah", "adm", "not published: "),
        ("inverted_pendulum", "adm", "not published: "),
        ("pen-human", "adm", "what admpo has for all; task pen-human has no settings of its own for it"),
    ],
)
def test_online_the_source_is_told_as_well(task, dynamics, expected):
    config = online_config_for_task(task, dynamics)
    source = settings_source(config, get_task(task))
    assert source.startswith(expected)
    assert "given instead" not in source
    fewer = online_config_for_task(task, dynamics, num_steps=6_000)
    if task != "pen-human":
        assert settings_source(fewer, get_task(task)).endswith("; given instead: num_steps")


def test_online_what_lies_below_the_librarys_own_is_told():
    source = settings_source(online_config_for_task("hopper", "none", "steady"), get_task("hopper"))
    assert source == "preset steady above what SAC has for all tasks; as many steps as ADMPO-ON"


def test_online_settings_that_do_not_say_where_they_come_from():
    presets = {"sac": Preset({"gamma": 0.9})}
    assert source_of("mine", presets, "sac") == "task mine, which does not say where they come from"
