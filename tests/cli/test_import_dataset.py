"""The import script as a user runs it: its output, its one-line errors, its exit codes."""

import os
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest

from adm_jax.data.formats import minari_io
from tests.cli import scripts

REPOSITORY = Path(__file__).parents[2]
SHARED = REPOSITORY.parent / "shared" / "data" / "offline" / "hopper-replay.hdf5"
ID = "hopper/tiny-v0"


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def path(tmp_path) -> Path:
    """Two episodes of three rows; the second is cut by the file's end."""
    path = tmp_path / "some file.hdf5"
    observations = np.arange(24, dtype=np.float32).reshape(8, 3)
    with h5py.File(path, "w") as file:
        file["observations"] = observations[[0, 1, 2, 4, 5, 6]]
        file["next_observations"] = observations[[1, 2, 3, 5, 6, 7]]
        file["actions"] = np.linspace(-1, 1, 12, dtype=np.float32).reshape(6, 2)
        file["rewards"] = np.arange(6, dtype=np.float32)
        file["terminals"] = np.arange(6) == 2
        file["timeouts"] = np.zeros(6, bool)
        file.attrs["env_id"] = "Hopper-v4"
    return path


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return scripts.run("import_dataset", *arguments)


def failure(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_imports_and_reports(path, store):
    done = run("--source=d4rl", f"--path={path}", f"--dataset={ID}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"read 6 rows of {path} (Hopper-v4): 6 transitions, 2 episodes, 1 terminated, 1 truncated",
        "the file ends in mid-episode: its last episode is truncated there",
        "returns: mean 7.5, best 12.0, weighted by length 7.5",
        f"saved as {ID} in {store / ID}",
    ]
    assert done.stderr == ""
    data = minari_io.load(ID)
    assert data.terminated.tolist() == [False, False, True, False, False, False]
    assert data.metadata["command"] == (f"adm-jax import --source=d4rl '--path={path}' --dataset={ID}")
    assert f"{ID} exists in" in failure(f"--path={path}", f"--dataset={ID}")
    assert run(f"--path={path}", f"--dataset={ID}", "--overwrite").returncode == 0


def test_a_file_that_names_no_environment(path, store):
    """Its actions are bounded by what it holds, unless bounds are given."""
    with h5py.File(path, "a") as file:
        del file.attrs["env_id"]
        file["actions"][...] *= 3
    done = run("--source=d4rl", f"--path={path}", f"--dataset={ID}")
    assert done.stdout.splitlines()[2:4] == [
        "no environment is named, so that policies of these data are not evaluated for real; --env_id "
        "names one here, --task=<name> in a run",
        "actions lie within +-3: the largest action in the data, which have no action space; --action_low "
        "and --action_high give others",
    ]
    data = minari_io.load(ID)
    assert not {"env_id", "env_spec"} & set(data.metadata)
    assert data.action_bounds()[0] == ((-3, -3), (3, 3))
    assert run(f"--path={path}", f"--dataset={ID}", "--overwrite", "--action_low=-4", "--action_high=4")
    assert minari_io.load(ID).action_bounds()[0].high == (4, 4)
    done = run(f"--path={path}", f"--dataset={ID}", "--overwrite", "--action_low=-3.5,-4")
    assert "actions lie within [-3.5, 3] x [-4, 3]: the largest" in done.stdout, done.stderr
    assert minari_io.load(ID).action_bounds()[0] == ((-3.5, -4), (3, 3))


def test_a_neorl_file_of_no_known_environment(store, tmp_path):
    """As of a plant: its dimensions are none of MuJoCo's."""
    path = tmp_path / "ib-low-2-train.npz"
    rows = np.arange(16, dtype=np.float32).reshape(8, 2)
    arrays = {"obs": rows[[0, 1, 2, 4, 5, 6]], "next_obs": rows[[1, 2, 3, 5, 6, 7]]}
    arrays |= {"action": np.full((6, 1), 0.5), "reward": np.ones((6, 1)), "done": np.zeros((6, 1))}
    np.savez(path, **arrays, index=np.array([3, 6]))
    of = ("--source=neorl", f"--path={path}", f"--dataset={ID}")
    assert failure(*of).endswith("is unknown; give it, as in --max_episode_steps=1000")
    done = run(*of, "--max_episode_steps=3")
    assert "no environment is named" in done.stdout, done.stderr
    data = minari_io.load(ID)
    assert "env_id" not in data.metadata
    assert data.episode_lengths.tolist() == [3, 3]


def test_neorl(store, tmp_path):
    """Two falls of a Hopper with its x position, as NeoRL's files hold them."""
    path = tmp_path / "Hopper-v3-low-2-train-noise.npz"
    obs = np.linspace(0, 0.1, 96, dtype=np.float32).reshape(8, 12)
    obs[:, 1] += 1.25
    np.savez(
        path,
        obs=obs[[0, 1, 2, 4, 5, 6]],
        next_obs=obs[[1, 2, 3, 5, 6, 7]],
        action=np.linspace(-1, 1, 18, dtype=np.float32).reshape(6, 3),
        reward=np.ones((6, 1), np.float32),
        done=(np.arange(6) % 3 == 2)[:, None],
        index=np.array([3, 6]),
    )
    done = run("--source=neorl", f"--path={path}", "--dataset=neorl/hopper-low-v0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"read 6 rows of {path} (Hopper-v4): 6 transitions, 2 episodes, 2 terminated, 0 truncated",
        "index does not begin with 0: the rows behind episodes' last, as NeoRL's files hold it",
        "returns: mean 3.0, best 3.0, weighted by length 3.0",
        f"saved as neorl/hopper-low-v0 in {store / 'neorl' / 'hopper-low-v0'}",
    ]
    data = minari_io.load("neorl/hopper-low-v0")
    assert data.obs.tobytes() == obs[[0, 1, 2, 4, 5, 6]].tobytes()
    assert data.metadata["env_kwargs"] == {"exclude_current_positions_from_observation": False}
    assert '"exclude_current_positions_from_observation": false' in data.metadata["env_spec"]
    wrong = failure("--source=d4rl", f"--path={path}", "--dataset=neorl/other-v0")
    assert wrong == (
        f"error: {path}: is an npz archive; must be HDF5: adm-jax import --source=neorl reads it"
    )


def test_user_errors_are_one_line_and_leave_nothing(path, store, tmp_path):
    good = [f"--path={path}", f"--dataset={ID}"]
    assert "path: empty; give it" in failure(f"--dataset={ID}")
    assert "dataset: 'hopper' is no Minari id" in failure(f"--path={path}", "--dataset=hopper")
    assert f"{tmp_path}/no.hdf5: no such file" in failure(f"--path={tmp_path}/no.hdf5", f"--dataset={ID}")
    assert "must lie in the action bounds [-0.4, 0.4]" in failure(
        *good, "--action_low=-0.4", "--action_high=0.4"
    )
    assert "action_low must be a number below action_high" in failure(*good, "--action_low=nan")
    for wrong in ("0,0.7,1", "low", ""):
        assert failure(*good, f"--action_low={wrong}") == (
            f"error: action_low: {wrong!r}: must be a number, or one for each of the 2 dimensions of the "
            "actions, as 0,0.7"
        )
    assert "d4rl" in failure(*good, "--source=csv")
    assert "max_episode_steps" in failure(*good, "--max_episode_steps=0")
    assert "not a flag" in failure(*good, "extra")
    os.truncate(path, path.stat().st_size // 2)
    assert "cannot be read as HDF5, damaged or cut short" in failure(*good)
    assert not store.exists()


def test_unwritable_store(path, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    assert "cannot be written to" in failure(f"--path={path}", f"--dataset={ID}")


def test_shared_replay(store):
    if not SHARED.exists():
        pytest.skip(f"{SHARED} is absent")
    done = run("--source=d4rl", f"--path={SHARED}", "--dataset=hopper/replay-v0")
    assert done.returncode == 0, done.stderr
    assert "198000 transitions, 984 episodes" in done.stdout
    loaded = minari_io.load("hopper/replay-v0")
    with h5py.File(SHARED) as file:
        for ours, theirs in {"obs": "observations", "action": "actions", "reward": "rewards"}.items():
            assert getattr(loaded, ours).tobytes() == file[theirs][()].tobytes()
        assert loaded.next_obs.tobytes() == file["next_observations"][()].tobytes()
