"""``adm-jax import`` from a checkout: ``python -m experiments.import_dataset``."""

from adm_jax.cli.main import run

if __name__ == "__main__":
    run("import_dataset")
