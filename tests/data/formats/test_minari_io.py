"""The Minari store: what is written is read back bit for bit; whatever is wrong gives one line."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest

from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_io, minari_remote, minari_write
from adm_jax.types import InputError
from tests.data.sample_data import assert_same_bits, error_line, make_data

ID = "hopper/tiny-v0"


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


def save(data: EpisodeData | None = None, dataset_id: str = ID, **kwargs) -> Path:
    return minari_io.save(data or make_data(), dataset_id, env_id="Hopper-v4", **kwargs)


def edit(change, dataset_id: str = ID) -> None:
    with h5py.File(minari_files.dataset_dir(dataset_id) / "data" / "main_data.hdf5", "a") as file:
        change(file)


def edit_metadata(**changes) -> None:
    path = minari_files.dataset_dir(ID) / "data" / "metadata.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def replace(file, name: str, values) -> None:
    del file[name]
    file[name] = values


def test_round_trip_bit_for_bit_with_metadata():
    data = make_data((1, 7, 300, 2))
    obs, truncated = data.obs.copy(), data.truncated.copy()
    obs[0] = np.array([-0.0, 1e-45, 1e6], np.float32)  # a signed zero, the smallest and the largest
    truncated[0] = True  # beside terminated
    data = dataclasses.replace(data, obs=obs, truncated=truncated, metadata={"note": "kept"})
    save(data, command="python -m x --seed=3", seed=3)
    loaded = minari_io.load(ID)
    assert_same_bits(data, loaded)
    facts = loaded.metadata
    assert facts["env_id"] == "Hopper-v4"
    assert (facts["command"], facts["seed"], facts["note"]) == ("python -m x --seed=3", 3, "kept")
    assert set(facts["versions"]) >= {"adm_jax", "numpy", "mujoco", "gymnasium", "minari"}
    assert {name: facts[name] for name in data.return_statistics()} == data.return_statistics()
    assert ID in loaded.source


def test_minari_itself_reads_what_we_write(root):
    data = make_data()
    save(data)
    assert list(minari.list_local_datasets()) == [ID]
    dataset = minari.load_dataset(ID)
    assert dataset.spec.env_spec is not None
    assert (dataset.spec.env_spec.id, dataset.total_steps) == ("Hopper-v4", 12)
    episodes = list(dataset.iterate_episodes())
    assert [len(e) for e in episodes] == [4, 3, 5]
    assert np.array_equal(np.concatenate([e.observations[1:] for e in episodes]), data.next_obs)
    assert not [p for p in root.iterdir() if p.name.startswith(".")]


def test_we_read_what_minari_writes():
    from gymnasium import spaces
    from minari.data_collector.episode_buffer import EpisodeBuffer

    buffer = EpisodeBuffer(
        observations=np.zeros((4, 2)),
        actions=np.zeros((3, 1)),
        rewards=[1.0, 2.0, 3.0],
        terminations=[False, False, False],
        truncations=[False, False, False],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it asks for an author and more
        minari.create_dataset_from_buffers(
            "foreign/made-v1",
            [buffer],
            observation_space=spaces.Box(-np.inf, np.inf, (2,)),
            action_space=spaces.Box(-1, 1, (1,)),
        )
    data = minari_io.load("foreign/made-v1")
    assert data.obs.dtype == np.float32
    assert data.truncated.tolist() == [False, False, True]  # its data end there
    assert data.metadata == {}


def test_an_environment_unknown_to_gymnasium_is_stored_by_name(caplog):
    minari_io.save(make_data(), ID, env_id="Mine-v0")
    assert "Mine-v0 is not registered" in caplog.text
    assert minari_io.load(ID).metadata["env_id"] == "Mine-v0"


def test_two_different_episodes_more_than_ten_keep_their_order():
    data = make_data(tuple(range(1, 25)))
    save(data)
    assert_same_bits(data, minari_io.load(ID))


def test_existing_datasets_are_replaced_only_when_told(root):
    save()
    assert error_line(save) == f"dataset: {ID} exists in {root / 'hopper'}; choose another id or remove it"
    other = make_data((2, 2))
    save(other, overwrite=True)
    assert_same_bits(other, minari_io.load(ID))
    assert "would lie inside the dataset" in error_line(save, dataset_id=f"{ID}/inner-v0")
    (root / "hopper" / "junk-v0").mkdir()
    assert "exists and is no dataset; remove it" in error_line(
        save, dataset_id="hopper/junk-v0", overwrite=True
    )
    assert "exists and is no dataset; remove it" in error_line(minari_io.load, "hopper/junk-v0")
    assert sorted(p.name for p in root.iterdir()) == ["hopper"]


def test_someone_else_writes_the_same_dataset_meanwhile(root, tmp_path):
    save()
    staged = tmp_path / "staged" / "dataset"
    (staged / "data").mkdir(parents=True)
    assert "someone else just wrote it" in error_line(minari_write.publish, staged, ID, root)
    assert_same_bits(make_data(), minari_io.load(ID))


def test_invalid_data_leave_nothing(root):
    data = make_data()
    bad = dataclasses.replace(data, reward=np.full_like(data.reward, np.nan))
    assert "reward is nan" in error_line(save, bad)
    assert not root.exists()


def test_abandoned_staging_folders_go(root):
    old, young = root / ".adm_jax-old", root / ".adm_jax-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    os.utime(old, (0, 0))
    save()
    assert not old.exists()
    assert young.exists()
    assert list(minari.list_local_datasets()) == [ID]


def test_what_a_killed_import_left_goes_at_the_next_and_what_it_was_replacing_comes_back(root):
    save()
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    host = socket.gethostname()
    left = root / f".adm_jax-{ended.pid}-{host}-a1b2c3d4"
    own, foreign = (
        root / f".adm_jax-{name}-a1b2c3d4" for name in (f"{os.getpid()}-{host}", f"{ended.pid}-other")
    )
    for folder in (left, own, foreign):
        (folder / "dataset").mkdir(parents=True)
    # killed between the two renames that replace a dataset
    (left / "replaced" / "hopper").mkdir(parents=True)
    (root / ID).rename(left / "replaced" / ID)
    save(make_data((2, 2)), "hopper/other-v0")
    assert not left.exists()
    assert own.exists()
    assert foreign.exists()  # who knows
    assert_same_bits(make_data(), minari_io.load(ID))


def test_unwritable_store(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file"))
    assert "set MINARI_DATASETS_PATH to a folder that can be written" in error_line(save)


@pytest.mark.parametrize(
    "bad", ["", "hopper", "hopper/replay", "../x-v0", "/x-v0", "a/x-v0", "x-v01", "x y-v0", "x-v0\n"]
)
def test_malformed_ids_touch_nothing(bad, root):
    assert f"dataset: {bad!r} is no Minari id" in error_line(minari_io.load, bad)
    assert "is no Minari id" in error_line(save, dataset_id=bad)
    assert not root.exists()


def test_default_root_is_minaris(monkeypatch):
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    assert minari_files.datasets_root() == Path.home() / ".minari" / "datasets"


MALFORMED = {
    "no observations": (
        lambda f: f.__delitem__("episode_1/observations"),
        "episode 1: observations is missing",
    ),
    "grouped observations": (
        lambda f: (f.__delitem__("episode_1/observations"), f.create_group("episode_1/observations")),
        "episode 1: observations is an empty group; must be an array or a dictionary of arrays",
    ),
    "too few observations": (
        lambda f: replace(f, "episode_1/observations", np.zeros((3, 3), np.float32)),
        "episode 1: observations has shape (3, 3); for 3 rewards must be (4, 3)",
    ),
    "changing dimension": (
        lambda f: replace(f, "episode_2/observations", np.zeros((6, 2), np.float32)),
        "episode 2: observations has 2 dimensions; must have episode 0's, 3",
    ),
    "too few actions": (
        lambda f: replace(f, "episode_0/actions", np.zeros((3, 2), np.float32)),
        "episode 0: actions has shape (3, 2); for 4 rewards must be (4, 2)",
    ),
    "scalar actions": (
        lambda f: replace(f, "episode_0/actions", np.zeros(4, np.float32)),
        "episode 0: actions has shape (4,); for 4 rewards must be (4, dimension)",
    ),
    "short flags": (
        lambda f: replace(f, "episode_0/truncations", np.zeros(3, bool)),
        "episode 0: truncations has shape (3,); for 4 rewards must be (4,)",
    ),
    "text": (
        lambda f: replace(f, "episode_0/rewards", np.array([b"a"] * 4)),
        "episode 0: rewards holds |S1 values; must be real numbers",
    ),
    "termination in mid-episode": (
        lambda f: f["episode_2/terminations"].__setitem__(1, True),
        "episode 2: terminations[1] is set in mid-episode; only the last step, 4, may be",
    ),
    "truncation in mid-episode": (
        lambda f: f["episode_2/truncations"].__setitem__(3, True),
        "episode 2: truncations[3] is set in mid-episode; only the last step, 4, may be",
    ),
    "nan": (
        lambda f: f["episode_1/observations"].__setitem__((2, 1), np.nan),
        "episode 1, step 2: obs[1] is nan; must be finite",
    ),
    "action": (
        lambda f: f["episode_1/actions"].__setitem__((2, 1), 1.5),
        "episode 1, step 2: action[1] is 1.5; must lie in the action bounds [-1, 1]",
    ),
    "empty episode": (
        lambda f: replace(f, "episode_1/rewards", np.zeros(0)),
        "episode 1: empty, rewards holds no step",
    ),
    "missing episode": (
        lambda f: f.__delitem__("episode_1"),
        "holds 2 episodes, its metadata say total_episodes=3; both must agree",
    ),
    "a flipped bit": (
        lambda f: f["episode_1/rewards"].__setitem__(1, 0.25),
        "reward: not the values that were written (SHA-256 differs)",
    ),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_contents(kind):
    save()
    change, expected = MALFORMED[kind]
    edit(change)
    text = error_line(minari_io.load, ID)
    assert expected in text
    assert text.startswith(f"{ID} (")
    assert "main_data.hdf5" in text


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data_format": "zarr"}, "data_format is zarr; only hdf5, arrow, parquet can be read"),
        ({"total_steps": 3}, "holds 12 steps, its metadata say total_steps=3; both must agree"),
        ({"action_space": '{"type": "Discrete", "n": 2}'}, "actions are Discrete(2); only Box, a vector"),
        ({"action_space": '{"type": "MultiDiscrete", "nvec": [2, 3]}'}, "actions are MultiDiscrete([2, 3]);"),
        ({"action_space": '{"type": "MultiBinary", "n": 4}'}, "actions are MultiBinary(4); only Box"),
        ({"observation_space": '{"type": "Discrete", "n": 7}'}, "observations are Discrete(7); only Box"),
        ({"action_space": "?"}, "metadata: action_space cannot be read"),
        ({"adm_jax": {"seed": 1}}, "sha256 is None; must be a digest for each field"),
    ],
)
def test_malformed_metadata(changes, expected):
    save()
    edit_metadata(**changes)
    assert expected in error_line(minari_io.load, ID)


def test_no_episode_at_all():
    save()
    edit(lambda f: f.clear())
    assert "empty, holds no episode; at least one is needed" in error_line(minari_io.load, ID)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5, 0.99])
def test_truncated_file(share):
    save(make_data((200, 300)))
    path = minari_files.dataset_dir(ID) / "data" / "main_data.hdf5"
    os.truncate(path, int(share * path.stat().st_size))
    assert "cannot be read, damaged or cut short" in error_line(minari_io.load, ID)


def test_flipped_bits_never_load_as_something_else():
    data = make_data((200, 300))
    save(data)
    path = minari_files.dataset_dir(ID) / "data" / "main_data.hdf5"
    sound, lines = path.read_bytes(), []
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(sound), 60):
        damaged = bytearray(sound)
        damaged[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            loaded = minari_io.load(ID)
        except InputError as error:
            lines.append(str(error))
        else:
            assert_same_bits(data, loaded)  # the bit lay in unused space
    assert lines
    assert not [text for text in lines if "\n" in text]


@pytest.mark.parametrize("content", ["", "{", "[]"])
def test_damaged_metadata_file(content):
    save()
    (minari_files.dataset_dir(ID) / "data" / "metadata.json").write_text(content)
    assert error_line(minari_io.load, ID).startswith(f"{ID} (")


def test_missing_files():
    folder = save() / "data"
    (folder / "main_data.hdf5").unlink()
    assert "main_data.hdf5): cannot be read" in error_line(minari_io.load, ID)
    (folder / "metadata.json").unlink()
    assert "metadata.json): cannot be read" in error_line(minari_io.load, ID)


def test_absent_dataset_without_a_network(root, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    text = error_line(minari_io.load, ID)
    assert time.monotonic() - start < 10
    assert text.startswith(
        f"dataset: {ID} is not in {root} and hf://farama-minari cannot be reached (http://127"
    )
    assert text.endswith(f"adm-jax import --source=d4rl --path=FILE --dataset={ID}")
    assert not root.exists()


def test_a_network_that_swallows_everything(monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        start = time.monotonic()
        assert "does not answer within 0.3 s" in minari_remote.unreachable(0.3)
        assert time.monotonic() - start < 2
    assert minari_remote.PROBE_SECONDS < 10


def test_offline_mode_and_other_remotes(monkeypatch, root):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE is set" in error_line(minari_io.load, ID)
    monkeypatch.setenv("MINARI_REMOTE", "nowhere://x")
    text = error_line(minari_io.load, ID)
    assert "nowhere://x did not give it (KeyError: 'nowhere')" in text
    assert list(root.iterdir()) == []
