"""ADMPO-ON: learns policies in the real environment with a dynamics model; beside it MBPO and SAC.

python -m experiments.admpo_on --task=hopper --seeds=0,1,2 --workdir=runs
python -m experiments.admpo_on --task=hopper --dynamics=ensemble
python -m experiments.admpo_on --task=hopper --dynamics=none --updates_per_step=20
python -m experiments.admpo_on --resume=runs/admpo_on/hopper/<run_id>

Tasks with published settings: hopper, walker2d, ant, humanoid (the last two observe positions and velocities
alone), and halfcheetah for MBPO; without flags it learns the inverted pendulum. With an ensemble as dynamics
model the same loop is MBPO, without one it is SAC. A flag that is not given takes the task's published
setting, and where there is none, the default shown here.
"""

from adm_jax.config import OnlineConfig
from experiments import app, training_app

training_app.define(OnlineConfig)


def main(argv: list[str]) -> None:
    """Learns, evaluates and prints a table per seed."""
    del argv
    training_app.run(OnlineConfig)


if __name__ == "__main__":
    app.run(main)
