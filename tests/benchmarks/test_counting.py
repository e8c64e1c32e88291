"""Counts of products against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from adm_jax.nn import fused
from benchmarks.accelerators.compile_for import prepare
from benchmarks.speed.counting import count

X, W = jax.ShapeDtypeStruct((5, 4), jnp.float32), jax.ShapeDtypeStruct((4, 3), jnp.float32)
SQUARE = jax.ShapeDtypeStruct((4, 4), jnp.float32)
ONE = 2 * 5 * 4 * 3  # [5, 4] @ [4, 3]
ONE_SQUARE = 2 * 5 * 4 * 4


def test_one_product():
    counts = count(jnp.matmul, X, W)
    assert counts.flops == ONE
    assert counts.bytes == 4 * (5 * 4 + 4 * 3 + 5 * 3)
    ((product, times),) = counts.products.items()
    assert (product.lhs, product.rhs, product.result, times) == ((5, 4), (4, 3), (5, 3), 1)
    assert product.dtypes == ("float32",) * 3


def test_half_precision_moves_half_the_bytes():
    half = [jax.ShapeDtypeStruct(x.shape, jnp.bfloat16) for x in (X, W)]
    assert count(jnp.matmul, *half).bytes == count(jnp.matmul, X, W).bytes / 2


def test_inside_jit_scan_map_and_fori_loop():
    def scanned(x, w):
        return jax.lax.scan(lambda carry, _: (carry @ w, None), x, None, length=7)[0]

    assert count(scanned, X, SQUARE).flops == 7 * ONE_SQUARE
    assert count(jax.jit(scanned), X, SQUARE).flops == 7 * ONE_SQUARE
    assert count(lambda x, w: jax.lax.map(lambda row: row @ w, x), X, W).flops == ONE
    nested = jax.lax.map(lambda i: scanned(jnp.ones((5, 4)) + i, jnp.ones((4, 4))), jnp.arange(3.0))
    assert nested.shape == (3, 5, 4)
    counts = count(
        lambda i: jax.lax.map(lambda j: scanned(jnp.ones((5, 4)) + j, jnp.ones((4, 4))), i), jnp.arange(3.0)
    )
    assert counts.flops == 3 * 7 * ONE_SQUARE
    looped = count(lambda x, w: jax.lax.fori_loop(0, 6, lambda i, y: y @ w, x), X, SQUARE)
    assert looped.flops == 6 * ONE_SQUARE


def test_vmap_is_in_the_shapes():
    batched = jax.ShapeDtypeStruct((8, 5, 4), jnp.float32)
    weights = jax.ShapeDtypeStruct((8, 4, 3), jnp.float32)
    counts = count(jax.vmap(jnp.matmul), batched, weights)
    assert counts.flops == 8 * ONE
    assert len(counts.products) == 1
    shared = count(jax.vmap(jnp.matmul, in_axes=(0, None)), batched, W)
    assert shared.flops == 8 * ONE
    assert shared.bytes < counts.bytes  # the weights are read once


def test_gradients_are_three_products_of_the_same_size():
    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w))

    assert count(jax.value_and_grad(loss), W, X).flops == 2 * ONE  # forward, and for the weights
    assert count(jax.value_and_grad(loss, argnums=(0, 1)), W, X).flops == 3 * ONE
    rematerialised = count(jax.value_and_grad(jax.checkpoint(loss), argnums=(0, 1)), W, X)
    assert rematerialised.flops == 4 * ONE


def test_of_branches_the_mean_over_those_that_multiply():
    def switched(i, x, w):
        branches = [
            lambda: x @ w,
            lambda: (x @ w) @ jnp.ones((3, 3)),
        ]
        return jax.lax.switch(i, branches)

    assert count(switched, jnp.int32(0), X, W).flops == ONE + 0.5 * 2 * 5 * 3 * 3
    resting = count(lambda on, x, w: jax.lax.cond(on, lambda: x @ w, lambda: x), True, X, SQUARE)
    assert resting.flops == ONE_SQUARE
    neither = count(lambda on, x: jax.lax.cond(on, lambda: x + 1, lambda: x), True, X)
    assert neither.flops == neither.bytes == 0


def test_an_unknown_number_of_trips_is_refused():
    def unknown(n, x, w):
        return jax.lax.fori_loop(0, n, lambda i, y: y @ w, x)

    with pytest.raises(ValueError, match="while: the products in it cannot be counted"):
        count(unknown, jnp.int32(3), X, SQUARE)
    without = count(lambda n, x: jax.lax.fori_loop(0, n, lambda i, y: y + 1, x), jnp.int32(3), X)
    assert without.flops == 0


def test_custom_derivatives_are_counted_once():
    @jax.custom_vjp
    def double(x, w):
        return 2 * (x @ w)

    double.defvjp(lambda x, w: (double(x, w), (x, w)), lambda kept, g: (g @ kept[1].T, kept[0].T @ g))
    assert count(double, X, W).flops == ONE
    assert count(jax.value_and_grad(lambda w, x: double(x, w).sum(), argnums=(0, 1)), W, X).flops == 3 * ONE


def test_a_derivative_that_nobody_needs_is_not_counted():
    @jax.custom_vjp
    def product(x, w):
        return x @ w

    product.defvjp(lambda x, w: (x @ w, (x, w)), lambda saved, g: (g @ saved[1].T, saved[0].T @ g))
    assert count(jax.grad(lambda x, w: product(x, w).sum(), argnums=(0, 1)), X, W).flops == 2 * ONE
    assert count(jax.grad(lambda x, w: product(x, w).sum()), X, W).flops == ONE
    assert count(lambda x, w: jax.lax.scan(lambda c, _: (c, c @ w), x, None, length=7)[0], X, W).flops == 0


def test_kernels_of_roll_outs_count_as_the_products_in_them():
    """Of the gates of all streams, and of those that go on; of a block's rows; under vmap of all members."""
    shapes = [(2, 5, 4), (1, 5, 3), (4, 9), (3, 9), (9,), (9,)]
    layer = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    flops = 2 * 5 * 9 * (2 * 4 + 1 * 3)
    assert count(fused.gru_layer, *layer).flops == flops
    members = [jax.ShapeDtypeStruct((6, *x.shape), x.dtype) for x in layer]
    assert count(jax.vmap(fused.gru_layer), *members).flops == 6 * flops
    block = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(5, 4), (4, 4), (4,), (4,), (4,)]]
    assert count(lambda *x: fused.residual_block(*x, 1e-5), *block).flops == ONE_SQUARE


def test_a_roll_out_with_kernels_has_the_products_of_one_without():
    """So the benchmarks' FLOPs and fractions mean the same with them."""
    sizes = {"model_hidden_dim": 8, "policy_hidden_dim": 8, "rollout_batch_size": 40, "rollout_length": 2}

    def flops(**others):
        _, job, _ = prepare("rollout", "gpu", 2, **sizes, **others)
        return count(job.fn, *job.args).flops

    assert flops() == flops(fused_kernels="off") > 0
