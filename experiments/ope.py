"""``adm-jax ope`` from a checkout: ``python -m experiments.ope``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("ope")
