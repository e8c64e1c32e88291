"""ADMPO-ON: learns policies in the real environment with a dynamics model; beside it MBPO and SAC.

python -m experiments.admpo_on --task=hopper --seeds=0,1,2 --workdir=runs
python -m experiments.admpo_on --task=hopper --dynamics=ensemble
python -m experiments.admpo_on --task=hopper --dynamics=none --updates_per_step=20
python -m experiments.admpo_on --resume=runs/admpo_on/hopper/<run_id>

Tasks with published settings: hopper, walker2d, ant, humanoid (the last two observe positions and velocities
alone), and halfcheetah for MBPO; without flags it learns the inverted pendulum. With an ensemble as dynamics
model the same loop is MBPO, without one it is SAC. A flag that is not given takes the task's published
setting, and where there is none, the default shown here.
"""

from absl import flags as absl_flags

from adm_jax.config import OnlineConfig, online_config_for_task
from adm_jax.types import InputError
from experiments import app, flags

FLAGS = absl_flags.FLAGS
flags.define(OnlineConfig)
flags.define_compilation_cache()
absl_flags.DEFINE_string(
    "resume", None, "folder of a run to continue from its newest checkpoint; excludes other flags"
)


def main(argv: list[str]) -> None:
    """Learns, evaluates and prints a table per seed."""
    del argv
    given = flags.explicit(OnlineConfig)
    if FLAGS.resume is not None and given:
        raise InputError(
            f"{next(iter(given))}: --resume keeps the run's configuration and takes no other flag"
        )
    config = online_config_for_task(**given)
    # Imported here, as it takes seconds: a mistyped flag is told at once.
    from adm_jax.population import compilation_cache
    from adm_jax.training import online_run

    compilation_cache.enable(FLAGS.compilation_cache)
    if FLAGS.resume is not None:
        online_run.resume(FLAGS.resume)
    else:
        online_run.run(config)


if __name__ == "__main__":
    app.run(main)
