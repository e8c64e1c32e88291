"""One process at a time on a run's folder, and what is written stands after a power failure."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from adm_jax import files
from adm_jax.runs import config_file
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.lock import lock_folder
from adm_jax.types import InputError

ROOT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from adm_jax.runs.lock import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
RUN = {"algorithm": "admpo_on", "task": "hopper", "members": [{"seed": 0}]}


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder's lock."""
    command = [sys.executable, "-W", "ignore", "-c", HOLD, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_process_is_told_in_one_line_who_holds_the_folder(holder, tmp_path):
    with pytest.raises(InputError) as error, lock_folder(tmp_path):
        pass
    message = str(error.value)
    assert message.startswith(f"{tmp_path}: process {holder.pid} on ")
    assert ", since 2" in message
    assert "\n" not in message
    assert holder.poll() is None


def test_a_run_that_another_process_works_on_is_not_resumed_nor_touched(holder, tmp_path):
    from adm_jax.config import online_config_for_task
    from adm_jax.config.settings import to_flat

    config = to_flat(online_config_for_task("inverted_pendulum"))
    config_file.write(tmp_path, {**RUN, "config": config})
    (tmp_path / "checkpoints" / "saving-train-000002").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-W", "ignore", "-m", "experiments.admpo_on", f"--resume={tmp_path}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    second = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: {tmp_path}: process {holder.pid} on ")
    assert second.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_killed_process_holds_nothing(holder, tmp_path):
    holder.kill()
    holder.wait()
    assert (tmp_path / ".lock.json").exists()
    with lock_folder(tmp_path):
        assert json.loads((tmp_path / ".lock.json").read_text())["pid"] == os.getpid()
    assert not (tmp_path / ".lock.json").exists()


def test_what_a_process_on_another_host_left_is_named_and_not_taken(tmp_path):
    """Not every network file system passes locks on."""
    holder = tmp_path / ".lock.json"
    holder.write_text(json.dumps({"pid": 7, "host": "elsewhere", "since": "2026-11-28"}))
    with pytest.raises(InputError) as error, lock_folder(tmp_path):
        pass
    who = "process 7 on elsewhere, since 2026-11-28,"
    assert str(error.value) == f"{tmp_path}: {who} has not said that it ended; if it has, remove {holder}"
    holder.unlink()
    with lock_folder(tmp_path):
        assert holder.exists()


def test_what_is_renamed_is_on_the_disk_before(tmp_path, monkeypatch):
    """Every file of a checkpoint, and its folder's names; then the new name itself."""
    synced: list[str] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))[1]
    )
    at_rename: list[list[str]] = []
    monkeypatch.setattr(os, "replace", lambda *args: (at_rename.append(list(synced)), replace(*args))[1])
    Checkpointer(tmp_path).save("train", 1, {"x": jnp.zeros(1000)})
    done = tmp_path / "train-000001"
    saving = str(tmp_path / "saving-train-000001")
    expected = {saving} | {saving + str(path)[len(str(done)) :] for path in done.rglob("*")}
    assert expected <= set(at_rename[-1])
    assert synced[-1] == str(tmp_path)
    files.write_atomically(tmp_path / "result.json", "{}")
    assert at_rename[-1][-1] == str(tmp_path / ".result.json")
    assert (tmp_path / "result.json").read_text() == "{}"
