"""``--termination``, ``--reward`` and environments from modules of the current folder, as users run them."""

import importlib
import sys
from pathlib import Path

import gymnasium
import pytest

from adm_jax.config import config_for_task
from adm_jax.training.data import load_data
from tests.envs import recorded

SOURCE = """
import jax.numpy as jnp

def fallen(next_obs):
    return next_obs[..., 0] < 0.7

def column(obs, action, next_obs):
    return next_obs[:, 5:6]
"""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--termination=my_hopper:fallen", "--reward=my_hopper:column"],
            "reward: my_hopper:column gave float32 [2, 1] for [2, 11], [2, 3], [2, 11]; must be float32 [2]",
        ),
        (["--termination=my_hoper:fallen"], "termination: module 'my_hoper' cannot be imported"),
        (["--task=my_hopper:mine"], "adm_jax.tasks.register_task"),
    ],
)
def test_what_does_not_serve_is_one_line_before_anything_is_computed(flags, message, refused):
    Path("my_hopper.py").write_text(SOURCE)
    done = refused("admpo_off", "--max_backtrack=2", *flags)
    assert done.stdout == ""
    assert message in done.stderr
    assert [path.name for path in Path().rglob("*") if path.is_file()] == ["my_hopper.py"]


SWING = """
import gymnasium
import numpy as np

class Swing(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=2).astype(np.float32)
        return self.state.copy(), {}

    def step(self, action):
        self.state = self.state + np.float32([0.1, action[0]])
        return self.state.copy(), 0.0, bool(self.state[0] > 2.0), False, {}

gymnasium.register("mylab/Swing-v0", f"{__name__}:Swing", max_episode_steps=40)
"""
DATASET, AUTO = "mylab/swing/random-v0", ("--dataset=mylab/swing/random-v0",)


@pytest.fixture(params=["swing_envs", "swing_lab.envs", "swing_lab"])
def module(request, monkeypatch) -> str:
    """A user's module by its name, whose environment has been recorded; it is not imported any more."""
    name, path = request.param, Path(*request.param.split("."))
    path = path / "__init__.py" if name == "swing_lab" else path.with_suffix(".py")
    path.parent.mkdir(exist_ok=True)
    path.write_text(SWING)
    monkeypatch.syspath_prepend(str(Path.cwd()))
    importlib.import_module(name)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path("store").absolute()))
    recorded.record(DATASET, "mylab/Swing-v0", max_steps=40)
    forget(name)
    yield name
    forget(name)


def forget(module: str) -> None:
    gymnasium.registry.pop("mylab/Swing-v0", None)
    for name in (module, module.partition(".")[0]):
        sys.modules.pop(name, None)


def test_the_module_that_registers_a_datasets_environment_is_named_with_auto(module, refused):
    told = refused("admpo_off", "--task=auto", *AUTO).stderr
    assert "environment mylab/Swing-v0 is not registered with Gymnasium" in told
    assert "as --task=my_envs:auto imports my_envs" in told
    unknown = "what terminates mylab/Swing-v0 is not known; give --termination=module:function"
    assert unknown in refused("admpo_off", f"--task={module}:auto", *AUTO).stderr
    task, data = load_data(config_for_task(f"{module}:auto", dataset=DATASET, termination="never"))
    assert (task.env_id, task.obs_dim, task.action_dim) == ("mylab/Swing-v0", 2, 1)
    assert task.name == DATASET
    assert data.terminated.any()


@pytest.mark.parametrize("module", ["swing_envs"], indirect=True)
@pytest.mark.parametrize("command", ["adm2po", "ope", "compounding_error"])
def test_every_command_that_takes_auto_takes_the_module(module, command, refused):
    Path("policies").mkdir()
    given = ["--policies=policies"] if command == "ope" else []
    told = refused(command, f"--task={module}:auto", *AUTO, *given).stderr
    assert "what terminates mylab/Swing-v0 is not known" in told


@pytest.mark.parametrize("command", ["admpo_on", "collect"])
@pytest.mark.parametrize("task", ["auto", "swing_of_nobody:auto"])
def test_where_there_is_no_dataset_auto_is_told_so(command, task, refused):
    told = refused(command, f"--task={task}").stderr
    missing = "module 'swing_of_nobody' cannot be imported"
    assert (missing if ":" in task else "task: auto is made from a dataset, which offline, adm2po") in told
