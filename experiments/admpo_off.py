"""``adm-jax offline`` from a checkout: ``python -m experiments.admpo_off``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("admpo_off")
