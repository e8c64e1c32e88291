"""Functions a user names on the command line: imported, and tried before anything is computed."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adm_jax.config.references import import_function
from adm_jax.types import Array, InputError

_ROWS = 2  # of the trial; not 1, so that a function that reduces over the batch is found out

RewardFn = Callable[[Array, Array, Array], Array]  # obs [B, D], action [B, A], next_obs [B, D] -> reward [B]


def get_reward(reference: str, obs_dim: int, action_dim: int) -> RewardFn:
    """The known reward that ``module:function`` names, in place of the model's learned one.

    The function must be written in jax.numpy: ``reward_fn(obs [B, D], action [B, A], next_obs [B, D])`` to
    reward [B], float32. Raises InputError: there is no such function, or it does not serve.
    """
    return load_user_function(reference, "reward", (obs_dim, action_dim, obs_dim), jnp.float32)


def load_user_function(
    reference: str, field: str, arg_dims: tuple[int, ...], dtype: Any
) -> Callable[..., Array]:
    """Imports ``module:function`` and tries it, compiled, on zeros [2, dim] for each argument.

    Raises InputError: one line that begins with ``field``: it cannot be imported or called so, or gives
    another shape than [2] or another dtype.
    """
    function = import_function(reference, field)
    if not arg_dims:
        return function
    shapes = [(_ROWS, dim) for dim in arg_dims]
    given = ", ".join(str(list(shape)) for shape in shapes)
    try:
        result = jax.jit(function)(*(jnp.zeros(shape) for shape in shapes))
    except Exception as error:  # whatever a user's function does
        reason = " ".join(str(error).split()).partition(". ")[0] or type(error).__name__
        raise InputError(f"{field}: {reference} fails on {given}: {reason}") from error
    wanted = f"{jnp.dtype(dtype).name} [{_ROWS}]"
    if not isinstance(result, jax.Array):
        raise InputError(f"{field}: {reference} gave a {type(result).__name__} for {given}; must be {wanted}")
    if result.shape != (_ROWS,) or result.dtype != dtype:
        gave = f"{result.dtype.name} {list(result.shape)}"
        raise InputError(f"{field}: {reference} gave {gave} for {given}; must be {wanted}")
    return function
