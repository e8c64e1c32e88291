"""How models' errors grow over an episode: fed their own predictions on the actions of held-out episodes.

adm-jax compounding-error --task=hopper-builtin --dynamics=adm,adm_v2,ensemble
adm-jax compounding-error --task=hopper --dataset=hopper/mine-v0 --models=MODELS

Fits each of --dynamics to the dataset and draws the error after 1..1000 predictions, median and middle half.
"""

from adm_jax.cli import measuring
from adm_jax.config.evaluation import CompoundingErrorConfig


def define() -> None:
    """Defines the flags."""
    measuring.define(CompoundingErrorConfig, "termination")


def main(argv: list[str]) -> None:
    """Measures, and prints the medians after some numbers of steps."""
    del argv
    measuring.run(CompoundingErrorConfig, "compounding_error")
