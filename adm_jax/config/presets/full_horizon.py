"""Settings of full-horizon policy optimisation (ADM-v2's ADM2PO-fh), as data.

They come from a public clone of the authors' code, in which development history is mixed in: a row is the
newest version of that task's settings found there, and may not be the published one. Tasks without a row take
the defaults stated here. The penalty has the unbiased variance, as there; its coefficients belong to it.
"""

from typing import Any, NamedTuple

from adm_jax.config.presets.preset import Preset

STEPS_PER_EPOCH, UPDATES_PER_EPOCH = 25, 500
_BUFFER = 10_000_000  # transitions

# fmt: off
EPISODES: dict[str, Any] = {"persistent": True, "horizon": 1000, "rollout_length": STEPS_PER_EPOCH}
COMMON: dict[str, Any] = {
    "persistent": True, "horizon": 1000, "rollout_length": STEPS_PER_EPOCH,
    "updates_per_epoch": UPDATES_PER_EPOCH, "batch_size": 1024, "uncertainty": "sample_std_of_means",
    "actor_lr": 1e-4, "critic_lr": 3e-4, "actor_lr_schedule": "cosine", "eval_every": 20, "eval_episodes": 10,
    "checkpoint_every": 20,
}
# fmt: on


class _Row(NamedTuple):
    max_backtrack: int
    num_streams: int | None
    num_envs: int
    real_ratio: float
    penalty_coef: float
    entropy_weight: float | None  # adapted where None
    num_epochs: int
    others: dict[str, Any]


_WIDE, _CONSTANT, _LARGE = {"model_hidden_dim": 400}, {"actor_lr_schedule": "none"}, {"buffer": 3 * _BUFFER}
_BACKUP = {"deterministic_backup": True}

# fmt: off
_FOUND: dict[str, _Row] = {
    "hopper-random": _Row(5, 5, 4096, 0.05, 100.0, 0.5, 6000, {}),
    "halfcheetah-random": _Row(3, 3, 10_000, 0.2, 0.05, 0.1, 3000, _WIDE),
    "walker2d-random": _Row(5, 5, 4096, 0.05, 5.0, 0.05, 3000, {}),
    "hopper-medium": _Row(6, 6, 512, 0.2, 20.0, 0.1, 2000, _LARGE),
    "halfcheetah-medium": _Row(2, 2, 10_000, 0.05, 3.0, None, 3000, _WIDE),
    "walker2d-medium": _Row(5, 5, 4096, 0.05, 2.5, 0.05, 3000, _CONSTANT),
    "hopper-medium-replay": _Row(5, 5, 4096, 0.05, 25.0, 0.3, 2000, {}),
    "walker2d-medium-replay": _Row(5, 5, 4096, 0.05, 0.26, 0.02, 5000, _CONSTANT),
    "halfcheetah-medium-expert": _Row(2, 2, 10_000, 0.25, 2.9, None, 5000, _WIDE | _BACKUP),
    "walker2d-medium-expert": _Row(5, 5, 4096, 0.06, 2.5, 0.05, 3000, _CONSTANT),
    "neorl-hopper-medium": _Row(5, 4, 512, 0.05, 20.0, 0.5, 2000, _LARGE),
    "neorl-halfcheetah-high": _Row(2, 2, 5000, 0.05, 5.0, 0.2, 5000, _WIDE),
    "neorl-walker2d-medium": _Row(5, 5, 512, 0.1, 3.0, 0.25, 3000, _LARGE),
    "neorl-walker2d-high": _Row(5, 5, 2048, 0.1, 3.0, 0.4, 3000, {}),
}
# what is known of a task without a row: the first versions of its settings
_PARTLY: dict[str, dict[str, Any]] = {
    "halfcheetah-medium-replay": {
        "max_backtrack": 2, "penalty_coef": 2.5, "actor_lr": 7e-5, "actor_lr_schedule": "none",
    },
    "hopper-medium-expert": {"max_backtrack": 2, "penalty_coef": 20.0, "entropy_weight": 0.05},
    "neorl-halfcheetah-low": {"max_backtrack": 2, "entropy_weight": 0.1},
    "neorl-walker2d-low": {"max_backtrack": 5, "entropy_weight": 0.1},
}
_CODE = "a public clone of the ADM-v2 authors' code"
# fmt: on


def _settings(row: _Row) -> dict[str, Any]:
    """A row in flat configuration form."""
    others = dict(row.others)
    rows_per_epoch = row.num_envs * STEPS_PER_EPOCH
    entropy: dict[str, Any] = {"auto_entropy": True, "entropy_weight": 1.0, "entropy_lr": 1e-4}
    if row.entropy_weight is not None:
        entropy = {"entropy_weight": row.entropy_weight}
    return {
        "max_backtrack": row.max_backtrack,
        "num_streams": None if row.num_streams == row.max_backtrack else row.num_streams,
        "rollout_batch_size": row.num_envs,
        "retain_epochs": -(-others.pop("buffer", _BUFFER) // rows_per_epoch),
        "real_ratio": row.real_ratio,
        "penalty_coef": row.penalty_coef,
        **entropy,
        "num_epochs": row.num_epochs,
        **others,
    }


def default(task: str = "") -> dict[str, Any]:
    """What a task without a row takes: the code's defaults, HalfCheetah's backtracking length and width."""
    wide = "halfcheetah" in task
    row = _Row(2 if wide else 5, None, 4096, 0.05, 5.0, 0.1, 2000, _WIDE if wide else {})
    return {**_settings(row), **_PARTLY.get(task, {})}


# Hopper's medium-replay row cut to a run of minutes on two CPU cores, as the quick preset of ADMPO-OFF is.
_QUICK: dict[str, Any] = {
    **_settings(_FOUND["hopper-medium-replay"]), "rollout_batch_size": 1024, "retain_epochs": 40,
    "batch_size": 256, "num_epochs": 40, "actor_lr": 3e-4, "critic_lr": 1e-3, "actor_lr_schedule": "none",
    "eval_every": 10, "eval_episodes": 30, "checkpoint_every": 10, "fit_max_epochs": 12,
    "fit_steps_per_epoch": 400, "fit_patience": 12, "bc_steps": 10_000,
}  # fmt: skip


def adm2po(task: str) -> Preset:
    """ADM2PO's preset of a task."""
    if task == "hopper-builtin":
        source = f"quick preset: hopper-medium-replay of {_CODE}, fewer environments, larger rates"
        return Preset(_QUICK, source)
    if task in _FOUND:
        return Preset(_settings(_FOUND[task]), _CODE)
    source = f"defaults of {_CODE}; it has no settings for {task}"
    if task in _PARTLY:
        source = f"{_CODE}, first versions: {', '.join(_PARTLY[task])}; else its defaults"
    return Preset(default(task), source)
