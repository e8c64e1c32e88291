"""Fully connected parts of the networks, with PyTorch's default initialisation.

Weights and biases of a linear layer start uniform in ``+-1/sqrt(fan_in)``: what the authors'
networks start from, and free of the QR decompositions of orthogonal initialisers.
"""

from collections.abc import Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn

from adm_jax.nn import fused as kernels
from adm_jax.nn.precision import matmul
from adm_jax.types import Array, Key, Params

_EPSILON = 1e-5  # of LayerNorm, as in PyTorch


def uniform_init(fan_in: int) -> nn.initializers.Initializer:
    """Initialiser drawing from U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = fan_in**-0.5

    def init(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def apply(
    module: nn.Module, params: Params, x: Array, dropout_key: Key | None = None, **options: Any
) -> Array:
    """``module`` at ``x``; ``dropout_key`` is what dropout draws from, where the module has it on."""
    rngs = None if dropout_key is None else {"dropout": dropout_key}
    return cast(Array, module.apply(params, x, rngs=rngs, **options))


def linear(fan_in: int, features: int, name: str | None = None) -> nn.Dense:
    """A linear layer ``[..., fan_in] -> [..., features]`` that starts as ``torch.nn.Linear`` does."""
    init = uniform_init(fan_in)
    return nn.Dense(features, kernel_init=init, bias_init=init, name=name, dot_general=_dot_general)


def _dot_general(x: Array, w: Array, dimension_numbers: Any, **_: Any) -> Array:
    """What nn.Dense asks for: the last axis of x by the first of w."""
    assert dimension_numbers == (((x.ndim - 1,), (0,)), ((), ()))
    return matmul(x, w)


class ResidualBlock(nn.Module):
    """Linear, Swish, dropout, add the input, LayerNorm: ``[..., W] -> [..., W]`` (authors' code)."""

    dropout_rate: float

    @nn.compact
    def __call__(self, x: Array, deterministic: bool, fused: bool = False) -> Array:
        """Applies the block; dropout draws from the ``dropout`` stream unless ``deterministic``.

        With ``fused`` it is one kernel, for a GPU and without a gradient; with dropout, or wider than that
        serves, it is as without. The result has the type of ``x``.
        """
        width = x.shape[-1]
        if fused and deterministic and width <= kernels.MAX_WIDTH:
            dense, norm = self.variables["params"]["Dense_0"], self.variables["params"]["LayerNorm_0"]
            own = dense["kernel"], dense["bias"], norm["scale"], norm["bias"]
            return kernels.residual_block(x.reshape(-1, width), *own, _EPSILON).reshape(x.shape)
        y = nn.swish(linear(width, width)(x))
        y = nn.Dropout(self.dropout_rate)(y, deterministic=deterministic)
        return nn.LayerNorm(epsilon=_EPSILON)(x + y).astype(x.dtype)


class ResidualHead(nn.Module):
    """Residual blocks and a linear read-out: ``[..., W] -> [..., out_dim]``.

    With ``hidden_dim`` a linear layer before the blocks takes inputs of any width to that one.
    """

    out_dim: int
    num_blocks: int
    dropout_rate: float
    hidden_dim: int | None = None

    @nn.compact
    def __call__(self, x: Array, deterministic: bool = True, fused: bool = False) -> Array:
        """Applies the head; see ResidualBlock for ``deterministic`` and ``fused``."""
        if self.hidden_dim is not None:
            x = linear(x.shape[-1], self.hidden_dim, name="read_in")(x)
        for _ in range(self.num_blocks):
            x = ResidualBlock(self.dropout_rate)(x, deterministic, fused)
        return linear(x.shape[-1], self.out_dim)(x)


def truncated_normal_init(fan_in: int) -> nn.initializers.Initializer:
    """Initialiser of the ensembles of PETS and MBPO: standard deviation 1/(2 sqrt(fan_in)), cut at two."""

    def init(key: Array, shape: Sequence[int], dtype: jnp.dtype = jnp.float32) -> Array:
        return 0.5 * fan_in**-0.5 * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return init


class MLP(nn.Module):
    """ReLU network ``[..., in_dim] -> [..., out_dim]``.

    With ``layer_norm`` every hidden layer is normalised before its ReLU. The first ``standardize`` inputs are
    shifted and scaled by constants, which are kept among the parameters and have no gradient.
    """

    hidden_dim: int
    num_hidden: int
    out_dim: int
    layer_norm: bool = False
    standardize: int = 0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the network."""
        if self.standardize:
            x = Standardize(self.standardize)(x)
        for _ in range(self.num_hidden):
            x = linear(x.shape[-1], self.hidden_dim)(x)
            x = nn.relu(nn.LayerNorm(epsilon=_EPSILON)(x) if self.layer_norm else x)
        return linear(x.shape[-1], self.out_dim)(x)


class Standardize(nn.Module):
    """``(x - mean) / std`` of the first ``size`` entries [..., I]; the constants start as 0 and 1."""

    size: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Standardises."""
        mean = self.param("mean", nn.initializers.zeros_init(), (self.size,))
        std = self.param("std", nn.initializers.ones_init(), (self.size,))
        head = x[..., : self.size]
        mean, std = (jnp.broadcast_to(jax.lax.stop_gradient(c), head.shape) for c in (mean, std))
        head = (head - mean) / std
        return jnp.concatenate([head, x[..., self.size :]], axis=-1)
