"""Fitting: it reaches a known optimum, stops when it should, and members do not disturb each other."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import FitConfig
from adm_jax.config.models import RecurrentConfig
from adm_jax.data.dataset import make_dataset
from adm_jax.dynamics import fitting
from adm_jax.dynamics.adm import make_adm
from adm_jax.dynamics.interface import ModelParams
from adm_jax.types import Segment
from tests.dynamics.random_walk import OBS_NOISE, REWARD_NOISE, keys_of, random_walk, trees_equal

M = 2
MODEL = RecurrentConfig(max_backtrack=M, model_hidden_dim=16, num_gru_layers=1, num_residual_blocks=1)
CONFIG = FitConfig(
    fit_batch_size=64,
    fit_learning_rate=3e-3,
    fit_lr_decay="none",
    fit_steps_per_epoch=100,
    fit_max_epochs=18,
    fit_patience=1000,
    holdout_fraction=0.2,
)
OBS_DIM, ACTION_DIM = 2, 1


@pytest.fixture(scope="module")
def problem():
    """Dynamics, data, held-out segments, and an epoch compiled for one member."""
    dynamics = make_adm(OBS_DIM, ACTION_DIM, MODEL)
    dataset = make_dataset(random_walk(), M, holdout_fraction=CONFIG.holdout_fraction)
    holdout = fitting.holdout_segments(dataset, M, CONFIG)
    return dynamics, dataset, holdout, jax.jit(functools.partial(fitting.fit_epoch, dynamics, CONFIG))


@pytest.fixture(scope="module")
def fitted(problem):
    """All states and metrics of one fit, epoch by epoch."""
    dynamics, dataset, holdout, epoch = problem
    states = [jax.jit(functools.partial(fitting.init, dynamics))(dataset, jax.random.key(0))]
    metrics = []
    while states[-1].active:
        state, measured = epoch(states[-1], dataset, holdout, keys_of(len(states)))
        states.append(state)
        metrics.append(jax.device_get(measured))
    return states, metrics


def best_mse():
    """Of the optimal prediction, per k: mean over displacement and reward."""
    return np.array([(2 * k * OBS_NOISE**2 + REWARD_NOISE**2) / 3 for k in (1, 2)])


def best_nll():
    """Of the optimal prediction, per k: one plus the mean of the logarithms of the variances."""
    return np.array([1 + (2 * math.log(k * OBS_NOISE**2) + math.log(REWARD_NOISE**2)) / 3 for k in (1, 2)])


def test_reaches_the_known_optimum(problem, fitted):
    """Held-out errors come down to those of the true model, for every k, and not below them."""
    dynamics, dataset, holdout, _ = problem
    states, metrics = fitted
    params = fitting.best_params(dynamics, states[-1], dataset, holdout)
    errors = jax.jit(dynamics.validate)(params, holdout)
    # 1,200 held-out starts, three squared errors each: a standard error of 2.4 % (overlaps aside)
    np.testing.assert_allclose(errors.mse[0], best_mse(), rtol=0.06)
    np.testing.assert_allclose(errors.nll[0], best_nll(), atol=0.06)
    first = jax.jit(dynamics.validate)(ModelParams(states[0].learned, dataset.normalizer), holdout)
    assert (errors.mse < 0.5 * first.mse).all()
    assert metrics[-1]["model/train_nll"] < metrics[0]["model/train_nll"]


def test_metrics_are_the_current_parameters_errors(problem, fitted):
    dynamics, dataset, holdout, _ = problem
    states, metrics = fitted
    errors = jax.jit(dynamics.validate)(ModelParams(states[1].learned, dataset.normalizer), holdout)
    np.testing.assert_allclose(metrics[0]["model/holdout_nll_per_k"], errors.nll[0], rtol=1e-5)
    np.testing.assert_allclose(metrics[0]["model/holdout_mse_per_k"], errors.mse[0], rtol=1e-5)
    np.testing.assert_allclose(metrics[0]["model/holdout_nll"], errors.nll.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics[0]["model/holdout_mse"], errors.mse.mean(), rtol=1e-5)


def test_the_best_parameters_are_those_of_the_lowest_heldout_error(problem, fitted):
    states, metrics = fitted
    errors = [m["model/holdout_nll"] for m in metrics]
    assert np.diff(errors).max() > 0  # it went up at times, so keeping the last would be wrong
    for i in range(1, len(states)):
        best = int(np.argmin(errors[:i])) + 1
        assert states[i].best_error == errors[best - 1]
        assert trees_equal(states[i].best, states[best].learned)
        assert states[i].epochs_since_best == i - best
        assert states[i].epoch == i


def test_the_fit_ends_after_its_last_epoch(problem, fitted):
    states, _ = fitted
    assert problem[3]._cache_size() == 1  # compiled once, for the first epoch and the later ones
    assert [bool(state.active) for state in states] == [True] * CONFIG.fit_max_epochs + [False]


def test_the_normaliser_is_the_datas_and_not_learned(problem, fitted):
    dynamics, dataset, holdout, _ = problem
    state = fitted[0][-1]
    params = fitting.best_params(dynamics, state, dataset, holdout)
    assert trees_equal(params.normalizer, dataset.normalizer)
    # Adam keeps two moments of every learned leaf, and nothing else but its counter
    assert len(jax.tree.leaves(state.opt_state)) == 2 * len(jax.tree.leaves(params.learned)) + 1


def test_the_same_epoch_twice_is_bitwise_equal(problem, fitted):
    _, dataset, holdout, epoch = problem
    keys = keys_of(2)
    assert trees_equal(epoch(fitted[0][1], dataset, holdout, keys)[0], fitted[0][2])
    other = keys._replace(epoch=keys.shared, shared=keys.epoch)
    assert not trees_equal(epoch(fitted[0][1], dataset, holdout, other)[0].learned, fitted[0][2].learned)


EPOCH_KEY_OF_EACH = fitting.FitKeys(0, None, None)
SHORT = dataclasses.replace(CONFIG, fit_steps_per_epoch=5, fit_patience=2, fit_learning_rate=1e-3)


@pytest.fixture(scope="module")
def short_epoch(problem):
    return jax.jit(functools.partial(fitting.fit_epoch, problem[0], SHORT))


@pytest.fixture(scope="module")
def members(problem, fitted, short_epoch):
    """Two members that go on and one that has stopped: before and after one epoch together."""
    dynamics, dataset, holdout, _ = problem
    stopped = fitted[0][3]._replace(active=jnp.bool_(False))
    fresh = jax.jit(functools.partial(fitting.init, dynamics))(dataset, jax.random.key(1))
    before = [fitted[0][0], fresh, stopped]
    keys = fitting.FitKeys(jax.random.split(jax.random.key(3), 3), jax.random.key(99), jax.random.key(4))
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *before)
    epoch = jax.jit(jax.vmap(short_epoch, in_axes=(0, None, None, EPOCH_KEY_OF_EACH)))
    after, metrics = jax.device_get(epoch(stacked, dataset, holdout, keys))
    return before, [jax.tree.map(lambda x, i=i: x[i], after) for i in range(3)], metrics, keys


def test_members_under_vmap_equal_each_alone(problem, short_epoch, members):
    """Five steps: rounding only."""
    _, dataset, holdout, _ = problem
    before, after, _, keys = members
    for i in range(2):
        alone, _ = short_epoch(before[i], dataset, holdout, keys._replace(epoch=keys.epoch[i]))
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
            after[i].learned,
            alone.learned,
        )
    assert not trees_equal(after[0].learned, before[0].learned)
    assert not trees_equal(after[0].learned, after[1].learned)


def test_members_under_vmap_run_one_length_per_minibatch(problem, short_epoch, members):
    """The choice of the length stays a branch: batched, it would run all m lengths and select one."""
    _, dataset, holdout, _ = problem
    before, _, _, keys = members
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *before)
    epoch = jax.vmap(short_epoch, in_axes=(0, None, None, EPOCH_KEY_OF_EACH))
    program = str(jax.make_jaxpr(epoch)(stacked, dataset, holdout, keys))
    assert program.count("= cond[") == 1


def test_a_stopped_member_no_longer_changes(problem, short_epoch, members):
    """Bit for bit, alone and beside members that go on; its metrics are NaN."""
    _, dataset, holdout, _ = problem
    before, after, metrics, keys = members
    assert trees_equal(after[2], before[2])
    assert after[0].epoch == before[0].epoch + 1
    for value in metrics.values():
        assert np.isfinite(value[:2]).all()
        assert np.isnan(value[2]).all()
    alone, metrics = short_epoch(before[2], dataset, holdout, keys._replace(epoch=keys.epoch[2]))
    assert trees_equal(alone, before[2])
    assert all(np.isnan(value).all() for value in metrics.values())


def test_one_after_the_other_a_stopped_member_rests_and_the_others_are_what_they_are_alone(
    problem, short_epoch, members
):
    _, dataset, holdout, _ = problem
    before, _, metrics, keys = members

    def one(member):
        state, key = member
        fit = functools.partial(short_epoch, dataset=dataset, holdout=holdout, keys=keys._replace(epoch=key))
        return fitting.epoch_unless_stopped(fit, state)

    stacked = jax.tree.map(lambda *x: jnp.stack(x), *before)
    mapped, told = jax.jit(lambda members: jax.lax.map(one, members))((stacked, keys.epoch))
    assert trees_equal(jax.tree.map(lambda x: x[2], mapped), before[2])
    for name, values in told.items():
        np.testing.assert_allclose(values, metrics[name], rtol=1e-4, err_msg=name)  # the third's are NaN
    # nothing of an epoch stands outside the branch of those that go on
    outermost = {
        equation.primitive.name for equation in jax.make_jaxpr(one)((before[0], keys.epoch[0])).jaxpr.eqns
    }
    assert "cond" in outermost
    assert not outermost & {"jit", "pjit", "scan", "dot_general"}


def test_stops_when_patience_is_out(problem, fitted, short_epoch):
    _, dataset, holdout, _ = problem
    # an error that no epoch reaches
    state = fitted[0][0]._replace(best_error=jnp.float32([-1e9]))
    active = []
    for i in range(3):
        before = state
        state, _ = short_epoch(state, dataset, holdout, keys_of(i))
        active.append(bool(state.active))
        assert trees_equal(state.best, before.best)
    assert active == [True, False, False]
    assert state.epoch == 2


def test_a_fit_that_diverges_keeps_its_best_parameters(problem, fitted, short_epoch):
    _, dataset, holdout, _ = problem
    state = fitted[0][1]
    broken = state._replace(learned=jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), state.learned))
    after, metrics = short_epoch(broken, dataset, holdout, keys_of(1))
    assert np.isnan(metrics["model/holdout_nll"])
    assert trees_equal(after.best, state.best)
    assert after.best_error == state.best_error
    assert after.epochs_since_best == 1


def test_a_fit_goes_on_from_its_best_and_not_from_what_broke(fitted, short_epoch, problem):
    _, dataset, holdout, _ = problem

    def broken(tree):
        return jax.tree.map(lambda x: jnp.full_like(x, jnp.nan) if x.dtype == jnp.float32 else x, tree)

    state = fitted[0][2]
    state = state._replace(learned=broken(state.learned))
    again = fitting.continued(state)
    assert trees_equal(
        (again.learned, again.best, again.opt_state), (state.best, state.best, state.opt_state)
    )
    assert (again.active, again.epoch, again.best_error) == (True, 0, np.inf)

    spoilt = again._replace(opt_state=broken(again.opt_state))
    for state, goes_on in ((fitting.continued(spoilt), True), (spoilt, False)):
        after, _ = short_epoch(state, dataset, holdout, keys_of(1))
        assert np.isfinite(after.best_error) == goes_on


def test_learning_rate_schedules():
    total = CONFIG.fit_max_epochs * CONFIG.fit_steps_per_epoch
    cosine = dataclasses.replace(CONFIG, fit_lr_decay="cosine")
    steps = np.array([0, total // 4, total // 2, total, 2 * total], np.int32)
    rates = [float(fitting.learning_rate(jnp.asarray(step), cosine)) for step in steps]
    shares = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0, 0.0]
    np.testing.assert_allclose(rates, [3e-3 * share for share in shares], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(fitting.learning_rate(jnp.asarray(steps[3]), CONFIG), 3e-3, rtol=1e-6)


def test_heldout_segments_are_heldout_and_cover_every_length(problem):
    _, dataset, _, _ = problem
    few = dataclasses.replace(CONFIG, holdout_batch_size=50)
    segment = fitting.holdout_segments(dataset, M, few)
    assert segment.obs.shape == (50, M + 1, OBS_DIM)
    assert segment.valid.any(axis=0).all()
    held = np.asarray(dataset.holdout.index)
    known = {row.tobytes() for row in np.asarray(dataset.transitions.obs)[held]}
    starts = [row.tobytes() for row in np.asarray(segment.obs[:, 0])]
    assert len(set(starts)) == 50  # none twice
    assert set(starts) <= known
    again = fitting.holdout_segments(dataset, M, few)
    assert trees_equal(segment, again)


@pytest.mark.parametrize("max_backtrack", [1, 5])
def test_heldout_starts_are_the_same_for_every_model(problem, max_backtrack):
    """Whatever its longest segment: errors of different models compare."""
    few = dataclasses.replace(CONFIG, holdout_batch_size=50)
    other = make_dataset(random_walk(), max_backtrack, holdout_fraction=CONFIG.holdout_fraction)
    ours, theirs = (fitting.holdout_segments(dataset, 10, few) for dataset in (problem[1], other))
    same = {row.tobytes() for row in np.asarray(ours.obs[:, 0])}
    same &= {row.tobytes() for row in np.asarray(theirs.obs[:, 0])}
    assert len(same) >= 49  # but for the one that has room for the longest


# --- one k per minibatch against all k in one pass ----------------------------------------------------------


@pytest.fixture(scope="module")
def all_lengths(fitted, problem):
    """The model's loss over all k, parameters off their initial values, and a segment."""
    dynamics = make_adm(OBS_DIM, ACTION_DIM, dataclasses.replace(MODEL, backtrack_sampling="all"))
    rng = np.random.default_rng(5)
    learned = fitted[0][0].learned
    learned = jax.tree.map(lambda x: np.asarray(x) + np.float32(0.3 * rng.normal(size=x.shape)), learned)
    shape = (16, M)
    segment = Segment(
        rng.normal(size=(16, M + 1, OBS_DIM)),
        rng.uniform(-1, 1, (*shape, ACTION_DIM)),
        rng.normal(size=shape),
        np.ones(shape, bool),
    )
    segment = jax.tree.map(lambda x: jnp.asarray(x, bool if x.dtype == bool else jnp.float32), segment)
    return dynamics, ModelParams(learned, problem[1].normalizer), segment


def test_all_lengths_weigh_as_much_as_one_at_a_time(problem, all_lengths):
    """Eq. 2: the loss over all k is the mean of the losses of each k."""
    dynamics, params, segment = all_lengths
    key = jax.random.key(0)
    one_loss = jax.jit(problem[0].loss)
    each = []
    for k in range(1, M + 1):
        part = Segment(
            segment.obs[:, : k + 1], segment.action[:, :k], segment.reward[:, :k], segment.valid[:, :k]
        )
        each.append(one_loss(params, part, key)[0])
    assert abs(each[0] - each[1]) > 0.1  # else any weights would do
    np.testing.assert_allclose(jax.jit(dynamics.loss)(params, segment, key)[0], np.mean(each), rtol=1e-5)


def test_each_length_is_normalised_by_its_own_count(problem, all_lengths):
    """Three of sixteen rows are long enough for k = 2: they weigh as much as all sixteen at k = 1."""
    dynamics, params, segment = all_lengths
    key = jax.random.key(0)
    valid = segment.valid.at[3:, 1].set(False)
    one_loss = jax.jit(problem[0].loss)
    short = one_loss(
        params, Segment(segment.obs[:, :2], segment.action[:, :1], segment.reward[:, :1], valid[:, :1]), key
    )
    long = one_loss(params, jax.tree.map(lambda x: x[:3], segment), key)
    loss, _ = jax.jit(dynamics.loss)(params, segment._replace(valid=valid), key)
    np.testing.assert_allclose(loss, (short[0] + long[0]) / 2, rtol=1e-5)


def test_padding_has_no_influence(all_lengths):
    """Neither on the loss nor on its gradient, nor on the held-out errors."""
    dynamics, params, segment = all_lengths
    segment = segment._replace(valid=segment.valid.at[5:, 1].set(False))
    padded = segment._replace(
        obs=segment.obs.at[5:, 2].set(50.0),
        action=segment.action.at[5:, 1].set(-9.0),
        reward=segment.reward.at[5:, 1].set(70.0),
    )

    @jax.jit
    def measure(segment):
        def loss_fn(learned):
            return dynamics.loss(params._replace(learned=learned), segment, jax.random.key(0))[0]

        return jax.value_and_grad(loss_fn)(params.learned), dynamics.validate(params, segment)

    assert trees_equal(measure(segment), measure(padded))
    touched = segment._replace(reward=segment.reward.at[0, 1].add(1.0))
    assert not trees_equal(measure(segment), measure(touched))


def test_all_lengths_in_one_pass_learn_too(all_lengths, problem, fitted):
    dynamics, (_, dataset, holdout, _) = all_lengths[0], problem
    epoch = jax.jit(functools.partial(fitting.fit_epoch, dynamics, CONFIG))
    state = fitted[0][0]
    for i in range(6):
        state, metrics = epoch(state, dataset, holdout, keys_of(i))
    np.testing.assert_allclose(metrics["model/holdout_nll_per_k"], best_nll(), atol=0.08)


def test_length_without_held_out_segments_does_not_count(problem):
    """Held-out episodes too short for the longest k: it has no error, and selection goes by the others."""
    dynamics, dataset, holdout, epoch = problem
    short = holdout._replace(valid=holdout.valid.at[:, -1].set(False))
    state = jax.jit(functools.partial(fitting.init, dynamics))(dataset, jax.random.key(0))
    state, metrics = epoch(state, dataset, short, keys_of(1))
    assert np.isnan(metrics["model/holdout_nll_per_k"][-1])
    assert metrics["model/holdout_nll"] == metrics["model/holdout_nll_per_k"][0] == state.best_error
