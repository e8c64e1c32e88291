"""Persistent environments in a model: episode by episode against NumPy, over the borders of calls."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax import model_envs
from adm_jax.config.models import AnyStepV2Config
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics.adm_v2 import make_adm_v2
from adm_jax.dynamics.uncertainty import std_of_means
from adm_jax.rollout import Simulation
from tests.dynamics import by_hand
from tests.dynamics.schedule import Schedule
from tests.known_dynamics import DATA, LENGTH, START, STEP, M, known_simulation, numpy_trajectory

NUM_ENVS, CHUNK, STEPS, CALLS = 13, 5, 4, 6


def advance(simulation, horizon, min_history=None, seed=0):
    """Each environment's rows of all calls in the order of time, leaves [E, T, ...], and which are kept."""
    dataset = make_dataset(DATA, M)
    envs = model_envs.init(simulation.dynamics, simulation.params, dataset, NUM_ENVS, CHUNK)

    @jax.jit
    def run(envs, key):
        return model_envs.advance(
            simulation,
            envs,
            dataset,
            key,
            num_envs=NUM_ENVS,
            length=STEPS,
            horizon=horizon,
            min_history=min_history,
        )

    calls = []
    for call in range(CALLS):
        envs, result = run(envs, jax.random.fold_in(jax.random.key(seed), call))
        calls.append((result.transitions, result.valid))

    def in_time(*leaves):
        parts = [np.asarray(x).reshape(-1, STEPS, CHUNK, *x.shape[1:]).swapaxes(1, 2) for x in leaves]
        return np.concatenate([x.reshape(-1, STEPS, *x.shape[3:]) for x in parts], axis=1)

    return jax.tree.map(in_time, *calls), result.metrics


def episodes(rows, kept, env):
    """An environment's rows cut where its model's clock is back at zero."""
    index = np.flatnonzero(kept[env])
    begins = np.flatnonzero(rows.obs[env, index, STEP] == 0)
    return [part for part in np.split(index, begins) if part.size]


@pytest.mark.parametrize("min_history", [None, 0])
@pytest.mark.parametrize("broken_field", [None, "reward"])
def test_every_episode_equals_a_numpy_loop(min_history, broken_field):
    """From its start to its end or the horizon, whichever call it falls into; then another begins."""
    penalty_coef = 0.5
    simulation = known_simulation(penalty_coef, broken_field)
    (rows, kept), metrics = advance(simulation, LENGTH, min_history)
    assert kept.shape == (15, STEPS * CALLS)
    assert not kept[NUM_ENVS:].any()  # what fills the last chunk up
    lengths, starts = [], []
    for env in range(NUM_ENVS):
        parts = episodes(rows, kept, env)
        if broken_field is None:
            assert kept[env].all()  # a new episode begins with the step after the last one's end
        for number, part in enumerate(parts):
            start = int(rows.obs[env, part[0], START])
            starts.append(start)
            expected = numpy_trajectory(start, penalty_coef, broken_field)
            if number < len(parts) - 1:
                assert len(part) == len(expected)
                lengths.append(len(part))
            for i, row in zip(part, expected, strict=False):
                for ours, theirs in zip(rows[:5], row, strict=True):
                    actual, wanted = np.ravel(ours[env, i]), np.ravel(theirs)
                    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)
    assert min(lengths) < LENGTH
    assert max(lengths) == LENGTH
    times = np.array(starts) % 10
    assert times.min() >= (M - 1 if min_history is None else 0)
    assert (times < M - 1).any() == (min_history == 0)
    assert len(set(starts)) > 10
    assert 1 <= metrics["rollout/episode_step"] <= LENGTH


def test_the_horizon_is_no_termination():
    (rows, kept), _ = advance(known_simulation(0.0), 2)
    assert kept[:NUM_ENVS].all()
    last = rows.obs[:NUM_ENVS, :, STEP] == 1
    assert last.any()
    assert not rows.terminated[:NUM_ENVS][last].all()
    np.testing.assert_array_equal(rows.obs[:NUM_ENVS, ::2, STEP], 0)


@pytest.mark.parametrize("num_streams", [None, 2])
def test_streams_go_on_over_calls_and_begin_anew_with_an_episode(num_streams):
    """Each penalty is the spread over the streams, encoded anew from the episode's own states."""
    config = AnyStepV2Config(
        max_backtrack=M, model_hidden_dim=8, num_gru_layers=2, num_residual_blocks=1, num_encoder_blocks=1
    )
    config = dataclasses.replace(config, num_streams=num_streams)
    dynamics = make_adm_v2(3, 1, config)
    dataset = make_dataset(DATA, M)
    params = jax.jit(dynamics.init)(jax.random.key(1), dataset.normalizer)
    rng = np.random.default_rng(0)
    learned = jax.tree.map(lambda x: x + np.float32(0.3 * rng.normal(size=x.shape)), params.learned)
    simulation = Simulation(
        dynamics,
        params._replace(learned=learned),
        lambda obs, key: jax.random.uniform(key, (len(obs), 1)),
        lambda next_obs: jnp.abs(next_obs[:, 0]) > 1e9,
        std_of_means,
        jnp.float32(1.0),
        lambda obs, action, next_obs: jnp.zeros(len(obs)),
    )
    horizon = 7
    (rows, kept), _ = advance(simulation, horizon)
    assert kept[:NUM_ENVS].all()
    data_obs, data_action = np.asarray(DATA.obs), np.asarray(DATA.action)
    for env in range(NUM_ENVS):
        for begin in range(0, STEPS * CALLS, horizon):
            start = int(np.abs(data_obs - rows.obs[env, begin]).sum(axis=1).argmin())
            np.testing.assert_array_equal(data_obs[start], rows.obs[env, begin])
            states, taken = list(data_obs[start - M + 1 : start]), list(data_action[start - M + 1 : start])
            schedule = Schedule(M, num_streams or M, M - 1)
            for t in range(begin, min(begin + horizon, STEPS * CALLS)):
                states.append(rows.obs[env, t])
                taken.append(rows.action[env, t])
                means = [
                    by_hand.adm_v2(simulation.params, states[-k], np.stack(taken[-k:]), states[-1])[0]
                    for k in schedule.step()
                ]
                spread = np.sqrt(np.var(np.stack(means)[:, :-1], axis=0).mean())
                np.testing.assert_allclose(-rows.reward[env, t], spread, rtol=2e-3, atol=1e-4)
