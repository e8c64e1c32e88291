"""A stack of GRU layers as pure functions, equal to ``torch.nn.GRU``.

Gates are ordered (reset, update, new) along the last axis of each weight. Both biases of
PyTorch are kept apart: one of them cannot be folded away in the new gate, and two biases under
Adam move twice as fast as one.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from adm_jax.nn import fused as kernels
from adm_jax.nn.layers import uniform_init
from adm_jax.nn.precision import matmul
from adm_jax.types import Array, Key


class GRULayer(NamedTuple):
    """Parameters of one layer with I inputs and W hidden units."""

    w_input: Array  # [I, 3 W]
    w_hidden: Array  # [W, 3 W]
    b_input: Array  # [3 W]
    b_hidden: Array  # [3 W]


GRUParams = tuple[GRULayer, ...]


def init(key: Key, input_dim: int, hidden_dim: int, num_layers: int) -> GRUParams:
    """Parameters of ``num_layers`` layers, uniform in +-1/sqrt(W) as in PyTorch."""
    draw = uniform_init(hidden_dim)
    layers = []
    for layer, layer_key in enumerate(jax.random.split(key, num_layers)):
        wi, wh, bi, bh = jax.random.split(layer_key, 4)
        fan_in = input_dim if layer == 0 else hidden_dim
        layers.append(
            GRULayer(
                draw(wi, (fan_in, 3 * hidden_dim)),
                draw(wh, (hidden_dim, 3 * hidden_dim)),
                draw(bi, (3 * hidden_dim,)),
                draw(bh, (3 * hidden_dim,)),
            )
        )
    return tuple(layers)


def _cell(layer: GRULayer, hidden: Array | None, projected: Array) -> Array:
    """One cell step from the input's projection ``x @ w_input + b_input`` [..., 3 W].

    A state of None is zero: its product need not be computed.
    """
    recurrent = layer.b_hidden.reshape((1,) * (projected.ndim - 1) + (-1,))
    if hidden is not None:
        recurrent = matmul(hidden, layer.w_hidden) + recurrent
    input_r, input_z, input_n = jnp.split(projected, 3, axis=-1)
    hidden_r, hidden_z, hidden_n = jnp.split(recurrent, 3, axis=-1)
    reset = jax.nn.sigmoid(input_r + hidden_r)
    update = jax.nn.sigmoid(input_z + hidden_z)
    new = jnp.tanh(input_n + reset * hidden_n)
    return new + update * ((0.0 if hidden is None else hidden) - new)


def _project(layer: GRULayer, x: Array) -> Array:
    return matmul(x, layer.w_input) + layer.b_input.reshape((1,) * (x.ndim - 1) + (-1,))


def step(params: GRUParams, hidden: tuple[Array, ...], x: Array, *, fused: bool = False) -> tuple[Array, ...]:
    """Advances all layers of S streams by one step, F of which begin with it.

    Args:
      params: the layers.
      hidden: each layer's hidden states [S - F, ..., W] of the last streams; the first F begin at zero.
      x: input [S, ..., I]; or [1, ..., I], the same one for all streams, of which none begins at zero.
      fused: each layer is one kernel, for a GPU; there is one axis of rows then, and no gradient.

    Returns:
      Each layer's hidden states [S, ..., W], of the type that ``hidden`` has.
    """
    num_fresh = max(x.shape[0] - hidden[0].shape[0], 0)
    outputs = []
    for layer, h in zip(params, hidden, strict=True):
        if fused and len(h):
            x = kernels.gru_layer(x, h, *layer)
            outputs.append(x)
            continue
        projected = _project(layer, x)
        x = _cell(layer, h, projected[num_fresh:])
        if num_fresh:
            x = jnp.concatenate([_cell(layer, None, projected[:num_fresh]), x])
        x = x.astype(h.dtype)
        outputs.append(x)
    return tuple(outputs)


def unroll(params: GRUParams, xs: Array, initial: tuple[Array, ...] | None = None) -> Array:
    """Top layer's hidden states [K, B, W] over inputs [K, B, I].

    They begin at each layer's ``initial`` state [B, W], or at zero. Layer by layer, so that each layer's
    input projection is one large product.
    """
    for index, layer in enumerate(params):
        hidden, outputs = None if initial is None else initial[index], []
        for projected in _project(layer, xs):
            hidden = _cell(layer, hidden, projected)
            outputs.append(hidden)
        xs = jnp.stack(outputs)
    return xs
