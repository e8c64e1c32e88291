"""Matrix products in the precision that was asked for; sums, and all that is not a product, are float32."""

import contextlib
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from adm_jax.types import Array, MatmulPrecision

_JAX_NAMES: Mapping[MatmulPrecision, str | None] = {  # setting -> JAX's name
    "default": None,
    "float32": "float32",
    # JAX's "tensorfloat32" asks a GPU for more than that, and gets float32's slow products
    "tensorfloat32": "TF32_TF32_F32",
    # `matmul` below rounds; to XLA this name is the device's default. JAX's BF16_BF16_F32 is one that XLA for
    # CPU computes in float32 for some shapes and refuses for others, a single row among them.
    "bfloat16": "bfloat16",
}


def matmul_precision(
    name: MatmulPrecision, platform: str | None = None
) -> contextlib.AbstractContextManager[None]:
    """A context in which programs are traced with products of that precision.

    Args:
      name: ``float32``; ``tensorfloat32`` (11 bits of mantissa) for the products' inputs, where GPUs have
        it, else float32; ``bfloat16`` (8 bits) for those of `matmul`, all others as in ``default``: what JAX
        takes on the device, tensorfloat32 on NVIDIA's GPUs, bfloat16 on TPUs, else float32.
      platform: what the programs are for, ``cpu``, ``gpu`` or ``tpu``; JAX's default one when None.
    """
    if name == "tensorfloat32" and (platform or jax.default_backend()) != "gpu":
        name = "float32"
    return jax.default_matmul_precision(_JAX_NAMES[name])  # pyright: ignore[reportReturnType]


def asked_precision() -> MatmulPrecision:
    """The setting that programs are traced with now; ``default`` where it is none of ours."""
    asked = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    names: list[MatmulPrecision] = [name for name, of_jax in _JAX_NAMES.items() if of_jax == asked]
    return names[0] if names else "default"


def product_dtype() -> type[jnp.floating]:
    """What `matmul` rounds its inputs to, as far as that is a type of its own."""
    return jnp.bfloat16 if asked_precision() == "bfloat16" else jnp.float32


def matmul(x: Array, w: Array) -> Array:
    """``x @ w`` in float32: x [..., I] and w [I, O], or both with the same axes in front.

    Rounded to bfloat16 here where that is asked for: products cost half as much on processors that have them.
    """
    if w.ndim == 2 and x.ndim != 2:  # a product of matrices: its gradient needs no transposed copy of x
        return matmul(x.reshape(-1, x.shape[-1]), w).reshape(*x.shape[:-1], w.shape[-1])
    return _bfloat16_matmul(x, w) if asked_precision() == "bfloat16" else x @ w


def product(x: Array, w: Array) -> Array:
    """The same of matrices [B, I] and [I, O] inside of a kernel, without a gradient."""
    dtype = product_dtype()
    return _product(x.astype(dtype), w.astype(dtype))


def _product(x: Array, w: Array) -> Array:
    return jnp.matmul(x, w, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _bfloat16_matmul(x: Array, w: Array) -> Array:
    return _product(x.astype(jnp.bfloat16), w.astype(jnp.bfloat16))


def _forward(x: Array, w: Array) -> tuple[Array, tuple[Array, Array]]:
    rounded = x.astype(jnp.bfloat16), w.astype(jnp.bfloat16)
    return _product(*rounded), rounded


def _backward(rounded: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, w = rounded
    gradient = gradient.astype(jnp.bfloat16)
    of_x = _product(gradient, jnp.swapaxes(w, -1, -2))
    of_w = jax.lax.platform_dependent(x, gradient, cpu=_widened_gradient, default=_weight_gradient)
    return of_x, of_w


def _weight_gradient(x: Array, gradient: Array) -> Array:
    return _product(jnp.swapaxes(x, -1, -2), gradient)


def _widened_gradient(x: Array, gradient: Array) -> Array:
    """XLA for CPU may have no kernel for x.T @ gradient of bfloat16 numbers where x is narrow.

    The numbers stay rounded, and this product alone has float32's speed.
    """
    return _weight_gradient(x.astype(jnp.float32), gradient.astype(jnp.float32))


_bfloat16_matmul.defvjp(_forward, _backward)
