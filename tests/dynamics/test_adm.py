"""The any-step model: equal to PyTorch, and its streams equal to re-encoding every history."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config.models import RecurrentConfig
from adm_jax.dynamics import uncertainty
from adm_jax.dynamics.adm import make_adm
from adm_jax.dynamics.interface import ModelParams
from adm_jax.dynamics.prediction import draw_unit
from adm_jax.types import Normalizer, Segment, Window

GOLDEN = RecurrentConfig(max_backtrack=5, model_hidden_dim=12, num_gru_layers=3, num_residual_blocks=4)
OBS_DIM, ACTION_DIM = 3, 2
KEY = jax.random.key(0)


SMALL = RecurrentConfig(model_hidden_dim=8, num_gru_layers=2, num_residual_blocks=1)


@functools.cache
def small_params():
    """Random parameters everywhere, and a normaliser that matters."""
    rng = np.random.default_rng(0)

    def vector(dim, low, high):
        return jnp.asarray(rng.uniform(low, high, dim), jnp.float32)

    normalizer = Normalizer(
        vector(OBS_DIM, -1, 1),
        vector(OBS_DIM, 0.5, 2),
        vector(ACTION_DIM, -0.3, 0.3),
        vector(ACTION_DIM, 0.3, 1),
    )
    learned = jax.jit(make_adm(OBS_DIM, ACTION_DIM, SMALL).init)(KEY, normalizer).learned
    # spread out, or all predictions would be nearly alike and a mistaken stream hardly show
    learned = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.5 * rng.normal(size=x.shape)), learned)
    return ModelParams(learned, normalizer)


def small(max_backtrack=4, **options):
    """A small model of any maximum length; its parameters do not depend on it."""
    config = dataclasses.replace(SMALL, max_backtrack=max_backtrack, **options)
    return make_adm(OBS_DIM, ACTION_DIM, config), small_params()


def first_step(dynamics):
    """``(params, window, obs, action, key, batch_key)`` to the Prediction of a first step, compiled."""

    def run(params, window, obs, action, key, batch_key):
        return dynamics.step(params, dynamics.begin(params, window), obs, action, key, batch_key)[1]

    return jax.jit(run)


def random_window(rng, batch, history, lengths=None):
    """A window whose row b has ``lengths[b]`` valid steps; padding is filled with nonsense."""
    lengths = np.full(batch, history) if lengths is None else lengths
    valid = np.arange(history)[None] >= history - lengths[:, None]
    obs = np.where(valid[..., None], rng.normal(size=(batch, history, OBS_DIM)), 1e3)
    action = np.where(valid[..., None], rng.uniform(-1, 1, (batch, history, ACTION_DIM)), -1e3)
    return Window(jnp.asarray(obs, jnp.float32), jnp.asarray(action, jnp.float32), jnp.asarray(valid))


def random_batch(rng, batch):
    obs = jnp.asarray(rng.normal(size=(batch, OBS_DIM)), jnp.float32)
    return obs, jnp.asarray(rng.uniform(-1, 1, (batch, ACTION_DIM)), jnp.float32)


def random_segment(rng, batch, length):
    obs = jnp.asarray(rng.normal(size=(batch, length + 1, OBS_DIM)), jnp.float32)
    action = jnp.asarray(rng.uniform(-1, 1, (batch, length, ACTION_DIM)), jnp.float32)
    reward = jnp.asarray(rng.normal(size=(batch, length)), jnp.float32)
    return Segment(obs, action, reward, jnp.ones((batch, length), bool))


def assert_trees_close(actual, expected, tolerance=1e-5):
    def check(a, e):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1.0, np.abs(e).max()))

    jax.tree.map(check, actual, expected)


# --- equal to PyTorch ---------------------------------------------------------------------------------------


def test_unrolled_predictions_equal_pytorch(golden):
    """Row by row and length by length, through the held-out errors."""
    dynamics = make_adm(OBS_DIM, ACTION_DIM, GOLDEN)
    rows = jax.tree.map(
        lambda x: x[:, None], golden.segment._replace(valid=jnp.ones_like(golden.segment.valid))
    )
    errors = jax.jit(jax.vmap(dynamics.validate, in_axes=(None, 0)))(golden.params, rows)
    displacement = golden.obs[:, 1:] - golden.obs[:, :1]
    target = np.concatenate([displacement, golden.reward[..., None]], axis=-1).transpose(1, 0, 2)
    squared = (golden.mean - target) ** 2
    nll = (squared * np.exp(-golden.logvar) + golden.logvar).mean(axis=-1)
    np.testing.assert_allclose(errors.mse[:, 0].T, squared.mean(axis=-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(errors.nll[:, 0].T, nll, rtol=1e-5, atol=1e-5)


def test_streams_grown_from_nothing_equal_pytorch(golden):
    """The oldest stream is the one that started at the segment's first state."""
    dynamics = make_adm(OBS_DIM, ACTION_DIM, GOLDEN)
    empty = Window(golden.segment.obs[:, :4], golden.segment.action[:, :4], jnp.zeros((7, 4), bool))
    carry = jax.jit(dynamics.begin)(golden.params, empty)
    step = jax.jit(dynamics.step)
    for k in range(1, 6):
        obs, action = golden.segment.obs[:, k - 1], golden.segment.action[:, k - 1]
        carry, prediction = step(golden.params, carry, obs, action, KEY, KEY)
        expected = golden.mean[k - 1] + np.pad(golden.obs[:, 0], ((0, 0), (0, 1)))
        np.testing.assert_allclose(prediction.means[k - 1], expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(prediction.logvars[k - 1], golden.logvar[k - 1], rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(prediction.valid, np.arange(5)[:, None] < np.full(7, k)[None])


def test_streams_begun_from_a_window_equal_pytorch(golden):
    dynamics = make_adm(OBS_DIM, ACTION_DIM, GOLDEN)
    window = Window(golden.segment.obs[:, :4], golden.segment.action[:, :4], jnp.ones((7, 4), bool))
    obs, action = golden.segment.obs[:, 4], golden.segment.action[:, 4]
    prediction = first_step(dynamics)(golden.params, window, obs, action, KEY, KEY)
    for k in range(1, 6):
        expected = golden.window_mean[k - 1] + np.pad(golden.obs[:, 5 - k], ((0, 0), (0, 1)))
        np.testing.assert_allclose(prediction.means[k - 1], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(prediction.logvars, golden.window_logvar, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", ["one", "all"])
def test_loss_and_gradients_equal_pytorch(golden, sampling):
    dynamics = make_adm(OBS_DIM, ACTION_DIM, dataclasses.replace(GOLDEN, backtrack_sampling=sampling))
    segment = golden.segment
    if sampling == "one":  # a minibatch of one length, all rows inside their episodes
        k = int(golden.one_backtrack)
        segment = Segment(
            segment.obs[:, : k + 1], segment.action[:, :k], segment.reward[:, :k], jnp.ones((7, k), bool)
        )

    def loss_fn(learned):
        return dynamics.loss(ModelParams(learned, golden.params.normalizer), segment, KEY)[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(golden.params.learned)
    np.testing.assert_allclose(loss, getattr(golden, f"loss_{sampling}"), rtol=1e-5)
    assert_trees_close(grads, getattr(golden, f"grad_{sampling}"))
    # every part of the network is reached
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(grads))


# --- streams against re-encoding ----------------------------------------------------------------------------


@pytest.mark.parametrize("max_backtrack", range(1, 11))
def test_streams_equal_reencoding_every_history(encode_history, max_backtrack):
    """All m predictions at every step, from full and short windows, along sampled trajectories."""
    m, batch, num_steps = max_backtrack, 4, 4
    dynamics, params = small(m)
    rng = np.random.default_rng(100 + m)
    lengths = np.array([m - 1, 0, min(1, m - 1), (m - 1) // 2])
    window = random_window(rng, batch, m - 1, lengths)
    first_obs, _ = random_batch(rng, batch)
    actions = jnp.asarray(rng.uniform(-1, 1, (num_steps, batch, ACTION_DIM)), jnp.float32)

    @jax.jit
    def roll_out(window, obs):
        def body(state, xs):
            carry, obs = state
            action, key = xs
            carry, prediction = dynamics.step(params, carry, obs, action, key, key)
            return (carry, prediction.next_obs), (obs, prediction, uncertainty.std_of_means(prediction))

        xs = (actions, jax.random.split(KEY, num_steps))
        return jax.lax.scan(body, (dynamics.begin(params, window), obs), xs)[1]

    observed, predictions, penalties = jax.device_get(roll_out(window, first_obs))
    window, actions = jax.device_get((window, actions))
    for row in range(batch):
        history = [np.asarray(window.obs[row, i]) for i in range(m - 1 - lengths[row], m - 1)]
        taken = [np.asarray(window.action[row, i]) for i in range(m - 1 - lengths[row], m - 1)]
        for t in range(num_steps):
            history.append(observed[t, row])
            taken.append(np.asarray(actions[t, row]))
            ages = range(1, min(m, len(history)) + 1)
            expected = [encode_history(params, history[-k], np.stack(taken[-k:])) for k in ages]
            means, logvars = (np.stack(x) for x in zip(*expected, strict=True))
            valid = predictions.valid[t, :, row]
            np.testing.assert_array_equal(valid, np.arange(m) < len(expected))
            np.testing.assert_allclose(predictions.means[t, valid, row], means, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(predictions.logvars[t, valid, row], logvars, rtol=1e-5, atol=1e-5)
            spread = np.sqrt(np.mean(np.var(means[:, :-1], axis=0)))
            np.testing.assert_allclose(penalties[t, row], spread, rtol=1e-4, atol=1e-5)
            if len(expected) == 1:
                assert penalties[t, row] == 0.0


# --- the sampled prediction ---------------------------------------------------------------------------------


def nearly_deterministic(params):
    """The same means with a standard deviation of about 5e-5, so that a sample tells its unit."""
    bounds = {"min_logvar": jnp.full((OBS_DIM + 1,), -20.0), "max_logvar": jnp.full((OBS_DIM + 1,), -19.5)}
    return params._replace(learned=params.learned._replace(**bounds))


def chosen_units(prediction):
    """Each row's unit by its sample; checks that the sample belongs to a single one."""
    sample = np.concatenate([prediction.next_obs, prediction.reward[:, None]], axis=-1)
    distance = np.abs(np.asarray(prediction.means) - sample).max(axis=-1)
    # the padding's nonsense is far away, so a sample from it would be seen
    assert ((distance < 1e-3).sum(axis=0) == 1).all()
    return distance.argmin(axis=0)


def test_each_row_draws_uniformly_among_its_valid_units():
    dynamics, params = small(4)
    params = nearly_deterministic(params)
    batch = 4000
    rng = np.random.default_rng(3)
    lengths = np.arange(batch) % 4
    obs, action = random_batch(rng, batch)
    window = random_window(rng, batch, 3, lengths)
    prediction = first_step(dynamics)(params, window, obs, action, jax.random.key(5), KEY)
    units = chosen_units(prediction)
    for length in range(4):
        counts = np.bincount(units[lengths == length], minlength=4)
        assert counts[length + 1 :].sum() == 0
        expected = 1000 / (length + 1)
        # chi-square with up to 3 degrees of freedom: 16.3 is exceeded once in a thousand keys
        assert ((counts[: length + 1] - expected) ** 2 / expected).sum() < 16.3


def test_draws_follow_the_key():
    valid = jnp.ones((5, 64), bool)
    units = np.stack([draw_unit(valid, jax.random.key(i), shared=False) for i in range(2)])
    assert (units[0] != units[1]).any()
    np.testing.assert_array_equal(units[0], draw_unit(valid, jax.random.key(0), shared=False))


def test_shared_draw_is_one_for_the_batch_and_its_chunks():
    dynamics, params = small(4, shared_unit=True)
    params = nearly_deterministic(params)
    rng = np.random.default_rng(4)
    step = first_step(dynamics)
    seen = []
    for trial in range(12):
        chunks = []
        for chunk in range(2):
            window = random_window(rng, 16, 3)
            keys = jax.random.key(1000 + 2 * trial + chunk), jax.random.key(trial)
            chunks.append(chosen_units(step(params, window, *random_batch(rng, 16), *keys)))
        assert len(np.unique(np.concatenate(chunks))) == 1
        seen.append(chunks[0][0])
    assert set(seen) == {0, 1, 2, 3}


def test_samples_have_the_predicted_variance():
    dynamics, params = small(1)
    rng = np.random.default_rng(6)
    obs, action = random_batch(rng, 1)
    batch = 20_000
    obs, action = np.tile(obs, (batch, 1)), np.tile(action, (batch, 1))
    prediction = first_step(dynamics)(params, random_window(rng, batch, 0), obs, action, KEY, KEY)
    sample = np.concatenate([prediction.next_obs, prediction.reward[:, None]], axis=-1)
    standard = (sample - prediction.means[0]) / np.exp(0.5 * prediction.logvars[0])
    assert np.abs(standard.mean(axis=0)).max() < 4 / np.sqrt(batch)
    np.testing.assert_allclose(np.cov(standard.T), np.eye(OBS_DIM + 1), atol=0.05)


# --- dropout and normaliser ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rollout_dropout", [False, True])
def test_dropout_acts_in_rollouts_only_when_asked(rollout_dropout):
    dynamics, params = small(2, dropout_rate=0.5, rollout_dropout=rollout_dropout)
    rng = np.random.default_rng(7)
    inputs = random_window(rng, 8, 1), *random_batch(rng, 8)
    step = first_step(dynamics)
    means = [step(params, *inputs, jax.random.key(i), KEY).means for i in range(2)]
    assert np.array_equal(*means) is not rollout_dropout


def test_dropout_acts_in_the_loss_but_not_on_heldout_data():
    dynamics, params = small(2, dropout_rate=0.5)
    without, _ = small(2)
    segment = random_segment(np.random.default_rng(8), 8, 2)
    loss = jax.jit(dynamics.loss)
    losses = [loss(params, segment, jax.random.key(i))[0] for i in range(2)]
    assert losses[0] != losses[1]
    errors = [jax.jit(model.validate)(params, segment) for model in (dynamics, without)]
    jax.tree.map(np.testing.assert_array_equal, *errors)


def test_normaliser_standardises_inputs_only():
    """Standardised inputs under an identity normaliser give the same displacement, in the data's units."""
    dynamics, params = small(1)
    rng = np.random.default_rng(9)
    obs, action = random_batch(rng, 8)
    norm = jax.device_get(params.normalizer)
    identity = Normalizer(*(np.full_like(x, i % 2) for i, x in enumerate(norm)))
    standard_obs = (np.asarray(obs) - norm.obs_mean) / norm.obs_std
    standard_action = (np.asarray(action) - norm.action_mean) / norm.action_std
    window = random_window(rng, 8, 0)
    step = first_step(dynamics)
    raw = step(params, window, obs, action, KEY, KEY)
    plain = params._replace(normalizer=identity)
    scaled = step(plain, window, standard_obs, standard_action, KEY, KEY)
    np.testing.assert_allclose(
        raw.means[0, :, :-1] - obs, scaled.means[0, :, :-1] - standard_obs, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(raw.means[0, :, -1], scaled.means[0, :, -1], rtol=1e-5, atol=1e-5)


def test_initial_parameters_keep_the_normaliser_as_given():
    dynamics, params = small(2)
    made = jax.jit(dynamics.init)(KEY, params.normalizer)
    jax.tree.map(np.testing.assert_array_equal, made.normalizer, params.normalizer)
    np.testing.assert_array_equal(made.learned.max_logvar, np.full(OBS_DIM + 1, 0.5, np.float32))
    np.testing.assert_array_equal(made.learned.min_logvar, np.full(OBS_DIM + 1, -10.0, np.float32))


def test_step_refuses_wrong_shapes():
    dynamics, params = small(2)
    rng = np.random.default_rng(10)
    window = random_window(rng, 4, 1)
    obs, action = random_batch(rng, 4)
    step = first_step(dynamics)
    for inputs in (
        (window, obs[:, :2], action),
        (window, obs, action[:1]),
        (random_window(rng, 4, 2), obs, action),
    ):
        with pytest.raises(AssertionError):
            step(params, *inputs, KEY, KEY)
