"""Runs a command's ``main`` so that whoever mistypes a flag reads one line, not a traceback."""

import os
import sys
from collections.abc import Callable, Sequence

from absl import flags

from adm_jax.runs import signals
from adm_jax.types import InputError

Main = Callable[[list[str]], int | None]  # returns the exit code; None is 0

BAD_INPUT, PARTIAL, INTERRUPTED = 2, 3, 130  # exit codes; more than 128: that of a signal
_DEVICE_FAILURES = ("CUDA_ERROR_", "cudaError", "hipError", "UNAVAILABLE:", "DATA_LOSS:")  # in XLA's messages
# how XLA says that memory has run out; the second of what it dispatched in the background, as INTERNAL
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")


def run(main: Main, argv: Sequence[str] | None = None, flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Parses the flags, calls ``main(argv)`` and exits.

    What a user can get wrong (flags, input, folders, disk, memory) ends in one line ``error: ...`` on
    stderr and exit code 2, a signal in one and code 130 (SIGINT) or 143 (SIGTERM); a result without all of
    its members has code 3; anything else is a bug and shows its traceback.
    """
    with signals.heard(last=True):
        code = call(main, list(sys.argv if argv is None else argv), flag_values)
    if code > 128:
        # XLA may still be compiling and orbax saving in threads of their own: an interpreter taken down under
        # them crashes or prints tracebacks. A half-written checkpoint is recognised as such on resume.
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


def call(main: Main, argv: list[str], flag_values: flags.FlagValues = flags.FLAGS) -> int:
    """``run`` without the exit: returns the exit code."""
    try:
        return _call(main, argv, flag_values)
    except BrokenPipeError:  # whoever read our output is gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BAD_INPUT
    except (InputError, OSError, Warning) as error:
        return fail(error)
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return error.exit_code if isinstance(error, signals.Interrupted) else INTERRUPTED
    except MemoryError as error:
        return _out_of_memory(str(error))
    except RuntimeError as error:
        text = str(error)
        if any(sign in text for sign in _OUT_OF_MEMORY):
            return _out_of_memory(text.splitlines()[0])
        if any(sign in text for sign in _DEVICE_FAILURES):
            return fail(
                f"a device failed ({text.splitlines()[0]}); --resume with the run's folder goes on from its "
                "newest checkpoint, on as many devices as are left"
            )
        raise


def _call(main: Main, argv: list[str], flag_values: flags.FlagValues) -> int:
    if any(argument in ("--help", "-help", "-h") for argument in argv[1:]):
        print(help_text(main, flag_values, argv[0]), flush=True)
        return 0
    try:
        rest = flag_values(argv)
    except flags.Error as error:
        return fail(f"{error} (--help lists all flags)")
    if len(rest) > 1:
        return fail(f"{rest[1]!r} is not a flag; flags look like --name=value (--help lists them)")
    code = main(rest) or 0
    sys.stdout.flush()
    return code


def help_text(main: Main, flag_values: flags.FlagValues, command: str) -> str:
    """What the script does, and every flag with its type, default and meaning, group by group."""
    module = sys.modules[main.__module__]
    lines = [(module.__doc__ or "").strip(), ""]
    groups: dict[str, list[flags.Flag]] = {}
    for flag in [
        *flag_values.get_key_flags_for_module(command),  # a configuration's
        *flag_values.get_key_flags_for_module(main.__module__),  # its own
    ]:
        groups.setdefault(getattr(flag, "group", ""), []).append(flag)
    for group, members in groups.items():
        lines.append(f"{group or 'flags'}:")
        for flag in members:
            lines += _describe(flag)
        lines.append("")
    return "\n".join(lines).rstrip()


def _describe(flag: flags.Flag) -> list[str]:
    name = f"--[no]{flag.name}" if flag.boolean else f"--{flag.name}"
    shown = (flag.default_as_str or "").strip("'")
    default = "" if flag.default is None else f" (default: {shown})"
    return [f"  {name}{default}", flags.text_wrap(flag.help or "", length=100, indent=" " * 6)]


def _out_of_memory(reason: str) -> int:
    hint = "out of memory: lower batch sizes, buffer or number of seeds"
    return fail(f"{hint}: {reason}" if reason else hint)


def fail(error: Exception | str) -> int:
    """Prints the one line ``error: ...``; returns the exit code. Python may be told to raise warnings."""
    message = str(error)
    if isinstance(error, Warning):
        message = f"PYTHONWARNINGS: makes this warning an error: {type(error).__name__}: {message}; unset it"
    line = " ".join(part.strip() for part in message.splitlines() if part.strip())
    print(f"error: {line}", file=sys.stderr)
    return BAD_INPUT
