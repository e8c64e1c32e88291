import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from adm_jax.runs.checkpoint import Checkpointer, DamagedCheckpoint
from adm_jax.types import InputError


class State(NamedTuple):
    params: dict
    opt_state: optax.OptState
    key: jax.Array
    steps: jax.Array
    done: jax.Array
    window: jax.Array  # of size zero when m = 1
    counts: np.ndarray


def make_state(seed: int = 0) -> State:
    key = jax.random.key(seed)
    params = {"layer_0": {"kernel": jax.random.normal(key, (3, 4, 5)), "bias": jnp.full((3, 5), jnp.nan)}}
    return State(
        params=params,
        opt_state=optax.adam(1e-3).init(params),
        key=jax.random.split(key, 3),
        steps=jnp.int32(seed),
        done=jnp.array([True, False, True]),
        window=jnp.zeros((3, 7, 0, 4)),
        counts=np.array([1, 2**40]),
    )


def abstract() -> State:
    counts = np.zeros(2, np.int64)
    return jax.eval_shape(make_state)._replace(counts=counts)


def assert_equal(left: State, right: State) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert a.dtype == b.dtype
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def damage(folder: Path) -> None:
    """Flips one bit in the middle of the checkpoint's largest file."""
    path = max((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_round_trip_is_exact_and_keeps_types(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    assert checkpointer.latest() is None
    assert not (tmp_path / "checkpoints").exists()
    checkpointer.save("train", 3, make_state(), extra={"wall_clock": {"fit": 1.5}, "best": [1, 2]})

    restored = Checkpointer(tmp_path / "checkpoints").restore("train", 3, abstract())

    assert restored.extra == {"wall_clock": {"fit": 1.5}, "best": [1, 2]}
    assert_equal(restored.state, make_state())
    assert isinstance(restored.state.counts, np.ndarray)
    assert isinstance(restored.state.steps, jax.Array)
    np.testing.assert_array_equal(
        jax.random.key_data(jax.random.split(restored.state.key[0])),
        jax.random.key_data(jax.random.split(make_state().key[0])),
    )


def test_restored_arrays_may_be_donated(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    state = {"x": jnp.arange(100_000.0)}
    checkpointer.save("train", 1, state)
    add = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    for _ in range(2):
        x = checkpointer.restore("train", 1, state).state["x"]
        np.testing.assert_array_equal(add(add(x)), np.arange(100_000.0) + 2.0)


def test_a_relative_folder_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Checkpointer("checkpoints").save("fit", 1, {"x": jnp.ones(2)})
    assert Checkpointer(tmp_path / "checkpoints").latest() == ("fit", 1)


def test_the_newest_two_stay_and_train_is_later_than_fit(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for phase, epoch in [("fit", 9), ("fit", 10), ("train", 0), ("train", 2)]:
        checkpointer.save(phase, epoch, {"x": jnp.full(2, epoch)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["train-000000", "train-000002"]
    assert checkpointer.latest() == ("train", 2)


def test_saving_an_earlier_epoch_again_drops_the_abandoned_future(tmp_path):
    checkpointer = Checkpointer(tmp_path)
    for epoch in (1, 2):
        checkpointer.save("train", epoch, {"x": jnp.full(2, epoch)})
    checkpointer.save("train", 1, {"x": jnp.full(2, 7)})
    assert checkpointer.latest() == ("train", 1)
    np.testing.assert_array_equal(
        checkpointer.restore("train", 1, {"x": jnp.zeros(2, int)}).state["x"], [7, 7]
    )


def test_what_a_killed_process_had_written_completely_is_kept(tmp_path):
    Checkpointer(tmp_path).save("train", 1, {"x": jnp.ones(2)})
    (tmp_path / "train-000001").rename(tmp_path / "saving-train-000001")
    (tmp_path / "saving-train-000002" / "arrays").mkdir(parents=True)
    (tmp_path / "deleting-fit-000009").mkdir()

    before = sorted(path.name for path in tmp_path.iterdir())
    assert Checkpointer(tmp_path).latest() is None  # which may be another process's work: nothing is touched
    assert sorted(path.name for path in tmp_path.iterdir()) == before

    Checkpointer(tmp_path).recover()
    assert Checkpointer(tmp_path).latest() == ("train", 1)
    assert [path.name for path in tmp_path.iterdir()] == ["train-000001"]


def test_a_damaged_newest_checkpoint_falls_back_with_one_line(tmp_path, capfd):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("fit", 5, make_state(5))
    checkpointer.save("train", 1, make_state(1))
    damage(tmp_path / "train-000001")

    restored = checkpointer.restore_latest({"fit": lambda _: abstract(), "train": lambda _: abstract()})

    assert (restored.phase, restored.epoch) == ("fit", 5)
    assert_equal(restored.state, make_state(5))
    error = capfd.readouterr().err
    assert error.count("\n") == 1
    assert "train-000001" in error

    damage(tmp_path / "fit-000005")
    with pytest.raises(InputError, match="no checkpoint that could be restored"):
        checkpointer.restore_latest({"fit": lambda _: abstract(), "train": lambda _: abstract()})


def test_no_bit_flip_is_loaded_as_if_nothing_were_wrong(tmp_path):
    """Every file, several places: either the state comes back exactly or the damage is named."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("train", 1, make_state())
    files = [p for p in (tmp_path / "train-000001").rglob("*") if p.is_file()]
    noticed = 0
    for path in files:
        original = path.read_bytes()
        for place in np.linspace(0, len(original) - 1, min(len(original), 6)).astype(int):
            path.write_bytes(original[:place] + bytes([original[place] ^ 4]) + original[place + 1 :])
            try:
                assert_equal(checkpointer.restore("train", 1, abstract()).state, make_state())
            except DamagedCheckpoint:
                noticed += 1
        path.write_bytes(original)
    assert noticed > 0
    assert_equal(checkpointer.restore("train", 1, abstract()).state, make_state())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"x": jnp.zeros(3)}, r"x is float32\[2\], not float32\[3\]"),
        ({"x": jnp.zeros(2, jnp.int32)}, "x is float32"),
        ({"x": jnp.zeros(2), "y": jnp.zeros(2)}, "lacks y"),
        ({}, "holds x"),
    ],
)
def test_a_state_of_another_structure_is_refused(tmp_path, other, message):
    Checkpointer(tmp_path).save("train", 1, {"x": jnp.zeros(2)})
    with pytest.raises(InputError, match=message):
        Checkpointer(tmp_path).restore("train", 1, other)


def test_a_full_disk_is_named_before_anything_is_written(tmp_path, monkeypatch):
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("train", 1, {"x": jnp.ones(2)})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OSError, match="does not fit"):
        checkpointer.save("train", 2, {"x": jnp.ones(2)})
    assert checkpointer.latest() == ("train", 1)


_ON_A_FULL_DISK = """
import sys
import numpy as np
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.saving import Saving
from tests.runs.full_disk import full_disk
noise = np.random.default_rng(0)
state = {"x": noise.random(12_500), "y": noise.random(50_000)}
try:
    with full_disk(int(sys.argv[2])):
        if sys.argv[3] == "beside":
            with Saving(Checkpointer(sys.argv[1]), 1.0) as saving:
                saving.begin("train", 2, lambda: state, dict)
        else:
            Checkpointer(sys.argv[1]).save("train", 2, state)
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("how", ["waiting", "beside"])
@pytest.mark.parametrize("limit", [50_000, 150_000])
def test_a_disk_that_fills_up_meanwhile_is_told_in_one_line(tmp_path, limit, how):
    """In orbax's threads, for all arrays, and for the larger one alone; beside the run, too."""
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save("train", 1, make_state())
    command = [sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path), str(limit), how]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("[Errno 27] File too large: 0.477 MiB to write, the disk has ")
    assert done.stdout.endswith(f"left: '{tmp_path / 'train-000002'}'\n")
    assert [path.name for path in tmp_path.iterdir()] == ["train-000001"]
    assert_equal(checkpointer.restore("train", 1, abstract()).state, make_state())


def test_a_disk_too_small_for_a_whole_run_is_named_before_it_begins(tmp_path, monkeypatch):
    state = {
        "x": jax.ShapeDtypeStruct((1000, 256), jnp.float32),
        "key": jax.random.split(jax.random.key(0), 3),
    }
    one = 1.02 * (1000 * 256 * 4 + 3 * 8) + 2**20
    free = {"bytes": 3 * one}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free["bytes"]))
    folder = tmp_path / "run" / "checkpoints"  # made when the first one is saved
    checkpointer = Checkpointer(folder)
    checkpointer.require_room(state)
    free["bytes"] -= 1000
    message = (
        r"^workdir: 3 checkpoints of 1\.0 MiB, 2 that are kept and the next, do not fit into the 6\.0 MiB"
    )
    with pytest.raises(InputError, match=message):
        checkpointer.require_room(state)
    assert not folder.exists()
    checkpointer.save("train", 1, {"x": jnp.zeros((1000, 256))})  # what is there counts as room
    checkpointer.require_room(state)


def test_what_is_no_array_is_refused(tmp_path):
    with pytest.raises(TypeError, match="extra"):
        Checkpointer(tmp_path).save("train", 1, {"best": 1.0})
    with pytest.raises(ValueError, match="phase"):
        Checkpointer(tmp_path).save("warmup", 1, {})


_SAVER = """
import sys, numpy as np
from adm_jax.runs.checkpoint import Checkpointer
checkpointer = Checkpointer(sys.argv[1])
checkpointer.recover()
latest = checkpointer.latest()
epoch = latest[1] if latest else 0
while True:
    epoch += 1
    state = {"x": np.full((500, 1000), epoch, np.float32), "epoch": np.array(epoch)}
    checkpointer.save("train", epoch, state)
    print(epoch, flush=True)
"""


def test_killed_while_saving_leaves_a_checkpoint_that_can_be_restored(tmp_path):
    """Four processes in turn, each killed at another moment of its third save (30 ms on an idle core)."""
    target = {"x": np.zeros((500, 1000), np.float32), "epoch": np.array(0)}
    for delay in (0.002, 0.009, 0.016, 0.023):
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _SAVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdout is not None
        with process.stdout:
            saved = [int(process.stdout.readline()) for _ in range(2)][-1]
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
        process.wait()
        checkpointer = Checkpointer(tmp_path)
        checkpointer.recover()
        restored = checkpointer.restore_latest({"train": lambda _: target})
        assert restored.epoch >= saved
        assert restored.state["epoch"] == restored.epoch
        np.testing.assert_array_equal(restored.state["x"], np.float32(restored.epoch))
    assert not [path for path in tmp_path.iterdir() if not path.name.startswith("train-")]


@pytest.mark.parametrize(("saved", "wanted"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_hidden_states_of_another_kind_of_device_are_converted(saved: str, wanted: str, tmp_path: Path):
    """A GPU may keep them in bfloat16; other types are those of another configuration."""
    checkpointer, values = Checkpointer(tmp_path), np.linspace(-2, 2, 7)
    checkpointer.save("train", 1, {"hidden": jnp.asarray(values, saved)})
    found = checkpointer.restore("train", 1, {"hidden": jax.ShapeDtypeStruct((7,), wanted)}).state["hidden"]
    assert found.dtype == wanted
    np.testing.assert_array_equal(found, jnp.asarray(values, saved).astype(wanted))
    with pytest.raises(InputError, match=rf"hidden is {saved}\[7\], not float16\[7\]"):
        checkpointer.restore("train", 1, {"hidden": jax.ShapeDtypeStruct((7,), "float16")})
