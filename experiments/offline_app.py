"""What the offline experiments have in common: their flags, and a run or a resume."""

from typing import Any

from absl import flags as absl_flags

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.types import InputError
from experiments import flags

FLAGS = absl_flags.FLAGS


def define(**defaults: Any) -> None:
    """Defines the flags of an offline run; call it once, at the script's top.

    Args:
      defaults: settings of this experiment, as ``run`` gets them; ``--help`` shows them.
    """
    flags.define(OfflineConfig)
    for name, value in defaults.items():
        FLAGS.set_default(name, value)
    flags.define_compilation_cache()
    absl_flags.DEFINE_string(
        "resume", None, "folder of a run to continue from its newest checkpoint; excludes other flags"
    )


def run(**defaults: Any) -> None:
    """Trains, evaluates and prints a table per seed.

    Args:
      defaults: settings of this experiment, below the flags that are given.
    """
    given = flags.explicit(OfflineConfig)
    if FLAGS.resume is not None and given:
        raise InputError(
            f"{next(iter(given))}: --resume keeps the run's configuration and takes no other flag"
        )
    config = config_for_task(**{**defaults, **given})
    # Imported here, as it takes seconds: a mistyped flag is told at once.
    from adm_jax.population import compilation_cache
    from adm_jax.training import offline

    compilation_cache.enable(FLAGS.compilation_cache)
    if FLAGS.resume is not None:
        offline.resume(FLAGS.resume)
    else:
        offline.run(config)
