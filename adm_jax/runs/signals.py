"""Signals that end a process: what took hours is saved first, and the last line says how to go on.

Python runs a signal's handler between two of its own instructions, so not while compiled code runs, which may
be for minutes. A thread therefore watches as well.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # Ctrl-C; schedulers; SLURM's --signal=USR1
_PATIENCE = 10.0  # seconds after which compiled code that cannot be saved is left


class Interrupted(KeyboardInterrupt):
    """A signal ends what is under way; says how it goes on."""

    def __init__(self, number: int):
        super().__init__(_farewell(number, None if _heard is None else _heard.advice))
        self.number = number
        self.exit_code = 128 + number


class _Heard:
    """What has been heard within ``heard``."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.holds = 0
        self.advice: str | None = None
        self.advice_if_left: str | None = None
        self.left = threading.Event()

    def handle(self, number: int, _: FrameType | None) -> None:
        """Python's handler, in the main thread; a second signal is the watching thread's."""
        if self.number is None:
            self.number = number
            if not self.holds:
                raise Interrupted(number)

    def raise_if_heard(self) -> None:
        """For where an exception that the handler raised has been swallowed, as destructors do."""
        if self.number is not None:
            raise Interrupted(self.number)

    def watch(self, pipe: int) -> None:
        """Reads the numbers of the signals, as they come, until the pipe is closed."""
        count = 0
        while number := os.read(pipe, 1):
            if number[0] not in ENDING:
                continue
            count += 1
            if count > 1:
                os._exit(128 + number[0])
            if self.holds:
                name = signal.Signals(number[0]).name
                _say(f"{name}: saving after this step; a second signal ends the process at once")
            elif not self.left.wait(_PATIENCE):
                _say(_farewell(number[0], self.advice or self.advice_if_left))
                os._exit(128 + number[0])
        os.close(pipe)


_heard: _Heard | None = None


@contextlib.contextmanager
def heard(*, last: bool = False) -> Iterator[None]:
    """Within it the first signal of ENDING raises Interrupted, the second ends the process at once.

    Behind the ``last`` of a process they are ignored: all is done, and its exit code shall say so. Only the
    main thread can hear signals: elsewhere, and within another ``heard``, this changes nothing.
    """
    global _heard
    if _heard is not None or threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    state = _heard = _Heard()
    threading.Thread(target=state.watch, args=(reading,), daemon=True).start()
    wakeup = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, state.handle) for number in ENDING}
    try:
        yield
    finally:
        state.left.set()
        for number, handler in handlers.items():
            signal.signal(number, signal.SIG_IGN if last else handler)
        signal.set_wakeup_fd(wakeup)
        os.close(writing)
        _heard = None


@contextlib.contextmanager
def advising(advice: str, *, if_left: bool = False) -> Iterator[None]:
    """Within it Interrupted says how to go on.

    ``if_left`` is for what cleans up when it is interrupted: then only the last line of a process says so
    whose compiled code was left, and nothing cleaned up.
    """
    if (state := _heard) is None:
        yield
        return
    name = "advice_if_left" if if_left else "advice"
    before = getattr(state, name)
    setattr(state, name, advice)
    try:
        yield
    finally:
        setattr(state, name, before)


@contextlib.contextmanager
def held(wanted: bool = True, *, raises: bool = True) -> Iterator[Callable[[], bool]]:
    """Within it a signal raises nothing: the function it gives says whether one has come.

    Where it is not ``wanted``, as there is nothing to save, signals raise as they do outside.

    Raises:
      Interrupted: at its beginning or its end, if one has come; never within another one, nor where it is
        not to raise.
    """
    if (state := _heard) is None or not wanted:
        yield lambda: False
        return
    raises = raises and not state.holds
    if raises:
        state.raise_if_heard()
    state.holds += 1
    try:
        yield lambda: state.number is not None
    finally:
        state.holds -= 1
    if raises:
        state.raise_if_heard()


@contextlib.contextmanager
def released(wanted: bool = True) -> Iterator[None]:
    """Within it signals raise, though it is within ``held``."""
    if (state := _heard) is None or not wanted:
        yield
        return
    holds, state.holds = state.holds, 0
    try:
        state.raise_if_heard()
        yield
    finally:
        state.holds = holds


def come() -> int | None:
    """The number of the signal that has come."""
    return None if _heard is None else _heard.number


def take_over(number: int | None) -> None:
    """As if a signal that another process of the run has heard had come here, if there is one.

    Raises Interrupted: one has come, and this is not within ``held``.
    """
    if (state := _heard) is None:
        return
    if state.number is None:
        state.number = number
    if not state.holds:
        state.raise_if_heard()


def _farewell(number: int, advice: str | None) -> str:
    return f"stopped by {signal.Signals(number).name}" + ("" if advice is None else f"; {advice}")


def _say(line: str) -> None:
    """Writes past Python's buffers, which the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
