"""``adm-jax compounding-error`` from a checkout: ``python -m experiments.compounding_error``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("compounding_error")
