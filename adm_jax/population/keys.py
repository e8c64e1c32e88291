"""Random keys: each a function of a member's seed, of what it is for, and of how far the run is."""

import enum
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from adm_jax.types import Key


class Purpose(enum.IntEnum):
    """What a member's random numbers are for; each purpose has a key of its own."""

    INIT_FIT = 0
    FIT = 1
    INIT_AGENT = 2
    ROLLOUT = 3
    UPDATE = 4
    CLONE = 5
    BOOTSTRAP = 6
    ERRORS = 7
    HOLDOUT = 8
    ACT = 9
    PRETRAIN = 10
    UNCERTAINTY = 11
    ESTIMATE = 12


_SPLIT_ONLINE = (Purpose.INIT_AGENT, Purpose.ACT, Purpose.UPDATE)
_FOLDED_ONLINE = (Purpose.INIT_FIT, Purpose.FIT, Purpose.BOOTSTRAP, Purpose.HOLDOUT, Purpose.ROLLOUT)


def offline_keys(seeds: Sequence[int], purpose: int) -> Key:
    """Each member's key [P]: ``fold_in(fold_in(key(0), seed), purpose)``."""
    root = jax.random.key(0)
    member = jax.vmap(lambda seed: jax.random.fold_in(root, seed))(jnp.asarray(seeds, jnp.uint32))
    return fold_keys(member, purpose)


def online_keys(seeds: Sequence[int], purpose: Purpose) -> Key:
    """Each member's key [P], from ``key(seed)``: by a split for the policy, else from the first part."""
    split = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3), out_axes=1)
    roots = split(jnp.asarray(seeds, jnp.uint32))
    if purpose in _SPLIT_ONLINE:
        return roots[_SPLIT_ONLINE.index(purpose)]
    return fold_keys(roots[0], 1_000 + _FOLDED_ONLINE.index(purpose))


def shared_key(seed: int, *numbers: int) -> Key:
    """A key that all members share, for an epoch or step; its root is none of the members'."""
    key = jax.random.fold_in(jax.random.key(1), seed)
    for number in numbers:
        key = jax.random.fold_in(key, number)
    return key


def fold_keys(keys: Key, number: int) -> Key:
    """Each member's key [P] of one epoch, or of one environment step."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
