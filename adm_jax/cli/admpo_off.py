"""ADMPO-OFF: learns policies from a dataset of real transitions, and evaluates them for real.

adm-jax offline --task=hopper-builtin --seeds=0,1,2 --workdir=runs
adm-jax offline --dynamics=ensemble --task=hopper-medium --dataset=hopper/mine-v0
adm-jax offline --resume=runs/admpo_off/hopper-builtin/<run_id>

Without flags it runs a quick preset on the dataset that comes with the package. With an ensemble as dynamics
model the same loop is MOPO. A flag that is not given takes the task's published setting, and where there is
none, the default shown here.
"""

from adm_jax.cli import learning
from adm_jax.config import OfflineConfig


def define() -> None:
    """Defines the flags."""
    learning.define(OfflineConfig)


def main(argv: list[str]) -> int:
    """Learns, evaluates and prints a table per seed; returns the exit code."""
    del argv
    return learning.run(OfflineConfig)
