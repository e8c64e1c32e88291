"""Gaussians: the soft clamp, the loss and its relation to the density, the sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.nn import gaussian

RNG = np.random.default_rng(0)


def floats(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_soft_clamp_equals_numpy():
    logvar = np.linspace(-30.0, 30.0, 61)
    low, high = -4.0, 0.5
    expected = high - np.log1p(np.exp(-(np.abs(high - logvar)))) - np.maximum(high - logvar, 0.0)
    expected = low + np.log1p(np.exp(-np.abs(expected - low))) + np.maximum(expected - low, 0.0)
    clamped = gaussian.soft_clamp(
        jnp.asarray(logvar[:, None], jnp.float32), jnp.asarray([low]), jnp.asarray([high])
    )
    np.testing.assert_allclose(clamped[:, 0], expected, rtol=1e-5, atol=1e-5)
    # a softplus of the other bound's distance may overshoot by as much as log(1 + exp(-4.5))
    assert clamped.min() >= low
    assert clamped.max() <= high + 0.012
    assert (np.diff(clamped[:, 0]) >= 0).all()


def test_soft_clamp_has_bounds_of_its_own_in_every_dimension():
    logvar = jnp.full((2, 3, 2), 100.0)
    clamped = gaussian.soft_clamp(logvar, jnp.asarray([-50.0, -50.0]), jnp.asarray([1.0, -2.0]))
    np.testing.assert_allclose(clamped, np.broadcast_to([1.0, -2.0], (2, 3, 2)), rtol=1e-6)


def test_nll_is_twice_the_negative_log_density_per_dimension_less_a_constant():
    mean, logvar, target = floats(4, 5), floats(4, 5), floats(4, 5)
    m, v, y = (np.float64(x) for x in (mean, np.exp(np.float64(logvar)), target))
    density = np.exp(-((y - m) ** 2) / (2 * v)) / np.sqrt(2 * np.pi * v)
    expected = -2 * np.log(density).mean(axis=-1) - np.log(2 * np.pi)
    np.testing.assert_allclose(gaussian.nll(mean, logvar, target), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shapes", [((4, 1), (4, 5), (4, 5)), ((4, 5), (5,), (4, 5)), ((4, 5), (4, 5), (1, 5))]
)
def test_nll_refuses_to_broadcast(shapes):
    with pytest.raises(ValueError, match="shapes differ"):
        gaussian.nll(*(floats(*shape) for shape in shapes))


def test_samples_have_the_given_mean_and_variance():
    num = 200_000
    mean = jnp.broadcast_to(jnp.asarray([[1.0, -2.0]]), (num, 2))
    logvar = jnp.broadcast_to(jnp.log(jnp.asarray([[0.25, 4.0]])), (num, 2))
    sample = np.asarray(gaussian.sample(mean, logvar, jax.random.key(0)))
    # five standard errors
    np.testing.assert_allclose(sample.mean(axis=0), [1.0, -2.0], atol=5 * 2 / np.sqrt(num))
    np.testing.assert_allclose(sample.var(axis=0), [0.25, 4.0], rtol=5 * np.sqrt(2 / num))
    assert abs(np.corrcoef(sample.T)[0, 1]) < 5 / np.sqrt(num)
