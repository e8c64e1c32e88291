"""D4RL files, with and without what they may lack."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from adm_jax.data import validation
from adm_jax.data.formats import d4rl, minari_io
from tests.data.sample_data import assert_same_bits, d4rl_arrays, error_line, make_data

SHARED = Path(__file__).parents[4] / "shared" / "data" / "offline"


def write(
    path: Path,
    contents: dict[str, np.ndarray],
    without: tuple[str, ...] = (),
    env_id: str | None = "Hopper-v4",
):
    with h5py.File(path, "w") as file:
        for name, values in contents.items():
            if name not in without:
                file[name] = values
        if env_id:
            file.attrs["env_id"] = env_id
    return path


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "file.hdf5"


# episodes of 4 (terminated), 3 (timeout), 5 (terminated), 2 (timeout) rows; ends at rows 3, 6, 11, 13
DATA = make_data((4, 3, 5, 2))


def test_complete_file(path):
    data, report = d4rl.read(write(path, d4rl_arrays(DATA)))
    assert_same_bits(data, DATA)
    validation.validate(data)
    assert data.metadata == {"env_id": "Hopper-v4", "imported_from": "file.hdf5"}
    assert report.lines() == [
        f"read 14 rows of {path} (Hopper-v4): 14 transitions, 4 episodes, 2 terminated, 2 truncated"
    ]


def test_a_terminal_may_also_be_a_timeout(path):
    contents = d4rl_arrays(DATA)
    contents["timeouts"] = DATA.terminated | DATA.truncated
    data, _ = d4rl.read(write(path, contents))
    assert data.truncated.sum() == 4
    assert data.terminated.sum() == 2


def test_other_kinds_of_numbers(path):
    contents = d4rl_arrays(DATA)
    contents["rewards"] = DATA.reward.astype(np.float64)
    contents["terminals"] = DATA.terminated.astype(np.float32)
    contents["timeouts"] = DATA.truncated.astype(np.uint8)
    data, report = d4rl.read(write(path, contents))
    assert_same_bits(data, DATA)
    assert report.lines()[1:] == ["converted to float32: rewards from float64"]


def test_last_row_without_a_flag(path):
    contents = d4rl_arrays(DATA)
    contents["timeouts"] = DATA.truncated.copy()
    contents["timeouts"][13] = False
    data, report = d4rl.read(write(path, contents))
    assert_same_bits(data, DATA)
    assert report.lines()[1:] == ["the file ends in mid-episode: its last episode is truncated there"]


def test_splits_where_rows_do_not_follow(path):
    contents = d4rl_arrays(DATA)
    contents["next_observations"] = DATA.next_obs.copy()
    contents["next_observations"][[1, 9], 0] += 1
    data, report = d4rl.read(write(path, contents))
    validation.validate(data)
    assert np.flatnonzero(data.truncated).tolist() == [1, 6, 9, 13]
    assert np.array_equal(data.terminated, DATA.terminated)
    assert data.next_obs.tobytes() == contents["next_observations"].tobytes()
    assert report.splits == (1, 9)
    assert report.lines()[1:] == [
        "split at 2 rows where next_observations[t] is not observations[t+1], truncated there: t = 1, 9"
    ]


def test_rows_out_of_order_are_refused(path):
    order = np.random.default_rng(0).permutation(14)
    shuffled = {name: values[order] for name, values in d4rl_arrays(DATA).items()}
    text = error_line(d4rl.read, write(path, shuffled))
    assert text.startswith(f"{path}: next_observations[t] is not observations[t+1] at ")
    assert text.endswith("rows must be in order of time")


def test_termination_in_mid_episode_is_refused(path):
    contents = d4rl_arrays(DATA)
    contents["terminals"] = DATA.terminated.copy()
    contents["terminals"][9] = True
    assert error_line(d4rl.read, write(path, contents)) == (
        f"{path}: episode 2: terminals[9] is set in mid-episode: "
        f"observations[10] goes on from next_observations[9] (1 such in all); "
        f"the row after a terminal one must be the start of another episode"
    )


def test_timeouts_that_cut_an_episode_in_two(path):
    contents = d4rl_arrays(DATA)
    contents["timeouts"] = DATA.truncated.copy()
    contents["timeouts"][8] = True
    data, report = d4rl.read(write(path, contents))
    validation.validate(data)
    assert np.flatnonzero(data.truncated).tolist() == [6, 8, 13]
    assert report.continued == (8,)
    assert "goes on from the same state, kept as truncations: t = 8" in report.lines()[1]


def test_without_timeouts(path):
    data, report = d4rl.read(write(path, d4rl_arrays(DATA), without=("timeouts",)))
    assert_same_bits(data, DATA)
    assert report.splits == (6,)
    assert report.lines()[1:] == [
        "no timeouts in the file: truncated where a row does not lead to the next, 1 times",
        "the file ends in mid-episode: its last episode is truncated there",
    ]


def test_without_next_observations(path):
    data, report = d4rl.read(write(path, d4rl_arrays(DATA), without=("next_observations",)))
    validation.validate(data)
    kept = np.delete(np.arange(14), [3, 6, 11, 13])
    for name in ("obs", "action", "reward", "next_obs"):
        assert getattr(data, name).tobytes() == getattr(DATA, name)[kept].tobytes(), name
    assert not data.terminated.any()  # no termination moves to a state that did not terminate
    assert np.flatnonzero(data.truncated).tolist() == [2, 4, 8, 9]
    assert (report.dropped, report.dropped_terminal, report.dropped_episodes) == (4, 2, 0)
    assert report.lines()[1:] == [
        "no next_observations in the file: dropped the last transition of 4 episodes, "
        "whose next observation it does not hold",
        "2 of them were terminal: these terminations are lost, and their episodes now end truncated, "
        "one step earlier",
    ]


def test_without_next_observations_an_episode_of_one_row_is_gone(path):
    data, report = d4rl.read(write(path, d4rl_arrays(make_data((1, 3, 1))), without=("next_observations",)))
    validation.validate(data)
    assert len(data.obs) == 2
    assert report.dropped_episodes == 2
    assert "(2 episodes held no other)" in report.lines()[1]
    only = write(path, d4rl_arrays(make_data((1, 1))), without=("next_observations",))
    assert "every episode is one row long, and without next_observations none is left" in error_line(
        d4rl.read, only
    )


def test_without_either_the_time_limit_must_be_given(path):
    data = make_data((3, 4, 2, 4, 4))  # terminated at rows 2, 8, 16; time limit at rows 6, 12
    write(path, d4rl_arrays(data), without=("timeouts", "next_observations"))
    assert error_line(d4rl.read, path) == (
        f"{path}: has neither timeouts nor next_observations, so that time limits cannot be told; "
        f"give the limit, as in --max_episode_steps=1000"
    )
    read, report = d4rl.read(path, max_episode_steps=4)
    validation.validate(read)
    kept = np.delete(np.arange(17), data.episode_ends)
    assert read.next_obs.tobytes() == data.next_obs[kept].tobytes()
    assert read.episode_lengths.tolist() == [2, 3, 1, 3, 3]
    assert (report.splits, report.dropped, report.dropped_terminal) == ((6, 12), 5, 3)
    assert "no timeouts in the file: truncated where max_episode_steps is reached, 2 times" in report.lines()


def test_environment_from_flag_or_file_or_none(path):
    write(path, d4rl_arrays(DATA), env_id=None)
    data, report = d4rl.read(path)
    assert (report.env_id, data.metadata) == (None, {"imported_from": path.name})
    assert report.lines()[0].startswith(f"read 14 rows of {path} (no environment): 14 transitions")
    assert d4rl.read(path, env_id="Mine-v0")[0].metadata["env_id"] == "Mine-v0"


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("rewards", lambda x: x[:-1], "rewards has 13 rows; must have as many as observations, 14"),
        ("rewards", lambda x: np.stack([x, x], 1), "rewards has shape (14, 2); must be [N]"),
        ("terminals", lambda x: x[None], "terminals has shape (1, 14); must be [N]"),
        ("actions", lambda x: x[:, 0], "actions has shape (14,); must be [N, dimension]"),
        ("next_observations", lambda x: x[:, 1:], "next_observations has 2 dimensions; observations have 3"),
        ("terminals", lambda x: x + 1.5, "terminals[0] is 1.5; must be 0 or 1"),
        ("actions", lambda x: x.astype("S3"), "actions holds |S3 values; must be real numbers"),
    ],
)
def test_malformed_arrays(path, name, change, expected):
    contents = d4rl_arrays(DATA)
    contents[name] = change(contents[name])
    assert error_line(d4rl.read, write(path, contents)) == f"{path}: {expected}"


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals"])
def test_missing_arrays(path, name):
    assert error_line(d4rl.read, write(path, d4rl_arrays(DATA), without=(name,))).startswith(
        f"{path}: {name} is missing"
    )


def test_empty_missing_and_damaged_files(path, tmp_path):
    empty = {name: values[:0] for name, values in d4rl_arrays(DATA).items()}
    assert error_line(d4rl.read, write(path, empty)) == (
        f"{path}: empty, observations holds no row; at least one is needed"
    )
    assert error_line(d4rl.read, tmp_path / "no.hdf5") == f"{tmp_path / 'no.hdf5'}: no such file"
    write(path, d4rl_arrays(make_data((300,))))
    os.truncate(path, path.stat().st_size // 2)
    assert "cannot be read as HDF5, damaged or cut short" in error_line(d4rl.read, path)
    path.write_bytes(b"\x89HDF but no more")
    assert "cannot be read as HDF5, damaged or cut short" in error_line(d4rl.read, path)


@pytest.mark.parametrize(
    "columns",
    [("rewards",), ("terminals", "timeouts"), ("rewards", "terminals", "timeouts")],
)
def test_columns_are_squeezed(path, columns):
    contents = {name: x[:, None] if name in columns else x for name, x in d4rl_arrays(DATA).items()}
    assert_same_bits(d4rl.read(write(path, contents))[0], DATA)


def test_non_finite_values_name_file_episode_and_field(path):
    contents = d4rl_arrays(DATA)
    contents["rewards"] = DATA.reward.copy()
    contents["rewards"][8] = np.nan
    data, _ = d4rl.read(write(path, contents))
    assert (
        error_line(validation.validate, data) == f"{path}: episode 2, step 1: reward is nan; must be finite"
    )


@pytest.mark.parametrize("name", ["hopper-replay", "walker2d-medium", "halfcheetah-medium-expert"])
def test_shared_files_round_trip_bit_for_bit(name, tmp_path):
    path = SHARED / f"{name}.hdf5"
    if not path.exists():
        pytest.skip(f"{path} is absent")
    data, report = d4rl.read(path)
    minari_io.save(data, "shared/file-v0", env_id=report.env_id, root=tmp_path)
    loaded = minari_io.load("shared/file-v0", root=tmp_path)
    assert_same_bits(data, loaded)
    with h5py.File(path) as file:
        assert len(report.data.reward) == len(file["rewards"])
        assert loaded.obs.tobytes() == file["observations"][()].tobytes()
        assert loaded.action.tobytes() == file["actions"][()].tobytes()
        assert loaded.reward.tobytes() == file["rewards"][()].tobytes()
        assert loaded.next_obs.tobytes() == file["next_observations"][()].tobytes()
        assert np.array_equal(loaded.terminated, file["terminals"][()])
    assert not report.splits
