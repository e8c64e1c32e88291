"""Off-policy evaluation from beginning to end: fit, roll out, compare with true returns and with FQE."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.config import OfflineConfig
from adm_jax.data.dataset import Dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics.interface import ModelParams
from adm_jax.envs import environment
from adm_jax.evaluation import off_policy, plots
from adm_jax.evaluation.config import OPEConfig
from adm_jax.evaluation.fitted_models import FittedModels, fit_models
from adm_jax.evaluation.fitted_q import FQESettings, fitted_q
from adm_jax.evaluation.policies import (
    ActionFn,
    TargetPolicy,
    action_fn,
    find_policies,
    group_by_kind,
    read_policies,
    stack,
)
from adm_jax.evaluation.rank_metrics import METRICS, compare
from adm_jax.evaluation.truth import read_truth, real_returns
from adm_jax.rollout import Simulation
from adm_jax.settings import to_flat
from adm_jax.statistics import mean_interval
from adm_jax.tasks import Task
from adm_jax.training.metrics import RunFolder
from adm_jax.training.population import Member, over_members
from adm_jax.training.progress import Progress, print_table
from adm_jax.training.session import load_data
from adm_jax.types import Array, InputError, Key, Params

FQE = "fqe"


def run(config: OPEConfig, fits: Sequence[OfflineConfig]) -> dict[str, Any]:
    """Evaluates policies in dynamics models; returns what ``result.json`` holds.

    Args:
      config: what is evaluated, and how.
      fits: how each of ``config.dynamics`` is fitted: one task, dataset and set of seeds for all.

    Raises:
      InputError: policies, truth, data or settings do not serve; nothing has been computed then.
    """
    if config.policies is None:
        raise InputError("policies: give --policies=<folder or glob> of the policies to evaluate")
    task, data = load_data(fits[0])
    policies = read_policies(find_policies(config.policies), task.obs_dim, task.action_dim)
    names = [policy.name for policy in policies]
    truth = None if config.truth is None else read_truth(config.truth, names, config.gammas)
    folder = RunFolder.create(
        fits[0].workdir,
        "ope",
        task.name,
        {**to_flat(fits[0]), **to_flat(config)},
        [Member(seed, {}) for seed in fits[0].seeds],
        {"env_id": task.env_id, "dataset_sha256": data.digests()},
    )
    with Progress() as progress:
        progress.note(f"run folder: {folder.path}\n{len(policies)} policies, {len(data.reward)} transitions")
        if config.real_episodes:
            truth = _real_truth(config, task, policies, progress)
        result = _evaluate(config, fits, task, data, policies, folder.path, progress)
    result |= {"policies": names, "truth": None if truth is None else truth.T.tolist()}
    if truth is not None:
        result["metrics"] = _metrics(config.gammas, result["estimates"], truth)
        plots.scatter(folder.path / "scatter.png", result, config.gammas[0], f"{task.name}, {data.source}")
    folder.write_result(result)
    _print(result, names, config.gammas[0])
    return result


def _print(result: Mapping[str, Any], names: Sequence[str], gamma: float) -> None:
    """The estimates of the first discount, and what they are worth where true returns are known."""
    estimates, truth = result["estimates"][f"{gamma:g}"], result["truth"]
    rows = [
        [name, None if truth is None else truth[0][i], *(rows[i]["mean"] for rows in estimates.values())]
        for i, name in enumerate(names)
    ]
    print_table(f"returns, gamma {gamma:g}", ["policy", "true", *estimates], rows)
    if truth is None:
        return
    metrics = result["metrics"][f"{gamma:g}"]
    rows = [
        [name, *(f"{x['value']:.2f} [{x['low']:.2f}, {x['high']:.2f}]" for x in metrics[name].values())]
        for name in metrics
    ]
    print_table("against the true returns, 95 % intervals over policies", ["estimator", *METRICS], rows)


def _evaluate(
    config: OPEConfig,
    fits: Sequence[OfflineConfig],
    task: Task,
    data: EpisodeData,
    policies: Sequence[TargetPolicy],
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Every estimator's estimates of every policy, for each discount."""
    low, high = _action_bounds(task)
    groups = [
        (group, stack([policies[i] for i in group]), _act(policies[group[0]], low, high, config))
        for group in group_by_kind(policies)
    ]
    estimates: dict[str, Any] = {f"{gamma:g}": {} for gamma in config.gammas}
    models: dict[str, Any] = {}
    dataset = None
    for fit in fits:
        fitted = fit_models(fit, task, data, Path(config.models or folder / "models"), progress)
        dataset = fitted.dataset
        progress.note(f"{fit.dynamics}: held-out NLL {np.mean(fitted.holdout_nll):.2f}; rolling out")
        episodes = _roll_out(config, fitted, data, groups, len(policies))
        for index, gamma in enumerate(config.gammas):
            estimates[f"{gamma:g}"][fit.dynamics] = [
                _estimate(returns) for returns in episodes.returns[..., index].swapaxes(0, 1)
            ]
        models[fit.dynamics] = {
            "holdout_nll": fitted.holdout_nll,
            "finite_share": float(episodes.finite.mean()),
            "in_range_share": float(episodes.in_range.mean()),
            "in_range_share_per_policy": episodes.in_range.mean(axis=(0, 2)).tolist(),
            "mean_length_per_policy": episodes.lengths.mean(axis=(0, 2)).tolist(),
        }
    assert dataset is not None
    for gamma in config.gammas if config.fqe_steps else ():
        if gamma < 1.0:
            progress.note(f"fitted Q evaluation, gamma {gamma:g}")
            values = _fitted_q(config, gamma, fits[0].seeds, dataset, data, groups, len(policies))
            estimates[f"{gamma:g}"][FQE] = [_estimate(value[:, None]) for value in values.T]
    return {"estimates": estimates, "models": models}


Group = tuple[list[int], Params, ActionFn]


def _roll_out(
    config: OPEConfig, fitted: FittedModels, data: EpisodeData, groups: Sequence[Group], num_policies: int
) -> off_policy.Episodes:
    """Episodes of every seed's model and policy, leaves [S, P, E, ...]."""
    parts, seeds = fitted.parts, fitted.config.seeds
    starts = jnp.asarray(off_policy.initial_states(_episode_starts(data), config.num_episodes, seed=0))
    low, high = off_policy.widened_range(np.concatenate([data.obs, data.next_obs]))
    bounds = jnp.asarray(low), jnp.asarray(high)
    chunk = min(config.episode_chunk, config.num_episodes)

    def one(
        act: ActionFn, member: tuple[Params, Key], model: ModelParams, dataset: Dataset
    ) -> off_policy.Episodes:
        params, key = member
        simulation = Simulation(
            parts.dynamics,
            model,
            functools.partial(act, params),
            parts.termination_fn,
            lambda prediction: jnp.zeros_like(prediction.reward),
            jnp.zeros(()),
            parts.reward_fn,
        )
        return off_policy.roll_out_episodes(
            simulation,
            dataset,
            starts,
            key,
            gammas=config.gammas,
            bounds=bounds,
            horizon=config.horizon,
            chunk=chunk,
        )

    per_seed = []
    compiled = [jax.jit(over_members(functools.partial(one, act), parts.members)) for _, _, act in groups]
    for index, seed in enumerate(seeds):
        model = jax.tree.map(lambda x, i=index: x[i], fitted.params)
        rows: list[Any] = [None] * num_policies
        for (group, params, _), program in zip(groups, compiled, strict=True):
            result = jax.device_get(program((params, _keys(seed, group)), model, fitted.dataset))
            for place, policy in enumerate(group):
                rows[policy] = jax.tree.map(lambda x, i=place: x[i], result)
        per_seed.append(jax.tree.map(lambda *x: np.stack(x), *rows))
    return jax.tree.map(lambda *x: np.stack(x), *per_seed)


def _fitted_q(
    config: OPEConfig,
    gamma: float,
    seeds: Sequence[int],
    dataset: Dataset,
    data: EpisodeData,
    groups: Sequence[Group],
    num_policies: int,
) -> np.ndarray:
    """FQE's estimates [S, P]."""
    settings = FQESettings(gamma, config.fqe_steps)
    starts = jnp.asarray(_episode_starts(data), jnp.int32)
    values = np.zeros((len(seeds), num_policies))

    def one(act: ActionFn, member: tuple[Params, Key], dataset: Dataset) -> Array:
        params, key = member
        return fitted_q(functools.partial(act, params), dataset, starts, key, settings).value

    for group, params, act in groups:
        program = jax.jit(over_members(functools.partial(one, act), "map"))
        for row, seed in enumerate(seeds):
            values[row, group] = program((params, _keys(seed, group)), dataset)
    return values


def _keys(seed: int, group: Sequence[int]) -> Key:
    """Each policy's key [P'], the same whatever others are evaluated beside it."""
    root = jax.random.fold_in(jax.random.key(2), seed)
    return jax.vmap(lambda index: jax.random.fold_in(root, index))(jnp.asarray(group, jnp.uint32))


def _episode_starts(data: EpisodeData) -> np.ndarray:
    """Rows at which episodes begin."""
    return np.append(0, data.episode_ends[:-1] + 1)


def _estimate(values: np.ndarray) -> dict[str, float | None]:
    """A policy's estimate of values [S, E]: Student's interval over seeds, of one seed over its episodes."""
    varied = values.mean(axis=1) if len(values) > 1 else values[0]
    if varied.size < 2 or not np.isfinite(varied).all():
        mean = float(values.mean())
        return {"mean": mean if np.isfinite(mean) else None, "low": None, "high": None}
    return mean_interval(varied.tolist())._asdict()


def _action_bounds(task: Task) -> tuple[np.ndarray, np.ndarray]:
    env = environment.make_env(task.env)
    low, high = environment.action_bounds(env)
    env.close()
    return low, high


def _act(policy: TargetPolicy, low: np.ndarray, high: np.ndarray, config: OPEConfig) -> ActionFn:
    return action_fn(policy.kind, low, high, deterministic=config.deterministic)


def _real_truth(
    config: OPEConfig, task: Task, policies: Sequence[TargetPolicy], progress: Progress
) -> np.ndarray:
    """True returns [P, G], means over real episodes."""
    progress.note(f"{config.real_episodes} real episodes of each policy")
    returns = real_returns(
        task.env, policies, config.gammas, config.real_episodes, deterministic=config.deterministic
    )
    return returns.mean(axis=1)


def _metrics(gammas: Sequence[float], estimates: Mapping[str, Any], truth: np.ndarray) -> dict[str, Any]:
    """For each discount every estimator's metrics and the differences of each two."""
    metrics = {}
    for index, gamma in enumerate(gammas):
        values = {
            name: [np.nan if row["mean"] is None else row["mean"] for row in rows]
            for name, rows in estimates[f"{gamma:g}"].items()
        }
        metrics[f"{gamma:g}"] = compare(values, truth[:, index].tolist())
    return metrics
