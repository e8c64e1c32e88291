"""What a user of the online command gets wrong, as a user runs it: one line, exit code 2."""

from pathlib import Path

import pytest

from adm_jax.runs import config_file

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
        (
            ["--task=mine:discrete"],
            "environment Discrete-v0: actions are Discrete(3); only Box, a vector, will do",
        ),
        (
            ["--task=mine:image"],
            "environment Image-v0: observations are Box(0, 255, (8, 8, 3), uint8); only ",
        ),
        (
            ["--task=mine:unbounded"],
            "environment Unbounded-v0: its actions are unbounded (action[0] lies within [-inf, inf]); a ",
        ),
        (
            ["--task=hopper", "--model_every=30", "--steps_per_iteration=20"],
            "model_every: 30 is no multiple of steps_per_iteration 20",
        ),
        (["--task=hopper", "--dynamics=none", "--max_backtrack=3"], "max_backtrack: has no effect"),
        (
            ["--task=hopper", "--dynamics=none", "--clip_to_data"],
            "clip_to_data: has no effect with dynamics=none, which has no dynamics model",
        ),
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


OTHERS = {  # what config.json says of a run, and what continues it; by the command that is given its folder
    "an offline run": ("admpo_on", "admpo_off", {}, "is a run of admpo_off, no online one; adm-jax offline "),
    "an ensemble's": ("admpo_on", "mopo", {}, "is a run of mopo, no online one; adm-jax offline --resume="),
    "full horizons'": ("admpo_on", "adm2po_fh", {}, "is a run of adm2po_fh, no online one; adm-jax offline "),
    "an online run": (
        "admpo_off",
        "sac",
        {"num_steps": 9},
        "is a run of sac, no offline one; adm-jax online ",
    ),
    "MBPO's": (
        "adm2po",
        "mbpo",
        {"num_steps": 9},
        "is a run of mbpo, no offline one; adm-jax online --resume=",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_runs_of_another_command_are_named(kind, refused, tmp_path):
    script, algorithm, settings, message = OTHERS[kind]
    folder = tmp_path / "a run"
    folder.mkdir()
    config = {"algorithm": algorithm, "task": "hopper", "members": [{"seed": 0}], "config": settings}
    config_file.write(folder, config)
    error = refused(script, f"--resume={folder}").stderr
    assert error.startswith(f"error: resume: {folder} {message}")
    assert error.endswith(f" --resume='{folder}' continues it\n")


@pytest.mark.parametrize("algorithm", ["ope", "compounding_error"])
def test_measurements_are_no_runs_to_resume(algorithm, refused):
    config = {"algorithm": algorithm, "task": "hopper", "members": [], "config": {}, "fits": {}}
    config_file.write(Path(), config)
    error = refused("admpo_off", "--resume=.").stderr
    command = algorithm.replace("_", "-")
    assert f"holds a measurement, {algorithm}, which goes on with the same flags: adm-jax {command}" in error


def test_a_number_that_is_not_finite_is_told_with_its_step_and_seed(refused):
    Path("mine.py").write_text(SOURCE)
    error = refused("admpo_on", "--task=mine:walk", *TINY).stderr
    assert "environment Walk-v0: step 2 of seed 7 gave the reward nan" in error
