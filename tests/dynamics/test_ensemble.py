"""The probabilistic ensemble: equal to PyTorch, fitted network by network, elites chosen by their errors."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import FitConfig
from adm_jax.config.models import EnsembleConfig
from adm_jax.data.dataset import make_dataset, sample_segments
from adm_jax.dynamics import fitting
from adm_jax.dynamics.ensemble import EnsembleParams, make_ensemble
from adm_jax.dynamics.interface import ModelParams
from adm_jax.types import InputError, Normalizer, Segment
from tests.dynamics.random_walk import keys_of, random_walk, trees_equal

NETWORKS, LAYERS = 3, 3
GOLDEN = EnsembleConfig(
    num_networks=NETWORKS,
    num_elites=2,
    num_hidden_layers=2,
    model_hidden_dim=9,
    weight_decays=(0.03, 0.05, 0.07),
)


def from_torch(arrays, prefix):
    def stacked(name):
        return jnp.stack([jnp.asarray(arrays[f"{prefix}/{i}.{name}"]) for i in range(NETWORKS)])

    weights = tuple(stacked(f"linears.{i}.weight").transpose(0, 2, 1) for i in range(LAYERS))
    biases = tuple(stacked(f"linears.{i}.bias") for i in range(LAYERS))
    return EnsembleParams(weights, biases, stacked("min_logvar"), stacked("max_logvar"))


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent.parent / "golden" / "ensemble.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def golden_params(golden):
    names = ("obs_mean", "obs_std", "action_mean", "action_std")
    return ModelParams(from_torch(golden, "param"), Normalizer(*(jnp.asarray(golden[n]) for n in names)))


@pytest.fixture(scope="module")
def golden_segment(golden):
    obs, action, reward = (jnp.asarray(golden[name]) for name in ("obs", "action", "reward"))
    return Segment(obs, action, reward, jnp.ones(reward.shape, bool))


def test_predictions_equal_pytorch(golden, golden_params, golden_segment):
    """Every network's, at the same states."""
    dynamics = make_ensemble(3, 2, GOLDEN)
    obs, action = golden_segment.obs[0, :, 0], golden_segment.action[0, :, 0]
    _, prediction = jax.jit(dynamics.step)(
        golden_params, (), obs, action, *jax.random.split(jax.random.key(0))
    )
    expected = golden["mean"] + np.concatenate([golden["obs"][0, :, 0], np.zeros((7, 1))], -1)
    np.testing.assert_allclose(prediction.means, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(prediction.logvars, golden["logvar"], rtol=1e-5, atol=1e-5)
    assert prediction.valid.all()


def test_loss_and_gradients_equal_pytorch(golden, golden_params, golden_segment):
    dynamics = make_ensemble(3, 2, GOLDEN)

    def loss_fn(learned):
        return dynamics.loss(golden_params._replace(learned=learned), golden_segment, jax.random.key(0))[0]

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(golden_params.learned)
    np.testing.assert_allclose(loss, golden["loss"], rtol=1e-5)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5),
        grads,
        from_torch(golden, "grad"),
    )


def test_heldout_errors_are_each_networks_own(golden, golden_params, golden_segment):
    dynamics = make_ensemble(3, 2, GOLDEN)
    segment = jax.tree.map(lambda x: x[0], golden_segment)
    segment = segment._replace(valid=segment.valid.at[4:].set(False))  # padding counts for nothing
    errors = jax.jit(dynamics.validate)(golden_params, segment)
    target = np.concatenate([golden["obs"][0, :, 1] - golden["obs"][0, :, 0], golden["reward"][0]], -1)
    squared = (golden["mean"] - target[None]) ** 2
    nll = squared * np.exp(-golden["logvar"]) + golden["logvar"]
    assert errors.mse.shape == errors.nll.shape == (NETWORKS, 1)
    np.testing.assert_allclose(errors.mse[:, 0], squared[:, :4].mean(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(errors.nll[:, 0], nll[:, :4].mean(axis=(1, 2)), rtol=1e-5)


def test_the_networks_with_the_lowest_errors_come_first(golden_params, golden_segment):
    dynamics = make_ensemble(3, 2, GOLDEN)
    segment = jax.tree.map(lambda x: x[0], golden_segment)
    params = golden_params._replace(learned=jax.tree.map(lambda x: x[::-1], golden_params.learned))
    errors = jax.jit(dynamics.validate)(params, segment)
    ordered = jax.jit(dynamics.finalise)(params, segment)
    order = np.argsort(errors.mse[:, 0])
    assert not np.array_equal(order, np.arange(NETWORKS))
    assert trees_equal(ordered.learned, jax.tree.map(lambda x: x[order], params.learned))
    # one that diverged comes last
    broken = jax.tree.map(lambda x: x.at[int(order[0])].set(jnp.nan), params.learned)
    ordered = jax.jit(dynamics.finalise)(params._replace(learned=broken), segment)
    assert all(np.isnan(leaf[-1]).all() for leaf in jax.tree.leaves(ordered.learned))
    assert all(np.isfinite(leaf[:-1]).all() for leaf in jax.tree.leaves(ordered.learned))


def test_one_elite_is_drawn_for_each_row_or_for_all(golden_params):
    """The sample lies at the drawn network's mean when the networks are nearly certain; two are elites."""
    certain = golden_params.learned
    certain = certain._replace(min_logvar=certain.min_logvar - 40.0, max_logvar=certain.max_logvar - 40.0)
    params = golden_params._replace(learned=certain)
    obs, action = jnp.ones((3_000, 3)), jnp.zeros((3_000, 2))
    keys = jax.random.split(jax.random.key(1))
    for shared in (False, True):
        dynamics = make_ensemble(3, 2, dataclasses.replace(GOLDEN, shared_unit=shared))
        _, prediction = jax.jit(dynamics.step)(params, (), obs, action, *keys)
        distance = jnp.abs(prediction.means[..., :-1] - prediction.next_obs[None]).sum(axis=-1)
        assert distance.min(axis=0).max() < 1e-4
        counts = np.bincount(np.argmin(distance, axis=0), minlength=NETWORKS)
        if shared:
            assert counts.max() == 3_000
        else:  # binomial: a standard deviation of 27
            np.testing.assert_allclose(counts, [1_500, 1_500, 0], atol=140)
        assert prediction.valid.all()  # the uncertainty is of all networks


def test_networks_begin_apart_within_two_standard_deviations():
    config = EnsembleConfig(model_hidden_dim=50)
    params = make_ensemble(6, 2, config).init(jax.random.key(0), None)
    fan_ins = (8, 50, 50, 50, 50)
    for fan_in, weight, bias in zip(fan_ins, params.learned.weights, params.learned.biases, strict=True):
        std = 0.5 / np.sqrt(fan_in)
        assert np.abs(weight).max() <= 2 * std * (1 + 1e-6)
        # a normal cut at two standard deviations has 0.880 of its standard deviation
        np.testing.assert_allclose(np.std(weight), 0.880 * std, rtol=0.05)
        assert not np.array_equal(weight[0], weight[1])
        assert not bias.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_elites": 8}, "num_elites: 8 of num_networks=7 cannot be chosen"),
        ({"weight_decays": (0.0,)}, "weight_decays: 1 numbers for num_hidden_layers=4; must be one for each"),
    ],
)
def test_contradictory_settings_are_refused(values, message):
    with pytest.raises(InputError, match=message):
        EnsembleConfig(**values)


# --- fitting ------------------------------------------------------------------------------------------------

SMALL = EnsembleConfig(
    num_networks=4, num_elites=3, num_hidden_layers=2, model_hidden_dim=16, weight_decays=(0.0, 0.0, 0.0)
)
FIT = FitConfig(
    fit_batch_size=64,
    fit_learning_rate=3e-3,
    fit_lr_decay="none",
    fit_steps_per_epoch=60,
    fit_max_epochs=30,
    fit_patience=5,
    fit_min_improvement=0.01,
    selection_metric="mse",
    holdout_fraction=0.2,
)


@pytest.fixture(scope="module")
def walk():
    dataset = make_dataset(random_walk(), 1, holdout_fraction=FIT.holdout_fraction)
    return dataset, fitting.holdout_segments(dataset, 1, FIT)


@pytest.fixture(scope="module")
def fitted(walk):
    dataset, holdout = walk
    dynamics = make_ensemble(2, 1, SMALL)
    epoch = jax.jit(functools.partial(fitting.fit_epoch, dynamics, FIT))
    validate = jax.jit(dynamics.validate)
    states, errors = [jax.jit(functools.partial(fitting.init, dynamics))(dataset, jax.random.key(0))], []
    while states[-1].active:
        states.append(epoch(states[-1], dataset, holdout, keys_of(len(states)))[0])
        errors.append(validate(ModelParams(states[-1].learned, dataset.normalizer), holdout).mse[:, 0])
    return dynamics, states, np.array(errors)


def test_reaches_the_known_optimum(walk, fitted):
    """One step of the random walk: two displacements of variance 0.3^2, a reward of variance 0.5^2."""
    dynamics, states, _ = fitted
    params = fitting.best_params(dynamics, states[-1], *walk)
    errors = jax.jit(dynamics.validate)(params, walk[1])
    assert errors.mse.shape == (4, 1)
    np.testing.assert_allclose(errors.mse, (2 * 0.3**2 + 0.5**2) / 3, rtol=0.06)
    np.testing.assert_allclose(errors.nll, 1 + (2 * np.log(0.3**2) + np.log(0.5**2)) / 3, atol=0.06)


def test_each_network_keeps_its_own_best_epoch(fitted):
    """As a loop over epochs and networks finds it, with improvements under one per cent not counted."""
    _, states, errors = fitted
    for network in range(SMALL.num_networks):
        lowest, best = np.inf, 0
        for epoch, error in enumerate(errors[:, network]):
            if lowest == np.inf or error < lowest - 0.01 * lowest:
                lowest, best = error, epoch + 1
        np.testing.assert_allclose(states[-1].best_error[network], lowest, rtol=1e-5)
        of_network = functools.partial(jax.tree.map, lambda x, i=network: x[i])
        assert trees_equal(of_network(states[-1].best), of_network(states[best].learned))
    best_epochs = [int(np.argmin(errors[:, network])) for network in range(SMALL.num_networks)]
    assert len(set(best_epochs)) > 1  # else one epoch for all would do as well


def test_stops_after_patience_without_any_network_improving(fitted):
    _, states, errors = fitted
    assert len(errors) < FIT.fit_max_epochs
    assert states[-1].epochs_since_best == FIT.fit_patience
    assert all(np.array_equal(s.best_error, states[-1].best_error) for s in states[-1 - FIT.fit_patience :])
    assert not np.array_equal(states[-2 - FIT.fit_patience].best_error, states[-1].best_error)


def test_bootstrap_samples_are_fixed_and_hold_63_per_cent(walk):
    """1 - (1 - 1/N)^N of the starts are in a sample, as often as Poisson says."""
    dataset, _ = walk
    num_starts = int(dataset.train.count[0])
    draw = jax.jit(functools.partial(sample_segments, batch_size=200_000, length=1))
    known = {row.tobytes(): i for i, row in enumerate(np.asarray(dataset.transitions.obs))}

    def counts(key, bootstrap):
        segment = draw(dataset, dataset.train, jax.random.key(key), bootstrap_key=jax.random.key(bootstrap))
        rows = [known[row.tobytes()] for row in np.asarray(segment.obs[:, 0])]
        return np.bincount(rows, minlength=len(known))

    first, again, other = counts(0, 0), counts(1, 0), counts(0, 1)
    assert np.array_equal(first > 0, again > 0)  # 40 draws for each: none is missed
    assert not np.array_equal(first > 0, other > 0)
    assert not first[np.asarray(dataset.holdout.index)].any()
    share = (first > 0).sum() / num_starts
    np.testing.assert_allclose(share, 1 - np.exp(-1), atol=0.03)
    multiplicity = np.round(first * num_starts / 200_000)
    np.testing.assert_allclose((multiplicity == 1).sum() / num_starts, np.exp(-1), atol=0.03)


def test_each_network_has_a_bootstrap_sample_of_its_own(walk):
    """One optimiser step from equal parameters leads them apart."""
    dataset, holdout = walk
    dynamics = make_ensemble(2, 1, SMALL)
    one_step = dataclasses.replace(FIT, fit_steps_per_epoch=1)
    state = fitting.init(dynamics, dataset, jax.random.key(0))
    alike = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), state.learned)
    state = state._replace(learned=alike, best=alike)
    epoch = jax.jit(functools.partial(fitting.fit_epoch, dynamics, one_step))
    after, _ = epoch(state, dataset, holdout, keys_of(0))
    for weight in after.learned.weights:
        assert all(not np.array_equal(weight[0], weight[i]) for i in range(1, SMALL.num_networks))
