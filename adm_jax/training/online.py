"""SAC in the real environment: the loop that datasets are recorded with.

The environments are stepped on the host in blocks of ``steps_per_iteration``; a block is inserted into
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
from adm_jax.envs.collection import LockStep
from adm_jax.envs.evaluation import Evaluator
from adm_jax.tasks import get_task
from adm_jax.types import Array, EnvSpec, Key, Params

_RECENT_EPISODES = 10  # finished episodes whose mean return is reported

ProgressFn = Callable[[int, dict[str, float]], None]  # steps taken so far, metrics of the last block


class Snapshot(NamedTuple):
    """The first policy evaluated at the return that was waited for, and everything up to there."""

    num_steps: int
    actor_params: Params
    returns: list[float]  # of the evaluation's episodes
    replay: EpisodeData


class _Programs(NamedTuple):
    """The compiled functions of the loop."""

    init: Callable[[Key], SACState]
    act: Callable[[Params, np.ndarray, Key, np.int32], Array]  # obs [E, D], step -> action [E, A]
    insert: Callable[..., RingBuffer]
    update: Callable[[SACState, RingBuffer, Key], tuple[SACState, dict[str, Array]]]


def _make_programs(sac: SAC, config: OnlineConfig) -> _Programs:
    hyper = make_hyper(config.sac)
    num_updates = config.steps_per_iteration * config.updates_per_step

    @jax.jit
    def act(actor_params: Params, obs: np.ndarray, key: Key, step: np.int32) -> Array:
        return sac.sample_action(actor_params, jnp.asarray(obs), jax.random.fold_in(key, step))

    @partial(jax.jit, donate_argnums=0)
    def update(state: SACState, buffer: RingBuffer, key: Key) -> tuple[SACState, dict[str, Array]]:
        def one_update(carry: SACState, update_key: Key) -> tuple[SACState, dict[str, Array]]:
            sample_key, sac_key = jax.random.split(update_key)
            batch = ring_buffer.sample(buffer, sample_key, config.sac.batch_size)
            return sac.update(carry, batch, sac_key, hyper)

        state, metrics = jax.lax.scan(one_update, state, jax.random.split(key, num_updates))
        return state, jax.tree.map(jnp.mean, metrics)

    init = jax.jit(lambda key: sac.init(key, hyper))
    return _Programs(init, act, jax.jit(ring_buffer.add, donate_argnums=0), update)


def collect_replay(
    config: OnlineConfig, progress: ProgressFn | None = None, target_return: float | None = None
) -> tuple[EpisodeData, Params, dict[str, Any]]:
    """Trains SAC online and gives back everything it went through.

    The first ``warmup_steps`` actions are uniformly random and come before the first update. An
    episode that the time limit ends bootstraps: only ``terminated`` enters the critics' target.

    Args:
      config: which task, for how long, and SAC's settings.
      progress: called after every block of steps with the number of steps and the block's metrics.
      target_return: a return to wait for: the policy is evaluated every ``eval_every`` steps until it
        reaches it. Evaluations change nothing about the rest.

    Returns:
      The replay in the order in which its episodes began, the actor's final parameters, and
      ``{"metrics": {name: [iterations]}, "eval": Evaluator.describe(), "eval_returns": [eval_episodes] of the
      deterministic final policy, "snapshot": Snapshot or None, "best_return": of all evaluations}``.

    Raises:
      InputError: the task is unknown or its environment cannot be used.
    """
    task = get_task(config.task)
    environment.require_dims(task.env, task.obs_dim, task.action_dim, f"task {task.name}")
    sac = make_sac(task.obs_dim, task.action_dim, environment.action_scale(task.env), config.sac)
    programs = _make_programs(sac, config)
    init_key, act_key, update_key = jax.random.split(jax.random.key(config.seed), 3)
    state = programs.init(init_key)
    buffer = ring_buffer.init(config.num_steps, task.obs_dim, task.action_dim)
    warmup_rng = np.random.default_rng(config.seed)
    envs = LockStep(task.env, config.seed, config.num_steps, config.num_envs)
    lookout = _Lookout(task.env, sac, config, target_return)
    history: dict[str, list[float]] = {}
    while envs.num_steps < config.num_steps:
        warming_up = envs.num_steps < config.warmup_steps
        for _ in range(config.steps_per_iteration // config.num_envs):
            if warming_up:
                action = envs.random_action(warmup_rng)
            else:
                action = np.asarray(
                    programs.act(state.actor_params, envs.obs, act_key, np.int32(envs.num_steps))
                )
            envs.step(action)
        buffer = programs.insert(buffer, envs.latest(config.steps_per_iteration))
        metrics = {}
        if envs.num_steps >= config.warmup_steps:
            state, means = programs.update(state, buffer, jax.random.fold_in(update_key, envs.num_steps))
            metrics = {name: float(value) for name, value in means.items()}
            metrics["collect/return"] = float(np.mean(envs.returns[-_RECENT_EPISODES:] or np.nan))
            for name, value in metrics.items():
                history.setdefault(name, []).append(value)
            lookout.look(envs, state.actor_params)
        if progress is not None:
            progress(envs.num_steps, metrics)
    evaluation = lookout.finish(envs, state.actor_params)
    envs.close()
    return envs.episodes(), state.actor_params, {"metrics": history, **evaluation}


class _Lookout:
    """Evaluates the policy: now and then until it first reaches a return, and once at the end."""

    def __init__(self, env: EnvSpec, sac: SAC, config: OnlineConfig, target_return: float | None):
        self._evaluator = Evaluator(env, [config.seed], config.eval_episodes)
        self._act = jax.jit(sac.mode_action)
        self._every = config.eval_every
        self._target = target_return
        self._evaluations = 0  # the last one of a run is number 0 whatever came before
        self._best = -np.inf
        self._snapshot: Snapshot | None = None

    def look(self, envs: LockStep, actor_params: Params) -> None:
        """Evaluates, if it is time and the return has not been reached yet."""
        waiting = self._target is not None and self._snapshot is None
        if waiting and envs.num_steps // self._every > self._evaluations:
            self._evaluations = envs.num_steps // self._every
            self._evaluate(envs, actor_params, self._evaluations)

    def finish(self, envs: LockStep, actor_params: Params) -> dict[str, Any]:
        """Evaluates the final policy; what collect_replay says of all evaluations."""
        returns = self._evaluate(envs, actor_params, 0)
        self._evaluator.close()
        found = {"snapshot": self._snapshot, "best_return": self._best}
        return {"eval": self._evaluator.describe(), "eval_returns": returns, **found}

    def _evaluate(self, envs: LockStep, actor_params: Params, evaluation: int) -> list[float]:
        result = self._evaluator.evaluate(lambda obs: self._act(actor_params, obs), evaluation=evaluation)
        returns = result.returns[0].tolist()
        mean = float(np.mean(returns))
        self._best = max(self._best, mean)
        if self._target is not None and self._snapshot is None and mean >= self._target:
            params = jax.device_get(actor_params)  # the next update donates what it is given
            self._snapshot = Snapshot(envs.num_steps, params, returns, envs.episodes())
        return returns
