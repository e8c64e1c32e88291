"""Settings that run through everything in seconds, on a tiny real dataset."""

import os

TINY = {
    "task": "hopper",
    "dataset": "tests/tiny-hopper-v0",  # the fixture tiny_dataset makes it
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
    "estimate_rows": 0,
    "checkpoint_every": 2,
    "checkpoint_share": 1.0,
    "seeds": (0, 1),
}

# Those that preset steady takes, all of them on.
OPTIONS = {
    "estimate_rows": 4,
    "pretrain_steps": 10,
    "start": "cloned",
    "critic_start": "pretrained",
    "hold_epochs": 1,
    "cloning_weight": 0.1,
    "cloning_rows": "advantage",
    "standardize_obs": True,
    "critic_layer_norm": True,
    "actor_layer_norm": True,
    "num_critics": 3,
    "num_min_critics": 2,
    "actor_average": 0.1,
    "trace_decay": 0.8,
    "uncertainty_quantile": 0.9,
    "critic_lr_schedule": "cosine",
    "bc_lr_schedule": "cosine",
}

# Of XLA: programs that run for milliseconds compile three times as fast so. A member alone is then not the
# same to the last bit as among others: tests that compare populations of different sizes are marked bitwise.
QUICK_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
BITWISE_FLAGS = "--xla_backend_optimization_level=1"
_BITWISE_COMPILER = {"xla_backend_optimization_level": 1, "xla_cpu_use_fusion_emitters": True}


def bitwise_options() -> dict[str, int | bool] | None:
    """XLA's options that make a program what it is under BITWISE_FLAGS; None where nothing is quick."""
    return _BITWISE_COMPILER if os.environ["XLA_FLAGS"] == QUICK_FLAGS else None
