import dataclasses
import json

import pytest

from adm_jax.config import (
    OfflineConfig,
    ReplayConfig,
    SACConfig,
    all_leaves,
    config_for_task,
    models,
    offline_from_flat,
    online_config_for_task,
    online_from_flat,
    stored_settings,
)
from adm_jax.config.models import EnsembleConfig, ModelConfig, RecurrentConfig, get_model, register_dynamics
from adm_jax.config.presets import settings_of
from adm_jax.config.settings import leaves, replace_flat, setting, to_flat
from adm_jax.tasks import TASKS, get_task, register_task, registry
from adm_jax.types import InputError


@pytest.mark.parametrize("config_class", [OfflineConfig, ReplayConfig])
def test_leaf_names_are_unique_and_explained(config_class):
    all_leaves = list(leaves(config_class))
    names = [leaf.name for leaf in all_leaves]
    assert len(names) == len(set(names))
    assert set(names) == set(to_flat(config_class()))
    assert all(leaf.help for leaf in all_leaves)


@pytest.mark.parametrize("config_class", [OfflineConfig, ReplayConfig])
def test_configurations_are_hashable_and_equal_by_value(config_class):
    assert hash(config_class()) == hash(config_class())
    assert replace_flat(config_class(), to_flat(config_class())) == config_class()


def test_lists_of_json_become_tuples():
    assert replace_flat(OfflineConfig(), {"seeds": [4, 5]}).seeds == (4, 5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"gamma": 1.5}, "gamma: 1.5 is out of range; at least 0.0 and at most 1.0"),
        ({"tau": 0.0}, "tau: 0.0 is out of range; above 0.0 and at most 1.0"),
        ({"penalty_coef": float("inf")}, "penalty_coef: inf is out of range"),
        ({"penalty_coef": float("nan")}, "penalty_coef: nan is out of range"),
        ({"num_epochs": 0}, "num_epochs: 0 is out of range; at least 1"),
        ({"num_epochs": 2**31}, "num_epochs: 2147483648 is out of range; at least 1 and at most 2147483647"),
        ({"num_epochs": 1.0}, "num_epochs: 1.0 is not of type int"),
        ({"num_epochs": True}, "num_epochs: True is not of type int"),
        ({"gamma": True}, "gamma: True is not of type float"),
        ({"auto_entropy": 1}, "auto_entropy: 1 is not of type bool"),
        ({"members": "pmap"}, "members: 'pmap' is unknown; one of auto, vmap, map"),
        ({"seeds": ()}, "seeds: empty"),
        ({"seeds": (1, 1)}, "seeds: 1,1 names a seed twice"),
        ({"seeds": (-1,)}, "seeds: -1 is out of range"),
        ({"seeds": (2**32,)}, "seeds: 4294967296 is out of range"),
        ({"seeds": (0.5,)}, "seeds: 0.5 is not of type int"),
        ({"seeds": "01"}, "seeds: '01' is not a tuple; write one value as (x,)"),
        ({"memory_limit_gib": 0.0}, "memory_limit_gib: 0.0 is out of range; above 0.0"),
        ({"target_entropy": -3.0}, "target_entropy: has no effect without auto_entropy"),
        ({"entropy_lr": 1e-3}, "entropy_lr: has no effect without auto_entropy"),
        ({"max_entropy_weight": 1.0}, "max_entropy_weight: has no effect without auto_entropy"),
        ({"horizon": 100}, "horizon: has no effect without persistent"),
        ({"entropy_weight": 1e-300}, "entropy_weight: 1e-300 is out of range of float32"),
        ({"penalty_coef": 1e39}, "penalty_coef: 1e+39 is out of range of float32"),
        ({"max_backtrack": 33}, "max_backtrack: 33 is out of range; at least 1 and at most 32"),
        ({"eval_episodes": 1001}, "eval_episodes: 1001 is out of range; at least 1 and at most 1000"),
        ({"policy_hidden_dim": 16_385}, "policy_hidden_dim: 16385 is out of range"),
        ({"rollout_batch_size": 2**30}, "rollout_batch_size: times rollout_length"),
        ({"discount": 0.9}, "discount: no such field; known: "),
    ],
)
def test_wrong_values_are_named_in_one_line(values, message):
    with pytest.raises(InputError) as error:
        replace_flat(OfflineConfig(), values)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_nested_configurations_are_checked_too():
    with pytest.raises(InputError, match="max_backtrack"):
        OfflineConfig(model=RecurrentConfig(max_backtrack=0))
    assert SACConfig(auto_entropy=True, target_entropy=-3.0).target_entropy == -3.0


def test_whole_numbers_serve_as_floats():
    assert replace_flat(OfflineConfig(), {"penalty_coef": 1}).penalty_coef == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"actor_lr_schedule": "cosine"}, "actor_lr_schedule: no such field"),
        ({"num_steps": 101}, "steps_per_iteration: 50 does not divide"),
        ({"warmup_steps": 200_000}, "warmup_steps: 200000 is more than num_steps"),
    ],
)
def test_online_contradictions(values, message):
    with pytest.raises(InputError, match=message):
        replace_flat(ReplayConfig(), values)


@pytest.mark.parametrize(
    ("task", "preset"),
    [
        (name, preset)
        for name in TASKS
        for preset in ("code", "paper")[: 1 + ("admpo_paper" in TASKS[name].presets)]
    ],
)
def test_every_preset_is_a_valid_configuration(task, preset):
    config = config_for_task(task, preset)
    assert (config.task, config.preset) == (task, preset)
    flat = to_flat(config)
    settings = settings_of(task, get_task(task).presets, "admpo_off", preset)
    assert {name: flat[name] for name in settings} == settings


def test_an_override_wins_over_the_preset_and_the_preset_over_the_default():
    settings = get_task("hopper-medium-replay").presets["admpo_off"].settings
    name = next(name for name in settings if settings[name] != to_flat(OfflineConfig())[name])
    assert to_flat(config_for_task("hopper-medium-replay"))[name] == settings[name]
    default = to_flat(OfflineConfig())[name]
    assert to_flat(config_for_task("hopper-medium-replay", **{name: default}))[name] == default
    assert config_for_task().task == "hopper-builtin"
    with pytest.raises(InputError, match="task: 'cheetah' is unknown"):
        config_for_task("cheetah")


def test_what_runs_of_earlier_versions_have_stored_is_read():
    stored = {**to_flat(online_config_for_task("hopper")), "actor_lr_schedule": "none"}
    assert online_from_flat(stored) == online_config_for_task("hopper")
    with pytest.raises(InputError, match="actor_lr_schedule: cosine has no effect here; must be none"):
        online_from_flat({**stored, "actor_lr_schedule": "cosine"})
    flat = to_flat(config_for_task("hopper-medium"))
    later = set(flat) - set(stored_settings(OfflineConfig()))
    assert {"max_entropy_weight", "cloning_weight", "pretrain_steps"} <= later
    flat = {name: value for name, value in flat.items() if name not in later}
    assert offline_from_flat(flat) == config_for_task("hopper-medium")


def test_fields_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        OfflineConfig().task = "walker2d"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rollout_dropout": True}, "rollout_dropout: there is no dropout"),
        ({"batch_size": 8, "real_ratio": 0.05}, "real_ratio: 0.05 of batch_size 8"),
        ({"num_critics": 3, "num_min_critics": 4}, "num_min_critics: the minimum of 4 of num_critics=3"),
        ({"cloning_weight": 0.1, "real_ratio": 0.0}, "cloning_weight: clones real rows, and real_ratio=0"),
        ({"cloning_rows": "better"}, "cloning_rows: better has no effect without cloning_weight"),
        (
            {"cloning_rows": "advantage", "pretrain_steps": 10, "bc_steps": 0},
            "cloning_rows: advantage has no effect without cloning_weight",
        ),
        ({"cloning_weight": 0.1, "cloning_rows": "advantage"}, "cloning_rows: advantage needs values"),
        ({"expectile": 0.9}, "expectile: has no effect without pretrain_steps"),
        ({"critic_start": "pretrained"}, "critic_start: pretrained needs pretrained critics; set"),
        ({"pretrain_steps": 10}, "pretrain_steps: has no effect without cloning_rows=advantage or critic_"),
        ({"trace_decay": 0.5, "rollout_length": 1}, "trace_decay: has no effect with rollout_length=1"),
        ({"start": "cloned", "bc_steps": 0}, "start: cloned needs a cloned actor"),
        ({"hold_epochs": 1000}, "hold_epochs: 1000 of num_epochs=1000"),
    ],
)
def test_contradictions_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace_flat(OfflineConfig(), values)


def test_advantages_may_weigh_the_cloned_start_alone() -> None:
    config = replace_flat(OfflineConfig(), {"cloning_rows": "advantage", "pretrain_steps": 10})
    assert config.sac.cloning_weight == 0.0


# --- dynamics models ----------------------------------------------------------------------------------------


def test_a_models_settings_go_between_the_published_ones_and_overrides():
    published = get_task("hopper-medium-replay").presets["admpo_off"].settings
    config = config_for_task("hopper-medium-replay", dynamics="bootstrapped_rnn")
    assert config.model.max_backtrack == published["max_backtrack"]  # as for ADM: the same network
    assert config.penalty_coef == published["penalty_coef"]
    ensemble = config_for_task("hopper-medium-replay", dynamics="ensemble")
    assert isinstance(ensemble.model, EnsembleConfig)
    assert (ensemble.rollout.uncertainty, ensemble.fit.fit_patience) == ("max_aleatoric", 5)
    overridden = config_for_task("hopper-medium-replay", dynamics="ensemble", fit_patience=7, num_networks=6)
    assert (overridden.fit.fit_patience, overridden.model.num_networks) == (7, 6)


@pytest.mark.parametrize("dynamics", ["adm", "ensemble", "adm_v2"])
def test_where_nothing_is_published_settings_are_those_of_steady(dynamics):
    made = to_flat(config_for_task("auto", dynamics=dynamics, num_epochs=7))
    steady = to_flat(config_for_task("auto", "steady", dynamics, num_epochs=7))
    assert made == {**steady, "preset": "code"}
    quick = to_flat(config_for_task("hopper-builtin", dynamics=dynamics))
    assert {name for name, value in quick.items() if value != made[name]} >= {"num_epochs", "fit_max_epochs"}
    assert quick["cloning_weight"] == made["cloning_weight"] > 0
    with pytest.raises(InputError, match="preset: the paper states no settings for task auto"):
        config_for_task("auto", preset="paper")


@pytest.mark.parametrize("dynamics", ["adm", "bootstrapped_rnn", "ensemble"])
def test_every_models_configuration_survives_json(dynamics):
    config = config_for_task("hopper-builtin", dynamics=dynamics)
    flat = json.loads(json.dumps(to_flat(config)))
    assert offline_from_flat(flat) == config
    assert hash(offline_from_flat(flat)) == hash(config)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"dynamics": "gp"},
            "dynamics: 'gp' is unknown; one of adm, adm_v2, bootstrapped_rnn, ensemble, or mod",
        ),
        ({"dynamics": "no_such_module:gp"}, "dynamics: module 'no_such_module' cannot be imported"),
        ({"num_networks": 5}, "num_networks: no setting of the dynamics model adm, but of ensemble"),
        (
            {"dynamics": "ensemble", "max_backtrack": 3},
            "max_backtrack: no setting of the dynamics model ensemble, but of adm and adm_v2 and boot",
        ),
        (
            {"dynamics": "ensemble", "preset": "paper"},
            "preset: 'paper' exists for ADMPO alone; mopo has code and steady",
        ),
    ],
)
def test_settings_that_no_or_another_model_has_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        config_for_task("hopper-medium", **values)


def test_a_models_name_is_taken_once(monkeypatch):
    monkeypatch.setattr(models, "_MODELS", dict(models._MODELS))
    register_dynamics("mine", "module:function")
    register_dynamics("mine", "module:function")  # its module imported again under another name
    with pytest.raises(InputError, match="dynamics: mine is registered already, as another model"):
        register_dynamics("mine", "module:another")
    register_dynamics("mine", "module:function", EnsembleConfig, overwrite=True)
    assert get_model("mine").config_class is EnsembleConfig
    assert get_model("mine").algorithm == "offline_mine"


def test_a_models_setting_does_not_take_a_name_of_the_loops(monkeypatch):
    """One value would silently set both."""
    monkeypatch.setattr(models, "_MODELS", dict(models._MODELS))

    @dataclasses.dataclass(frozen=True)
    class Mine(ModelConfig):
        gamma: float = setting(0.5, "of something else")

    register_dynamics("mine", "module:function", Mine)
    with pytest.raises(InputError, match="gamma: a setting of the dynamics model mine and of the loop"):
        config_for_task(dynamics="mine")


def test_settings_of_a_task_for_the_ensemble_win_over_the_familys(monkeypatch):
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    own = {"uncertainty": "max_deviation", "fit_patience": 20}
    fields = {"obs_dim": 11, "action_dim": 3, "termination": "hopper", "env_id": "Hopper-v4"}
    register_task(name="mine", **fields, mopo_settings=own)
    config = config_for_task("mine", dynamics="ensemble")
    assert (config.rollout.uncertainty, config.fit.fit_patience) == ("max_deviation", 20)
    assert config.fit.fit_min_improvement == 0.01  # what the task leaves open is MOPO's


def test_flags_cover_every_models_settings():
    names = {leaf.name for leaf in all_leaves(OfflineConfig)}
    assert {"max_backtrack", "num_elites", "weight_decays"} <= names
    assert {leaf.name for leaf in all_leaves(ReplayConfig)} == set(to_flat(ReplayConfig()))
    with pytest.raises(InputError, match="model: dynamics=adm needs a RecurrentConfig, not EnsembleConfig"):
        OfflineConfig(model=EnsembleConfig())
