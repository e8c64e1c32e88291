"""What policies return, estimated by rolling them out in a dynamics model for whole episodes.

Roll-outs begin exactly at the dataset's initial states, with no history: a model with streams begins with one
and grows to m. Every reward counts, from the first step on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.data.dataset import Dataset, gather_windows
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics.interface import Carry, Dynamics, ModelParams
from adm_jax.rollout import Rows, Simulation, Taken, roll, steps_of
from adm_jax.types import Array, InputError, Key, Prediction

MARKS = (10, 20, 50, 100, 200, 500, 1000)  # steps at which it is looked how far episodes have come


class Episodes(NamedTuple):
    """Episodes of one policy in a model."""

    returns: Array  # [E, G], discounted with each gamma
    after: Array  # [E, C], undiscounted, of the first MARKS steps
    lengths: Array  # [E] int32
    finite: Array  # [E] bool: no step was broken
    in_range: Array  # [E] bool: every state lay within the bounds
    out_of_range: Array  # [E] int32: steps whose prediction lay out of the data's widened range


def episode_starts(data: EpisodeData) -> np.ndarray:
    """Rows [S] of the dataset's initial states.

    An episode that goes on where the one before it was cut does not begin at one. Raises InputError: there
    are several episodes, and all of them do so.
    """
    ends = data.episode_ends[:-1]
    goes_on = data.truncated[ends] & (data.obs[ends + 1] == data.next_obs[ends]).all(axis=1)
    if ends.size and goes_on.all():
        raise InputError(
            f"{data.source or 'dataset'}: has no initial states: each of its {len(ends) + 1} episodes but "
            "the first goes on where the one before it was cut"
        )
    return np.append(0, ends[~goes_on] + 1)


def draw_starts(starts: np.ndarray, num_episodes: int, seed: int) -> np.ndarray:
    """Which of the initial states [S] episodes begin at, [E]: each once before any comes again."""
    rng = np.random.default_rng(seed)
    rounds = -(-num_episodes // starts.size)
    drawn = np.concatenate([rng.permutation(starts) for _ in range(rounds)])
    return drawn[:num_episodes].astype(np.int32)


def widened_range(obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The range of observations [N, D] made wider by half its width, around its middle: low and high [D].

    Single predictions have a wider one, adm_jax.data.value_range: here whole episodes are to stay within.
    """
    low, high = obs.min(axis=0), obs.max(axis=0)
    return low - 0.25 * (high - low), high + 0.25 * (high - low)


def predict_means(dynamics: Dynamics) -> Dynamics:
    """The model with a mean in place of a sample: of the means of those units that a sample may be of."""

    def step(
        params: ModelParams, carry: Carry, obs: Array, action: Array, key: Key, batch_key: Key
    ) -> tuple[Carry, Prediction]:
        carry, prediction = dynamics.step(params, carry, obs, action, key, batch_key)
        valid = prediction.valid[: dynamics.num_drawn, :, None]
        mean = jnp.where(valid, prediction.means[: dynamics.num_drawn], 0.0).sum(axis=0) / valid.sum(axis=0)
        return carry, prediction._replace(next_obs=mean[:, :-1], reward=mean[:, -1])

    return dynamics._replace(step=step)


def roll_out_episodes(
    simulation: Simulation,
    dataset: Dataset,
    starts: Array,
    key: Key,
    *,
    gammas: Sequence[float],
    bounds: tuple[Array, Array],
    horizon: int,
    chunk: int,
) -> Episodes:
    """Whole episodes from the dataset's states at ``starts`` [E], ``chunk`` at a time, until all have ended.

    An episode ends where its next state terminates, after ``horizon`` steps, or before a step that is not
    finite. ``gammas`` are G discounts, ``bounds`` low and high [D] for ``in_range``.
    """
    discounts = jnp.asarray(gammas, jnp.float32)
    low, high = bounds
    batch_key, chunks_key = jax.random.split(key)
    num_episodes = starts.shape[0]

    def count(episodes: Episodes, step: Array, rows: Rows, taken: Taken) -> Episodes:
        kept, next_obs = taken.kept, taken.transition.next_obs
        reward = jnp.where(kept, taken.transition.reward, 0.0)[:, None]
        inside = ((next_obs >= low[None]) & (next_obs <= high[None])).all(axis=-1)
        return Episodes(
            returns=episodes.returns + reward * discounts[None] ** step,
            after=episodes.after + reward * (step < jnp.asarray(MARKS))[None],
            lengths=episodes.lengths + kept,
            finite=episodes.finite & (kept | ~rows.alive),
            in_range=episodes.in_range & (inside | ~rows.alive),
            out_of_range=episodes.out_of_range + (kept & ~taken.in_range),
        )

    def run_chunk(index: Array) -> Episodes:
        numbers = jnp.minimum(index * chunk + jnp.arange(chunk), num_episodes - 1)
        window, obs = gather_windows(dataset, starts[numbers], simulation.dynamics.max_backtrack)
        alive = jnp.ones((chunk,), bool)
        rows = Rows(simulation.dynamics.begin(simulation.params, window), obs, alive)
        nothing = Episodes(
            returns=jnp.zeros((chunk, len(gammas))),
            after=jnp.zeros((chunk, len(MARKS))),
            lengths=jnp.zeros((chunk,), jnp.int32),
            finite=alive,
            in_range=alive,
            out_of_range=jnp.zeros((chunk,), jnp.int32),
        )
        step_fn = steps_of(simulation, jax.random.fold_in(chunks_key, index), batch_key)
        return roll(step_fn, rows, horizon, count, nothing, lambda rows: rows.alive.any())[1]

    chunks = jax.lax.map(run_chunk, jnp.arange(-(-num_episodes // chunk)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:num_episodes], chunks)
