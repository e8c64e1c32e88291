"""A run that goes on under another version of JAX.

By hand, as it needs one in a folder of its own; both directions are tried:

pip install --no-deps --target other_jax jax==0.10.0 jaxlib==0.10.0
OTHER_JAX=$PWD/other_jax pytest -n0 -m slow tests/training/test_other_jax.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest

from tests.training.run_files import ROOT, newest_arrays
from tests.training.tiny_online import TINY

OTHER = os.environ.get("OTHER_JAX")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(OTHER is None, reason="OTHER_JAX names no folder with another version of JAX"),
]


def begin(other: bool, *flags: str) -> subprocess.Popen[str]:
    paths = [str(ROOT)] if not other else [str(OTHER), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-m", "experiments.admpo_on", *flags]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)


def text_of(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("first", [True, False], ids=["begun-under-the-other", "resumed-under-the-other"])
def test_a_run_moves_between_versions_of_jax_with_a_word(first: bool, tmp_path: Path) -> None:
    flags = [f"--{name}={text_of(value)}" for name, value in TINY.items()]
    run = begin(first, "--dynamics=none", f"--workdir={tmp_path}", *flags)
    deadline = time.monotonic() + 300
    while not (found := list(tmp_path.glob("*/*/*/checkpoints/train-000080"))):
        assert run.poll() is None, run.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGTERM)
    output = run.communicate(timeout=300)[0]
    assert run.returncode == 143, output
    folder = found[0].parents[1]
    resumed = begin(not first, f"--resume={folder}")
    output = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 2, output
    assert "would go on under other conditions" in output
    assert "versions.jax was" in output
    resumed = begin(not first, f"--resume={folder}", "--resume_anyway")
    output = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 0, output
    stretches = json.loads((folder / "result.json").read_text())["stretches"]
    versions = [stretch["versions"]["jax"] for stretch in stretches]
    assert len(set(versions)) == 2
    assert versions[0 if not first else 1] == jax.__version__
    assert newest_arrays(folder)
