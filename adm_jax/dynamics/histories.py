"""The histories that roll-outs start from, encoded once for many roll-outs: each a flat row."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from adm_jax.data.dataset import Dataset, gather_windows
from adm_jax.dynamics.interface import Carry, Dynamics, ModelParams
from adm_jax.types import Array


class RowLayout(NamedTuple):
    """How a leaf of a carry is laid out: where its rows are, and the shape of all else."""

    axis: int
    shape: tuple[int, ...]  # of one row

    @property
    def size(self) -> int:
        """Numbers of one row."""
        return math.prod(self.shape)


def encode_histories(
    dynamics: Dynamics, params: ModelParams, dataset: Dataset, chunk: int, row_multiple: int = 1
) -> Carry:
    """What ``begin`` makes of the history of every transition; leaves [N', F], each row flat.

    A model that is not fitted any further need encode a history only once, however often roll-outs start
    there: at m = 5 that is 21 % of their products. N' is N, filled up to whole chunks.

    Args:
      dynamics: the model.
      params: the fitted model's.
      dataset: whose transitions.
      chunk: rows encoded at a time.
      row_multiple: F is filled up to one of it, see ``row_multiple``.
    """
    num_rows = dataset.transitions.reward.shape[0]
    rows = jnp.arange(num_rows, dtype=jnp.int32)
    return encode_rows(dynamics, params, dataset, rows, chunk, row_multiple)


def row_multiple(platform: str) -> int:
    """What the length of a kept row is a multiple of: on a TPU that of its tiles' last axis.

    Arrays there consist of tiles of 8 x 128. One of other rows is stored with these last, where it is filled
    up least, and roll-outs, which gather rows, would copy all of it first, in every call.
    """
    return 128 if platform == "tpu" else 1


def encode_rows(
    dynamics: Dynamics, params: ModelParams, dataset: Dataset, rows: Array, chunk: int, row_multiple: int = 1
) -> Carry:
    """The same of the transitions at ``rows`` [R]; leaves [R', F], see ``from_flat``."""
    layouts = row_layouts(dynamics, params, dataset)

    def flat(leaf: Array, layout: RowLayout) -> Array:
        # no axis is left to be inferred: with m = 1 the arrays have no size
        leaf = jnp.moveaxis(leaf, layout.axis, 0).reshape(chunk, layout.size)
        return jnp.pad(leaf, ((0, 0), (0, -layout.size % row_multiple)))

    def encode_chunk(index: Array) -> Carry:
        numbers = jnp.minimum(index * chunk + jnp.arange(chunk), len(rows) - 1)
        carry = dynamics.begin(params, gather_windows(dataset, rows[numbers], dynamics.max_backtrack)[0])
        return jax.tree.map(flat, carry, layouts)

    chunks = jax.lax.map(encode_chunk, jnp.arange(-(-len(rows) // chunk)))
    return jax.tree.map(lambda x: x.reshape(x.shape[0] * x.shape[1], x.shape[2]), chunks)


def from_flat(histories: Carry, layouts: Carry) -> Carry:
    """Encoded histories [B, F] in the shapes that the model's carry has, with the rows where it has them."""

    def whole(flat: Array, layout: RowLayout) -> Array:
        rows = flat[:, : layout.size].reshape(flat.shape[0], *layout.shape)
        return jnp.moveaxis(rows, 0, layout.axis)

    return jax.tree.map(whole, histories, layouts)


def row_layouts(dynamics: Dynamics, params: ModelParams, dataset: Dataset) -> Carry:
    """A RowLayout for each leaf of a carry: its rows' axis is the one whose length is their number."""

    def shapes(num_rows: int) -> Carry:
        rows = jnp.zeros((num_rows,), jnp.int32)
        return jax.eval_shape(
            lambda: dynamics.begin(params, gather_windows(dataset, rows, dynamics.max_backtrack)[0])
        )

    def layout(few: jax.ShapeDtypeStruct, more: jax.ShapeDtypeStruct) -> RowLayout:
        axis = next(i for i, (a, b) in enumerate(zip(few.shape, more.shape, strict=True)) if a != b)
        return RowLayout(axis, (*few.shape[:axis], *few.shape[axis + 1 :]))

    return jax.tree.map(layout, shapes(2), shapes(3))
