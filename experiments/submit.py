"""``adm-jax submit`` from a checkout: ``python -m experiments.submit``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("submit")
