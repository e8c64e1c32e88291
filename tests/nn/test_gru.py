"""The GRU against PyTorch's arrays (tests/golden) and against itself, step by step."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.nn import gru


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent.parent / "golden" / "adm.npz") as file:
        arrays = dict(file)
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    layers = [gru.GRULayer(*(jnp.asarray(arrays[f"param/gru.{n}_l{i}"].T) for n in names)) for i in range(3)]
    return tuple(layers), arrays["gru_input"], arrays["gru_output"]


def test_unroll_equals_pytorch(golden):
    params, inputs, outputs = golden
    np.testing.assert_allclose(
        jax.jit(gru.unroll)(params, jnp.asarray(inputs)), outputs, rtol=1e-5, atol=1e-5
    )


def test_steps_equal_pytorch(golden):
    params, inputs, outputs = golden
    hidden = (jnp.zeros((1, inputs.shape[1], outputs.shape[-1])),) * 3
    step = jax.jit(gru.step)
    for x, expected in zip(inputs, outputs, strict=True):
        hidden = step(params, hidden, jnp.asarray(x)[None])
        np.testing.assert_allclose(hidden[-1][0], expected, rtol=1e-5, atol=1e-5)


def test_streams_that_begin_have_a_zero_state(golden):
    """Two of them begin in front of those that go on: as if they had been there with a state of zero."""
    params, inputs, outputs = golden
    step = jax.jit(gru.step)
    hidden = jnp.asarray(np.random.default_rng(1).normal(size=(3, *outputs[2:].shape)), jnp.float32)
    known = jnp.concatenate([jnp.zeros((3, *outputs[:2].shape)), hidden], axis=1)
    begun, all_along = (step(params, tuple(states), jnp.asarray(inputs)) for states in (hidden, known))
    for ours, theirs in zip(begun, all_along, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_step_takes_any_number_of_batch_axes(golden):
    """Streams are one more axis in front of the batch."""
    params, inputs, outputs = golden
    step = jax.jit(gru.step)
    hidden = jnp.asarray(np.random.default_rng(0).normal(size=(3, *outputs.shape)), jnp.float32)
    together = step(params, tuple(hidden), jnp.asarray(inputs))[-1]
    apart = [
        step(params, tuple(hidden[:, i : i + 1]), jnp.asarray(x)[None])[-1] for i, x in enumerate(inputs)
    ]
    np.testing.assert_allclose(together, np.concatenate(apart), rtol=1e-6, atol=1e-6)


def test_initial_parameters_have_pytorchs_shapes_and_ranges():
    params = jax.jit(gru.init, static_argnums=(1, 2, 3))(jax.random.key(0), 6, 25, 3)
    assert [layer.w_input.shape for layer in params] == [(6, 75), (25, 75), (25, 75)]
    assert all(layer.w_hidden.shape == (25, 75) for layer in params)
    for leaf in jax.tree.leaves(params):
        assert np.abs(leaf).max() <= 0.2  # 1 / sqrt(25), whatever the fan-in
    for name in ("w_input", "w_hidden", "b_input", "b_hidden"):
        values = np.concatenate([np.ravel(getattr(layer, name)) for layer in params])
        # a uniform variable's standard deviation; 225 biases at least
        np.testing.assert_allclose(values.std(), 0.2 / np.sqrt(3), rtol=0.12)
    flat = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    assert np.unique(flat).size > 0.99 * flat.size  # no key was used twice
