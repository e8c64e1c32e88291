"""The bootstrapping recurrent model: equal to reading every history anew, and it learns one step."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config.models import RecurrentConfig
from adm_jax.dynamics.bootstrapped_rnn import make_bootstrapped_rnn
from adm_jax.dynamics.interface import ModelParams
from adm_jax.types import Normalizer, Segment, Window
from tests.dynamics.random_walk import assert_learns_one_step_prediction

OBS_DIM, ACTION_DIM, BATCH, M = 3, 2, 5, 4
CONFIG = RecurrentConfig(max_backtrack=M, model_hidden_dim=8, num_gru_layers=2, num_residual_blocks=1)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    """Random everywhere, with a normaliser that matters."""
    rng = np.random.default_rng(0)
    bounds = ((OBS_DIM, -1, 1), (OBS_DIM, 0.5, 2), (ACTION_DIM, -0.3, 0.3), (ACTION_DIM, 0.3, 1))
    normalizer = Normalizer(*(jnp.asarray(rng.uniform(a, b, dim), jnp.float32) for dim, a, b in bounds))
    learned = make_bootstrapped_rnn(OBS_DIM, ACTION_DIM, CONFIG).init(KEY, normalizer).learned
    learned = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.5 * rng.normal(size=x.shape)), learned)
    return ModelParams(learned, normalizer)


@pytest.fixture(scope="module")
def segment():
    rng = np.random.default_rng(1)
    shapes = ((BATCH, M + 1, OBS_DIM), (BATCH, M, ACTION_DIM), (BATCH, M))
    arrays = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes)
    lengths = np.array([4, 1, 3, 2, 4])
    return Segment(*arrays, jnp.asarray(np.arange(M)[None] < lengths[:, None]))


def expected_terms(encode, params, segment):
    """Squared error and NLL [B, K, D + 1] of each one-step prediction after k true states."""
    squared, nll = np.zeros((2, BATCH, M, OBS_DIM + 1))
    for row in range(BATCH):
        for k in range(1, M + 1):
            obs, action = np.asarray(segment.obs[row]), np.asarray(segment.action[row])
            mean, logvar = encode(params, obs[:k], action[:k])
            target = np.append(obs[k], segment.reward[row, k - 1])
            squared[row, k - 1] = (mean - target) ** 2
            nll[row, k - 1] = squared[row, k - 1] * np.exp(-logvar) + logvar
    return squared, nll


def test_heldout_errors_equal_numpy(encode_history, params, segment):
    squared, nll = expected_terms(encode_history, params, segment)
    errors = jax.jit(make_bootstrapped_rnn(OBS_DIM, ACTION_DIM, CONFIG).validate)(params, segment)
    for k in range(M):
        rows = np.asarray(segment.valid[:, k])
        np.testing.assert_allclose(errors.mse[0, k], squared[rows, k].mean(), rtol=1e-4)
        np.testing.assert_allclose(errors.nll[0, k], nll[rows, k].mean(), rtol=1e-4)


@pytest.mark.parametrize("sampling", ["one", "all"])
def test_loss_equals_numpy(encode_history, params, segment, sampling):
    """Of the last step of a segment, or of all steps, each length weighing the same."""
    config = dataclasses.replace(CONFIG, backtrack_sampling=sampling)
    loss, _ = jax.jit(make_bootstrapped_rnn(OBS_DIM, ACTION_DIM, config).loss)(params, segment, KEY)
    _, nll = expected_terms(encode_history, params, segment)
    lengths = [M - 1] if sampling == "one" else range(M)
    expected = np.mean([nll[np.asarray(segment.valid[:, k]), k].mean() for k in lengths])
    bounds = float(params.learned.max_logvar.sum() - params.learned.min_logvar.sum())
    np.testing.assert_allclose(loss, expected + CONFIG.logvar_bound_coef * bounds, rtol=1e-4)


@pytest.mark.parametrize("max_backtrack", [1, 2, 5])
def test_streams_equal_reading_every_history_anew(encode_history, params, max_backtrack):
    """All m predictions at every step, from full and short windows, on the model's own states."""
    m, batch, num_steps = max_backtrack, 3, 4
    dynamics = make_bootstrapped_rnn(
        OBS_DIM, ACTION_DIM, dataclasses.replace(CONFIG, max_backtrack=max_backtrack)
    )
    rng = np.random.default_rng(m)
    lengths = np.array([m - 1, 0, (m - 1) // 2])
    window = Window(
        jnp.asarray(rng.normal(size=(batch, m - 1, OBS_DIM)), jnp.float32),
        jnp.asarray(rng.normal(size=(batch, m - 1, ACTION_DIM)), jnp.float32),
        jnp.asarray(np.arange(m - 1)[None] >= m - 1 - lengths[:, None]),
    )
    first = jnp.asarray(rng.normal(size=(batch, OBS_DIM)), jnp.float32)
    actions = jnp.asarray(rng.normal(size=(num_steps, batch, ACTION_DIM)), jnp.float32)

    @jax.jit
    def roll_out(window, obs):
        def body(state, xs):
            carry, obs = state
            carry, prediction = dynamics.step(params, carry, obs, xs[0], xs[1], xs[1])
            return (carry, prediction.next_obs), (obs, prediction)

        xs = (actions, jax.random.split(KEY, num_steps))
        return jax.lax.scan(body, (dynamics.begin(params, window), obs), xs)[1]

    observed, predictions = jax.device_get(roll_out(window, first))
    for row in range(batch):
        begin = m - 1 - lengths[row]
        states, taken = (
            list(np.asarray(window.obs[row, begin:])),
            list(np.asarray(window.action[row, begin:])),
        )
        for t in range(num_steps):
            states.append(observed[t, row])
            taken.append(np.asarray(actions[t, row]))
            for k in range(1, m + 1):
                assert predictions.valid[t, k - 1, row] == (k <= len(states))
                if k <= len(states):
                    mean, logvar = encode_history(params, np.stack(states[-k:]), np.stack(taken[-k:]))
                    actual = predictions.means[t, k - 1, row], predictions.logvars[t, k - 1, row]
                    np.testing.assert_allclose(actual, (mean, logvar), rtol=1e-4, atol=1e-5)


def test_learns_one_step_prediction_to_the_known_optimum():
    """A random walk: however long the history, the best prediction has the variances of one step."""
    model = dataclasses.replace(CONFIG, max_backtrack=2, model_hidden_dim=16)
    assert_learns_one_step_prediction(make_bootstrapped_rnn(2, 1, model))
