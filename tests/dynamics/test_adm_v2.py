"""ADM-v2: equal to PyTorch, and its parallel roll-out equal to encoding every stream anew; its switches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config.models import AnyStepV2Config, RecurrentConfig
from adm_jax.dynamics.adm import make_adm
from adm_jax.dynamics.adm_v2 import make_adm_v2
from adm_jax.dynamics.interface import ModelParams
from adm_jax.types import InputError, Normalizer, Segment, Window
from tests.dynamics import by_hand
from tests.dynamics.random_walk import assert_learns_one_step_prediction
from tests.dynamics.schedule import Schedule

GOLDEN = AnyStepV2Config(max_backtrack=5, model_hidden_dim=12)
OBS_DIM, ACTION_DIM = 3, 2
SMALL = AnyStepV2Config(model_hidden_dim=8, num_gru_layers=2, num_residual_blocks=1, num_encoder_blocks=1)
KEY = jax.random.key(0)


def random_params(config, seed=0):
    """Random everywhere, with a normaliser that matters."""
    rng = np.random.default_rng(seed)
    bounds = ((OBS_DIM, -1, 1), (OBS_DIM, 0.5, 2), (ACTION_DIM, -0.3, 0.3), (ACTION_DIM, 0.3, 1))
    normalizer = Normalizer(*(jnp.asarray(rng.uniform(a, b, dim), jnp.float32) for dim, a, b in bounds))
    learned = jax.jit(make_adm_v2(OBS_DIM, ACTION_DIM, config).init)(KEY, normalizer).learned
    learned = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.5 * rng.normal(size=x.shape)), learned)
    return ModelParams(learned, normalizer)


def normal(rng, *shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def roll_out(dynamics, params, window, obs, actions):
    """Observed states [T, B, D], predictions [T, ...], of sampled trajectories."""

    @jax.jit
    def run(window, obs):
        def body(state, xs):
            carry, obs = state
            carry, prediction = dynamics.step(params, carry, obs, xs[0], xs[1], xs[1])
            # the model's own states without their growth: what counts here is which stream saw which
            return (carry, jnp.tanh(prediction.next_obs)), (obs, prediction)

        xs = (actions, jax.random.split(KEY, len(actions)))
        return jax.lax.scan(body, (dynamics.begin(params, window), obs), xs)[1]

    return jax.device_get(run(window, obs))


# --- equal to PyTorch ---------------------------------------------------------------------------------------


def test_unrolled_predictions_equal_pytorch(golden_v2):
    """Row by row and length by length, through the held-out errors."""
    golden, dynamics = golden_v2, make_adm_v2(OBS_DIM, ACTION_DIM, GOLDEN)
    rows = jax.tree.map(
        lambda x: x[:, None], golden.segment._replace(valid=jnp.ones_like(golden.segment.valid))
    )
    errors = jax.jit(jax.vmap(dynamics.validate, in_axes=(None, 0)))(golden.params, rows)
    displacement = golden.obs[:, 1:] - golden.obs[:, :-1]
    target = np.concatenate([displacement, golden.reward[..., None]], axis=-1).transpose(1, 0, 2)
    squared = (golden.mean - target) ** 2
    nll = (squared * np.exp(-golden.logvar) + golden.logvar).mean(axis=-1)
    np.testing.assert_allclose(errors.mse[:, 0].T, squared.mean(axis=-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(errors.nll[:, 0].T, nll, rtol=1e-5, atol=1e-5)


def test_streams_begun_from_a_window_equal_pytorch(golden_v2):
    golden, dynamics = golden_v2, make_adm_v2(OBS_DIM, ACTION_DIM, GOLDEN)
    window = Window(golden.segment.obs[:, :4], golden.segment.action[:, :4], jnp.ones((7, 4), bool))
    carry = jax.jit(dynamics.begin)(golden.params, window)
    last_obs, last_action = golden.segment.obs[:, 4], golden.segment.action[:, 4]
    _, prediction = jax.jit(dynamics.step)(golden.params, carry, last_obs, last_action, KEY, KEY)
    expected = golden.window_mean + np.pad(golden.obs[:, 4], ((0, 0), (0, 1)))
    np.testing.assert_allclose(prediction.means, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(prediction.logvars, golden.window_logvar, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", ["one", "all"])
def test_loss_and_gradients_equal_pytorch(golden_v2, sampling):
    golden = golden_v2
    dynamics = make_adm_v2(OBS_DIM, ACTION_DIM, dataclasses.replace(GOLDEN, backtrack_sampling=sampling))
    segment = golden.segment
    if sampling == "one":
        k = int(golden.one_backtrack)
        segment = Segment(
            segment.obs[:, : k + 1], segment.action[:, :k], segment.reward[:, :k], jnp.ones((7, k), bool)
        )

    def loss_fn(learned):
        return dynamics.loss(ModelParams(learned, golden.params.normalizer), segment, KEY)[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(golden.params.learned)
    np.testing.assert_allclose(loss, getattr(golden, f"loss_{sampling}"), rtol=1e-5)

    def check(actual, expected):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()))

    jax.tree.map(check, grads, getattr(golden, f"grad_{sampling}"))
    assert all(np.abs(leaf).max() > 1e-4 for leaf in jax.tree.leaves(grads))


# --- the parallel roll-out ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("m", "num_streams"), [(1, None), (3, None), (5, None), (5, 4), (5, 2), (3, 1)])
def test_parallel_streams_equal_encoding_each_anew_for_50_steps(m, num_streams):
    """From full windows, short ones and none at all; every stream's age, mean and log-variance."""
    batch, num_steps, streams = 3, 50, num_streams or m
    config = dataclasses.replace(SMALL, max_backtrack=m, num_streams=num_streams)
    dynamics, params = make_adm_v2(OBS_DIM, ACTION_DIM, config), random_params(SMALL)
    rng = np.random.default_rng(m)
    lengths = np.array([m - 1, 0, (m - 1) // 2])
    window = Window(
        normal(rng, batch, m - 1, OBS_DIM),
        normal(rng, batch, m - 1, ACTION_DIM),
        jnp.asarray(np.arange(m - 1)[None] >= m - 1 - lengths[:, None]),
    )
    actions = normal(rng, num_steps, batch, ACTION_DIM)
    observed, predictions = roll_out(dynamics, params, window, normal(rng, batch, OBS_DIM), actions)
    for row in range(batch):
        begin = m - 1 - lengths[row]
        states, taken = (
            list(np.asarray(window.obs[row, begin:])),
            list(np.asarray(window.action[row, begin:])),
        )
        schedule = Schedule(m, streams, lengths[row])
        for t in range(num_steps):
            states.append(observed[t, row])
            taken.append(np.asarray(actions[t, row]))
            ages = schedule.step()
            assert max(ages) <= m
            np.testing.assert_array_equal(predictions.valid[t, :, row], np.arange(streams) < len(ages))
            for i, age in enumerate(ages):
                expected = by_hand.adm_v2(params, states[-age], np.stack(taken[-age:]), states[-1])
                actual = predictions.means[t, i, row], predictions.logvars[t, i, row]
                np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("num_streams", [1, 2, 4])
def test_a_stream_lives_m_steps(num_streams):
    """What the test above takes from the schedule: no stream ever reads more than m actions, each reads m."""
    m, schedule = 5, Schedule(5, num_streams, 4)
    ages = [schedule.step() for _ in range(50)]
    assert max(max(step) for step in ages) == m
    oldest = np.array([step[-1] for step in ages])
    assert (oldest[np.flatnonzero(np.diff(oldest) < 1)] == m).all()  # replaced at age m, never earlier


def test_more_streams_than_lengths_are_refused():
    with pytest.raises(InputError, match="num_streams: 6 is more than max_backtrack=5"):
        AnyStepV2Config(num_streams=6)


# --- the switches -------------------------------------------------------------------------------------------


def test_with_every_switch_at_adm_it_is_adm():
    """The same parameters, to the same predictions: what differs is what the switches say."""
    options = {"max_backtrack": 4, "model_hidden_dim": 8, "num_gru_layers": 2, "num_residual_blocks": 2}
    config = AnyStepV2Config(
        **options,
        state_input="duplicated",
        displacement="start",
        decoder_input="last",
        logvar_bound_coef=RecurrentConfig.logvar_bound_coef,
    )
    v2, adm = (
        make_adm_v2(OBS_DIM, ACTION_DIM, config),
        make_adm(OBS_DIM, ACTION_DIM, RecurrentConfig(**options)),
    )
    params = random_params(config)
    rng = np.random.default_rng(1)
    segment = Segment(
        normal(rng, 6, 5, OBS_DIM), normal(rng, 6, 4, ACTION_DIM), normal(rng, 6, 4), jnp.ones((6, 4), bool)
    )
    for ours, theirs in zip(
        (v2.loss(params, segment, KEY)[0], *v2.validate(params, segment)),
        (adm.loss(params, segment, KEY)[0], *adm.validate(params, segment)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    window = Window(normal(rng, 6, 3, OBS_DIM), normal(rng, 6, 3, ACTION_DIM), jnp.ones((6, 3), bool))
    inputs = window, normal(rng, 6, OBS_DIM), normal(rng, 8, 6, ACTION_DIM)
    observed, ours = roll_out(v2, params, *inputs)
    also_observed, theirs = roll_out(adm, params, *inputs)
    np.testing.assert_allclose(observed, also_observed, rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), ours, theirs)


@pytest.mark.parametrize("state_input", ["encoded", "duplicated"])
@pytest.mark.parametrize("displacement", ["latest", "start"])
@pytest.mark.parametrize("decoder_input", ["pair", "last"])
@pytest.mark.parametrize("num_streams", [None, 2])
def test_fitting_and_rolling_out_mean_the_same(state_input, displacement, decoder_input, num_streams):
    """On recorded states the stream of age k predicts what the segment's k-th error is measured of."""
    config = dataclasses.replace(
        SMALL,
        max_backtrack=3,
        state_input=state_input,
        displacement=displacement,
        decoder_input=decoder_input,
        num_streams=num_streams,
    )
    dynamics, params = make_adm_v2(OBS_DIM, ACTION_DIM, config), random_params(config)
    rng = np.random.default_rng(2)
    segment = Segment(
        normal(rng, 1, 4, OBS_DIM), normal(rng, 1, 3, ACTION_DIM), normal(rng, 1, 3), jnp.ones((1, 3), bool)
    )
    errors = jax.jit(dynamics.validate)(params, segment)
    empty = Window(jnp.zeros((1, 2, OBS_DIM)), jnp.zeros((1, 2, ACTION_DIM)), jnp.zeros((1, 2), bool))
    carry, step = dynamics.begin(params, empty), jax.jit(dynamics.step)
    for k in range(1, 4):
        carry, prediction = step(params, carry, segment.obs[:, k - 1], segment.action[:, k - 1], KEY, KEY)
        oldest = int(prediction.valid[:, 0].sum()) - 1  # begun at the segment's first state, if k streams fit
        if num_streams is None or k == 1:
            assert oldest == k - 1
        target = np.append(segment.obs[0, k], segment.reward[0, k - 1])
        mse = np.mean((np.asarray(prediction.means[oldest, 0]) - target) ** 2)
        np.testing.assert_allclose(mse, errors.mse[0, k - 1], rtol=1e-4)


def test_encoder_depth_is_a_setting():
    shallow, deep = (
        random_params(dataclasses.replace(SMALL, num_encoder_blocks=depth)).learned.encoder
        for depth in (0, 2)
    )
    names = set(deep["params"]) - set(shallow["params"])
    assert names == {"ResidualBlock_0", "ResidualBlock_1"}


def test_parameters_are_as_many_as_in_the_authors_network():
    """About 1.06 million for Hopper."""
    config = AnyStepV2Config()
    zeros = Normalizer(*(jnp.zeros(dim) for dim in (11, 11, 3, 3)))
    learned = jax.eval_shape(make_adm_v2(11, 3, config).init, KEY, zeros).learned
    encoder = 11 * 200 + 200 + 3 * (200 * 200 + 3 * 200) + 200 * 600 + 600
    gru = 3 * 200 * 3 + 5 * 3 * 200 * 200 + 3 * 2 * 600
    head = 400 * 200 + 200 + 3 * (200 * 200 + 3 * 200) + 200 * 24 + 24
    assert sum(leaf.size for leaf in jax.tree.leaves(learned)) == encoder + gru + head + 2 * 12


# --- it learns ----------------------------------------------------------------------------------------------


def test_learns_a_random_walk_to_the_known_optimum():
    """The step taken from the latest state, which it does not see, has one step's noise at every length."""
    model = dataclasses.replace(SMALL, max_backtrack=2, model_hidden_dim=16)
    assert_learns_one_step_prediction(make_adm_v2(2, 1, model))
