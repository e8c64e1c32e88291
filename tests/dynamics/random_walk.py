"""A process whose best prediction is known, for the tests of fitting."""

import functools

import jax
import numpy as np

from adm_jax.config import FitConfig
from adm_jax.data.dataset import make_dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics import fitting

OBS_NOISE, REWARD_NOISE = 0.3, 0.5


def random_walk(num_episodes=60, length=100):
    """s' = s + (a, 0) + noise, r = 2 a + noise: the best prediction of k steps is known.

    Its displacement has variance k OBS_NOISE^2 in both dimensions, the last reward REWARD_NOISE^2.
    """
    rng = np.random.default_rng(0)
    shape = (num_episodes, length)
    action = rng.uniform(-1, 1, (*shape, 1))
    step = np.concatenate([action, np.zeros((*shape, 1))], axis=-1) + OBS_NOISE * rng.normal(size=(*shape, 2))
    path = np.concatenate([rng.normal(size=(num_episodes, 1, 2)), step], axis=1).cumsum(axis=1)
    reward = 2 * action[..., 0] + REWARD_NOISE * rng.normal(size=shape)
    truncated = np.zeros(shape, bool)
    truncated[:, -1] = True
    flat = [np.float32(x).reshape(-1, *x.shape[2:]) for x in (path[:, :-1], action, reward, path[:, 1:])]
    return EpisodeData(*flat, np.zeros(num_episodes * length, bool), truncated.ravel())


def keys_of(seed):
    """An epoch's keys; the bootstrap's would be the same in all epochs."""
    epoch, shared = jax.random.split(jax.random.key(seed))
    return fitting.FitKeys(epoch, jax.random.key(99), shared)


def assert_learns_one_step_prediction(dynamics):
    """Fitted to the random walk, a model that is told the latest state errs by one step's noise."""
    config = FitConfig(
        fit_batch_size=64,
        fit_learning_rate=3e-3,
        fit_steps_per_epoch=100,
        fit_max_epochs=8,
        holdout_fraction=0.2,
    )
    dataset = make_dataset(random_walk(), dynamics.max_backtrack, holdout_fraction=0.2)
    holdout = fitting.holdout_segments(dataset, dynamics.max_backtrack, config)
    epoch = jax.jit(functools.partial(fitting.fit_epoch, dynamics, config))
    state = jax.jit(functools.partial(fitting.init, dynamics))(dataset, jax.random.key(0))
    while state.active:
        state, _ = epoch(state, dataset, holdout, keys_of(int(state.epoch)))
    params = fitting.best_params(dynamics, state, dataset, holdout)
    errors = jax.jit(dynamics.validate)(params, holdout)
    np.testing.assert_allclose(errors.mse[0], (2 * OBS_NOISE**2 + REWARD_NOISE**2) / 3, rtol=0.06)


def trees_equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))
