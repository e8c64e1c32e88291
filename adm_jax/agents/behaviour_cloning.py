"""Behaviour cloning: the simplest policy from a dataset, and the one to beat."""

import jax
import jax.numpy as jnp
import optax

from adm_jax.agents import sac
from adm_jax.config import SACConfig
from adm_jax.data.dataset import Dataset, sample_rows, transitions_at
from adm_jax.nn import squashed_gaussian
from adm_jax.nn.layers import apply
from adm_jax.types import ActionBounds, Array, Key, Params, Transition


def bc_loss(
    actor_params: Params,
    batch: Transition,
    bounds: ActionBounds,
    config: SACConfig,
    row_weight: Array | None = None,
) -> Array:
    """Mean squared error of the actor's mode against the data's actions, normalised, averaged over B and A.

    Rows may be weighted, ``row_weight`` [B].
    """
    obs_dim, action_dim = batch.obs.shape[-1], batch.action.shape[-1]
    head = apply(sac.make_actor(obs_dim, action_dim, config), actor_params, batch.obs)
    mode = squashed_gaussian.mode(head, bounds.scale)
    if mode.shape != batch.action.shape:
        raise ValueError(f"shapes differ: policy {mode.shape}, data {batch.action.shape}")
    error = jnp.square(mode - bounds.normalize(batch.action))
    return jnp.mean(error if row_weight is None else row_weight[:, None] * error)


def clone(
    dataset: Dataset,
    key: Key,
    *,
    num_steps: int,
    learning_rate: float,
    bounds: ActionBounds,
    config: SACConfig,
    row_weight: Array | None = None,
    decay: bool = False,
    weight_decay: float = 0.0,
) -> tuple[Params, dict[str, Array]]:
    """Trains an actor of SAC's shape on the whole dataset by Adam; returns its parameters and last losses.

    Args:
      dataset: the transitions.
      key: consumed.
      num_steps: optimiser steps of ``config.batch_size`` transitions.
      learning_rate: Adam's.
      bounds: of the actions.
      config: network sizes and batch size.
      row_weight: weights [N] of the transitions in the loss; all alike when None.
      decay: the rate goes to zero as a cosine, which takes the noise of the last steps out of the actor.
      weight_decay: AdamW's (Loshchilov and Hutter, 2019), of all weights: on few data, more steps with it
        are no worse than fewer without.
    """
    obs_dim, action_dim = (x.shape[-1] for x in (dataset.transitions.obs, dataset.transitions.action))
    init_key, steps_key = jax.random.split(key)
    params = sac.make_actor(obs_dim, action_dim, config).init(init_key, jnp.zeros((1, obs_dim)))
    params = sac.standardized(params, dataset.normalizer)
    rate = optax.cosine_decay_schedule(learning_rate, num_steps) if decay else learning_rate
    adam = optax.adamw(rate, weight_decay=weight_decay, mask=_learned) if weight_decay else optax.adam(rate)

    def step(
        carry: tuple[Params, optax.OptState], step_key: Key
    ) -> tuple[tuple[Params, optax.OptState], Array]:
        params, opt_state = carry
        rows = sample_rows(dataset, step_key, config.batch_size)
        weight = None if row_weight is None else row_weight[rows]
        batch = transitions_at(dataset, rows)
        loss, grads = jax.value_and_grad(bc_loss)(params, batch, bounds, config, weight)
        updates, opt_state = adam.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    (params, _), losses = jax.lax.scan(
        step, (params, adam.init(params)), jax.random.split(steps_key, num_steps)
    )
    return params, {"bc/loss": losses[-min(num_steps, 100) :].mean()}


def _learned(params: Params) -> Params:
    """Whether a leaf is learned: the moments that observations are standardised by are not."""
    return {
        "params": {
            name: jax.tree.map(lambda _, name=name: not name.startswith("Standardize"), layer)
            for name, layer in params["params"].items()
        }
    }
