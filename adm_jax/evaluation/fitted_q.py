"""Fitted Q evaluation (FQE): what a policy returns, learned from the dataset without a model.

The baseline that does best on DOPE's D4RL tasks: a network Q(s, a) is regressed on
``r + gamma Q'(s', pi(s'))`` with a slowly moving target Q', whose mean over initial states is the estimate.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adm_jax.data.dataset import Dataset, sample_transitions
from adm_jax.dynamics.prediction import normalize_action, normalize_obs
from adm_jax.nn.layers import MLP, apply
from adm_jax.types import Array, Key, Params, Transition


class FQESettings(NamedTuple):
    """Settings of the regression.

    The target follows at rate tau, and an error shrinks by gamma each time around: it takes
    1 / (tau (1 - gamma)) steps until it is down to 37 %, 10,000 at gamma 0.995.
    """

    gamma: float
    num_steps: int
    batch_size: int = 256
    learning_rate: float = 3e-4
    tau: float = 0.02
    hidden_dim: int = 256
    num_hidden: int = 2

    @property
    def time_constants(self) -> float:
        """How many such times the regression goes on; with five, 99 % of a value are learned."""
        return self.num_steps * self.tau * (1.0 - self.gamma)


class FQEResult(NamedTuple):
    """An estimate."""

    value: Array  # [] mean over the initial states
    loss: Array  # [] mean of the last tenth of the steps, in units of the scaled value


class _State(NamedTuple):
    params: Params
    target: Params
    optimizer: optax.OptState


def fitted_q(
    policy_fn: Callable[[Array, Key], Array], dataset: Dataset, starts: Array, key: Key, settings: FQESettings
) -> FQEResult:
    """Estimates the discounted return of a policy, (obs [B, D], key) -> action [B, A], from ``starts`` [E].

    These are rows of the dataset; all of its transitions are regressed on, and the end of a truncated episode
    is no termination. Values are learned in units of ``reward scale / (1 - gamma)``, so that they are near
    one.
    """
    network = MLP(settings.hidden_dim, settings.num_hidden, 1)
    optimizer = optax.adam(settings.learning_rate)
    init_key, steps_key, value_key = jax.random.split(key, 3)
    data, normalizer = dataset.transitions, dataset.normalizer
    scale = (1.0 - settings.gamma) / jnp.maximum(jnp.abs(data.reward).mean(), 1e-6)

    def q(params: Params, obs: Array, action: Array) -> Array:
        inputs = [normalize_obs(normalizer, obs), normalize_action(normalizer, action)]
        return apply(network, params, jnp.concatenate(inputs, axis=-1))[:, 0]

    def loss_fn(params: Params, target: Params, batch: Transition, key: Key) -> Array:
        next_q = q(target, batch.next_obs, policy_fn(batch.next_obs, key))
        goal = scale * batch.reward + settings.gamma * jnp.where(batch.terminated, 0.0, next_q)
        return jnp.mean(jnp.square(q(params, batch.obs, batch.action) - jax.lax.stop_gradient(goal)))

    def step(state: _State, key: Key) -> tuple[_State, Array]:
        batch_key, action_key = jax.random.split(key)
        batch = sample_transitions(dataset, batch_key, settings.batch_size)
        loss, grads = jax.value_and_grad(loss_fn)(state.params, state.target, batch, action_key)
        updates, optimizer_state = optimizer.update(grads, state.optimizer)
        params = optax.apply_updates(state.params, updates)
        target = optax.incremental_update(params, state.target, settings.tau)
        return _State(params, target, optimizer_state), loss

    params = network.init(init_key, jnp.zeros((1, data.obs.shape[1] + data.action.shape[1])))
    state = _State(params, params, optimizer.init(params))
    state, losses = jax.lax.scan(step, state, jax.random.split(steps_key, settings.num_steps))
    obs = data.obs[starts]
    value = q(state.target, obs, policy_fn(obs, value_key)).mean() / scale  # as DOPE's: it moves slowly
    return FQEResult(value, losses[-max(settings.num_steps // 10, 1) :].mean())
