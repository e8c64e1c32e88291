"""Learning in the real environment (ADM paper, Algorithm 2): ADMPO-ON, MBPO, and SAC without a model.

``OnlineLoop`` is the loop itself, for a whole population and without files; ``adm_jax.training.online_run``
puts a run's folder around it, and ``adm_jax.training.collect`` records datasets with it.

One iteration takes ``steps_per_iteration`` steps in every member's environments, which are stepped together
on the host, puts them into the members' data on the device and does the updates that belong to them. Every
``model_every`` steps since warm-up the models are fitted to all data so far, and rolled out.

Every random number is a function of a member's seed, of what it is for, and of the environment steps taken:
a loop that is restored goes on as if it had never been stopped.
"""

import enum
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.agents.sac import SACState
from adm_jax.config import OnlineConfig
from adm_jax.data import lanes as lanes_module
from adm_jax.data.lanes import LaneIndex, Lanes
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import ModelParams
from adm_jax.envs import environment
from adm_jax.envs.experience import Experience, Recorded
from adm_jax.envs.termination import get_termination
from adm_jax.envs.user_functions import get_reward
from adm_jax.nn.precision import matmul_precision
from adm_jax.population import memory
from adm_jax.population.compiling import compile_program
from adm_jax.population.devices import choose_devices, place
from adm_jax.population.members import Member, fold_keys, member_hyper, resolve_members, shared_key
from adm_jax.runs.clock import WallClock
from adm_jax.tasks import Task
from adm_jax.training import online_programs as programs
from adm_jax.types import Array, InputError, Key, Params

_RECENT_EPISODES = 10  # finished episodes whose mean return is reported


class Stream(enum.IntEnum):
    """What a member's random numbers are for, beside its policy's start, actions and updates."""

    INIT_FIT = 0
    FIT = 1
    BOOTSTRAP = 2
    HOLDOUT = 3
    ROLLOUT = 4


class State(NamedTuple):
    """All that an iteration changes; leaves [P, ...]. What is not needed without a model is None."""

    agent: SACState
    buffer: RingBuffer | None
    model: ModelParams | None
    fit: fitting.FitState | None  # of the model before, which a warm fit goes on from


class Saved(NamedTuple):
    """What a loop is restored from."""

    state: State
    recorded: Recorded


class OnlineLoop:
    """P members that learn side by side, each in environments of its own."""

    def __init__(
        self,
        config: OnlineConfig,
        task: Task,
        members: Sequence[Member],
        clock: WallClock | None = None,
    ):
        """Makes the environments, compiles the programs and sees that all of it fits into memory.

        Raises:
          InputError: the task's environment cannot be used, the warm-up is too short to fit a model, or the
            memory does not suffice.
        """
        self.config, self.task, self.members = config, task, tuple(members)
        self.clock = clock or WallClock()
        environment.require_dims(task.env, task.obs_dim, task.action_dim, f"task {task.name}")
        reward = config.rollout.reward
        self.parts = programs.make_parts(
            config,
            task.obs_dim,
            task.action_dim,
            environment.action_scale(task.env),
            get_termination(config.rollout.termination or task.termination, task.obs_dim),
            resolve_members(config.members),
            None if reward is None else get_reward(reward, task.obs_dim, task.action_dim),
        )
        if config.has_model:
            self._require_warmup()
        seeds = [member.seed for member in self.members]
        roots = jax.vmap(lambda seed: jax.random.split(jax.random.key(seed), 3), out_axes=1)
        self._init_keys, self._act_keys, self._update_keys = roots(jnp.asarray(seeds, jnp.uint32))
        self._hyper = member_hyper(config, self.members)
        self.mesh = choose_devices(len(seeds), config.num_devices)
        with self.clock.phase("compile"), matmul_precision(config.matmul_precision):
            self.memory = self._compile()
        agent, self._lanes, buffer = self._programs["init"](self._init_keys, self._hyper)
        self.state = State(agent, buffer, None, None)
        self.experience = Experience(task.env, seeds, config.num_steps, config.num_envs)
        self._warmup_rngs = [np.random.default_rng(seed) for seed in seeds]
        self._metrics: list[dict[str, Array]] = []  # of the updates since they were last asked for
        self._model_metrics: list[dict[str, Any]] = []  # of the fits and roll-outs since then

    @property
    def num_steps(self) -> int:
        """Environment steps of a member so far, warm-up included."""
        return self.experience.num_steps

    @property
    def learned_steps(self) -> int:
        """Environment steps of a member behind the warm-up."""
        return max(self.num_steps - self.config.warmup_steps, 0)

    @property
    def num_updates(self) -> int:
        """Critics' updates of a member so far; the block that completes the warm-up is followed by some."""
        config = self.config
        if self.num_steps < config.warmup_steps:
            return 0
        return (self.learned_steps + config.steps_per_iteration) * config.updates_per_step

    @property
    def actor_params(self) -> Params:
        """The policies [P]; their memory is reused by the next iteration."""
        return self.state.agent.actor_params

    def iterate(self) -> None:
        """Steps the environments, fits and rolls out the models where it is time, updates the policies."""
        config = self.config
        with self.clock.phase("environment"):
            for _ in range(config.steps_per_iteration // config.num_envs):
                self.experience.step(self._act())
            start = (self.num_steps - config.steps_per_iteration) // config.num_envs
            block = self.experience.latest(config.steps_per_iteration)
            self._lanes = self._programs["insert"](self._lanes, block, np.int32(start))
        if self.num_steps < config.warmup_steps:
            return
        if config.has_model and self.learned_steps % config.model_every == 0:
            self._fit_model()
            self._roll_out()
        with self.clock.phase("update"):
            keys = fold_keys(self._update_keys, self.num_steps)
            first = self.num_updates - config.steps_per_iteration * config.updates_per_step
            rows = self.num_steps // config.num_envs
            agent, metrics = self._programs["update"](
                self.state.agent,
                self._hyper,
                keys,
                self._lanes,
                self.state.buffer,
                np.int32(rows),
                np.int32(first),
            )
            self.state = self.state._replace(agent=jax.block_until_ready(agent))
            self._metrics.append(metrics)

    def metrics(self) -> dict[str, Any]:
        """Means [P] over the iterations, and over the fits and roll-outs, since the last call."""
        updates: dict[str, Any] = {}
        if self._metrics:
            rows = jax.device_get(self._metrics)
            for name in rows[0]:
                values = np.stack([row[name] for row in rows])
                lacks = programs.may_lack(self.config, name)
                known = ~np.isnan(values) if lacks else np.ones_like(values, bool)
                count = known.sum(axis=0)
                total = np.where(known, values, 0.0).sum(axis=0) if not known.all() else values.sum(axis=0)
                updates[name] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        recent = [returns[-_RECENT_EPISODES:] or [np.nan] for returns in self.experience.returns]
        model = jax.device_get(self._model_metrics)
        if model:
            updates |= {name: np.mean([row[name] for row in model], axis=0) for name in model[0]}
        self._metrics, self._model_metrics = [], []
        return {**updates, "collect/return": np.array([np.mean(returns) for returns in recent])}

    def save(self) -> Saved:
        """What ``restore`` needs beside the number of steps."""
        return Saved(self.state, self.experience.recorded)

    def abstract_saved(self, num_steps: int) -> Saved:
        """Shapes of what ``save`` gives after so many steps."""
        state = self._abstract
        if num_steps < self.config.warmup_steps:
            state = state._replace(model=None, fit=None)
        return Saved(state, self.experience.recorded)

    def restore(self, saved: Saved, num_steps: int) -> None:
        """Goes on where another loop of this configuration was after ``num_steps`` steps.

        Raises:
          InputError: the environments do not lead where they led.
        """
        self.state = saved.state
        self.experience.restore(saved.recorded, num_steps)
        self._lanes = Lanes(jax.tree.map(jnp.array, saved.recorded.as_transition()))
        for _ in range(min(num_steps, self.config.warmup_steps) // self.config.num_envs):
            self.experience.random_action(self._warmup_rngs)

    def close(self) -> None:
        """Frees the environments."""
        self.experience.close()

    def _act(self) -> np.ndarray:
        """Actions [P, E, A]: uniform in the warm-up, then the policies' own, sampled."""
        if self.num_steps < self.config.warmup_steps:
            return self.experience.random_action(self._warmup_rngs)
        action = np.array(
            self._programs["act"](
                self.actor_params, self.experience.obs, self._act_keys, np.int32(self.num_steps)
            )
        )
        # a member whose policy has broken must not take the others down: it rests
        action[~np.isfinite(action).all(axis=-1)] = self.experience.resting_action
        return action

    def _keys(self, stream: Stream) -> Key:
        """Every member's key [P] of a stream, at this step."""
        streams = jax.vmap(lambda key: jax.random.fold_in(key, 1_000 + stream))(self._init_keys)
        return fold_keys(streams, self.num_steps)

    def _fit_model(self) -> None:
        config, first = self.config, self.state.fit is None
        with self.clock.phase("fit"):
            self._index = self._make_index()
            if first or config.refit == "scratch":
                state = self._programs["init_fit"](self._keys(Stream.INIT_FIT), self._lanes, self._index)
            else:
                assert self.state.fit is not None
                state = self._programs["continue_fit"](self.state.fit)
            bootstrap, holdout = self._keys(Stream.BOOTSTRAP), self._keys(Stream.HOLDOUT)
            fit = self._programs["fit" if first or config.refit == "scratch" else "refit"]
            epoch, keys, metrics = 0, self._keys(Stream.FIT), {}
            while (active := np.asarray(state.active)).any():
                shared = jax.random.fold_in(shared_key(config.fit.split_seed, self.num_steps), epoch)
                state, latest = fit(
                    state, fold_keys(keys, epoch), bootstrap, holdout, self._lanes, self._index, shared
                )
                # a member that has stopped keeps what its last epoch gave
                latest = jax.device_get(latest)
                metrics = {
                    name: np.where(active.reshape(-1, *(1,) * (x.ndim - 1)), x, metrics.get(name, x))
                    for name, x in latest.items()
                }
                epoch += 1
            model = self._programs["best"](state, holdout, self._lanes, self._index)
            epochs = np.asarray(state.epoch)
            kept = state if config.refit == "warm" else None
            self.state = jax.block_until_ready(self.state._replace(fit=kept, model=model))
        self._model_metrics.append({**metrics, "model/epochs": epochs})

    def _roll_out(self) -> None:
        length = self.config.rollout.length_at(self.learned_steps)
        with self.clock.phase("rollout"):
            buffer, metrics = self._programs["rollout"](
                self.state.buffer,
                self.actor_params,
                self.state.model,
                self._keys(Stream.ROLLOUT),
                self._lanes,
                self._index,
                np.int32(length),
            )
            self.state = jax.block_until_ready(self.state._replace(buffer=buffer))
        # a copy: the next roll-out, which may come before metrics are asked for, reuses the buffer's memory
        size = np.array(buffer.size)
        lengths = np.full(len(self.members), length)
        self._model_metrics[-1] |= {**metrics, "rollout/length": lengths, "rollout/buffer_size": size}

    def _make_index(self) -> LaneIndex:
        """Every member's index [P] of its data so far."""
        rows = self.num_steps // self.config.num_envs
        recorded, ended = self.experience.recorded, self.experience.ended()
        indices = [
            self._index_of(recorded.obs[member, :, :rows], recorded.action[member, :, :rows], ended[member])
            for member in range(len(self.members))
        ]
        for member, index in zip(self.members, indices, strict=True):
            self._require_segments(member, index, self.num_steps)
        return jax.tree.map(lambda *leaves: np.stack(leaves), *indices)

    def _require_warmup(self) -> None:
        """Sees that the warm-up can be split if no episode ends; which blocks are held out is known."""
        config, parts = self.config, self.parts
        rows = config.warmup_steps // config.num_envs
        obs, action = (np.zeros((config.num_envs, rows, dim)) for dim in (parts.obs_dim, parts.action_dim))
        index = self._index_of(obs, action, np.zeros((config.num_envs, rows), bool))
        self._require_segments(self.members[0], index, config.warmup_steps)

    def _require_segments(self, member: Member, index: LaneIndex, num_steps: int) -> None:
        m = self.parts.model.max_backtrack
        parts = (("train on", "train", m), ("hold out", "holdout", 1), ("roll out from", "windows", m))
        for purpose, name, depth in parts:
            if not getattr(index.index, name).count[depth - 1]:
                raise InputError(
                    f"warmup_steps: after {num_steps} steps {member.tag} has no segment of {depth} to "
                    f"{purpose}; take more, or change max_backtrack {m}, holdout_fraction or split_seed"
                )

    def _index_of(self, obs: np.ndarray, action: np.ndarray, ended: np.ndarray) -> LaneIndex:
        config = self.config
        return lanes_module.make_index(
            obs,
            action,
            ended,
            capacity=-(-config.num_steps // config.num_envs),
            max_backtrack=self.parts.model.max_backtrack,
            holdout_fraction=config.fit.holdout_fraction,
            split_seed=config.fit.split_seed,
        )

    def _compile(self) -> memory.MemoryEstimate:
        """Compiles the programs; what they and the state take."""
        config, parts = self.config, self.parts
        num_members, num_envs = len(self.members), config.num_envs
        keys, hyper, number = self._init_keys, self._hyper, np.int32(0)
        compile = partial(compile_program, mesh=self.mesh)
        init = programs.init_program(parts, config)
        agent, lanes, buffer = place(jax.eval_shape(init, keys, hyper), self.mesh)
        shape = (num_members, num_envs, config.steps_per_iteration // num_envs)
        block = lanes_module.abstract_block(shape, parts.obs_dim, parts.action_dim)
        obs = jax.ShapeDtypeStruct((num_members, num_envs, parts.obs_dim), jnp.float32)
        compiled = {
            "init": compile(init, (keys, hyper)),
            "act": compile(programs.act_program(parts), (agent.actor_params, obs, keys), (number,)),
            "insert": compile(programs.insert_program(), (lanes, block), (number,), donate=(0,)),
            "update": compile(
                programs.update_program(parts, config),
                (agent, hyper, keys, lanes, buffer),
                (number, number),
                donate=(0,),
            ),
        }
        state = State(agent, buffer, None, None)
        if config.has_model:
            state = self._compile_model(compiled, agent, lanes, buffer, keys)
        self._programs, self._abstract = compiled, state
        need = memory.estimate(
            {name: program.compiled for name, program in compiled.items()},
            state=(state, lanes),
            kept=("init",),
            recorded=lanes,  # by the experience, in arrays like these
        )
        memory.require(need, config.memory_limit_gib, num_devices=self.mesh.size)
        return need

    def _compile_model(
        self, compiled: dict[str, Any], agent: Any, lanes: Lanes, buffer: Any, keys: Key
    ) -> State:
        """Adds the programs of the dynamics models; shapes of the whole state."""
        config, parts = self.config, self.parts
        compile = partial(compile_program, mesh=self.mesh)
        index = self._abstract_index()
        init_fit = programs.init_fit_program(parts)
        fit = place(jax.eval_shape(init_fit, keys, lanes, index), self.mesh)
        compiled["init_fit"] = compile(init_fit, (keys, lanes, index))
        for name, first in (("fit", True), ("refit", False)):
            if name == "refit" and config.refit == "scratch":
                continue
            compiled[name] = compile(
                programs.fit_program(parts, programs.refit_config(config, first)),
                (fit, keys, keys, keys, lanes, index),
                (shared_key(0, 0),),
                donate=(0,),
            )
        if config.refit == "warm":
            continue_fit = programs.continue_fit_program(parts)
            compiled["continue_fit"] = compile(continue_fit, (fit,), donate=(0,))
        best = programs.best_program(parts, config.fit)
        model = place(jax.eval_shape(best, fit, keys, lanes, index), self.mesh)
        compiled["best"] = compile(best, (fit, keys, lanes, index))
        compiled["rollout"] = compile(
            programs.rollout_program(parts, config),
            (buffer, agent.actor_params, model, keys, lanes, index),
            (np.int32(1),),
            donate=(0,),
        )
        return State(agent, buffer, model, fit if config.refit == "warm" else None)

    def _abstract_index(self) -> LaneIndex:
        """Shapes of an index [P], which are the same however much has been recorded."""
        num_envs, parts = self.config.num_envs, self.parts
        one = self._index_of(
            np.zeros((num_envs, 1, parts.obs_dim), np.float32),
            np.zeros((num_envs, 1, parts.action_dim), np.float32),
            np.ones((num_envs, 1), bool),
        )
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(self.members), *x.shape), np.asarray(x).dtype), one
        )
