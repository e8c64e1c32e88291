"""The datasets of a task, in D4RL's manner: one run of SAC, and roll-outs of what it learned on the way.

random         a uniformly random policy
medium         the first policy evaluated at ``medium_return``
replay         everything SAC went through until then
expert         the final policy
medium-expert  the medium and the expert dataset, one behind the other
full-replay    everything SAC went through
"""

import contextlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from adm_jax.agents.sac import make_sac
from adm_jax.config import MODEL_FREE, OnlineConfig, ReplayConfig, online_from_flat
from adm_jax.config.collect import CollectConfig
from adm_jax.config.settings import to_flat
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats.minari_write import storable_kwargs
from adm_jax.envs import environment
from adm_jax.envs.evaluator import Evaluator
from adm_jax.envs.experience import Experience, concatenate
from adm_jax.population.members import all_members
from adm_jax.runs.progress import Progress
from adm_jax.tasks import Task, get_task
from adm_jax.training.online import OnlineLoop
from adm_jax.types import InputError, Params

MEDIUM_SHARE = 1 / 3  # of the way from the task's random to its expert return: D4RL's "medium"

_NEED_MEDIUM = frozenset({"medium", "replay", "medium-expert"})
_REPORT_EVERY = 50  # steps of all environments between two reports of a roll-out's progress
_SEED_INDEX = {"random": 1, "medium": 2, "expert": 3}  # 0 would be too close to the run's own
_STOCHASTIC = "SAC, stochastic (sampled actions)"
_DETERMINISTIC = "SAC, deterministic (mode actions)"


ProgressFn = Callable[[int, dict[str, float]], None]  # steps taken so far, metrics of the last block


@dataclass(frozen=True)
class Collected:
    """What was collected."""

    datasets: Mapping[str, EpisodeData]  # by kind, with metadata
    policies: Mapping[str, tuple[Params, dict[str, Any]]]  # medium and expert: parameters and where from
    missing: str | None  # why some of the kinds that were asked for are not there


def medium_return(task: Task, config: CollectConfig) -> float | None:
    """The return a medium policy is waited for; None where no kind needs one.

    Raises:
      InputError: one is needed, none is given, and the task has no references to take a share of.
    """
    if not _NEED_MEDIUM & set(config.kinds):
        return None
    if config.medium_return is not None:
        return config.medium_return
    if task.reference_min is None or task.reference_max is None:
        raise InputError(
            f"medium_return: empty, and task {task.name} has no reference scores to take a share of; give "
            "it, as in --medium_return=1000"
        )
    return task.reference_min + MEDIUM_SHARE * (task.reference_max - task.reference_min)


def collect(config: ReplayConfig, wanted: CollectConfig, progress: Progress) -> Collected:
    """Trains where a kind needs it, rolls policies out, and says of every dataset how it was made.

    Args:
      config: the run of SAC, and how many environments are stepped side by side everywhere.
      wanted: the kinds, and how much of them.
      progress: entered already.

    Raises:
      InputError: the task, or what is wanted of it, cannot be had; nothing has been computed then.
    """
    task = get_task(config.task)
    target = medium_return(task, wanted)
    if wanted.num_transitions % config.num_envs:
        raise InputError(
            f"num_envs: {config.num_envs} does not divide num_transitions {wanted.num_transitions}"
        )
    collection = _Collection(task, config, wanted, progress)
    if set(wanted.kinds) != {"random"}:
        collection.train(target)
    collection.roll_out()
    return collection.result(target)


class Snapshot(NamedTuple):
    """The first policy evaluated at the return that was waited for, and everything up to there."""

    num_steps: int
    actor_params: Params
    returns: list[float]  # of the evaluation's episodes
    replay: EpisodeData


def collect_replay(
    config: ReplayConfig, progress: ProgressFn | None = None, target_return: float | None = None
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
    online_config = online_config_of(config)
    loop = OnlineLoop(online_config, get_task(config.task), all_members(online_config))
    history: dict[str, list[float]] = {}
    with contextlib.closing(loop), contextlib.closing(_Lookout(loop, config, target_return)) as lookout:
        while loop.num_steps < config.num_steps:
            loop.iterate()
            metrics = {}
            if loop.num_steps >= config.warmup_steps:
                metrics = {name: float(value[0]) for name, value in loop.metrics().items()}
                for name, value in metrics.items():
                    history.setdefault(name, []).append(value)
                lookout.look()
            if progress is not None:
                progress(loop.num_steps, metrics)
        evaluation = lookout.finish()
    actor_params = jax.tree.map(lambda leaf: leaf[0], loop.policy_params)
    return loop.experience.episodes(), actor_params, {"metrics": history, **evaluation}


def online_config_of(config: ReplayConfig) -> OnlineConfig:
    """The run of SAC as the online loop has it."""
    shared = {name: value for name, value in to_flat(config).items() if name not in ("seed", "eval_every")}
    unused = dict.fromkeys(("eval_every", "log_every", "checkpoint_every"), config.num_steps)
    return online_from_flat({**shared, **unused, "dynamics": MODEL_FREE, "seeds": (config.seed,)})


class _Collection:
    """State of a collection under way."""

    def __init__(self, task: Task, config: ReplayConfig, wanted: CollectConfig, progress: Progress):
        self._task, self._config, self._wanted, self._progress = task, config, wanted, progress
        environment.require_dims(task.env, task.obs_dim, task.action_dim, f"task {task.name}")
        self._sac = make_sac(task.obs_dim, environment.action_bounds(task.env), config.sac)
        self._data: dict[str, EpisodeData] = {}
        self._made_by: dict[str, dict[str, Any]] = {}  # kind -> its own metadata
        self._policies: dict[str, tuple[Params, dict[str, Any]]] = {}
        self._best = -math.inf
        self._final_returns: list[float] | None = None

    def train(self, target: float | None) -> None:
        """Runs SAC: the replays and the policies."""
        self._progress.begin("SAC", self._config.num_steps)
        done = 0

        def report(steps: int, metrics: Mapping[str, float]) -> None:
            nonlocal done
            names = ("collect/return", "critic/q", "actor/entropy")
            info = {name.split("/")[1]: metrics[name] for name in names if name in metrics}
            self._progress.advance(steps - done, info=info, environment_steps=steps - done)
            done = steps

        replay, actor_params, outcome = collect_replay(self._config, report, target)
        self._progress.end()
        self._best, self._final_returns = outcome["best_return"], outcome["eval_returns"]
        steps, seed = self._config.num_steps, self._config.seed
        learning = "SAC, stochastic, while it learns"
        self._put("full-replay", replay, policy=learning, seed=seed, policy_steps=steps)
        self._keep_policy("expert", actor_params, steps, outcome["eval_returns"])
        snapshot: Snapshot | None = outcome["snapshot"]
        if snapshot is not None:
            steps = snapshot.num_steps
            self._put("replay", snapshot.replay, policy=learning, seed=seed, policy_steps=steps)
            self._keep_policy("medium", snapshot.actor_params, steps, snapshot.returns)

    def roll_out(self) -> None:
        """The datasets of one policy, and the two joined."""
        kinds = set(self._wanted.kinds)
        if "medium-expert" in kinds:
            kinds |= {"medium", "expert"}
        if "random" in kinds:
            self._roll_out("random", None)
        for kind in ("medium", "expert"):
            if kind in kinds and kind in self._policies:
                self._roll_out(kind, self._policies[kind][0])
        if {"medium", "expert"} <= self._data.keys():
            parts = [self._data[kind] for kind in ("medium", "expert")]
            seeds = {kind: self._made_by[kind]["seed"] for kind in ("medium", "expert")}
            self._put(
                "medium-expert",
                concatenate(parts),
                policy=self._made_by["expert"]["policy"],
                seed=self._config.seed,
                part_seeds=seeds,
                part_episodes={"medium": len(parts[0].episode_ends), "expert": len(parts[1].episode_ends)},
            )

    def result(self, target: float | None) -> Collected:
        """The kinds that were asked for, each with what made it."""
        shared = self._shared_metadata()
        datasets = {
            kind: replace(self._data[kind], metadata={**shared, **self._made_by[kind]})
            for kind in self._wanted.kinds
            if kind in self._data
        }
        absent = [kind for kind in self._wanted.kinds if kind not in datasets]
        missing = None
        if absent:
            missing = (
                f"medium_return: {target:.1f} was not reached in {self._config.num_steps} steps (best "
                f"evaluation {self._best:.1f}): no {', '.join(absent)}; lower it or raise num_steps"
            )
        return Collected(datasets, self._policies, missing)

    def _roll_out(self, kind: str, actor_params: Params | None) -> None:
        """A dataset of a policy; of uniformly random actions when None."""
        seed = environment.reset_seed(self._config.seed, _SEED_INDEX[kind])
        policy = _DETERMINISTIC if self._wanted.deterministic else _STOCHASTIC
        total, num_envs = self._wanted.num_transitions, self._config.num_envs
        self._progress.begin(kind, total)
        reported = 0
        with contextlib.closing(Experience(self._task.env, [seed], total, num_envs)) as envs:
            act = self._random(envs, seed) if actor_params is None else self._acting(actor_params, seed)
            while envs.num_steps < total:
                envs.step(act(envs.obs[0], envs.num_steps)[None])
                if envs.num_steps - reported >= _REPORT_EVERY or envs.num_steps == total:
                    count, reported = envs.num_steps - reported, envs.num_steps
                    self._progress.advance(count, transitions=count)
        self._progress.end()
        self._put(
            kind, envs.episodes(), policy="uniform random" if actor_params is None else policy, seed=seed
        )

    def _random(self, envs: Experience, seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
        rng = np.random.default_rng(seed)
        return lambda obs, step: envs.random_action([rng])[0]

    def _acting(self, actor_params: Params, seed: int) -> Callable[[np.ndarray, int], np.ndarray]:
        """A function ``(obs [E, D], step) -> action [E, A]``: one compiled call for all environments."""
        key = jax.random.key(seed)
        if self._wanted.deterministic:
            mode = jax.jit(self._sac.mode_action)
            return lambda obs, step: np.asarray(mode(actor_params, obs))
        sample = jax.jit(
            lambda params, obs, step: self._sac.sample_action(params, obs, jax.random.fold_in(key, step))
        )
        return lambda obs, step: np.asarray(sample(actor_params, obs, np.int32(step)))

    def _put(self, kind: str, data: EpisodeData, **made_by: Any) -> None:
        self._data[kind] = data
        self._made_by[kind] = {"kind": kind, **made_by}
        if kind in self._policies:
            info = self._policies[kind][1]
            self._made_by[kind] |= {name: info[name] for name in ("policy_steps", "policy_returns")}

    def _keep_policy(self, kind: str, actor_params: Params, steps: int, returns: list[float]) -> None:
        info = {**self._origin(), "kind": kind, "policy_steps": steps, "policy_returns": returns}
        self._policies[kind] = (actor_params, info)

    def _origin(self) -> dict[str, Any]:
        task, config = self._task, self._config
        origin = {"task": task.name, "env_id": task.env_id, "seed": config.seed, "config": to_flat(config)}
        if task.env_kwargs:
            origin["env_kwargs"] = storable_kwargs(task.env_kwargs)
        if task.obs_limit is not None:
            origin["obs_limit"] = task.obs_limit
        return origin

    def _shared_metadata(self) -> dict[str, Any]:
        shared = {**self._origin(), "num_envs": self._config.num_envs}
        random_returns = _random_returns(self._task, self._config)
        shared["random_policy_returns"] = random_returns
        if self._final_returns is not None:
            shared["final_policy_returns"] = self._final_returns
        low, high = self._task.reference_min, self._task.reference_max
        if low is None or high is None:
            if self._final_returns is None:
                return shared
            low, high = float(np.mean(random_returns)), float(np.mean(self._final_returns))
            if not low < high:  # SAC has learned nothing: there is no score
                return shared
            shared["references"] = "measured: random_policy_returns and final_policy_returns"
        else:
            shared["references"] = f"those of task {self._task.name}"
        return {**shared, "ref_min_score": low, "ref_max_score": high}


def _random_returns(task: Task, config: ReplayConfig) -> list[float]:
    """Returns [eval_episodes] of uniformly random actions."""
    rng = np.random.default_rng(config.seed)
    with contextlib.closing(Evaluator(task.env, [config.seed], config.eval_episodes)) as evaluator:
        low, high = evaluator.action_low, evaluator.action_high
        result = evaluator.evaluate(
            lambda obs: rng.uniform(low, high, (*obs.shape[:2], low.size)).astype(np.float32)
        )
    return result.returns[0].tolist()


class _Lookout:
    """Evaluates the policy: now and then until it first reaches a return, and once at the end."""

    def __init__(self, loop: OnlineLoop, config: ReplayConfig, target_return: float | None):
        self._loop = loop
        self._evaluator = Evaluator(loop.task.env, [config.seed], config.eval_episodes)
        self._act = jax.jit(jax.vmap(loop.components.agent.mode_action))
        self._every = config.eval_every
        self._target = target_return
        self._evaluations = 0  # the last one of a run is number 0 whatever came before
        self._best = -np.inf
        self._snapshot: Snapshot | None = None

    def look(self) -> None:
        """Evaluates, if it is time and the return has not been reached yet."""
        waiting = self._target is not None and self._snapshot is None
        if waiting and self._loop.num_steps // self._every > self._evaluations:
            self._evaluations = self._loop.num_steps // self._every
            self._evaluate(self._evaluations)

    def finish(self) -> dict[str, Any]:
        """Evaluates the final policy; what collect_replay says of all evaluations."""
        returns = self._evaluate(0)
        found = {"snapshot": self._snapshot, "best_return": self._best}
        return {"eval": self._evaluator.describe(), "eval_returns": returns, **found}

    def close(self) -> None:
        """Frees the environments."""
        self._evaluator.close()

    def _evaluate(self, evaluation: int) -> list[float]:
        loop = self._loop
        result = self._evaluator.evaluate(
            lambda obs: self._act(loop.policy_params, obs), evaluation=evaluation
        )
        returns = result.returns[0].tolist()
        mean = float(np.mean(returns))
        self._best = max(self._best, mean)
        if self._target is not None and self._snapshot is None and mean >= self._target:
            # a copy: the next update reuses the memory
            params = jax.tree.map(lambda leaf: np.array(leaf[0]), loop.policy_params)
            self._snapshot = Snapshot(loop.num_steps, params, returns, loop.experience.episodes())
        return returns
