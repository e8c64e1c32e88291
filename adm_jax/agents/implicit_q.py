"""Implicit Q-learning (Kostrikov et al., 2022): critics and advantages from a dataset's own actions alone.

No action outside of the dataset is ever valued, so nothing is extrapolated. Policy optimisation starts from
these critics, and clones recorded actions by their advantage.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from adm_jax.agents import sac
from adm_jax.config import PretrainConfig, SACConfig
from adm_jax.data.dataset import Dataset, sample_transitions
from adm_jax.nn.layers import apply
from adm_jax.returns import lambda_returns
from adm_jax.types import ActionBounds, Array, Key, Params, Transition

_ADAM = optax.scale_by_adam()
_MAX_ROW_WEIGHT = 20.0


class InSample(NamedTuple):
    """Values learned from recorded actions."""

    critic_params: Params  # leaves [num_critics, ...], as SAC's
    target_critic_params: Params
    value_params: Params
    critic_opt: optax.OptState
    value_opt: optax.OptState


def value_loss(
    value_params: Params, state: InSample, batch: Transition, config: SACConfig, expectile: float
) -> Array:
    """Expectile regression [] of V on the target critics' minimum at the recorded actions."""
    q = q_values(state.target_critic_params, batch.obs, batch.action, config).min(axis=0)
    error = q - values(value_params, batch.obs, config)
    weight = jnp.where(error > 0.0, expectile, 1.0 - expectile)
    return jnp.mean(weight * jnp.square(error))


def critic_loss(critic_params: Params, value_params: Params, batch: Transition, config: SACConfig) -> Array:
    """Squared error [] of every critic against ``r + gamma V(s')``, summed over critics."""
    not_done = 1.0 - batch.terminated.astype(jnp.float32)
    target = batch.reward + config.gamma * not_done * values(value_params, batch.next_obs, config)
    q = q_values(critic_params, batch.obs, batch.action, config)
    return jnp.sum(jnp.mean(jnp.square(q - jax.lax.stop_gradient(target)[None]), axis=-1))


def q_values(critic_params: Params, obs: Array, action: Array, config: SACConfig) -> Array:
    """All critics' values [num_critics, B] of normalised actions."""
    critic, q_input = sac.make_critic(obs.shape[-1], config), jnp.concatenate([obs, action], axis=-1)
    return jax.vmap(lambda one: apply(critic, one, q_input))(critic_params)[..., 0]


def values(value_params: Params, obs: Array, config: SACConfig) -> Array:
    """State values [B]; the network is a critic's without an action."""
    return apply(sac.make_critic(obs.shape[-1], config), value_params, obs)[..., 0]


def pretrain(
    dataset: Dataset, key: Key, pretrain: PretrainConfig, bounds: ActionBounds, config: SACConfig
) -> tuple[InSample, dict[str, Array]]:
    """Learns critics and state values from the whole dataset; their rate decays to zero as a cosine.

    Args:
      dataset: the transitions.
      key: consumed.
      pretrain: how long, and which expectile.
      bounds: of the actions.
      config: networks, batch size, gamma, rates.

    Returns:
      ``(values, metrics)``.
    """
    critic_key, value_key, steps_key = jax.random.split(key, 3)
    obs_dim, action_dim = (x.shape[-1] for x in (dataset.transitions.obs, dataset.transitions.action))
    critic, q_input = sac.make_critic(obs_dim, config), jnp.zeros((1, obs_dim + action_dim))
    critic_keys = jax.random.split(critic_key, config.num_critics)
    critic_params = jax.vmap(lambda one_key: critic.init(one_key, q_input))(critic_keys)
    value_params = critic.init(value_key, jnp.zeros((1, obs_dim)))
    critic_params, value_params = (
        sac.standardized(params, dataset.normalizer) for params in (critic_params, value_params)
    )
    state = InSample(
        critic_params,
        jax.tree.map(jnp.copy, critic_params),
        value_params,
        _ADAM.init(critic_params),
        _ADAM.init(value_params),
    )

    def step(state: InSample, xs: tuple[Key, Array]) -> tuple[InSample, tuple[Array, Array]]:
        step_key, index = xs
        batch = sample_transitions(dataset, step_key, config.batch_size)
        batch = batch._replace(action=bounds.normalize(batch.action))
        rate = pretrain.pretrain_lr * 0.5 * (1.0 + jnp.cos(jnp.pi * index / pretrain.pretrain_steps))
        loss, grads = jax.value_and_grad(value_loss)(
            state.value_params, state, batch, config, pretrain.expectile
        )
        direction, value_opt = _ADAM.update(grads, state.value_opt)
        value_params = sac.descend(state.value_params, direction, rate)
        q_loss, grads = jax.value_and_grad(critic_loss)(state.critic_params, value_params, batch, config)
        direction, critic_opt = _ADAM.update(grads, state.critic_opt)
        critic_params = sac.descend(state.critic_params, direction, rate)
        targets = jax.tree.map(
            lambda t, p: t + pretrain.pretrain_tau * (p - t), state.target_critic_params, critic_params
        )
        return InSample(critic_params, targets, value_params, critic_opt, value_opt), (loss, q_loss)

    steps = jnp.arange(pretrain.pretrain_steps)
    xs = (jax.random.split(steps_key, pretrain.pretrain_steps), steps.astype(jnp.float32))
    state, (losses, q_losses) = jax.lax.scan(step, state, xs)
    last = min(pretrain.pretrain_steps, 100)
    return state, {
        "pretrain/value_loss": losses[-last:].mean(),
        "pretrain/critic_loss": q_losses[-last:].mean(),
    }


def advantages(
    state: InSample, dataset: Dataset, config: SACConfig, trace_decay: float, chunk: int = 10_000
) -> tuple[Array, Array]:
    """``G - V(s)`` and ``V(s)`` of recorded transitions [N], G their lambda-returns to the episode's end.

    With ``trace_decay`` (lambda) 1 G is the recorded discounted return, and where an episode is cut off V
    takes its place; with 0 it is ``r + gamma V(s')``. Networks see ``chunk`` rows at a time.
    """
    transitions = dataset.transitions
    num_rows = transitions.reward.shape[0]

    def of_chunk(index: Array) -> tuple[Array, Array]:
        rows = jnp.minimum(index * chunk + jnp.arange(chunk), num_rows - 1)
        obs, next_obs = transitions.obs[rows], transitions.next_obs[rows]
        return values(state.value_params, obs, config), values(state.value_params, next_obs, config)

    chunks = jax.lax.map(of_chunk, jnp.arange(-(-num_rows // chunk)))
    value, next_value = (x.reshape(-1)[:num_rows] for x in chunks)
    continues = jnp.append(dataset.steps_from_start[1:] > 0, False)
    returns = lambda_returns(
        transitions.reward, next_value, transitions.terminated, continues, config.gamma, trace_decay
    )
    return returns - value, value


def row_weights(
    state: InSample, dataset: Dataset, pretrain: PretrainConfig, config: SACConfig
) -> tuple[Array, dict[str, Array]]:
    """Weights [N], of mean 1, to clone recorded actions with: those that led to more than V count for more.

    They are ``exp(A / (temperature mean|V|))``, cut at 20 (Wang et al., 2018; Peng et al., 2019): advantages
    are shares of the value, so that rewards may have any scale.

    Returns:
      ``(weights, metrics)``.
    """
    advantage, value = advantages(state, dataset, config, pretrain.advantage_trace_decay)
    scale = jnp.maximum(jnp.abs(value).mean(), 1e-6)
    exponent = advantage / (pretrain.advantage_temperature * scale)
    # where V, still near zero, lies above all returns, the ratios are kept and no row's weight vanishes
    exponent -= jnp.minimum(exponent.max(), 0.0)
    weight = jnp.minimum(jnp.exp(exponent), _MAX_ROW_WEIGHT)
    weight = weight / weight.mean()
    return weight, {
        "pretrain/advantage_spread": advantage.std() / scale,
        "pretrain/effective_share": 1.0 / jnp.square(weight).mean(),
    }
