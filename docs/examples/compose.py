"""Composes a model's pure functions in a jitted loop of one's own: planning that keeps to what is known."""

from functools import partial

import jax
import jax.numpy as jnp
from predict import pendulum

import adm_jax
from adm_jax.dynamics.interface import Dynamics, ModelParams
from adm_jax.dynamics.uncertainty import std_of_means
from adm_jax.rollout import predict_open_loop
from adm_jax.types import Array, Key

CANDIDATES, HORIZON, PENALTY = 256, 15, 1.0


def plan(dynamics: Dynamics, params: ModelParams, obs: Array, key: Key) -> Array:
    """The first action [1] of the best of many random action sequences, from a state [2]."""
    action_key, model_key = jax.random.split(key)
    actions = jax.random.uniform(action_key, (CANDIDATES, HORIZON, 1), minval=-1.0, maxval=1.0)
    starts = jnp.tile(obs, (CANDIDATES, 1))
    ahead = predict_open_loop(dynamics, params, starts, actions, model_key)  # leaves [HORIZON, ...]
    value = ahead.reward - PENALTY * jax.vmap(std_of_means)(ahead)  # [HORIZON, CANDIDATES]
    return actions[jnp.argmax(value.sum(axis=0)), 0]


def true_step(obs: Array, action: Array) -> Array:
    """The pendulum itself."""
    angle, velocity = obs
    velocity = velocity + 0.1 * (-5.0 * jnp.sin(angle) - 0.2 * velocity + 2.0 * action[0])
    return jnp.stack([angle + 0.1 * velocity, velocity])


@partial(jax.jit, static_argnames=("dynamics", "length"))
def control(dynamics: Dynamics, params: ModelParams, obs: Array, key: Key, length: int) -> Array:
    """Angles [length] of the pendulum under the planner: one program, planning within the loop."""

    def step(obs: Array, step_key: Key) -> tuple[Array, Array]:
        obs = true_step(obs, plan(dynamics, params, obs, step_key))
        return obs, obs[0]

    return jax.lax.scan(step, obs, jax.random.split(key, length))[1]


def main(num_episodes: int = 200, length: int = 60, **settings) -> None:
    """Fits, then controls several pendulums at once."""
    model = adm_jax.fit(pendulum(num_episodes), "adm", max_backtrack=5, **settings)
    starts = jnp.array([[1.5, 0.0], [-1.5, 0.0], [0.5, 2.0]])
    controlled = jax.vmap(control, in_axes=(None, None, 0, 0, None))
    angles = controlled(model.dynamics, model.params, starts, jax.random.split(jax.random.key(0), 3), length)
    print(f"mean angle in the second half: {jnp.abs(angles[:, length // 2 :]).mean():.3f}")


if __name__ == "__main__":
    main(fit_max_epochs=8, fit_steps_per_epoch=500, model_hidden_dim=64)
