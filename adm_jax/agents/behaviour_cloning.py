"""Behaviour cloning: the simplest policy from a dataset, and the one to beat."""

import jax
import jax.numpy as jnp
import optax

from adm_jax.agents import sac
from adm_jax.config import SACConfig
from adm_jax.data.dataset import Dataset, sample_transitions
from adm_jax.nn import squashed_gaussian
from adm_jax.nn.layers import apply
from adm_jax.types import Array, Key, Params, Transition


def bc_loss(actor_params: Params, batch: Transition, action_scale: float, config: SACConfig) -> Array:
    """Mean squared error of the actor's mode against the data's actions, averaged over B and A."""
    action_dim = batch.action.shape[-1]
    head = apply(sac.make_actor(action_dim, config), actor_params, batch.obs)
    mode = squashed_gaussian.mode(head, action_scale)
    if mode.shape != batch.action.shape:
        raise ValueError(f"shapes differ: policy {mode.shape}, data {batch.action.shape}")
    return jnp.mean(jnp.square(mode - batch.action))


def clone(
    dataset: Dataset,
    key: Key,
    *,
    num_steps: int,
    learning_rate: float,
    action_scale: float,
    config: SACConfig,
) -> tuple[Params, dict[str, Array]]:
    """Trains an actor of SAC's shape on the whole dataset by Adam; returns its parameters and last losses.

    Args:
      dataset: the transitions.
      key: consumed.
      num_steps: optimiser steps of ``config.batch_size`` transitions.
      learning_rate: Adam's.
      action_scale: bound of the actions.
      config: network sizes and batch size.
    """
    obs_dim, action_dim = (x.shape[-1] for x in (dataset.transitions.obs, dataset.transitions.action))
    init_key, steps_key = jax.random.split(key)
    params = sac.make_actor(action_dim, config).init(init_key, jnp.zeros((1, obs_dim)))
    adam = optax.adam(learning_rate)

    def step(
        carry: tuple[Params, optax.OptState], step_key: Key
    ) -> tuple[tuple[Params, optax.OptState], Array]:
        params, opt_state = carry
        batch = sample_transitions(dataset, step_key, config.batch_size)
        loss, grads = jax.value_and_grad(bc_loss)(params, batch, action_scale, config)
        updates, opt_state = adam.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    (params, _), losses = jax.lax.scan(
        step, (params, adam.init(params)), jax.random.split(steps_key, num_steps)
    )
    return params, {"bc/loss": losses[-min(num_steps, 100) :].mean()}
