"""The compiled programs of offline policy optimisation, each over the whole population.

One iteration of ADMPO-OFF (ADM paper, Algorithm 3) is two programs: ``roll out, penalise, insert``
and ``updates_per_epoch`` SAC updates. They are written for one member and mapped over the
population here, outermost, with the buffers donated.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adm_jax import model_envs
from adm_jax.agents import implicit_q
from adm_jax.agents.behaviour_cloning import clone
from adm_jax.agents.implicit_q import Preferences
from adm_jax.agents.sac import SAC, Cloning, SACState, make_sac
from adm_jax.config import Hyper, OfflineConfig, RolloutConfig
from adm_jax.config.settings import values_of
from adm_jax.data import ring_buffer
from adm_jax.data.dataset import Dataset, sample_rows, transitions_at
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import Carry, Dynamics, ModelParams, make_dynamics
from adm_jax.dynamics.uncertainty import UNCERTAINTIES
from adm_jax.envs.user_functions import RewardFn
from adm_jax.model_envs import ModelEnvs
from adm_jax.population.members import over_members
from adm_jax.population.memory import tree_bytes
from adm_jax.returns import sample_lambda_returns
from adm_jax.rollout import (
    Simulation,
    chunk_size,
    data_uncertainty,
    encode_histories,
    open_loop_errors,
    rollout,
)
from adm_jax.types import Array, InputError, Key, Params, Segment, Transition

OPEN_LOOP_STEPS = 10
_UNCERTAINTY_ROWS = 10_000  # of the data, whose uncertainty's quantile ends roll-outs


class OfflineParts(NamedTuple):
    """What the programs are made of, settled by the configuration and the task."""

    dynamics: Dynamics
    agent: SAC
    termination_fn: Callable[[Array], Array]
    obs_dim: int
    action_dim: int
    action_scale: float
    members: str  # vmap or map
    reward_fn: RewardFn | None = None  # known reward; the model's own when None


class TrainState(NamedTuple):
    """Everything that changes, or is needed, while policies are optimised; leaves [P, ...]."""

    agent: SACState
    buffer: RingBuffer
    model: ModelParams
    envs: ModelEnvs | None = None  # persistent ones in the model
    preferences: Preferences | None = None  # which recorded actions are cloned, where rows differ
    max_uncertainty: Array | None = None  # [P], above which roll-outs end


def make_parts(
    config: OfflineConfig,
    obs_dim: int,
    action_dim: int,
    action_scale: float,
    termination_fn: Callable[[Array], Array],
    members: str,
    reward_fn: RewardFn | None = None,
) -> OfflineParts:
    """The dynamics model and the agent of a configuration.

    Raises:
      InputError: the model doesn't offer the uncertainty that the configuration penalises.
    """
    dynamics = make_dynamics(config.dynamics, obs_dim, action_dim, config.model)
    if max(values_of(config.penalty_coef)) > 0 and config.rollout.uncertainty not in dynamics.uncertainties:
        raise InputError(
            f"uncertainty: {config.rollout.uncertainty} says nothing of the predictions of {config.dynamics} "
            f"with these settings; one of {', '.join(dynamics.uncertainties)}"
        )
    return OfflineParts(
        dynamics=dynamics,
        agent=make_sac(obs_dim, action_dim, action_scale, config.sac),
        termination_fn=termination_fn,
        obs_dim=obs_dim,
        action_dim=action_dim,
        action_scale=action_scale,
        members=members,
        reward_fn=reward_fn,
    )


def buffer_capacity(config: OfflineConfig) -> int:
    """Rows of one member's model buffer: all of ``retain_epochs`` epochs' roll-outs, in whole chunks."""
    rollout_config, chunk = config.rollout, _chunk(config)
    num_starts = -(-rollout_config.rollout_batch_size // chunk) * chunk
    return num_starts * rollout_config.rollout_length * rollout_config.retain_epochs


def init_fit_program(parts: OfflineParts) -> Callable[[Key, Dataset], fitting.FitState]:
    """``(keys [P], dataset) -> FitState [P]``: fits that have not begun."""
    return over_members(lambda key, dataset: fitting.init(parts.dynamics, dataset, key), parts.members)


def best_program(parts: OfflineParts) -> Callable[..., ModelParams]:
    """``(FitState [P], dataset, holdout) -> model [P]``: the fitted models, as roll-outs use them."""

    def best(fit: fitting.FitState, dataset: Dataset, holdout: Segment) -> ModelParams:
        return fitting.best_params(parts.dynamics, fit, dataset, holdout)

    return over_members(best, parts.members)


def init_train_program(
    parts: OfflineParts, config: OfflineConfig
) -> Callable[..., tuple[SACState, RingBuffer]]:
    """``(keys [P], hyper [P], actor_params [P] or None, dataset) -> (SACState [P], RingBuffer [P])``.

    Agents that have not learned, but for an actor that is given, and empty buffers.
    """

    def init_member(member: tuple[Key, Hyper, Params | None], dataset: Dataset) -> Any:
        key, hyper, actor_params = member
        buffer = ring_buffer.init(
            buffer_capacity(config), parts.obs_dim, parts.action_dim, discounts=config.rollout.trace_decay > 0
        )
        agent = parts.agent.init(key, hyper, dataset.normalizer)
        if actor_params is not None:
            average = None if agent.average_actor_params is None else jax.tree.map(jnp.copy, actor_params)
            agent = agent._replace(actor_params=actor_params, average_actor_params=average)
        return agent, buffer

    mapped = over_members(init_member, parts.members)
    return lambda keys, hyper, actor_params, dataset: mapped((keys, hyper, actor_params), dataset)


def fit_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., Any]:
    """One epoch of every member's fit.

    ``(FitState [P], keys [P], bootstrap_keys [P], dataset, holdout, shared_key) -> (FitState, metrics [P])``;
    ``keys`` and ``shared_key`` are of an epoch, ``bootstrap_keys`` of the whole fit.
    """

    def fit_member(
        member: tuple[fitting.FitState, Key, Key], dataset: Dataset, holdout: Segment, shared_key: Key
    ) -> tuple[fitting.FitState, dict[str, Array]]:
        state, key, bootstrap_key = member
        fit_keys = fitting.FitKeys(key, bootstrap_key, shared_key)

        def epoch(state: fitting.FitState) -> tuple[fitting.FitState, dict[str, Array]]:
            return fitting.fit_epoch(parts.dynamics, config.fit, state, dataset, holdout, fit_keys)

        return fitting.epoch_unless_stopped(epoch, state) if parts.members == "map" else epoch(state)

    mapped = over_members(fit_member, parts.members)
    return lambda state, keys, bootstrap_keys, dataset, holdout, shared_key: mapped(
        (state, keys, bootstrap_keys), dataset, holdout, shared_key
    )


def errors_program(parts: OfflineParts) -> Callable[..., Any]:
    """``(model [P], keys [P], holdout, long_holdout) -> metrics [P]``: held-out errors of the fitted models.

    Besides a model's own errors per backtracking length (means over its networks), its errors when it is fed
    its own predictions, over all steps of ``long_holdout``: a measure that is the same for every model.
    """

    def errors_member(
        member: tuple[ModelParams, Key], holdout: Segment, long_holdout: Segment
    ) -> dict[str, Array]:
        model, key = member
        known = holdout.valid.any(axis=0)
        errors = parts.dynamics.validate(model, holdout)
        mse, nll = (jnp.where(known, x.mean(axis=0), jnp.nan) for x in errors)  # [K]
        return {
            "model/holdout_nll": jnp.mean(nll, where=known),
            "model/holdout_mse": jnp.mean(mse, where=known),
            "model/holdout_nll_per_k": nll,
            "model/holdout_mse_per_k": mse,
            "model/open_loop_mse_per_step": open_loop_errors(parts.dynamics, model, long_holdout, key),
        }

    mapped = over_members(errors_member, parts.members)
    return lambda model, keys, holdout, long_holdout: mapped((model, keys), holdout, long_holdout)


def histories_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., Any]:
    """``(model [P], dataset) -> histories [P]``: the histories of all transitions, encoded."""
    return over_members(
        lambda model, dataset: encode_histories(parts.dynamics, model, dataset, _chunk(config)), parts.members
    )


def kept_histories(
    parts: OfflineParts, config: OfflineConfig, model: ModelParams, dataset: Dataset
) -> Carry | None:
    """Shapes of a run's encoded histories [P, ...] if it keeps them: that must pay, and they must fit in.

    Both are asked of one member: encoded histories differ in the last bits from those that a roll-out
    encodes, and a member must not depend on how many others are trained beside it, or where.
    """
    num_rows = dataset.transitions.reward.shape[0]
    if config.rollout.persistent:
        return None
    if config.num_epochs * config.rollout.rollout_batch_size <= 2 * num_rows:
        return None
    histories = jax.eval_shape(histories_program(parts, config), model, dataset)
    num_members = jax.tree.leaves(model)[0].shape[0]
    size = tree_bytes(histories) / num_members
    return histories if 0 < size <= config.rollout.history_cache_gib * 2**30 else None


def _chunk(config: OfflineConfig) -> int:
    return chunk_size(config.rollout.rollout_chunk, config.rollout.rollout_batch_size)


def simulation(
    parts: OfflineParts, config: RolloutConfig, actor_params: Params, model: ModelParams, hyper: Hyper
) -> Simulation:
    """One member's policy in its model."""
    return Simulation(
        parts.dynamics,
        model,
        partial(parts.agent.sample_action, actor_params),
        parts.termination_fn,
        UNCERTAINTIES[config.uncertainty],
        hyper.penalty_coef,
        parts.reward_fn,
    )


def init_envs_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., ModelEnvs]:
    """``(model [P], dataset) -> envs [P]``: persistent environments in every member's model."""
    num_envs = config.rollout.rollout_batch_size
    return over_members(
        lambda model, dataset: model_envs.init(parts.dynamics, model, dataset, num_envs, _chunk(config)),
        parts.members,
    )


def rollout_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., Any]:
    """``((buffer, envs) [P], actor_params, model, max_uncertainty, histories, hyper, keys, dataset)``.

    To the same ``(buffer, envs)`` and metrics. ``max_uncertainty`` [P] ends roll-outs, or is None.

    ``histories`` are what ``histories_program`` gives, or None: they are encoded in each roll-out then.
    ``envs`` are None where roll-outs begin anew.
    """
    settings = config.rollout
    returns_fn = None
    if settings.trace_decay:
        returns_fn = partial(sample_lambda_returns, gamma=config.sac.gamma, trace_decay=settings.trace_decay)

    def rollout_member(
        member: tuple[
            tuple[RingBuffer, ModelEnvs | None], Params, ModelParams, Array | None, Array, Hyper, Key
        ],
        histories: Carry | None,
        dataset: Dataset,
    ) -> tuple[tuple[RingBuffer, ModelEnvs | None], dict[str, Array]]:
        (buffer, envs), actor_params, model, max_uncertainty, index, hyper, key = member

        def own_histories(rows: Array) -> Carry:
            return jax.tree.map(lambda x: x[index, rows], histories)

        simulated = simulation(parts, settings, actor_params, model, hyper)
        simulated = simulated._replace(max_uncertainty=max_uncertainty)
        if envs is None:
            rows = rollout(
                simulated._replace(histories_fn=None if histories is None else own_histories),
                dataset,
                key,
                num_starts=settings.rollout_batch_size,
                length=settings.rollout_length,
                chunk=_chunk(config),
                returns_fn=returns_fn,
            )
        else:
            envs, rows = model_envs.advance(
                simulated,
                envs,
                dataset,
                key,
                num_envs=settings.rollout_batch_size,
                length=settings.rollout_length,
                horizon=settings.horizon,
                returns_fn=returns_fn,
            )
        return (ring_buffer.add(buffer, rows.transitions, rows.valid), envs), rows.metrics

    mapped = over_members(rollout_member, parts.members)

    def roll_out(
        state: Any,
        actor_params: Params,
        model: ModelParams,
        max_uncertainty: Array | None,
        histories: Carry | None,
        hyper: Hyper,
        keys: Key,
        dataset: Dataset,
    ) -> Any:
        # indexed, not mapped over: one after the other, each member's would be copied out first
        members = (state, actor_params, model, max_uncertainty, jnp.arange(keys.shape[0]), hyper, keys)
        return mapped(members, histories, dataset)

    return roll_out


def update_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., Any]:
    """``(SACState [P], RingBuffer, preferences, hyper, keys, dataset, factors) -> (SACState, metrics [P])``.

    A batch holds ``int(real_ratio * batch_size)`` real transitions, the rest comes from the model buffer.
    ``preferences`` are Preferences [P] or None; ``factors`` scale the rates of actor and critics, [] each.
    """
    settings = config.sac
    num_real = int(settings.batch_size * config.real_ratio)
    num_model = settings.batch_size - num_real
    clones = max(values_of(settings.cloning_weight)) > 0

    def draw_real(dataset: Dataset, key: Key, preferences: Preferences | None) -> tuple[Transition, Any]:
        rows = sample_rows(dataset, key, num_real)
        real = transitions_at(dataset, rows)
        cloning = None
        if clones and preferences is not None:
            cloning = Cloning(real.action, preferences.row_weight[rows], 1.0 / preferences.spread)
        elif clones:
            cloning = Cloning(real.action, jnp.ones((num_real,)))
        if config.rollout.trace_decay > 0:  # the model's rows have discounts of their own
            real = real._replace(discount=jnp.full((num_real,), settings.gamma))
        return real, cloning

    def update_member(
        member: tuple[SACState, RingBuffer, Preferences | None, Hyper, Key],
        dataset: Dataset,
        factors: tuple[Array, Array],
    ) -> tuple[SACState, dict[str, Array]]:
        state, buffer, preferences, hyper, key = member
        actor_factor, critic_factor = factors
        hyper = hyper._replace(
            actor_lr=hyper.actor_lr * actor_factor, critic_lr=hyper.critic_lr * critic_factor
        )

        def step(state: SACState, step_key: Key) -> tuple[SACState, dict[str, Array]]:
            real_key, model_key, update_key = jax.random.split(step_key, 3)
            parts_of_batch: list[Transition] = []
            cloning = None
            if num_real:
                real, cloning = draw_real(dataset, real_key, preferences)
                parts_of_batch.append(real)
            if num_model:
                parts_of_batch.append(ring_buffer.sample(buffer, model_key, num_model))
            batch = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts_of_batch)
            return parts.agent.update(state, batch, update_key, hyper, cloning=cloning)

        state, metrics = jax.lax.scan(step, state, jax.random.split(key, config.updates_per_epoch))
        return state, jax.tree.map(jnp.mean, metrics)

    mapped = over_members(update_member, parts.members)
    return lambda state, buffer, preferences, hyper, keys, dataset, factors: mapped(
        (state, buffer, preferences, hyper, keys), dataset, factors
    )


def clone_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., Any]:
    """``(keys [S], Preferences [S] or None, dataset) -> (actor_params [S], metrics [S])``: cloned actors."""

    def clone_member(
        member: tuple[Key, Preferences | None], dataset: Dataset
    ) -> tuple[Params, dict[str, Array]]:
        key, preferences = member
        return clone(
            dataset,
            key,
            num_steps=config.bc_steps,
            learning_rate=config.bc_lr,
            action_scale=parts.action_scale,
            config=config.sac,
            row_weight=None if preferences is None else preferences.row_weight,
        )

    mapped = over_members(clone_member, parts.members)
    return lambda keys, preferences, dataset: mapped((keys, preferences), dataset)


def pretrain_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., Any]:
    """``(keys [S], dataset) -> (Preferences [S], metrics [S])``: the values of recorded actions."""

    def pretrain_member(key: Key, dataset: Dataset) -> tuple[Preferences, dict[str, Array]]:
        state, metrics = implicit_q.pretrain(dataset, key, config.pretrain, config.sac)
        preferences = implicit_q.preferences(
            state, dataset.transitions, config.pretrain.advantage_temperature, config.sac
        )
        return preferences, {**metrics, "pretrain/advantage_spread": preferences.spread}

    return over_members(pretrain_member, parts.members)


def max_uncertainty_program(parts: OfflineParts, config: OfflineConfig) -> Callable[..., Any]:
    """``(actor_params, model, hyper, keys) [P], dataset -> [P]``: the uncertainty that ends roll-outs.

    A quantile of that along the data's own actions.
    """
    settings = config.rollout
    quantile = settings.uncertainty_quantile
    assert quantile is not None

    def member_quantile(member: tuple[Params, ModelParams, Hyper, Key], dataset: Dataset) -> Array:
        actor_params, model, hyper, key = member
        simulated = simulation(parts, settings, actor_params, model, hyper)
        uncertainty = data_uncertainty(simulated, dataset, key, _UNCERTAINTY_ROWS, _chunk(config))
        return jnp.quantile(uncertainty, quantile)

    mapped = over_members(member_quantile, parts.members)
    return lambda actor_params, model, hyper, keys, dataset: mapped(
        (actor_params, model, hyper, keys), dataset
    )


def mode_program(agent: SAC) -> Callable[[Params, Array], Array]:
    """``(actor_params [P], obs [P, E, D]) -> action [P, E, A]``: the deterministic policies, one call."""
    return jax.vmap(agent.mode_action)
