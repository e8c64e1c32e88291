"""ADMPO-OFF: learns policies from a dataset of real transitions, and evaluates them for real.

python -m experiments.admpo_off --task=hopper-builtin --seeds=0,1,2 --workdir=runs
python -m experiments.admpo_off --dynamics=ensemble --task=hopper-medium --dataset=hopper/mine-v0
python -m experiments.admpo_off --resume=runs/admpo_off/hopper-builtin/<run_id>

Without flags it runs a quick preset on the dataset that comes with the package. With an ensemble as dynamics
model the same loop is MOPO. A flag that is not given takes the task's published setting, and where there is
none, the default shown here.
"""

from absl import flags as absl_flags

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.types import InputError
from experiments import app, flags

FLAGS = absl_flags.FLAGS
flags.define(OfflineConfig)
flags.define_compilation_cache()
absl_flags.DEFINE_string(
    "resume", None, "folder of a run to continue from its newest checkpoint; excludes other flags"
)


def main(argv: list[str]) -> None:
    """Trains, evaluates and prints a table per seed."""
    del argv
    given = flags.explicit(OfflineConfig)
    if FLAGS.resume is not None and given:
        raise InputError(
            f"{next(iter(given))}: --resume keeps the run's configuration and takes no other flag"
        )
    config = config_for_task(**given)
    # Imported here, as it takes seconds: a mistyped flag is told at once.
    from adm_jax.training import compilation_cache, offline

    compilation_cache.enable(FLAGS.compilation_cache)
    if FLAGS.resume is not None:
        offline.resume(FLAGS.resume)
    else:
        offline.run(config)


if __name__ == "__main__":
    app.run(main)
