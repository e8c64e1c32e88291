"""Scripts as a user runs them, each in a process of its own, for which the package is not imported anew."""

import atexit
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import adm_jax

ROOT = Path(__file__).parents[2]
_SECONDS = 300  # that a script may take


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """What ``python -m experiments.SCRIPT ARGUMENTS`` does in the current folder and environment.

    A script of another package is named with it, as ``benchmarks.run_all``.
    """
    parent = _parent()
    assert parent.stdin
    assert parent.stdout
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent.stdin.write(json.dumps([os.getcwd(), environment, script, arguments]) + "\n")
    parent.stdin.flush()
    return subprocess.CompletedProcess([script, *arguments], *json.loads(parent.stdout.readline()))


@functools.cache
def _parent() -> subprocess.Popen[str]:
    """The process that has imported the package, which scripts are forks of."""
    parent = subprocess.Popen(
        [sys.executable, "-B", "-m", __name__],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # a word while importing is no answer: the first run fails with it
        text=True,
    )
    atexit.register(parent.communicate)  # it ends with its standard input
    return parent


def _serve() -> None:
    """Reads what to run, a line each; writes exit code, output and errors, a line each."""
    for module in pkgutil.walk_packages(adm_jax.__path__, "adm_jax."):
        importlib.import_module(module.name)
    assert len(os.listdir("/proc/self/task")) == 1  # a fork would lack the other threads
    gc.freeze()  # forks need not look through what was imported
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            child = os.fork()
            if child == 0:
                _become(out.fileno(), err.fileno(), *json.loads(line))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            out.seek(0)
            err.seek(0)
            print(json.dumps([code, out.read(), err.read()]), flush=True)


def _become(
    out: int, err: int, folder: str, environment: dict[str, str], script: str, arguments: list[str]
) -> None:
    """Is the script from now on; does not come back."""
    signal.alarm(_SECONDS)
    for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), out, err)):
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:1] = [folder, str(ROOT)]
    sys.argv = [script, *arguments]
    module = script if "." in script else f"experiments.{script}"
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    sys.exit()


if __name__ == "__main__":
    _serve()
