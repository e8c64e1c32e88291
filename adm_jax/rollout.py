"""Roll-outs of a policy in a dynamics model (ADM paper, Algorithm 1), penalised, in chunks of rows."""

from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp

from adm_jax.data import ring_buffer, value_range
from adm_jax.data.dataset import Dataset, gather_windows, sample_starts
from adm_jax.data.ring_buffer import RingBuffer
from adm_jax.data.value_range import ValueRange
from adm_jax.dynamics.histories import from_flat, row_layouts
from adm_jax.dynamics.interface import Carry, Dynamics, ModelParams
from adm_jax.types import Array, Key, Prediction, Segment, Transition, Window

PolicyFn = Callable[[Array, Key], Array]  # (obs [B, D], key) -> action [B, A]
# (transitions [H, B, ...], continues [H, B], key) -> transitions over several steps, see adm_jax.returns
ReturnsFn = Callable[[Transition, Array, Key], Transition]


class Rollout(NamedTuple):
    """Rows of a batch of roll-outs, R = starts x length, in no order that matters."""

    transitions: Transition  # leaves [R, ...]; the reward is penalised
    valid: Array  # [R] bool; False after termination
    metrics: dict[str, Array]


class Simulation(NamedTuple):
    """What is rolled out: a policy in a dynamics model, and what its steps are worth."""

    dynamics: Dynamics
    params: ModelParams
    policy_fn: PolicyFn
    termination_fn: Callable[[Array], Array]  # next observations [B, D] to terminated [B]
    uncertainty_fn: Callable[[Prediction], Array]  # a prediction to its uncertainty [B]
    penalty_coef: Array  # beta [], reward <- reward - beta * uncertainty
    # known reward, (obs [B, D], action [B, A], next_obs [B, D]) to [B]; the model's when None
    reward_fn: Callable[[Array, Array, Array], Array] | None = None
    # (rows [B]) to the encoded histories of these transitions, flat as dynamics.histories has them; encoded
    # each time when None
    histories_fn: Callable[[Array], Carry] | None = None
    # uncertainty [] above which a row ends, without the step; no such end when None
    max_uncertainty: Array | None = None
    # what predictions are counted as out of; None: nothing is out of it
    value_range: ValueRange | None = None
    clips: bool = False  # predictions are moved into that range before they are used on


class Rows(NamedTuple):
    """Rows on their way."""

    carry: Carry
    obs: Array  # [B, D]
    alive: Array  # [B] bool


def _begin(
    simulation: Simulation, dataset: Dataset, key: Key, rows: Array, num_starts: int, min_history: int | None
) -> Rows:
    """Starts of the rows [B] of a chunk; those from ``num_starts`` on only fill the last chunk up."""
    dynamics = simulation.dynamics
    starts = sample_starts(dataset, key, rows.shape[0], dynamics.max_backtrack, min_history)
    if simulation.histories_fn is not None:
        layouts = row_layouts(dynamics, simulation.params, dataset)
        carry = from_flat(simulation.histories_fn(starts), layouts)
        return Rows(carry, dataset.transitions.obs[starts], rows < num_starts)
    window, obs = gather_windows(dataset, starts, dynamics.max_backtrack)
    return Rows(dynamics.begin(simulation.params, window), obs, rows < num_starts)


class Taken(NamedTuple):
    """What one step of B rows gave."""

    transition: Transition  # leaves [B, ...]; the reward is penalised
    kept: Array  # [B] bool
    uncertainty: Array  # [B]
    in_range: Array  # [B] bool: of the next observation, as it was predicted


def roll(
    step_fn: Callable[[Any, Array], tuple[Any, Any]],
    start: Any,
    length: int | Array,
    fold_fn: Callable[[Any, Array, Any, Any], Any] | None = None,
    folded: Any = None,
    going_fn: Callable[[Any], Array] | None = None,
) -> tuple[Any, Any]:
    """The loop under every roll-out: a step after the other.

    Args:
      step_fn: ``(state, number []) -> (state, taken)``.
      start: the first state.
      length: steps at most. It may be traced where what they give is folded; under vmap it must not be
        batched then, or every row would take the longest.
      fold_fn: ``(folded, number, state before, taken) -> folded``; what steps give is stacked when None.
      folded: what ``fold_fn`` begins with.
      going_fn: whether a state takes a further step, [] bool; goes with ``fold_fn``.

    Returns:
      The last state, and what the steps gave.
    """
    if fold_fn is None:
        return jax.lax.scan(step_fn, start, jnp.arange(length))

    def body(loop: tuple[Array, Any, Any]) -> tuple[Array, Any, Any]:
        number, state, folded = loop
        after, taken = step_fn(state, number)
        return number + 1, after, fold_fn(folded, number, state, taken)

    def goes_on(loop: tuple[Array, Any, Any]) -> Array:
        within = loop[0] < length
        return within if going_fn is None else within & going_fn(loop[1])

    return jax.lax.while_loop(goes_on, body, (jnp.zeros((), jnp.int32), start, folded))[1:]


def steps_of(
    simulation: Simulation, steps_key: Key, batch_key: Key
) -> Callable[[Rows, Array], tuple[Rows, Taken]]:
    """``roll``'s step of a chunk's rows; its keys are folded from these two and the step's number."""

    def step(rows: Rows, number: Array) -> tuple[Rows, Taken]:
        key, shared = (jax.random.fold_in(key, number) for key in (steps_key, batch_key))
        return take_step(simulation, rows, key, shared)

    return step


def take_step(simulation: Simulation, rows: Rows, key: Key, batch_key: Key) -> tuple[Rows, Taken]:
    """One step of a chunk's rows."""
    policy_key, model_key = jax.random.split(key)
    obs = rows.obs
    action = simulation.policy_fn(obs, policy_key)
    carry, prediction = simulation.dynamics.step(
        simulation.params, rows.carry, obs, action, model_key, batch_key
    )
    uncertainty = simulation.uncertainty_fn(prediction)
    in_range = value_range.is_within(simulation.value_range, prediction.next_obs)
    if simulation.clips and simulation.value_range is not None:
        prediction = value_range.clip(simulation.value_range, prediction)
    reward = prediction.reward
    if simulation.reward_fn is not None:
        reward = simulation.reward_fn(obs, action, prediction.next_obs)
    chex.assert_equal_shape([reward, uncertainty])
    reward = reward - simulation.penalty_coef * uncertainty
    terminated = simulation.termination_fn(prediction.next_obs)
    kept = rows.alive & jnp.isfinite(prediction.next_obs).all(axis=-1) & jnp.isfinite(reward)
    if simulation.max_uncertainty is not None:
        kept &= uncertainty <= simulation.max_uncertainty
    transition = Transition(obs, action, reward, prediction.next_obs, terminated)
    next_obs = jnp.where(kept[:, None], prediction.next_obs, obs)
    return Rows(carry, next_obs, kept & ~terminated), Taken(transition, kept, uncertainty, in_range)


def rollout(
    simulation: Simulation,
    dataset: Dataset,
    key: Key,
    *,
    num_starts: int,
    length: int,
    chunk: int,
    min_history: int | None = None,
    returns_fn: ReturnsFn | None = None,
) -> Rollout:
    """Rolls a policy out from ``num_starts`` windows of the dataset for ``length`` steps.

    Rows are rolled out ``chunk`` at a time, which bounds the memory and keeps it in the cache. A row ends
    after the step whose next state terminates; a step that is not finite ends its row and is not kept.

    Args:
      simulation: the policy and the model.
      dataset: where windows are drawn.
      key: consumed.
      num_starts: rows.
      length: steps H.
      chunk: rows rolled out at a time.
      min_history: transitions before a start at least; m - 1 when None.
      returns_fn: makes multi-step transitions of a chunk's steps; one step each when None.
    """
    batch_key, chunks_key = jax.random.split(key)

    def run_chunk(index: Array) -> tuple[Taken, Transition]:
        window_key, steps_key = jax.random.split(jax.random.fold_in(chunks_key, index))
        numbers = index * chunk + jnp.arange(chunk)
        rows = _begin(simulation, dataset, window_key, numbers, num_starts, min_history)
        taken = roll(steps_of(simulation, steps_key, batch_key), rows, length)[1]
        continues = taken.kept[1:] & ~taken.transition.terminated[:-1]
        return taken, over_steps(returns_fn, taken.transition, continues, steps_key, length)

    rows = jax.lax.map(run_chunk, jnp.arange(-(-num_starts // chunk)))
    taken, transitions = jax.tree.map(lambda x: x.reshape(-1, *x.shape[3:]), rows)
    metrics = means_of(sums_of(taken), jnp.asarray(num_starts * length, jnp.float32))
    return Rollout(transitions, taken.kept, metrics)


def rollout_into(
    buffer: RingBuffer,
    simulation: Simulation,
    dataset: Dataset,
    key: Key,
    *,
    num_starts: int,
    length: Array,
    chunk: int,
    min_history: int | None = None,
) -> tuple[RingBuffer, dict[str, Array]]:
    """``rollout`` with a length [] that may be traced: rows go into the buffer as they come.

    Args:
      buffer: where the kept rows are added.
      simulation: see rollout, as all that is not named here.
      dataset: where windows are drawn.
      key: consumed.
      num_starts: rows.
      length: steps, [] int32; see roll.
      chunk: rows rolled out at a time.
      min_history: transitions before a start at least; m - 1 when None.

    Returns:
      ``(buffer, metrics)``.
    """
    batch_key, chunks_key = jax.random.split(key)

    def add(carry: tuple[RingBuffer, dict[str, Array]], number: Array, before: Rows, taken: Taken):
        buffer, sums = carry
        buffer = ring_buffer.add(buffer, taken.transition, taken.kept)
        return buffer, jax.tree.map(jnp.add, sums, sums_of(taken))

    def run_chunk(index: Array, carry: tuple[RingBuffer, dict[str, Array]]):
        window_key, steps_key = jax.random.split(jax.random.fold_in(chunks_key, index))
        numbers = index * chunk + jnp.arange(chunk)
        rows = _begin(simulation, dataset, window_key, numbers, num_starts, min_history)
        return roll(steps_of(simulation, steps_key, batch_key), rows, length, add, carry)[1]

    nothing = dict.fromkeys(("kept", "uncertainty", "reward", "terminated", "out_of_range"), jnp.zeros(()))
    num_chunks = -(-num_starts // chunk)
    buffer, sums = jax.lax.fori_loop(0, num_chunks, run_chunk, (buffer, nothing))
    return buffer, means_of(sums, num_starts * length.astype(jnp.float32))


def over_steps(
    returns_fn: ReturnsFn | None, transitions: Transition, continues: Array, key: Key, length: int
) -> Transition:
    """Multi-step transitions of a chunk's steps [H, B, ...], which go on to the next where ``continues``.

    ``continues`` [H - 1, B] covers all steps but the last; without ``returns_fn`` they stay as they are.
    """
    if returns_fn is None:
        return transitions
    continues = jnp.append(continues, jnp.zeros_like(transitions.terminated[:1]), axis=0)
    return returns_fn(transitions, continues, jax.random.fold_in(key, length))


def data_uncertainty(simulation: Simulation, dataset: Dataset, key: Key, num_rows: int, chunk: int) -> Array:
    """Uncertainty [num_rows] of the predictions along the dataset's own actions, at rows drawn from it.

    The simulation's policy takes no part.
    """
    dynamics, (rows_key, steps_key) = simulation.dynamics, jax.random.split(key)
    num_chunks = -(-num_rows // chunk)
    starts = sample_starts(dataset, rows_key, num_chunks * chunk, dynamics.max_backtrack)

    def of_chunk(index: Array) -> Array:
        rows = jax.lax.dynamic_slice_in_dim(starts, index * chunk, chunk)
        window, obs = gather_windows(dataset, rows, dynamics.max_backtrack)
        carry = dynamics.begin(simulation.params, window)
        keys = jax.random.split(jax.random.fold_in(steps_key, index))
        action = dataset.transitions.action[rows]
        prediction = dynamics.step(simulation.params, carry, obs, action, keys[0], keys[1])[1]
        return simulation.uncertainty_fn(prediction)

    return jax.lax.map(of_chunk, jnp.arange(num_chunks)).reshape(-1)[:num_rows]


def sums_of(taken: Taken) -> dict[str, Array]:
    """Sums over the kept rows."""
    transitions, kept, uncertainty, in_range = taken

    def total(values: Array) -> Array:
        return jnp.sum(jnp.where(kept, values, 0.0))

    return {
        "kept": kept.sum().astype(jnp.float32),
        "uncertainty": total(uncertainty),
        "reward": total(transitions.reward),
        "terminated": total(transitions.terminated.astype(jnp.float32)),
        "out_of_range": total((~in_range).astype(jnp.float32)),
    }


def means_of(sums: dict[str, Array], num_rows: Array) -> dict[str, Array]:
    """Metrics: means over the kept rows, and their share of all."""
    count = jnp.maximum(sums["kept"], 1.0)
    return {
        "rollout/valid_fraction": sums["kept"] / num_rows,
        "rollout/uncertainty": sums["uncertainty"] / count,
        "rollout/penalized_reward": sums["reward"] / count,
        "rollout/terminated_fraction": sums["terminated"] / count,
        "rollout/out_of_range_fraction": sums["out_of_range"] / count,
    }


def no_history(dynamics: Dynamics, obs: Array, action_dim: int) -> Window:
    """The windows of states [B, D] that nothing is known before."""
    shape = (obs.shape[0], dynamics.max_backtrack - 1)
    zeros = jnp.zeros((*shape, obs.shape[-1])), jnp.zeros((*shape, action_dim))
    return Window(*zeros, valid=jnp.zeros(shape, bool))


def predict_open_loop(
    dynamics: Dynamics, params: ModelParams, obs: Array, action: Array, key: Key
) -> Prediction:
    """Predictions, leaves [K, ...], along given actions [B, K, A], each sample fed back to the model.

    They start at states ``obs`` [B, D], with no history before them.
    """

    def step(state: tuple[Carry, Array], number: Array) -> tuple[tuple[Carry, Array], Prediction]:
        carry, obs = state
        model_key, batch_key = jax.random.split(keys[number])
        carry, prediction = dynamics.step(params, carry, obs, actions[number], model_key, batch_key)
        return (carry, prediction.next_obs), prediction

    actions = jnp.moveaxis(action, 1, 0)
    keys = jax.random.split(key, len(actions))
    window = no_history(dynamics, obs, action.shape[-1])
    return roll(step, (dynamics.begin(params, window), obs), len(actions))[1]


def open_loop(dynamics: Dynamics, params: ModelParams, segment: Segment, key: Key) -> Array:
    """Sampled next observations [B, K, D] on a segment's recorded actions, each fed back to the model."""
    predictions = predict_open_loop(dynamics, params, segment.obs[:, 0], segment.action, key)
    return jnp.moveaxis(predictions.next_obs, 0, 1)


def open_loop_errors(dynamics: Dynamics, params: ModelParams, segment: Segment, key: Key) -> Array:
    """Mean squared error [K] of the next observation after 1..K predictions fed back, over valid rows.

    In the environment's units, averaged over dimensions; NaN for a length that no row has.
    """
    error = jnp.square(open_loop(dynamics, params, segment, key) - segment.obs[:, 1:]).mean(axis=-1)
    return jnp.mean(error, axis=0, where=segment.valid)
