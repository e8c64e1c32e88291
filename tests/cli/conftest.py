"""Scripts as a user runs them: in processes of their own, in the current folder."""

import subprocess
from collections.abc import Callable

import pytest

from tests.cli import scripts


@pytest.fixture
def refused() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a script that is to end with code 2 and one line on stderr."""

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = scripts.run(script, *arguments)
        assert done.returncode == 2, done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        return done

    return run
