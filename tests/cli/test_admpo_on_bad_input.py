"""What a user of the online command gets wrong, as a user runs it: one line, exit code 2."""

from pathlib import Path

import pytest

# environments as a user brings them, in a module of the current folder
SOURCE = """
import gymnasium
import numpy as np
from adm_jax.tasks import register_task

class Walk(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def reset(self, *, seed=None, options=None):
        self.steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(4, np.float32), np.nan if self.steps == 3 else 0.0, False, False, {}

class Discrete(Walk):
    action_space = gymnasium.spaces.Discrete(3)

class Image(Walk):
    observation_space = gymnasium.spaces.Box(0, 255, (8, 8, 3), np.uint8)

class Unbounded(Walk):
    action_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))

for env in (Walk, Discrete, Image, Unbounded):
    env_id = f"{env.__name__}-v0"
    gymnasium.register(env_id, env, max_episode_steps=5)
    register_task(
        name=env.__name__.lower(), env_id=env_id, obs_dim=4, action_dim=1, termination="halfcheetah"
    )
"""
TINY = [
    *("--seeds=7", "--num_steps=40", "--warmup_steps=20", "--log_every=20", "--eval_every=20"),
    *("--checkpoint_every=20", "--eval_episodes=1", "--dynamics=none", "--policy_hidden_dim=4"),
]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task=mine:discrete"], "environment Discrete-v0: observations and actions must be vectors, got "),
        (["--task=mine:image"], "environment Image-v0: observations and actions must be vectors, got "),
        (["--task=mine:unbounded"], "environment Unbounded-v0: its actions are unbounded; a policy needs "),
        (
            ["--task=hopper", "--model_every=30", "--steps_per_iteration=20"],
            "model_every: 30 is no multiple of steps_per_iteration 20",
        ),
        (["--task=hopper", "--dynamics=none", "--max_backtrack=3"], "max_backtrack: has no effect"),
        (["--dynamics=nothing"], "dynamics: 'nothing' is unknown"),
        (["--resume=absent"], "absent holds no run: config.json: No such file or directory"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, refused):
    Path("mine.py").write_text(SOURCE)
    resumed = arguments[0].startswith("--resume")
    done = refused("admpo_on", *arguments, *([] if resumed else ["--workdir=runs"]))
    assert message in done.stderr
    assert [path.name for path in Path().rglob("*") if path.is_file()] == ["mine.py"]


def test_a_number_that_is_not_finite_is_told_with_its_step_and_seed(refused):
    Path("mine.py").write_text(SOURCE)
    error = refused("admpo_on", "--task=mine:walk", *TINY).stderr
    assert "environment Walk-v0: step 2 of seed 7 gave the reward nan" in error
