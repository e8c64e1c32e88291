"""Members side by side in one program: the population axis P, put on once and outermost."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from adm_jax.types import Key


def resolve_members(members: str) -> str:
    """``auto`` is map on CPU and vmap elsewhere.

    On CPU vmap gains nothing (benchmarks/members), and under map a member that has stopped costs nothing.
    """
    if members != "auto":
        return members
    return "map" if jax.default_backend() == "cpu" else "vmap"


def over_members(fn: Callable[..., Any], members: str) -> Callable[..., Any]:
    """``fn(member, *shared)`` over the leading axis of ``member``'s leaves; ``shared`` is not mapped."""
    if members == "vmap":
        return lambda member, *shared: jax.vmap(lambda one: fn(one, *shared))(member)
    return lambda member, *shared: jax.lax.map(lambda one: fn(one, *shared), member)


def member_keys(seeds: Sequence[int], stream: int) -> Key:
    """Each member's key [P] of a named stream: a function of the member's own seed alone."""
    root = jax.random.key(0)
    member = jax.vmap(lambda seed: jax.random.fold_in(root, seed))(jnp.asarray(seeds, jnp.uint32))
    return jax.vmap(lambda key: jax.random.fold_in(key, stream))(member)


def shared_key(seed: int, epoch: int) -> Key:
    """An epoch's key of what all members share; its root is none of the members'."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), epoch)


def fold_epoch(keys: Key, epoch: int) -> Key:
    """Each member's key [P] of one epoch."""
    return jax.vmap(lambda key: jax.random.fold_in(key, epoch))(keys)


def compile_program(fn: Callable[..., Any], *args: Any, donate: Sequence[int] = ()) -> jax.stages.Compiled:
    """Compiles ``fn`` ahead of time, so that its memory is known before anything is allocated.

    Args:
      fn: to be compiled.
      args: arrays, or ShapeDtypeStructs of them.
      donate: positions of the arguments whose buffers the results may reuse.
    """
    return jax.jit(fn, donate_argnums=tuple(donate)).lower(*args).compile()
