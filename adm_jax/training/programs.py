"""The programs of policy optimisation, offline and online, each written for one member.

One iteration of ADMPO (ADM paper, Algorithms 2 and 3) is two of them: ``roll out, penalise, insert`` and a
number of SAC updates. Online it is traced how much of the data is in use, as are the roll-outs' length and
the model buffer's capacity: nothing is compiled anew while a run goes on.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from adm_jax import model_envs
from adm_jax.agents.sac import Cloning, SACState, unless_broken
from adm_jax.config import Hyper, OfflineConfig, OnlineConfig
from adm_jax.config.settings import values_of
from adm_jax.data import lanes as lanes_module
from adm_jax.data import ring_buffer
from adm_jax.data.dataset import sample_rows, transitions_at
from adm_jax.data.lanes import Lanes
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics.histories import encode_histories
from adm_jax.dynamics.interface import Carry, ModelParams
from adm_jax.model_envs import ModelEnvs
from adm_jax.population.compiling import Whole
from adm_jax.population.memory import tree_bytes
from adm_jax.returns import sample_lambda_returns
from adm_jax.rollout import ReturnsFn, rollout, rollout_into
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
    chunk = rollout_chunk(config)
    return -(-config.rollout.rollout_batch_size // chunk) * chunk * length * retained


def rollout_chunk(config: Config) -> int:
    """Starts that are rolled out at a time."""
    chunk = config.rollout.rollout_chunk
    assert chunk is not None  # adm_jax.population.members.settled
    return min(chunk, config.rollout.rollout_batch_size)


# --- roll-outs ---


@member_program()
def histories_program(c: Components, config: OfflineConfig, model: ModelParams, data: SharedData) -> Carry:
    """The histories of all transitions, encoded."""
    return encode_histories(c.model, model, data.dataset, rollout_chunk(config), c.row_multiple)


def kept_histories(
    c: Components, config: OfflineConfig, model: ModelParams, data: SharedData
) -> Carry | None:
    """Shapes of a run's encoded histories [P, ...] if it keeps them: that must pay, and they must fit in.

    Both are asked of one member: encoded histories differ in the last bits from those that a roll-out
    encodes, and a member must not depend on how many others are trained with it, or where.
    """
    num_rows = data.dataset.transitions.reward.shape[0]
    if config.rollout.persistent:
        return None
    if not histories_pay(config, num_rows):
        return None
    limit_gib = config.rollout.history_cache_gib
    assert limit_gib is not None  # adm_jax.population.members.settled
    histories = histories_program(c, config).shapes(model, data)
    size = tree_bytes(histories) / jax.tree.leaves(model)[0].shape[0]
    return histories if 0 < size <= limit_gib * 2**30 else None


def histories_pay(config: OfflineConfig, num_rows: int) -> bool:
    """Whether a run has so many roll-outs that histories of all transitions are worth encoding beforehand."""
    return config.num_epochs * config.rollout.rollout_batch_size > 2 * num_rows


@member_program()
def init_envs_program(
    c: Components, config: OfflineConfig, model: ModelParams, data: SharedData
) -> ModelEnvs:
    """Persistent environments in every member's model."""
    return model_envs.init(
        c.model, model, data.dataset, config.rollout.rollout_batch_size, rollout_chunk(config)
    )


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
    max_uncertainty: Array | None,
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
      max_uncertainty: [], above which a roll-out ends; None: no such end.
    """
    (buffer, envs), dataset, settings = rolled, dataset_of(data), config.rollout
    policy_fn = partial(c.agent.sample_action, actor_params)
    simulation = make_simulation(c, model, policy_fn, dataset, hyper.penalty_coef)
    simulation = simulation._replace(max_uncertainty=max_uncertainty)
    starts = {"num_starts": settings.rollout_batch_size, "chunk": rollout_chunk(config)}
    if length is not None:
        buffer = ring_buffer.resize(buffer, buffer_capacity(config, length))
        buffer, metrics = rollout_into(buffer, simulation, dataset, key, length=length, **starts)
        return (buffer, None), metrics
    if envs is None:
        simulation = simulation._replace(histories_fn=histories and histories.at)
        starts["length"] = settings.rollout_length
        rows = rollout(simulation, dataset, key, returns_fn=_returns_fn(config), **starts)
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
            returns_fn=_returns_fn(config),
        )
    return (ring_buffer.add(buffer, rows.transitions, rows.valid), envs), rows.metrics


def _trace_decay(config: Config) -> float:
    return config.rollout.trace_decay if isinstance(config, OfflineConfig) else 0.0


def _returns_fn(config: Config) -> ReturnsFn | None:
    decay = _trace_decay(config)
    return partial(sample_lambda_returns, gamma=config.sac.gamma, trace_decay=decay) if decay else None


# --- policies ---


class Start(NamedTuple):
    """What policy optimisation starts from, where it is not drawn at random."""

    actor_params: Params | None = None
    critic_params: Params | None = None  # leaves [num_critics, ...]


@member_program(side_by_side=True)
def init_program(
    c: Components, config: Config, key: Key, hyper: Hyper, start: Start, data: Data | None
) -> tuple[SACState, Any]:
    """An agent that has not learned, but for what is given to start from, and an empty RingBuffer.

    The buffer is None without a model; ``data`` give the moments that observations are standardised by.
    """
    normalizer = data.dataset.normalizer if isinstance(data, SharedData) else None
    agent, length = c.agent.init(key, hyper, normalizer), config.rollout.rollout_length
    if start.actor_params is not None:
        agent = agent._replace(actor_params=start.actor_params)
        if agent.average_actor_params is not None:
            agent = agent._replace(average_actor_params=jax.tree.map(jnp.copy, start.actor_params))
    if start.critic_params is not None:  # a copy: the same buffer may not be donated twice
        targets = jax.tree.map(jnp.copy, start.critic_params)
        agent = agent._replace(critic_params=start.critic_params, target_critic_params=targets)
    if c.dynamics is None:
        return agent, None
    longest = config.rollout.final_rollout_length if isinstance(config, OnlineConfig) else length
    rows, discounts = buffer_capacity(config, longest), _trace_decay(config) > 0
    buffer = ring_buffer.init(rows, c.obs_dim, c.action_dim, discounts)
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


def may_lack(config: Config, metric: str) -> bool:
    """Whether an update may be without a metric, which is NaN then: the actor's are, where it waits."""
    return _actor_every(config) > 1 and metric.startswith("actor/")


def _actor_every(config: Config) -> int:
    return config.actor_every if isinstance(config, OnlineConfig) else 1


class _Draws(NamedTuple):
    """What an update draws: which rows, and the key that is left for the agent."""

    real: Any  # of real transitions
    imagined: Array | None  # of the model's [M]; None where the batch has none
    instead: Any  # real ones in place of the model's, until there are such
    update_key: Key


def _draw(
    c: Components, config: Config, key: Key, *, buffer: Whole | None, data: Any, num_rows: Array | None
) -> _Draws:
    num_real, num_model = _batch_sizes(c, config)

    def real(key: Key, size: int) -> Any:
        if isinstance(config, OfflineConfig) or num_rows is None:
            return sample_rows(data.dataset, key, size)
        return lanes_module.draw_rows(config.num_envs, num_rows, key, size)

    if isinstance(config, OfflineConfig):
        real_key, model_key, update_key = jax.random.split(key, 3)
    else:
        real_key, update_key = model_key, _ = jax.random.split(key)
        if num_model:
            real_key, model_key = jax.random.split(real_key)
    imagined = instead = None
    if buffer is not None and num_model:
        imagined = ring_buffer.draw_rows(buffer.tree.size[buffer.index], model_key, num_model)
        instead = real(jax.random.fold_in(model_key, 1), num_model)
    return _Draws(real(real_key, num_real) if num_real else None, imagined, instead, update_key)


def _batch_sizes(c: Components, config: Config) -> tuple[int, int]:
    """Real transitions of a batch, and the model's."""
    num_real = int(config.sac.batch_size * config.real_ratio) if c.dynamics else config.sac.batch_size
    return num_real, config.sac.batch_size - num_real


def _take(
    c: Components,
    config: Config,
    draws: _Draws,
    buffer: Whole | None,
    data: Any,
    row_weight: Array | None,
) -> tuple[Transition, Cloning | None]:
    """An update's batch, and what is cloned of its first rows.

    Until a model's first finite prediction real transitions stand in for those of the model.
    """

    def real(rows: Any) -> Transition:
        if not isinstance(config, OfflineConfig) and isinstance(rows, tuple):
            return data.at(*rows).transitions
        found = transitions_at(data.dataset, rows)
        if _trace_decay(config):  # the model's rows have discounts of their own
            found = found._replace(discount=jnp.full(rows.shape, config.sac.gamma))
        return found

    batch = [] if draws.real is None else [real(draws.real)]
    if draws.imagined is not None:
        assert buffer is not None
        imagined = Whole(buffer.tree.data, buffer.index).at(draws.imagined)
        are_there = buffer.tree.size[buffer.index] > 0
        batch.append(jax.tree.map(partial(jnp.where, are_there), imagined, real(draws.instead)))
    cloning = None
    if isinstance(config, OnlineConfig):
        batch.reverse()
    elif max(values_of(config.sac.cloning_weight)) > 0:
        assert draws.real is not None
        action = batch[0].action
        weight = jnp.ones(action.shape[:1]) if row_weight is None else row_weight[draws.real]
        cloning = Cloning(action, weight)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batch), cloning


# whole: of the buffer and of online data a few rows are drawn, for which all of them would be copied
@member_program(shared=("num_rows", "lr_factors", "first"), whole=("buffer", "data"), donated=("agent",))
def update_program(
    c: Components,
    config: Config,
    agent: SACState,
    hyper: Hyper,
    key: Key,
    buffer: Any,
    data: Any,
    num_rows: Array | None,
    lr_factors: tuple[Array, Array] | None,
    first: Array | None,
    row_weight: Array | None,
) -> tuple[SACState, Metrics]:
    """The updates of an epoch, or those that belong to an online iteration's environment steps.

    Where they leave numbers that are not finite they are undone, and that member's agent is frozen: its
    ``agent/frozen`` is true from then on, and it stays as it was.

    Args:
      c: components.
      config: of the run.
      agent: taken on.
      hyper: learning rates and the like.
      key: consumed.
      buffer: RingBuffer [P]; None without a model.
      data: SharedData; online the Lanes [P] ...
      num_rows: ... and how many rows of each are in use, [].
      lr_factors: scale the rates of actor and critics, [] each.
      first: updates done before, []; where the actor does not wait None will do.
      row_weight: [N] weights of recorded actions in the cloning term; None where all count alike.
    """
    every = _actor_every(config)
    if isinstance(config, OfflineConfig):
        num_updates = config.updates_per_epoch
    else:
        num_updates = config.steps_per_iteration * config.updates_per_step
    if lr_factors is not None:
        actor_lr, critic_lr = hyper.actor_lr * lr_factors[0], hyper.critic_lr * lr_factors[1]
        hyper = hyper._replace(actor_lr=actor_lr, critic_lr=critic_lr)

    def step(agent: SACState, xs: tuple[_Draws, Array | None]) -> tuple[SACState, Array]:
        draws, number = xs
        batch, cloning = _take(c, config, draws, buffer, data, row_weight)
        with_actor = True if number is None else number % every == 0
        agent, metrics = c.agent.update(agent, batch, draws.update_key, hyper, with_actor, cloning)
        names[:] = metrics
        return agent, jnp.stack(list(metrics.values()))

    # On a GPU each small operation of an update is a kernel: rows are drawn before the loop, and its metrics
    # are one array.
    names: list[str] = []  # of the metrics, known once the loop is traced
    draw = partial(_draw, c, config, buffer=buffer, data=data, num_rows=num_rows)
    draws = jax.vmap(draw)(jax.random.split(key, num_updates))
    numbers = None if first is None or every == 1 else first + jnp.arange(num_updates)
    learned, values = jax.lax.scan(step, agent, (draws, numbers))
    metrics = dict(zip(names, values.T, strict=True))
    metrics = {name: jnp.nanmean(x) if may_lack(config, name) else jnp.mean(x) for name, x in metrics.items()}
    agent = unless_broken(agent, learned, metrics)
    return agent, {**metrics, "agent/frozen": agent.frozen.astype(jnp.float32)}
