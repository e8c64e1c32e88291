"""``adm-jax adm2po`` from a checkout: ``python -m experiments.adm2po``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("adm2po")
