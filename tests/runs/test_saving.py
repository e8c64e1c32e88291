"""Checkpoints written beside the run."""

import contextlib
import errno
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.runs import signals
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.saving import Saving
from adm_jax.runs.signals import Interrupted


class Gated(Checkpointer):
    """Writes when it is let, or fails."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.begun: list[int] = []
        self.gate = threading.Event()
        self.error: OSError | None = None

    def write(self, phase: str, epoch: int, leaves: Any, extra: Any = None) -> None:
        self.begun.append(epoch)
        assert self.gate.wait(30)
        if self.error is not None:
            raise self.error
        super().write(phase, epoch, leaves, extra)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Gated]:
    gated = Gated(tmp_path / "checkpoints")
    yield gated
    gated.gate.set()


def state(value: float) -> dict[str, jax.Array]:
    return {"x": jnp.full((1000,), value)}


def begin(saving: Saving, epoch: int) -> None:
    saving.begin("train", epoch, lambda: state(epoch), lambda: {"epoch": epoch})


def test_what_is_written_is_the_state_of_its_step(disk: Gated):
    """The next step reuses its memory, and what the host notes changes."""
    step = jax.jit(lambda x: jax.tree.map(lambda y: y + 1.0, x), donate_argnums=0)
    trained = {**state(1.0), "key": jax.random.key(3)}
    host, noted = {"counts": np.arange(3)}, {"lines": [1]}
    with Saving(disk, 1.0) as saving:
        saving.begin("train", 1, lambda: {**trained, **host}, lambda: noted)
        trained = step({"x": trained["x"]})
        jax.block_until_ready(trained)
        host["counts"][:] = 7
        noted["lines"].append(2)
        assert disk.latest() is None
        disk.gate.set()
    key = jax.random.key(3)
    found = disk.restore("train", 1, {"x": jnp.zeros(1000), "key": key, "counts": np.zeros(3, np.int64)})
    assert found.extra == {"lines": [1]}
    assert set(np.asarray(found.state["x"])) == {1.0}
    assert found.state["counts"].tolist() == [0, 1, 2]
    assert (jax.random.key_data(found.state["key"]) == jax.random.key_data(key)).all()


def test_the_next_one_waits_for_the_one_before(disk: Gated):
    with Saving(disk, 1.0) as saving:
        begin(saving, 1)
        threading.Timer(0.2, disk.gate.set).start()
        asked = []

        def late() -> dict[str, jax.Array]:
            asked.append(disk.latest())
            return state(2.0)

        saving.begin("train", 2, late, dict)
        assert asked == [("train", 1)]  # written before the second was copied
    assert disk.begun == [1, 2]
    assert disk.latest() == ("train", 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda saving: saving.poll(),
        lambda saving: saving.wait(),
        lambda saving: saving.keeps_to_share(),
        lambda saving: begin(saving, 2),
        lambda saving: saving.__exit__(None),
        lambda saving: saving.__exit__(Interrupted),
    ],
)
def test_an_error_of_the_disk_is_raised_by_the_next_call(call: Callable[[Saving], Any], disk: Gated):
    disk.error = OSError(errno.ENOSPC, "no room", "there")
    saving = Saving(disk, 1.0)
    begin(saving, 1)
    saving.poll()  # not yet
    disk.gate.set()
    time.sleep(0.2)
    with pytest.raises(OSError, match="no room"):
        call(saving)
    assert disk.begun == [1]


@pytest.mark.parametrize("error", [ValueError("mine"), Interrupted(signal.SIGTERM)])
def test_what_ends_the_run_waits_for_the_write(error: BaseException, disk: Gated):
    with contextlib.suppress(ValueError, Interrupted), Saving(disk, 1.0) as saving:
        begin(saving, 1)
        threading.Timer(0.2, disk.gate.set).start()
        raise error
    assert disk.latest() == ("train", 1)


def test_the_run_s_own_error_goes_before_the_disk_s(disk: Gated):
    disk.error = OSError(errno.ENOSPC, "no room", "there")
    saving = Saving(disk, 1.0)
    begin(saving, 1)
    disk.gate.set()
    saving.__exit__(ValueError)  # raises nothing of its own
    assert disk.begun == [1]


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_write_counts_into_the_share(share: float, disk: Gated):
    with Saving(disk, share) as saving:
        assert saving.keeps_to_share()
        begin(saving, 1)
        assert saving.keeps_to_share() == (share == 1.0)  # while it is written
        time.sleep(0.4)
        disk.gate.set()
        saving.wait()
        assert saving.keeps_to_share() == (share == 1.0)
        time.sleep(1.0)  # at a half as long as it took: 0.4 s, and what the disk needed
        assert saving.keeps_to_share()


def test_a_signal_while_the_last_one_is_written_lets_it_be_written(disk: Gated):
    with signals.heard(), Saving(disk, 1.0) as saving:
        begin(saving, 1)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGTERM)).start()
        threading.Timer(0.6, disk.gate.set).start()
    assert disk.latest() == ("train", 1)
