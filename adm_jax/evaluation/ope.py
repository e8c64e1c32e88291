"""Off-policy evaluation from beginning to end: fit, roll out, compare with true returns and with FQE."""

import contextlib
import functools
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax import model_episodes
from adm_jax.config import OfflineConfig
from adm_jax.config.evaluation import OPEConfig
from adm_jax.config.references import source_digest
from adm_jax.config.settings import to_flat
from adm_jax.data.dataset import Dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics.interface import ModelParams
from adm_jax.envs import environment
from adm_jax.evaluation import plots
from adm_jax.evaluation.fitted_models import FittedModels, Prepared, create_folder, fit_models, prepare_models
from adm_jax.evaluation.fitted_q import FQEResult, FQESettings, fitted_q
from adm_jax.evaluation.kept_results import KeptResults
from adm_jax.evaluation.policies import ActionFn, TargetPolicy, action_fn, group_by_kind, read_policies, stack
from adm_jax.evaluation.rank_metrics import compare
from adm_jax.evaluation.truth import Conditions, read_truth, real_episodes, to_truth
from adm_jax.files import resolve_path
from adm_jax.nn.precision import matmul_precision
from adm_jax.population.compiling import MemberProgram
from adm_jax.population.members import resolve_mapping
from adm_jax.runs.progress import Progress, print_table
from adm_jax.statistics import mean_interval
from adm_jax.tasks import EnvlessTask, Task
from adm_jax.training.components import make_simulation
from adm_jax.training.data import load_data
from adm_jax.types import ActionBounds, InputError, Key, Params

FQE = "fqe"
_RESULTS = "estimates"  # folder among the fitted models
R = TypeVar("R")  # a NamedTuple of arrays


def run(config: OPEConfig, fits: Sequence[OfflineConfig]) -> dict[str, Any]:
    """Evaluates policies in dynamics models; returns what ``result.json`` holds.

    ``fits`` are how each of ``config.dynamics`` is fitted: one task, dataset and set of seeds for all. Raises
    InputError: policies, truth, data or settings do not serve; nothing has been computed then.
    """
    if config.policies is None:
        raise InputError("policies: give --policies=<folder or glob> of the policies to evaluate")
    task, data = load_data(fits[0])
    if config.real_episodes and isinstance(task, EnvlessTask):
        raise InputError(f"real_episodes: there is no environment for true returns: {task.reason}")
    bounds = environment.bounds_of_task(task)
    policies = read_policies(config.policies, task.obs_dim, bounds)
    names = [policy.name for policy in policies]
    starts = model_episodes.episode_starts(data)
    limit = _step_limit(task)
    horizon = config.horizon or limit or int(data.episode_lengths.max())
    if limit is not None and horizon > limit:
        raise InputError(f"horizon: {horizon} is more than {task.env_id}'s time limit of {limit} steps")
    conditions, truth = Conditions(task.env_id or None, horizon, config.deterministic), None
    if config.truth is not None:
        truth = read_truth(config.truth, conditions, names, config.gammas)
    store = None if config.models is None else resolve_path("models", config.models)
    models = prepare_models(fits, task, data, store)
    folder = create_folder("ope", config, fits, task, data)
    work = _Work(config, task, horizon, data, starts, policies, _group(config, policies, bounds))
    result: dict[str, Any] = {"policies": names, "horizon": horizon, "num_initial_states": len(starts)}
    with Progress() as progress, matmul_precision(fits[0].matmul_precision):
        progress.note(
            f"run folder: {folder.path}\n{len(policies)} policies; {len(data.reward)} transitions, "
            f"{len(starts)} initial states"
        )
        if isinstance(task, EnvlessTask):
            for line in task.lines(config.horizon):
                progress.note(line)
        if truth is not None and limit is not None and horizon < limit:
            progress.note(f"warning: true returns may be of {limit} steps, the estimates are of {horizon}")
        for policy in policies:
            if task.has_env and policy.env_id not in (None, task.env_id):
                progress.note(f"warning: {policy.name} is of {policy.env_id}, the dataset of {task.env_id}")
        if task.relabel_terminations:
            progress.note(
                f"warning: estimates end where the data are cut by {task.name}'s termination; real episodes "
                "go on there, and true returns with them"
            )
        if config.real_episodes:
            truth, result["real"] = _measure_truth(config, conditions, task, policies, folder.path, progress)
        result |= {"truth": None if truth is None else truth.T.tolist()}
        result |= _estimates(work, models, store or folder.path / "models", progress)
        folder.write_result(result)  # whatever becomes of the rest
    if truth is not None and len(policies) > 1:
        result["metrics"] = _metrics(config, result["estimates"], truth)
        folder.write_result(result)
        title = str(fits[0].dataset or task.dataset)
        plots.scatter(folder.path / "scatter.png", result, config.gammas[0], title)
    _print(result, names, config.gammas[0])
    return result


Group = tuple[list[int], Params, ActionFn]


class _Work(NamedTuple):
    """What is estimated."""

    config: OPEConfig
    task: Task
    horizon: int
    data: EpisodeData
    starts: np.ndarray  # [S] rows of the initial states
    policies: Sequence[TargetPolicy]
    groups: Sequence[Group]


def _group(config: OPEConfig, policies: Sequence[TargetPolicy], bounds: ActionBounds) -> list[Group]:
    """Policies that are one function of parameters [P', ...]: indices, parameters, the function."""
    return [
        (
            group,
            stack([policies[i] for i in group]),
            action_fn(policies[group[0]].kind, *bounds.arrays(), deterministic=config.deterministic),
        )
        for group in group_by_kind(policies)
    ]


def _step_limit(task: Task) -> int | None:
    """The environment's limit of an episode's steps; None without an environment."""
    if not task.has_env:
        return None
    with contextlib.closing(environment.make_env(task.env)) as env:
        return environment.step_limit(env)


def _measure_truth(
    config: OPEConfig,
    conditions: Conditions,
    task: Task,
    policies: Sequence[TargetPolicy],
    folder: Path,
    progress: Progress,
) -> tuple[np.ndarray, dict[str, Any]]:
    """True returns [P, G], means over real episodes, and how far these came; kept in the folder as a file."""
    num, steps = config.real_episodes, conditions.max_steps
    progress.note(f"{num} real episodes of each policy")
    how = {"deterministic": config.deterministic, "marks": model_episodes.MARKS, "max_steps": steps}
    done = real_episodes(task.env, policies, config.gammas, num, **how)
    content = to_truth(conditions, [policy.name for policy in policies], config.gammas, done.returns)
    (folder / "truth.json").write_text(json.dumps(content, indent=1) + "\n")
    return done.returns.mean(axis=1), _course(done.lengths, done.after, steps)


def _course(lengths: np.ndarray, after: np.ndarray, horizon: int) -> dict[str, Any]:
    """How far episodes of P policies come: lengths [P, N], returns of the first MARKS steps [P, N, C]."""
    steps = [mark for mark in model_episodes.MARKS if mark <= horizon]
    return {
        "mean_length_per_policy": lengths.mean(axis=1).tolist(),
        "steps": steps,
        "share_of_so_many_steps_per_policy": (lengths[..., None] >= np.asarray(steps)).mean(axis=1).tolist(),
        "return_after_steps_per_policy": after[..., : len(steps)].mean(axis=1).tolist(),
    }


def _print(result: Mapping[str, Any], names: Sequence[str], gamma: float) -> None:
    """The estimates of the first discount, and what they are worth where true returns are known."""
    estimates, truth = result["estimates"][f"{gamma:g}"], result["truth"]
    rows = [
        [name, None if truth is None else truth[0][i], *(rows[i]["mean"] for rows in estimates.values())]
        for i, name in enumerate(names)
    ]
    print_table(f"returns, gamma {gamma:g}", ["policy", "true", *estimates], rows)
    if "metrics" not in result:
        return
    metrics = result["metrics"][f"{gamma:g}"]
    rows = [
        [name, *(f"{x['value']:.2f} [{x['low']:.2f}, {x['high']:.2f}]" for x in metrics[name].values())]
        for name in metrics
    ]
    columns = ["estimator", *next(iter(metrics.values()))]
    print_table("against the true returns, 95 % intervals over policies", columns, rows)


def _estimates(work: _Work, models: Sequence[Prepared], store: Path, progress: Progress) -> dict[str, Any]:
    """Every estimator's estimates of every policy, for each discount."""
    config = work.config
    estimates: dict[str, Any] = {f"{gamma:g}": {} for gamma in config.gammas}
    measured: dict[str, Any] = {}
    num_estimates = len(work.policies) * len(models[0].config.seeds)
    for model in models:
        name = model.config.dynamics
        fitted = fit_models(model, store, progress)
        progress.note(f"{name}: held-out NLL {np.mean(fitted.holdout_nll):.2f}")
        progress.begin(f"roll out {name}", num_estimates)
        episodes = _roll_out(work, fitted, store / _RESULTS, progress)
        progress.end()
        for index, gamma in enumerate(config.gammas):
            returns = episodes.returns[..., index].swapaxes(0, 1)  # [P, S, E]
            estimates[f"{gamma:g}"][name] = [_estimate(values) for values in returns]
        finite = (episodes.finite & np.isfinite(episodes.returns).all(axis=-1)).mean(axis=(0, 2))
        by_policy = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(x.shape[1], -1, *x.shape[3:]), episodes)
        measured[name] = {
            "holdout_nll": fitted.holdout_nll,
            "finite_share_per_policy": finite.tolist(),
            "in_range_share": float(episodes.in_range.mean()),
            "in_range_share_per_policy": episodes.in_range.mean(axis=(0, 2)).tolist(),
            "out_of_range_fraction": float(episodes.out_of_range.sum() / max(episodes.lengths.sum(), 1)),
            **_course(by_policy.lengths, by_policy.after, work.horizon),
        }
        for policy, share in zip(work.policies, finite, strict=True):
            if share < 1.0:
                progress.note(
                    f"warning: {name}: {1 - share:.1%} of the episodes of {policy.name} are not finite; "
                    "they count up to there"
                )
    result: dict[str, Any] = {"estimates": estimates, "models": measured}
    for gamma in config.gammas if config.fqe_steps else ():
        settings = FQESettings(gamma, config.fqe_steps)
        if gamma == 1.0:
            progress.note("fitted Q evaluation has no value without a discount: left out of gamma 1")
            continue
        if settings.time_constants < 3:
            progress.note(
                f"warning: fitted Q evaluation, gamma {gamma:g}: {config.fqe_steps} steps are "
                f"{settings.time_constants:.1f} of its time constants; five learn 99 % of a value"
            )
        progress.note(f"fitted Q evaluation, gamma {gamma:g}: {config.fqe_steps} steps for each policy")
        progress.begin(FQE, num_estimates)
        values = _fitted_q(work, settings, models[0], store / _RESULTS, progress)
        progress.end()
        estimates[f"{gamma:g}"][FQE] = [_estimate(value[:, None]) for value in values.value.T]
        for policy, value in zip(work.policies, values.value.T, strict=True):
            if not np.isfinite(value).all():
                progress.note(f"warning: {FQE}: the value of {policy.name} is not finite; it has no estimate")
        result.setdefault(FQE, {})[f"{gamma:g}"] = {"loss_per_policy": values.loss.mean(axis=0).tolist()}
    return result


def _roll_out(work: _Work, fitted: FittedModels, folder: Path, progress: Progress) -> model_episodes.Episodes:
    """Episodes of every seed's model and policy, leaves [S, P, E, ...]."""
    config, components, data = work.config, fitted.components, work.data
    starts = jnp.asarray(model_episodes.draw_starts(work.starts, config.num_episodes, seed=0))
    low, high = model_episodes.widened_range(np.concatenate([data.obs, data.next_obs]))
    bounds = jnp.asarray(low), jnp.asarray(high)
    if config.predictions == "means":
        components = components._replace(dynamics=model_episodes.predict_means(components.model))

    how: dict[str, Any] = {"gammas": config.gammas, "bounds": bounds, "horizon": work.horizon}
    how["chunk"] = min(config.episode_chunk, config.num_episodes)

    def one(
        act: ActionFn, params: Params, key: Key, model: ModelParams, dataset: Dataset
    ) -> model_episodes.Episodes:
        simulation = make_simulation(components, model, functools.partial(act, params), dataset)
        return model_episodes.roll_out_episodes(simulation, dataset, starts, key, **how)

    seeds = fitted.config.seeds
    models = [jax.tree.map(lambda x, i=i: x[i], fitted.params) for i in range(len(seeds))]
    fit = fitted.config
    termination = fit.rollout.termination or work.task.termination
    references = {"dynamics": fit.dynamics, "termination": termination, "reward": fit.rollout.reward}
    sizes = config.gammas, work.horizon, config.num_episodes, config.episode_chunk
    depends_on = (
        (references, fit.matmul_precision, to_flat(fit.model)),
        [source_digest(reference, field) for field, reference in references.items()],
        (*sizes, config.deterministic, config.predictions, components.clips),
        (work.data.digests(), np.asarray(starts), low, high, work.task.env_id),
    )
    kept = [
        KeptResults(folder, model_episodes.Episodes, depends_on, seed, model)
        for seed, model in zip(seeds, models, strict=True)
    ]
    arguments = [(model, fitted.dataset) for model in models]
    return _every_policy(work, one, fitted.config, arguments, kept, progress)


def _fitted_q(
    work: _Work, settings: FQESettings, model: Prepared, folder: Path, progress: Progress
) -> FQEResult:
    """FQE's estimates and losses, [S, P] each."""
    starts, seeds = jnp.asarray(work.starts, jnp.int32), model.config.seeds

    def one(act: ActionFn, params: Params, key: Key, dataset: Dataset) -> FQEResult:
        return fitted_q(functools.partial(act, params), dataset, starts, key, settings)

    depends_on = (
        (settings._asdict(), model.config.matmul_precision, work.config.deterministic),
        (work.data.digests(), work.starts, work.task.env_id),
    )
    kept = [KeptResults(folder, FQEResult, depends_on, seed) for seed in seeds]
    arguments = [(model.data.dataset,)] * len(seeds)
    return _every_policy(work, one, model.config, arguments, kept, progress)


def _every_policy(
    work: _Work,
    fn: Callable[..., R],
    fit: OfflineConfig,
    arguments: Sequence[tuple[Any, ...]],
    kept: Sequence[KeptResults[R]],
    progress: Progress,
) -> R:
    """``fn(act, params, key, *arguments[s])`` of every seed s and policy, leaves [S, P, ...].

    What ``kept[s]`` has is taken from there. Policies that are not mapped side by side run one after the
    other, so that each is kept, and seen, as soon as it is done.
    """
    mapping = resolve_mapping(fit.members)
    programs = [
        jax.jit(MemberProgram(functools.partial(fn, act), mapping, shared=("model", "dataset")))
        for _, _, act in work.groups
    ]
    per_seed = []
    for seed, shared, results in zip(fit.seeds, arguments, kept, strict=True):
        rows = [results.get(policy) for policy in work.policies]
        taken = sum(row is not None for row in rows)
        if results.outdated:
            progress.note(
                f"warning: seed {seed}: {results.outdated} results in {results.folder} are of another "
                "version of adm_jax's code and are not used"
            )
        if taken:
            progress.note(f"seed {seed}: {taken} of {len(rows)} policies were done before")
            progress.advance(taken)
        for (group, params, _), program in zip(work.groups, programs, strict=True):
            places = np.flatnonzero([rows[policy] is None for policy in group])
            size = max(len(places), 1) if mapping == "vmap" else 1
            for begin in range(0, len(places), size):
                part = places[begin : begin + size]
                done = [group[place] for place in part]
                own = jax.tree.map(lambda x, part=part: x[part], params)
                result = jax.device_get(program(own, _keys(seed, work, done), *shared))
                for i, policy in enumerate(done):
                    rows[policy] = jax.tree.map(lambda x, i=i: x[i], result)
                    results.put(work.policies[policy], rows[policy])
                progress.advance(len(done))
        per_seed.append(jax.tree.map(lambda *x: np.stack(x), *rows))
    return jax.tree.map(lambda *x: np.stack(x), *per_seed)


def _keys(seed: int, work: _Work, group: Sequence[int]) -> Key:
    """Each policy's key [P'], a function of its name alone, whatever other policies are evaluated."""
    root = jax.random.fold_in(jax.random.key(2), seed)
    names = [zlib.crc32(work.policies[index].name.encode()) for index in group]
    return jax.vmap(lambda name: jax.random.fold_in(root, name))(jnp.asarray(names, jnp.uint32))


def _estimate(values: np.ndarray) -> dict[str, float | None]:
    """A policy's estimate of values [S, E]: Student's interval over seeds, of one seed over its episodes.

    It is None where a return exceeds all numbers.
    """
    varied = values.astype(np.float64).mean(axis=1) if len(values) > 1 else values[0].astype(np.float64)
    if not np.isfinite(varied).all():
        return {"mean": None, "low": None, "high": None}
    if varied.size < 2:
        return {"mean": float(varied.mean()), "low": None, "high": None}
    return mean_interval(varied.tolist())._asdict()


def _metrics(config: OPEConfig, estimates: Mapping[str, Any], truth: np.ndarray) -> dict[str, Any]:
    """For each discount every estimator's metrics and the differences of each two."""
    metrics = {}
    for index, gamma in enumerate(config.gammas):
        values = {
            name: [np.nan if row["mean"] is None else row["mean"] for row in rows]
            for name, rows in estimates[f"{gamma:g}"].items()
        }
        metrics[f"{gamma:g}"] = compare(values, truth[:, index].tolist(), regret_at=config.regret_at)
    return metrics
