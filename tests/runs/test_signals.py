"""Signals that end a process."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from adm_jax.runs import signals

ROOT = Path(__file__).parents[2]


def interrupt(number: int = signal.SIGTERM) -> None:
    """Sends this process a signal, and waits for it."""
    os.kill(os.getpid(), number)
    time.sleep(10)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGUSR1, 138)]
)
def test_the_first_one_raises(number: signal.Signals, code: int) -> None:
    before = [signal.getsignal(each) for each in signals.ENDING]
    with signals.heard(), pytest.raises(signals.Interrupted) as stop:
        interrupt(number)
    assert (stop.value.exit_code, str(stop.value)) == (code, f"stopped by {number.name}")
    assert [signal.getsignal(each) for each in signals.ENDING] == before


def test_held_it_waits_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    done = []

    def work() -> None:
        for step in range(3):
            with signals.held() as stopped:
                assert not stopped()
                if step == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                    assert stopped()
                    error = ""
                    while not error:  # another thread says it
                        error = capfd.readouterr().err
                    assert error == (
                        "SIGTERM: saving after this step; a second signal ends the process at once\n"
                    )
                done.append(step)

    with signals.heard(), pytest.raises(signals.Interrupted):
        work()
    assert done == [0, 1]


def test_one_whose_exception_was_swallowed_is_raised_again() -> None:
    with signals.heard():
        with pytest.raises(signals.Interrupted):
            interrupt()
        with pytest.raises(signals.Interrupted), signals.held():
            pytest.fail("a step began")


def test_advice_is_of_the_innermost_work() -> None:
    with (
        signals.heard(),
        pytest.raises(signals.Interrupted, match=r"^stopped by SIGTERM; here goes on$"),
        signals.advising("there"),
        signals.advising("here goes on"),
    ):
        interrupt()


def test_advice_for_what_is_left_at_once_is_no_exceptions() -> None:
    """Whoever catches it has cleaned up."""
    with signals.heard(), signals.advising("again", if_left=True):
        with pytest.raises(signals.Interrupted) as error:
            signal.raise_signal(signal.SIGTERM)
        assert str(error.value) == "stopped by SIGTERM"


def test_other_threads_hear_nothing() -> None:
    found = []

    def work() -> None:
        with signals.heard(), signals.held() as stopped:
            found.append(stopped())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False]


def process(code: str) -> subprocess.Popen[str]:
    """A process that runs ``code`` and has said so."""
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes)
    assert started.stdout
    assert started.stdout.readline() == "begun\n"
    return started


def test_the_second_one_ends_the_process_at_once() -> None:
    code = (
        "import time\nfrom adm_jax.runs import signals\n"
        "with signals.heard(), signals.held():\n    print('begun', flush=True)\n    time.sleep(300)"
    )
    with process(code) as held:
        held.send_signal(signal.SIGTERM)
        assert held.stderr
        assert "second signal" in held.stderr.readline()
        held.send_signal(signal.SIGTERM)
        assert held.wait(timeout=60) == 143


def test_one_behind_the_last_work_changes_nothing() -> None:
    """Python takes a second to leave; a run that has ended is not one that was stopped."""
    code = (
        "import time\nfrom adm_jax.runs import signals\nwith signals.heard(last=True):\n    pass\n"
        "print('begun', flush=True)\ntime.sleep(0.5)"
    )
    with process(code) as leaving:
        leaving.send_signal(signal.SIGTERM)
        assert leaving.wait(timeout=60) == 0


@pytest.mark.parametrize("how", ["", ", if_left=True"])
def test_compiled_code_does_not_keep_the_process(how: str) -> None:
    """Python's handler waits for a program that takes forever."""
    code = (
        "import jax, threading\nfrom adm_jax.runs import signals\nsignals._PATIENCE = 0.1\n"
        "turn = lambda x: jax.lax.while_loop(lambda x: x < 2, lambda x: 1 - x, x)\n"
        "forever = jax.jit(turn).lower(0).compile()\n"
        "with signals.heard(), signals.advising('again'HOW):\n"
        "    threading.Timer(1, print, ('begun',), {'flush': True}).start()  # from within the program\n"
        "    jax.block_until_ready(forever(0))"
    )
    with process(code.replace("HOW", how)) as stuck:
        stuck.send_signal(signal.SIGTERM)
        _, error = stuck.communicate(timeout=60)
    assert (stuck.returncode, error) == (143, "stopped by SIGTERM; again\n")


def test_imports_are_interrupted_without_a_word() -> None:
    code = (
        "import signal, sys\nsys.argv = ['adm-jax', 'offline']\n"
        "class Finder:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'adm_jax.cli.app':\n"
        "            print('begun', flush=True)\n            import time\n            time.sleep(300)\n"
        "sys.meta_path.insert(0, Finder())\n"
        "from adm_jax.cli.main import main\nmain()"
    )
    with process(code) as importing:
        importing.send_signal(signal.SIGINT)
        output, error = importing.communicate(timeout=60)
    assert (importing.returncode, output, error) == (-signal.SIGINT, "", "")
