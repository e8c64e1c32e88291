"""ADMPO-OFF (ADM paper, Algorithm 3): fit, then epochs of roll-outs and policy updates, evaluated for real.

``run`` takes a configuration to a result; ``resume`` takes a run's folder on from its newest
checkpoint, bit-identically on the same machine: every random number is a function of a member's
seed, the phase and the epoch.

Evaluations go on beside the loop, one at a time. A checkpoint is only saved when those of earlier epochs are
written down; that of its own epoch may be under way, and is begun again by a resume.
"""

import dataclasses
import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.agents.implicit_q import Preferences
from adm_jax.config import OfflineConfig, offline_from_flat, settings_source, stored_settings
from adm_jax.config.models import get_model
from adm_jax.config.settings import to_flat
from adm_jax.data.episodes import EpisodeData
from adm_jax.dynamics import fitting
from adm_jax.dynamics.interface import ModelParams
from adm_jax.population.devices import choose_devices, devices_left
from adm_jax.population.members import Member, all_members, member_hyper, shared_key, with_chunk
from adm_jax.runs import results
from adm_jax.runs.batches import batch_sizes, first_that_fits, run_batches
from adm_jax.runs.checkpoint import Checkpointer, Restored
from adm_jax.runs.evaluating import Evaluations
from adm_jax.runs.folder import RunFolder, require_writable
from adm_jax.runs.progress import print_result
from adm_jax.tasks import Task
from adm_jax.training import programs
from adm_jax.training.session import (
    Session,
    Stream,
    abstract_fit,
    abstract_train,
    load_data,
    open_session,
)
from adm_jax.types import InputError, Params

_DATA_DIGESTS = "dataset_sha256"  # in config.json: a resumed run must see the same data


def run(config: OfflineConfig) -> dict[str, Any]:
    """Trains and evaluates every member; returns what ``result.json`` holds.

    Raises:
      InputError: the configuration, the dataset, the folder or the memory does not serve; nothing
        has been computed then. Later: the environment gave a number that is not finite.
    """
    require_writable("workdir", config.workdir)
    config = with_chunk(config)
    members = all_members(config)
    batch_sizes(len(members), config.members_per_batch, config.num_devices)
    choose_devices(config.members_per_batch or len(members), config.num_devices)
    task, data = load_data(config)
    folder = RunFolder.create(
        config.workdir,
        get_model(config.dynamics).algorithm + ("_fh" if config.rollout.persistent else ""),
        task.name,
        to_flat(config),
        members,
        {
            "env_id": task.env_id,
            "settings_source": settings_source(config, task),
            _DATA_DIGESTS: data.digests(),
        },
    )
    try:
        session = _open(config, task, data, folder)
    except BaseException:  # an interruption too: nothing has been computed, so nothing shall stay
        folder.discard()
        raise
    return _start(session, folder)


def resume(path: str) -> dict[str, Any]:
    """Continues the run in a folder from its newest checkpoint.

    Raises:
      InputError: the folder holds no run, or its checkpoints are damaged.
    """
    folder = RunFolder.open(path, ["dynamics"])
    stored = folder.config["config"]
    folder.require(stored_settings(offline_from_flat({"dynamics": stored["dynamics"]})))
    config = offline_from_flat(stored)
    config = dataclasses.replace(config, num_devices=devices_left(config.num_devices))
    task, data = load_data(config)
    if data.digests() != folder.config.get(_DATA_DIGESTS):
        raise InputError(f"{data.source}: not the data that the run in {folder.path} began with")
    if folder.batch_size is not None:
        return _run_batches(config, task, data, folder, folder.batch_size)
    if Checkpointer(folder.checkpoints).latest() is None:
        print("there is no checkpoint yet: the run begins anew")
        folder.truncate()
        return _start(_open(config, task, data, folder), folder)
    return _resume(config, task, data, folder)


def _open(config: OfflineConfig, task: Task, data: EpisodeData, folder: RunFolder) -> Session:
    """A session of all members, or of the first of them that are to be trained, or fit, at a time."""
    members = folder.members
    sizes = batch_sizes(len(members), config.members_per_batch, config.num_devices)
    return first_that_fits(sizes, lambda size: open_session(config, members[:size], task, data, folder))


def _start(session: Session, folder: RunFolder) -> dict[str, Any]:
    """A run from its beginning, in batches if the session is not of all members."""
    if session.members == folder.members:
        return _drive(session, None)
    session.evaluator.close()
    return _run_batches(session.config, session.task, session.data, folder, len(session.members))


def _run_batches(
    config: OfflineConfig, task: Task, data: EpisodeData, folder: RunFolder, size: int
) -> dict[str, Any]:
    """Trains ``size`` members at a time, from wherever they were stopped."""

    def run_batch(part: RunFolder, members: tuple[Member, ...]) -> dict[str, Any]:
        print(f"batch {part.path.name}: {', '.join(member.tag for member in members)}")
        return _resume(config, task, data, part)

    return run_batches(folder, size, run_batch)


def _resume(config: OfflineConfig, task: Task, data: EpisodeData, folder: RunFolder) -> dict[str, Any]:
    """A run, or a batch of one, from wherever it was stopped."""
    finished = folder.read_result()
    latest = Checkpointer(folder.checkpoints).latest()
    if finished is not None and latest == ("train", config.num_epochs):
        print(f"{folder.path}: this run is finished")
        print_result(finished)
        return finished
    session = open_session(config, folder.members, task, data, folder)
    restored = None
    if latest is None:
        session.progress.note("there is no checkpoint yet: the run begins anew")
    else:
        restored = session.checkpointer.restore_latest(
            {"fit": lambda _: abstract_fit(session), "train": lambda _: abstract_train(session)}
        )
        session.clock.add(restored.extra["clock"])
    folder.truncate(restored and restored.phase, restored.epoch if restored else 0)
    return _drive(session, restored)


def _drive(session: Session, restored: Restored | None) -> dict[str, Any]:
    """From wherever the run is to its end."""
    with session.progress, session.background:
        if restored is None or restored.phase == "fit":
            fit = _fit(session, restored)
            model = session.compiled["best"](fit, session.dataset, session.holdout)
            _measure(session, model)
            state, epoch = _begin_training(session, model), 0
        else:
            state, epoch = restored.state, restored.epoch
        _train(session, state, epoch)
    session.evaluator.close()
    return _finish(session)


def _fit(session: Session, restored: Restored | None) -> fitting.FitState:
    """Fits every member's model until all have stopped."""
    config = session.config
    if restored is None:
        state = session.compiled["init_fit"](session.keys(Stream.INIT_FIT), session.dataset)
    else:
        state = restored.state
    epoch = int(state.epoch.max())
    session.progress.begin("fit", config.fit.fit_max_epochs, epoch)
    while bool(state.active.any()):
        fitting_members = np.asarray(state.active)
        with session.clock.phase("fit"):
            state, metrics = session.compiled["fit"](
                state,
                session.keys(Stream.FIT, epoch),
                session.keys(Stream.BOOTSTRAP),
                session.dataset,
                session.holdout,
                shared_key(config.fit.split_seed, epoch),
            )
            metrics = jax.device_get(metrics)
        epoch += 1
        metrics["model/active"] = np.asarray(state.active)
        _record(session, "fit", epoch, metrics, fitting_members)
        if epoch % config.checkpoint_every == 0 or not bool(state.active.any()):
            _save(session, "fit", epoch, state)
    session.progress.end()
    return state


def _measure(session: Session, model: ModelParams) -> None:
    """What the fitted models' errors grow to when they are fed their own predictions."""
    with session.clock.phase("fit"):
        keys = session.keys(Stream.ERRORS)
        metrics = session.compiled["errors"](model, keys, session.holdout, session.long_holdout)
        metrics = jax.device_get(metrics)
    _record(session, "model", 0, metrics)


def _begin_training(session: Session, model: ModelParams) -> programs.TrainState:
    """What policy optimisation starts from, with fitted models [S]."""
    config, hyper = session.config, member_hyper(session.config, session.members)
    preferences, cloned, max_uncertainty = _pretrain(session), None, None
    if config.bc_steps:
        cloned = _clone(session, preferences)
    start = cloned if config.start == "cloned" else None
    agent, buffer = session.compiled["init_train"](
        session.keys(Stream.INIT_AGENT), hyper, start, session.dataset
    )
    model, envs = session.of_members(model), None
    if config.rollout.persistent:
        envs = session.compiled["init_envs"](model, session.dataset)
    if "max_uncertainty" in session.compiled:
        keys = session.keys(Stream.UNCERTAINTY)
        max_uncertainty = session.compiled["max_uncertainty"](
            agent.actor_params, model, hyper, keys, session.dataset
        )
    preferences = session.of_members(preferences)
    return programs.TrainState(agent, buffer, model, envs, preferences, max_uncertainty)


def _pretrain(session: Session) -> Preferences | None:
    """The values of recorded actions, and the preferences [S] that follow from them where they are used."""
    if "pretrain" not in session.compiled:
        return None
    with session.clock.phase("update"):
        preferences, metrics = session.compiled["pretrain"](session.keys(Stream.PRETRAIN), session.dataset)
        metrics = jax.device_get(metrics)
    _record(session, "pretrain", 0, metrics)
    return preferences if session.config.sac.cloning_rows == "advantage" else None


def _clone(session: Session, preferences: Preferences | None) -> Params:
    """Behaviour cloning on the same data and seeds, evaluated once; the actors [P]."""
    with session.clock.phase("update"):
        actor_params, metrics = session.compiled["clone"](
            session.keys(Stream.CLONE), preferences, session.dataset
        )
        metrics = jax.device_get(metrics)
    _record(session, "bc", 0, metrics)
    actor_params = session.of_members(actor_params)
    _evaluate(session, "bc", 0, actor_params)
    return actor_params


def _train(session: Session, state: programs.TrainState, epoch: int) -> None:
    """Epochs of roll-outs and updates, with checkpoints between and evaluations beside them."""
    config, hyper = session.config, member_hyper(session.config, session.members)
    agent, buffer, model, envs, preferences, max_uncertainty = state
    session.progress.begin("train", config.num_epochs, epoch)
    if _lacks_evaluation(session, epoch):
        _evaluate(session, "train", epoch, agent.actor_params)
    histories = None
    if "histories" in session.compiled and epoch < config.num_epochs:
        with session.clock.phase("rollout"):
            histories = jax.block_until_ready(session.compiled["histories"](model, session.dataset))
    while epoch < config.num_epochs:
        session.background.poll()
        with session.clock.phase("rollout"):
            keys = session.keys(Stream.ROLLOUT, epoch)
            (buffer, envs), rollout_metrics = session.compiled["rollout"](
                (buffer, envs),
                agent.actor_params,
                model,
                max_uncertainty,
                histories,
                hyper,
                keys,
                session.dataset,
            )
            rollout_metrics = jax.device_get(rollout_metrics)
        with session.clock.phase("update"):
            factors = tuple(jnp.asarray(x, jnp.float32) for x in lr_factors(config, epoch))
            keys = session.keys(Stream.UPDATE, epoch)
            agent, update_metrics = session.compiled["update"](
                agent, buffer, preferences, hyper, keys, session.dataset, factors
            )
            update_metrics = jax.device_get(update_metrics)
        epoch += 1
        size = np.asarray(buffer.size)
        metrics = {**rollout_metrics, **update_metrics, "rollout/buffer_size": size}
        if epoch == 1 and not size.all():
            empty = [member.tag for member, rows in zip(session.members, size, strict=True) if not rows]
            session.progress.note(
                f"warning: the model buffers of {', '.join(empty)} are empty: no prediction was finite"
            )
        _record(session, "train", epoch, metrics)
        if _is_evaluated(config, epoch):
            _evaluate(session, "train", epoch, agent.actor_params)
        if epoch % config.checkpoint_every == 0 or epoch == config.num_epochs:
            state = programs.TrainState(agent, buffer, model, envs, preferences, max_uncertainty)
            _save(session, "train", epoch, state)
    session.progress.end()


def lr_factors(config: OfflineConfig, epoch: int) -> tuple[float, float]:
    """What the rates of actor and critics are multiplied with in an epoch.

    Cosine annealing over the run, stepped once an epoch; the actor is held in the first ``hold_epochs``.
    """
    cosine = 0.5 * (1.0 + math.cos(math.pi * epoch / config.num_epochs))
    actor, critic = (
        1.0 if schedule == "none" else cosine
        for schedule in (config.actor_lr_schedule, config.critic_lr_schedule)
    )
    return 0.0 if epoch < config.hold_epochs else actor, critic


def _updates(session: Session, phase: str, epoch: int) -> int:
    """Optimiser steps of a member in a phase up to the end of an epoch."""
    config = session.config
    return {
        "fit": epoch * config.fit.fit_steps_per_epoch,
        "model": 0,
        "pretrain": config.pretrain.pretrain_steps,
        "bc": config.bc_steps,
        "train": epoch * config.updates_per_epoch,
    }[phase]


def _record(
    session: Session, phase: str, epoch: int, metrics: dict[str, Any], running: np.ndarray | None = None
) -> None:
    """A line of metrics.jsonl, and a word on a member's first number that is not finite.

    Arrays are over the members [P], or over their seeds [S] before there are policies; ``running`` says whose
    numbers count: a member that has stopped fitting reports NaN.
    """
    line = {"phase": phase, "epoch": epoch, "updates": _updates(session, phase, epoch), **metrics}
    session.folder.log_metrics({**line, "time": session.clock.to_dict()})
    _show(session, phase, metrics)
    tags = [f"seed{seed}" for seed in session.seeds]
    if phase == "train":
        tags = [member.tag for member in session.members]
    session.progress.warn_not_finite(f"{phase} epoch {epoch}", tags, metrics, running)


def _show(session: Session, phase: str, metrics: dict[str, Any]) -> None:
    config, num_members = session.config, len(session.members)
    if phase == "fit":
        steps = int(metrics["model/active"].sum()) * config.fit.fit_steps_per_epoch
        info = {
            f"held-out {config.fit.selection_metric.upper()}": float(np.nanmean(metrics["model/best_error"]))
        }
        session.progress.advance(fit_steps=steps, info=info)
    elif phase == "train":
        kept = metrics["rollout/valid_fraction"].sum() * config.rollout.rollout_batch_size
        session.progress.advance(
            updates=num_members * config.updates_per_epoch,
            imagined_transitions=float(kept * config.rollout.rollout_length),
            info={
                name.split("/")[1]: float(metrics[name].mean())
                for name in ("critic/q", "rollout/uncertainty")
            },
        )


def _draw(session: Session) -> None:
    references = {"dataset mean": session.data.return_statistics()["episode_return_mean"]}
    for line in session.folder.read_eval():
        if line["phase"] == "bc":
            references["behaviour cloning"] = float(np.mean(np.asarray(line["eval/return"], np.float64)))
    session.folder.draw_curves(references)


def _is_evaluated(config: OfflineConfig, epoch: int) -> bool:
    return epoch > 0 and (epoch % config.eval_every == 0 or epoch == config.num_epochs)


def _lacks_evaluation(session: Session, epoch: int) -> bool:
    """Whether the run was stopped between an epoch's checkpoint and the end of that epoch's evaluation."""
    done = any((row["phase"], row["epoch"]) == ("train", epoch) for row in session.folder.read_eval())
    return _is_evaluated(session.config, epoch) and not done


def _evaluate(session: Session, phase: str, epoch: int, actor_params: Params) -> None:
    """Begins the evaluation of every member's deterministic policy, beside what the loop goes on with."""
    _evaluations(session).begin(phase, epoch, {"updates": _updates(session, phase, epoch)}, actor_params)


def _evaluations(session: Session) -> Evaluations:
    return Evaluations(
        members=session.members,
        task=session.task,
        evaluator=session.evaluator,
        background=session.background,
        folder=session.folder,
        progress=session.progress,
        act=session.compiled["act"],
        draw=partial(_draw, session),
    )


def _save(session: Session, phase: str, epoch: int, state: Any) -> None:
    # An earlier epoch's policies are not in this checkpoint, so their evaluation could not be done again.
    _evaluations(session).wait_for_earlier(phase, epoch)
    session.checkpointer.save(phase, epoch, state, extra={"clock": session.clock.to_dict()})


def _finish(session: Session) -> dict[str, Any]:
    """Puts the result together from the run's own files, writes and shows it."""
    result = {
        "algorithm": session.folder.config["algorithm"],
        "task": session.task.name,
        "dataset_id": session.config.dataset or session.task.dataset,
        "evaluation": session.evaluator.describe(),
        **results.summarize(
            session.config,
            session.members,
            session.task,
            session.data,
            session.parts.dynamics.max_backtrack,
            session.folder.read_metrics(),
            session.folder.read_eval(),
        ),
        "wall_clock": session.clock.to_dict(),
    }
    _draw(session)
    session.folder.write_result(result)
    print_result(result)
    return result
