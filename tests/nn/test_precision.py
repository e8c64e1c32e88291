"""Products of rounded inputs, against NumPy's of inputs rounded by hand."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from adm_jax.nn import gru
from adm_jax.nn.precision import matmul, matmul_precision

SHAPES = [
    ((7, 5), (5, 3)),
    ((5,), (5, 3)),
    ((1, 5), (5, 3)),
    ((5, 1), (1, 3)),
    ((2, 7, 5), (5, 3)),
    ((4, 7, 5), (4, 5, 3)),
]


def rounded(x: np.ndarray) -> np.ndarray:
    return np.asarray(x).astype(ml_dtypes.bfloat16).astype(np.float64)


def arrays(shapes: tuple) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("shapes", SHAPES)
def test_bfloat16_rounds_the_inputs_and_sums_in_float32(shapes: tuple) -> None:
    x, w = arrays(shapes)
    with matmul_precision("bfloat16"):
        ours = jax.jit(lambda x, w: matmul(x, w))(x, w)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, rounded(x) @ rounded(w), rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(ours) - x @ w).max() > 1e-4  # it does differ from float32


@pytest.mark.parametrize("shapes", SHAPES)
def test_gradients_are_products_of_rounded_inputs_too(shapes: tuple) -> None:
    x, w = arrays(shapes)
    (factor,) = arrays(((*x.shape[:-1], w.shape[-1]),))
    with matmul_precision("bfloat16"):
        of_x, of_w = jax.jit(jax.grad(lambda x, w: (matmul(x, w) * factor).sum(), argnums=(0, 1)))(x, w)
    g = rounded(factor)
    np.testing.assert_allclose(of_x, g @ rounded(np.swapaxes(w, -1, -2)), rtol=1e-5, atol=1e-5)
    rows, of_rows = np.atleast_2d(rounded(x)), np.atleast_2d(g)
    expected = np.einsum("...bi,...bo->...io", rows, of_rows)
    expected = expected.reshape(-1, *w.shape).sum(axis=0) if w.ndim == 2 else expected
    np.testing.assert_allclose(of_w, expected, rtol=1e-5, atol=1e-5)


def test_other_products_are_left_alone() -> None:
    """A policy of the user's has its own ``x @ w``, of any shape; a single row too."""
    for shapes in SHAPES:
        x, w = arrays(shapes)
        with matmul_precision("bfloat16"):
            ours = jax.jit(jnp.matmul)(x, w)
        tolerance = 1e-5 if jax.default_backend() == "cpu" else 1e-2
        np.testing.assert_allclose(ours, x @ w, rtol=tolerance, atol=tolerance)


def test_other_precisions_are_plain_products() -> None:
    x, w = arrays(SHAPES[0])
    for name in ("default", "float32", "tensorfloat32"):
        with matmul_precision(name, "cpu"):
            np.testing.assert_array_equal(jax.jit(lambda x, w: matmul(x, w))(x, w), jax.jit(jnp.matmul)(x, w))


@pytest.mark.parametrize(("platform", "lowered_for"), [("cpu", "cpu"), ("gpu", "cuda"), ("tpu", "tpu")])
def test_tensorfloat32_is_an_algorithm_of_gpus_and_float32_elsewhere(platform: str, lowered_for: str) -> None:
    """In products and their gradients, whatever this process runs on."""
    x, w = arrays(SHAPES[0])
    with matmul_precision("tensorfloat32", platform):
        traced = jax.jit(jax.grad(lambda x, w: matmul(x, w).sum(), argnums=(0, 1))).trace(x, w)
    text = traced.lower(lowering_platforms=(lowered_for,)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) == 2
    for line in products:
        assert ("lhs_precision_type = tf32" in line) == (platform == "gpu")
        assert ("[HIGHEST, HIGHEST]" in line) == (platform != "gpu")


def test_the_product_that_a_cpu_lacks_is_widened_on_cpu_alone() -> None:
    x, w = arrays(SHAPES[0])
    with matmul_precision("bfloat16"):
        traced = jax.jit(jax.grad(lambda x, w: matmul(x, w).sum(), argnums=1)).trace(x, w)
    for platform, types in (("cpu", "(tensor<5x7xf32>, "), ("cuda", "(tensor<5x7xbf16>, ")):
        (product,) = (
            line
            for line in traced.lower(lowering_platforms=(platform,)).as_text().splitlines()
            if "stablehlo.dot_general" in line
        )
        assert types in product


def test_the_error_of_a_gru_in_bfloat16_is_that_of_its_mantissa() -> None:
    """Eight bits: 2^-9 per rounded number; the states of three layers and five steps stay near that."""
    params = gru.init(jax.random.key(0), 14, 200, 3)
    inputs = jax.random.normal(jax.random.key(1), (5, 64, 14))
    exact = jax.jit(gru.unroll)(params, inputs)
    with matmul_precision("bfloat16"):
        ours = jax.jit(lambda p, x: gru.unroll(p, x))(params, inputs)
    error = np.sqrt(np.mean(np.square(ours - exact)) / np.mean(np.square(exact)))
    assert 1e-4 < error < 8e-3
