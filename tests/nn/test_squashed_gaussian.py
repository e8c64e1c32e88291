"""The policy head: its samples, and its log-density against densities computed in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.nn import squashed_gaussian

sample_and_log_prob = jax.jit(squashed_gaussian.sample_and_log_prob)


def numpy_log_prob(action, mean, log_std, scale):
    """Change of variables in float64: u = artanh(a / scale), da/du = scale (1 - tanh(u)^2)."""
    u = np.arctanh(np.float64(action) / scale)
    std = np.exp(np.clip(np.float64(log_std), -5.0, 2.0))
    normal = -0.5 * ((u - mean) / std) ** 2 - np.log(std) - 0.5 * np.log(2 * np.pi)
    return (normal - np.log(scale * (1.0 - np.tanh(u) ** 2))).sum(axis=-1)


@pytest.mark.parametrize("scale", [1.0, 0.4, 3.0])
def test_log_prob_is_the_change_of_variables(scale):
    rng = np.random.default_rng(0)
    mean, log_std = 0.5 * rng.normal(size=(64, 3)), rng.uniform(-2.0, -0.5, (64, 3))
    head = jnp.asarray(np.concatenate([mean, log_std], axis=-1), jnp.float32)
    action, log_prob = sample_and_log_prob(head, jax.random.key(1), scale)
    assert np.abs(action).max() < scale
    # float32 actions limit how well artanh can be inverted
    np.testing.assert_allclose(log_prob, numpy_log_prob(action, mean, log_std, scale), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_log_prob_is_the_logarithm_of_the_samples_density(scale):
    """A million samples' shares in bins against the mean of exp(log_prob) inside each bin."""
    num = 1_000_000
    head = jnp.broadcast_to(jnp.asarray([0.3, -0.4]), (num, 2))
    action, log_prob = sample_and_log_prob(head, jax.random.key(2), scale)
    edges = np.linspace(-0.9 * scale, 0.9 * scale, 19)
    bins = np.digitize(np.asarray(action)[:, 0], edges)
    density = np.exp(np.float64(log_prob))
    for i in range(1, len(edges)):
        inside = bins == i
        # within a bin E[1 / p] = width / share: no assumption about how the density varies
        share = (edges[i] - edges[i - 1]) / np.mean(1.0 / density[inside])
        np.testing.assert_allclose(inside.mean(), share, rtol=0.03)


def test_density_sums_to_one():
    """E[1 / p(a)] over samples is the length of the interval where there is mass."""
    head = jnp.broadcast_to(jnp.asarray([0.0, -0.5]), (500_000, 2))
    action, log_prob = sample_and_log_prob(head, jax.random.key(3), 0.7)
    inside = np.abs(np.asarray(action)[:, 0]) < 0.6
    length = np.mean(np.where(inside, np.exp(-np.float64(log_prob)), 0.0))
    np.testing.assert_allclose(length, 1.2, rtol=0.01)


@pytest.mark.parametrize("mean", [-50.0, -9.0, 9.0, 50.0])
def test_saturated_actions_stay_finite(mean):
    """tanh rounds to 1 there; the density is taken before it, and so are its gradients."""
    head = jnp.asarray([[mean, -1.0]])

    def log_prob_fn(head):
        return squashed_gaussian.sample_and_log_prob(head, jax.random.key(4), 1.0)[1].sum()

    log_prob, grad = jax.jit(jax.value_and_grad(log_prob_fn))(head)
    assert np.isfinite(log_prob)
    assert np.isfinite(grad).all()
    # log(1 - tanh(u)^2) = 2 (log 2 - u) to many digits, so the log-density grows with slope 2
    np.testing.assert_allclose(grad[0, 0], 2.0 * np.sign(mean), rtol=1e-3)


@pytest.mark.parametrize(("outside", "bound", "inside"), [(-9.0, -5.0, -4.9), (7.0, 2.0, 1.9)])
def test_log_std_is_clipped(outside, bound, inside):
    def draw(log_std):
        return sample_and_log_prob(jnp.asarray([[0.1, log_std]]), jax.random.key(6), 1.0)

    jax.tree.map(np.testing.assert_array_equal, draw(outside), draw(bound))
    assert draw(inside)[1] != draw(bound)[1]


def test_mode_is_the_scaled_tanh_of_the_mean():
    head = np.random.default_rng(6).normal(size=(2, 5, 4)).astype(np.float32)
    mode = squashed_gaussian.mode(jnp.asarray(head), 0.4)
    np.testing.assert_allclose(mode, 0.4 * np.tanh(head[..., :2]), rtol=1e-6)


def test_sample_is_differentiable_in_the_head():
    """Reparametrised: d a / d mean = scale (1 - tanh(u)^2), d a / d log_std = that times std eps."""
    head = jnp.asarray([[0.2, -0.7]])

    def action_fn(head):
        return squashed_gaussian.sample_and_log_prob(head, jax.random.key(7), 0.5)[0][0, 0]

    action, grad = jax.jit(jax.value_and_grad(action_fn))(head)
    slope = 0.5 * (1.0 - (action / 0.5) ** 2)
    np.testing.assert_allclose(grad[0, 0], slope, rtol=1e-4)
    np.testing.assert_allclose(grad[0, 1], slope * (np.arctanh(action / 0.5) - 0.2), rtol=1e-3)
