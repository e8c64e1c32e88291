"""Roll-outs: every row against a NumPy loop over hand-made dynamics whose answers are known."""

import functools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.data import ring_buffer
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics.histories import encode_histories
from adm_jax.dynamics.interface import Dynamics
from adm_jax.dynamics.uncertainty import std_of_means
from adm_jax.rollout import (
    Simulation,
    open_loop,
    open_loop_errors,
    rollout,
    rollout_into,
)
from adm_jax.types import Prediction, Segment
from tests.known_dynamics import (
    CHUNK,
    DATA,
    LENGTH,
    PARAMS,
    SPREAD,
    START,
    STARTS,
    STEP,
    M,
    X,
    known_dynamics,
    known_simulation,
    numpy_trajectory,
    rows_of,
)


@functools.cache
def compiled(broken_field=None, min_history=None, chunk=CHUNK, num_starts=STARTS, reward_fn=None, keep=False):
    dataset = make_dataset(DATA, M)
    histories = encode_histories(known_dynamics(), PARAMS, dataset, chunk) if keep else None

    @jax.jit
    def run(key, penalty_coef):
        return rollout(
            known_simulation(penalty_coef, broken_field, reward_fn)._replace(histories_fn=rows_of(histories)),
            dataset,
            key,
            num_starts=num_starts,
            length=LENGTH,
            chunk=chunk,
            min_history=min_history,
        )

    return run


def run(seed=0, penalty_coef=0.5, **options):
    return jax.device_get(compiled(**options)(jax.random.key(seed), jnp.float32(penalty_coef)))


def assert_rows_equal_numpy(result, penalty_coef, broken_field=None):
    """Every valid row is the one of the NumPy loop, and none of the loop's rows is missing."""
    rows = jax.tree.map(lambda x: x[result.valid], result.transitions)
    begun = Counter(rows.obs[rows.obs[:, STEP] == 0, START].astype(int).tolist())
    expected = {start: numpy_trajectory(start, penalty_coef, broken_field) for start in begun}
    seen = Counter()
    for obs, action, reward, next_obs, terminated in zip(*rows[:5], strict=True):
        start, step = int(obs[START]), int(obs[STEP])
        seen[start, step] += 1
        row = expected[start][step]
        np.testing.assert_allclose(obs, row[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(action, [row[1]], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(reward, row[2], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(next_obs, row[3], rtol=1e-5, atol=1e-5)
        assert terminated == row[4]
    assert seen == Counter({(s, t): n for s, n in begun.items() for t in range(len(expected[s]))})
    return begun, expected


@pytest.mark.parametrize("penalty_coef", [0.0, 0.5])
@pytest.mark.parametrize("keep", [False, True])
def test_equals_a_numpy_loop(penalty_coef, keep):
    begun, expected = assert_rows_equal_numpy(run(penalty_coef=penalty_coef, keep=keep), penalty_coef)
    assert sum(begun.values()) == STARTS
    lengths = {len(expected[start]) for start in begun}
    # some roll-outs end early, some never, or there would be nothing to see
    assert min(lengths) < LENGTH
    assert LENGTH in {len(rows) for rows in expected.values() if not rows[-1][-1]}


@pytest.mark.parametrize("seed", [0, 1])
def test_starts_have_full_windows_unless_shorter_ones_are_allowed(seed):
    for min_history, least in ((None, M - 1), (0, 0)):
        result = run(seed, min_history=min_history)
        begun, _ = assert_rows_equal_numpy(result, 0.5)
        times = np.array([start % 10 for start in begun])
        assert times.min() >= least
        assert (times < M - 1).any() == (least == 0)


def test_nothing_after_termination_reaches_the_buffer():
    result = run()
    buffer = ring_buffer.init(result.valid.size, 3, 1)
    buffer = jax.jit(ring_buffer.add)(buffer, result.transitions, result.valid)
    size = int(buffer.size)
    assert size == result.valid.sum() < STARTS * LENGTH
    stored = jax.tree.map(lambda x: np.asarray(x)[:size], buffer.data)
    ended = {(row[START], row[STEP]) for row in stored.next_obs[stored.terminated]}
    assert ended
    assert not ended & {(row[START], row[STEP]) for row in stored.obs}
    # and only what terminated is flagged: the roll-out's own end is not a termination
    np.testing.assert_array_equal(stored.terminated, np.abs(stored.next_obs[:, X]) > 2.0)
    assert not stored.terminated[stored.next_obs[:, STEP] == LENGTH].all()


@pytest.mark.parametrize("broken_field", ["next_obs", "reward"])
def test_predictions_that_are_not_finite_end_their_row_unseen(broken_field):
    result = run(broken_field=broken_field, num_starts=40)
    begun, expected = assert_rows_equal_numpy(result, 0.5, broken_field)
    assert any(len(expected[s]) < LENGTH and not expected[s][-1][-1] for s in begun)
    kept = jax.tree.map(lambda x: x[result.valid], result.transitions)
    assert all(np.isfinite(leaf).all() for leaf in kept[:5])
    assert all(np.isfinite(value) for value in result.metrics.values())


@pytest.mark.parametrize("chunk", [1, 5, 23])
def test_every_row_is_rolled_whatever_the_chunk(chunk):
    """The last chunk is padded up to its size, and the padding is not valid."""
    result = run(chunk=chunk)
    begun, _ = assert_rows_equal_numpy(result, 0.5)
    assert sum(begun.values()) == STARTS
    assert result.valid.size == -(-STARTS // chunk) * chunk * LENGTH


def test_rolled_into_a_buffer_the_kept_rows_are_the_same():
    """For every length one program, whose loop's bound is traced."""
    dataset = make_dataset(DATA, M)
    traces = []

    @jax.jit
    def run_into(buffer, key, length):
        traces.append(length)
        options = {"num_starts": STARTS, "chunk": CHUNK, "length": length}
        return rollout_into(buffer, known_simulation(jnp.float32(0.5)), dataset, key, **options)

    whole = run(seed=3)
    step = whole.transitions.obs[:, STEP]
    for length in (1, 4, LENGTH):
        empty = ring_buffer.init(STARTS * LENGTH, 3, 1)
        buffer, metrics = run_into(empty, jax.random.key(3), jnp.int32(length))
        expected = jax.tree.map(lambda x, n=length: x[whole.valid & (step < n)], whole.transitions)
        size = int(buffer.size)
        assert size == len(expected.reward)
        for ours, theirs in zip(buffer.data[:5], expected[:5], strict=True):
            ours = np.asarray(ours)[:size].reshape(size, -1)
            theirs = theirs.reshape(size, -1)
            np.testing.assert_allclose(np.unique(ours, axis=0), np.unique(theirs, axis=0), rtol=1e-6)
        assert metrics["rollout/valid_fraction"] == pytest.approx(size / (STARTS * length))
    for name, value in whole.metrics.items():
        assert metrics[name] == pytest.approx(value, rel=1e-5)
    assert len(traces) == 1


def test_metrics_are_means_over_valid_rows():
    result = run()
    valid, rows = result.valid, result.transitions
    assert result.metrics["rollout/valid_fraction"] == pytest.approx(valid.sum() / (STARTS * LENGTH))
    assert result.metrics["rollout/uncertainty"] == pytest.approx(SPREAD, rel=1e-5)
    assert result.metrics["rollout/penalized_reward"] == pytest.approx(rows.reward[valid].mean(), rel=1e-4)
    assert result.metrics["rollout/terminated_fraction"] == pytest.approx(
        rows.terminated[valid].mean(), rel=1e-5
    )


def known_reward(obs, action, next_obs):
    return 10.0 * obs[:, X] - action[:, 0] + 0.5 * next_obs[:, X]


def test_a_known_reward_takes_the_learned_ones_place():
    """And nothing else changes: the penalty is still subtracted, the rows are the same."""
    learned, known = run(), run(reward_fn=known_reward)
    rows = known.transitions
    expected = known_reward(rows.obs, rows.action, rows.next_obs) - 0.5 * SPREAD
    np.testing.assert_allclose(rows.reward, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(rows.reward - learned.transitions.reward).max() > 1.0
    for name in ("obs", "action", "next_obs", "terminated"):
        np.testing.assert_array_equal(getattr(rows, name), getattr(learned.transitions, name))
    np.testing.assert_array_equal(known.valid, learned.valid)


def unsafe_reward(obs, action, next_obs):
    return jnp.sqrt(1.0 - obs[:, X])  # NaN beyond 1


def test_a_known_reward_that_is_not_finite_ends_its_row_unseen():
    result = run(reward_fn=unsafe_reward, num_starts=40)
    assert result.valid.sum() < run(num_starts=40).valid.sum()
    assert np.isfinite(result.transitions.reward[result.valid]).all()
    assert (result.transitions.obs[result.valid][:, X] <= 1.0).all()


def test_a_known_reward_of_another_shape_is_refused():
    with pytest.raises(AssertionError):
        run(reward_fn=column_reward)


def column_reward(obs, action, next_obs):
    return obs[:, :1]


def test_the_key_decides_the_starts():
    first, again, other = run(3), run(3), run(4)
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert not np.array_equal(first.transitions.obs, other.transitions.obs)


def test_keys_of_rows_differ_and_the_batch_key_does_not():
    """What the model draws: fresh in every chunk and step, or one per step for all chunks."""

    def begin(params, window):
        return ()

    def step(params, carry, obs, action, key, batch_key):
        own, shared = jax.random.uniform(key), jax.random.uniform(batch_key)
        next_obs = (
            jnp.broadcast_to(jnp.stack([own, shared, 0.0]), obs.shape).at[:, STEP].set(obs[:, STEP] + 1.0)
        )
        means = jnp.zeros((1, obs.shape[0], 4))
        return (), Prediction(next_obs, action[:, 0], means, means, jnp.ones((1, obs.shape[0]), bool))

    dynamics = known_dynamics()._replace(begin=begin, step=step)

    def noisy_policy(obs, key):
        return jnp.broadcast_to(jax.random.uniform(key), (obs.shape[0], 1))

    def never(next_obs):
        return jnp.zeros(next_obs.shape[0], bool)

    dataset = make_dataset(DATA, M)
    result = jax.jit(
        lambda key: rollout(
            Simulation(dynamics, {}, noisy_policy, never, std_of_means, jnp.float32(0.0)),
            dataset,
            key,
            num_starts=4 * CHUNK,
            length=LENGTH,
            chunk=CHUNK,
        )
    )(jax.random.key(0))
    rows = jax.device_get(result.transitions)
    own, shared, step_number = rows.next_obs.T
    num_draws = 4 * LENGTH
    assert len(np.unique(own)) == num_draws
    assert len(np.unique(shared)) == LENGTH
    assert len({*zip(step_number, shared, strict=True)}) == LENGTH
    assert len(np.unique(rows.action)) == num_draws
    # policy and model draw from keys of their own
    assert not set(rows.action[:, 0]) & (set(own) | set(shared))


# --- open loop ----------------------------------------------------------------------------------------------


def test_open_loop_feeds_predictions_back_on_the_recorded_actions():
    """A model that adds the action and a known error to the state: the error grows with every step."""
    error = jnp.asarray([0.1, -0.3])

    def step(params, carry, obs, action, key, batch_key):
        next_obs = obs + action + params[None]
        means = jnp.append(next_obs, jnp.zeros((len(obs), 1)), axis=1)[None]
        return carry + 1, Prediction(next_obs, means[0, :, -1], means, means, jnp.ones(means.shape[:2], bool))

    def begin(params, window):
        assert window.obs.shape == (3, 1, 2)  # m - 1 steps of history, none of them real
        assert not window.valid.any()
        return 0

    unused = [None] * 4
    dynamics = Dynamics(*unused, begin, step, 2)
    rng = np.random.default_rng(0)
    action = rng.normal(size=(3, 4, 2)).astype(np.float32)
    obs = np.concatenate([np.zeros((3, 1, 2), np.float32), action], axis=1).cumsum(axis=1)
    valid = np.arange(4)[None] < np.array([4, 2, 3])[:, None]
    segment = Segment(*map(jnp.asarray, (obs, action, np.zeros((3, 4), np.float32), valid)))
    predicted = open_loop(dynamics, error, segment, jax.random.key(0))
    steps = np.arange(1, 5)[:, None]
    np.testing.assert_allclose(predicted, obs[:, 1:] + steps * np.asarray(error), atol=1e-5)
    errors = open_loop_errors(dynamics, error, segment, jax.random.key(0))
    np.testing.assert_allclose(errors, (steps * np.asarray(error)) ** 2 @ [0.5, 0.5], rtol=1e-4)
    none = segment._replace(valid=segment.valid.at[:, 3].set(False))
    assert np.isnan(open_loop_errors(dynamics, error, none, jax.random.key(0))[3])
