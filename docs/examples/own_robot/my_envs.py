"""An environment of one's own: this file registers it, wherever it is imported."""

import gymnasium
import jax.numpy as jnp
import numpy as np


class Cart(gymnasium.Env):
    """A cart that has to stay near the middle of its track, and starts anywhere on it."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)  # position, velocity
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """At rest."""
        super().reset(seed=seed)
        self._state = np.array([self.np_random.uniform(-1, 1), 0.0])
        return self._state.copy(), {}

    def step(self, action):
        """Pushes; the episode ends where the track does."""
        position, velocity = self._state
        velocity = 0.98 * velocity + 0.1 * float(action[0])
        self._state = np.array([position + 0.1 * velocity, velocity])
        off = bool(abs(self._state[0]) > 2.0)
        return self._state.copy(), 1.0 - self._state[0] ** 2, off, False, {}


def off_the_track(next_obs):
    """Where the model's episodes end: next observations [..., 2] to booleans [...]."""
    return jnp.abs(next_obs[..., 0]) > 2.0


gymnasium.register("mylab/Cart-v0", entry_point="my_envs:Cart", max_episode_steps=100)
