"""What the offline loop compiles: its own programs, those of both loops, and the shapes of its states."""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from adm_jax.agents import implicit_q
from adm_jax.agents.behaviour_cloning import clone
from adm_jax.agents.sac import SACState
from adm_jax.config import Hyper, OfflineConfig
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics.fitting import FitState
from adm_jax.dynamics.interface import Carry, ModelParams
from adm_jax.model_envs import ModelEnvs
from adm_jax.model_episodes import roll_out_episodes
from adm_jax.population import memory
from adm_jax.population.compiling import Program, compiled_of
from adm_jax.population.devices import choose_devices, idle_devices, place
from adm_jax.population.keys import shared_key
from adm_jax.rollout import data_uncertainty
from adm_jax.training import fit, programs
from adm_jax.training.components import (
    Components,
    Data,
    Metrics,
    SharedData,
    make_simulation,
    member_program,
)
from adm_jax.training.loop import Desk
from adm_jax.types import Array, Key, Params, Segment

_UNCERTAINTY_ROWS = 10_000  # of the data, whose uncertainty's quantile ends roll-outs


class TrainState(NamedTuple):
    """Everything that changes, or is needed, while policies are optimised; leaves [P, ...]."""

    agent: SACState
    buffer: RingBuffer
    model: ModelParams
    envs: ModelEnvs | None = None  # persistent ones in the model
    row_weight: Array | None = None  # [P, N], of recorded actions that are cloned; None where all count alike
    max_uncertainty: Array | None = None  # [P], above which roll-outs end


@member_program()
def max_uncertainty_program(
    c: Components, config: OfflineConfig, model: ModelParams, key: Key, data: SharedData
) -> Array:
    """The uncertainty [] above which roll-outs end: a quantile of that along the data's own actions."""
    quantile = config.rollout.uncertainty_quantile
    assert quantile is not None
    zeros, dataset = jnp.zeros((c.action_dim,)), data.dataset
    simulation = make_simulation(
        c, model, lambda obs, _: jnp.tile(zeros, (len(obs), 1)), dataset, jnp.ones(())
    )
    uncertainty = data_uncertainty(
        simulation, dataset, key, _UNCERTAINTY_ROWS, programs.rollout_chunk(config)
    )
    return jnp.quantile(uncertainty, quantile)


@member_program(shared=("starts",))
def estimate_program(
    c: Components,
    config: OfflineConfig,
    actor_params: Params,
    critic_params: Params,
    model: ModelParams,
    key: Key,
    data: SharedData,
    starts: Array,
) -> Metrics:
    """What critics and model say of a policy at the data's initial states, rows ``starts`` [E].

    The critics' minimum, the plain and the discounted return of deterministic episodes in the model, and by
    how much the critics are above it: what extrapolated values are seen by.
    """
    policy_fn = partial(c.agent.mode_action, actor_params)
    obs = data.dataset.transitions.obs[starts]
    low, high = jnp.full_like(obs[0], -jnp.inf), jnp.full_like(obs[0], jnp.inf)
    episodes = roll_out_episodes(
        make_simulation(c, model, lambda obs, _: policy_fn(obs), data.dataset),
        data.dataset,
        starts,
        key,
        gammas=(1.0, config.sac.gamma),
        bounds=(low, high),
        horizon=min(config.rollout.horizon, c.longest_episode or config.rollout.horizon),
        chunk=min(programs.rollout_chunk(config), len(starts)),
    )
    q = c.agent.q_values(critic_params, obs, policy_fn(obs)).min(axis=0).mean()
    plain, discounted = episodes.returns.mean(axis=0)
    out_of_range = episodes.out_of_range.sum() / jnp.maximum(episodes.lengths.sum(), 1)
    return {
        "critic/q_initial": q,
        "model/return": plain,
        "model/discounted_return": discounted,
        "critic/q_excess": q - discounted,
        "model/out_of_range_fraction": out_of_range,
    }


@member_program()
def pretrain_program(
    c: Components, config: OfflineConfig, key: Key, data: SharedData
) -> tuple[Array, Params, Metrics]:
    """Values of recorded actions: weights [N] to clone these with, and the critics they were learned with."""
    settings = config.pretrain
    values, metrics = implicit_q.pretrain(data.dataset, key, settings, c.action_bounds, config.sac)
    row_weight, further = implicit_q.row_weights(values, data.dataset, settings, config.sac)
    return row_weight, values.critic_params, {**metrics, **further}


@member_program()
def clone_program(
    c: Components, config: OfflineConfig, key: Key, row_weight: Array | None, data: SharedData
) -> tuple[Params, Metrics]:
    """Behaviour cloning: the actor's parameters."""
    return clone(
        data.dataset,
        key,
        num_steps=config.bc_steps,
        learning_rate=config.bc_lr,
        bounds=c.action_bounds,
        config=config.sac,
        row_weight=row_weight,
        decay=config.bc_lr_schedule == "cosine",
        weight_decay=config.bc_weight_decay,
    )


class OfflinePrograms(NamedTuple):
    """The compiled programs; see adm_jax.training.fit and adm_jax.training.programs."""

    init_fit: Program[[Key, Data], FitState]
    fit: Program[[FitState, Key, Key, Data, Key], tuple[FitState, Metrics]]
    best: Program[[FitState, Data], ModelParams]
    errors: Program[[ModelParams, Key, SharedData, Segment], Metrics]
    pretrain: Program[[Key, SharedData], tuple[Array, Params, Metrics]] | None
    clone: Program[[Key, Array | None, SharedData], tuple[Params, Metrics]] | None
    init: Program[[Key, Hyper, programs.Start, Data | None], tuple[SACState, Any]]
    max_uncertainty: Program[[ModelParams, Key, SharedData], Array] | None
    init_envs: Program[[ModelParams, SharedData], ModelEnvs] | None
    histories: Program[[ModelParams, SharedData], Carry] | None
    rollout: Program[..., tuple[programs.Rolled, Metrics]]
    update: Program[..., tuple[SACState, Metrics]]
    estimate: Program[[Params, Params, ModelParams, Key, SharedData, Array], Metrics] | None


class Inputs(NamedTuple):
    """What the programs are compiled for: arrays of the shapes that they will be called with."""

    seed_keys: Key  # [S]
    keys: Key  # [P]
    hyper: Hyper  # [P]
    data: SharedData
    long_holdout: Segment
    starts: Array | None  # [E] rows that policies are estimated at; None without estimates


def compile_programs(
    config: OfflineConfig, c: Components, inputs: Inputs, desk: Desk
) -> tuple[OfflinePrograms, FitState, TrainState]:
    """The programs, compiled ahead of time, and shapes of the fits [S] and of policy optimisation [P].

    Raises:
      InputError: programs and states do not fit into memory, or checkpoints not on the disk; what takes no
        compiling is asked for first.
    """
    num_members, num_seeds = inputs.keys.shape[0], inputs.seed_keys.shape[0]
    mesh = choose_devices(num_members, config.num_devices)
    seeds_mesh = mesh if num_seeds == num_members else choose_devices(num_seeds)
    init_fit, best = fit.init_fit_program(c, config.fit), fit.best_program(c, config.fit)
    fits = place(init_fit.shapes(inputs.seed_keys, inputs.data), seeds_mesh)
    models = best.shapes(fits, inputs.data)
    train, start = _train_shapes(config, c, inputs, models, mesh)
    histories = place(programs.kept_histories(c, config, train.model, inputs.data), mesh)
    estimate = partial(
        memory.estimate,
        state=(fits, train),
        histories=histories,
        resident=(inputs.data, inputs.long_holdout),
        kept=("init", "init_envs", "histories", "max_uncertainty", "estimate"),
    )
    require = partial(memory.require, limit_gib=config.memory_limit_gib, num_devices=mesh.size)
    desk.require_room(train)
    require(estimate({}))  # the arrays alone: compiling takes a while
    compiled = OfflinePrograms(
        init_fit=init_fit.compile(inputs.seed_keys, inputs.data, mesh=seeds_mesh),
        best=best.compile(fits, inputs.data, mesh=seeds_mesh),
        **_of_seeds(config, c, inputs, fits, models, seeds_mesh),
        **_of_members(config, c, inputs, train, start, histories, mesh),
    )
    need = estimate(compiled_of(compiled))
    desk.note(need.line())
    if config.num_devices is None and (idle := idle_devices(mesh)):
        desk.note(idle)
    require(need)
    return compiled, fits, train


def _train_shapes(
    config: OfflineConfig, c: Components, inputs: Inputs, models: ModelParams, mesh: Mesh
) -> tuple[TrainState, programs.Start]:
    """Shapes of the state of policy optimisation, and of what it starts from."""
    keys, hyper, data = inputs.keys, inputs.hyper, inputs.data
    shape = (keys.shape[0],)
    model = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*shape, *x.shape[1:]), x.dtype), models)
    init, envs, row_weight, max_uncertainty = programs.init_program(c, config), None, None, None
    if config.rollout.persistent:
        envs = programs.init_envs_program(c, config).shapes(model, data)
    if config.sac.cloning_rows == "advantage":
        row_weight = pretrain_program(c, config).shapes(keys, data)[0]
    if config.rollout.uncertainty_quantile is not None:
        max_uncertainty = jax.eval_shape(lambda: jnp.zeros(shape))
    agent, _ = init.shapes(keys, hyper, programs.Start(), data)
    start = programs.Start(
        agent.actor_params if config.start == "cloned" else None,
        agent.critic_params if config.critic_start == "pretrained" else None,
    )
    start = place(start, mesh)
    agent, buffer = init.shapes(keys, hyper, start, data)
    return place(TrainState(agent, buffer, model, envs, row_weight, max_uncertainty), mesh), start


def _of_seeds(
    config: OfflineConfig, c: Components, inputs: Inputs, fits: FitState, models: ModelParams, mesh: Mesh
) -> dict[str, Any]:
    """What is done once for every seed: all that comes before the policies, but the fit's begin and end."""
    keys, data = inputs.seed_keys, inputs.data
    fitting, measuring = fit.fit_program(c, config.fit), fit.errors_program(c, config.fit)
    pretraining, cloning = pretrain_program(c, config), clone_program(c, config)
    pretrains, by_advantage = config.pretrain.pretrain_steps > 0, config.sac.cloning_rows == "advantage"
    row_weight = pretraining.shapes(keys, data)[0] if by_advantage else None
    return {
        "fit": fitting.compile(fits, keys, keys, data, shared_key(0, 0), mesh=mesh),
        "errors": measuring.compile(models, keys, data, inputs.long_holdout, mesh=mesh),
        "pretrain": pretraining.compile(keys, data, mesh=mesh) if pretrains else None,
        "clone": cloning.compile(keys, row_weight, data, mesh=mesh) if config.bc_steps else None,
    }


def _of_members(
    config: OfflineConfig,
    c: Components,
    inputs: Inputs,
    train: TrainState,
    start: programs.Start,
    histories: Carry | None,
    mesh: Mesh,
) -> dict[str, Any]:
    """The loop of policy optimisation."""
    _, keys, hyper, data, _, starts = inputs
    agent, buffer, model, envs, row_weight, max_uncertainty = train
    init, rolling = programs.init_program(c, config), programs.rollout_program(c, config)
    beginning, encode = programs.init_envs_program(c, config), programs.histories_program(c, config)
    bounding, estimating = max_uncertainty_program(c, config), estimate_program(c, config)
    is_bounded = max_uncertainty is not None
    rolled = ((buffer, envs), agent.actor_params, model, hyper, keys, histories, data, None, max_uncertainty)
    rates = jnp.ones(()), jnp.ones(())
    updated = (agent, hyper, keys, buffer, data, None, rates, None, row_weight)
    estimated = (agent.actor_params, agent.critic_params, model, keys, data, starts)
    return {
        "init": init.compile(keys, hyper, start, data, mesh=mesh),
        "max_uncertainty": bounding.compile(model, keys, data, mesh=mesh) if is_bounded else None,
        "init_envs": None if envs is None else beginning.compile(model, data, mesh=mesh),
        "histories": None if histories is None else encode.compile(model, data, mesh=mesh),
        "rollout": rolling.compile(*rolled, mesh=mesh),
        "update": programs.update_program(c, config).compile(*updated, mesh=mesh),
        "estimate": None if starts is None else estimating.compile(*estimated, mesh=mesh),
    }


# --- what depends on the number of epochs ---

_SCHEDULES = ("actor_lr_schedule", "critic_lr_schedule")


def lr_factors(config: OfflineConfig, epoch: int) -> tuple[float, float]:
    """What the rates of actor and critics are multiplied with in an epoch.

    Cosine annealing over the run, stepped once an epoch; the actor is held in the first ``hold_epochs``.
    """
    actor, critic = (
        1.0 if getattr(config, name) == "none" else _cosine(config, epoch) for name in _SCHEDULES
    )
    return 0.0 if epoch < config.hold_epochs else actor, critic


def _cosine(config: OfflineConfig, epoch: int) -> float:
    return 0.5 * (1.0 + math.cos(math.pi * epoch / config.num_epochs))


def differences(
    config: OfflineConfig, c: Components, num_rows: int, before: OfflineConfig, start: int
) -> list[str]:
    """What a run of ``config`` does otherwise in its first ``start`` epochs than one of ``before``, in lines.

    The two differ in their number of epochs; ``num_rows`` are the data's.
    """
    old, new = before.num_epochs, config.num_epochs
    lines = [
        f"{name}: at {start} of {new} epochs the rate is {_cosine(config, start):.3g} of the first, and was "
        f"{_cosine(before, start):.3g} of it at {start} of {old}: a run begun with {new} has had other rates"
        for name in _SCHEDULES
        if getattr(config, name) != "none"
    ]
    pays = [programs.histories_pay(each, num_rows) for each in (before, config)]
    wanted = config.rollout.history_cache_gib != 0
    kept = wanted and c.model.max_backtrack > 1 and not config.rollout.persistent
    if kept and pays[0] != pays[1]:
        lines.append(
            f"history_cache_gib: encoded histories are {'kept' * pays[1] or 'not kept'} from epoch {start}: "
            f"a run begun with {new} epochs does so from the first, and may differ in last bits"
        )
    return lines if start else []
