"""A run on NeoRL2's data, whose environment is not installed: trained to the end, and not evaluated."""

import json
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.api.datasets import load_dataset
from adm_jax.api.runs import Run
from adm_jax.config import offline_from_flat
from adm_jax.training import driver, offline
from tests.data import neorl2_files
from tests.tiny import TINY
from tests.training.run_files import lines

pytestmark = pytest.mark.usefixtures("small_curves")


def test_a_run_ends_without_evaluation(tmp_path, capsys):
    """The most observations and the fewest actions, of whose range the data use but a part."""
    task, data = neorl2_files.TASKS["Pipeline"], load_dataset(neorl2_files.write(tmp_path, "Pipeline"))
    settings = {**TINY, "task": "auto", "dataset": None, "estimate_rows": 4}
    config = offline_from_flat({**settings, "workdir": str(tmp_path / "runs")})
    run = Run(driver.run_in(config, partial(offline.plan, data=data))[0])
    assert run.result is not None
    reason = run.result["evaluation"]["reason"]
    assert "names no environment" in reason
    assert run.result["evaluation"] == {"env_id": None, "num_episodes": 0, "reason": reason}
    assert run.result["members"] == run.result["settings"] == []
    assert [row["seed"] for row in run.result["estimates"]] == [0, 1]
    assert all(np.isfinite(value) for row in run.result["estimates"] for value in row.values())
    assert lines(run.path / "metrics.jsonl")[-1]["epoch"] == TINY["num_epochs"]
    assert json.loads((run.path / "config.json").read_text())["action_bounds"] == [
        [-1.0] * task.action_dim,
        [1.0] * task.action_dim,
    ]
    action = np.asarray(run.policy(seed=0)(jnp.asarray(data.obs[:5])))
    assert action.shape == (5, task.action_dim)
    assert (np.abs(action) <= 1).all()
    shown = capsys.readouterr().out
    assert "warning: policies are not evaluated for real, for want of an environment" in shown
    assert "actions lie within +-1: the dataset's action space; returns are estimated over" in shown
    assert f"nothing was evaluated for real: {reason}" in shown
