"""Episodes that end where a task says so, on made-up data whose rows bear their numbers."""

import numpy as np
import pytest

from adm_jax.data.episodes import FIELDS, end_at
from adm_jax.data.validation import validate
from tests.data.sample_data import assert_same_bits, make_data

LENGTHS = (4, 3, 5)  # rows 0-3 (terminated), 4-6 (truncated), 7-11 (terminated)


@pytest.mark.parametrize(
    ("terminal", "kept", "terminated", "truncated"),
    [
        ([1, 2], [0, 1, 4, 5, 6, 7, 8, 9, 10, 11], [1, 11], [6]),  # inside: the first one counts
        ([0, 4, 7], [0, 4, 7], [0, 4, 7], []),  # an episode of one transition
        ([6], list(range(12)), [3, 6, 11], [6]),  # where a time limit ended it: both, and nothing is lost
        ([3, 11], list(range(12)), [3, 11], [6]),  # where it is terminated already
        ([2, 3, 5, 6], [0, 1, 2, 4, 5, 7, 8, 9, 10, 11], [2, 5, 11], []),
    ],
)
def test_episodes_end_at_their_first_terminal_state(terminal, kept, terminated, truncated):
    data = make_data(LENGTHS)
    cut = end_at(data, np.isin(np.arange(12), terminal))
    for name in ("obs", "action", "reward", "next_obs"):
        assert getattr(cut, name).tobytes() == getattr(data, name)[kept].tobytes(), name
    assert np.asarray(kept)[cut.terminated].tolist() == terminated
    assert np.asarray(kept)[cut.truncated].tolist() == truncated
    assert len(cut.episode_ends) == len(LENGTHS)
    assert (cut.source, cut.metadata) == (data.source, data.metadata)
    validate(cut)


def test_without_terminal_states_nothing_changes():
    data = make_data(LENGTHS)
    assert_same_bits(data, end_at(data, np.zeros(12, bool)))


def test_against_a_loop_over_random_episodes():
    rng = np.random.default_rng(0)
    lengths = tuple(rng.integers(1, 9, 200).tolist())
    data, terminal = make_data(lengths), rng.random(sum(lengths)) < 0.2
    kept, start = [], 0
    for length in lengths:
        for t in range(start, start + length):
            kept.append(t)
            if terminal[t]:
                break
        start += length
    cut = end_at(data, terminal)
    assert cut.obs.tobytes() == data.obs[kept].tobytes()
    assert cut.terminated.tolist() == (data.terminated | terminal)[kept].tolist()
    assert {getattr(cut, name).dtype for name in FIELDS} == {np.dtype(np.float32), np.dtype(bool)}
