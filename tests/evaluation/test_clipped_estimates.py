"""Off-policy evaluation with --clip_to_data: other estimates, under a key of their own."""

import json
from pathlib import Path

import numpy as np

from adm_jax.config import config_for_task
from adm_jax.config.evaluation import OPEConfig
from adm_jax.config.settings import replace_flat
from adm_jax.evaluation import ope
from tests.evaluation.policy_files import write
from tests.tiny import TINY

FIT = ("fit_steps_per_epoch", "holdout_batch_size", "model_hidden_dim", "task", "max_backtrack")


def test_clipped_episodes_are_estimated_apart(tiny_dataset: str, tmp_path: Path, capsys) -> None:
    shared = {name: TINY[name] for name in FIT} | {
        "dataset": tiny_dataset,
        "fit_max_epochs": 1,
        "seeds": (0,),
    }
    plain = config_for_task(dynamics="adm_v2", workdir=str(tmp_path), termination="never", **shared)
    write(tmp_path / "wild.npz", {"w0": np.ones((11, 3)), "b0": np.zeros(3), "log_std": np.zeros(3)})
    config = OPEConfig(
        policies=str(tmp_path / "wild.npz"),
        models=str(tmp_path / "models"),
        num_episodes=4,
        horizon=30,
        fqe_steps=0,
    )
    found = [ope.run(config, [replace_flat(plain, {"clip_to_data": clips})]) for clips in (False, True, True)]
    told = ["policies were done before" in text for text in capsys.readouterr().out.split("run folder")[1:]]
    assert told == [False, False, True]
    returns = [result["estimates"]["1"]["adm_v2"][0]["mean"] for result in found]
    assert returns[0] != returns[1] == returns[2]
    assert all(0 < result["models"]["adm_v2"]["out_of_range_fraction"] <= 1 for result in found)
    folders = (tmp_path / "ope" / "hopper").iterdir()
    settings = [json.loads((folder / "config.json").read_text())["config"] for folder in folders]
    assert sorted(setting["clip_to_data"] for setting in settings) == [False, True, True]
