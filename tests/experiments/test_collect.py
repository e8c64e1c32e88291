"""The collect command, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from adm_jax.data import builtin, minari_files

ROOT = Path(__file__).parents[2]
SMALL = ["--num_steps=120", "--warmup_steps=100", "--steps_per_iteration=20", "--batch_size=16",
         "--policy_hidden_dim=8", "--eval_episodes=1"]  # fmt: skip


def run(*flags):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "experiments.collect", *flags]
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=300)


def test_a_replay_is_saved_and_packed_with_what_made_it(tmp_path):
    flags = [*SMALL, "--task=hopper", "--seed=3", "--dataset=tests/collect-v0", "--builtin_file=replay.xz"]
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    assert "120 transitions" in done.stdout
    data = minari_files.read("tests/collect-v0")
    packed = builtin.unpack(Path("replay.xz"))
    for read in (data, packed):
        assert len(read.reward) == 120
        assert read.metadata["command"] == " ".join(["python -m experiments.collect", *flags])
        assert read.metadata["seed"] == 3
        assert read.metadata["env_id"] == "Hopper-v4"
        assert {"python", "jax", "mujoco", "gymnasium", "adm_jax"} <= set(read.metadata["versions"])
        assert read.metadata["config"]["batch_size"] == 16
        assert len(read.metadata["final_policy_returns"]) == 1
        assert {name: read.metadata[name] for name in read.return_statistics()} == read.return_statistics()
    assert data.digests() == packed.digests()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--task=hoper"], "task: 'hoper' is unknown"),
        (["--num_steps=0"], "num_steps"),
        (["--num_steps=many"], "num_steps"),
        (["--warmup_steps=33"], "steps_per_iteration"),
        (["--dataset=no-version"], "no Minari id"),
        (["--builtin_file=replay.npz"], "must end in .xz"),
        (["--builtin_file=absent/replay.xz"], "no folder that can be written"),
        (["hopper"], "is not a flag"),
    ],
)
def test_bad_input_is_one_line(flags, message):
    done = run(*flags)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_a_store_that_cannot_be_written_is_told_before_the_run(monkeypatch):
    Path("file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path("file").absolute() / "store"))
    done = run(*SMALL)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "cannot be written to" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_explains_every_flag():
    done = run("--help")
    assert done.returncode == 0
    assert all(
        f"--{name}" in done.stdout for name in ("task", "num_steps", "actor_lr", "dataset", "builtin_file")
    )
