"""True returns of policies: from a file, or from real episodes.

The file is JSON: ``{"env_id": "Hopper-v4", "policies": {"<file name>": {"return_mean": 27.5,
"discounted_0.995_mean": 24.7}}}``. ``return_mean`` is the undiscounted return; of every other discount there
is a ``discounted_<gamma>_mean``. ``"max_steps": 1000`` and ``"deterministic": false`` say what the episodes
were, and may be left out. Returns that were measured are left in the run's folder as such a file.
"""

import contextlib
import functools
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.envs.evaluator import ActFn, Evaluator
from adm_jax.evaluation.policies import TargetPolicy, action_fn, group_by_kind, stack
from adm_jax.files import resolve_path
from adm_jax.types import Array, EnvSpec, InputError

_MAX_ROWS = 2_000  # simulations side by side


class RealEpisodes(NamedTuple):
    """Episodes of P policies in the real environment."""

    returns: np.ndarray  # [P, E, G], discounted with each gamma
    lengths: np.ndarray  # [P, E] steps
    after: np.ndarray  # [P, E, C], undiscounted, of as many first steps


class Conditions(NamedTuple):
    """The episodes whose returns they are."""

    env_id: str | None  # None: there is no environment, and the file's is not compared
    max_steps: int  # of an episode
    deterministic: bool  # the policies' modes instead of their samples


def read_truth(
    path: str, conditions: Conditions, names: Sequence[str], gammas: Sequence[float]
) -> np.ndarray:
    """True returns [P, G] of the policies of these names.

    Raises InputError: the file is missing or damaged, of other ``conditions``, or lacks a policy
    or a discount.
    """
    try:
        content = json.loads(resolve_path("truth", path).read_text())
        policies = dict(content["policies"])
    except OSError as error:
        raise InputError(f"truth: {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f'truth: {path}: must be JSON {{"policies": {{name: {{...}}}}}}') from error
    for name, wanted in conditions._asdict().items():
        if wanted is not None and content.get(name, wanted) != wanted:
            raise InputError(
                f"truth: {path}: is of {name} {content[name]}, this evaluation of {wanted}; the two must be "
                "the same"
            )
    missing = [name for name in names if name not in policies]
    if missing:
        others = f" and {len(missing) - 1} others" if len(missing) > 1 else ""
        raise InputError(f"truth: {path}: has no return of {missing[0]}{others}")
    return np.array([[_value(path, name, policies[name], gamma) for gamma in gammas] for name in names])


def _value(path: str, name: str, returns: Any, gamma: float) -> float:
    key = _key(gamma)
    value = returns.get(key) if isinstance(returns, dict) else None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < math.inf:
        raise InputError(f"truth: {path}: {name}: {key} is {value}; must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"truth: {path}: {name}: {key} is too large; must be a number") from error


def _key(gamma: float) -> str:
    return "return_mean" if gamma == 1.0 else f"discounted_{gamma:g}_mean"


def to_truth(
    conditions: Conditions, names: Sequence[str], gammas: Sequence[float], returns: np.ndarray
) -> dict[str, Any]:
    """Measured returns [P, E, G] as the content of such a file, with their standard deviations."""
    policies = {}
    for name, episodes in zip(names, returns, strict=True):
        policies[name] = {"episodes": len(episodes)}
        for column, gamma in enumerate(gammas):
            key = _key(gamma)
            policies[name][key] = float(episodes[:, column].mean())
            policies[name][key.replace("mean", "std")] = float(episodes[:, column].std())
    return {**conditions._asdict(), "policies": policies}


def real_episodes(
    env: EnvSpec,
    policies: Sequence[TargetPolicy],
    gammas: Sequence[float],
    num_episodes: int,
    *,
    deterministic: bool,
    marks: Sequence[int] = (),
    max_steps: int | None = None,
    seed: int = 0,
) -> RealEpisodes:
    """E real episodes of P policies, as many policies side by side as there is room for.

    ``gammas`` are G discounts, ``marks`` C numbers of first steps whose returns are wanted too. Without
    ``max_steps`` the environment's own limit holds. ``seed`` is of the policies' samples; episode e begins in
    the same state for all policies.
    """
    together = max(_MAX_ROWS // num_episodes, 1)
    parts = [policies[begin : begin + together] for begin in range(0, len(policies), together)]
    done: list[RealEpisodes] = []
    for part in parts:
        with contextlib.closing(Evaluator(env, [0] * len(part), num_episodes)) as evaluator:
            act = _act_fn(evaluator, part, seed, deterministic)
            result = evaluator.evaluate(act, gammas=gammas, marks=marks, max_steps=max_steps)
        done.append(RealEpisodes(result.discounted, result.lengths, result.after))
    return jax.tree.map(lambda *x: np.concatenate(x), *done)


def _act_fn(evaluator: Evaluator, policies: Sequence[TargetPolicy], seed: int, deterministic: bool) -> ActFn:
    """What the policies do in the evaluator's environments; to be called once a step."""
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

    return act_all
