"""Published settings of the offline loop, as data: ADMPO-OFF's and MOPO's.

Which settings are the default. The ADM paper's tables and the authors' code differ in a few entries and in
one thing of weight: the paper penalises with Eq. 4, the code with the standard deviation of the m means.
The published coefficients, and the scores reported with them, belong to the code's form, whose scale is
another. So ``admpo_off`` is what the code runs, and ``admpo_paper`` only what the paper states otherwise.
How the dynamics model is fitted is part of neither: the library's own defaults reach a lower held-out error.

Left out of the AntMaze settings: the authors' code adds 1 to every reward there and clips the critics'
target at 0 (``q_clip``, medium and large mazes). The two contradict each other in sign, and nothing says
which of them is meant.
"""

from typing import Any

from adm_jax.config.presets.preset import Preset

# fmt: off
# m and the model's width of Table 4 and of the authors' code; nothing is published for offline data
TRUNCATED_SETTINGS: dict[str, Any] = {"max_backtrack": 2, "model_hidden_dim": 400}

_COMMON: dict[str, Any] = {
    "num_epochs": 5000, "updates_per_epoch": 1000, "rollout_batch_size": 50_000, "retain_epochs": 5,
    "real_ratio": 0.05, "entropy_weight": 0.1, "auto_entropy": False, "actor_lr": 1e-4,
    "actor_lr_schedule": "cosine", "model_hidden_dim": 200, "uncertainty": "std_of_means", "eval_every": 10,
    "eval_episodes": 10,
}

_Row = tuple[int, int, float, float, dict[str, Any]]
_BACKUP = {"deterministic_backup": True}
_ADAPTED = {"auto_entropy": True, "entropy_lr": 1e-4}  # the authors' default offline; online it is 3e-4

# environment and data -> max_backtrack, rollout_length, penalty_coef, entropy_weight and what else departs
# from _COMMON in the authors' code
D4RL: dict[str, _Row] = {
    "hopper-random": (5, 50, 5.0, 1.0, {"num_epochs": 3000}),
    "halfcheetah-random": (2, 10, 2.5, 0.1, {"num_epochs": 3000}),
    "walker2d-random": (2, 50, 2.5, 1.0, {"num_epochs": 3000}), "hopper-medium": (5, 10, 1.0, 0.05, {}),
    "halfcheetah-medium": (2, 5, 2.5, 0.1, {}), "walker2d-medium": (5, 10, 5.0, 0.01, {}),
    "hopper-medium-replay": (5, 5, 0.1, 0.05, {"real_ratio": 0.5}),
    "halfcheetah-medium-replay": (2, 5, 2.5, 0.1, {"actor_lr": 7e-5, "actor_lr_schedule": "none"}),
    "walker2d-medium-replay": (5, 5, 0.1, 0.1, {"real_ratio": 0.5}),
    "hopper-medium-expert": (2, 20, 20.0, 0.05, {"real_ratio": 0.5}),
    "halfcheetah-medium-expert": (2, 20, 9.16, 0.05, {"real_ratio": 0.5, "model_hidden_dim": 400}),
    "walker2d-medium-expert": (3, 2, 6.0, 0.011, {"real_ratio": 0.5}),
}
NEORL: dict[str, _Row] = {
    "hopper-low": (5, 20, 5.0, 0.1, {}), "halfcheetah-low": (2, 20, 10.0, 0.1, {}),
    "walker2d-low": (5, 10, 2.5, 0.1, {}), "hopper-medium": (5, 20, 50.0, 0.5, {}),
    "halfcheetah-medium": (2, 5, 20.0, 0.1, {}), "walker2d-medium": (5, 10, 5.0, 0.05, {}),
    "hopper-high": (5, 20, 50.0, 0.5, {}), "halfcheetah-high": (2, 10, 50.0, 0.1, {}),
    "walker2d-high": (5, 10, 2.5, 0.1, {}),
}
PEN_DATA: dict[str, _Row] = {
    "human": (2, 10, 25.0, 0.05, {"real_ratio": 0.8, "num_epochs": 1000, **_BACKUP}),
    "cloned": (2, 10, 25.0, 0.05, {"real_ratio": 0.5, "num_epochs": 1000, **_BACKUP}),
}
ANTMAZE_DATA: dict[str, _Row] = {
    "umaze": (2, 10, 25.0, 0.05, {"real_ratio": 0.5, **_BACKUP}),
    "umaze-diverse": (2, 5, 25.0, 0.05, {"real_ratio": 0.25, **_BACKUP}),
    "medium-play": (2, 5, 25.0, 1.0, {"real_ratio": 0.75, "actor_lr_schedule": "none", **_ADAPTED}),
    "medium-diverse": (2, 5, 25.0, 0.05, {"real_ratio": 0.95, **_BACKUP}),
    "large-play": (2, 5, 25.0, 0.05, {"real_ratio": 0.95, **_BACKUP}),
    "large-diverse": (2, 5, 25.0, 0.05, {"real_ratio": 0.95, **_BACKUP}),
}

PAPER_COMMON: dict[str, Any] = {"uncertainty": "total_variance"}  # Eq. 4
PAPER: dict[str, dict[str, Any]] = {
    "halfcheetah-medium-replay": {"actor_lr": 1e-4},  # Table 3
    "halfcheetah-medium-expert": {"rollout_length": 50, "penalty_coef": 10.0},  # Table 5
}

# MOPO as OfflineRL-Kit (yihaosun1124) runs it: H and penalty coefficient of each task it has settings for
_MOPO: dict[str, tuple[int, float]] = {
    "halfcheetah-medium": (5, 0.5), "hopper-medium": (5, 5.0), "walker2d-medium": (5, 0.5),
    "halfcheetah-medium-replay": (5, 0.5), "hopper-medium-replay": (5, 2.5),
    "walker2d-medium-replay": (1, 2.5), "halfcheetah-medium-expert": (5, 2.5),
    "hopper-medium-expert": (5, 5.0), "walker2d-medium-expert": (1, 2.5),
}
# for all tasks; MOPO fits whole passes over the data without a limit: here an epoch has a number of steps
MOPO_COMMON: dict[str, Any] = {
    "num_epochs": 3000, "updates_per_epoch": 1000, "rollout_batch_size": 50_000, "retain_epochs": 5,
    "real_ratio": 0.05, "auto_entropy": True, "entropy_weight": 1.0, "entropy_lr": 1e-4,
    "max_entropy_weight": 1.0, "actor_lr": 1e-4, "actor_lr_schedule": "cosine", "critic_lr": 3e-4,
    "uncertainty": "max_aleatoric", "fit_batch_size": 256, "fit_lr_decay": "none", "fit_max_epochs": 100,
    "fit_patience": 5, "fit_min_improvement": 0.01, "selection_metric": "mse", "eval_every": 10,
    "eval_episodes": 10,
}

_MOPO_SOURCE = "OfflineRL-Kit's MOPO"
_WIDE = ("humanoid", "pen")  # MBPO's networks have 400 hidden units there

# The library's own, one setting for all data; how it was found: docs/protocols.md
STEADY: dict[str, Any] = {
    "num_epochs": 20, "updates_per_epoch": 1_000, "rollout_length": 5, "rollout_batch_size": 5_000,
    "retain_epochs": 5, "real_ratio": 0.5, "penalty_coef": 1.0, "uncertainty": "std_of_means",
    "auto_entropy": False, "entropy_weight": 0.05, "tau": 0.01, "critic_lr": 1e-3, "actor_lr": 5e-5,
    "actor_lr_schedule": "cosine", "critic_layer_norm": True, "standardize_obs": True,
    "pretrain_steps": 20_000, "pretrain_tau": 0.05, "critic_start": "pretrained", "bc_steps": 40_000,
    "bc_lr": 1e-3, "bc_lr_schedule": "cosine", "bc_weight_decay": 0.05, "start": "cloned", "hold_epochs": 2,
    "cloning_rows": "advantage", "cloning_weight": 3.0, "actor_average": 1.6e-4, "eval_every": 2,
    "eval_episodes": 30, "checkpoint_every": 2, "estimate_rows": 64,
}
STEADY_SOURCE = "the library's preset steady, one setting for all data"
# cut to a run of minutes on two CPU cores
QUICK: dict[str, Any] = {
    **STEADY, "num_epochs": 10, "fit_max_epochs": 12, "fit_steps_per_epoch": 400, "fit_patience": 12,
    "pretrain_steps": 10_000, "bc_steps": 20_000,
}
# fmt: on


def admpo(row: _Row) -> dict[str, Any]:
    """A row of the authors' settings in flat configuration form."""
    max_backtrack, rollout_length, penalty_coef, entropy_weight, others = row
    return {
        **_COMMON,
        "max_backtrack": max_backtrack,
        "rollout_length": rollout_length,
        "penalty_coef": penalty_coef,
        "entropy_weight": entropy_weight,
        **others,
    }


def mopo(name: str) -> Preset:
    """MOPO's preset of a task: its own, its environment's medium one, or where neither is published."""
    env = name.partition("-")[0]
    key = name if name in _MOPO else f"{env}-medium"
    if key in _MOPO:
        source = _MOPO_SOURCE if key == name else f"{_MOPO_SOURCE} for {key}; none is published for {name}"
        return Preset(_mopo(key), source)
    source = f"{_MOPO_SOURCE}: what its tasks share; it has no rollout_length and penalty_coef for {env}"
    if env not in _WIDE:
        return Preset(source=source)
    source += ", and MBPO's 400 hidden units for Humanoid and adroit"
    return Preset({"model_hidden_dim": 400}, source)


def _mopo(key: str) -> dict[str, Any]:
    return dict(zip(("rollout_length", "penalty_coef"), _MOPO[key], strict=True))
