"""Networks against NumPy, and where their parameters start."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.nn.layers import MLP, ResidualHead

KEY = jax.random.key(0)


def spread(params, seed=0):
    """Parameters moved off their initial values: zero biases and unit scales hide mistakes."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: np.asarray(x) + np.float32(0.5 * rng.normal(size=x.shape)), params)


def dense(layer, x):
    return x @ np.float64(layer["kernel"]) + layer["bias"]


def test_residual_head_equals_numpy():
    head = ResidualHead(out_dim=4, num_blocks=2, dropout_rate=0.3)
    x = np.random.default_rng(1).normal(size=(5, 6)).astype(np.float32)
    params = spread(jax.jit(head.init)(KEY, x))
    expected = np.float64(x)
    for name in ("ResidualBlock_0", "ResidualBlock_1"):
        block = params["params"][name]
        y = dense(block["Dense_0"], expected)
        y = expected + y / (1.0 + np.exp(-y))
        y = (y - y.mean(axis=-1, keepdims=True)) / np.sqrt(y.var(axis=-1, keepdims=True) + 1e-5)
        expected = y * block["LayerNorm_0"]["scale"] + block["LayerNorm_0"]["bias"]
    expected = dense(params["params"]["Dense_0"], expected)
    np.testing.assert_allclose(jax.jit(head.apply)(params, x), expected, rtol=1e-5, atol=1e-5)


def test_dropout_zeroes_its_share_of_the_branch_before_the_residual_sum():
    """With unit branches (bias only) a block's input to LayerNorm is 0 or 1 / (1 - rate)."""
    head = ResidualHead(out_dim=1, num_blocks=1, dropout_rate=0.25)
    x = np.zeros((50, 400), np.float32)
    params = jax.jit(head.init)(KEY, x)
    block = params["params"]["ResidualBlock_0"]
    block["Dense_0"] = {"kernel": np.zeros((400, 400), np.float32), "bias": np.full(400, 1.0, np.float32)}
    run = jax.jit(
        lambda p, x, key: head.apply(p, x, False, rngs={"dropout": key}, capture_intermediates=True)
    )
    _, state = run(params, x, KEY)
    hidden = np.asarray(state["intermediates"]["ResidualBlock_0"]["Dropout_0"]["__call__"][0])
    on = 1.0 / (1.0 + np.exp(-1.0)) / 0.75
    assert set(np.unique(hidden.round(5))) == {np.float32(0.0), np.float32(on).round(5)}
    # 20,000 units: a standard deviation of 0.003
    assert abs((hidden == 0.0).mean() - 0.25) < 0.015


def test_mlp_equals_numpy():
    mlp = MLP(hidden_dim=7, num_hidden=2, out_dim=3)
    x = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
    params = spread(jax.jit(mlp.init)(KEY, x))
    layers = params["params"]
    hidden = np.maximum(dense(layers["Dense_0"], np.float64(x)), 0.0)
    hidden = np.maximum(dense(layers["Dense_1"], hidden), 0.0)
    np.testing.assert_allclose(
        jax.jit(mlp.apply)(params, x), dense(layers["Dense_2"], hidden), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("in_dim", [4, 100])
def test_linear_layers_start_as_pytorchs(in_dim):
    """Weights and biases uniform in +-1 / sqrt(fan-in)."""
    params = jax.jit(MLP(hidden_dim=64, num_hidden=1, out_dim=200).init)(KEY, jnp.zeros((1, in_dim)))[
        "params"
    ]
    for name, fan_in in (("Dense_0", in_dim), ("Dense_1", 64)):
        bound = fan_in**-0.5
        for values in params[name].values():
            assert np.abs(values).max() <= bound
            assert np.abs(values).max() > 0.9 * bound
            np.testing.assert_allclose(np.std(values), bound / np.sqrt(3), rtol=0.15)
            # a uniform variable's mean has a standard deviation of bound / sqrt(3 n)
            assert abs(np.mean(values)) < 4 * bound / np.sqrt(3 * np.size(values))


def test_layer_norm_starts_as_the_identity():
    params = jax.jit(ResidualHead(3, 1, 0.0).init)(KEY, jnp.zeros((1, 8)))["params"]
    norm = params["ResidualBlock_0"]["LayerNorm_0"]
    np.testing.assert_array_equal(norm["scale"], np.ones(8, np.float32))
    np.testing.assert_array_equal(norm["bias"], np.zeros(8, np.float32))
