"""How models' errors grow over an episode: fed their own predictions on the actions of held-out episodes.

python -m experiments.compounding_error --task=hopper-builtin --dynamics=adm,adm_v2,ensemble
python -m experiments.compounding_error --task=hopper --dataset=hopper/mine-v0 --models=MODELS

Fits each of --dynamics to the dataset and draws the error after 1..1000 predictions, median and middle half.
"""

from absl import flags as absl_flags

from adm_jax.config.evaluation import CompoundingErrorConfig
from experiments import app, evaluation_app

FLAGS = absl_flags.FLAGS
evaluation_app.define(CompoundingErrorConfig, "termination")


def main(argv: list[str]) -> None:
    """Measures, and prints the medians after some numbers of steps."""
    del argv
    config, fits = evaluation_app.configurations(CompoundingErrorConfig)
    # Imported here, as it takes seconds: a mistyped flag is told at once.
    from adm_jax.evaluation import compounding_error
    from adm_jax.population import compilation_cache

    compilation_cache.enable(FLAGS.compilation_cache)
    compounding_error.run(config, fits)


if __name__ == "__main__":
    app.run(main)
