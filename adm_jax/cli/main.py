"""The console script ``adm-jax``: one command for each thing to be done.

``python -m experiments.<module>`` does the same from a checkout.
"""

import importlib
import os
import signal
import sys

import adm_jax

COMMANDS = {  # name -> module of this package, what it does
    "offline": ("admpo_off", "learn policies from a dataset: ADMPO-OFF, MOPO"),
    "adm2po": ("adm2po", "learn policies from a dataset with full-horizon roll-outs in ADM-v2"),
    "online": ("admpo_on", "learn policies in the real environment: ADMPO-ON, MBPO, SAC"),
    "ope": ("ope", "estimate from a dataset what policies return"),
    "compounding-error": ("compounding_error", "measure how models err when fed their own predictions"),
    "collect": ("collect", "collect datasets of a task with SAC"),
    "submit": ("submit", "submit a command that learns to SLURM, one job for each device"),
    "import": ("import_dataset", "import a file in D4RL's or NeoRL's layout into the Minari store"),
}


def main() -> None:
    """``adm-jax COMMAND --flag=value ...``; exits as ``app.run`` does."""
    _end_without_a_word()
    command, *arguments = sys.argv[1:] or ["--help"]
    if command in ("--help", "-h", "help"):
        print(_usage())
    elif command == "--version":
        print(adm_jax.__version__)
    elif command in COMMANDS:
        sys.argv = [f"adm-jax {command}", *arguments]
        sys.path.append(os.getcwd())  # as with ``python -m``: modules of one's own lie there
        run(COMMANDS[command][0])
    else:
        from adm_jax.cli import app

        print(f"error: {command!r} is no command; one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(app.BAD_INPUT)


def run(module: str) -> None:
    """Runs one of this package's commands with the flags of ``sys.argv``, and exits."""
    _end_without_a_word()
    from adm_jax.cli import app  # takes a second
    from adm_jax.types import InputError

    try:
        if sys.flags.optimize > 1:
            raise InputError("PYTHONOPTIMIZE: -OO takes docstrings away that libraries read; -O is allowed")
        command = importlib.import_module(f"adm_jax.cli.{module}")
        command.define()
    except (InputError, Warning) as error:
        sys.exit(app.fail(error))
    app.run(command.main)


def _end_without_a_word() -> None:
    """An interruption of the imports, which take seconds, shall show no traceback."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: adm-jax COMMAND [--flag=value ...]",
            "",
            *lines,
            "",
            "adm-jax COMMAND --help explains its flags.",
        ]
    )
