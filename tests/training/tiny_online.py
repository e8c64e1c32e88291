"""Settings that run through everything online in seconds, in the inverted pendulum."""

from adm_jax.config import OnlineConfig, online_config_for_task

TINY = {
    "task": "inverted_pendulum",
    "seeds": (0, 1),
    "num_steps": 140,
    "warmup_steps": 60,
    "updates_per_step": 2,
    "log_every": 20,
    "eval_every": 40,
    "eval_episodes": 2,
    "checkpoint_every": 40,
    "checkpoint_share": 1.0,
    "batch_size": 16,
    "policy_hidden_dim": 16,
}
TINY_MODEL = {
    "model_every": 20,
    "refit_epochs": 2,
    "real_ratio": 0.25,
    "fit_batch_size": 16,
    "fit_steps_per_epoch": 5,
    "fit_max_epochs": 3,
    "holdout_batch_size": 16,
    "rollout_batch_size": 30,
    "rollout_chunk": 20,
    "retain_rollouts": 2,
    "holdout_fraction": 0.5,
    "split_seed": 10,  # the first block is trained on; the second one, and the second lane's first, are not
    "rollout_length": 1,
    "final_rollout_length": 4,
    "growth_start": 0,
    "growth_end": 60,
}
MODELS = {
    "adm": {
        **TINY_MODEL,
        "max_backtrack": 3,
        "model_hidden_dim": 8,
        "num_gru_layers": 1,
        "num_residual_blocks": 1,
    },
    "ensemble": {
        **TINY_MODEL,
        "model_hidden_dim": 8,
        "num_hidden_layers": 1,
        "weight_decays": (0.0, 1e-4),
        "num_networks": 3,
        "num_elites": 2,
    },
    "none": {},
}


def tiny(dynamics: str = "adm", **others) -> OnlineConfig:
    return online_config_for_task(dynamics=dynamics, **{**TINY, **MODELS[dynamics], **others})
