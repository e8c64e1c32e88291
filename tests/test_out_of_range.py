"""Predictions far outside the data, counted and clipped, in every kind of roll-out against a NumPy loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax import model_envs, model_episodes
from adm_jax.data import ring_buffer
from adm_jax.data.dataset import make_dataset
from adm_jax.data.value_range import ValueRange
from adm_jax.rollout import rollout, rollout_into
from tests.known_dynamics import DATA, LENGTH, SPREAD, START, STEP, M, X, known_simulation
from tests.tiny import bitwise_options

STARTS, CHUNK, PENALTY = 23, 5, 0.5
LOW, HIGH = np.float32([-0.8, -1.0, -1.0]), np.float32([0.6, 100.0, 3.5])  # of x, start and step
REWARD = np.float32([-0.4, 0.5])
DATASET = make_dataset(DATA, M)


def simulation(clips: bool, penalty: float = PENALTY):
    low, high = jnp.asarray(LOW), jnp.asarray(HIGH)
    if clips:  # rows are told by their step
        high = high.at[STEP].set(100.0)
    values = ValueRange(low, high, *map(jnp.asarray, REWARD))
    return known_simulation(jnp.float32(penalty), reward_fn=None)._replace(value_range=values, clips=clips)


def numpy_rows(start: int, clips: bool, penalty: float = PENALTY, length: int = LENGTH, history: bool = True):
    """The steps from a dataset's row: (x, reward, next x, whether the prediction lay outside)."""
    before = DATA.action[start - min(start % 10, M - 1) : start, 0].sum() if history else 0.0
    x, rows = float(DATA.obs[start, X]), []
    for step in range(length):
        action = -0.2 * x + 0.01 * step
        next_x, reward = 1.3 * x + 0.5 * action + 0.1 * before, x + action
        outside = not LOW[X] <= next_x <= HIGH[X] or (step + 1 > HIGH[STEP] and not clips)
        if clips:
            next_x, reward = np.clip(next_x, LOW[X], HIGH[X]), np.clip(reward, *REWARD)
        rows.append((x, reward - penalty * SPREAD, next_x, outside))
        if abs(next_x) > 2.0:
            break
        x = next_x
    return rows


def assert_rows_equal_numpy(rows, valid, metrics, clips: bool) -> None:
    """Rows [B, T, ...] in the order of time; the fraction is of those that are kept."""
    outside, total = 0, 0
    for env in range(len(valid)):
        kept = np.flatnonzero(valid[env])
        begins = np.flatnonzero(rows.obs[env, kept, STEP] == 0)
        for part in np.split(kept, begins[1:]) if kept.size else ():
            expected = numpy_rows(int(rows.obs[env, part[0], START]), clips)[: len(part)]
            found = [(rows.obs[env, i, X], rows.reward[env, i], rows.next_obs[env, i, X]) for i in part]
            np.testing.assert_allclose(found, [row[:3] for row in expected], rtol=1e-5, atol=1e-5)
            outside += sum(row[3] for row in expected)
            total += len(expected)
    assert 0 < outside < total
    assert metrics["rollout/out_of_range_fraction"] == pytest.approx(outside / total, rel=1e-5)
    if clips:
        kept = rows.next_obs[valid][:, X]
        assert (kept.min(), kept.max()) == (LOW[X], HIGH[X])


@pytest.mark.parametrize("clips", [False, True])
def test_roll_outs_and_those_into_a_buffer(clips):
    options = {"num_starts": STARTS, "chunk": CHUNK}

    @jax.jit
    def run(key):
        return rollout(simulation(clips), DATASET, key, length=LENGTH, **options)

    @jax.jit
    def run_into(buffer, key, length):
        return rollout_into(buffer, simulation(clips), DATASET, key, length=length, **options)

    result = jax.device_get(run(jax.random.key(1)))
    in_time = jax.tree.map(
        lambda x: x.reshape(-1, LENGTH, CHUNK, *x.shape[1:]).swapaxes(1, 2).reshape(-1, LENGTH, *x.shape[1:]),
        (result.transitions, result.valid),
    )
    assert_rows_equal_numpy(*in_time, result.metrics, clips)
    buffer, metrics = run_into(ring_buffer.init(result.valid.size, 3, 1), jax.random.key(1), LENGTH)
    assert int(buffer.size) == result.valid.sum()
    name = "rollout/out_of_range_fraction"
    assert metrics[name] == pytest.approx(result.metrics[name], rel=1e-6)
    stored, kept = np.asarray(buffer.data.next_obs)[: int(buffer.size)], result.transitions.next_obs
    np.testing.assert_allclose(np.unique(stored, axis=0), np.unique(kept[result.valid], axis=0), rtol=1e-6)


@pytest.mark.parametrize("clips", [False, True])
def test_environments_in_the_model(clips):
    known = simulation(clips)
    envs = model_envs.init(known.dynamics, known.params, DATASET, STARTS, CHUNK)

    @jax.jit
    def run(envs, key):
        how = {"num_envs": STARTS, "length": 2 * LENGTH, "horizon": LENGTH}
        return model_envs.advance(simulation(clips), envs, DATASET, key, **how)

    result = jax.device_get(run(envs, jax.random.key(2))[1])
    steps = 2 * LENGTH
    in_time = jax.tree.map(
        lambda x: x.reshape(-1, steps, CHUNK, *x.shape[1:]).swapaxes(1, 2).reshape(-1, steps, *x.shape[1:]),
        (result.transitions, result.valid),
    )
    assert_rows_equal_numpy(*in_time, result.metrics, clips)


@pytest.mark.parametrize("clips", [False, True])
def test_whole_episodes(clips):
    """Their returns, and the steps that count: none behind the end."""
    starts, horizon = np.arange(0, 40, 10), 30
    anywhere = jnp.full((3,), -jnp.inf), jnp.full((3,), jnp.inf)

    @jax.jit
    def run(key):
        return model_episodes.roll_out_episodes(
            simulation(clips, penalty=0.0),
            DATASET,
            jnp.asarray(starts),
            key,
            gammas=(1.0,),
            bounds=anywhere,
            horizon=horizon,
            chunk=3,
        )

    episodes = jax.device_get(run(jax.random.key(3)))
    for index, start in enumerate(starts):
        expected = numpy_rows(start, clips, 0.0, horizon, history=False)
        assert episodes.lengths[index] == len(expected)
        assert episodes.out_of_range[index] == sum(row[3] for row in expected)
        np.testing.assert_allclose(episodes.returns[index, 0], sum(row[1] for row in expected), rtol=1e-4)
    assert 0 < episodes.out_of_range.sum() < episodes.lengths.sum()
    assert clips == (episodes.lengths == horizon).all()  # what is clipped never gets to where it terminates


def test_clipping_changes_nothing_where_all_lies_within():
    """To the last bit."""

    def run(clips, values):
        known = known_simulation(jnp.float32(PENALTY))._replace(value_range=values, clips=clips)
        options = {"num_starts": STARTS, "length": LENGTH, "chunk": CHUNK}
        program = jax.jit(
            lambda key: rollout(known, DATASET, key, **options), compiler_options=bitwise_options()
        )
        return program(jax.random.key(4))

    far = ValueRange(jnp.full((3,), -1e6), jnp.full((3,), 1e6), jnp.array(-1e6), jnp.array(1e6))
    plain = run(False, None)
    assert plain.metrics["rollout/out_of_range_fraction"] == 0.0
    for clips in (False, True):
        jax.tree.map(np.testing.assert_array_equal, run(clips, far), plain)


@pytest.mark.parametrize("field", ["next_obs", "reward"])
def test_a_prediction_that_is_not_finite_ends_its_row_clipped_or_not(field):
    def run(clips):
        wide = ValueRange(jnp.full((3,), -50.0), jnp.full((3,), 50.0), jnp.array(-50.0), jnp.array(50.0))
        known = known_simulation(jnp.float32(0.0), field)._replace(value_range=wide, clips=clips)
        options = {"num_starts": 40, "length": LENGTH, "chunk": CHUNK}
        return jax.jit(lambda key: rollout(known, DATASET, key, **options))(jax.random.key(5))

    plain, clipped = run(False), run(True)
    np.testing.assert_array_equal(clipped.valid, plain.valid)
    reached = np.asarray(clipped.transitions.next_obs[clipped.valid])
    assert np.isfinite(reached).all()
    # the broken step is not kept, and so it does not count
    assert clipped.metrics["rollout/out_of_range_fraction"] == 0.0
    assert not np.isfinite(np.asarray(plain.transitions[:5][3 if field == "next_obs" else 2])).all()
