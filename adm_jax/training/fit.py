"""Fitting the dynamics models of several members, epoch by epoch until each has stopped.

Offline, online and the models that are only measured share this loop and these programs.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.config import FitConfig
from adm_jax.data.dataset import sample_segments
from adm_jax.dynamics import fitting
from adm_jax.dynamics.fitting import FitState
from adm_jax.dynamics.interface import Dynamics, ModelParams
from adm_jax.population.keys import Purpose, fold_keys, offline_keys, shared_key
from adm_jax.rollout import open_loop_errors
from adm_jax.training.components import Components, Data, Metrics, SharedData, dataset_of, member_program
from adm_jax.types import InputError, Key, Segment

OPEN_LOOP_STEPS = 10


class FitEpoch(NamedTuple):
    """An epoch that has been fitted."""

    number: int  # epochs done
    state: FitState  # leaves [P, ...]; the next epoch reuses its memory
    metrics: dict[str, np.ndarray]  # [P, ...] each; NaN for a member that had stopped before
    fitted: np.ndarray  # [P] bool: who had not


def fit_epochs(
    program: Any,
    state: FitState,
    keys: Key,
    bootstrap_keys: Key,
    data: Data,
    shared: Key,
    number: int = 0,
    anywhere: Callable[[bool], bool] = bool,
) -> Iterator[FitEpoch]:
    """Fits until every member has stopped.

    Args:
      program: of fit_program, compiled.
      state: [P]; its memory is reused.
      keys: [P], of the whole fit; an epoch's are folded from them, as from ``shared``.
      bootstrap_keys: [P], the same in all epochs.
      data: what the models are fitted to.
      shared: [], the key that all members share.
      number: epochs done before.
      anywhere: whether what is so here, or not, is so in any process that fits with this one.
    """
    while anywhere(bool((active := np.asarray(state.active)).any())):
        of_epoch = fold_keys(keys, number)
        state, metrics = program(state, of_epoch, bootstrap_keys, data, jax.random.fold_in(shared, number))
        number += 1
        yield FitEpoch(number, state, jax.device_get(metrics), active)


def fit_models(
    components: Components,
    name: str,
    config: FitConfig,
    seeds: Sequence[int],
    data: SharedData,
    on_epoch: Callable[[FitEpoch], None],
) -> ModelParams:
    """Fits one model for each seed, from beginning to end; ``on_epoch`` sees every epoch.

    Returns what roll-outs use, leaves [S, ...]. Raises InputError: see ``require_fitted``; ``name`` is what
    the model is registered as.
    """
    declared = fit_program(components, config)
    epoch = jax.jit(declared, donate_argnums=declared.donated_positions)
    state = jax.jit(init_fit_program(components, config))(offline_keys(seeds, Purpose.INIT_FIT), data)
    keys, bootstrap = (offline_keys(seeds, purpose) for purpose in (Purpose.FIT, Purpose.BOOTSTRAP))
    for done in fit_epochs(epoch, state, keys, bootstrap, data, shared_key(config.split_seed)):
        state = done.state
        on_epoch(done)
    require_fitted(components.model, name, config, seeds, state)
    return jax.jit(best_program(components, config))(state, data)


def require_fitted(
    dynamics: Dynamics, name: str, config: FitConfig, seeds: Sequence[int], state: FitState
) -> None:
    """Sees that every fit has selected parameters: those of all networks that predictions are drawn from.

    Args:
      dynamics: the model.
      name: what it is registered as.
      config: how it was fitted.
      seeds: of the members, P of them.
      state: [P].

    Raises:
      InputError: too few networks of a fit ever had a finite held-out error.
    """
    needed = dynamics.num_drawn or dynamics.num_networks
    for seed, errors in zip(seeds, np.asarray(state.best_error), strict=True):
        if np.isfinite(errors).sum() < needed:
            raise InputError(
                f"fit_learning_rate: {config.fit_learning_rate:g} is too high for {name}: seed {seed} has no "
                f"finite held-out error after {int(np.max(state.epoch))} epochs"
            )


def _with_holdout(data: Data, dynamics: Dynamics, fit: FitConfig) -> SharedData:
    """What a fit sees: a dataset, and the segments it is judged by."""
    if isinstance(data, SharedData):
        return data
    dataset, size = dataset_of(data), fit.holdout_batch_size
    drawn = sample_segments(dataset, dataset.holdout, data.holdout_key, size, dynamics.max_backtrack, 1)
    return SharedData(dataset, drawn)


@member_program()
def init_fit_program(c: Components, config: FitConfig, key: Key, data: Data) -> FitState:
    """A fit that has not begun."""
    return fitting.init(c.model, dataset_of(data), key)


@member_program(shared=("shared_key",), donated=("state",))
def fit_program(
    c: Components,
    config: FitConfig,
    state: FitState,
    key: Key,
    bootstrap_key: Key,
    data: Data,
    shared_key: Key,
) -> tuple[FitState, Metrics]:
    """An epoch; ``key`` and ``shared_key`` are the epoch's, ``bootstrap_key`` is the whole fit's."""
    dataset, holdout = _with_holdout(data, c.model, config)
    keys = fitting.FitKeys(key, bootstrap_key, shared_key)

    def epoch(state: FitState) -> tuple[FitState, Metrics]:
        return fitting.fit_epoch(c.model, config, state, dataset, holdout, keys)

    return fitting.epoch_unless_stopped(epoch, state) if c.mapping == "map" else epoch(state)


@member_program(donated=("state",))
def continue_fit_program(c: Components, config: FitConfig, state: FitState) -> FitState:
    """A fit that goes on from its best parameters."""
    return fitting.continued(state)


@member_program()
def best_program(c: Components, config: FitConfig, state: FitState, data: Data) -> ModelParams:
    """The fitted model, as roll-outs use it."""
    return fitting.best_params(c.model, state, *_with_holdout(data, c.model, config))


@member_program(shared=("long_holdout",))
def errors_program(
    c: Components, config: FitConfig, model: ModelParams, key: Key, data: SharedData, long_holdout: Segment
) -> Metrics:
    """Held-out errors of a fitted model.

    Besides its own errors per backtracking length (means over its networks), its errors when it is fed its
    own predictions, over all steps of ``long_holdout``: a measure that is the same for every model.
    """
    known = data.holdout.valid.any(axis=0)
    mse, nll = (
        jnp.where(known, x.mean(axis=0), jnp.nan) for x in c.model.validate(model, data.holdout)
    )  # [K]
    return {
        "model/holdout_nll": jnp.mean(nll, where=known),
        "model/holdout_mse": jnp.mean(mse, where=known),
        "model/holdout_nll_per_k": nll,
        "model/holdout_mse_per_k": mse,
        "model/open_loop_mse_per_step": open_loop_errors(c.model, model, long_holdout, key),
    }
