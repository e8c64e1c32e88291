"""Training, and what runs leave behind."""

import contextlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.api.datasets import READERS, load_dataset
from adm_jax.api.models import Model, Policy, floats, require_whole
from adm_jax.config import (
    DERIVED_TASK,
    OfflineConfig,
    OnlineConfig,
    config_for_task,
    is_derived,
    offline_from_flat,
    online_config_for_task,
    online_from_flat,
)
from adm_jax.config.models import without_kernels
from adm_jax.config.online import MODEL_FREE
from adm_jax.config.references import import_named, is_reference
from adm_jax.dynamics.interface import make_dynamics
from adm_jax.envs import environment
from adm_jax.envs.evaluator import EvaluationResult, Evaluator
from adm_jax.envs.recovered import recover_env
from adm_jax.evaluation.policies import action_fn, policies_of_run
from adm_jax.population.members import Member
from adm_jax.runs.checkpoint import Checkpointer, restore_names
from adm_jax.runs.folder import RunFolder
from adm_jax.tasks import TASKS, Task, get_task, register_task
from adm_jax.training import driver, offline, online
from adm_jax.types import ActionBounds, Array, EnvSpec, InputError, Normalizer


def train_offline(dataset: Any, *, task: str = "auto", **settings: Any) -> "Run":
    """Learns policies from a dataset, and evaluates them in its environment.

    Args:
      dataset: what ``load_dataset`` reads; arrays need its ``env_id`` for policies to be evaluated.
      task: a task's name; ``auto``: environment and termination are the dataset's; ``module:auto``
        imports the module that registers the environment, in a resume too.
      **settings: any of ``OfflineConfig``, such as ``dynamics``, ``preset``, ``seeds`` or ``workdir``.
    """
    stored = isinstance(dataset, str) and Path(dataset).suffix not in READERS
    config = config_for_task(task, **({"dataset": dataset} if stored else {}), **settings)
    data = None if stored else load_dataset(dataset)
    folder, _ = driver.run_in(config, partial(offline.plan, data=data))
    return Run(folder)


def train_online(env: str, *, termination: str | None = None, **settings: Any) -> "Run":
    """Learns policies in the real environment.

    Args:
      env: a task's name, or the id of an environment that Gymnasium knows; ``module:`` in front of either
        imports the module that registers it.
      termination: of such an environment, in the model's roll-outs: a name, or ``module:function`` of next
        observations [..., D] to booleans [...]. SAC (``dynamics="none"``) needs none.
      **settings: any of ``OnlineConfig``.
    """
    name, is_task = _named(env)
    if termination is not None:
        settings["termination"] = termination
    task = env if is_task else _task_of(name, termination, settings.get("dynamics")).name
    folder, _ = driver.run_in(online_config_for_task(task, **settings), online.plan)
    return Run(folder)


def resume(
    folder: str | os.PathLike[str],
    dataset: Any = None,
    *,
    num_epochs: int | None = None,
    num_steps: int | None = None,
    anyway: bool = False,
) -> "Run":
    """Continues a run that was stopped from its newest checkpoint, with the same result to the last bit.

    Args:
      folder: the run's.
      dataset: what it learns from, where that was no id of the store.
      num_epochs: of an offline run: how long it is to be now, be it finished or not.
      num_steps: the same of an online run.
      anyway: goes on with other data, code, versions or device than it was left with, which is noted in its
        config.json and result.json, and imports the modules that a run from another host or user names.

    Raises:
      InputError: there is no run, a file of it is not what was written, its conditions are others, or more
        is done than it is to have.
    """
    run = load_run(folder, anyway=anyway)
    config = run.config
    lengths = ("num_epochs", num_epochs), ("num_steps", num_steps)
    (own, _), (other, given) = lengths if isinstance(config, OfflineConfig) else lengths[::-1]
    if given is not None:
        raise InputError(f"{other}: the length of {folder} is its {own}")
    if isinstance(config, OfflineConfig):
        data = None if dataset is None else load_dataset(dataset)
        offline.resume(str(folder), num_epochs, data, anyway=anyway)
        return load_run(folder, anyway=anyway)
    if dataset is not None:
        raise InputError(f"dataset: {folder} is an online run, which learns from none")
    if not _is_task(config.task):
        assert run.env_id is not None
        _task_of(run.env_id, config.rollout.termination, config.dynamics)
    online.resume(str(folder), num_steps, anyway=anyway)
    return load_run(folder, anyway=anyway)


def _is_task(name: str) -> bool:
    """Whether a run's task is one by name, not made from a dataset or from an environment by its id."""
    return name in TASKS or (is_reference(name) and not is_derived(name))


def _named(env: str) -> tuple[str, bool]:
    """What ``env`` names, behind ``module:``, which is imported; whether that is a task, not an environment.

    Raises InputError: it is neither.
    """
    if not isinstance(env, str):
        raise InputError(f"env: {env!r} is no text; give a task or the id of a Gymnasium environment")
    name = import_named(env, "env")
    if name in TASKS:
        return name, True
    environment.require_robotics(name)
    if not environment.is_registered(name):
        try:
            get_task(env)
        except InputError as error:
            raise InputError(
                f"env: Gymnasium knows no environment {env!r}; import the package that registers it first; "
                f"{error}"
            ) from None
    return name, False


def _task_of(env_id: str, termination: str | None, dynamics: str | None) -> Task:
    """A task of an environment that Gymnasium knows."""
    if termination is None and dynamics != MODEL_FREE:
        raise InputError(
            f"termination: what terminates {env_id} is not known; give never, another name or "
            "module:function, or dynamics=none"
        )
    obs_dim, action_dim = environment.dims(env_id)
    return register_task(
        name=env_id.replace("/", "-"),
        env_id=env_id,
        termination=termination or "never",  # SAC has no roll-outs
        obs_dim=obs_dim,
        action_dim=action_dim,
        overwrite=True,
    )


def load_run(folder: str | os.PathLike[str], *, anyway: bool = False) -> "Run":
    """A run by its folder; ``anyway``: see ``resume``. Raises InputError: there is none."""
    if not isinstance(folder, str | os.PathLike):
        raise InputError(f"folder: {folder!r} is no path; give a run's folder")
    return Run(RunFolder.open(folder, ["dynamics"], read_only=True), anyway)


class Run:
    """What a run has left: metrics, evaluations, policies and models of its newest checkpoint."""

    def __init__(self, folder: RunFolder, anyway: bool = False):
        """Opens nothing yet, and imports nothing."""
        self._folder, self._anyway = folder, anyway

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def env_id(self) -> str | None:
        """Gymnasium's environment that it was evaluated in; None where nothing was evaluated for real."""
        return self._folder.config["env_id"]

    @property
    def members(self) -> tuple[Member, ...]:
        """What was trained: seeds, each with every combination of swept settings."""
        return self._folder.members

    @property
    def config(self) -> OfflineConfig | OnlineConfig:
        """Its settings."""
        self._folder.require_own(self._anyway)  # modules may be named in it
        flat = self._folder.config["config"]
        return online_from_flat(flat) if "num_steps" in flat else offline_from_flat(flat)

    @property
    def result(self) -> dict[str, Any] | None:
        """Content of ``result.json``; None before the end."""
        return self._folder.read_result()

    @property
    def metrics(self) -> dict[str, dict[str, np.ndarray]]:
        """Of each phase every metric: [lines, P] over its lines, or [lines] where members share it."""
        return _columns(self._folder.read_metrics())

    @property
    def evaluations(self) -> dict[str, dict[str, np.ndarray]]:
        """The same of the evaluations; ``eval/return`` is [lines, P, episodes]. Empty where none was done."""
        return _columns(self._folder.read_eval())

    def policy(self, seed: int | None = None, *, deterministic: bool = True, **swept: float) -> Policy:
        """A policy as a function of observations [..., D] to actions [..., A], which JAX can trace.

        Args:
          seed: whose; may be left out where there is one member.
          deterministic: its mode, else samples, the same for the same observations.
          **swept: the settings of the member, where some were swept.

        Raises:
          InputError: the run has no such member, or nobody has registered its environment, whose bounds the
            actions keep to; of the policy: the observations are not the environment's.
        """
        bounds = self._action_bounds()
        found = policies_of_run(self.path, bounds)[self.members.index(self._member(seed, swept))]
        obs_dim = found.kind.details[0]
        act = jax.jit(action_fn(found.kind, *bounds.arrays(), deterministic=deterministic))

        def policy(obs: Any) -> Array:
            obs = floats("obs", obs)
            if obs.shape[-1:] != (obs_dim,):
                raise InputError(f"obs: has shape {obs.shape}; must be (..., {obs_dim})")
            rows = obs.reshape(-1, obs.shape[-1])
            return act(found.params, rows, jax.random.key(0)).reshape(*obs.shape[:-1], -1)

        return policy

    def model(self, seed: int | None = None, **swept: float) -> Model:
        """The dynamics model of a member."""
        config, member = self.config, self._member(seed, swept)
        part = next(part for part in self._folder.parts() if member in part.members)
        arrays = Checkpointer(part.checkpoints).read_newest("train", "model")
        obs_dim, action_dim = (arrays[f"normalizer/{name}_mean"].shape[-1] for name in ("obs", "action"))
        dynamics = make_dynamics(config.dynamics, obs_dim, action_dim, without_kernels(config.model))
        index = part.members.index(member)
        own = {name: array[index] for name, array in arrays.items()}
        normalizer = {name.partition("/")[2]: own[name] for name in own if name.startswith("normalizer/")}
        abstract = jax.eval_shape(lambda: dynamics.init(jax.random.key(0), Normalizer(**normalizer)))
        return Model(config.dynamics, dynamics, restore_names(own, abstract))

    def _action_bounds(self) -> ActionBounds:
        """The environment's, or what the run took from its data."""
        if self.env_id is None:
            return ActionBounds(*map(tuple, self._folder.config["action_bounds"]))
        return environment.action_bounds(self._env())

    def _env(self) -> EnvSpec | str:
        self._folder.require_own(self._anyway)
        task = self._folder.config["config"]["task"]
        if _is_task(task):
            return get_task(task).env
        import_named(task, "task")
        return recover_env({"env_id": self.env_id}, str(self.path))

    def _member(self, seed: int | None, swept: Mapping[str, float]) -> Member:
        fitting = [
            member
            for member in self.members
            if seed in (None, member.seed) and all(member.swept.get(k) == v for k, v in swept.items())
        ]
        if len(fitting) != 1:
            tags = ", ".join(member.tag for member in self.members)
            wanted = [*([] if seed is None else [f"seed={seed}"]), *(f"{k}={v}" for k, v in swept.items())]
            raise InputError(
                f"{next(iter(swept), 'seed')}: {len(fitting)} members of {self.path} are of "
                f"{', '.join(wanted) or 'any seed'}; it has {tags}"
            )
        return fitting[0]


def _columns(lines: list[dict[str, Any]]) -> dict[str, dict[str, np.ndarray]]:
    phases: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        phases.setdefault(line["phase"], []).append(line)
    return {
        phase: {
            name: np.array([row[name] for row in rows], float)
            for name in rows[0]
            if all(_is_number(row.get(name, "")) for row in rows)
        }
        for phase, rows in phases.items()
    }


def _is_number(value: Any) -> bool:
    while isinstance(value, list) and value:
        value = value[0]
    return value is None or isinstance(value, (int, float))


def evaluate(
    policy: Policy,
    env: str,
    *,
    episodes: int = 10,
    seed: int = 0,
    evaluation: int = 0,
    gamma: float = 0.99,
) -> EvaluationResult:
    """Runs a policy in the real environment.

    Args:
      policy: obs [B, D] to actions [B, A].
      env: as ``train_online`` takes it.
      episodes: E, how many.
      seed: of the initial states, with ``evaluation``; a run's member has its own, and its epoch.
      evaluation: another number gives other initial states.
      gamma: discount of ``discounted``.

    Returns:
      ``returns`` and ``lengths`` [E], ``discounted`` [E, 1], ``after`` [E, 0].
    """
    if env == DERIVED_TASK:
        raise InputError(
            f"env: {env} is made from a dataset; give another task or the id of a Gymnasium environment"
        )
    name, is_task = _named(env)
    spec = get_task(env).env if is_task else name
    for name, value, low in (("episodes", episodes, 1), ("seed", seed, 0), ("evaluation", evaluation, 0)):
        require_whole(name, value, low)
    dims = environment.dims(spec)
    shape = np.shape(policy(jnp.zeros((2, dims[0]))))
    if shape != (2, dims[1]):
        raise InputError(f"policy: gives {shape} for observations (2, {dims[0]}); must be (2, {dims[1]})")
    with contextlib.closing(Evaluator(spec, [seed], episodes)) as evaluator:
        found = evaluator.evaluate(lambda obs: np.asarray(policy(obs[0]))[None], evaluation, (gamma,))
    return EvaluationResult(*(x[0] for x in found))
