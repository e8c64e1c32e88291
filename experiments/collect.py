"""``adm-jax collect`` from a checkout: ``python -m experiments.collect``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("collect")
