"""The thread beside the main loop."""

import contextlib
import threading
from collections.abc import Callable

import pytest

from adm_jax.runs.background import Background
from adm_jax.runs.clock import WallClock


def test_one_task_at_a_time_and_in_order() -> None:
    done, gate = [], threading.Event()

    def first() -> None:
        assert gate.wait(30)
        done.append("first")

    with Background(WallClock()) as background:
        background.start("first", first)
        assert background.name == "first"
        assert not done
        threading.Timer(0.05, gate.set).start()
        background.start("second", lambda: done.append("second"))
        assert done[0] == "first"
    assert done == ["first", "second"]
    assert background.name is None


def test_the_clock_tells_work_from_waiting() -> None:
    clock, gate = WallClock(), threading.Event()
    with Background(clock) as background:
        background.start("task", lambda: gate.wait(30) and None)
        threading.Timer(0.2, gate.set).start()
        background.wait()
    seconds = clock.to_dict()
    assert 0.1 < seconds["evaluate"] <= seconds["total"]
    assert seconds["evaluate_background"] >= 0.15


def fail() -> None:
    raise RuntimeError("the robot is on fire")


@pytest.mark.parametrize("call", [
    lambda background: background.wait(),
    lambda background: background.start("next", lambda: None),
    lambda background: background.__exit__(None),
])  # fmt: skip
def test_a_failure_surfaces_in_whatever_comes_next(call: Callable[[Background], None]) -> None:
    background = Background(WallClock())
    background.start("task", fail)
    with pytest.raises(RuntimeError, match="the robot is on fire"):
        call(background)
    background.wait()  # told once


def test_polling_tells_a_failure_without_waiting() -> None:
    gate = threading.Event()
    with Background(WallClock()) as background:
        background.start("task", lambda: gate.wait(30) and fail())
        background.poll()  # still running
        gate.set()
        with pytest.raises(RuntimeError, match="on fire"):  # noqa: PT012
            while True:
                background.poll()


def test_the_main_loop_s_own_failure_stops_the_task() -> None:
    stopped = []

    def endless() -> None:
        try:
            while True:
                background.raise_if_stopped()
        except Exception as error:
            stopped.append(type(error).__name__)
            raise

    with contextlib.suppress(KeyError), Background(WallClock()) as background:
        background.start("task", endless)
        raise KeyError
    assert stopped == ["Stopped"]
