"""A GRU layer's step and a residual block as one kernel each, for NVIDIA's GPUs (Pallas, compiled by Triton).

XLA writes every product to memory and reads it again for the gates, or the norm, that follow on it, and that
traffic is what bounds roll-outs on a GPU. Here products stay in registers. They are forward only, and take no
part in fitting; adm_jax.nn.gru and adm_jax.nn.layers have the plain functions that they equal to rounding.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from adm_jax.nn.precision import product
from adm_jax.types import Array

MAX_WIDTH = 512  # a residual block keeps whole rows in registers
# Of a product's tiles. ptxas spills no register with them, and they fit into the 99 KiB of shared memory that
# cards have at least since compute capability 8.6; not tuned on a card.
_ROWS, _COLUMNS, _DEPTH = 64, 64, 32
_COMPILER = triton.CompilerParams(num_warps=8, num_stages=2)


def gru_layer(
    x: Array,
    hidden: Array,
    w_input: Array,
    w_hidden: Array,
    b_input: Array,
    b_hidden: Array,
    *,
    interpret: bool = False,
) -> Array:
    """A step of S streams in one layer, of which the first S - O begin at zero.

    Args:
      x: input [S, B, I], or [1, B, I], that of all streams.
      hidden: hidden states [O, B, W] of the last streams.
      w_input: [I, 3 W]; gates (reset, update, new) one behind the other.
      w_hidden: [W, 3 W].
      b_input: [3 W].
      b_hidden: [3 W].
      interpret: runs it on any device, slowly.

    Returns:
      Hidden states [S, B, W], of the type that ``hidden`` has.
    """
    num_streams = max(x.shape[0], hidden.shape[0])
    num_rows, width = hidden.shape[1:]
    return pl.pallas_call(
        partial(_gru_kernel, num_streams - hidden.shape[0]),
        out_shape=jax.ShapeDtypeStruct((num_streams, num_rows, width), hidden.dtype),
        grid=(pl.cdiv(width, _COLUMNS), pl.cdiv(num_rows, _ROWS), num_streams),
        interpret=interpret,
        compiler_params=_COMPILER,
        name="gru_layer",
    )(x, hidden, w_input, w_hidden, b_input, b_hidden)


def residual_block(
    x: Array, w: Array, b: Array, scale: Array, bias: Array, epsilon: float, *, interpret: bool = False
) -> Array:
    """``LayerNorm(x + swish(x @ w + b))``.

    Args:
      x: [R, W], with W up to `MAX_WIDTH`.
      w: [W, W].
      b: [W].
      scale: of the norm, [W].
      bias: of the norm, [W].
      epsilon: of the norm.
      interpret: runs it on any device, slowly.

    Returns:
      [R, W], of the type that ``x`` has.
    """
    shrink = 1 if x.shape[1] <= MAX_WIDTH // 2 else 2  # the tiles, of wide rows
    num_rows = _ROWS // shrink
    return pl.pallas_call(
        partial(_residual_kernel, num_rows, _DEPTH // shrink, epsilon),
        out_shape=jax.ShapeDtypeStruct(x.shape, x.dtype),
        grid=(pl.cdiv(x.shape[0], num_rows),),
        interpret=interpret,
        compiler_params=_COMPILER,
        name="residual_block",
    )(x, w, b, scale, bias)


class _Span(NamedTuple):
    """Indices along an axis, and which of them there are: blocks reach over its end."""

    index: Array  # [N]
    inside: Array  # [N] bool

    def shifted(self, offset: int) -> "_Span":
        return _Span(self.index + offset, self.inside)


def _span(number: Array | int, size: int, length: int) -> _Span:
    """The block of that number along an axis of that length."""
    index = number * size + jnp.arange(size)
    return _Span(index, index < length)


def _vector(ref: Any, span: _Span) -> Array:
    """Entries [1, N] of a vector; zero where there are none."""
    return triton.load(ref.at[span.index], mask=span.inside, other=0.0)[None]


def _load(ref: Any, rows: _Span, columns: _Span, *leading: Any) -> Array:
    """A block of the matrix at the ``leading`` indices; zero where there is nothing."""
    index, inside = _block(rows, columns, leading)
    return triton.load(ref.at[index], mask=inside, other=0.0)


def _store(ref: Any, values: Array, rows: _Span, columns: _Span, *leading: Any) -> None:
    index, inside = _block(rows, columns, leading)
    triton.store(ref.at[index], values.astype(ref.dtype), mask=inside)


def _block(rows: _Span, columns: _Span, leading: tuple[Any, ...]) -> tuple[tuple[Any, ...], Array]:
    inside = rows.inside[:, None] & columns.inside[None, :]
    return (*leading, rows.index[:, None], columns.index[None, :]), inside


def _gru_kernel(
    num_fresh: int,
    x_ref: Any,
    hidden_ref: Any,
    w_input_ref: Any,
    w_hidden_ref: Any,
    b_input_ref: Any,
    b_hidden_ref: Any,
    out_ref: Any,
) -> None:
    """A block of rows and of hidden units of one stream."""
    _, num_rows, width = out_ref.shape
    units, rows = _span(pl.program_id(0), _COLUMNS, width), _span(pl.program_id(1), _ROWS, num_rows)
    stream = pl.program_id(2)
    is_old = stream >= num_fresh
    of_x, of_hidden = stream if x_ref.shape[0] > 1 else 0, jnp.maximum(stream - num_fresh, 0)
    gates = [units.shifted(number * width) for number in range(3)]

    def products(
        sums: tuple[Array, ...], ref: Any, index: Any, w_ref: Any, num_blocks: Any
    ) -> tuple[Array, ...]:
        def add(number: Array, sums: tuple[Array, ...]) -> tuple[Array, ...]:
            inner = _span(number, _DEPTH, ref.shape[2])
            x = _load(ref, rows, inner, index)
            return tuple(
                s + product(x, _load(w_ref, inner, gate)) for s, gate in zip(sums, gates, strict=True)
            )

        return jax.lax.fori_loop(0, num_blocks, add, sums)

    reset, update, of_input, of_state = (jnp.zeros((_ROWS, _COLUMNS), jnp.float32) for _ in range(4))
    num_blocks = pl.cdiv(x_ref.shape[2], _DEPTH)
    sums = products((reset, update, of_input), x_ref, of_x, w_input_ref, num_blocks)
    reset, update, of_input = sums
    num_blocks = is_old.astype(jnp.int32) * pl.cdiv(width, _DEPTH)  # the product of a zero state is left out
    sums = products((reset, update, of_state), hidden_ref, of_hidden, w_hidden_ref, num_blocks)
    reset, update, of_state = sums
    b_input, b_hidden = ([_vector(ref, gate) for gate in gates] for ref in (b_input_ref, b_hidden_ref))
    reset, update = (
        jax.nn.sigmoid(total + b_input[n] + b_hidden[n]) for n, total in enumerate((reset, update))
    )
    new = jnp.tanh(of_input + b_input[2] + reset * (of_state + b_hidden[2]))
    old_rows = rows._replace(inside=rows.inside & is_old)
    before = _load(hidden_ref, old_rows, units, of_hidden).astype(jnp.float32)
    _store(out_ref, new + update * (before - new), rows, units, stream)


def _residual_kernel(
    block_rows: int,
    depth: int,
    epsilon: float,
    x_ref: Any,
    w_ref: Any,
    b_ref: Any,
    scale_ref: Any,
    bias_ref: Any,
    out_ref: Any,
) -> None:
    """A block of whole rows."""
    num_rows, width = x_ref.shape
    rows = _span(pl.program_id(0), block_rows, num_rows)
    units = _span(0, max(16, pl.next_power_of_2(width)), width)  # 16: the least that tensor cores take

    def add(number: Array, total: Array) -> Array:
        inner = _span(number, depth, width)
        return total + product(_load(x_ref, rows, inner), _load(w_ref, inner, units))

    zeros = jnp.zeros((block_rows, len(units.index)), jnp.float32)
    y = jax.lax.fori_loop(0, pl.cdiv(width, depth), add, zeros) + _vector(b_ref, units)
    y = _load(x_ref, rows, units).astype(jnp.float32) + y * jax.nn.sigmoid(y)  # zero beyond the width
    mean = jnp.sum(y, axis=1, keepdims=True) / width
    deviation = jnp.where(units.inside[None], y - mean, 0.0)
    variance = jnp.sum(deviation * deviation, axis=1, keepdims=True) / width
    y = deviation * jax.lax.rsqrt(variance + epsilon)
    y = y * _vector(scale_ref, units) + _vector(bias_ref, units)
    _store(out_ref, y, rows, units)
