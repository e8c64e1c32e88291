"""Multi-step returns along imagined and recorded steps."""

import jax
import jax.numpy as jnp

from adm_jax.types import Array, Key, Transition


def sample_lambda_returns(
    transitions: Transition, continues: Array, key: Key, gamma: float, trace_decay: float
) -> Transition:
    """Every step as a transition over n of them, whose expected target is the lambda-return (Sutton, 1988).

    ``n`` is drawn from the geometric distribution of parameter ``1 - trace_decay``, cut where the episode, or
    what was rolled out of it, ends: the lambda-return is the mean of the n-step returns with these weights.

    Args:
      transitions: T steps of B rows, leaves [T, B, ...].
      continues: [T, B] bool, whether a row's next step belongs to the same episode; False for the last.
      key: consumed.
      gamma: discount of a step.
      trace_decay: lambda.

    Returns:
      Transitions with the sum of n discounted rewards, the observation n steps on, whether that one
      terminates, and ``gamma ** n`` as discount.
    """
    goes_on = jax.random.bernoulli(key, trace_decay, continues.shape) & continues
    last = jax.tree.map(lambda x: x[-1], transitions)
    ahead = (jnp.zeros_like(last.reward), last.next_obs, last.terminated, jnp.ones_like(last.reward))

    def back(ahead: tuple[Array, Array, Array, Array], xs: tuple[Transition, Array]):
        step, joined = xs
        reward, next_obs, terminated, discount = ahead
        here = (
            step.reward + jnp.where(joined, gamma * reward, 0.0),
            jnp.where(joined[:, None], next_obs, step.next_obs),
            jnp.where(joined, terminated, step.terminated),
            gamma * jnp.where(joined, discount, 1.0),
        )
        return here, here

    _, (reward, next_obs, terminated, discount) = jax.lax.scan(
        back, ahead, (transitions, goes_on), reverse=True
    )
    return transitions._replace(reward=reward, next_obs=next_obs, terminated=terminated, discount=discount)


def lambda_returns(
    reward: Array, next_value: Array, terminated: Array, continues: Array, gamma: float, trace_decay: float
) -> Array:
    """Lambda-returns [N] of consecutive steps (Sutton, 1988).

    Args:
      reward: [N].
      next_value: [N], of the state that a step leads to.
      terminated: [N] bool, whether that state is worth nothing.
      continues: [N] bool, whether the next row is the next step of the same episode; False for the last.
      gamma: discount of a step.
      trace_decay: lambda; 1: the rewards up to the episode's end, and the value where it is cut off.
    """
    ahead = jnp.where(continues, trace_decay, 0.0)  # weight of the next step's return, beside its value's
    own = reward + gamma * jnp.where(terminated, 0.0, (1.0 - ahead) * next_value)

    def join(later: tuple[Array, Array], earlier: tuple[Array, Array]) -> tuple[Array, Array]:
        return earlier[0] * later[0], earlier[1] + earlier[0] * later[1]

    # the recurrence G = own + gamma ahead G' as a parallel scan: a million steps in twenty passes
    return jax.lax.associative_scan(join, (gamma * ahead, own), reverse=True)[1]
