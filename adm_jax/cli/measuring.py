"""What the commands that measure fitted models have in common: flags, and a configuration of each fit."""

import importlib
from typing import Any, TypeVar

from absl import flags as absl_flags

from adm_jax.cli import flags
from adm_jax.config import DERIVED_TASK, OfflineConfig, config_for_task
from adm_jax.config.evaluation import EvaluationConfig
from adm_jax.config.models import get_model
from adm_jax.config.settings import replace_flat, to_flat
from adm_jax.types import InputError

_SHARED = ("task", "dataset", "eval_env", "seeds", "workdir", "members", "matmul_precision")

C = TypeVar("C", bound=EvaluationConfig)
FLAGS = absl_flags.FLAGS


def define(config_class: type[EvaluationConfig], *others: str) -> None:
    """Defines the flags, with ``others`` of an offline run that it heeds."""
    flags.define(config_class)
    names = {*_SHARED, *others}
    flags.define(OfflineConfig, only=lambda leaf: leaf.name in names or leaf.group in ("model", "fit"))
    flags.define_compilation_cache()


def run(config_class: type[EvaluationConfig], measurement: str) -> None:
    """Measures as the command line asks for; ``measurement`` is a module of ``adm_jax.evaluation``."""
    config, fits = configurations(config_class)
    # Imported here, as it takes seconds: a mistyped flag is refused at once.
    from adm_jax.population import compilation_cache

    compilation_cache.enable(FLAGS.compilation_cache)
    importlib.import_module(f"adm_jax.evaluation.{measurement}").run(config, fits)


def configurations(config_class: type[C]) -> tuple[C, list[OfflineConfig]]:
    """What the command line asks for, and how each of its models is fitted.

    A setting goes to the models that have it; without a task, a dataset makes its own. Raises InputError: no
    model has a setting that was given, or a value is wrong.
    """
    config = replace_flat(config_class(), flags.explicit(config_class))
    given = flags.explicit(OfflineConfig)
    for name in flags.explicit(config_class):
        given.pop(name, None)
    if "dataset" in given and "task" not in given:
        given["task"] = DERIVED_TASK
    fits: list[OfflineConfig] = []
    used: set[str] = set()
    for dynamics in config.dynamics:
        own = set(to_flat(OfflineConfig(dynamics=dynamics, model=get_model(dynamics).config_class())))
        values: dict[str, Any] = {name: value for name, value in given.items() if name in own}
        used |= set(values)
        # nothing is penalised: what is estimated is the return
        fits.append(config_for_task(dynamics=dynamics, **values, penalty_coef=0.0))
    unused = sorted(set(given) - used)
    if unused:
        raise InputError(f"{unused[0]}: no setting of {', '.join(config.dynamics)}")
    return config, fits
