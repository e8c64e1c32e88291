"""Off-policy evaluation: what policies return, estimated from a dataset without running them.

adm-jax ope --task=hopper-builtin --policies=POLICIES --real_episodes=20
adm-jax ope --task=hopper --dataset=hopper/mine-v0 --policies='snapshots/*.npz' \\
    --dynamics=adm_v2,adm,ensemble --truth=truth.json

Fits each of --dynamics to the dataset, rolls every policy out in it for whole episodes from the dataset's
initial states, and compares the estimates with the true returns, where they are given (--truth) or measured
(--real_episodes), and with fitted Q evaluation: DOPE's metrics with paired bootstrap intervals, a scatter
plot. Policies are this library's own (adm-jax collect keeps them), plain npz archives, or DOPE's pickles.
"""

from adm_jax.cli import measuring
from adm_jax.config.evaluation import OPEConfig


def define() -> None:
    """Defines the flags."""
    measuring.define(OPEConfig, "termination", "reward", "clip_to_data")


def main(argv: list[str]) -> None:
    """Evaluates, and prints a table of the estimators."""
    del argv
    measuring.run(OPEConfig, "ope")
