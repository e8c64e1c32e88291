"""Fitting a dynamics model: epochs of minibatch steps, held-out selection, early stopping.

Everything here is written for one member; the caller maps it over a population. The backtracking
length of a minibatch comes from a key that all members share, so that choosing it stays a branch
under vmap.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from adm_jax.config import FitConfig
from adm_jax.data.dataset import Dataset, gather_segments, sample_segments
from adm_jax.dynamics.interface import Dynamics, ModelParams
from adm_jax.types import Array, Key, Params, Segment

_ADAM = optax.scale_by_adam()


class FitState(NamedTuple):
    """One member's fit."""

    learned: Params
    opt_state: optax.OptState
    best: Params  # with the lowest held-out error so far, of each network
    best_error: Array  # [U]
    epochs_since_best: Array  # [] int32
    epoch: Array  # [] int32, epochs done
    active: Array  # [] bool; False once stopped: nothing changes any more


class FitKeys(NamedTuple):
    """What an epoch draws from."""

    epoch: Key  # this member's and this epoch's
    bootstrap: Key  # this member's, the same in all epochs
    shared: Key  # this epoch's, the same for all members


def init(dynamics: Dynamics, dataset: Dataset, key: Key) -> FitState:
    """A fit that has not begun."""
    learned = dynamics.init(key, dataset.normalizer).learned
    return FitState(
        learned=learned,
        opt_state=_ADAM.init(learned),
        best=jax.tree.map(jnp.copy, learned),
        best_error=jnp.full((dynamics.num_networks,), jnp.inf, jnp.float32),
        epochs_since_best=jnp.zeros((), jnp.int32),
        epoch=jnp.zeros((), jnp.int32),
        active=jnp.ones((), bool),
    )


def epoch_unless_stopped(
    epoch: Callable[[FitState], tuple[FitState, dict[str, Array]]], state: FitState
) -> tuple[FitState, dict[str, Array]]:
    """``epoch(state)``, which is not computed where the fit has stopped: it stays, and its metrics are NaN.

    For members one after the other. Side by side all of them would be computed anyway, and the minibatches'
    lengths would be a member's own: see fit_epoch.
    """

    def rest(state: FitState) -> tuple[FitState, dict[str, Array]]:
        shapes = jax.eval_shape(epoch, state)[1]
        return state, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

    return jax.lax.cond(state.active, epoch, rest, state)


def continued(state: FitState) -> FitState:
    """A fit that goes on from its best parameters on other data: best is what comes from now on.

    Adam's moments, of all networks, begin anew if any is not finite: it would stay so.
    """
    finite = jnp.all(jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(state.opt_state)]))
    fresh = _ADAM.init(state.best)
    return FitState(
        learned=state.best,
        opt_state=jax.tree.map(lambda old, new: jnp.where(finite, old, new), state.opt_state, fresh),
        best=jax.tree.map(jnp.copy, state.best),
        best_error=jnp.full_like(state.best_error, jnp.inf),
        epochs_since_best=jnp.zeros_like(state.epochs_since_best),
        epoch=jnp.zeros_like(state.epoch),
        active=jnp.ones_like(state.active),
    )


def holdout_segments(dataset: Dataset, length: int, config: FitConfig) -> Segment:
    """A fixed random selection of held-out segments [holdout_batch_size at most, length, ...].

    Steps past an episode's end are not valid: every length is evaluated on the starts with room for it.
    """
    # in the order of rows, which is the same whatever the length: models are compared on the same starts
    starts = np.sort(np.asarray(dataset.holdout.index))
    order = np.random.default_rng((config.split_seed, 1)).permutation(len(starts))
    chosen = starts[np.sort(order[: config.holdout_batch_size])]
    deepest = int(dataset.holdout.index[0])
    if deepest not in chosen:
        chosen[0] = deepest  # with this one no length is empty that need not be
    return gather_segments(dataset, jnp.asarray(chosen), length)


def learning_rate(step: Array, config: FitConfig) -> Array:
    """Adam's rate at optimiser step ``step`` []."""
    if config.fit_lr_decay == "none":
        return jnp.asarray(config.fit_learning_rate, jnp.float32)
    progress = step.astype(jnp.float32) / (config.fit_max_epochs * config.fit_steps_per_epoch)
    return config.fit_learning_rate * 0.5 * (1.0 + jnp.cos(math.pi * jnp.minimum(progress, 1.0)))


def fit_epoch(
    dynamics: Dynamics,
    config: FitConfig,
    state: FitState,
    dataset: Dataset,
    holdout: Segment,
    keys: FitKeys,
) -> tuple[FitState, dict[str, Array]]:
    """``fit_steps_per_epoch`` optimiser steps, then the held-out errors.

    Args:
      dynamics: the model.
      config: static.
      state: the member's fit; returned as it came once it is not ``active``.
      dataset: the data.
      holdout: from holdout_segments.
      keys: consumed, but for the bootstrap's.

    Returns:
      ``(state, metrics)``; metrics hold the errors of the *current* parameters, per k and averaged.
    """
    num_steps = config.fit_steps_per_epoch
    lengths = jax.random.randint(keys.shared, (num_steps,), 1, dynamics.max_backtrack + 1)

    def step(carry: tuple[Params, optax.OptState], xs: tuple[Array, Array, Array]):
        learned, opt_state = carry
        index, length, step_key = xs

        def gradient(length: int) -> tuple[Params, Array]:
            return _gradient(dynamics, config, learned, dataset, length, step_key, keys.bootstrap)

        if dynamics.loss_all_backtracks:
            grads, nll = gradient(dynamics.max_backtrack)
        else:
            branches = [lambda k=k: gradient(k) for k in range(1, dynamics.max_backtrack + 1)]
            grads, nll = jax.lax.switch(length - 1, branches)
        direction, opt_state = _ADAM.update(grads, opt_state)
        rate = learning_rate(state.epoch * num_steps + index, config)
        learned = jax.tree.map(lambda p, d: p - rate * d, learned, direction)
        return (learned, opt_state), nll

    xs = (jnp.arange(num_steps), lengths, jax.random.split(keys.epoch, num_steps))
    (learned, opt_state), nll = jax.lax.scan(step, (state.learned, state.opt_state), xs)
    new_state, metrics = _select(dynamics, config, state, learned, opt_state, dataset, holdout, nll.mean())
    # a select, not a cond: a cond over members would make the lengths per-member too under vmap, and every
    # minibatch would then run all m branches of the switch
    new_state = jax.tree.map(lambda new, old: jnp.where(state.active, new, old), new_state, state)
    return new_state, jax.tree.map(lambda x: jnp.where(state.active, x, jnp.nan), metrics)


def _gradient(
    dynamics: Dynamics,
    config: FitConfig,
    learned: Params,
    dataset: Dataset,
    length: int,
    key: Key,
    bootstrap_key: Key,
) -> tuple[Params, Array]:
    """The loss's gradient and the NLL on a minibatch of segments of a length, one for each network."""
    segment_key, loss_key = jax.random.split(key)
    min_length = 1 if dynamics.loss_all_backtracks else length

    def sample(key: Key, bootstrap_key: Key | None = None) -> Segment:
        return sample_segments(
            dataset, dataset.train, key, config.fit_batch_size, length, min_length, bootstrap_key
        )

    if dynamics.num_networks == 1:
        segment = sample(segment_key)
    else:
        segment_keys, bootstrap_keys = (
            jax.random.split(key, dynamics.num_networks) for key in (segment_key, bootstrap_key)
        )
        segment = jax.vmap(sample)(segment_keys, bootstrap_keys)

    def loss(learned: Params) -> tuple[Array, dict[str, Array]]:
        return dynamics.loss(ModelParams(learned, dataset.normalizer), segment, loss_key)

    grads, metrics = jax.grad(loss, has_aux=True)(learned)
    return grads, metrics["model/train_nll"]


def _select(
    dynamics: Dynamics,
    config: FitConfig,
    state: FitState,
    learned: Params,
    opt_state: optax.OptState,
    dataset: Dataset,
    holdout: Segment,
    train_nll: Array,
) -> tuple[FitState, dict[str, Array]]:
    """Keeps each network's parameters if their held-out error is its lowest; stops when patience is out."""
    # a held-out part of short episodes may have no segment of the longest lengths: those don't count
    known = holdout.valid.any(axis=0)
    errors = dynamics.validate(ModelParams(learned, dataset.normalizer), holdout)
    mse, nll = (jnp.where(known, x, jnp.nan) for x in errors)  # [U, m]
    error = jnp.mean(nll if config.selection_metric == "nll" else mse, axis=1, where=known[None])  # [U]
    lowest = state.best_error
    least_gain = jnp.where(jnp.isinf(lowest), 0.0, config.fit_min_improvement * jnp.abs(lowest))
    better = error < lowest - least_gain  # never true of NaN
    since_best = jnp.where(better.any(), 0, state.epochs_since_best + 1)
    epoch = state.epoch + 1

    def keep(new: Array, old: Array) -> Array:
        chosen = better[0] if dynamics.num_networks == 1 else better.reshape(-1, *(1,) * (new.ndim - 1))
        return jnp.where(chosen, new, old)

    new_state = FitState(
        learned=learned,
        opt_state=opt_state,
        best=jax.tree.map(keep, learned, state.best),
        best_error=jnp.where(better, error, lowest),
        epochs_since_best=since_best,
        epoch=epoch,
        active=(since_best < config.fit_patience) & (epoch < config.fit_max_epochs),
    )
    mse, nll = mse.mean(axis=0), nll.mean(axis=0)
    metrics = {
        "model/train_nll": train_nll,
        "model/holdout_nll": jnp.mean(nll, where=known),
        "model/holdout_mse": jnp.mean(mse, where=known),
        "model/holdout_nll_per_k": nll,
        "model/holdout_mse_per_k": mse,
        "model/best_error": new_state.best_error.mean(),
    }
    return new_state, metrics


def best_params(dynamics: Dynamics, state: FitState, dataset: Dataset, holdout: Segment) -> ModelParams:
    """The parameters with the lowest held-out error, finalised by the model."""
    return dynamics.finalise(ModelParams(state.best, dataset.normalizer), holdout)
