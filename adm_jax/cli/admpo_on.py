"""ADMPO-ON: learns policies in the real environment with a dynamics model; MBPO and SAC in the same loop.

adm-jax online --task=hopper --seeds=0,1,2 --workdir=runs
adm-jax online --task=hopper --dynamics=ensemble
adm-jax online --task=hopper --dynamics=none --updates_per_step=20
adm-jax online --resume=runs/admpo_on/hopper/<run_id>

Tasks with published settings: hopper, walker2d, ant, humanoid (the last two observe positions and velocities
alone), and halfcheetah for MBPO; without flags it learns the inverted pendulum. With an ensemble as dynamics
model the same loop is MBPO, without one it is SAC. A flag that is not given takes the task's published
setting, and where there is none, the default shown here.
"""

from adm_jax.cli import learning
from adm_jax.config import OnlineConfig


def define() -> None:
    """Defines the flags."""
    learning.define(OnlineConfig)


def main(argv: list[str]) -> int:
    """Learns, evaluates and prints a table per seed; returns the exit code."""
    del argv
    return learning.run(OnlineConfig)
