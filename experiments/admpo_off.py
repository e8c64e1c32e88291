"""ADMPO-OFF: learns policies from a dataset of real transitions, and evaluates them for real.

python -m experiments.admpo_off --task=hopper-builtin --seeds=0,1,2 --workdir=runs
python -m experiments.admpo_off --dynamics=ensemble --task=hopper-medium --dataset=hopper/mine-v0
python -m experiments.admpo_off --resume=runs/admpo_off/hopper-builtin/<run_id>

Without flags it runs a quick preset on the dataset that comes with the package. With an ensemble as dynamics
model the same loop is MOPO. A flag that is not given takes the task's published setting, and where there is
none, the default shown here.
"""

from adm_jax.config import OfflineConfig
from experiments import app, training_app

training_app.define(OfflineConfig)


def main(argv: list[str]) -> None:
    """Trains, evaluates and prints a table per seed."""
    del argv
    training_app.run(OfflineConfig)


if __name__ == "__main__":
    app.run(main)
