"""What every dynamics model is: a handful of pure functions.

Fitting, roll-outs, policy optimisation and every measurement are written once against this.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from adm_jax.types import Array, Key, Normalizer, Params, Prediction, Segment, Window

Carry = Any


class ModelParams(NamedTuple):
    """What the optimiser moves, and the constant normaliser beside it."""

    learned: Params
    normalizer: Normalizer


class HoldoutErrors(NamedTuple):
    """Held-out errors per unit U and backtracking length K, in the environment's units."""

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
    """

    init: Callable[[Key, Normalizer], ModelParams]
    loss: Callable[[ModelParams, Segment, Key], tuple[Array, dict[str, Array]]]
    validate: Callable[[ModelParams, Segment], HoldoutErrors]
    finalise: Callable[[ModelParams, Segment], ModelParams]
    begin: Callable[[ModelParams, Window], Carry]
    step: Callable[[ModelParams, Carry, Array, Array, Key, Key], tuple[Carry, Prediction]]
    max_backtrack: int
    loss_all_backtracks: bool
