"""The library's own programs on the built-in dataset, ready to be timed: what a run compiles, no copies."""

import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

from adm_jax.config import Hyper, OfflineConfig, config_for_task
from adm_jax.data import builtin
from adm_jax.data.dataset import Dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_io
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.dynamics.fitting import FitState
from adm_jax.dynamics.interface import Carry
from adm_jax.nn.precision import asked_precision
from adm_jax.population.compiling import MemberProgram
from adm_jax.population.keys import offline_keys, shared_key
from adm_jax.population.members import all_members, member_hyper, settled
from adm_jax.tasks import get_task
from adm_jax.training import fit, programs
from adm_jax.training.components import Components, SharedData, make_components
from adm_jax.training.data import put_on_device
from adm_jax.training.offline import TrainState
from adm_jax.types import Key
from benchmarks.speed.options import Options

TASK = "hopper-medium-replay"  # whose published settings the workload has, on the built-in data
OBS_DIM, ACTION_DIM, ACTION_SCALE = 11, 3, 1.0


class Workload(NamedTuple):
    """A configuration with its data and what its programs are made of."""

    config: OfflineConfig
    components: Components
    data: SharedData
    hyper: Hyper  # [P]
    keys: Key  # [P]

    @property
    def dataset(self) -> Dataset:
        """The data that all members share."""
        return self.data.dataset


class Job(NamedTuple):
    """A program with arguments; the first is the state it takes on, whose buffers the result may reuse."""

    fn: MemberProgram[..., Any]
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
    return prepare_for(None, options, num_seeds, **overrides)


def prepare_for(platform: str | None, options: Options, num_seeds: int, **overrides: Any) -> Workload:
    """The same, to be compiled for a platform: ``cpu``, ``gpu`` or ``tpu``; None: for the default device."""
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
    sizes["matmul_precision"] = asked_precision()  # kernels that gain nothing in float32 are not chosen
    if not options.histories:
        sizes["history_cache_gib"] = 0.0
    seeds = tuple(range(options.seed, options.seed + num_seeds))
    config = config_for_task(TASK, seeds=seeds, members=options.members, **{**sizes, **overrides})
    config = settled(config, platform)
    components = make_components(config, get_task(TASK), platform)
    return Workload(
        config=config,
        components=components,
        data=put_on_device(config, load_data(), components.model.max_backtrack),
        hyper=member_hyper(config, all_members(config)),
        keys=offline_keys(config.seeds, 0),
    )


def initial_fit(work: Workload) -> FitState:
    """Fits that have not begun [P]."""
    return jax.jit(fit.init_fit_program(work.components, work.config.fit))(work.keys, work.data)


_FULL_RATES = (np.ones((), np.float32), np.ones((), np.float32))  # of actor and critics


def initial_state(work: Workload, *, full_buffer: bool = False) -> TrainState:
    """Fresh agents and models, and buffers [P]: empty, or full of the dataset's transitions."""
    state = jax.jit(functools.partial(_init_train, work))(initial_fit(work))
    return state._replace(buffer=_fill(state.buffer, work.data.dataset)) if full_buffer else state


def _init_train(work: Workload, state: FitState) -> TrainState:
    config, components, data = work.config, work.components, work.data
    model = fit.best_program(components, config.fit)(state, data)
    agent, buffer = programs.init_program(components, config)(work.keys, work.hyper, programs.Start(), data)
    envs = None
    if config.rollout.persistent:
        envs = programs.init_envs_program(components, config)(model, data)
    return TrainState(agent, buffer, model, envs)


def _fill(buffer: RingBuffer, dataset: Dataset) -> RingBuffer:
    num_members, capacity = buffer.data.reward.shape
    rows = jnp.arange(capacity) % dataset.transitions.reward.shape[0]
    data = jax.tree.map(lambda x: jnp.repeat(x[rows][None], num_members, axis=0), dataset.transitions)
    return buffer._replace(data=data, size=jnp.full_like(buffer.size, capacity))


def abstract_state(work: Workload) -> tuple[FitState, TrainState]:
    """Shapes of a run's state [P]: enough to compile, with nothing allocated."""
    state = fit.init_fit_program(work.components, work.config.fit).shapes(work.keys, work.data)
    return state, jax.eval_shape(functools.partial(_init_train, work), state)


def fit_job(work: Workload, state: FitState) -> Job:
    """An epoch of every member's fit."""
    arguments = (state, work.keys, work.keys, work.data, shared_key(0, 0))
    return Job(fit.fit_program(work.components, work.config.fit), arguments)


def abstract_histories(work: Workload, state: TrainState) -> Carry | None:
    """Shapes of the encoded histories [P, ...] if such a run keeps them."""
    return programs.kept_histories(work.components, work.config, state.model, work.data)


def encode_histories(work: Workload, state: TrainState) -> tuple[Carry | None, float]:
    """The encoded histories [P, ...] if such a run keeps them, and the seconds it takes to encode them."""
    if abstract_histories(work, state) is None:
        return None, 0.0
    encode = programs.histories_program(work.components, work.config).compile(state.model, work.data)
    start = time.perf_counter()
    histories = jax.block_until_ready(encode(state.model, work.data))
    return histories, time.perf_counter() - start


def rollout_job(work: Workload, state: TrainState, histories: Carry | None) -> Job:
    """An epoch's roll-outs, put into the buffers."""
    rolled, actor_params = (state.buffer, state.envs), state.agent.actor_params
    arguments = (rolled, actor_params, state.model, work.hyper, work.keys, histories, work.data, None, None)
    return Job(programs.rollout_program(work.components, work.config), arguments)


def update_job(work: Workload, state: TrainState) -> Job:
    """An epoch's SAC updates."""
    arguments = (state.agent, work.hyper, work.keys, state.buffer, work.data, None, _FULL_RATES, None, None)
    return Job(programs.update_program(work.components, work.config), arguments)


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
        compiled = job.fn.compile(*job.args).compiled
        return compiled, time.perf_counter() - start
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
        rolled, actor_params = (self._buffer, self._envs), self._agent.actor_params
        (self._buffer, self._envs), metrics = self._rollout(
            rolled, actor_params, self._model, work.hyper, work.keys, self._histories, work.data, None, None
        )
        jax.block_until_ready((self._buffer, metrics))
        between = time.perf_counter()
        self._agent, metrics = self._update(
            self._agent, work.hyper, work.keys, self._buffer, work.data, None, _FULL_RATES, None, None
        )
        jax.block_until_ready((self._agent, metrics))
        self.seconds["rollout"].append(between - start)
        self.seconds["update"].append(time.perf_counter() - between)


def shapes(work: Workload) -> dict[str, Any]:
    """The sizes that a figure depends on."""
    config, rollout = work.config, work.config.rollout
    return {
        "num_seeds": len(config.seeds),
        "members": work.components.mapping,
        "obs_dim": OBS_DIM,
        "action_dim": ACTION_DIM,
        "max_backtrack": work.components.model.max_backtrack,
        "model_hidden_dim": config.model.model_hidden_dim,
        "rollout_length": rollout.rollout_length,
        "rollout_batch_size": rollout.rollout_batch_size,
        "rollout_chunk": programs.rollout_chunk(config),
        "batch_size": config.sac.batch_size,
        "policy_hidden_dim": config.sac.policy_hidden_dim,
        "updates_per_epoch": config.updates_per_epoch,
        "real_ratio": config.real_ratio,
        "dataset": builtin.BUILTIN_ID,
    }
