"""What the online loop compiles, and the shapes of its state, before anything is allocated."""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from adm_jax.agents.sac import SACState
from adm_jax.config import FitConfig, Hyper, OnlineConfig
from adm_jax.data import lanes as lanes_module
from adm_jax.data.lanes import LaneIndex, Lanes
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics.fitting import FitState
from adm_jax.dynamics.interface import ModelParams
from adm_jax.envs.experience import Recorded
from adm_jax.population import memory
from adm_jax.population.compiling import Program, compiled_of
from adm_jax.population.devices import choose_devices, idle_devices, place
from adm_jax.population.keys import shared_key
from adm_jax.training import fit, programs
from adm_jax.training.components import Components, Data, Metrics, OwnData
from adm_jax.training.loop import Desk
from adm_jax.types import Array, Key, Transition


class State(NamedTuple):
    """All that an iteration changes; leaves [P, ...]. What is not needed without a model is None."""

    agent: SACState
    buffer: RingBuffer | None
    model: ModelParams | None
    fit: FitState | None  # of the model before, which a warm fit goes on from


class Saved(NamedTuple):
    """What a loop is restored from."""

    state: State
    recorded: Recorded


class ModelPrograms(NamedTuple):
    """The compiled programs of the dynamics models."""

    init_fit: Program[[Key, Data], FitState]
    fit: Program[[FitState, Key, Key, Data, Key], tuple[FitState, Metrics]]
    refit: Program[[FitState, Key, Key, Data, Key], tuple[FitState, Metrics]] | None  # None: from scratch
    continue_fit: Program[[FitState], FitState] | None
    best: Program[[FitState, Data], ModelParams]
    rollout: Program[..., tuple[programs.Rolled, Metrics]]


class OnlinePrograms(NamedTuple):
    """The compiled programs; see adm_jax.training.fit and adm_jax.training.programs."""

    init: Program[[Key, Hyper, programs.Start, Data | None], tuple[SACState, Any]]
    act: Program[..., Array]
    insert: Program[..., Lanes]
    update: Program[..., tuple[SACState, Metrics]]
    model: ModelPrograms | None


def compile_programs(
    config: OnlineConfig, components: Components, hyper: Hyper, keys: Key, desk: Desk
) -> tuple[OnlinePrograms, State]:
    """The programs of as many members as there are keys [P], and the shapes of their whole state.

    Raises:
      InputError: programs and state do not fit into memory, or checkpoints not on the disk.
    """
    c, num_members, number = components, keys.shape[0], np.int32(0)
    mesh = choose_devices(num_members, config.num_devices)
    shape = num_members, config.num_envs

    def block(num_steps: int) -> Any:
        return lanes_module.abstract_block(
            (*shape, -(-num_steps // config.num_envs)), c.obs_dim, c.action_dim
        )

    init = programs.init_program(c, config)
    insert = programs.insert_program(c, config)
    agent, buffer = place(init.shapes(keys, hyper, programs.Start(), None), mesh)
    lanes = place(Lanes(block(config.num_steps)), mesh)
    state = State(agent, buffer, None, None)
    data = fitted = None
    if config.has_model:
        data = OwnData(lanes, _abstract_index(config, c, num_members), keys)
        fitted = place(fit.init_fit_program(c, config.fit).shapes(keys, data), mesh)
        model = place(fit.best_program(c, config.fit).shapes(fitted, data), mesh)
        state = state._replace(model=model, fit=fitted if config.refit == "warm" else None)
    # truncated has terminated's shape
    recorded = Recorded._make((*lanes.transitions[:5], lanes.transitions.terminated))
    desk.require_room(Saved(state, recorded))
    act, update = programs.act_program(c, config), programs.update_program(c, config)
    obs = jax.ShapeDtypeStruct((*shape, c.obs_dim), jnp.float32)
    steps = block(config.steps_per_iteration)
    compiled = OnlinePrograms(
        init=init.compile(keys, hyper, programs.Start(), None, mesh=mesh),
        act=act.compile(agent.actor_params, obs, keys, number, mesh=mesh),
        insert=insert.compile(lanes, steps, number, mesh=mesh),
        update=update.compile(agent, hyper, keys, buffer, lanes, number, None, number, None, mesh=mesh),
        model=data and _compile_model(config, c, hyper, keys, state, fitted, data, mesh),
    )
    need = memory.estimate(
        compiled_of(compiled),
        state=(state, lanes),
        kept=("init",),
        recorded=lanes,  # by the experience, in arrays like these
    )
    desk.note(need.line())
    if config.num_devices is None and (idle := idle_devices(mesh)):
        desk.note(idle)
    memory.require(need, config.memory_limit_gib, num_devices=mesh.size)
    return compiled, state


def _compile_model(
    config: OnlineConfig,
    c: Components,
    hyper: Hyper,
    keys: Key,
    state: State,
    fitted: Any,
    data: OwnData,
    mesh: Mesh,
) -> ModelPrograms:
    first, again = (fit.fit_program(c, refit_config(config, first)) for first in (True, False))
    arguments, warm = (fitted, keys, keys, data, shared_key(0, 0)), config.refit == "warm"
    rolled, actor = (state.buffer, None), state.agent.actor_params
    rolling = (rolled, actor, state.model, hyper, keys, None, data, np.int32(1), None)
    return ModelPrograms(
        init_fit=fit.init_fit_program(c, config.fit).compile(keys, data, mesh=mesh),
        fit=first.compile(*arguments, mesh=mesh),
        refit=again.compile(*arguments, mesh=mesh) if warm else None,
        continue_fit=fit.continue_fit_program(c, config.fit).compile(fitted, mesh=mesh) if warm else None,
        best=fit.best_program(c, config.fit).compile(fitted, data, mesh=mesh),
        rollout=programs.rollout_program(c, config).compile(*rolling, mesh=mesh),
    )


def _abstract_index(config: OnlineConfig, c: Components, num_members: int) -> Any:
    """Shapes of every member's index [P], which are the same however much has been recorded."""
    steps = blank_steps(config, c, 1)
    one = index_lanes(config, c.model.max_backtrack, steps, ~steps.terminated)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((num_members, *x.shape), np.asarray(x).dtype), one)


def blank_steps(config: OnlineConfig, c: Components, num_steps: int) -> Any:
    """Transitions of a member whose numbers are all zero, S of each environment, on the host; [E, S, ...]."""
    shapes = lanes_module.abstract_block((config.num_envs, num_steps), c.obs_dim, c.action_dim)
    return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)


def index_lanes(config: OnlineConfig, max_backtrack: int, steps: Transition, ended: np.ndarray) -> LaneIndex:
    """A member's index of the steps recorded so far; see adm_jax.data.lanes.make_index."""
    return lanes_module.make_index(
        steps,
        ended,
        capacity=-(-config.num_steps // config.num_envs),
        max_backtrack=max_backtrack,
        holdout_fraction=config.fit.holdout_fraction,
        split_seed=config.fit.split_seed,
    )


def refit_config(config: OnlineConfig, first: bool) -> FitConfig:
    """How a model is fitted online: the first time, and from scratch, in full; else for ``refit_epochs``.

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
