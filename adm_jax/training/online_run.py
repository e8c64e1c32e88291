"""A run of the online loop in a folder of its own: metrics, evaluations, checkpoints, resume, a result.

Lines are told by environment steps, warm-up included: a line's ``epoch`` is its ``steps``. Evaluations go on
beside the loop, one at a time. A checkpoint holds everything that was recorded; a resume replays the episodes
under way in the environments (adm_jax.envs.experience) and equals a run that was never stopped.
"""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from adm_jax.config import MODEL_FREE, OnlineConfig, online_from_flat, settings_source, stored_settings
from adm_jax.config.models import get_model
from adm_jax.config.settings import to_flat
from adm_jax.envs.evaluator import Evaluator
from adm_jax.population.compiling import compile_program
from adm_jax.population.devices import choose_devices, devices_left, idle_devices
from adm_jax.population.members import all_members, with_chunk
from adm_jax.runs import results
from adm_jax.runs.background import Background
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.clock import WallClock
from adm_jax.runs.evaluating import Evaluations, policy_sharding
from adm_jax.runs.folder import RunFolder, require_writable
from adm_jax.runs.progress import Progress, print_result
from adm_jax.tasks import Task, get_task
from adm_jax.training.online import OnlineLoop
from adm_jax.training.online_programs import may_lack
from adm_jax.training.programs import mode_program

_PHASE = "train"
_REPORT_EVERY = 50  # environment steps between two reports of progress


@dataclass
class _Session:
    """What a run has at hand."""

    config: OnlineConfig
    task: Task
    loop: OnlineLoop
    folder: RunFolder
    checkpointer: Checkpointer
    clock: WallClock
    progress: Progress
    evaluations: Evaluations


def run(config: OnlineConfig) -> dict[str, Any]:
    """Learns and evaluates; returns what ``result.json`` holds.

    Raises:
      InputError: the configuration, the task, the folder or the memory does not serve; nothing has been
        computed then. Later: an environment gave a number that is not finite.
    """
    require_writable("workdir", config.workdir)
    config = with_chunk(config)
    members = all_members(config)
    choose_devices(len(members), config.num_devices)
    task = get_task(config.task)
    folder = RunFolder.create(
        config.workdir,
        algorithm(config),
        task.name,
        to_flat(config),
        members,
        {"env_id": task.env_id, "settings_source": settings_source(config, task)},
    )
    try:
        session = _open(config, task, folder)
    except BaseException:  # an interruption too: nothing has been computed, so nothing shall stay
        folder.discard()
        raise
    return _drive(session)


def resume(path: str) -> dict[str, Any]:
    """Continues the run in a folder from its newest checkpoint.

    Raises:
      InputError: the folder holds no run, its checkpoints are damaged, or the environments are others now.
    """
    folder = RunFolder.open(path, ["dynamics"])
    stored = folder.config["config"]
    folder.require(stored_settings(online_from_flat({"dynamics": stored["dynamics"]})))
    config = online_from_flat(stored)
    config = dataclasses.replace(config, num_devices=devices_left(config.num_devices))
    finished, latest = folder.read_result(), Checkpointer(folder.checkpoints).latest()
    if finished is not None and latest == (_PHASE, config.num_steps):
        print(f"{folder.path}: this run is finished")
        print_result(finished)
        return finished
    session = _open(config, get_task(config.task), folder)
    if latest is None:
        session.progress.note("there is no checkpoint yet: the run begins anew")
        folder.truncate()
        return _drive(session)
    loop = session.loop
    restored = session.checkpointer.restore_latest({_PHASE: loop.abstract_saved})
    session.clock.add(restored.extra["clock"])
    loop.restore(restored.state, restored.epoch)
    folder.truncate(_PHASE, restored.epoch)
    return _drive(session)


def algorithm(config: OnlineConfig) -> str:
    """What the loop is called with its dynamics model."""
    return "sac" if config.dynamics == MODEL_FREE else get_model(config.dynamics).online_algorithm


def _open(config: OnlineConfig, task: Task, folder: RunFolder) -> _Session:
    clock, progress = WallClock(), Progress()
    progress.note(f"settings: {settings_source(config, task)}")
    progress.note(f"run folder: {folder.path}\ncompiling ...")
    loop = OnlineLoop(config, task, folder.members, clock)
    progress.note(loop.memory.line())
    if config.num_devices is None and (idle := idle_devices(loop.mesh)):
        progress.note(idle)
    checkpointer = Checkpointer(folder.checkpoints)
    checkpointer.require_room(loop.abstract_saved(config.num_steps))
    seeds = [member.seed for member in folder.members]
    on_host = partial(jax.ShapeDtypeStruct, sharding=policy_sharding())
    shapes = (loop.actor_params, np.zeros((len(seeds), config.eval_episodes, task.obs_dim), np.float32))
    with clock.phase("compile"):
        act = compile_program(
            mode_program(loop.parts.agent), jax.tree.map(lambda x: on_host(x.shape, x.dtype), shapes)
        )
    evaluations = Evaluations(
        members=folder.members,
        task=task,
        evaluator=Evaluator(task.env, seeds, config.eval_episodes),
        background=Background(clock),
        folder=folder,
        progress=progress,
        act=act,
        draw=partial(folder.draw_curves, warmup_steps=config.warmup_steps),
    )
    return _Session(config, task, loop, folder, checkpointer, clock, progress, evaluations)


def _drive(session: _Session) -> dict[str, Any]:
    """From wherever the run is to its end."""
    config, loop, evaluations = session.config, session.loop, session.evaluations
    with session.progress, evaluations.background:
        session.progress.begin("learn", config.num_steps, loop.num_steps)
        if _lacks_evaluation(session):
            _evaluate(session)
        while loop.num_steps < config.num_steps:
            evaluations.background.poll()
            loop.iterate()
            steps, is_end = loop.num_steps, loop.num_steps == config.num_steps
            if steps % config.log_every == 0 or is_end:
                _record(session)
            if steps % _REPORT_EVERY == 0 or is_end:
                count = steps - session.progress.done
                info = {
                    "return": float(
                        np.mean([returns[-1:] or [np.nan] for returns in loop.experience.returns])
                    )
                }
                session.progress.advance(count, info=info, environment_steps=count * len(loop.members))
            if _is_evaluated(config, steps):
                _evaluate(session)
            if steps % config.checkpoint_every == 0 or is_end:
                _save(session)
        session.progress.end()
    evaluations.evaluator.close()
    loop.close()
    return _finish(session)


def _position(loop: OnlineLoop) -> dict[str, int]:
    return {"steps": loop.num_steps, "updates": loop.num_updates}


def _record(session: _Session) -> None:
    loop = session.loop
    metrics = loop.metrics()
    line = {"phase": _PHASE, "epoch": loop.num_steps, **_position(loop), **metrics}
    session.folder.log_metrics({**line, "time": session.clock.to_dict()})
    # NaN means nothing where no episode has ended yet, or the actor waited
    learned = {
        name: values
        for name, values in metrics.items()
        if not (name.startswith("collect/") or may_lack(session.config, name))
    }
    tags = [member.tag for member in loop.members]
    session.progress.warn_not_finite(f"step {loop.num_steps}", tags, learned)


def _is_evaluated(config: OnlineConfig, steps: int) -> bool:
    return steps >= config.warmup_steps and (steps % config.eval_every == 0 or steps == config.num_steps)


def _lacks_evaluation(session: _Session) -> bool:
    """Whether the run was stopped between a checkpoint and the end of that step's evaluation."""
    steps = session.loop.num_steps
    done = any(row["epoch"] == steps for row in session.folder.read_eval())
    return steps > 0 and _is_evaluated(session.config, steps) and not done


def _evaluate(session: _Session) -> None:
    loop = session.loop
    session.evaluations.begin(_PHASE, loop.num_steps, _position(loop), loop.actor_params)


def _save(session: _Session) -> None:
    steps = session.loop.num_steps
    session.evaluations.wait_for_earlier(_PHASE, steps)
    extra = {"clock": session.clock.to_dict()}
    session.checkpointer.save(_PHASE, steps, session.loop.save(), extra=extra)


def _finish(session: _Session) -> dict[str, Any]:
    """Puts the result together from the run's own files, writes and shows it."""
    config, folder = session.config, session.folder
    trained = folder.read_eval()
    members = results.member_results(folder.members, session.task, trained)
    result = {
        "algorithm": folder.config["algorithm"],
        "task": session.task.name,
        "evaluation": session.evaluations.evaluator.describe(),
        "steps": config.num_steps,
        "warmup_steps": config.warmup_steps,
        "updates": session.loop.num_updates,
        "members": members,
        "settings": results.setting_results(folder.members, members),
        "wall_clock": session.clock.to_dict(),
    }
    session.evaluations.draw()
    folder.write_result(result)
    print_result(result)
    return result
