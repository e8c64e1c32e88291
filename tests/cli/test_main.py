"""The console script, as pip installs it, outside the repository."""

import subprocess
import sys
from pathlib import Path

import pytest

import adm_jax
from adm_jax.cli.main import COMMANDS

SCRIPT = Path(sys.executable).with_name("adm-jax")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def adm_jax_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not SCRIPT.exists():
        pytest.skip("adm_jax is not installed in this environment")
    return subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("arguments", [(), ("--help",), ("help",)])
def test_without_a_command_it_lists_them(arguments):
    done = adm_jax_script(*arguments)
    assert done.returncode == 0, done.stderr
    listed = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")]
    assert listed == list(COMMANDS)


def test_it_tells_its_version():
    assert adm_jax_script("--version").stdout == f"{adm_jax.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("offlin",), "'offlin' is no command; one of offline, adm2po, online"),
        (("offline", "--taks=hopper"), "Unknown command line flag 'taks'"),
        (("import", "--source=d4rl"), "path: empty; give it"),
    ],
)
def test_bad_input_is_one_line(arguments, message):
    done = adm_jax_script(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_its_flags(command):
    done = adm_jax_script(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"adm-jax {command} --" in done.stdout
    assert "(default: " in done.stdout
    assert ("--resume" in done.stdout) == (command in ("offline", "online", "adm2po"))


def test_an_environment_in_the_current_folder_is_found():
    """Its class is imported by Gymnasium, long after the module that registers it."""
    Path("robot_env.py").write_text(
        "from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv as Robot\n"
    )
    Path("robot.py").write_text(
        "import gymnasium\nfrom adm_jax.tasks import register_task\n"
        "gymnasium.register('Robot-v0', entry_point='robot_env:Robot', max_episode_steps=20)\n"
        "register_task(name='robot', env_id='Robot-v0', obs_dim=4, action_dim=1, termination='never')\n"
    )
    settings = {"num_steps": 40, "seeds": 0, "policy_hidden_dim": 8, "batch_size": 8, "eval_episodes": 1}
    settings |= dict.fromkeys(("warmup_steps", "log_every", "eval_every", "checkpoint_every"), 20)
    flags = [f"--{name}={value}" for name, value in settings.items()]
    done = adm_jax_script("online", "--task=robot:robot", "--dynamics=none", *flags)
    assert done.returncode == 0, done.stderr
    assert len(list(Path("runs/sac").glob("*/*/result.json"))) == 1
