"""Flags and the way scripts end, in this process: each case with flag values of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from absl import flags as absl_flags

from adm_jax.cli import app, flags
from adm_jax.config import OfflineConfig, ReplayConfig, config_for_task
from adm_jax.config.evaluation import CompoundingErrorConfig, OPEConfig
from adm_jax.config.settings import leaves, to_flat
from adm_jax.runs import signals
from adm_jax.types import InputError

CONFIGS = [OfflineConfig, ReplayConfig, OPEConfig, CompoundingErrorConfig]


def parse(*arguments: str, config_class: type = OfflineConfig) -> dict:
    """The explicit fields of a command line."""
    values = absl_flags.FlagValues()
    flags.define(config_class, values, command="script")
    values(["script", *arguments])
    return flags.explicit(config_class, values)


def call(main, *arguments: str) -> int:
    values = absl_flags.FlagValues()
    flags.define(OfflineConfig, values, command="script")
    return app.call(main, ["script", *arguments], values)


def text_of(value) -> str:
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


@pytest.mark.parametrize("config_class", CONFIGS)
def test_every_field_has_a_flag_that_reads_its_default_back(config_class):
    defaults = {leaf.name: leaf.default for leaf in leaves(config_class)}
    arguments = [f"--{name}={text_of(value)}" for name, value in defaults.items()]
    assert parse(*arguments, config_class=config_class) == defaults
    assert parse(config_class=config_class) == {}


def test_only_what_is_given_overrides_the_preset():
    given = parse("--task=hopper-medium", "--noauto_entropy", "--seeds=3,1", "--dataset=")
    assert given == {"task": "hopper-medium", "auto_entropy": False, "seeds": (3, 1), "dataset": None}
    config = config_for_task(**given)
    assert config.seeds == (3, 1)
    preset = config_for_task("hopper-medium")
    assert {name for name, value in to_flat(config).items() if value != to_flat(preset)[name]} == {"seeds"}


def test_several_values_are_swept():
    given = parse("--penalty_coef=0.1,0.5,1,5", "--tau=0.01", "--seeds=0,1,2")
    assert given == {"penalty_coef": (0.1, 0.5, 1.0, 5.0), "tau": 0.01, "seeds": (0, 1, 2)}
    assert config_for_task("hopper-medium", **given).penalty_coef == (0.1, 0.5, 1.0, 5.0)


def test_config_without_presets():
    values = absl_flags.FlagValues()
    flags.define(ReplayConfig, values, command="script")
    values(["script", "--num_steps=10000"])
    assert flags.config(ReplayConfig, values) == ReplayConfig(num_steps=10_000)


@pytest.mark.parametrize("leaf", list(leaves(OfflineConfig)), ids=lambda leaf: leaf.name)
def test_every_flag_refuses_nonsense_in_one_line(leaf, capsys):
    if leaf.type in (str, str | None):
        pytest.skip("any text may be a name")
    assert call(lambda argv: None, f"--{leaf.name}=nonsense") == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: flag --{leaf.name}=nonsense: 'nonsense' is ")
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--num_epoch=3", "Unknown command line flag 'num_epoch'. Did you mean: num_epochs ?"),
        ("--num_epochs", "Missing value for flag --num_epochs"),
        ("--num_epochs=1.5", "flag --num_epochs=1.5: '1.5' is not a whole number"),
        ("--num_epochs=0", "flag --num_epochs=0: 0 is out of range; at least 1"),
        ("--gamma=nan", "flag --gamma=nan: nan is out of range"),
        ("--seeds=", "flag --seeds=: '' is not a comma-separated list of whole numbers, as 0,1,2"),
        ("--seeds=0;1", "flag --seeds=0;1: '0;1' is not a comma-separated list"),
        ("--tau=0.1,x", "flag --tau=0.1,x: '0.1,x' is not a number, or several to be tried side by side"),
        ("--tau=0.1,2", "flag --tau=0.1,2: 2.0 is out of range"),
        ("--gamma=0.9,0.99", "flag --gamma=0.9,0.99: '0.9,0.99' is not a number"),
        ("--seeds=-1", "flag --seeds=-1: -1 is out of range; at least 0"),
        ("--holdout=head", "flag --holdout=head: 'head' is unknown; one of episodes, tail"),
        ("--flagfile=/nowhere", "Unable to open flagfile: "),
        ("hopper", "'hopper' is not a flag; flags look like --name=value"),
    ],
)
def test_flag_errors_are_one_line(argument, message, capsys):
    assert call(lambda argv: pytest.fail("main ran"), argument) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def raises(error: BaseException) -> Callable[[list[str]], None]:
    def main(argv: list[str]) -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (InputError("dataset: not found\n  tried here"), "error: dataset: not found tried here\n", 2),
        (PermissionError(13, "Permission denied", "/x"), "error: [Errno 13] Permission denied: '/x'\n", 2),
        (KeyboardInterrupt(), "interrupted\n", 130),
    ],
)
def test_what_a_user_can_get_wrong_ends_in_one_line(error, message, code, capsys):
    assert call(raises(error)) == code
    assert capsys.readouterr().err == message


def test_a_lost_device_is_one_line_that_says_how_to_go_on(capsys):
    message = "INTERNAL: CUDA error: Could not synchronize CUDA stream: CUDA_ERROR_LAUNCH_FAILED\n  frame 1"
    assert call(raises(RuntimeError(message))) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        f"error: a device failed ({message.splitlines()[0]}); --resume with the run's folder"
    )
    assert error.count("\n") == 1


def test_exhausted_memory_is_one_line_and_other_errors_are_bugs(capsys):
    assert call(raises(RuntimeError("RESOURCE_EXHAUSTED: Out of memory\nallocating"))) == 2
    assert capsys.readouterr().err.startswith("error: out of memory: lower batch sizes, buffer or")
    dispatched = "INTERNAL: Error dispatching computation: Out of memory allocating 8 bytes."
    assert call(raises(RuntimeError(dispatched))) == 2
    assert capsys.readouterr().err.endswith(f"number of seeds: {dispatched}\n")
    assert call(raises(MemoryError("Unable to allocate 8 PiB"))) == 2
    assert capsys.readouterr().err.endswith("number of seeds: Unable to allocate 8 PiB\n")
    with pytest.raises(RuntimeError, match="a bug"):
        call(raises(RuntimeError("a bug")))
    with pytest.raises(ValueError, match="a bug"):
        call(raises(ValueError("a bug")))


def test_run_exits_with_the_code_and_passes_what_is_left(monkeypatch):
    seen = []
    with signals.heard(), pytest.raises(SystemExit) as exit_info:  # within it, signals stay this process's
        app.run(seen.append, ["script"], absl_flags.FlagValues())
    assert exit_info.value.code == 0
    assert seen == [["script"]]


def test_an_interrupt_leaves_at_once_whatever_other_threads_do():
    code = (
        "import threading, time; from adm_jax.cli import app\n"
        "def main(argv):\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    raise KeyboardInterrupt\n"
        "app.run(main, ['script'])"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_help_explains_every_flag(capsys):
    assert call(lambda argv: pytest.fail("main ran"), "--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    for leaf in leaves(OfflineConfig):
        assert f"{leaf.name} " in text
        assert leaf.help in text
    assert "--[no]auto_entropy (default: false)" in text
    assert "[one of none, cosine]" in text
    assert "[a number, or several to be tried side by side, above 0.0 and at most 1.0]" in text
    assert text.startswith("Flags and the way scripts end")
