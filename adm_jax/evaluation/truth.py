"""True returns of policies: from a file, or from real episodes.

The file is JSON: ``{"policies": {"<file name>": {"return_mean": 27.5, "discounted_0.995_mean": 24.7}}}``. The
first is the undiscounted return; of every other discount there is a ``discounted_<gamma>_mean``.
"""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.envs.evaluation import Evaluator
from adm_jax.evaluation.policies import TargetPolicy, action_fn, group_by_kind, stack
from adm_jax.types import Array, EnvSpec, InputError


def read_truth(path: str, names: Sequence[str], gammas: Sequence[float]) -> np.ndarray:
    """True returns [P, G] of the policies of these names.

    Raises:
      InputError: the file is missing or damaged, or lacks a policy or a discount.
    """
    try:
        policies = dict(json.loads(Path(path).read_text())["policies"])
    except OSError as error:
        raise InputError(f"truth: {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'truth: {path}: must be JSON {{"policies": {{name: {{...}}}}}}') from error
    missing = [name for name in names if name not in policies]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(f"truth: {path}: has no return of {missing[0]}{others}")
    values = np.zeros((len(names), len(gammas)))
    for row, name in enumerate(names):
        for column, gamma in enumerate(gammas):
            key = "return_mean" if gamma == 1.0 else f"discounted_{gamma:g}_mean"
            value = policies[name].get(key)
            if not isinstance(value, (int, float)) or not np.isfinite(value):
                raise InputError(f"truth: {path}: {name}: {key} is {value}; must be a number")
            values[row, column] = value
    return values


def real_returns(
    env: EnvSpec,
    policies: Sequence[TargetPolicy],
    gammas: Sequence[float],
    num_episodes: int,
    *,
    deterministic: bool,
    seed: int = 0,
) -> np.ndarray:
    """Returns [P, E, G] of real episodes, all policies and episodes side by side.

    Args:
      env: the environment.
      policies: P of them.
      gammas: discounts, G of them.
      num_episodes: E.
      deterministic: the policies' modes instead of their samples.
      seed: of the policies' samples; episode e begins in the same state for all policies.
    """
    evaluator = Evaluator(env, [0] * len(policies), num_episodes)
    low, high = evaluator.action_low, evaluator.action_high
    groups = group_by_kind(policies)

    @functools.partial(jax.jit, static_argnames="index")
    def act(params: Array, obs: Array, key: Array, index: int) -> Array:
        act_one = action_fn(policies[groups[index][0]].kind, low, high, deterministic=deterministic)
        return jax.vmap(act_one)(params, obs, jax.random.split(key, len(groups[index])))

    stacked = [stack([policies[i] for i in group]) for group in groups]
    keys = (jax.random.fold_in(jax.random.key(seed), step) for step in range(evaluator.step_limit + 1))

    def act_all(obs: np.ndarray) -> np.ndarray:
        key = next(keys)
        action = np.zeros((*obs.shape[:2], len(low)), np.float32)
        for index, (group, params) in enumerate(zip(groups, stacked, strict=True)):
            action[group] = act(params, jnp.asarray(obs[group]), jax.random.fold_in(key, index), index)
        return action

    result = evaluator.evaluate(act_all, gammas=gammas)
    evaluator.close()
    return result.discounted
