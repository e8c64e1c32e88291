"""PyTorch's side of the benchmarks computes what the library does: a ratio is worth nothing otherwise."""

import dataclasses
import functools
from collections import deque
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (pip install -e '.[bench]')")

import torch

from adm_jax.config import FitConfig
from adm_jax.config.models import RecurrentConfig
from adm_jax.data.dataset import gather_segments, gather_windows, make_dataset
from adm_jax.dynamics import fitting, uncertainty
from adm_jax.dynamics.adm import make_adm
from adm_jax.dynamics.interface import ModelParams
from adm_jax.envs import termination
from adm_jax.types import Window
from benchmarks.speed import torch_reference, workload
from benchmarks.speed.torch_reference import ADM, Fit, FitSettings, Streams
from benchmarks.speed.workload import ACTION_DIM, OBS_DIM

M, KEY = 4, jax.random.key(0)
CONFIG = RecurrentConfig(max_backtrack=M, model_hidden_dim=16, num_gru_layers=3, num_residual_blocks=2)
DYNAMICS = make_adm(OBS_DIM, ACTION_DIM, CONFIG)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def setup():
    """The built-in dataset, a model with random parameters everywhere, and the same in PyTorch."""
    dataset = make_dataset(workload.load_data(), M)
    rng = np.random.default_rng(0)
    learned = jax.jit(DYNAMICS.init)(KEY, dataset.normalizer).learned
    # spread out, or a swapped gate or a mistaken history would hardly show
    learned = jax.tree.map(lambda x: x + jnp.asarray(0.2 * rng.normal(size=x.shape), jnp.float32), learned)
    return SimpleNamespace(
        dataset=dataset,
        params=ModelParams(learned, dataset.normalizer),
        model=make_model(learned, dataset.normalizer),
        data=torch_reference.to_numpy(dataset),
    )


def make_model(learned, normalizer, dropout=0.0):
    model = ADM(OBS_DIM, ACTION_DIM, CONFIG.model_hidden_dim, normalizer, 3, 2, dropout)
    torch_reference.load_learned(model, learned)
    return model


def assert_close(actual, expected, tolerance=2e-5):
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(
        actual, expected, rtol=tolerance, atol=tolerance * max(1.0, np.abs(expected).max())
    )


def test_parameters_survive_the_way_there_and_back(setup):
    there_and_back = torch_reference.learned_from(setup.model)
    jax.tree.map(np.testing.assert_array_equal, there_and_back, setup.params.learned)
    assert sum(x.numel() for x in setup.model.parameters()) == sum(
        x.size for x in jax.tree.leaves(setup.params.learned)
    )


def test_means_and_logvars_of_every_length_equal(setup):
    """From scratch in PyTorch; in JAX by streams grown from nothing: the oldest is the first state's."""
    index = setup.dataset.train.index[:9]
    segment = gather_segments(setup.dataset, index, M)
    assert segment.valid.all()
    obs, action = np.array(segment.obs), np.array(segment.action)
    empty = Window(segment.obs[:, : M - 1], segment.action[:, : M - 1], jnp.zeros((9, M - 1), bool))
    carry, step = jax.jit(DYNAMICS.begin)(setup.params, empty), jax.jit(DYNAMICS.step)
    for k in range(1, M + 1):
        carry, prediction = step(
            setup.params, carry, segment.obs[:, k - 1], segment.action[:, k - 1], KEY, KEY
        )
        with torch.no_grad():
            mean, logvar = setup.model(torch.from_numpy(obs[:, 0]), torch.from_numpy(action[:, :k]))
        expected = np.asarray(mean) + np.pad(obs[:, 0], ((0, 0), (0, 1)))
        assert_close(expected, prediction.means[k - 1])
        assert_close(logvar, prediction.logvars[k - 1])


def test_held_out_errors_of_every_length_equal(setup):
    index = setup.dataset.holdout.index[: int(setup.dataset.holdout.count[-1])][:20]
    segment = gather_segments(setup.dataset, index, M)
    errors = jax.jit(DYNAMICS.validate)(setup.params, segment)
    obs, action, reward = (np.array(x) for x in (segment.obs, segment.action, segment.reward))
    for k in range(1, M + 1):
        target = torch.from_numpy(np.concatenate([obs[:, k] - obs[:, 0], reward[:, k - 1 : k]], axis=-1))
        with torch.no_grad():
            mean, logvar = setup.model(torch.from_numpy(obs[:, 0]), torch.from_numpy(action[:, :k]))
            nll = torch_reference.negative_log_likelihood(mean, logvar, target)
            mse = torch.nn.functional.mse_loss(mean, target)
        assert_close(nll, errors.nll[0, k - 1])
        assert_close(mse, errors.mse[0, k - 1])


def test_authors_and_fair_scheme_and_the_library_agree_on_the_same_windows(setup):
    """Over more steps than there are streams, with observations and actions given."""
    rng, num_rows = np.random.default_rng(1), 12
    index = setup.data.windows[rng.integers(len(setup.data.windows), size=num_rows)]
    window, obs = gather_windows(setup.dataset, jnp.asarray(index), M)
    assert window.valid.all()
    carry, step = jax.jit(DYNAMICS.begin)(setup.params, window), jax.jit(DYNAMICS.step)
    streams = Streams(setup.model, *(torch.from_numpy(np.array(x)) for x in window[:2]))
    history_obs, history_action = np.array(window.obs), np.array(window.action)
    obs = np.array(obs)
    for _ in range(M + 2):
        action = rng.uniform(-1, 1, (num_rows, ACTION_DIM)).astype(np.float32)
        carry, prediction = step(setup.params, carry, obs, action, KEY, KEY)
        with torch.no_grad():
            fair_mean, fair_logvar = streams.step(torch.from_numpy(obs), torch.from_numpy(action))
            history_obs = np.concatenate([history_obs, obs[:, None]], axis=1)
            history_action = np.concatenate([history_action, action[:, None]], axis=1)
            authors_mean = torch_reference.history_means(setup.model, history_obs, history_action, "cpu")
        assert_close(fair_mean, prediction.means)
        assert_close(fair_logvar, prediction.logvars)
        assert_close(authors_mean, prediction.means)
        expected = uncertainty.std_of_means(prediction)
        assert_close(np.sqrt(np.var(authors_mean[..., :-1], axis=0).mean(axis=-1)), expected)
        history_obs, history_action = history_obs[:, 1:], history_action[:, 1:]
        obs = (obs + 0.1 * rng.normal(size=obs.shape)).astype(np.float32)


SIZES = {"num_starts": 60, "length": 6, "max_backtrack": M, "penalty_coef": 0.7}


def roll_out(setup, model, fair, penalty_coef=SIZES["penalty_coef"], **options):
    """A roll-out of a noisy policy; both schemes draw the same windows, lengths and noise."""
    torch.manual_seed(5)
    rng, sizes = np.random.default_rng(3), {**SIZES, "penalty_coef": penalty_coef}

    def policy(obs):
        return torch.tanh(0.3 * obs[:, :ACTION_DIM] + torch.randn(len(obs), ACTION_DIM))

    if not fair:
        return torch_reference.rollout_authors(model, policy, setup.data, rng, device="cpu", **sizes)
    names = ("obs", "action", "windows")
    tensors = {name: torch.from_numpy(getattr(setup.data, name).copy()) for name in names}
    rows = torch_reference.rollout_fair(model, policy, tensors, rng, **sizes, **options)
    return torch_reference.Rows(*(x.numpy() for x in rows))


@pytest.fixture(scope="module")
def certain(setup):
    """The same with small steps and hardly any noise: rows live on, and a sample is one of the means."""
    learned = setup.params.learned
    head = {"params": {**learned.head["params"]}}
    head["params"]["Dense_0"] = jax.tree.map(lambda x: 0.03 * x, head["params"]["Dense_0"])
    low = jnp.full_like(learned.min_logvar, -40.0)
    learned = learned._replace(head=head, min_logvar=low, max_logvar=low + 0.1)
    return ModelParams(learned, setup.dataset.normalizer), make_model(learned, setup.dataset.normalizer)


def test_whole_rollouts_of_both_schemes_agree(setup):
    authors, fair = roll_out(setup, setup.model, False), roll_out(setup, setup.model, True)
    assert 0 < authors.valid.mean() < 1
    valid = authors.valid
    np.testing.assert_array_equal(valid, fair.valid)
    for name, one, other in zip(authors._fields, authors, fair, strict=True):
        assert one.shape == other.shape, name
        assert_close(one[valid], other[valid], 1e-3)


@pytest.mark.parametrize("fair", [False, True])
def test_rows_are_what_the_library_predicts(setup, certain, fair):
    """Played again in JAX: uncertainties, terminations, penalties, and each sample among the m means."""
    params, model = certain
    rows = roll_out(setup, model, fair)
    rng = np.random.default_rng(3)
    index = setup.data.windows[rng.integers(len(setup.data.windows), size=SIZES["num_starts"])]
    window, obs = gather_windows(setup.dataset, jnp.asarray(index), M)
    np.testing.assert_array_equal(rows.obs[0], obs)
    carry, step = jax.jit(DYNAMICS.begin)(params, window), jax.jit(DYNAMICS.step)
    alive, lengths = np.ones(SIZES["num_starts"], bool), set()
    for i in range(SIZES["length"]):
        carry, prediction = step(params, carry, rows.obs[i], rows.action[i], KEY, KEY)
        reward = rows.reward[i] + SIZES["penalty_coef"] * rows.uncertainty[i]
        sample = np.concatenate([rows.next_obs[i], reward[:, None]], axis=-1)
        off = np.abs(np.asarray(prediction.means) - sample).max(axis=-1)  # [m, B]
        lengths.add(int(off.mean(axis=-1).argmin()))
        assert off.max(axis=-1).min() < 1e-3  # one length for the whole batch
        assert_close(rows.uncertainty[i], uncertainty.std_of_means(prediction), 1e-4)
        np.testing.assert_array_equal(rows.terminated[i], termination.hopper(rows.next_obs[i]))
        np.testing.assert_array_equal(rows.valid[i], alive)
        alive = rows.valid[i] & ~rows.terminated[i]
        if i + 1 < SIZES["length"]:
            np.testing.assert_array_equal(rows.obs[i + 1], rows.next_obs[i])
    assert len(lengths) > 1
    assert 0.1 < rows.valid[-1].mean() < 1


def test_without_a_penalty_the_authors_compute_no_uncertainty(setup):
    rows, penalised = (roll_out(setup, setup.model, False, penalty_coef) for penalty_coef in (0.0, 0.7))
    valid = penalised.valid
    assert_close(rows.reward[valid], (penalised.reward + 0.7 * penalised.uncertainty)[valid], 1e-4)
    assert not rows.uncertainty.any()
    np.testing.assert_array_equal(rows.next_obs[valid], penalised.next_obs[valid])


def test_chunks_change_the_draws_alone(setup):
    whole, chunked = roll_out(setup, setup.model, True), roll_out(setup, setup.model, True, chunk=7)
    assert [x.shape for x in whole] == [x.shape for x in chunked]
    np.testing.assert_array_equal(whole.obs[0], chunked.obs[0])


def test_dropout_is_on_where_the_authors_have_it(setup):
    model = make_model(setup.params.learned, setup.dataset.normalizer, dropout=0.5)
    start, actions = torch.zeros(4, OBS_DIM), torch.zeros(4, 2, ACTION_DIM)
    assert not torch.equal(model(start, actions)[0], model(start, actions)[0])


class Given:
    """A random generator whose integers are given."""

    def __init__(self, *values):
        self.values = deque(values)

    def integers(self, high, size=None):
        value = np.asarray(self.values.popleft())
        assert value.shape == (() if size is None else (size,))
        assert (value < high).all()
        return value


@pytest.mark.parametrize("decay", ["none", "cosine"])
def test_steps_of_a_fit_equal_the_librarys(setup, decay):
    """Loss, gradients, Adam and its decay over minibatches of given lengths and segments."""
    rng, batch_size, num_steps, lengths = np.random.default_rng(2), 16, 4, (2, 4, 1)
    starts = [rng.integers(len(setup.data.train[k - 1]), size=batch_size) for k in lengths]
    given = [value for k, start in zip(lengths, starts, strict=True) for value in (k - 1, start)]
    settings = FitSettings(batch_size, 1e-3, num_steps if decay == "cosine" else None)
    model = make_model(setup.params.learned, setup.dataset.normalizer)
    fit = Fit(model, setup.data, settings, Given(*given), "cpu")
    config = FitConfig(
        fit_learning_rate=1e-3, fit_lr_decay=decay, fit_steps_per_epoch=num_steps, fit_max_epochs=1
    )
    learned = setup.params.learned
    opt_state = fitting._ADAM.init(learned)

    @functools.partial(jax.jit, static_argnums=4)
    def step(learned, opt_state, index, number, k):
        def loss_fn(learned):
            segment = gather_segments(setup.dataset, index, k)
            return DYNAMICS.loss(ModelParams(learned, setup.dataset.normalizer), segment, KEY)[0]

        direction, opt_state = fitting._ADAM.update(jax.grad(loss_fn)(learned), opt_state)
        rate = fitting.learning_rate(number, config)
        return jax.tree.map(lambda p, d: p - rate * d, learned, direction), opt_state

    for number, (k, start) in enumerate(zip(lengths, starts, strict=True)):
        fit.step()
        index = jnp.asarray(setup.data.train[k - 1][start])
        learned, opt_state = step(learned, opt_state, index, jnp.asarray(number), k)
    jax.tree.map(
        functools.partial(assert_close, tolerance=1e-4), torch_reference.learned_from(model), learned
    )
    moved = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), learned, setup.params.learned)
    assert min(jax.tree.leaves(moved)) > 1e-4


def test_the_authors_held_out_error(setup):
    num = [len(starts) for starts in setup.data.holdout]
    rows = [np.random.default_rng(k).integers(num[k], size=256) for k in range(M)]
    error = Fit(setup.model, setup.data, FitSettings(), Given(*rows), "cpu").validate()
    each = []
    for k in range(M):
        segment = gather_segments(setup.dataset, jnp.asarray(setup.data.holdout[k][rows[k]]), k + 1)
        each.append(jax.jit(DYNAMICS.validate)(setup.params, segment).mse[0, k])
    assert error == pytest.approx(float(np.mean(each)), rel=1e-4)


def test_termination_equals_the_librarys():
    rng = np.random.default_rng(0)
    obs = rng.normal([0.7, 0.0, *[0.0] * 9], [0.1, 0.2, *[60.0] * 9], (4000, OBS_DIM)).astype(np.float32)
    obs[:1000, 2:] /= 60.0
    obs[7, 3], obs[8, 4] = np.nan, np.inf
    expected = np.asarray(termination.hopper(obs))
    assert 0 < expected[:1000].mean() < 1
    np.testing.assert_array_equal(torch_reference.hopper_terminated(obs, np), expected)
    np.testing.assert_array_equal(torch_reference.hopper_terminated(torch.from_numpy(obs), torch), expected)


def test_model_of_other_sizes():
    """Nothing rests on three layers and two blocks."""
    config = dataclasses.replace(CONFIG, num_gru_layers=1, num_residual_blocks=1)
    dataset = make_dataset(workload.load_data(), M)
    params = jax.jit(make_adm(OBS_DIM, ACTION_DIM, config).init)(KEY, dataset.normalizer)
    model = ADM(OBS_DIM, ACTION_DIM, config.model_hidden_dim, dataset.normalizer, 1, 1)
    torch_reference.load_learned(model, params.learned)
    jax.tree.map(np.testing.assert_array_equal, torch_reference.learned_from(model), params.learned)
