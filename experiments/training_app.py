"""What the experiments that train have in common: their flags, and a run or a resume."""

import importlib
from typing import Any

from absl import flags as absl_flags

from adm_jax.config import OfflineConfig, OnlineConfig, config_for_task, online_config_for_task
from adm_jax.types import InputError
from experiments import flags

FLAGS = absl_flags.FLAGS
_LOOPS = {
    OfflineConfig: (config_for_task, "adm_jax.training.offline"),
    OnlineConfig: (online_config_for_task, "adm_jax.training.online"),
}


def define(config_class: type, **defaults: Any) -> None:
    """Defines the flags of a run; call it once, at the script's top.

    Args:
      config_class: OfflineConfig or OnlineConfig.
      defaults: settings of this experiment, as ``run`` gets them; ``--help`` shows them.
    """
    flags.define(config_class)
    for name, value in defaults.items():
        FLAGS.set_default(name, value)
    flags.define_compilation_cache()
    text = "folder of a run to continue from its newest checkpoint; excludes other flags"
    flags.define_text("resume", text)


def run(config_class: type, **defaults: Any) -> None:
    """Trains, evaluates and prints a table per seed.

    Args:
      config_class: as ``define`` got it.
      defaults: settings of this experiment, below the flags that are given.
    """
    given = flags.explicit(config_class)
    if FLAGS.resume is not None and given:
        raise InputError(
            f"{next(iter(given))}: --resume keeps the run's configuration and takes no other flag"
        )
    for_task, module = _LOOPS[config_class]
    config = for_task(**{**defaults, **given})
    # Imported here, as it takes seconds: a mistyped flag is told at once.
    from adm_jax.population import compilation_cache

    loop = importlib.import_module(module)
    compilation_cache.enable(FLAGS.compilation_cache)
    if FLAGS.resume is not None:
        loop.resume(FLAGS.resume)
    else:
        loop.run(config)
