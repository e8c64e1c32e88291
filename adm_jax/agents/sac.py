"""Soft actor-critic (Haarnoja et al., 2018; settings of the ADM paper, Table 3) as pure functions."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax

from adm_jax.config import SWEPT, Hyper, SACConfig
from adm_jax.config.settings import only_value
from adm_jax.nn import squashed_gaussian
from adm_jax.nn.layers import MLP, apply
from adm_jax.types import ActionBounds, Array, Key, Normalizer, Params, Transition

Metrics = dict[str, Array]
_ADAM = optax.scale_by_adam()


class SACState(NamedTuple):
    """Everything that changes while SAC learns."""

    actor_params: Params
    critic_params: Params  # leaves [num_critics, ...]
    target_critic_params: Params
    log_alpha: Array  # []
    actor_opt: optax.OptState
    critic_opt: optax.OptState
    alpha_opt: optax.OptState
    frozen: Array  # [] bool: it was not finite once, and learns no more
    average_actor_params: Params | None = (
        None  # exponential average of the actor's; None without actor_average
    )

    @property
    def policy_params(self) -> Params:
        """The actor that is evaluated and kept: the averaged one, where there is one."""
        return self.actor_params if self.average_actor_params is None else self.average_actor_params

    @property
    def unaveraged_params(self) -> Params | None:
        """The actor that learns, where the policy is its average."""
        return None if self.average_actor_params is None else self.actor_params


class Cloning(NamedTuple):
    """Recorded actions that the actor is held to: those of the first R rows of a batch."""

    action: Array  # [R, A]
    row_weight: Array  # [R]


class SAC(NamedTuple):
    """SAC for given dimensions: pure functions that close over nothing but static settings."""

    init: Callable[..., SACState]  # (Key, Hyper, normalizer=None)
    # (SACState, Transition, Key, Hyper, with_actor=True, cloning=None)
    update: Callable[..., tuple[SACState, Metrics]]
    sample_action: Callable[[Params, Array, Key], Array]
    mode_action: Callable[[Params, Array], Array]
    q_values: Callable[[Params, Array, Array], Array]  # (critic_params, obs, action) to [num_critics, B]
    critic_loss: Callable[..., tuple[Array, Metrics]]
    actor_loss: Callable[..., tuple[Array, Metrics]]


def make_hyper(config: SACConfig, penalty_coef: float = 0.0) -> Hyper:
    """The traced scalars of a configuration.

    Raises:
      InputError: a setting has several values.
    """
    own = {name: getattr(config, name) for name in SWEPT if name != "penalty_coef"}
    values = {"penalty_coef": penalty_coef, **{n: only_value(n, value) for n, value in own.items()}}
    return Hyper(**{name: jnp.asarray(value, jnp.float32) for name, value in values.items()})


def make_actor(obs_dim: int, action_dim: int, config: SACConfig) -> MLP:
    """The actor's network ``[..., D] -> [..., 2 A]``; also what behaviour cloning trains."""
    return MLP(
        config.policy_hidden_dim,
        config.policy_hidden_layers,
        2 * action_dim,
        layer_norm=config.actor_layer_norm,
        standardize=obs_dim if config.standardize_obs else 0,
    )


def make_critic(obs_dim: int, config: SACConfig) -> MLP:
    """A critic's network ``[..., D + A] -> [..., 1]``."""
    return MLP(
        config.policy_hidden_dim,
        config.policy_hidden_layers,
        1,
        layer_norm=config.critic_layer_norm,
        standardize=obs_dim if config.standardize_obs else 0,
    )


class _Spec(NamedTuple):
    """What is static about an agent."""

    obs_dim: int
    bounds: ActionBounds
    config: SACConfig
    actor: MLP
    critic: MLP


def make_sac(obs_dim: int, bounds: ActionBounds, config: SACConfig) -> SAC:
    """SAC over observations [B, D] and actions [B, A] within bounds; entropies are of normalised actions.

    One update moves the critics and their targets, then (on the critics as updated) the actor, then alpha
    where it is adapted; the last two only ``with_actor``, which may be traced (their metrics are NaN else). A
    learning rate multiplies Adam's direction, so that it may be traced.
    """
    actor, critic = make_actor(obs_dim, bounds.action_dim, config), make_critic(obs_dim, config)
    spec = _Spec(obs_dim, bounds, config, actor, critic)
    return SAC(
        init=partial(_init, spec),
        update=partial(_update, spec),
        sample_action=lambda actor_params, obs, key: bounds.denormalize(
            _sample(spec, actor_params, obs, key)[0]
        ),
        mode_action=lambda actor_params, obs: bounds.denormalize(
            squashed_gaussian.mode(apply(spec.actor, actor_params, obs), bounds.scale)
        ),
        q_values=lambda critic_params, obs, action: _q_values(
            spec, critic_params, obs, bounds.normalize(action)
        ),
        critic_loss=partial(_critic_loss, spec),
        actor_loss=partial(_actor_loss, spec),
    )


def standardized(params: Params, normalizer: Normalizer | None) -> Params:
    """A network's parameters with the dataset's moments in place of the constants it starts with."""
    if normalizer is None or "Standardize_0" not in params["params"]:
        return params
    shape = params["params"]["Standardize_0"]["mean"].shape
    moments = {"mean": normalizer.obs_mean, "std": normalizer.obs_std}
    moments = {name: jnp.broadcast_to(x, shape) for name, x in moments.items()}
    return {"params": {**params["params"], "Standardize_0": moments}}


def with_raw_inputs(actor_params: Params) -> Params:
    """An actor's parameters, on the host, with what standardises observations put into its first layer."""
    layers = dict(jax.device_get(actor_params)["params"])
    constants = layers.pop("Standardize_0", None)
    if constants is not None:
        kernel = layers["Dense_0"]["kernel"] / constants["std"][:, None]
        layers["Dense_0"] = {"kernel": kernel, "bias": layers["Dense_0"]["bias"] - constants["mean"] @ kernel}
    return {"params": layers}


def _init(spec: _Spec, key: Key, hyper: Hyper, normalizer: Normalizer | None = None) -> SACState:
    actor_key, critic_key = jax.random.split(key)
    actor_params = spec.actor.init(actor_key, jnp.zeros((1, spec.obs_dim)))
    actor_params = standardized(actor_params, normalizer)
    q_input = jnp.zeros((1, spec.obs_dim + spec.bounds.action_dim))
    critic_keys = jax.random.split(critic_key, spec.config.num_critics)
    critic_params = jax.vmap(lambda one_key: spec.critic.init(one_key, q_input))(critic_keys)
    critic_params = standardized(critic_params, normalizer)
    log_alpha = jnp.log(hyper.entropy_weight)
    return SACState(
        actor_params=actor_params,
        critic_params=critic_params,
        # a copy: the same buffer may not be donated twice
        target_critic_params=jax.tree.map(jnp.copy, critic_params),
        log_alpha=log_alpha,
        actor_opt=_ADAM.init(actor_params),
        critic_opt=_ADAM.init(critic_params),
        alpha_opt=_ADAM.init(log_alpha),
        frozen=jnp.zeros((), bool),
        average_actor_params=jax.tree.map(jnp.copy, actor_params) if spec.config.actor_average else None,
    )


def unless_broken(before: SACState, after: SACState, metrics: Metrics) -> SACState:
    """The agent after some updates, or the one before them, frozen, where a number of it is not finite.

    ``metrics`` are the updates' means; the actor's loss is NaN where it waited.
    """
    numbers = [x for x in jax.tree.leaves(after) if jnp.issubdtype(x.dtype, jnp.inexact)]
    finite = jnp.stack([jnp.isfinite(x).all() for x in [*numbers, metrics["critic/loss"]]]).all()
    frozen = before.frozen | ~finite | jnp.isinf(metrics["actor/loss"])
    # a branch: to choose number by number takes a seventh of an update's time
    return jax.lax.cond(frozen, lambda: before, lambda: after)._replace(frozen=frozen)


def _sample(spec: _Spec, actor_params: Params, obs: Array, key: Key) -> tuple[Array, Array]:
    """The policy's normalised action [B, A] and its log-density [B]."""
    head = apply(spec.actor, actor_params, obs)
    return squashed_gaussian.sample_and_log_prob(head, key, spec.bounds.scale)


def _q_values(spec: _Spec, critic_params: Params, obs: Array, action: Array) -> Array:
    """All critics' values [num_critics, B] of normalised actions."""
    q_input = jnp.concatenate([obs, action], axis=-1)
    return jax.vmap(lambda one: apply(spec.critic, one, q_input))(critic_params)[..., 0]


def _critic_loss(
    spec: _Spec, critic_params: Params, state: SACState, batch: Transition, key: Key, alpha: Array
) -> tuple[Array, Metrics]:
    next_action, next_log_prob = _sample(spec, state.actor_params, batch.next_obs, key)
    next_q = _q_values(spec, state.target_critic_params, batch.next_obs, next_action)
    next_q = _least(next_q, spec.config.num_min_critics, jax.random.fold_in(key, 1))
    not_done = 1.0 - batch.terminated.astype(jnp.float32)
    chex.assert_equal_shape([batch.reward, not_done, next_q, next_log_prob])
    next_value = next_q if spec.config.deterministic_backup else next_q - alpha * next_log_prob
    discount = spec.config.gamma if batch.discount is None else batch.discount
    target = batch.reward + discount * not_done * next_value
    q = _q_values(spec, critic_params, batch.obs, spec.bounds.normalize(batch.action))
    chex.assert_shape(q, (spec.config.num_critics, *target.shape))
    error = q - jax.lax.stop_gradient(target)[None]
    loss = jnp.sum(jnp.mean(jnp.square(error), axis=-1))  # each critic has its own mean squared error
    return loss, {"critic/loss": loss, "critic/q": q.mean()}


def _least(q: Array, number: int | None, key: Key) -> Array:
    """The minimum [B] over ``number`` of the critics' values [num_critics, B], drawn anew; None: over all."""
    if number is not None and number < len(q):
        q = q[jax.random.permutation(key, len(q))[:number]]
    return q.min(axis=0)


def _actor_loss(
    spec: _Spec,
    actor_params: Params,
    critic_params: Params,
    obs: Array,
    key: Key,
    alpha: Array,
    cloning: Cloning | None = None,
    cloning_weight: Array | float = 0.0,
) -> tuple[Array, Metrics]:
    head = apply(spec.actor, actor_params, obs)
    action, log_prob = squashed_gaussian.sample_and_log_prob(head, key, spec.bounds.scale)
    q = _q_values(spec, critic_params, obs, action)
    # the mean where targets take the minimum of a few (REDQ; Chen et al., 2021)
    q = q.min(axis=0) if spec.config.num_min_critics is None else q.mean(axis=0)
    chex.assert_equal_shape([q, log_prob])
    loss = jnp.mean(alpha * log_prob - q)
    metrics = {"actor/loss": loss, "actor/entropy": -log_prob.mean()}
    if cloning is not None:
        num_rows = len(cloning.action)
        term = _cloning_term(spec, head[:num_rows], critic_params, obs[:num_rows], cloning)
        scale = jax.lax.stop_gradient(jnp.abs(q).mean())
        loss = loss + cloning_weight * scale * term
        metrics = {**metrics, "actor/loss": loss, "actor/cloning": term}
    return loss, metrics


def _cloning_term(spec: _Spec, head: Array, critic_params: Params, obs: Array, cloning: Cloning) -> Array:
    """Mean squared distance [] of the mode from recorded actions, in units of the action's bound.

    A mean over the action's dimensions, and a weighted one over rows; with ``cloning_rows=better`` a row
    counts only where the critics' minimum prefers the recorded action to the mode.
    """
    mode, target = squashed_gaussian.mode(head, spec.bounds.scale), spec.bounds.normalize(cloning.action)
    chex.assert_equal_shape([mode, target])
    distance = jnp.square((mode - target) / spec.bounds.scale).mean(axis=-1)
    if spec.config.cloning_rows == "better":
        recorded, own = (_q_values(spec, critic_params, obs, action).min(axis=0) for action in (target, mode))
        distance = jnp.where(jax.lax.stop_gradient(recorded > own), distance, 0.0)
    chex.assert_equal_shape([distance, cloning.row_weight])
    return jnp.mean(cloning.row_weight * distance)


def _update(
    spec: _Spec,
    state: SACState,
    batch: Transition,
    key: Key,
    hyper: Hyper,
    with_actor: Array | bool = True,
    cloning: Cloning | None = None,
) -> tuple[SACState, Metrics]:
    config = spec.config
    critic_key, actor_key = jax.random.split(key)
    alpha = jnp.exp(state.log_alpha) if config.auto_entropy else hyper.entropy_weight
    if config.max_entropy_weight is not None:
        alpha = jnp.minimum(alpha, config.max_entropy_weight)

    gradient_fn = jax.grad(partial(_critic_loss, spec), has_aux=True)
    grads, critic_metrics = gradient_fn(state.critic_params, state, batch, critic_key, alpha)
    direction, critic_opt = _ADAM.update(grads, state.critic_opt)
    critic_params = descend(state.critic_params, direction, hyper.critic_lr)
    targets = jax.tree.map(lambda t, p: t + hyper.tau * (p - t), state.target_critic_params, critic_params)
    state = state._replace(critic_params=critic_params, critic_opt=critic_opt, target_critic_params=targets)

    def move_actor(state: SACState) -> tuple[SACState, Metrics]:
        return _update_actor(spec, state, batch.obs, actor_key, alpha, hyper, cloning)

    def leave_actor(state: SACState) -> tuple[SACState, Metrics]:
        shapes = jax.eval_shape(move_actor, state)[1]
        return state, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

    if with_actor is True:
        state, actor_metrics = move_actor(state)
    else:
        state, actor_metrics = jax.lax.cond(with_actor, move_actor, leave_actor, state)
    return state, {**critic_metrics, **actor_metrics, "actor/alpha": alpha}


def _update_actor(
    spec: _Spec,
    state: SACState,
    obs: Array,
    key: Key,
    alpha: Array,
    hyper: Hyper,
    cloning: Cloning | None,
) -> tuple[SACState, Metrics]:
    """Moves the actor on the critics as they are, and alpha where it is adapted."""
    config = spec.config
    gradient_fn = jax.grad(partial(_actor_loss, spec), has_aux=True)
    grads, metrics = gradient_fn(
        state.actor_params, state.critic_params, obs, key, alpha, cloning, hyper.cloning_weight
    )
    direction, actor_opt = _ADAM.update(grads, state.actor_opt)
    actor_params = descend(state.actor_params, direction, hyper.actor_lr)
    average = state.average_actor_params
    if average is not None:
        share = config.actor_average
        average = jax.tree.map(lambda mean, new: mean + share * (new - mean), average, actor_params)
    log_alpha, alpha_opt = state.log_alpha, state.alpha_opt
    if config.auto_entropy:
        target_entropy = config.target_entropy
        if target_entropy is None:
            target_entropy = -float(spec.bounds.action_dim)
        # gradient of -log_alpha * (log_prob + target_entropy), averaged over the batch
        gradient = metrics["actor/entropy"] - target_entropy
        direction, alpha_opt = _ADAM.update(gradient, alpha_opt)
        log_alpha = descend(log_alpha, direction, hyper.entropy_lr)
    new_state = state._replace(
        actor_params=actor_params,
        actor_opt=actor_opt,
        log_alpha=log_alpha,
        alpha_opt=alpha_opt,
        average_actor_params=average,
    )
    return new_state, metrics


def descend(params: Params, direction: Params, learning_rate: Array) -> Params:
    """A step of a traced rate along Adam's direction."""
    return jax.tree.map(lambda p, d: p - learning_rate * d, params, direction)
