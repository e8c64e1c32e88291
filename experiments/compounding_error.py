"""How models' errors grow over an episode: fed their own predictions on the actions of held-out episodes.

python -m experiments.compounding_error --task=hopper-builtin --dynamics=adm,adm_v2,ensemble
python -m experiments.compounding_error --task=hopper --dataset=hopper/mine-v0 --models=MODELS

Fits each of --dynamics to the dataset and draws the error after 1..1000 predictions, median and middle half.
"""

from adm_jax.config.evaluation import CompoundingErrorConfig
from experiments import app, measuring

measuring.define(CompoundingErrorConfig, "termination")


def main(argv: list[str]) -> None:
    """Measures, and prints the medians after some numbers of steps."""
    del argv
    measuring.run(CompoundingErrorConfig, "compounding_error")


if __name__ == "__main__":
    app.run(main)
