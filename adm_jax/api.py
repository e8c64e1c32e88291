"""The library in a few functions: datasets, dynamics models, training, finished runs.

They are thin: what they call is the modules' own, which stays reachable for whoever composes ``jit`` and
``vmap`` of their own. Everything that is wrong with their arguments is one line of ``InputError``.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.agents.sac import make_sac
from adm_jax.config import (
    OfflineConfig,
    OnlineConfig,
    config_for_task,
    offline_from_flat,
    online_config_for_task,
    online_from_flat,
)
from adm_jax.config.models import get_model, register_dynamics
from adm_jax.config.settings import leaves
from adm_jax.data import validation
from adm_jax.data.episodes import FIELDS, EpisodeData
from adm_jax.data.formats import d4rl, minari_io, neorl
from adm_jax.dynamics.interface import Dynamics, ModelParams, make_dynamics
from adm_jax.dynamics.uncertainty import UNCERTAINTIES
from adm_jax.envs import environment
from adm_jax.envs.evaluator import EvaluationResult, Evaluator
from adm_jax.evaluation.policies import action_fn, policies_of_run
from adm_jax.population.members import Member
from adm_jax.rollout import Rows, Simulation, no_history, predict_open_loop, roll, steps_of
from adm_jax.runs.checkpoint import Checkpointer, restore_names
from adm_jax.runs.folder import RunFolder
from adm_jax.tasks import TASKS, Task, get_task, register_task
from adm_jax.training import driver, offline, online
from adm_jax.training import fit as training_fit
from adm_jax.training.components import Components
from adm_jax.training.data import put_on_device
from adm_jax.training.fit import FitEpoch
from adm_jax.types import Array, EnvSpec, InputError, Normalizer

__all__ = [
    "EpisodeData",
    "InputError",
    "KStepPrediction",
    "Model",
    "Run",
    "Trajectories",
    "evaluate",
    "fit",
    "load_dataset",
    "load_run",
    "register_dynamics",
    "register_task",
    "train_offline",
    "train_online",
]

Policy = Callable[[Array], Array]  # obs [..., D] -> action [..., A]

_D4RL_NAMES = {
    "observations": "obs",
    "actions": "action",
    "rewards": "reward",
    "next_observations": "next_obs",
    "terminals": "terminated",
    "timeouts": "truncated",
}


# --- data ---


def load_dataset(
    source: str | os.PathLike[str] | Mapping[str, Any] | EpisodeData, *, env_id: str | None = None
) -> EpisodeData:
    """Reads and checks a dataset.

    Args:
      source: a Minari id, a file of D4RL's (``.hdf5``) or NeoRL's (``.npz``) layout, or arrays by name:
        ``observations`` [N, D], ``actions`` [N, A], ``rewards`` [N], ``next_observations`` [N, D],
        ``terminals`` [N] and, where time limits end episodes, ``timeouts`` [N]; rows in order of time. The
        fields' names of ``EpisodeData`` will do too.
      env_id: Gymnasium's environment that the data are of, to evaluate in; files may name it themselves.

    Raises:
      InputError: there is no such dataset, or it is damaged or invalid; the message names what and where.
    """
    if isinstance(source, EpisodeData):
        return source
    if isinstance(source, Mapping):
        return _from_arrays(source, env_id)
    path = Path(source)
    readers = {".hdf5": d4rl.read, ".npz": neorl.read}
    if path.suffix in readers:
        data, _ = readers[path.suffix](path, env_id=env_id)
        validation.validate(data, *_action_bounds(data))
        return data
    return minari_io.load(str(source))


def _from_arrays(arrays: Mapping[str, Any], env_id: str | None) -> EpisodeData:
    fields = {_D4RL_NAMES.get(name, name): value for name, value in arrays.items()}
    unknown = [name for name in arrays if _D4RL_NAMES.get(name, name) not in FIELDS]
    missing = [name for name in FIELDS if name not in fields and name != "truncated"]
    if unknown or missing:
        wrong = f"{unknown[0]} is unknown" if unknown else f"{missing[0]} is missing"
        raise InputError(f"dataset: {wrong}; give {', '.join(_D4RL_NAMES)} (the last is optional)")
    read: dict[str, np.ndarray] = {
        name: validation.as_float32(fields[name], f"dataset: {name}")
        for name in ("obs", "action", "reward", "next_obs")
    }
    for name in ("terminated", "truncated"):
        if name in fields:
            read[name] = validation.as_flags(fields[name], f"dataset: {name}")
    if "truncated" not in read:  # an episode was cut off where a row does not lead to the next one
        same_shape = read["obs"].ndim == 2 and read["obs"].shape == read["next_obs"].shape
        cut = ~validation.follows(read["obs"], read["next_obs"]) if same_shape else np.zeros(0, bool)
        read["truncated"] = np.append(cut, True) & ~read["terminated"]
    metadata = {} if env_id is None else {"env_id": env_id, "env_kwargs": {}}
    data = EpisodeData(**read, source="dataset", metadata=metadata)
    validation.validate(data, *_action_bounds(data))
    return data


def _action_bounds(data: EpisodeData) -> tuple[Any, Any]:
    """The environment's bounds [A] of actions, where it is known; else the data's own largest."""
    if data.metadata.get("env_id") in gymnasium.registry:
        return environment.action_bounds(environment.make_env(str(data.metadata["env_id"])))
    largest = float(np.abs(data.action).max(initial=1e-3))
    return -largest, largest


# --- dynamics models ---


class KStepPrediction(NamedTuple):
    """What a model says of the states 1..K actions ahead.

    ``mean``, ``reward`` and ``uncertainty`` are over all units U that predict a state: of an any-step model
    they are its backtracking lengths, so that ``unit_means[:, k - 1, k - 1]`` is the prediction from ``obs``
    itself, of k actions at once, for k up to m; of an ensemble its networks.
    """

    mean: Array  # [B, K, D]
    sample: Array  # [B, K, D], what was fed back to the model
    reward: Array  # [B, K]
    uncertainty: Array  # [B, K]
    unit_means: Array  # [B, K, U, D + 1], of next observation and reward
    unit_stds: Array  # [B, K, U, D + 1]
    valid: Array  # [B, K, U] bool: which units there are


class Trajectories(NamedTuple):
    """Roll-outs of a policy in a model."""

    obs: Array  # [B, L + 1, D]
    action: Array  # [B, L, A]
    reward: Array  # [B, L]
    uncertainty: Array  # [B, L]


@dataclasses.dataclass(frozen=True)
class Model:
    """A fitted dynamics model.

    Attributes:
      name: what it is registered as.
      dynamics: its pure functions.
      params: their parameters.
    """

    name: str
    dynamics: Dynamics
    params: ModelParams

    @property
    def max_backtrack(self) -> int:
        """The largest number m of actions that one prediction bridges."""
        return self.dynamics.max_backtrack

    def predict(
        self, obs: Any, actions: Any, *, uncertainty: str | None = None, seed: int = 0
    ) -> KStepPrediction:
        """What the states 1..K actions after ``obs`` are.

        Args:
          obs: [B, D], or one state [D].
          actions: [B, K, A], or [K, A] with one state.
          uncertainty: one of ``dynamics.uncertainties``; the first when None.
          seed: of the samples.

        Returns:
          Predictions [B, K, ...]; [K, ...] of one state.
        """
        obs, actions = jnp.asarray(obs, jnp.float32), jnp.asarray(actions, jnp.float32)
        single = obs.ndim == 1
        if single:
            obs, actions = obs[None], actions[None]
        normalizer = self.params.normalizer
        dims = normalizer.obs_mean.shape[-1], normalizer.action_mean.shape[-1]
        self._require("obs", obs, (-1, dims[0]))
        self._require("actions", actions, (obs.shape[0], -1, dims[1]))
        found = _predict(
            self.dynamics, self._uncertainty(uncertainty), self.params, obs, actions, jax.random.key(seed)
        )
        return jax.tree.map(lambda x: x[0], found) if single else found

    def rollout(
        self, policy: Policy, start: Any, length: int, *, uncertainty: str | None = None, seed: int = 0
    ) -> Trajectories:
        """Rolls a policy out in the model, with sampled next states and no end.

        Args:
          policy: obs [B, D] to actions [B, A], a function that JAX can trace.
          start: [B, D].
          length: L, steps.
          uncertainty: as in ``predict``.
          seed: of the samples.
        """
        start = jnp.asarray(start, jnp.float32)
        self._require("start", start, (-1, self.params.normalizer.obs_mean.shape[-1]))
        return _roll_out(
            self.dynamics,
            self._uncertainty(uncertainty),
            policy,
            length,
            self.params,
            start,
            jax.random.key(seed),
        )

    def _uncertainty(self, name: str | None) -> str:
        known = self.dynamics.uncertainties
        if name is not None and name not in known:
            raise InputError(f"uncertainty: {name} is unknown to {self.name}; one of {', '.join(known)}")
        return name or known[0]

    def _require(self, name: str, array: Array, shape: tuple[int, ...]) -> None:
        fits = array.ndim == len(shape) and all(
            want in (-1, have) for want, have in zip(shape, array.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if size == -1 else str(size) for size in shape)
            raise InputError(f"{name}: has shape {array.shape}; must be ({wanted})")


@partial(jax.jit, static_argnums=(0, 1))
def _predict(
    dynamics: Dynamics, uncertainty: str, params: ModelParams, obs: Array, actions: Array, key: Array
) -> KStepPrediction:
    steps = predict_open_loop(dynamics, params, obs, actions, key)  # leaves [K, ...]
    weight = steps.valid / jnp.maximum(steps.valid.sum(axis=1, keepdims=True), 1)
    mean = jnp.sum(weight[..., None] * steps.means, axis=1)  # [K, B, D + 1]
    found = KStepPrediction(
        mean=mean[..., :-1],
        sample=steps.next_obs,
        reward=mean[..., -1],
        uncertainty=jax.vmap(UNCERTAINTIES[uncertainty])(steps),
        unit_means=jnp.swapaxes(steps.means, 1, 2),
        unit_stds=jnp.swapaxes(jnp.exp(0.5 * steps.logvars), 1, 2),
        valid=jnp.swapaxes(steps.valid, 1, 2),
    )
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), found)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _roll_out(
    dynamics: Dynamics,
    uncertainty: str,
    policy: Policy,
    length: int,
    params: ModelParams,
    start: Array,
    key: Array,
) -> Trajectories:
    simulation = Simulation(
        dynamics=dynamics,
        params=params,
        policy_fn=lambda obs, _: policy(obs),
        termination_fn=lambda obs: jnp.zeros(obs.shape[:-1], bool),
        uncertainty_fn=UNCERTAINTIES[uncertainty],
        penalty_coef=jnp.zeros(()),
    )
    window = no_history(dynamics, start, params.normalizer.action_mean.shape[-1])
    rows = Rows(dynamics.begin(params, window), start, jnp.ones(start.shape[0], bool))
    _, taken = roll(steps_of(simulation, *jax.random.split(key)), rows, length)
    steps = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), taken)
    obs = jnp.concatenate([start[:, None], steps.transition.next_obs], axis=1)
    return Trajectories(obs, steps.transition.action, steps.transition.reward, steps.uncertainty)


def fit(
    dataset: Any,
    dynamics: str = "adm",
    *,
    seed: int = 0,
    on_epoch: Callable[[FitEpoch], None] | None = None,
    **settings: Any,
) -> Model:
    """Fits a dynamics model to a dataset, as a run does with the same settings and seed.

    Args:
      dataset: what ``load_dataset`` reads.
      dynamics: a registered model.
      seed: of parameters and minibatches.
      on_epoch: sees every epoch's metrics.
      **settings: of the fit and of the model, such as ``fit_max_epochs`` or ``max_backtrack``.

    Raises:
      InputError: the dataset or a setting does not serve, or no held-out error was finite.
    """
    data = load_dataset(dataset)
    parts = (type(OfflineConfig().fit), get_model(dynamics).config_class)
    known = {leaf.name for part in parts for leaf in leaves(part)}
    unknown = next((name for name in settings if name not in known), None)
    if unknown is not None:
        raise InputError(
            f"{unknown}: is no setting of the fit or of {dynamics}; one of {', '.join(sorted(known))}"
        )
    config = config_for_task("auto", dynamics=dynamics, **settings)
    dims = data.obs.shape[1], data.action.shape[1]
    model = make_dynamics(dynamics, *dims, config.model)
    components = Components(
        dynamics=model,
        agent=make_sac(*dims, 1.0, config.sac),
        termination_fn=lambda obs: jnp.zeros(obs.shape[:-1], bool),
        reward_fn=None,
        uncertainty_fn=None,
        obs_dim=dims[0],
        action_dim=dims[1],
        action_scale=1.0,
        mapping="map",
        data_is_shared=True,
    )
    on_device = put_on_device(config, data, model.max_backtrack)
    params = training_fit.fit_models(
        components, dynamics, config.fit, (seed,), on_device, on_epoch or (lambda epoch: None)
    )
    return Model(dynamics, model, jax.tree.map(lambda x: x[0], params))


# --- training, and what it leaves ---


def train_offline(dataset: Any, *, task: str = "auto", **settings: Any) -> "Run":
    """Learns policies from a dataset, and evaluates them in its environment.

    Args:
      dataset: what ``load_dataset`` reads; arrays need its ``env_id``, to be evaluated.
      task: a task's name; ``auto``: environment and termination are the dataset's.
      **settings: any of ``OfflineConfig``, such as ``dynamics``, ``preset``, ``seeds`` or ``workdir``.
    """
    named = isinstance(dataset, str) and Path(dataset).suffix not in (".hdf5", ".npz")
    config = config_for_task(task, **({"dataset": dataset} if named else {}), **settings)
    data = None if named else load_dataset(dataset)
    folder, _ = driver.run_in(config, partial(offline.plan, data=data))
    return Run(folder)


def train_online(env: str, *, termination: str | None = None, **settings: Any) -> "Run":
    """Learns policies in the real environment.

    Args:
      env: a task's name, or the id of an environment that Gymnasium knows.
      termination: of such an environment, in the model's roll-outs: a name, or ``module:function`` of next
        observations [..., D] to booleans [...]. SAC (``dynamics="none"``) needs none.
      **settings: any of ``OnlineConfig``.
    """
    known = env in TASKS or env not in gymnasium.registry
    task = env if known else _task_of(env, termination, settings.get("dynamics")).name
    if known and termination is not None:
        settings["termination"] = termination
    folder, _ = driver.run_in(online_config_for_task(task, **settings), online.plan)
    return Run(folder)


def _task_of(env_id: str, termination: str | None, dynamics: str | None) -> Task:
    if termination is None and dynamics != "none":
        raise InputError(
            f"termination: what terminates {env_id} is not known; give a name or module:function, or "
            "dynamics=none"
        )
    made = environment.make_env(env_id)
    try:
        assert made.action_space.shape is not None
        obs_dim, action_dim = environment.obs_dim(made), made.action_space.shape[0]
    finally:
        made.close()
    name = env_id.replace("/", "-")
    ending = termination or "halfcheetah"  # ends on states that are not finite only
    return register_task(
        name=name,
        env_id=env_id,
        termination=ending,
        obs_dim=obs_dim,
        action_dim=action_dim,
        overwrite=True,
    )


def load_run(folder: str | os.PathLike[str]) -> "Run":
    """A run by its folder. Raises InputError: there is none."""
    return Run(RunFolder.open(folder, ["dynamics"], read_only=True))


class Run:
    """What a run has left: metrics, evaluations, policies and models of its newest checkpoint."""

    def __init__(self, folder: RunFolder):
        """Opens nothing yet."""
        self._folder = folder

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def members(self) -> tuple[Member, ...]:
        """What was trained: seeds, each with every combination of swept settings."""
        return self._folder.members

    @property
    def config(self) -> OfflineConfig | OnlineConfig:
        """Its settings."""
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
        """The same of the evaluations; ``eval/return`` is [lines, P, episodes]."""
        return _columns(self._folder.read_eval())

    def policy(self, seed: int | None = None, *, deterministic: bool = True, **swept: float) -> Policy:
        """A policy as a function of observations [..., D] to actions [..., A], which JAX can trace.

        Args:
          seed: whose; may be left out where there is one member.
          deterministic: its mode, else samples, the same for the same observations.
          **swept: the settings of the member, where some were swept.
        """
        low, high = environment.action_bounds(environment.make_env(self._env()))
        scale = environment.action_scale(self._env())
        found = policies_of_run(self.path, scale)[self.members.index(self._member(seed, swept))]
        act = jax.jit(action_fn(found.kind, low, high, deterministic=deterministic))

        def policy(obs: Any) -> Array:
            obs = jnp.asarray(obs, jnp.float32)
            rows = obs.reshape(-1, obs.shape[-1])
            return act(found.params, rows, jax.random.key(0)).reshape(*obs.shape[:-1], -1)

        return policy

    def model(self, seed: int | None = None, **swept: float) -> Model:
        """The dynamics model of a member."""
        config, member = self.config, self._member(seed, swept)
        part = next(part for part in self._folder.parts() if member in part.members)
        arrays = Checkpointer(part.checkpoints).read_newest("train", "model")
        obs_dim, action_dim = (arrays[f"normalizer/{name}_mean"].shape[-1] for name in ("obs", "action"))
        dynamics = make_dynamics(config.dynamics, obs_dim, action_dim, config.model)
        index = part.members.index(member)
        own = {name: array[index] for name, array in arrays.items()}
        normalizer = {name.partition("/")[2]: own[name] for name in own if name.startswith("normalizer/")}
        abstract = jax.eval_shape(lambda: dynamics.init(jax.random.key(0), Normalizer(**normalizer)))
        return Model(config.dynamics, dynamics, restore_names(own, abstract))

    def _env(self) -> EnvSpec | str:
        flat = self._folder.config["config"]
        return get_task(flat["task"]).env if flat["task"] != "auto" else self._folder.config["env_id"]

    def _member(self, seed: int | None, swept: Mapping[str, float]) -> Member:
        fitting = [
            member
            for member in self.members
            if seed in (None, member.seed) and all(member.swept.get(k) == v for k, v in swept.items())
        ]
        if len(fitting) != 1:
            tags = ", ".join(member.tag for member in self.members)
            raise InputError(f"seed: {len(fitting)} members of {self.path} are of seed {seed}; it has {tags}")
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
      env: a task's name, or the id of an environment that Gymnasium knows.
      episodes: E, how many.
      seed: of the initial states, with ``evaluation``; a run's member has its own, and its epoch.
      evaluation: another number gives other initial states.
      gamma: discount of ``discounted``.

    Returns:
      ``returns`` and ``lengths`` [E], ``discounted`` [E, 1], ``after`` [E, 0].
    """
    spec = get_task(env).env if env in TASKS or env not in gymnasium.registry else env
    evaluator = Evaluator(spec, [seed], episodes)
    try:
        found = evaluator.evaluate(lambda obs: np.asarray(policy(obs[0]))[None], evaluation, (gamma,))
    finally:
        evaluator.close()
    return EvaluationResult(*(x[0] for x in found))
