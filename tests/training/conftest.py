"""A tiny real dataset and a configuration that runs through everything in seconds."""

import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.data import minari_io
from adm_jax.envs.collection import Experience
from adm_jax.settings import replace_flat

TINY = {
    "task": "hopper",
    "dataset": "tests/tiny-hopper-v0",
    "max_backtrack": 3,
    "model_hidden_dim": 16,
    "num_gru_layers": 2,
    "num_residual_blocks": 1,
    "dropout_rate": 0.1,
    "fit_steps_per_epoch": 10,
    "fit_max_epochs": 4,
    "holdout_batch_size": 64,
    "rollout_batch_size": 600,  # in 4 epochs more than twice the dataset: encoded histories are kept
    "rollout_chunk": 25,
    "rollout_length": 3,
    "retain_epochs": 2,
    "policy_hidden_dim": 16,
    "batch_size": 32,
    "real_ratio": 0.5,
    "num_epochs": 4,
    "updates_per_epoch": 10,
    "bc_steps": 10,
    "eval_every": 2,
    "eval_episodes": 2,
    "checkpoint_every": 2,
    "seeds": (0, 1),
}


@pytest.fixture(scope="session")
def tiny_dataset() -> str:
    """1,000 random steps of the real Hopper, saved as a Minari dataset; its id."""
    experience = Experience("Hopper-v4", [0], num_steps=1_000)
    rng = np.random.default_rng(0)
    for _ in range(1_000):
        experience.step(experience.random_action([rng]))
    minari_io.save(experience.episodes(), TINY["dataset"], env_id="Hopper-v4")
    experience.close()
    return TINY["dataset"]


@pytest.fixture
def tiny_config(tiny_dataset: str, tmp_path) -> OfflineConfig:
    return replace_flat(OfflineConfig(), {**TINY, "dataset": tiny_dataset, "workdir": str(tmp_path)})
