"""Slices of episodes: properties over a million windows and segments, the held-out split, the normaliser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adm_jax.data import dataset as ds
from adm_jax.data.episodes import EpisodeData
from adm_jax.types import InputError

M = 5
MILLION = 1_000_000
LENGTHS = (1, 7, 2, 30, 5, 4, 12, 3, 50, 6, 1, 9)


def make_episodes(lengths, terminated=None):
    """Episodes whose arrays say where they come from: obs = (episode, time, row), action = reward = row.

    Every other episode ends by termination, the others by a time limit.
    """
    lengths = np.asarray(lengths)
    num_rows = lengths.sum()
    episode = np.repeat(np.arange(len(lengths)), lengths)
    row = np.arange(num_rows)
    time = row - np.repeat(np.cumsum(lengths) - lengths, lengths)
    last = time == lengths[episode] - 1
    terminates = episode % 2 == 0 if terminated is None else np.full(num_rows, terminated)
    obs = np.stack([episode, time, row], axis=-1).astype(np.float32)
    next_obs = np.stack([episode, time + 1, row + 1], axis=-1).astype(np.float32)
    reward = row.astype(np.float32)
    return EpisodeData(
        obs, reward[:, None], reward, next_obs, last & terminates, last & ~terminates, source="test"
    )


DATA = make_episodes(LENGTHS)
EPISODE, TIME = DATA.obs[:, 0].astype(int), DATA.obs[:, 1].astype(int)
LENGTH = np.asarray(LENGTHS)[EPISODE]


@pytest.fixture(scope="module")
def dataset():
    return ds.make_dataset(DATA, M, holdout_fraction=0.2)


# --- windows ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("min_history", [None, 0, 2])
def test_a_million_windows(dataset, min_history):
    """Inside one episode, contiguous up to the current state, never from a state that has terminated."""

    @jax.jit
    def sample(dataset, key):
        return ds.gather_windows(dataset, ds.sample_starts(dataset, key, MILLION, M, min_history), M)

    window, obs = jax.device_get(sample(dataset, jax.random.key(0)))
    row = obs[:, 2].astype(int)
    # the current state is the observation of a stored transition, not a next observation
    np.testing.assert_array_equal(obs, DATA.obs[row])
    history = np.minimum(TIME[row], M - 1)
    assert history.min() == (M - 1 if min_history is None else min_history)
    back = np.arange(M - 1, 0, -1)
    np.testing.assert_array_equal(window.valid, back[None] <= history[:, None])
    rows = row[:, None] - back[None]
    assert (window.obs[..., 2] == rows)[window.valid].all()
    assert (window.action[..., 0] == rows)[window.valid].all()
    assert (window.obs[..., 0] == obs[:, None, 0])[window.valid].all()
    assert not DATA.terminated[rows[window.valid]].any()
    assert not DATA.truncated[rows[window.valid]].any()
    # every start that is allowed comes up, each about as often
    allowed = np.flatnonzero((M - 1 if min_history is None else min_history) <= TIME)
    counts = np.bincount(row, minlength=len(TIME))
    np.testing.assert_array_equal(np.flatnonzero(counts), allowed)
    np.testing.assert_allclose(counts[allowed], MILLION / len(allowed), rtol=0.06)


def test_window_counts(dataset):
    assert dataset.windows.count.tolist() == [sum(max(n - h, 0) for n in LENGTHS) for h in range(M)]


def test_windows_of_one_state_hold_nothing():
    """m = 1: no history at all."""
    window, obs = ds.gather_windows(ds.make_dataset(DATA, 1), jnp.arange(4), 1)
    assert window.obs.shape == (4, 0, 3)
    assert window.valid.shape == (4, 0)
    np.testing.assert_array_equal(obs, DATA.obs[:4])


# --- segments -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holdout", ["episodes", "tail"])
@pytest.mark.parametrize(
    ("part", "length", "min_length"), [("train", M, None), ("train", M, 1), ("holdout", 2, None)]
)
def test_a_million_segments(holdout, part, length, min_length):
    """Contiguous inside one episode; what lies past its end, or in the split's other part, is not valid."""
    dataset = ds.make_dataset(DATA, M, holdout=holdout, holdout_fraction=0.2)
    sample = jax.jit(ds.sample_segments, static_argnums=(3, 4, 5))
    starts = getattr(dataset, part)
    segment = jax.device_get(sample(dataset, starts, jax.random.key(1), MILLION, length, min_length))
    row = segment.obs[:, 0, 2].astype(int)
    valid = segment.valid
    assert valid[:, : length if min_length is None else min_length].all()
    assert (valid[:, 1:] <= valid[:, :-1]).all()  # what is valid comes first
    step = np.arange(length)
    rows = row[:, None] + step[None]
    np.testing.assert_array_equal(segment.obs[:, 0], DATA.obs[row])
    assert (segment.obs[:, 1:, 0] == EPISODE[row][:, None])[valid].all()
    assert (segment.obs[:, 1:, 1] == (TIME[row][:, None] + step + 1))[valid].all()
    assert (segment.action[..., 0] == rows)[valid].all()
    assert (segment.reward == rows)[valid].all()
    # a transition that ends its episode may only be a segment's last
    last = DATA.terminated | DATA.truncated
    assert not last[rows[:, :-1][valid[:, 1:]]].any()
    held = np.zeros(len(TIME), bool)
    held[np.asarray(dataset.holdout.index)] = True
    assert (held[rows[valid]] == (part == "holdout")).all()
    assert set(row) == set(
        np.asarray(starts.index)[: starts.count[(length if min_length is None else min_length) - 1]]
    )


def test_next_observations_come_from_the_transition_itself():
    """The last next observation of an episode is in no other row's obs."""
    dataset = ds.make_dataset(DATA, M)
    last = jnp.asarray(DATA.episode_ends)
    segment = ds.gather_segments(dataset, last, 3)
    np.testing.assert_array_equal(segment.obs[:, 1], DATA.next_obs[DATA.episode_ends])
    np.testing.assert_array_equal(segment.valid, [[True, False, False]] * len(LENGTHS))


# --- the split ----------------------------------------------------------------------------------------------


def covered(starts, steps_to_end, max_length):
    """All rows that some segment of the part reads."""
    index = np.asarray(starts.index)
    rows = index[:, None] + np.arange(max_length)[None]
    return set(rows[np.arange(max_length)[None] < np.asarray(steps_to_end)[index][:, None]])


def depths(lengths):
    """Steps left in its episode, at every row."""
    return np.concatenate([np.arange(n, 0, -1) for n in lengths])


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=12),
    max_backtrack=st.integers(1, 6),
    holdout=st.sampled_from(["episodes", "tail"]),
    fraction=st.floats(0.01, 0.5),
    seed=st.integers(0, 100),
)
def test_no_segment_of_one_part_reads_the_other(lengths, max_backtrack, holdout, fraction, seed):
    data = make_episodes(lengths)
    try:
        dataset = ds.make_dataset(
            data, max_backtrack, holdout=holdout, holdout_fraction=fraction, split_seed=seed
        )
    except InputError:  # too little data for this m; see the errors' own test
        return
    train, held = (
        covered(part, dataset.steps_to_end, max_backtrack) for part in (dataset.train, dataset.holdout)
    )
    assert not train & held
    assert train | held == set(range(len(data.reward)))
    # episodes' ends, from the lengths alone
    to_end = np.asarray(dataset.steps_to_end)
    assert (to_end >= 1).all()
    assert (to_end <= depths(lengths)).all()
    episode = data.obs[:, 0]
    if holdout == "episodes":
        assert not {episode[r] for r in train} & {episode[r] for r in held}
        np.testing.assert_array_equal(to_end, depths(lengths))
    else:
        num_held = max(1, int(fraction * len(data.reward)))
        assert held == set(range(len(data.reward) - num_held, len(data.reward)))
    for part in (dataset.train, dataset.holdout):
        by_start = to_end[np.asarray(part.index)]
        for depth, count in enumerate(np.asarray(part.count)):
            # the first entries, and no others, have room for more than ``depth`` steps
            assert (by_start[:count] > depth).all()
            assert (by_start[count:] <= depth).all()
    assert np.asarray(dataset.windows.count)[0] == len(data.reward)
    np.testing.assert_array_equal(dataset.steps_from_start, data.obs[:, 1])


def test_the_tails_edge_ends_a_segment():
    """One episode of 20, the last 4 held out: training segments end at row 15."""
    dataset = ds.make_dataset(make_episodes([20]), 3, holdout="tail", holdout_fraction=0.2)
    assert covered(dataset.train, dataset.steps_to_end, 3) == set(range(16))
    assert covered(dataset.holdout, dataset.steps_to_end, 3) == {16, 17, 18, 19}
    assert dataset.train.count.tolist() == [16, 15, 14]
    assert dataset.holdout.count.tolist() == [4, 3, 2]
    # roll-outs may start anywhere: the split is the model's affair
    assert dataset.windows.count.tolist() == [20, 19, 18]


def test_the_holdout_respects_fraction_and_maximum():
    data = make_episodes([10] * 100)
    for options, expected in (
        ({"holdout_fraction": 0.2}, 200),
        ({"holdout_fraction": 0.2, "holdout_max_size": 55}, 50),
        ({"holdout_fraction": 0.001}, 10),
    ):
        assert ds.make_dataset(data, 2, **options).holdout.count[0] == expected


def test_held_out_episodes_follow_the_seed():
    data = make_episodes([10] * 100)

    def held(seed):
        return set(np.asarray(ds.make_dataset(data, 2, split_seed=seed).holdout.index).tolist())

    assert held(0) == held(0)
    assert held(0) != held(1)


# --- normaliser, counts, draws ------------------------------------------------------------------------------


def test_normaliser_is_numpys_mean_and_standard_deviation():
    """Over all transitions, held out or not; a constant dimension keeps its scale."""
    rng = np.random.default_rng(0)
    data = make_episodes([10] * 20)
    obs = (1e3 + 1e-2 * rng.normal(size=data.obs.shape)).astype(
        np.float32
    )  # float32 sums would lose this spread
    obs[:, 1] = 7.0
    action = rng.uniform(-1, 1, (200, 2)).astype(np.float32)
    data = EpisodeData(obs, action, data.reward, obs, data.terminated, data.truncated)
    norm = ds.make_dataset(data, 2).normalizer
    expected = np.float64(obs).std(axis=0)
    expected[1] = 1.0
    np.testing.assert_allclose(norm.obs_mean, np.float64(obs).mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(norm.obs_std, expected, rtol=1e-6)
    np.testing.assert_allclose(norm.action_mean, np.float64(action).mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(norm.action_std, np.float64(action).std(axis=0), rtol=1e-6)


def test_short_episodes_are_counted():
    assert ds.count_short_episodes(DATA, 5) == sum(n < 5 for n in LENGTHS)
    assert ds.count_short_episodes(DATA, 1) == 0


def test_transitions_are_drawn_whole_and_uniformly(dataset):
    batch = jax.device_get(
        jax.jit(ds.sample_transitions, static_argnums=2)(dataset, jax.random.key(2), MILLION)
    )
    row = batch.reward.astype(int)
    for name in ("obs", "action", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(batch, name), getattr(DATA, name)[row])
    counts = np.bincount(row, minlength=len(TIME))
    np.testing.assert_allclose(counts, MILLION / len(TIME), rtol=0.06)


# --- errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lengths", "max_backtrack", "options", "message"),
    [
        (
            [3, 4, 2],
            5,
            {},
            r"test: no roll-out window of max_backtrack=5 .* longest of 3 episodes has 4 transitions",
        ),
        ([30], 5, {}, r"test: one episode cannot be split by episodes; use --holdout=tail"),
        (
            [3, 3, 3, 6],
            5,
            {"holdout": "tail", "holdout_fraction": 0.5},
            "no training segment of max_backtrack=5",
        ),
    ],
)
def test_too_little_data_is_one_clear_line(lengths, max_backtrack, options, message):
    with pytest.raises(InputError, match=message) as error:
        ds.make_dataset(make_episodes(lengths), max_backtrack, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("seed", range(20))
def test_both_parts_keep_an_episode_long_enough(seed: int) -> None:
    """Two long episodes among many short ones: one is held out and one trained on, whatever the draw."""
    data = make_episodes([2] * 30 + [12] + [3] * 30 + [12])
    dataset = ds.make_dataset(data, 10, holdout_fraction=0.1, split_seed=seed)
    assert int(dataset.train.count[-1]) == 3
    assert int(dataset.holdout.count[-1]) == 3


def test_a_held_out_part_of_short_episodes_is_no_error() -> None:
    dataset = ds.make_dataset(make_episodes([30, 2, 2]), 5)
    assert dataset.holdout.count.tolist() == [2, 1, 0, 0, 0]
    assert int(dataset.train.count[-1]) == 26
