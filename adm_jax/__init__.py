"""Any-step dynamics models for model-based reinforcement learning, in JAX.

The names below are ``adm_jax.api``'s, imported when they are first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adm_jax.api import (
        InputError,
        KStepPrediction,
        Model,
        Run,
        Trajectories,
        evaluate,
        fit,
        load_dataset,
        load_run,
        register_dynamics,
        register_task,
        resume,
        train_offline,
        train_online,
    )

__version__ = "0.2.0"

__all__ = [
    "InputError",
    "KStepPrediction",
    "Model",
    "Run",
    "Trajectories",
    "evaluate",
    "fit",
    "load_dataset",
    "load_run",
    "register_dynamics",
    "register_task",
    "resume",
    "train_offline",
    "train_online",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("adm_jax.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
