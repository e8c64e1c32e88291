"""Fitted dynamics models, as functions of arrays."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.agents.sac import make_sac
from adm_jax.api.datasets import load_dataset
from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.config.models import get_model, without_kernels
from adm_jax.config.settings import leaves
from adm_jax.dynamics.interface import Dynamics, ModelParams, make_dynamics
from adm_jax.dynamics.uncertainty import UNCERTAINTIES
from adm_jax.population.devices import require_jax
from adm_jax.rollout import Rows, Simulation, no_history, predict_open_loop, roll, steps_of
from adm_jax.training import fit as training_fit
from adm_jax.training.components import Components
from adm_jax.training.data import put_on_device
from adm_jax.training.fit import FitEpoch
from adm_jax.types import ActionBounds, Array, InputError

Policy = Callable[[Array], Array]  # obs [..., D] -> action [..., A]


class KStepPrediction(NamedTuple):
    """What a model says of the states 1..K actions ahead.

    ``mean``, ``reward`` and ``uncertainty`` are over all units U that predict a state: of an any-step model
    they are its backtracking lengths, so that ``unit_means[:, k - 1, k - 1]`` is the prediction from ``obs``
    itself, of k actions at once, for k up to m; of an ensemble its networks.

    Attributes:
      mean: [B, K, D], the states.
      sample: [B, K, D], what was fed back to the model.
      reward: [B, K].
      uncertainty: [B, K]; a spread of the units' means is 0 where one unit alone predicts, as it does an
        any-step model's first state.
      unit_means: [B, K, U, D + 1], of next observation and reward.
      unit_stds: [B, K, U, D + 1].
      valid: [B, K, U] bool, which units there are.
    """

    mean: Array
    sample: Array
    reward: Array
    uncertainty: Array
    unit_means: Array
    unit_stds: Array
    valid: Array


class Trajectories(NamedTuple):
    """Roll-outs of a policy in a model.

    Attributes:
      obs: [B, L + 1, D], with the start.
      action: [B, L, A].
      reward: [B, L].
      uncertainty: [B, L].
    """

    obs: Array
    action: Array
    reward: Array
    uncertainty: Array


@dataclasses.dataclass(frozen=True)
class Model:
    """A fitted dynamics model.

    Attributes:
      name: what it is registered as.
      dynamics: its pure functions.
      params: their parameters.
    """

    name: str
    dynamics: Dynamics = dataclasses.field(repr=False)
    params: ModelParams = dataclasses.field(repr=False)

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
        obs, actions = floats("obs", obs), floats("actions", actions)
        single = obs.ndim == 1
        if single:
            obs, actions = obs[None], actions[None]
        normalizer = self.params.normalizer
        dims = normalizer.obs_mean.shape[-1], normalizer.action_mean.shape[-1]
        self._require("obs", obs, (-1, dims[0]))
        self._require("actions", actions, (obs.shape[0], -1, dims[1]))
        if not actions.shape[1]:
            raise InputError(f"actions: has shape {actions.shape}; must be of at least one step")
        require_whole("seed", seed)
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
        start, normalizer = floats("start", start), self.params.normalizer
        self._require("start", start, (-1, normalizer.obs_mean.shape[-1]))
        require_whole("length", length, low=1)
        require_whole("seed", seed)
        wanted = (*start.shape[:1], normalizer.action_mean.shape[-1])
        try:
            shape = jax.eval_shape(policy, start).shape
        except jax.errors.JAXTypeError as error:
            raise InputError("policy: JAX cannot trace it; write it with jax.numpy") from error
        if shape != wanted:
            raise InputError(f"policy: gives {shape} for observations {start.shape}; must be {wanted}")
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


def floats(name: str, values: Any) -> Array:
    """Numbers as float32. Raises InputError: they are none."""
    try:
        return jnp.asarray(values, jnp.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name}: is no array of numbers") from error


def require_whole(name: str, value: Any, low: int = 0) -> None:
    """Raises InputError: a number is not whole, or too small."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < low:
        raise InputError(f"{name}: {value!r} must be a whole number of at least {low}")


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
      on_epoch: called with every epoch, for its ``number`` and ``metrics``; a fit prints nothing itself.
      **settings: of the fit and of the model, such as ``fit_max_epochs`` or ``max_backtrack``.

    Raises:
      InputError: the dataset or a setting does not serve, or no held-out error was finite.
    """
    require_jax()
    require_whole("seed", seed)
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
    model = make_dynamics(dynamics, *dims, without_kernels(config.model))
    bounds = ActionBounds.symmetric(1.0, dims[1])
    components = Components(
        dynamics=model,
        agent=make_sac(dims[0], bounds, config.sac),
        termination_fn=lambda obs: jnp.zeros(obs.shape[:-1], bool),
        reward_fn=None,
        uncertainty_fn=None,
        obs_dim=dims[0],
        action_dim=dims[1],
        action_bounds=bounds,
        mapping="map",
        data_is_shared=True,
    )
    on_device = put_on_device(config, data, model.max_backtrack)
    params = training_fit.fit_models(
        components, dynamics, config.fit, (seed,), on_device, on_epoch or (lambda epoch: None)
    )
    return Model(dynamics, model, jax.tree.map(lambda x: x[0], params))
