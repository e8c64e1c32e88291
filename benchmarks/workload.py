"""The library's own programs on the built-in dataset, ready to be timed: what a run compiles, no copies."""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from adm_jax.config import Hyper, OfflineConfig, config_for_task
from adm_jax.data import builtin
from adm_jax.data.dataset import Dataset, make_dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_io
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import Carry
from adm_jax.envs.termination import get_termination
from adm_jax.population.compiling import compile_program
from adm_jax.population.members import all_members, member_hyper, member_keys, resolve_members, shared_key
from adm_jax.rollout import chunk_size
from adm_jax.training import programs
from adm_jax.types import Key, Segment
from benchmarks.options import Options

TASK = "hopper-builtin"
OBS_DIM, ACTION_DIM, ACTION_SCALE = 11, 3, 1.0


class Workload(NamedTuple):
    """A configuration with its data and what its programs are made of."""

    config: OfflineConfig
    parts: programs.OfflineParts
    dataset: Dataset
    holdout: Segment
    hyper: Hyper  # [P]
    keys: Key  # [P]


class Job(NamedTuple):
    """A program with arguments; the first is the state it takes on, whose buffers the result may reuse."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]


@functools.cache
def load_data() -> EpisodeData:
    """The built-in dataset."""
    return minari_io.load(builtin.BUILTIN_ID)


def prepare(options: Options, num_seeds: int, **overrides: Any) -> Workload:
    """The workload that the options ask for.

    Args:
      options: settled by ``options.by_device``.
      num_seeds: P.
      overrides: further fields of the configuration, flat.
    """
    sizes = {
        "max_backtrack": options.max_backtrack,
        "model_hidden_dim": options.model_hidden_dim,
        "rollout_length": options.rollout_length,
        "rollout_batch_size": options.rollout_batch_size,
        "rollout_chunk": options.rollout_chunk,
        "batch_size": options.batch_size,
        "policy_hidden_dim": options.policy_hidden_dim,
        "updates_per_epoch": options.updates,
    }
    sizes = {name: value for name, value in sizes.items() if value is not None}
    sizes["num_epochs"] = 1_000  # as published; it takes so many for kept histories to pay
    if not options.histories:
        sizes["history_cache_gib"] = 0.0
    seeds = tuple(range(options.seed, options.seed + num_seeds))
    config = config_for_task(TASK, seeds=seeds, members=options.members, **{**sizes, **overrides})
    parts = programs.make_parts(
        config,
        OBS_DIM,
        ACTION_DIM,
        ACTION_SCALE,
        get_termination("hopper", OBS_DIM),
        resolve_members(config.members),
    )
    dataset = make_dataset(load_data(), parts.dynamics.max_backtrack)
    return Workload(
        config=config,
        parts=parts,
        dataset=dataset,
        holdout=fitting.holdout_segments(dataset, parts.dynamics.max_backtrack, config.fit),
        hyper=member_hyper(config, all_members(config)),
        keys=member_keys(config.seeds, 0),
    )


def initial_fit(work: Workload) -> fitting.FitState:
    """Fits that have not begun [P]."""
    return jax.jit(programs.init_fit_program(work.parts))(work.keys, work.dataset)


def initial_state(work: Workload, *, full_buffer: bool = False) -> programs.TrainState:
    """Fresh agents and models, and buffers [P]: empty, or full of the dataset's transitions."""
    state = jax.jit(functools.partial(_init_train, work))(initial_fit(work))
    return state._replace(buffer=_fill(state.buffer, work.dataset)) if full_buffer else state


def _init_train(work: Workload, fit: fitting.FitState) -> programs.TrainState:
    model = programs.best_program(work.parts)(fit, work.dataset, work.holdout)
    agent, buffer = programs.init_train_program(work.parts, work.config)(
        work.keys, work.hyper, None, work.dataset
    )
    envs = None
    if work.config.rollout.persistent:
        envs = programs.init_envs_program(work.parts, work.config)(model, work.dataset)
    return programs.TrainState(agent, buffer, model, envs)


def _fill(buffer: RingBuffer, dataset: Dataset) -> RingBuffer:
    num_members, capacity = buffer.data.reward.shape
    rows = jnp.arange(capacity) % dataset.transitions.reward.shape[0]
    data = jax.tree.map(lambda x: jnp.repeat(x[rows][None], num_members, axis=0), dataset.transitions)
    return buffer._replace(data=data, size=jnp.full_like(buffer.size, capacity))


def abstract_state(work: Workload) -> tuple[fitting.FitState, programs.TrainState]:
    """Shapes of a run's state [P]: enough to compile, with nothing allocated."""
    fit = jax.eval_shape(programs.init_fit_program(work.parts), work.keys, work.dataset)
    return fit, jax.eval_shape(functools.partial(_init_train, work), fit)


def fit_job(work: Workload, fit: fitting.FitState) -> Job:
    """An epoch of every member's fit."""
    arguments = (fit, work.keys, work.keys, work.dataset, work.holdout, shared_key(0, 0))
    return Job(programs.fit_program(work.parts, work.config), arguments)


def abstract_histories(work: Workload, state: programs.TrainState) -> Carry | None:
    """Shapes of the encoded histories [P, ...] if such a run keeps them."""
    return programs.kept_histories(work.parts, work.config, state.model, work.dataset)


def encode_histories(work: Workload, state: programs.TrainState) -> tuple[Carry | None, float]:
    """The encoded histories [P, ...] if such a run keeps them, and the seconds it takes to encode them."""
    if abstract_histories(work, state) is None:
        return None, 0.0
    encode = jax.jit(programs.histories_program(work.parts, work.config))
    encode = encode.lower(state.model, work.dataset).compile()
    start = time.perf_counter()
    histories = jax.block_until_ready(encode(state.model, work.dataset))
    return histories, time.perf_counter() - start


def rollout_job(work: Workload, state: programs.TrainState, histories: Carry | None) -> Job:
    """An epoch's roll-outs, put into the buffers."""
    arguments = (
        (state.buffer, state.envs),
        state.agent.actor_params,
        state.model,
        state.max_uncertainty,
        histories,
        work.hyper,
        work.keys,
        work.dataset,
    )
    return Job(programs.rollout_program(work.parts, work.config), arguments)


def update_job(work: Workload, state: programs.TrainState) -> Job:
    """An epoch's SAC updates."""
    factors = (jnp.ones(()), jnp.ones(()))
    arguments = (state.agent, state.buffer, state.preferences, work.hyper, work.keys, work.dataset, factors)
    return Job(programs.update_program(work.parts, work.config), arguments)


def compile_job(job: Job, cache: str | None = None) -> tuple[jax.stages.Compiled, float]:
    """The compiled program and the seconds it took to trace and compile.

    Args:
      job: what to compile.
      cache: folder of a compilation cache on disk; none is used when None, whatever JAX is set to.
    """
    wanted = {
        "jax_enable_compilation_cache": cache is not None,
        "jax_compilation_cache_dir": cache,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
    }
    before = {name: getattr(jax.config, name) for name in wanted}
    try:
        _configure_cache(wanted)
        start = time.perf_counter()
        program = compile_program(job.fn, job.args, donate=(0,))
        return program.compiled, time.perf_counter() - start
    finally:
        _configure_cache(before)


def _configure_cache(values: dict[str, Any]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX looks at these settings once


class Loop:
    """A compiled program run again and again on its own result, as a training run does."""

    def __init__(self, compiled: jax.stages.Compiled, job: Job):
        self._compiled = compiled
        # copies: what is donated may be an argument of another program, too
        self.state = jax.tree.map(jnp.copy, job.args[0])
        self._rest = job.args[1:]

    def __call__(self, *rest: Any) -> Any:
        """Runs the program once, to its end, and gives its metrics; ``rest`` replaces the other arguments."""
        self.state, metrics = self._compiled(self.state, *(rest or self._rest))
        jax.block_until_ready((self.state, metrics))
        return metrics


class Epoch:
    """Epochs of policy optimisation over the whole population: roll out, then update."""

    def __init__(self, work: Workload, rollout: jax.stages.Compiled, update: jax.stages.Compiled):
        self._work, self._rollout, self._update = work, rollout, update
        state = initial_state(work)
        self._agent, self._buffer, self._model, self._envs = state[:4]
        self._histories, self.encoding_seconds = encode_histories(work, state)
        self.seconds: dict[str, list[float]] = {"rollout": [], "update": []}  # of each epoch's parts

    def __call__(self) -> None:
        """Runs one epoch to its end, waiting for the roll-outs too, as a run does that records them."""
        work, start = self._work, time.perf_counter()
        (self._buffer, self._envs), metrics = self._rollout(
            (self._buffer, self._envs),
            self._agent.actor_params,
            self._model,
            None,
            self._histories,
            work.hyper,
            work.keys,
            work.dataset,
        )
        jax.block_until_ready((self._buffer, metrics))
        between = time.perf_counter()
        self._agent, metrics = self._update(
            self._agent,
            self._buffer,
            None,
            work.hyper,
            work.keys,
            work.dataset,
            (jnp.ones(()), jnp.ones(())),
        )
        jax.block_until_ready((self._agent, metrics))
        self.seconds["rollout"].append(between - start)
        self.seconds["update"].append(time.perf_counter() - between)


def shapes(work: Workload) -> dict[str, Any]:
    """The sizes that a figure depends on."""
    config, rollout = work.config, work.config.rollout
    return {
        "num_seeds": len(config.seeds),
        "members": work.parts.members,
        "obs_dim": OBS_DIM,
        "action_dim": ACTION_DIM,
        "max_backtrack": work.parts.dynamics.max_backtrack,
        "model_hidden_dim": config.model.model_hidden_dim,
        "rollout_length": rollout.rollout_length,
        "rollout_batch_size": rollout.rollout_batch_size,
        "rollout_chunk": chunk_size(rollout.rollout_chunk, rollout.rollout_batch_size),
        "batch_size": config.sac.batch_size,
        "policy_hidden_dim": config.sac.policy_hidden_dim,
        "updates_per_epoch": config.updates_per_epoch,
        "real_ratio": config.real_ratio,
        "dataset": builtin.BUILTIN_ID,
    }
