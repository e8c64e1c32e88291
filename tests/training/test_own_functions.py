"""A user's termination and reward reach the roll-outs of a run, or stop it before anything is computed."""

import json
from pathlib import Path

import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.tasks import register_task, registry
from adm_jax.training import offline
from adm_jax.types import InputError

MODULE = "own_functions_of_a_run"
SOURCE = """
import jax.numpy as jnp

def seven(obs, action, next_obs):
    return jnp.full(obs.shape[:1], 7.0)

def always(next_obs):
    return jnp.ones(next_obs.shape[:-1], bool)

def never(next_obs):
    return jnp.zeros(next_obs.shape[:-1], bool)

def matrix(obs, action, next_obs):
    return next_obs
"""


@pytest.fixture
def config(tiny_config) -> OfflineConfig:
    Path(f"{MODULE}.py").write_text(SOURCE)
    small = {"seeds": (0,), "num_epochs": 1, "fit_max_epochs": 1, "bc_steps": 0, "eval_every": 1}
    return replace_flat(tiny_config, small)


def test_they_decide_about_reward_and_termination(config) -> None:
    """The model has hardly been fitted: by Hopper's own function most roll-outs would end at once."""
    own = {"reward": f"{MODULE}:seven", "termination": f"{MODULE}:never", "penalty_coef": 0.0}
    offline.run(replace_flat(config, own))
    (path,) = Path(config.workdir).rglob("metrics.jsonl")
    last = json.loads(path.read_text().splitlines()[-1])
    assert last["rollout/penalized_reward"] == [7.0]
    assert last["rollout/terminated_fraction"] == [0.0]
    assert last["rollout/valid_fraction"] == [1.0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward": f"{MODULE}:matrix"}, r"reward: .*:matrix gave float32 \[2, 11\] .*must be float32 \[2\]"),
        ({"termination": f"{MODULE}:seven"}, r"termination: .*:seven fails on \[2, 11\]: "),
        (
            {"termination": f"{MODULE}:always"},
            "task hopper ends at 955 of the 955 states that do not terminate",
        ),
        ({"reward": "hopper"}, "reward: 'hopper' is malformed; must be module:function"),
    ],
)
def test_what_does_not_serve_leaves_no_run(config, values, message) -> None:
    with pytest.raises(InputError, match=message):
        offline.run(replace_flat(config, values))
    assert not list(Path(config.workdir).rglob("config.json"))


def test_a_task_whose_dimensions_are_not_its_environments_is_refused(config, monkeypatch) -> None:
    monkeypatch.setattr(registry, "_TASKS", dict(registry._TASKS))
    fields = {"obs_dim": 11, "action_dim": 3, "termination": "hopper", "dataset": config.dataset}
    register_task(name="other-hopper", env_id="HalfCheetah-v4", **fields)
    with pytest.raises(InputError, match=r"made in Hopper-v4|are not those of HalfCheetah-v4"):
        offline.run(replace_flat(config, {"task": "other-hopper"}))
    register_task(name="wide-hopper", env_id="Hopper-v4", **{**fields, "obs_dim": 12})
    with pytest.raises(InputError, match=r"obs has 11 .* needs 12"):
        offline.run(replace_flat(config, {"task": "wide-hopper"}))
