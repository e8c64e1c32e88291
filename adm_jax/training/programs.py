"""The programs of policy optimisation, offline and online, each written for one member.

One iteration of ADMPO (ADM paper, Algorithms 2 and 3) is two of them: ``roll out, penalise, insert`` and a
number of SAC updates. Online it is traced how much of the data is in use, as are the roll-outs' length and
the model buffer's capacity: nothing is compiled anew while a run goes on.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from adm_jax import model_envs
from adm_jax.agents.behaviour_cloning import clone
from adm_jax.agents.sac import SACState
from adm_jax.config import Hyper, OfflineConfig, OnlineConfig
from adm_jax.data import lanes as lanes_module
from adm_jax.data import ring_buffer
from adm_jax.data.dataset import sample_transitions
from adm_jax.data.lanes import Lanes
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics.interface import Carry, ModelParams
from adm_jax.model_envs import ModelEnvs
from adm_jax.population.compiling import Whole
from adm_jax.population.memory import tree_bytes
from adm_jax.rollout import chunk_size, encode_histories, rollout, rollout_into
from adm_jax.training.components import (
    Components,
    Config,
    Data,
    Metrics,
    SharedData,
    dataset_of,
    make_simulation,
    member_program,
)
from adm_jax.types import Array, Key, Params, Transition


def buffer_capacity(config: Config, length: int | Array) -> Any:
    """Rows of a member's model buffer: all of the roll-outs of a length that it retains."""
    offline = isinstance(config, OfflineConfig)
    retained = config.rollout.retain_epochs if offline else config.rollout.retain_rollouts
    chunk = _chunk(config)
    return -(-config.rollout.rollout_batch_size // chunk) * chunk * length * retained


def _chunk(config: Config) -> int:
    return chunk_size(config.rollout.rollout_chunk, config.rollout.rollout_batch_size)


# --- roll-outs ---


@member_program()
def histories_program(c: Components, config: OfflineConfig, model: ModelParams, data: SharedData) -> Carry:
    """The histories of all transitions, encoded."""
    return encode_histories(c.model, model, data.dataset, _chunk(config))


def kept_histories(
    c: Components, config: OfflineConfig, model: ModelParams, data: SharedData
) -> Carry | None:
    """Shapes of a run's encoded histories [P, ...] if it keeps them: that must pay, and they must fit in.

    Both are asked of one member: encoded histories differ in the last bits from those that a roll-out
    encodes, and a member must not depend on how many others are trained beside it, or where.
    """
    num_rows = data.dataset.transitions.reward.shape[0]
    if config.rollout.persistent:
        return None
    if config.num_epochs * config.rollout.rollout_batch_size <= 2 * num_rows:
        return None
    histories = histories_program(c, config).shapes(model, data)
    size = tree_bytes(histories) / jax.tree.leaves(model)[0].shape[0]
    return histories if 0 < size <= config.rollout.history_cache_gib * 2**30 else None


@member_program()
def init_envs_program(
    c: Components, config: OfflineConfig, model: ModelParams, data: SharedData
) -> ModelEnvs:
    """Persistent environments in every member's model."""
    return model_envs.init(c.model, model, data.dataset, config.rollout.rollout_batch_size, _chunk(config))


Rolled = tuple[RingBuffer, ModelEnvs | None]


@member_program(shared=("length",), whole=("histories",), donated=("rolled",))
def rollout_program(
    c: Components,
    config: Config,
    rolled: Rolled,
    actor_params: Params,
    model: ModelParams,
    hyper: Hyper,
    key: Key,
    histories: Any,
    data: Data,
    length: Array | None,
) -> tuple[Rolled, Metrics]:
    """Roll-outs into the model buffer.

    Args:
      c: components.
      config: of the run.
      rolled: buffer, and persistent environments; None where roll-outs begin anew.
      actor_params: the policy's.
      model: the fitted model.
      hyper: for the penalty.
      key: consumed.
      histories: encoded, [P, ...]; None where they are encoded in each roll-out.
      data: where roll-outs begin.
      length: [], and the buffer is given its capacity; offline None, the configuration's.
    """
    (buffer, envs), dataset, settings = rolled, dataset_of(data), config.rollout
    policy_fn = partial(c.agent.sample_action, actor_params)
    simulation = make_simulation(c, model, policy_fn, hyper.penalty_coef)
    starts = {"num_starts": settings.rollout_batch_size, "chunk": _chunk(config)}
    if length is not None:
        buffer = ring_buffer.resize(buffer, buffer_capacity(config, length))
        buffer, metrics = rollout_into(buffer, simulation, dataset, key, length=length, **starts)
        return (buffer, None), metrics
    if envs is None:
        simulation = simulation._replace(histories_fn=histories and histories.at)
        rows = rollout(simulation, dataset, key, length=settings.rollout_length, **starts)
    else:
        assert isinstance(config, OfflineConfig)
        envs, rows = model_envs.advance(
            simulation,
            envs,
            dataset,
            key,
            num_envs=settings.rollout_batch_size,
            length=settings.rollout_length,
            horizon=config.rollout.horizon,
        )
    return (ring_buffer.add(buffer, rows.transitions, rows.valid), envs), rows.metrics


# --- policies ---


@member_program(side_by_side=True)
def init_program(c: Components, config: Config, key: Key, hyper: Hyper) -> tuple[SACState, Any]:
    """A fresh agent and an empty RingBuffer; None without a model."""
    agent, length = c.agent.init(key, hyper), config.rollout.rollout_length
    if c.dynamics is None:
        return agent, None
    longest = config.rollout.final_rollout_length if isinstance(config, OnlineConfig) else length
    buffer = ring_buffer.init(buffer_capacity(config, longest), c.obs_dim, c.action_dim)
    return agent, buffer._replace(capacity=jnp.asarray(buffer_capacity(config, length), jnp.int32))


@member_program(shared=("step",), side_by_side=True)
def act_program(
    c: Components, config: OnlineConfig, actor_params: Params, obs: Any, key: Key, step: Array
) -> Array:
    """Actions [E, A] at observations [E, D] and a step []: sampled, to explore."""
    return c.agent.sample_action(actor_params, obs, jax.random.fold_in(key, step))


@member_program(shared=("start",), donated=("lanes",), side_by_side=True)
def insert_program(
    c: Components, config: OnlineConfig, lanes: Lanes, block: Transition, start: Array
) -> Lanes:
    """The lanes with a block of steps [E, S, ...] behind their first ``start`` []."""
    return lanes_module.add(lanes, block, jnp.asarray(start))


@member_program()
def clone_program(c: Components, config: OfflineConfig, key: Key, data: SharedData) -> tuple[Params, Metrics]:
    """Behaviour cloning: the actor's parameters."""
    return clone(
        data.dataset,
        key,
        num_steps=config.bc_steps,
        learning_rate=config.bc_lr,
        action_scale=c.action_scale,
        config=config.sac,
    )


def may_lack(config: Config, metric: str) -> bool:
    """Whether an update may be without a metric, which is NaN then: the actor's are, where it waits."""
    return _actor_every(config) > 1 and metric.startswith("actor/")


def _actor_every(config: Config) -> int:
    return config.actor_every if isinstance(config, OnlineConfig) else 1


def _draw(
    c: Components, config: Config, key: Key, buffer: Whole | None, data: Any, num_rows: Array | None
) -> tuple[Transition, Key]:
    """An update's batch, and the key that is left for the update.

    Until a model's first finite prediction real transitions stand in for those of the model.
    """
    num_real = int(config.sac.batch_size * config.real_ratio) if c.dynamics else config.sac.batch_size
    num_model = config.sac.batch_size - num_real

    def real(key: Key, size: int) -> Transition:
        if isinstance(config, OfflineConfig) or num_rows is None:
            return sample_transitions(data.dataset, key, size)
        return data.at(*lanes_module.draw_rows(config.num_envs, num_rows, key, size)).transitions

    if isinstance(config, OfflineConfig):
        real_key, model_key, update_key = jax.random.split(key, 3)
    else:
        real_key, update_key = model_key, _ = jax.random.split(key)
        if num_model:
            real_key, model_key = jax.random.split(real_key)
    batch = [real(real_key, num_real)] if num_real else []
    if buffer is not None and num_model:
        size = buffer.tree.size[buffer.index]
        rows = ring_buffer.draw_rows(size, model_key, num_model)
        imagined = Whole(buffer.tree.data, buffer.index).at(rows)
        instead = real(jax.random.fold_in(model_key, 1), num_model)
        batch.append(jax.tree.map(partial(jnp.where, size > 0), imagined, instead))
    if isinstance(config, OnlineConfig):
        batch.reverse()
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batch), update_key


# whole: of the buffer and of online data a few rows are drawn, for which all of them would be copied
@member_program(shared=("num_rows", "lr_factor", "first"), whole=("buffer", "data"), donated=("agent",))
def update_program(
    c: Components,
    config: Config,
    agent: SACState,
    hyper: Hyper,
    key: Key,
    buffer: Any,
    data: Any,
    num_rows: Array | None,
    lr_factor: Array | None,
    first: Array | None,
) -> tuple[SACState, Metrics]:
    """The updates of an epoch, or those that belong to an online iteration's environment steps.

    Args:
      c: components.
      config: of the run.
      agent: taken on.
      hyper: learning rates and the like.
      key: consumed.
      buffer: RingBuffer [P]; None without a model.
      data: SharedData; online the Lanes [P] ...
      num_rows: ... and how many rows of each are in use, [].
      lr_factor: scales the actor's rate, [].
      first: updates done before, []; where the actor does not wait None will do.
    """
    every = _actor_every(config)
    num_updates = (
        config.updates_per_epoch
        if isinstance(config, OfflineConfig)
        else config.steps_per_iteration * config.updates_per_step
    )
    if lr_factor is not None:
        hyper = hyper._replace(actor_lr=hyper.actor_lr * lr_factor)

    def step(agent: SACState, xs: tuple[Key, Array | None]) -> tuple[SACState, Metrics]:
        step_key, number = xs
        batch, update_key = _draw(c, config, step_key, buffer, data, num_rows)
        with_actor = True if number is None else number % every == 0
        return c.agent.update(agent, batch, update_key, hyper, with_actor)

    numbers = None if first is None or every == 1 else first + jnp.arange(num_updates)
    agent, metrics = jax.lax.scan(step, agent, (jax.random.split(key, num_updates), numbers))
    return agent, {
        name: jnp.nanmean(x) if may_lack(config, name) else jnp.mean(x) for name, x in metrics.items()
    }
