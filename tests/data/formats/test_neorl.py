"""NeoRL's archives, written from the real environments as NeoRL makes them."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from adm_jax.data import validation
from adm_jax.data.formats import minari_io, neorl
from adm_jax.envs import environment
from adm_jax.types import EnvSpec
from tests.data.sample_data import assert_same_bits, error_line

NAMES = ("Hopper", "Walker2d", "HalfCheetah")


def roll_out(name: str, num_episodes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random actions, stored as Gym did: done is termination or time limit; index is the end of each."""
    env = environment.make_env(EnvSpec(f"{name}-v4", {"exclude_current_positions_from_observation": False}))
    env.action_space.seed(seed)
    rows: dict[str, list] = {key: [] for key in ("obs", "next_obs", "action", "reward", "done")}
    index = []
    for episode in range(num_episodes):
        obs, _ = env.reset(seed=seed + episode)
        done = False
        while not done:
            action = env.action_space.sample()
            next_obs, reward, terminated, truncated, _ = env.step(action)
            done = terminated or truncated
            for key, value in zip(rows, (obs, next_obs, action, [reward], [done]), strict=True):
                rows[key].append(value)
            obs = next_obs
        index.append(len(rows["obs"]))
    env.close()
    arrays = {key: np.asarray(values, np.float32) for key, values in rows.items()}
    return {**arrays, "index": np.asarray(index)}


@pytest.fixture(scope="module")
def hopper() -> dict[str, np.ndarray]:
    return roll_out("Hopper", 6)


def write(path: Path, arrays: dict[str, np.ndarray], **changes: np.ndarray | None) -> Path:
    np.savez(path, **{k: v for k, v in {**arrays, **changes}.items() if v is not None})
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "Hopper-v3-low-6-train.npz"


@pytest.mark.parametrize("name", NAMES)
def test_real_environments_round_trip_bit_for_bit(name, tmp_path):
    arrays = roll_out(name, 3)
    path = tmp_path / f"{name}-v3-low-3-train-noise.npz"
    data, report = neorl.read(write(path, arrays))
    minari_io.save(data, "neorl/file-v0", env_id=report.env_id, root=tmp_path)
    loaded = minari_io.load("neorl/file-v0", root=tmp_path)
    assert_same_bits(data, loaded)
    assert loaded.obs.tobytes() == arrays["obs"].tobytes()
    assert loaded.next_obs.tobytes() == arrays["next_obs"].tobytes()
    assert loaded.action.tobytes() == arrays["action"].tobytes()
    assert loaded.reward.tobytes() == arrays["reward"].tobytes()
    assert loaded.episode_ends.tolist() == (arrays["index"] - 1).tolist()
    assert loaded.metadata["env_id"] == f"{name}-v4"
    assert loaded.metadata["env_kwargs"] == {"exclude_current_positions_from_observation": False}
    never_falls = name == "HalfCheetah"
    assert loaded.terminated.sum() == (0 if never_falls else 3)
    assert loaded.truncated.sum() == (3 if never_falls else 0)
    assert report.done_at_limit == (3 if never_falls else 0)


def test_both_kinds_of_index_are_the_same_cuts(path, hopper):
    of_file, report = neorl.read(write(path, hopper))
    n, ends = len(hopper["obs"]), hopper["index"]
    assert report.lines() == [
        f"read {n} rows of {path} (Hopper-v4): {n} transitions, 6 episodes, 6 terminated, 0 truncated",
        "index does not begin with 0: the rows behind episodes' last, as NeoRL's files hold it",
    ]
    of_get_dataset, report = neorl.read(write(path, hopper, index=np.append(0, ends[:-1])))
    assert report.lines()[1] == (
        "index begins with 0: the first rows of episodes, as NeoRL's get_dataset returns it"
    )
    assert_same_bits(of_file, of_get_dataset)
    for index in (ends[:-1], np.append(0, ends), ends[:, None], ends.astype(">i4")):
        assert_same_bits(of_file, neorl.read(write(path, hopper, index=index))[0])


def test_flat_columns_and_other_dtypes(path, hopper):
    data, _ = neorl.read(write(path, hopper))
    flat = {"reward": hopper["reward"][:, 0].astype(np.float64), "done": hopper["done"][:, 0].astype(bool)}
    same, report = neorl.read(write(path, hopper, **flat, obs=hopper["obs"].astype(">f4")))
    assert_same_bits(data, same)
    assert report.converted == ("obs from >f4", "reward from float64")


def test_done_at_the_step_limit_is_a_truncation(path, hopper):
    lengths = np.diff(hopper["index"], prepend=0)
    limit = int(lengths.max())
    data, report = neorl.read(write(path, hopper), max_episode_steps=limit)
    at_limit = int((lengths == limit).sum())
    assert (data.truncated.sum(), data.terminated.sum()) == (at_limit, 6 - at_limit)
    assert report.lines()[-1] == (
        f"done is set at the step limit, {limit}, of {at_limit} episodes: stored as truncated, not terminated"
    )
    never_done, _ = neorl.read(write(path, hopper, done=np.zeros_like(hopper["done"])))
    assert never_done.truncated.sum() == 6


def test_rows_missing_inside_an_episode_split_it(path, hopper):
    long = int(np.argmax(np.diff(hopper["index"], prepend=0)))
    row = int(hopper["index"][long]) - 5
    cut = {key: np.delete(hopper[key], row, axis=0) for key in hopper if key != "index"}
    index = hopper["index"] - (np.arange(6) >= long)
    data, report = neorl.read(write(path, {**cut, "index": index}))
    validation.validate(data)
    assert report.splits == (row - 1,)
    assert data.truncated[row - 1]
    assert data.truncated[index[long] - 1]  # how long the episode was cannot be told any more
    assert data.terminated.sum() == 5
    assert report.lines()[-1] == (
        f"split at 1 rows where next_obs[t] is not obs[t+1], truncated there: t = {row - 1}; a done behind a "
        f"split may be a time limit and is stored as truncated"
    )


def test_the_environment_can_be_given(path, hopper):
    for given, kept in {"Hopper-v3": "Hopper-v4", "Hopper-v5": "Hopper-v5"}.items():
        data, _ = neorl.read(write(path, hopper), env_id=given)
        assert data.metadata["env_id"] == kept
    write(path, hopper)
    data, _ = neorl.read(path, env_id="Mine-v0", max_episode_steps=500)
    assert data.metadata == {"env_id": "Mine-v0", "imported_from": path.name}
    assert error_line(neorl.read, path, env_id="Mine-v0") == (
        f"{path}: the step limit of Mine-v0 is unknown; give it, as in --max_episode_steps=1000"
    )
    assert error_line(neorl.read, path, env_id="Walker2d-v3") == (
        f"{path}: obs has 12 and action 3 dimensions; NeoRL's Walker2d, with the x position, has 18 and 6"
    )


def as_neorl2(arrays: dict[str, np.ndarray], truncated: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    """The same rows as NeoRL2 stores them: flat columns, done is a termination, no index."""
    ends = arrays["index"] - 1
    cut_off = np.zeros(len(arrays["obs"]), np.float32)
    cut_off[ends[list(truncated)]] = 1
    done = np.zeros_like(cut_off)
    done[ends] = 1
    flat = {"reward": arrays["reward"][:, 0], "done": done * (1 - cut_off), "truncated": cut_off}
    return {name: array for name, array in {**arrays, **flat}.items() if name != "index"}


@pytest.mark.parametrize("truncated", [(), (1, 4), (0, 1, 2, 3, 4, 5)])
def test_neorl2_is_cut_at_done_or_truncated(path, hopper, truncated):
    data, report = neorl.read(write(path, as_neorl2(hopper, truncated)))
    ends = hopper["index"] - 1
    assert data.episode_ends.tolist() == ends.tolist()
    assert data.truncated[ends].tolist() == [i in truncated for i in range(6)]
    assert data.terminated[ends].tolist() == [i not in truncated for i in range(6)]
    assert data.obs.tobytes() == hopper["obs"].tobytes()
    validation.validate(data)
    assert (report.env_id, len(report.lines())) == ("Hopper-v4", 1)


def test_done_at_each_truncated_row_is_gyms(path, hopper):
    arrays = as_neorl2(hopper, (1, 4))
    data, report = neorl.read(write(path, arrays, done=arrays["done"] + arrays["truncated"]))
    assert_same_bits(data, neorl.read(write(path, arrays))[0])
    assert report.lines()[1:] == [
        "done is set at each of the 2 truncated rows, as Gym's was: stored as truncated, not terminated"
    ]


def test_index_and_truncated_agree_or_are_refused(path, hopper):
    arrays = {**as_neorl2(hopper, (1,)), "index": hopper["index"]}
    assert_same_bits(neorl.read(write(path, arrays))[0], neorl.read(write(path, arrays, index=None))[0])
    row = int(hopper["index"][0]) - 3
    arrays["truncated"][row] = 1
    assert error_line(neorl.read, path.with_name(write(path, arrays).name)) == (
        f"{path}: episode 0: truncated[{row}] is set in mid-episode, where index ends no episode (1 such in "
        f"all); only an episode's last row may be truncated"
    )


def test_truncated_rows_that_are_one_off_or_missing(path, hopper):
    arrays = as_neorl2(hopper, (0, 1, 2, 3, 4, 5))
    assert "is set one row before an episode's end: next_obs[" in error_line(
        neorl.read, write(path, arrays, truncated=np.roll(arrays["truncated"], -1))
    )
    without = np.where(np.arange(len(arrays["truncated"])) == hopper["index"][-1] - 1, 0, arrays["truncated"])
    data, report = neorl.read(write(path, arrays, truncated=without))
    assert data.truncated[-1]
    assert report.lines()[1:] == ["the file ends in mid-episode: its last episode is truncated there"]


OTHERS = {  # file -> changes of NeoRL's Hopper, why it is not taken for one
    "SafetyHalfCheetah-high-2-val.npz": (
        {},
        "the file is named after SafetyHalfCheetah, but obs has 12 and action 3 dimensions, where NeoRL2's "
        "SafetyHalfCheetah has 18 and 6",
    ),
    "Safety_Hopper-high.npz": (
        {},
        "the file is not named after NeoRL's Hopper, HalfCheetah, Walker2d or one of NeoRL2's environments",
    ),
    "Walker2d-v3-low.npz": (
        {},
        "the file is named after Walker2d, but obs has 12 and action 3 dimensions, where NeoRL's Walker2d "
        "has 18 and 6",
    ),
    "Hopper-v3-flat.npz": (
        {"obs": lambda x: x - 1, "next_obs": lambda x: x - 1},
        "the file is named after Hopper, but episodes start at obs[1] = 0.25, where Hopper is at 1.25",
    ),
    "hopper-strong.npz": (
        {"action": lambda x: 4 * x / np.abs(x).max()},
        "the file is named after Hopper, whose actions lie within +-1, not +-4",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_environments_are_stored_without_one(name, hopper, tmp_path):
    changes, why = OTHERS[name]
    arrays = as_neorl2(hopper)
    path = write(tmp_path / name, {k: changes.get(k, lambda x: x)(v) for k, v in arrays.items()})
    data, report = neorl.read(path)
    assert data.metadata == {"imported_from": name}
    assert report.env_id is None
    assert report.lines()[0].startswith(f"read {len(data.obs)} rows of {path} (no environment): ")
    line = report.lines()[1].replace("0.251", "0.25").replace("0.249", "0.25")
    assert line == (
        f"stored without an environment: {why}; where one is registered with Gymnasium, --env_id names it"
    )
    minari_io.save(data, "neorl/other-v0", env_id=None, action_low=-4, action_high=4, root=tmp_path)
    loaded = minari_io.load("neorl/other-v0", root=tmp_path)
    assert_same_bits(data, loaded)
    assert not {"env_id", "env_spec", "env_kwargs"} & set(loaded.metadata)


def test_archives_that_cannot_be_read(path, hopper, tmp_path):
    assert error_line(neorl.read, tmp_path / "no.npz") == f"{tmp_path / 'no.npz'}: no such file"
    np.savez_compressed(path, **hopper)
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    assert "cannot be read as npz, damaged or cut short" in error_line(neorl.read, path)
    path.write_bytes(whole[:600] + bytes(50) + whole[650:])
    assert "cannot be read as npz, damaged or cut short" in error_line(neorl.read, path)
    pickled = np.empty(2, object)
    assert "damaged or cut short (Object arrays cannot be loaded" in error_line(
        neorl.read, write(path, hopper, reward=pickled)
    )
    with zipfile.ZipFile(write(path, hopper), "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("reward.npy", b"again")
    assert error_line(neorl.read, path) == f"{path}: holds reward twice; each array must be there once"
