"""The library in a few functions: datasets, dynamics models, training, finished runs.

They are thin: what they call is the modules' own, which stays reachable for whoever composes ``jit`` and
``vmap`` of their own. Everything that is wrong with their arguments is one line of ``InputError``.
"""

from adm_jax.api.datasets import load_dataset
from adm_jax.api.models import KStepPrediction, Model, Trajectories, fit
from adm_jax.api.runs import Run, evaluate, load_run, resume, train_offline, train_online
from adm_jax.config.models import register_dynamics
from adm_jax.tasks import register_task
from adm_jax.types import InputError

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
