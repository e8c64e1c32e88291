"""SAC in the real environment: the loop that records a built-in dataset.

The environment is stepped on the host in blocks of ``steps_per_iteration``; a block is inserted into
the ring buffer on the device, and its updates are one compiled scan.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.agents.sac import SAC, SACState, make_hyper, make_sac
from adm_jax.config import OnlineConfig
from adm_jax.data import ring_buffer
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.envs import environment
from adm_jax.envs.collection import Collector
from adm_jax.envs.evaluation import Evaluator
from adm_jax.tasks import get_task
from adm_jax.types import Array, EnvSpec, Key, Params

_RECENT_EPISODES = 10  # finished episodes whose mean return is reported

ProgressFn = Callable[[int, dict[str, float]], None]  # steps taken so far, metrics of the last block


class _Programs(NamedTuple):
    """The compiled functions of the loop."""

    act: Callable[[Params, np.ndarray, Key, np.int32], Array]  # obs [D], step -> action [A]
    insert: Callable[..., RingBuffer]
    update: Callable[[SACState, RingBuffer, Key], tuple[SACState, dict[str, Array]]]


def _make_programs(sac: SAC, config: OnlineConfig) -> _Programs:
    hyper = make_hyper(config.sac)
    num_updates = config.steps_per_iteration * config.updates_per_step

    @jax.jit
    def act(actor_params: Params, obs: np.ndarray, key: Key, step: np.int32) -> Array:
        return sac.sample_action(actor_params, jnp.asarray(obs)[None], jax.random.fold_in(key, step))[0]

    @partial(jax.jit, donate_argnums=0)
    def update(state: SACState, buffer: RingBuffer, key: Key) -> tuple[SACState, dict[str, Array]]:
        def one_update(carry: SACState, update_key: Key) -> tuple[SACState, dict[str, Array]]:
            sample_key, sac_key = jax.random.split(update_key)
            batch = ring_buffer.sample(buffer, sample_key, config.sac.batch_size)
            return sac.update(carry, batch, sac_key, hyper)

        state, metrics = jax.lax.scan(one_update, state, jax.random.split(key, num_updates))
        return state, jax.tree.map(jnp.mean, metrics)

    return _Programs(act, jax.jit(ring_buffer.add, donate_argnums=0), update)


def collect_replay(
    config: OnlineConfig, progress: ProgressFn | None = None
) -> tuple[EpisodeData, Params, dict[str, Any]]:
    """Trains SAC online and gives back everything it went through.

    The first ``warmup_steps`` actions are uniformly random and come before the first update. An
    episode that the time limit ends bootstraps: only ``terminated`` enters the critics' target.

    Args:
      config: which task, for how long, and SAC's settings.
      progress: called after every block of steps with the number of steps and the block's metrics.

    Returns:
      The replay in order of time, the actor's final parameters, and ``{"metrics": {name: [iterations]},
      "eval": Evaluator.describe(), "eval_returns": [eval_episodes] of the deterministic final policy}``.

    Raises:
      InputError: the task is unknown or its environment cannot be used.
    """
    task = get_task(config.task)
    sac = make_sac(task.obs_dim, task.action_dim, environment.action_scale(task.env), config.sac)
    programs = _make_programs(sac, config)
    init_key, act_key, update_key = jax.random.split(jax.random.key(config.seed), 3)
    state = sac.init(init_key)
    buffer = ring_buffer.init(config.num_steps, task.obs_dim, task.action_dim)
    warmup_rng = np.random.default_rng(config.seed)
    collector = Collector(task.env, config.seed, config.num_steps)
    history: dict[str, list[float]] = {}
    while collector.num_steps < config.num_steps:
        warming_up = collector.num_steps < config.warmup_steps
        for _ in range(config.steps_per_iteration):
            if warming_up:
                action = collector.random_action(warmup_rng)
            else:
                step = np.int32(collector.num_steps)
                action = np.asarray(programs.act(state.actor_params, collector.obs, act_key, step))
            collector.step(action)
        buffer = programs.insert(buffer, collector.latest(config.steps_per_iteration))
        metrics = {}
        if collector.num_steps >= config.warmup_steps:
            state, means = programs.update(state, buffer, jax.random.fold_in(update_key, collector.num_steps))
            metrics = {name: float(value) for name, value in means.items()}
            metrics["collect/return"] = float(np.mean(collector.returns[-_RECENT_EPISODES:] or np.nan))
            for name, value in metrics.items():
                history.setdefault(name, []).append(value)
        if progress is not None:
            progress(collector.num_steps, metrics)
    collector.close()
    evaluation = _evaluate(task.env, sac, state.actor_params, config)
    return collector.episodes(), state.actor_params, {"metrics": history, **evaluation}


def _evaluate(env: EnvSpec, sac: SAC, actor_params: Params, config: OnlineConfig) -> dict[str, Any]:
    evaluator = Evaluator(env, [config.seed], config.eval_episodes)
    act = jax.jit(sac.mode_action)
    result = evaluator.evaluate(lambda obs: act(actor_params, obs))
    evaluator.close()
    return {"eval": evaluator.describe(), "eval_returns": result.returns[0].tolist()}
