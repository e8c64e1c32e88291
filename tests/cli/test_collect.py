"""The collect command, run as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import minari
import numpy as np
import pytest

from adm_jax.data import builtin
from adm_jax.data.formats import minari_files
from adm_jax.runs.policy_file import load_policy
from tests.cli import scripts

ROOT = Path(__file__).parents[2]
SMALL = ["--num_steps=120", "--warmup_steps=100", "--steps_per_iteration=20", "--batch_size=16",
         "--policy_hidden_dim=8", "--eval_episodes=1"]  # fmt: skip


def run(*flags):
    return scripts.run("collect", *flags)


def run_alone(*flags):
    """In a process that imports everything itself."""
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
        assert read.metadata["command"] == " ".join(["adm-jax collect", *flags])
        assert read.metadata["seed"] == 3
        assert read.metadata["env_id"] == "Hopper-v4"
        assert {"python", "jax", "mujoco", "gymnasium", "adm_jax"} <= set(read.metadata["versions"])
        assert read.metadata["config"]["batch_size"] == 16
        assert len(read.metadata["final_policy_returns"]) == 1
        assert {name: read.metadata[name] for name in read.return_statistics()} == read.return_statistics()
    assert data.digests() == packed.digests()


# an environment as a user writes one: registered by its class, with an argument that is no JSON as it is
PENDULUM = """
import gymnasium
import numpy as np
from adm_jax.tasks import register_task
from gymnasium.envs.mujoco.inverted_pendulum_v4 import InvertedPendulumEnv

class Pendulum(InvertedPendulumEnv):
    def __init__(self, start):
        super().__init__()
        self.init_qpos = start

gymnasium.register("MyPendulum-v0", Pendulum)
register_task(
    name="pendulum", env_id="MyPendulum-v0", obs_dim=4, action_dim=1, termination="halfcheetah",
    reference_min=5.0, reference_max=1000.0,
    env_kwargs={"start": np.array([0.0, 0.1]), "max_episode_steps": 1000},
)
"""
KINDS = ("random", "medium", "replay", "expert", "medium-expert")


def test_a_task_of_ones_own_becomes_five_datasets_and_two_policies():
    Path("my_pendulum.py").write_text(PENDULUM)
    flags = [*SMALL, "--task=my_pendulum:pendulum", "--num_envs=4", "--num_transitions=80", "--eval_every=20",
             "--medium_return=1", "--dataset=tests/pendulum", "--policy_dir=kept"]  # fmt: skip
    done = run(*flags)
    assert done.returncode == 0, done.stderr
    digests = set()
    for kind in KINDS:
        data = minari_files.read(f"tests/pendulum/{kind}-v0")
        assert data.metadata["command"] == " ".join(["adm-jax collect", *flags])
        assert data.metadata["kind"] == kind
        assert {"python", "jax", "mujoco", "gymnasium", "adm_jax"} <= set(data.metadata["versions"])
        assert data.metadata["sha256"] == data.digests()
        digests.add(data.metadata["sha256"]["obs"])
        spec = json.loads(data.metadata["env_spec"])
        assert (spec["entry_point"], spec["max_episode_steps"]) == ("my_pendulum:Pendulum", 1000)
        assert spec["kwargs"] == {"start": [0.0, 0.1]}
        stored = minari.load_dataset(f"tests/pendulum/{kind}-v0")
        assert minari.get_normalized_score(stored, np.array([5.0, 1000.0])).tolist() == [0.0, 1.0]
    assert len(digests) == len(KINDS)
    assert sorted(path.name for path in Path("kept").iterdir()) == ["expert.npz", "medium.npz"]
    policy = load_policy("kept/expert.npz")
    assert (policy.obs_dim, policy.action_dim, policy.bounds) == (4, 1, ((-3.0,), (3.0,)))
    assert policy.info["env_id"] == "MyPendulum-v0"
    assert policy.info["command"].startswith("adm-jax collect --num_steps=120")


IN_WHICH_ORDER = """
import numpy as np
from adm_jax.data.episodes import EpisodeData
from adm_jax.cli import app, collect
from adm_jax.training.collect import Collected

def collected(*args):
    print("run")
    rows = np.zeros((1, 1), np.float32)
    data = EpisodeData(rows, rows, rows[:, 0], rows, *np.ones((2, 1), bool), metadata={"kind": "expert"})
    return Collected({"expert": data}, {"expert": (None, {})}, None)

collect.minari_write.env_spec = lambda *args: print("specification")
collect.collect.collect = collected
collect.save_policy = lambda *args: print("policy")
collect.minari_io.save = lambda *args, **kwargs: print("dataset")
collect.define()
app.call(collect.main, ["collect", "--task=hopper", "--kinds=expert"])
"""


def test_what_could_fail_is_tried_before_the_run_and_policies_are_saved_first():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", IN_WHICH_ORDER],
        env=env,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    steps = [line for line in done.stdout.splitlines() if " " not in line]
    assert steps == ["specification", "run", "policy", "dataset"]


BAD_INPUT = [
    (["--task=hoper"], "task: 'hoper' is unknown"),
    (["--task=no_module_of_tests:x"], "task: module 'no_module_of_tests' cannot be imported"),
    (["--num_steps=0"], "num_steps"),
    (["--num_steps=many"], "num_steps"),
    (["--warmup_steps=33"], "steps_per_iteration"),
    (["--num_envs=0"], "num_envs"),
    (["--num_envs=3"], "num_envs: 3 does not divide steps_per_iteration 50"),
    (["--num_envs=2", "--num_transitions=11"], "num_envs: 2 does not divide num_transitions 11"),
    (["--num_transitions=0"], "num_transitions=0: 0 is out of range; at least 1"),
    (["--num_transitions=few"], "num_transitions"),
    (["--kinds=random,best"], "kinds: 'best' is unknown; some of random, medium"),
    (["--kinds="], "kinds: '' is unknown"),
    (["--medium_return=high"], "medium_return"),
    (["--medium_return=nan"], "medium_return=nan: nan is out of range; a finite number"),
    (["--task=humanoid"], "medium_return: empty, and task humanoid has no reference scores"),
    (["--dataset=no version"], "no Minari id"),
    (["--dataset=hopper/mine-v0"], "is the id of one dataset, and 5 kinds are collected"),
    (["--dataset=tests/taken"], "tests/taken/expert-v0 exists in"),
    (["--builtin_file=replay.npz"], "must end in .xz"),
    (["--builtin_file=absent/replay.xz"], "no folder that can be written"),
    (["--builtin_file=replay.xz", "--kinds=random"], "builtin_file: holds a full-replay"),
    (["--policy_dir=kept"], "kept/expert.npz exists; remove it"),
    (["--policy_dir=kept/expert.npz"], "kept/expert.npz is not a folder"),
    (["--policy_dir=~nobody_of_tests/x"], "there is no such user"),
    (["hopper"], "is not a flag"),
]

# All in one process, as importing takes longest; not in this one, as commands' flags have one namespace.
IN_ONE_PROCESS = """
import contextlib, io, json, sys
from pathlib import Path
from absl.testing import flagsaver
from adm_jax.cli import app, collect

collect.define()
results, before = [], sorted(map(str, Path().rglob("*")))
for flags in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with flagsaver.flagsaver(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = app.call(collect.main, ["collect", *flags])
    left = sorted(map(str, Path().rglob("*"))) != before
    results.append((code, out.getvalue(), err.getvalue(), left))
print(json.dumps(results))
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad-input")
    (folder / "kept").mkdir()
    (folder / "kept/expert.npz").write_bytes(b"")
    (minari_files.datasets_root() / "tests/taken/expert-v0/data").mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-B", "-c", IN_ONE_PROCESS],
        input=json.dumps([flags for flags, _ in BAD_INPUT]),
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("case", range(len(BAD_INPUT)), ids=lambda case: " ".join(BAD_INPUT[case][0]))
def test_bad_input_is_one_line_and_leaves_nothing(outcomes, case):
    code, out, err, left = outcomes[case]
    assert code == 2
    assert out == ""
    assert BAD_INPUT[case][1] in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert not left


def test_a_medium_that_is_not_reached_is_told_and_the_rest_saved():
    flags = [*SMALL, "--task=hopper", "--kinds=random,medium", "--num_transitions=40", "--medium_return=9999"]
    done = run(*flags, "--dataset=tests/unreached")
    assert done.returncode == 2
    assert done.stderr.startswith("error: medium_return: 9999.0 was not reached in 120 steps")
    assert done.stderr.count("\n") == 1
    assert "saved as tests/unreached/random-v0" in done.stdout
    assert len(minari_files.read("tests/unreached/random-v0").reward) == 40
    assert not minari_files.exists("tests/unreached/medium-v0")
    assert [path.name for path in Path("policies/hopper-seed0").iterdir()] == ["expert.npz"]


@pytest.mark.parametrize("flags", [["--task=hoper"], ["--kinds=best"]])
def test_as_a_user_runs_it_nothing_else_is_on_stderr(flags):
    done = run_alone(*flags)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_a_store_that_cannot_be_written_is_told_before_the_run(monkeypatch):
    Path("file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(Path("file").absolute() / "store"))
    done = run(*SMALL)
    assert done.returncode == 2
    assert done.stdout == ""
    assert "cannot be written to" in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_explains_every_flag():
    done = run_alone("--help")
    assert done.returncode == 0
    assert all(
        f"--{name}" in done.stdout
        for name in (
            "task",
            "num_steps",
            "actor_lr",
            "num_envs",
            "kinds",
            "medium_return",
            "policy_dir",
            "builtin_file",
        )
    )
