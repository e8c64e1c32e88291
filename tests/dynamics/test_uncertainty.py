"""The uncertainties against plain NumPy, and in cases that can be solved by hand."""

import numpy as np
import pytest

from adm_jax.dynamics.uncertainty import (
    UNCERTAINTIES,
    max_aleatoric,
    max_deviation,
    sample_std_of_means,
    std_of_means,
    total_variance,
)
from adm_jax.types import Prediction

UNITS, BATCH, OBS_DIM = 5, 7, 3


def make_prediction(means, logvars=None, valid=None):
    means = np.asarray(means, np.float32)
    logvars = np.zeros_like(means) if logvars is None else np.asarray(logvars, np.float32)
    valid = np.ones(means.shape[:2], bool) if valid is None else np.asarray(valid)
    return Prediction(means[0, :, :-1], means[0, :, -1], means, logvars, valid)


@pytest.fixture(params=["all valid", "prefixes", "scattered"])
def prediction(request):
    rng = np.random.default_rng(0)
    means = 3.0 + 2.0 * rng.normal(size=(UNITS, BATCH, OBS_DIM + 1))
    logvars = rng.normal(size=means.shape)
    valid = {
        "all valid": np.ones((UNITS, BATCH), bool),
        "prefixes": np.arange(UNITS)[:, None] <= np.arange(BATCH)[None] % UNITS,
        "scattered": rng.random((UNITS, BATCH)) < 0.6,
    }[request.param]
    valid[0, ~valid.any(axis=0)] = True
    # units that are not valid hold anything
    means[~valid], logvars[~valid] = 1e4, 10.0
    return make_prediction(means, logvars, valid)


def test_std_of_means_equals_numpy(prediction):
    expected = []
    for row in range(BATCH):
        means = np.float64(prediction.means[prediction.valid[:, row], row, :-1])
        expected.append(np.sqrt(np.mean([np.var(means[:, d]) for d in range(OBS_DIM)])))
    np.testing.assert_allclose(std_of_means(prediction), expected, rtol=1e-5, atol=1e-6)


def test_sample_std_of_means_equals_numpy(prediction):
    """The unbiased variance; one unit has no spread."""
    expected = []
    for row in range(BATCH):
        means = np.float64(prediction.means[prediction.valid[:, row], row, :-1])
        unbiased = [np.var(means[:, d], ddof=1) if len(means) > 1 else 0.0 for d in range(OBS_DIM)]
        expected.append(np.sqrt(np.mean(unbiased)))
    np.testing.assert_allclose(sample_std_of_means(prediction), expected, rtol=1e-5, atol=1e-6)


def test_total_variance_equals_numpy(prediction):
    expected = []
    for row in range(BATCH):
        units = prediction.valid[:, row]
        means, logvars = (np.float64(x[units, row, :-1]) for x in (prediction.means, prediction.logvars))
        total = [np.mean(np.exp(logvars[:, d])) + np.var(means[:, d]) for d in range(OBS_DIM)]
        expected.append(np.abs(total).sum())
    np.testing.assert_allclose(total_variance(prediction), expected, rtol=1e-5)


def test_max_aleatoric_equals_numpy(prediction):
    expected = []
    for row in range(BATCH):
        logvars = np.float64(prediction.logvars[prediction.valid[:, row], row])
        expected.append(max(np.sqrt(np.exp(unit).sum()) for unit in logvars))  # the reward's included
    np.testing.assert_allclose(max_aleatoric(prediction), expected, rtol=1e-5)


def test_max_deviation_equals_numpy(prediction):
    expected = []
    for row in range(BATCH):
        means = np.float64(prediction.means[prediction.valid[:, row], row, :-1])
        expected.append(max(np.linalg.norm(unit - means.mean(axis=0)) for unit in means))
    np.testing.assert_allclose(max_deviation(prediction), expected, rtol=1e-5, atol=1e-6)


def test_one_valid_unit_has_no_spread():
    means = np.random.default_rng(1).normal(size=(3, 2, 3))
    valid = np.array([[True, True], [False, False], [False, False]])
    prediction = make_prediction(means, valid=valid)
    np.testing.assert_array_equal(std_of_means(prediction), [0.0, 0.0])
    np.testing.assert_array_equal(max_deviation(prediction), [0.0, 0.0])
    # two dimensions of variance one each
    np.testing.assert_allclose(total_variance(prediction), [2.0, 2.0], rtol=1e-6)


def test_two_units_a_distance_apart():
    """Means at +-1 in one of two dimensions: population variance 1 there, 0 in the other."""
    means = np.zeros((2, 1, 3))
    means[:, 0, 0] = [-1.0, 1.0]
    prediction = make_prediction(means, np.full(means.shape, np.log(0.25)))
    np.testing.assert_allclose(std_of_means(prediction), [np.sqrt(0.5)], rtol=1e-6)
    np.testing.assert_allclose(total_variance(prediction), [1.0 + 2 * 0.25], rtol=1e-6)
    np.testing.assert_allclose(max_deviation(prediction), [1.0], rtol=1e-6)
    np.testing.assert_allclose(max_aleatoric(prediction), [np.sqrt(3 * 0.25)], rtol=1e-6)


def test_the_reward_takes_part_in_mopos_penalty_only():
    rng = np.random.default_rng(2)
    means, logvars = rng.normal(size=(2, UNITS, BATCH, OBS_DIM + 1))
    changed_means, changed_logvars = means.copy(), logvars.copy()
    changed_means[..., -1] += 10 * rng.normal(size=(UNITS, BATCH))
    changed_logvars[..., -1] += 3.0
    for name, uncertainty_fn in UNCERTAINTIES.items():
        before, after = (
            uncertainty_fn(make_prediction(*arrays))
            for arrays in ((means, logvars), (changed_means, changed_logvars))
        )
        assert np.array_equal(before, after) == (name != "max_aleatoric")


def test_a_common_shift_of_large_observations_does_not_swamp_the_spread():
    """E[x^2] - E[x]^2 would lose every digit here."""
    means = np.full((2, 1, 2), 1000.0)
    means[1, 0, 0] += 0.5
    np.testing.assert_allclose(std_of_means(make_prediction(means)), [0.25], rtol=1e-5)
