"""Off-policy evaluation: what policies return, estimated from a dataset without running them.

python -m experiments.ope --task=hopper-builtin --policies=POLICIES --real_episodes=20
python -m experiments.ope --task=hopper --dataset=hopper/mine-v0 --policies='snapshots/*.npz' \\
    --dynamics=adm_v2,adm,ensemble --truth=truth.json

Fits each of --dynamics to the dataset, rolls every policy out in it for whole episodes from the dataset's
initial states, and compares the estimates with the true returns, where they are given (--truth) or measured
(--real_episodes), and with fitted Q evaluation: DOPE's metrics with paired bootstrap intervals, a scatter
plot. Policies are this library's own (experiments.collect keeps them), plain npz archives, or DOPE's pickles.
"""

from adm_jax.config.evaluation import OPEConfig
from experiments import app, measuring

measuring.define(OPEConfig, "termination", "reward")


def main(argv: list[str]) -> None:
    """Evaluates, and prints a table of the estimators."""
    del argv
    measuring.run(OPEConfig, "ope")


if __name__ == "__main__":
    app.run(main)
