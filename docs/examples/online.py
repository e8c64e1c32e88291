"""Learns a policy in a Gymnasium environment of one's own."""

import gymnasium
import jax.numpy as jnp
import numpy as np

import adm_jax


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


gymnasium.register("Cart-v0", entry_point=f"{__name__}:Cart", max_episode_steps=100)


def main(**settings) -> None:
    """Learns, and acts."""
    run = adm_jax.train_online("Cart-v0", termination=f"{__name__}:off_the_track", **settings)
    returns = adm_jax.evaluate(run.policy(), "Cart-v0", episodes=10).returns
    print(f"return {returns.mean():.1f} of at most 100")


if __name__ == "__main__":
    main(
        seeds=(0,),
        num_steps=2_500,
        warmup_steps=500,
        log_every=250,
        eval_every=500,
        checkpoint_every=2_500,
        updates_per_step=2,
        rollout_batch_size=1_000,
        model_hidden_dim=64,
    )
