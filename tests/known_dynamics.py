"""Hand-made dynamics whose roll-outs are known, and the same in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics.interface import Dynamics
from adm_jax.dynamics.uncertainty import std_of_means
from adm_jax.rollout import Simulation
from adm_jax.types import Prediction, Window

M, LENGTH = 3, 6
STARTS, CHUNK = 23, 5  # of a roll-out: the last chunk is not full
NUM_ROWS = 40
SPREAD = 0.25
# obs = (x, which row of the dataset the roll-out began at, steps since)
X, START, STEP = range(3)


def make_data():
    rng = np.random.default_rng(0)
    obs = np.stack([rng.uniform(-1, 1, NUM_ROWS), np.arange(NUM_ROWS), np.zeros(NUM_ROWS)], axis=-1)
    action = rng.uniform(-1, 1, (NUM_ROWS, 1))
    truncated = np.arange(NUM_ROWS) % 10 == 9
    obs, action = np.float32(obs), np.float32(action)
    return EpisodeData(obs, action, action[:, 0], obs, np.zeros(NUM_ROWS, bool), truncated)


DATA = make_data()


def known_dynamics(broken_field=None):
    """x' = 1.3 x + 0.5 a + 0.1 history, r = x + a; two units SPREAD to either side.

    ``history`` is the sum of the window's actions, which only ``begin`` has seen.

    With ``broken_field`` a step from x > 1 gives an infinite ``next_obs`` or NaN for a ``reward``.
    """

    def begin(params, window: Window):
        return jnp.where(window.valid, window.action[..., 0], 0.0).sum(axis=-1)

    def step(params, carry, obs, action, key, batch_key):
        x, start, time = jnp.moveaxis(obs, -1, 0)
        reward = x + action[:, 0]
        moved = params["gain"] * x + 0.5 * action[:, 0] + 0.1 * carry
        if broken_field == "next_obs":
            moved = jnp.where(x > 1.0, jnp.inf, moved)
        if broken_field == "reward":
            reward = jnp.where(x > 1.0, jnp.nan, reward)
        next_obs = jnp.stack([moved, start, time + 1.0], axis=-1)
        mean = jnp.concatenate([next_obs, reward[:, None]], axis=-1)
        means = jnp.stack([mean - SPREAD, mean + SPREAD])
        prediction = Prediction(
            next_obs, reward, means, jnp.zeros_like(means), jnp.ones(means.shape[:2], bool)
        )
        return carry, prediction

    unused = [None] * 4
    return Dynamics(*unused, begin, step, M, False)


def policy(obs, key):
    return -0.2 * obs[:, :1] + 0.01 * obs[:, STEP:]


def terminates(next_obs):
    return jnp.abs(next_obs[:, X]) > 2.0


PARAMS = {"gain": jnp.float32(1.3)}


def known_simulation(penalty_coef, broken_field=None, reward_fn=None):
    dynamics = known_dynamics(broken_field)
    return Simulation(dynamics, PARAMS, policy, terminates, std_of_means, penalty_coef, reward_fn)


def rows_of(histories):
    """What a Simulation asks its encoded histories by."""
    return None if histories is None else lambda rows: jax.tree.map(lambda x: x[rows], histories)


def numpy_trajectory(start, penalty_coef, broken_field=None):
    """Valid rows of the roll-out begun at a dataset's row: (obs, action, reward, next_obs, terminated)."""
    time_in_episode = start % 10
    history = DATA.action[start - min(time_in_episode, M - 1) : start, 0].sum()
    x, rows = float(DATA.obs[start, X]), []
    for step in range(LENGTH):
        action = -0.2 * x + 0.01 * step
        next_x = 1.3 * x + 0.5 * action + 0.1 * history
        if broken_field and x > 1.0:
            break
        # all dimensions of both units lie SPREAD from their mean
        reward = x + action - penalty_coef * SPREAD
        rows.append(((x, start, step), action, reward, (next_x, start, step + 1), abs(next_x) > 2.0))
        if rows[-1][-1]:
            break
        x = next_x
    return rows
