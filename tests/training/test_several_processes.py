"""A population that several processes train together: real processes on this host, in touch over loopback."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.runs import hosts
from adm_jax.training import offline, online
from adm_jax.types import InputError
from tests.tiny import BITWISE_FLAGS, TINY, bitwise_options
from tests.training.run_files import ROOT, command, computed, lines, newest_arrays, run_folder
from tests.training.tiny_online import TINY as TINY_ONLINE
from tests.training.tiny_online import tiny

pytestmark = pytest.mark.usefixtures("small_curves")
_SECONDS = 600  # that processes may take on a busy machine


def begin(arguments: list[str], count: int = 2) -> list[subprocess.Popen[str]]:
    """A command in several processes, each of which writes to a pipe of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = [*arguments, f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if bitwise_options():  # what they do is compared with what one process does
        environment["XLA_FLAGS"] = BITWISE_FLAGS
    return [
        subprocess.Popen([*shared, f"--process_id={index}"], env=environment, **options)
        for index in range(count)
    ]


def end(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit codes and all that was written."""
    outputs = [process.communicate(timeout=_SECONDS)[0] for process in processes]
    return [process.returncode for process in processes], outputs


def wait_for_lines(workdir: str, number: int, processes: list[subprocess.Popen[str]]) -> Path:
    """The run's folder, once its metrics have so many lines."""
    deadline = time.monotonic() + _SECONDS
    while True:
        for path in Path(workdir).glob("*/*/*/metrics.jsonl"):
            if len(path.read_text().splitlines()) >= number:
                return path.parent
        assert all(process.poll() is None for process in processes), end(processes)
        assert time.monotonic() < deadline
        time.sleep(0.01)


def _name(flag: str) -> str:
    return flag.removeprefix("--").partition("=")[0]


def assert_same_members(folder: Path, alone: Path) -> None:
    """Returns, result and the whole state bit for bit; what is logged, a mean over updates, to rounding."""
    assert lines(folder / "eval.jsonl") == lines(alone / "eval.jsonl")
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (folder, alone))
    assert computed(ours) == computed(theirs)
    arrays, others = newest_arrays(folder), newest_arrays(alone)
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=name)
    rows, expected = lines(folder / "metrics.jsonl"), lines(alone / "metrics.jsonl")
    assert len(rows) == len(expected)
    for row, other in zip(rows, expected, strict=True):
        assert row.keys() == other.keys()
        for name, value in row.items():
            if "/" in name:
                found, wanted = (np.array(x, np.float64) for x in (value, other[name]))
                np.testing.assert_allclose(found, wanted, rtol=1e-5, err_msg=name)
            else:
                assert value == other[name]


@pytest.mark.bitwise
@pytest.mark.parametrize("dynamics", ["none", pytest.param("adm", marks=pytest.mark.slow)])
def test_two_processes_that_a_signal_to_the_second_stops_train_what_one_does(
    dynamics: str, tmp_path: Path
) -> None:
    """One folder; a checkpoint is of the step that all have done, and goes on in any number of processes."""
    config = tiny(dynamics, workdir=str(tmp_path / "one"))
    online.run(config)
    (alone,) = (tmp_path / "one").glob("*/*/*")
    both = dataclasses.replace(config, workdir=str(tmp_path / "two"))
    names = {*TINY_ONLINE, "dynamics", "workdir"}  # without a model others have no effect, and are refused
    flags = command("admpo_on", both)
    if dynamics == "none":
        flags = [flag for flag in flags if not flag.startswith("--") or _name(flag) in names]
    started = begin(flags)
    folder = wait_for_lines(both.workdir, 4, started)
    started[1].send_signal(signal.SIGTERM)
    codes, outputs = end(started)
    assert codes == [143, 143], outputs
    assert "stopped by SIGTERM; adm-jax online --resume=" in outputs[0]
    assert "Traceback" not in "".join(outputs)
    assert not (folder / "result.json").exists()
    again = shutil.copytree(folder, tmp_path / "again")
    codes, outputs = end(begin([sys.executable, "-m", "experiments.admpo_on", f"--resume={folder}"]))
    assert codes == [0, 0], outputs
    assert_same_members(folder, alone)
    online.resume(str(again))
    assert_same_members(again, alone)


@pytest.mark.slow
@pytest.mark.bitwise
@pytest.mark.parametrize("count", [2, 3])
def test_offline_a_fit_that_stops_early_waits_for_the_others(
    tiny_dataset: str, tmp_path: Path, count: int
) -> None:
    """By hand: XLA_FLAGS= pytest -n0 -m slow tests/training/test_several_processes.py

    A seed's members lie on two processes, which both fit its model; its rows are written once.
    """
    settings = {
        **TINY,
        "dataset": tiny_dataset,
        "seeds": (0, 1, 2),
        "penalty_coef": (0.5, 2.0),
        "fit_max_epochs": 20,
        "fit_learning_rate": 2e-2,
        "fit_patience": 1,
        "workdir": str(tmp_path / "one"),
    }
    config = replace_flat(OfflineConfig(), settings)
    offline.run(config)
    alone = run_folder(config)
    assert len({row["epochs"] for row in json.loads((alone / "result.json").read_text())["model"]}) > 1
    together = dataclasses.replace(config, workdir=str(tmp_path / "together"))
    started = begin(command("admpo_off", together), count)
    folder = wait_for_lines(together.workdir, 2, started)
    for process in started:
        process.send_signal(signal.SIGTERM)
    codes, outputs = end(started)
    assert codes == [143] * count, outputs
    resumed = [sys.executable, "-m", "experiments.admpo_off", f"--resume={folder}"]
    codes, outputs = end(begin(resumed, count))
    assert codes == [0] * count, outputs
    assert_same_members(folder, alone)


def test_an_error_of_one_process_ends_the_others(tiny_config: OfflineConfig) -> None:
    """They name it, leave nothing behind and wait for nobody."""
    arguments = command("admpo_off", dataclasses.replace(tiny_config, seeds=(0, 1, 2)))
    codes, outputs = end(begin(arguments))
    line = "num_processes: 2 do not divide the 3 members trained at a time"
    assert codes == [2, 2], outputs
    assert f"error: {line}\n" in outputs[0]
    assert f"error: process 0: {line}\n" in outputs[1]
    assert not list(Path(tiny_config.workdir).iterdir())


def test_a_folder_that_holds_no_run_ends_both(tmp_path: Path) -> None:
    """The first process alone looks, before they have told each other anything."""
    resumed = [sys.executable, "-W", "ignore", "-m", "experiments.admpo_on", f"--resume={tmp_path}"]
    begun = time.monotonic()
    codes, outputs = end(begin(resumed))
    assert codes == [2, 2], outputs
    assert f"error: {tmp_path} holds no run: " in outputs[0]
    assert f"error: process 0: {tmp_path} holds no run: " in outputs[1]
    assert time.monotonic() - begun < 200  # neither waits for the other's farewell


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, 0), "num_processes: says nothing without --coordinator=HOST:PORT, of the first process"),
        ((None, None, 1), "process_id: says nothing without --coordinator=HOST:PORT, of the first process"),
        (("head", 2, 0), "coordinator: 'head' is neither HOST:PORT of the first process nor auto"),
        (("head:1234", 2, None), "process_id: is needed with --coordinator=head:1234"),
        (("head:1234", None, 0), "num_processes: is needed with --coordinator=head:1234"),
        (("head:1234", 2, 2), "process_id: 2 is not one of 0 to 1"),
        (("auto", 2, None), "num_processes: --coordinator=auto takes it from the scheduler; leave it out"),
    ],
)
def test_flags_that_contradict_each_other_are_refused(given: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        hosts.join(*given)
    assert str(caught.value) == message


def test_alone_there_is_nobody_to_ask() -> None:
    alone = hosts.Hosts()
    assert (alone.count, alone.is_first) == (1, True)
    value = {"a": [1, None, "x"], "b": np.arange(6.0).reshape(2, 3)}
    (found,) = alone.exchange(value)
    assert found["a"] == value["a"]
    np.testing.assert_array_equal(found["b"], value["b"])
    assert alone.any(True)
    assert not alone.any(False)
    assert alone.end("result") == "result"
