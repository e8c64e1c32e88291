"""What every dynamics model is: a handful of pure functions.

Fitting, roll-outs, policy optimisation and every measurement are written once against this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from adm_jax.config.models import ModelConfig, get_model
from adm_jax.config.references import import_function
from adm_jax.types import Array, InputError, Key, Normalizer, Params, Prediction, Segment, Window

Carry = Any


class ModelParams(NamedTuple):
    """What the optimiser moves, and the constant normaliser."""

    learned: Params
    normalizer: Normalizer


class HoldoutErrors(NamedTuple):
    """Held-out errors per network U and backtracking length K, in the environment's units."""

    mse: Array  # [U, K] squared error of the means, averaged over next-state displacement and reward
    nll: Array  # [U, K] see adm_jax.nn.gaussian.nll


class Dynamics(NamedTuple):
    """A dynamics model.

    Attributes:
      init: parameters that have not seen data.
      loss: of a batch of training segments of any length K up to ``max_backtrack``; the key draws dropout.
        Returns ``(loss [], metrics)``.
      validate: errors on held-out segments, dropout off.
      finalise: last word on the best parameters once fitting has ended, given held-out segments.
      begin: what a roll-out carries from step to step, from a batch of histories.
      step: one step of a batch: ``(params, carry, obs [B, D], action [B, A], key, batch_key) ->
        (carry, Prediction)``. ``key`` belongs to these rows alone; ``batch_key`` is the same for every
        chunk of a batch and serves draws that a batch shares.
      max_backtrack: m, the longest segment; windows have m - 1 steps.
      loss_all_backtracks: whether one loss covers every backtracking length up to the segment's,
        or the segment's own only.
      num_networks: 1; or U networks fitted side by side, every learned leaf [U, ...], each on a bootstrap
        sample of its own (``loss`` gets segments [U, B, ...]) and kept at its own best epoch.
      num_drawn: samples come from one of the first ``num_drawn`` units of a prediction; any when None.
      uncertainties: those of ``adm_jax.dynamics.uncertainty`` that say something of its predictions.
    """

    init: Callable[[Key, Normalizer], ModelParams]
    loss: Callable[[ModelParams, Segment, Key], tuple[Array, dict[str, Array]]]
    validate: Callable[[ModelParams, Segment], HoldoutErrors]
    finalise: Callable[[ModelParams, Segment], ModelParams]
    begin: Callable[[ModelParams, Window], Carry]
    step: Callable[[ModelParams, Carry, Array, Array, Key, Key], tuple[Carry, Prediction]]
    max_backtrack: int
    loss_all_backtracks: bool = False
    num_networks: int = 1
    num_drawn: int | None = None
    uncertainties: tuple[str, ...] = (
        *("std_of_means", "sample_std_of_means", "total_variance", "max_aleatoric", "max_deviation"),
    )


def make_dynamics(name: str, obs_dim: int, action_dim: int, config: ModelConfig) -> Dynamics:
    """The dynamics model registered under a name, for observations [B, D] and actions [B, A].

    Raises:
      InputError: there is none, or what is registered makes none.
    """
    factory = get_model(name).factory
    if isinstance(factory, str):
        factory = import_function(factory, "dynamics")
    dynamics = factory(obs_dim, action_dim, config)
    if not isinstance(dynamics, Dynamics):
        raise InputError(f"dynamics: {name}: made {type(dynamics).__name__}; must make a Dynamics")
    return dynamics
