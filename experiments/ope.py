"""Off-policy evaluation: what policies return, told from a dataset, without running them.

python -m experiments.ope --task=hopper-builtin --policies=POLICIES --real_episodes=20
python -m experiments.ope --task=hopper --dataset=hopper/mine-v0 --policies='snapshots/*.npz' \\
    --dynamics=adm_v2,adm,ensemble --truth=truth.json

Fits each of --dynamics to the dataset, rolls every policy out in it for whole episodes from the dataset's
initial states, and compares the estimates with the true returns, where they are given (--truth) or measured
(--real_episodes), and with fitted Q evaluation: DOPE's metrics with paired bootstrap intervals, a scatter
plot. Policies are this library's own (experiments.collect keeps them), plain npz archives, or DOPE's pickles.
"""

from absl import flags as absl_flags

from adm_jax.config.evaluation import OPEConfig
from experiments import app, evaluation_app

FLAGS = absl_flags.FLAGS
evaluation_app.define(OPEConfig, "termination", "reward")


def main(argv: list[str]) -> None:
    """Evaluates, and prints a table of the estimators."""
    del argv
    config, fits = evaluation_app.configurations(OPEConfig)
    # Imported here, as it takes seconds: a mistyped flag is told at once.
    from adm_jax.evaluation import ope
    from adm_jax.population import compilation_cache

    compilation_cache.enable(FLAGS.compilation_cache)
    ope.run(config, fits)


if __name__ == "__main__":
    app.run(main)
