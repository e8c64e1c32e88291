"""Whatever a user gets wrong: one line, exit code 2, nothing half-written.

In this process, through the script's own flags and main; a few in a process of their own, as a user runs it.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from absl.testing import flagsaver

from adm_jax.cli import admpo_off, app
from adm_jax.config import OfflineConfig
from adm_jax.config.settings import to_flat
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_io
from adm_jax.envs import environment
from adm_jax.runs.seals import sealed

ROOT = Path(__file__).parents[2]
TINY = [
    *("--task=hopper", "--dataset=tests/bad-input-v0", "--max_backtrack=2", "--model_hidden_dim=4"),
    *("--num_gru_layers=1", "--num_residual_blocks=0", "--rollout_batch_size=4", "--policy_hidden_dim=4"),
]


@pytest.fixture(scope="module", autouse=True)
def dataset() -> None:
    """Two episodes of noise in Hopper's shapes: nothing here gets as far as learning from them."""
    rng = np.random.default_rng(0)
    obs = rng.normal(scale=0.01, size=(41, 11)).astype(np.float32)
    obs[:, 0] += 1.25  # a standing Hopper's height: anywhere else the task's termination ends every episode
    ends = np.isin(np.arange(40), [19, 39])
    data = EpisodeData(
        obs=obs[:-1],
        action=rng.uniform(-1, 1, (40, 3)).astype(np.float32),
        reward=np.ones(40, np.float32),
        next_obs=obs[1:],
        terminated=ends & (np.arange(40) < 20),
        truncated=ends & (np.arange(40) >= 20),
    )
    low, high = environment.action_bounds("Hopper-v4").arrays()
    for name, kept in (("bad-input", 40), ("short", 20)):
        part = {field: getattr(data, field)[:kept] for field in ("obs", "action", "reward", "next_obs")}
        part |= {field: getattr(data, field)[:kept] for field in ("terminated", "truncated")}
        part = dataclasses.replace(data, **part)
        minari_io.save(part, f"tests/{name}-v0", env_id="Hopper-v4", action_low=low, action_high=high)
    minari_io.save(data, "tests/damaged-v0", env_id="Hopper-v4", action_low=low, action_high=high)
    path = minari_files.dataset_dir("tests/damaged-v0") / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:3000])


@pytest.fixture(scope="module", autouse=True)
def flags() -> None:
    """Those of the command, once in this process."""
    admpo_off.define()


def run(*arguments: str) -> int:
    with flagsaver.flagsaver():
        return app.call(admpo_off.main, ["admpo_off", *arguments])


def assert_one_line(error: str, message: str) -> None:
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task=cheetah"], "task: 'cheetah' is unknown; one of hopper"),
        (["--task=hopper-medium-v2"], "'hopper-medium-v2' is unknown (did you mean hopper-medium?); one of"),
        (["--task=HalfCheetah-v4"], "'HalfCheetah-v4' is unknown (did you mean halfcheetah?); one of"),
        (["--task=pen-human-v1"], "'pen-human-v1' is unknown (did you mean pen-human?); one of"),
        (
            ["--task=AdroitHandPen-v1"],
            "'AdroitHandPen-v1' is unknown (the id of an environment or a dataset is no task; --task=auto "
            "--dataset=<id> learns from a dataset, and evaluates in its environment); one of hopper, ",
        ),
        (
            ["--task=D4RL/pen/human-v2"],
            "'D4RL/pen/human-v2' is unknown (the id of an environment or a dataset is",
        ),
        (["--task=walker2d_medium-v0"], "unknown (did you mean walker2d-medium?); one of"),
        (
            ["--task=hopper", "--dataset=/some/file.hdf5"],
            "/some/file.hdf5 is a file, not an id; import it: adm-jax import --source=d4rl "
            "--path=/some/file.hdf5 --dataset=mine/data-v0, and give --dataset=mine/data-v0",
        ),
        (
            ["--task=auto", "--dataset=my data/Hopper-v3-low.npz"],
            "adm-jax import --source=neorl --path='my data/Hopper-v3-low.npz' --dataset=mine/data-v0",
        ),
        (["--task=auto", "--dataset=./cheetah.H5"], "--source=d4rl --path=./cheetah.H5"),
        (["--task=hopper", "--dataset=runs/2024.NPZ"], "--source=neorl --path=runs/2024.NPZ"),
        (
            ["--task=hopper", "--dataset=/data/hopper/replay-v0/data/main_data.hdf5"],
            "is a Minari dataset's own file; give the dataset's id, its folders below ",
        ),
        (["--task=hopper"], "dataset: task hopper has none of its own"),
        (["--task=walker2d", "--dataset=tests/bad-input-v0"], "task walker2d"),
        (["--task=hopper", "--dataset=replay"], "dataset: 'replay' is no Minari id"),
        (["--task=hopper", "--dataset=tests/absent-v0"], "tests/absent-v0 is not in"),
        (["--task=hopper", "--dataset=tests/damaged-v0"], "main_data.hdf5"),
        ([*TINY, "--termination=never_mind"], "never_mind"),
        ([*TINY, "--max_backtrack=100"], "max_backtrack"),
        ([*TINY, "--memory_limit_gib=0.00001"], "memory_limit_gib is 1e-05; lower "),
        ([*TINY, "--seeds=1,2,1"], "seeds: 1,2,1 names a seed twice"),
        ([*TINY, "--seeds=one"], "not a comma-separated list"),
        ([*TINY, "--target_entropy=-1"], "target_entropy: has no effect without auto_entropy"),
        ([*TINY, "--holdout_fraction=0.9"], "at most 0.5"),
        ([*TINY, "--workdir="], "workdir: empty; give a folder"),
        ([*TINY, "--workdir=~no_such_user/x"], "workdir: ~no_such_user/x: there is no such user"),
        ([*TINY, "--members_per_batch=2"], "members_per_batch: 2 does not divide the 3 members"),
        ([*TINY, "--num_devices=2"], "num_devices: 2 does not divide the 3 members"),
        ([*TINY, "--num_devices=3"], "num_devices: 3, but this machine has 1"),
        ([*TINY, "--matmul_precision=half"], "matmul_precision"),
        ([*TINY, "--epochs=3"], "Unknown command line flag 'epochs'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(arguments, message, capfd):
    assert run("--workdir=runs", *arguments) == 2
    assert_one_line(capfd.readouterr().err, message)
    assert not list(Path().iterdir())


def test_an_unwritable_workdir_is_one_line(capfd):
    Path("file").write_text("")
    assert run(*TINY, "--workdir=file/runs") == 2
    assert_one_line(capfd.readouterr().err, "file")
    assert [path.name for path in Path().iterdir()] == ["file"]


def run_with(**values: object) -> str:
    """The config.json of a run with a few other values."""
    flat = {**to_flat(OfflineConfig()), **values}
    members = [{"seed": seed} for seed in (0, 1, 2)]
    run = {"algorithm": "admpo_off", "task": "hopper", "members": members, "config": flat}
    return json.dumps(sealed(json.loads(json.dumps(run))))


@pytest.mark.parametrize("content", [None, "", "{}", run_with(gamma=7)])
def test_resume_from_a_folder_that_holds_no_run_is_one_line(content, capfd):
    folder = Path("folder")
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    before = sorted(folder.iterdir())
    assert run("--resume=folder") == 2
    assert_one_line(capfd.readouterr().err, "gamma: 7" if content and "gamma" in content else "holds no run")
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--resume=folder", "--gamma=0.9"], "gamma: --resume keeps the run's configuration"),
        (["--resume=absent"], "absent holds no run: config.json: No such file or directory"),
        (["--resume="], "resume: empty; give a folder"),
        (["--resume_anyway"], "resume_anyway: says how a run is resumed; give --resume=<its folder>"),
        (["--resume=~no_such_user/x"], "resume: ~no_such_user/x: there is no such user"),
    ],
)
def test_resume_takes_a_run_and_nothing_else(arguments, message, capfd):
    assert run(*arguments) == 2
    assert_one_line(capfd.readouterr().err, message)


def as_a_user_runs_it(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.admpo_off", *arguments]
    env = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds=zero"], "'zero' is not a comma-separated list"),
        (["--task=hopper", "--dataset=tests/absent-v0"], "adm-jax import --source=d4rl"),
        (["--resume=."], "holds no run"),
    ],
)
def test_as_a_user_runs_it_nothing_else_is_on_stderr(arguments, message):
    done = as_a_user_runs_it(*arguments)
    assert done.returncode == 2
    assert_one_line(done.stderr, message)
    assert done.stdout == ""
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_ENABLE_X64": "1"}, "JAX_ENABLE_X64: is set, and adm_jax computes in float32; unset it"),
        (
            {"JAX_PLATFORMS": "nonsense"},
            "JAX_PLATFORMS: is 'nonsense': Unable to initialize backend 'nonsense': ",
        ),
        (
            {"MUJOCO_GL": "nonsense"},
            "MUJOCO_GL: invalid value for environment variable MUJOCO_GL: nonsense",
        ),
        ({"PYTHONWARNINGS": "error"}, "PYTHONWARNINGS: makes this warning an error: DeprecationWarning: "),
        ({"PYTHONOPTIMIZE": "2"}, "PYTHONOPTIMIZE: -OO takes docstrings away that libraries read"),
    ],
)
def test_what_programs_cannot_run_under_is_one_line(variables, message):
    done = as_a_user_runs_it(*TINY, **variables)
    assert done.returncode == 2
    assert_one_line(done.stderr, f"error: {message}")
    assert done.stdout == ""
    assert not list(Path().iterdir())


def test_a_folder_that_the_locale_cannot_read_is_one_line():
    c_locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = as_a_user_runs_it(*TINY, "--workdir=läufe", **c_locale)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        r"error: workdir: b'l\xc3\xa4ufe' cannot be read in this locale; set PYTHONUTF8=1"
    )
    assert not list(Path().iterdir())
