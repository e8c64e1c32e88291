"""The compiled programs of learning online, each over the whole population.

Every member has environments, data and a model of its own: what the offline programs share among members
(adm_jax.training.programs) has an axis P here, too. Arrays that grow are allocated once, and how much of them
is in use is traced, as are the length of roll-outs and the model buffer's capacity: nothing is compiled anew
while a run goes on.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adm_jax.agents.sac import SAC, SACState, make_sac
from adm_jax.config import FitConfig, Hyper, OnlineConfig
from adm_jax.data import lanes as lanes_module
from adm_jax.data import ring_buffer
from adm_jax.data.dataset import sample_segments
from adm_jax.data.lanes import LaneIndex, Lanes, as_dataset
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import Dynamics, ModelParams, make_dynamics
from adm_jax.dynamics.uncertainty import UNCERTAINTIES
from adm_jax.envs.user_functions import RewardFn
from adm_jax.population.members import over_members
from adm_jax.rollout import Simulation, chunk_size, rollout_into
from adm_jax.types import Array, Key, Params, Transition


class OnlineParts(NamedTuple):
    """What the programs are made of, settled by the configuration and the task."""

    dynamics: Dynamics | None
    agent: SAC
    termination_fn: Callable[[Array], Array]
    obs_dim: int
    action_dim: int
    members: str  # vmap or map
    reward_fn: RewardFn | None = None  # known reward; the model's own when None

    @property
    def model(self) -> Dynamics:
        """The dynamics model, where there is one."""
        assert self.dynamics is not None
        return self.dynamics


def make_parts(
    config: OnlineConfig,
    obs_dim: int,
    action_dim: int,
    action_scale: float,
    termination_fn: Callable[[Array], Array],
    members: str,
    reward_fn: RewardFn | None = None,
) -> OnlineParts:
    """The dynamics model and the agent of a configuration."""
    dynamics = None
    if config.has_model:
        dynamics = make_dynamics(config.dynamics, obs_dim, action_dim, config.model)
    agent = make_sac(obs_dim, action_dim, action_scale, config.sac)
    return OnlineParts(dynamics, agent, termination_fn, obs_dim, action_dim, members, reward_fn)


def capacity(config: OnlineConfig, length: int | Array) -> Any:
    """Rows of a member's model buffer where roll-outs have a length: all of ``retain_rollouts`` times."""
    rollout = config.rollout
    chunk = chunk_size(rollout.rollout_chunk, rollout.rollout_batch_size)
    num_starts = -(-rollout.rollout_batch_size // chunk) * chunk
    return num_starts * length * rollout.retain_rollouts


def init_program(parts: OnlineParts, config: OnlineConfig) -> Callable[..., Any]:
    """``(keys [P], hyper [P]) -> (SACState, Lanes, RingBuffer or None)`` [P]: nothing learned or seen."""
    rows = -(-config.num_steps // config.num_envs)

    def init_member(key: Key, hyper: Hyper) -> tuple[SACState, Lanes, RingBuffer | None]:
        buffer = None
        if parts.dynamics is not None:
            largest = capacity(config, config.rollout.final_rollout_length)
            buffer = ring_buffer.init(largest, parts.obs_dim, parts.action_dim)
            first = capacity(config, config.rollout.rollout_length)
            buffer = buffer._replace(capacity=jnp.asarray(first, jnp.int32))
        lanes = lanes_module.init(config.num_envs, rows, parts.obs_dim, parts.action_dim)
        return parts.agent.init(key, hyper), lanes, buffer

    return jax.vmap(init_member)


def act_program(parts: OnlineParts) -> Callable[..., Array]:
    """``(actor_params [P], obs [P, E, D], keys [P], step []) -> action [P, E, A]``: sampled, to explore."""

    def act_member(actor_params: Params, obs: Array, key: Key, step: Array) -> Array:
        return parts.agent.sample_action(actor_params, obs, jax.random.fold_in(key, step))

    return jax.vmap(act_member, in_axes=(0, 0, 0, None))


def insert_program() -> Callable[..., Lanes]:
    """``(Lanes [P], block [P, E, S, ...], start []) -> Lanes``."""
    return jax.vmap(lanes_module.add, in_axes=(0, 0, None))


def update_program(parts: OnlineParts, config: OnlineConfig) -> Callable[..., Any]:
    """The updates that belong to one iteration's environment steps.

    ``(SACState [P], hyper, keys, Lanes, RingBuffer or None, rows [], first []) -> (SACState, metrics [P])``;
    ``rows`` is the number of steps in every lane, ``first`` that of the updates done before.
    """
    num_updates = config.steps_per_iteration * config.updates_per_step
    num_real = config.sac.batch_size
    if parts.dynamics is not None:
        num_real = int(config.sac.batch_size * config.real_ratio)
    num_model = config.sac.batch_size - num_real

    def draw(key: Key, lanes: Lanes, buffer: RingBuffer | None, rows: Array) -> Transition:
        """A batch of a member."""
        if buffer is None or not num_model:
            return lanes_module.sample(lanes, rows, key, num_real)
        real_key, model_key = jax.random.split(key)
        imagined = ring_buffer.sample(buffer, model_key, num_model)
        # until a model's first finite prediction there are only real transitions
        instead = lanes_module.sample(lanes, rows, jax.random.fold_in(model_key, 1), num_model)
        drawn = [jax.tree.map(partial(jnp.where, buffer.size > 0), imagined, instead)]
        if num_real:
            drawn.append(lanes_module.sample(lanes, rows, real_key, num_real))
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *drawn)

    # for all updates and members at once: under map each member would have its buffers copied for a few rows
    draw_all = jax.vmap(jax.vmap(draw, in_axes=(0, None, None, None)), in_axes=(0, 0, 0, None))

    def update_member(
        member: tuple[SACState, Hyper, Key, Transition], first: Array
    ) -> tuple[SACState, dict[str, Array]]:
        state, hyper, keys, drawn = member

        def step(state: SACState, xs: tuple[Transition, Key, Array]) -> tuple[SACState, dict[str, Array]]:
            batch, key, number = xs
            with_actor = True if config.actor_every == 1 else number % config.actor_every == 0
            return parts.agent.update(state, batch, key, hyper, with_actor)

        state, metrics = jax.lax.scan(step, state, (drawn, keys, first + jnp.arange(num_updates)))
        return state, {
            name: jnp.nanmean(x) if may_lack(config, name) else jnp.mean(x) for name, x in metrics.items()
        }

    mapped = over_members(update_member, parts.members)

    def update(
        state: SACState, hyper: Hyper, keys: Key, lanes: Lanes, buffer: Any, rows: Array, first: Array
    ) -> tuple[SACState, dict[str, Array]]:
        each = jax.vmap(lambda key: jax.vmap(jax.random.split)(jax.random.split(key, num_updates)))(keys)
        drawn = draw_all(each[:, :, 0], lanes, buffer, rows)
        return mapped((state, hyper, each[:, :, 1], drawn), first)

    return update


def refit_config(config: OnlineConfig, first: bool) -> FitConfig:
    """How a model is fitted: the first time, and from scratch, in full; else on for ``refit_epochs``.

    At a lower rate then where it decays: what the first fit's full rate undoes, one epoch cannot mend.
    """
    if first or config.refit == "scratch":
        return config.fit
    epochs = config.refit_epochs
    patience = min(config.fit.fit_patience, epochs)
    rate = config.refit_learning_rate
    if rate is None:
        rate = config.fit.fit_learning_rate * (1.0 if config.fit.fit_lr_decay == "none" else 0.3)
    return replace(config.fit, fit_max_epochs=epochs, fit_patience=patience, fit_learning_rate=rate)


def init_fit_program(parts: OnlineParts) -> Callable[..., fitting.FitState]:
    """``(keys [P], Lanes, LaneIndex) -> FitState [P]``: fits that have not begun."""

    def init_member(member: tuple[Key, Lanes, LaneIndex]) -> fitting.FitState:
        key, lanes, index = member
        return fitting.init(parts.model, as_dataset(lanes, index), key)

    mapped = over_members(init_member, parts.members)
    return lambda keys, lanes, index: mapped((keys, lanes, index))


def may_lack(config: OnlineConfig, metric: str) -> bool:
    """Whether an update may be without a metric, which is NaN then: the actor's are, where it waits."""
    return config.actor_every > 1 and metric.startswith("actor/")


def continue_fit_program(parts: OnlineParts) -> Callable[..., fitting.FitState]:
    """``FitState [P] -> FitState [P]``: fits that go on from their best parameters."""
    return over_members(fitting.continued, parts.members)


def fit_program(parts: OnlineParts, fit: FitConfig) -> Callable[..., Any]:
    """One epoch of every member's fit.

    ``(FitState [P], keys, bootstrap_keys, holdout_keys, Lanes, LaneIndex, shared_key) ->
    (FitState, metrics [P])``; ``holdout_keys`` are of the whole fit, all of whose epochs are judged alike.
    """
    dynamics = parts.model

    def fit_member(
        member: tuple[fitting.FitState, Key, Key, Key, Lanes, LaneIndex], shared_key: Key
    ) -> tuple[fitting.FitState, dict[str, Array]]:
        state, key, bootstrap_key, holdout_key, lanes, index = member
        dataset = as_dataset(lanes, index)
        holdout = sample_segments(
            dataset, dataset.holdout, holdout_key, fit.holdout_batch_size, dynamics.max_backtrack, 1
        )
        keys = fitting.FitKeys(key, bootstrap_key, shared_key)

        def epoch(state: fitting.FitState) -> tuple[fitting.FitState, dict[str, Array]]:
            return fitting.fit_epoch(dynamics, fit, state, dataset, holdout, keys)

        return fitting.epoch_unless_stopped(epoch, state) if parts.members == "map" else epoch(state)

    mapped = over_members(fit_member, parts.members)
    return lambda state, keys, bootstrap_keys, holdout_keys, lanes, index, shared_key: mapped(
        (state, keys, bootstrap_keys, holdout_keys, lanes, index), shared_key
    )


def best_program(parts: OnlineParts, fit: FitConfig) -> Callable[..., ModelParams]:
    """``(FitState [P], holdout_keys [P], Lanes, LaneIndex) -> ModelParams [P]``, as roll-outs use them."""
    dynamics = parts.model

    def best_member(member: tuple[fitting.FitState, Key, Lanes, LaneIndex]) -> ModelParams:
        state, key, lanes, index = member
        dataset = as_dataset(lanes, index)
        holdout = sample_segments(
            dataset, dataset.holdout, key, fit.holdout_batch_size, dynamics.max_backtrack, 1
        )
        return fitting.best_params(dynamics, state, dataset, holdout)

    mapped = over_members(best_member, parts.members)
    return lambda state, keys, lanes, index: mapped((state, keys, lanes, index))


def rollout_program(parts: OnlineParts, config: OnlineConfig) -> Callable[..., Any]:
    """Roll-outs of a length [] into every member's model buffer, which is given that length's capacity.

    ``(RingBuffer [P], actor_params, ModelParams, keys, Lanes, LaneIndex, length []) ->
    (RingBuffer, metrics [P])``.
    """
    dynamics = parts.model
    uncertainty_fn = UNCERTAINTIES[dynamics.uncertainties[0]]  # told, not subtracted: beta is 0 online
    rollout = config.rollout

    def rollout_member(
        member: tuple[RingBuffer, Params, ModelParams, Key, Lanes, LaneIndex], length: Array
    ) -> tuple[RingBuffer, dict[str, Array]]:
        buffer, actor_params, model, key, lanes, index = member
        simulation = Simulation(
            dynamics,
            model,
            partial(parts.agent.sample_action, actor_params),
            parts.termination_fn,
            uncertainty_fn,
            jnp.zeros(()),
            parts.reward_fn,
        )
        return rollout_into(
            ring_buffer.resize(buffer, capacity(config, length)),
            simulation,
            as_dataset(lanes, index),
            key,
            num_starts=rollout.rollout_batch_size,
            length=length,
            chunk=chunk_size(rollout.rollout_chunk, rollout.rollout_batch_size),
        )

    mapped = over_members(rollout_member, parts.members)
    return lambda buffer, actor_params, model, keys, lanes, index, length: mapped(
        (buffer, actor_params, model, keys, lanes, index), length
    )
