"""Malformed inputs of every source, each with the line it is refused with. What is harmless is at the end."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from adm_jax.data.formats import d4rl, minari_files, minari_io, neorl
from tests.data.sample_data import assert_same_bits, d4rl_arrays, error_line, make_data

ID = "tests/tiny-v0"
# episodes of 4 (terminated), 3 (time limit), 5 (terminated), 3 (time limit) rows; ends at rows 3, 6, 11, 14
DATA = make_data((4, 3, 5, 3))
ENDS = DATA.episode_ends


def put(array: np.ndarray, index, value) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


# --- D4RL: what replaces an array of a sound file (None removes it), and the line ---

D4RL_ARRAYS = d4rl_arrays(DATA)
D4RL = {
    "complex numbers": (
        {"rewards": DATA.reward + 1j},
        "rewards holds complex64 values; must be real numbers",
    ),
    "text": (
        {"actions": DATA.action.astype("S3")},
        "actions holds |S3 values; must be real numbers",
    ),
    "true and false as observations": (
        {"observations": DATA.obs > 0},
        "observations holds bool values; must be real numbers",
    ),
    "a missing array": (
        {"actions": None},
        "actions is missing; a D4RL file holds observations, actions, rewards, terminals",
    ),
    "too few rows": (
        {"rewards": DATA.reward[:-1]},
        "rewards has 14 rows; must have as many as observations, 15",
    ),
    "two columns": (
        {"rewards": np.stack([DATA.reward] * 2, 1)},
        "rewards has shape (15, 2); must be [N]",
    ),
    "other dimensions in next_observations": (
        {"next_observations": DATA.next_obs[:, 1:]},
        "next_observations has 2 dimensions; observations have 3",
    ),
    "timeouts as numbers of steps": (
        {"timeouts": np.where(DATA.truncated, 3, 0)},
        "timeouts[6] is 3; must be 0 or 1, a flag for each row and no number of steps",
    ),
    "timeouts as rows where episodes end": (
        {"timeouts": ENDS},
        "timeouts has 4 rows; must have as many as observations, 15",
    ),
    "timeouts a row late": (
        {"timeouts": np.roll(DATA.truncated, 1)},
        "timeouts[7] is set one row after an episode's end: next_observations[6] is not observations[7] "
        "(1 such in all); timeouts must be set at the last row of an episode",
    ),
    "timeouts a row early": (
        {"timeouts": np.roll(DATA.truncated, -1)},
        "timeouts[5] is set one row before an episode's end: next_observations[6] is not observations[7] "
        "(1 such in all); timeouts must be set at the last row of an episode",
    ),
    "timeouts a row late, without next observations": (
        {
            "next_observations": None,
            "terminals": np.arange(15) == 3,
            "timeouts": np.isin(np.arange(15), [8, 12]),
        },
        "timeouts end episodes of 4 steps after a timeout, but of 5 after a termination or the start; they "
        "are one row off, and must be set at the last row of an episode",
    ),
    "terminals in mid-episode": (
        {"terminals": put(DATA.terminated, 9, True)},
        "episode 2: terminals[9] is set in mid-episode: observations[10] goes on from next_observations[9] "
        "(1 such in all); the row after a terminal one must be the start of another episode",
    ),
    "rows in no order": (
        {"observations": DATA.obs[::-1], "next_observations": DATA.next_obs[::-1]},
        "next_observations[t] is not observations[t+1] at 11 of the 11 rows inside episodes, first at t = 0; "
        "rows must be in order of time",
    ),
    "no rows": (
        {name: array[:0] for name, array in D4RL_ARRAYS.items()},
        "empty, observations holds no row; at least one is needed",
    ),
}


def write_d4rl(path: Path, changes: dict, env_id: str | bytes | np.bytes_ | None = "Hopper-v4") -> Path:
    with h5py.File(path, "w") as file:
        for name, array in {**D4RL_ARRAYS, **changes}.items():
            if array is not None:
                file[name] = array
        if env_id is not None:
            file.attrs["env_id"] = env_id
    return path


@pytest.mark.parametrize("kind", D4RL)
def test_d4rl(kind, tmp_path):
    changes, line = D4RL[kind]
    path = write_d4rl(tmp_path / "file.hdf5", changes)
    assert error_line(d4rl.read, path) == f"{path}: {line}"


def test_d4rl_episodes_longer_than_the_step_limit(tmp_path):
    path = write_d4rl(tmp_path / "file.hdf5", {})
    assert error_line(d4rl.read, path, max_episode_steps=4) == (
        f"{path}: episode 2 has 5 steps, ending at row 11 (1 such in all); no episode may be longer than "
        f"max_episode_steps=4"
    )


@pytest.mark.parametrize("written", [np.bytes_(b"Hopper\xff-v4"), h5py.Empty("S1")])
def test_d4rl_attributes_that_are_no_text(written, tmp_path):
    path = write_d4rl(tmp_path / "file.hdf5", {}, env_id=None)
    with h5py.File(path, "a") as file:
        file.attrs["env_id"] = written
        read = file.attrs["env_id"]
    assert error_line(d4rl.read, path) == (
        f"{path}: attribute env_id is no UTF-8 text ({read!r}); give the environment, as in "
        f"--env_id=Hopper-v4"
    )
    assert d4rl.read(path, env_id="Hopper-v4")[0].metadata["env_id"] == "Hopper-v4"


def test_a_d4rl_file_that_names_a_module(tmp_path):
    """Gymnasium would import it."""
    path = write_d4rl(tmp_path / "file.hdf5", {}, env_id="os:Hopper-v4")
    assert error_line(d4rl.read, path) == (
        f"{path}: attribute env_id, 'os:Hopper-v4', names a module, which is not imported on a file's word; "
        "give the environment, as in --env_id=Hopper-v4"
    )


# --- NeoRL ---

NEORL_ARRAYS = {
    "obs": DATA.obs,
    "next_obs": DATA.next_obs,
    "action": DATA.action,
    "reward": DATA.reward[:, None],
    "done": DATA.terminated[:, None],
    "index": ENDS + 1,
}
NEORL = {
    "no index": (
        {"index": None},
        "index or truncated is missing; a NeoRL file holds obs, next_obs, action, reward, done, and index or "
        "truncated",
    ),
    "index of fractions": (
        {"index": ENDS + 0.5},
        "index has dtype float64 and shape (4,); must be row numbers [E], one for each episode",
    ),
    "index beyond the rows": ({"index": ENDS + 2}, "index[3] is 16; must be a row of the file, 0 to 15"),
    "index that decreases": (
        {"index": np.array([4, 12, 7, 15])},
        "index[2] is 7 after 12; must increase",
    ),
    "index as the last rows of episodes": (
        {"index": ENDS, "done": np.zeros(15)},
        "index cuts at row 3, but obs[3] goes on from next_obs[2] (4 such in all); must hold the first rows "
        "of episodes",
    ),
    "done in mid-episode": (
        {"done": put(DATA.terminated, 8, True)},
        "episode 2: done[8] is set in mid-episode, where index ends no episode (1 such in all); only an "
        "episode's last row may be done",
    ),
    "rewards in two columns": (
        {"reward": np.stack([DATA.reward] * 2, 1)},
        "reward has shape (15, 2); must be [N]",
    ),
    "done as text": ({"done": DATA.terminated.astype("U5")}, "done holds <U5 values; must be true or false"),
    "done as a number of steps": (
        {"done": np.where(DATA.terminated, 4, 0)},
        "done[3] is 4; must be 0 or 1, a flag for each row and no number of steps",
    ),
    "other dimensions in next_obs": (
        {"next_obs": DATA.next_obs[:, 1:]},
        "next_obs has 2 dimensions; obs have 3",
    ),
    "no rows": (
        {name: array[:0] for name, array in NEORL_ARRAYS.items()},
        "empty, obs holds no row; at least one is needed",
    ),
}


def write_neorl(path: Path, changes: dict) -> Path:
    np.savez(path, **{name: a for name, a in {**NEORL_ARRAYS, **changes}.items() if a is not None})
    return path


@pytest.mark.parametrize("kind", NEORL)
def test_neorl(kind, tmp_path):
    changes, line = NEORL[kind]
    path = write_neorl(tmp_path / "file.npz", changes)
    assert error_line(neorl.read, path, env_id="Mine-v0", max_episode_steps=10) == f"{path}: {line}"


def test_neorl_episodes_longer_than_the_step_limit(tmp_path):
    path = write_neorl(tmp_path / "file.npz", {})
    assert error_line(neorl.read, path, env_id="Mine-v0", max_episode_steps=4) == (
        f"{path}: episode 2 has 5 steps, ending at row 11 (1 such in all); no episode may be longer than "
        f"max_episode_steps=4"
    )


def test_neorl_environments_that_cannot_be(tmp_path):
    path = write_neorl(tmp_path / "file.npz", {})
    limit = "the step limit of its environment is unknown; give it, as in --max_episode_steps=1000"
    assert error_line(neorl.read, path) == (
        f"{path}: the file is not named after NeoRL's Hopper, HalfCheetah, Walker2d or one of NeoRL2's "
        f"environments; {limit}"
    )
    obs = np.zeros((15, 18), np.float32)
    obs[:, 0] = np.arange(15)  # where it is; the height stays 0
    as_cheetah = {"obs": obs, "next_obs": obs + np.eye(1, 18, dtype=np.float32), "action": obs[:, :6] / 20}
    changes = {**as_cheetah, "index": np.array([15]), "done": np.zeros(15)}
    cheetah = write_neorl(tmp_path / "HalfCheetah-v3-low-10-train.npz", changes)
    assert neorl.read(cheetah)[0].metadata["env_id"] == "HalfCheetah-v4"
    path = write_neorl(tmp_path / "Walker2d-v3-low-10-train.npz", changes)
    assert error_line(neorl.read, path) == (
        f"{path}: the file is named after Walker2d, but episodes start at obs[1] = 0, where Walker2d is at "
        f"1.25; {limit}"
    )


# --- Minari: what is done to a sound dataset's HDF5 file, and the line ---


def make_dictionary(file: h5py.File, episode: int, **arrays) -> None:
    del file[f"episode_{episode}/observations"]
    for key, array in arrays.items():
        file[f"episode_{episode}/observations/{key}"] = array


def replace(file: h5py.File, name: str, values) -> None:
    del file[name]
    file[name] = values


MINARI = {
    "keys of different lengths": (
        lambda f: make_dictionary(f, 0, a=np.zeros((5, 2)), b=np.zeros((4, 1))),
        "episode 0: observations['b'] has 4 rows; must have 5, as the keys before",
    ),
    "a key that holds text": (
        lambda f: make_dictionary(f, 0, a=np.zeros((5, 2)), b=np.full((5, 1), b"x")),
        "episode 0: observations['b'] holds |S1 values; must be real numbers",
    ),
    "a key without rows": (
        lambda f: make_dictionary(f, 0, a=np.zeros((5, 2)), b=1.0),
        "episode 0: observations['b'] is no array; must be one of [T + 1, ...]",
    ),
    "other keys in a later episode": (
        lambda f: [
            make_dictionary(f, i, **{key: np.zeros((n + 1, 2)), "b": np.zeros((n + 1, 1))})
            for i, (n, key) in enumerate(zip((4, 3, 5, 3), "aaca", strict=True))
        ],
        "episode 2: observations hold {'b': 1, 'c': 2}; must hold episode 0's keys and sizes, "
        "{'a': 2, 'b': 1}",
    ),
    "complex rewards": (
        lambda f: replace(f, "episode_0/rewards", np.zeros(4, complex)),
        "episode 0: rewards holds complex128 values; must be real numbers",
    ),
    "actions as a dictionary": (
        lambda f: (f.__delitem__("episode_0/actions"), f.create_group("episode_0/actions/a")),
        "episode 0: actions is a group of arrays; must be one array of numbers",
    ),
    "a marker for a missing value": (
        lambda f: f["episode_1/observations"].__setitem__((2, 1), 1e10),
        "episode 1, step 2: obs[1] is 1e+10 (1 such in all); must lie within +-1e+06: replace markers of "
        "missing values, or choose a larger unit",
    ),
}


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    """A sound dataset as another library would have made it: without our digests."""
    monkeypatch.setenv(minari_files.ROOT_VARIABLE, str(tmp_path))
    minari_io.save(DATA, ID, env_id="Hopper-v4")
    folder = minari_files.dataset_dir(ID) / "data"
    metadata = json.loads((folder / "metadata.json").read_text())
    del metadata[minari_files.METADATA_KEY], metadata["observation_space"]
    (folder / "metadata.json").write_text(json.dumps(metadata))
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file.attrs.clear()
    return folder


@pytest.mark.parametrize("kind", MINARI)
def test_minari(kind, store):
    change, line = MINARI[kind]
    with h5py.File(store / "main_data.hdf5", "a") as file:
        change(file)
    assert error_line(minari_io.load, ID) == f"{ID} ({store / 'main_data.hdf5'}): {line}"


def space(**parts) -> str:
    return json.dumps({"type": "Dict", "subspaces": parts})


METADATA = {
    "not UTF-8": (
        lambda text: text.encode().replace(b"hdf5", b"hdf\xff"),
        "is no UTF-8 text (byte 0xff at {at}); write it anew",
    ),
    "a key twice": (
        lambda text: text.replace("{", '{"total_steps": 3, ', 1).encode(),
        "holds the key 'total_steps' twice; each must be there once",
    ),
}


@pytest.mark.parametrize("kind", METADATA)
def test_minari_metadata(kind, store):
    change, line = METADATA[kind]
    path = store / "metadata.json"
    path.write_bytes(change(path.read_text()))
    line = line.format(at=path.read_bytes().find(b"\xff"))
    assert error_line(minari_io.load, ID) == f"{ID} ({path}): {line}"


@pytest.mark.parametrize(
    ("spaces", "line"),
    [
        (
            {"observation_space": space(a={"type": "Box"}, mode={"type": "Discrete", "n": 3})},
            "observations['mode'] are Discrete(3); only Box, or a Dict or Tuple of nothing but Box, will do",
        ),
        (
            {"observation_space": '{"type": "Tuple"}'},
            "observations are Tuple; only Box, or a Dict or Tuple of nothing but Box, will do",
        ),
        ({"observation_space": "[]"}, "metadata: observation_space cannot be read (list indices must be "
         "integers or slices, not str)"),
        ({"action_space": space()}, "actions are Dict; only Box, a vector of numbers, will do"),
    ],
)  # fmt: skip
def test_minari_spaces(spaces, line, store):
    path = store / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **spaces}))
    assert error_line(minari_io.load, ID) == f"{ID} ({store / 'main_data.hdf5'}): {line}"


# --- harmless ---


def test_big_endian_arrays_are_converted_to_the_same_bits(tmp_path, store):
    swapped = {name: array.astype(array.dtype.newbyteorder(">")) for name, array in D4RL_ARRAYS.items()}
    path = write_d4rl(tmp_path / "file.hdf5", swapped)
    with h5py.File(path) as file:
        assert file["observations"].dtype == ">f4"
    assert_same_bits(d4rl.read(path)[0], DATA)
    with h5py.File(store / "main_data.hdf5", "a") as file:
        for i in range(4):
            for name in ("observations", "actions", "rewards"):
                array = file[f"episode_{i}/{name}"][()]
                replace(file, f"episode_{i}/{name}", array.astype(">f4"))
    assert_same_bits(minari_io.load(ID), DATA)


def test_there_are_enough_of_them():
    assert len(D4RL) + len(NEORL) + len(MINARI) + len(METADATA) >= 35
