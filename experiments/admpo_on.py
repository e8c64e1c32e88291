"""``adm-jax online`` from a checkout: ``python -m experiments.admpo_on``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("admpo_on")
