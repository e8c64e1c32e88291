"""The documentation's dynamics model runs as it stands there."""

import dataclasses
import re
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from adm_jax.config import config_for_task, models
from adm_jax.config.models import get_model
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import make_dynamics
from adm_jax.training import offline
from adm_jax.types import InputError
from tests.dynamics.random_walk import OBS_NOISE, REWARD_NOISE, keys_of, random_walk

PAGE = Path(__file__).parents[2] / "docs" / "adding_a_dynamics_model.md"


@pytest.fixture
def linear_model(tmp_path, monkeypatch):
    """The page's model as a file in the current folder, as its reader would have it."""
    code = next(iter(re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)))
    (tmp_path / "linear_model.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(models, "_MODELS", dict(models._MODELS))
    monkeypatch.delitem(sys.modules, "linear_model", raising=False)
    return "linear_model:linear"


def test_the_pages_model_is_as_long_as_it_says(linear_model):
    lines = [line for line in Path("linear_model.py").read_text().splitlines() if line.strip()]
    assert f"a whole model in {len(lines)} lines:" in PAGE.read_text()
    assert len(lines) < 75


def test_the_pages_model_learns(linear_model):
    """The random walk is linear: its optimum is the true noise."""
    dynamics = make_dynamics(linear_model, 2, 1, get_model(linear_model).config_class())
    dataset = make_dataset(random_walk(), 1, holdout_fraction=0.2)
    config = config_for_task(
        "hopper", dynamics=linear_model, fit_steps_per_epoch=200, fit_max_epochs=6, fit_learning_rate=1e-2
    ).fit
    holdout = fitting.holdout_segments(dataset, 1, config)
    state = fitting.init(dynamics, dataset, jax.random.key(0))
    epoch = jax.jit(lambda *args: fitting.fit_epoch(dynamics, config, *args))
    while state.active:
        state, metrics = epoch(state, dataset, holdout, keys_of(int(state.epoch)))
    optimum = (2 * OBS_NOISE**2 + REWARD_NOISE**2) / 3
    np.testing.assert_allclose(metrics["model/holdout_mse"], optimum, rtol=0.06)


def test_the_pages_model_goes_through_the_offline_loop(linear_model, tiny_dataset, tmp_path):
    small = {
        "fit_steps_per_epoch": 20,
        "fit_max_epochs": 2,
        "rollout_batch_size": 50,
        "rollout_length": 2,
        "policy_hidden_dim": 8,
        "num_epochs": 1,
        "updates_per_epoch": 5,
        "bc_steps": 0,
        "eval_episodes": 1,
    }
    config = config_for_task(
        "hopper",
        dataset=tiny_dataset,
        dynamics=linear_model,
        workdir=str(tmp_path),
        **small,
    )
    result = offline.run(config)
    assert result["algorithm"] == "offline_linear"
    assert all(np.isfinite(member["return_mean"]) for member in result["members"])
    with pytest.raises(
        InputError, match=r"^uncertainty: std_of_means says nothing of the predictions of lin"
    ):
        offline.run(
            dataclasses.replace(
                config, rollout=dataclasses.replace(config.rollout, uncertainty="std_of_means")
            )
        )
