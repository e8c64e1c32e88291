"""The console script, as pip installs it, outside the repository."""

import subprocess
import sys
from pathlib import Path

import pytest

import adm_jax
from adm_jax.cli.main import COMMANDS

SCRIPT = Path(sys.executable).with_name("adm-jax")


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
