"""A run's life, whatever it learns: its folder, what is recorded, evaluated and kept, and how it goes on.

``run`` makes a folder and ``resume`` opens one; a ``Run`` then takes its loop from step to step. Every random
number is a function of a member's seed, its purpose and the epoch, so that a run that is resumed from its
newest checkpoint equals one that was never stopped, bit by bit on the same machine.

Evaluations run in the background, one at a time, and so are checkpoints written. One is only taken when the
evaluations of earlier steps are written down; that of its own step may be under way, and is begun again by a
resume.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from adm_jax.config import settings_source, stored_settings
from adm_jax.config.settings import to_flat
from adm_jax.envs.evaluator import Evaluator
from adm_jax.files import naming, plain_json, require_writable
from adm_jax.nn.precision import matmul_precision
from adm_jax.population.devices import cores_to_spare, devices_left, require_jax
from adm_jax.population.members import Member, all_members, settled
from adm_jax.runs import extension, signals
from adm_jax.runs.background import Background
from adm_jax.runs.batches import batch_sizes, first_that_fits, run_batches
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.clock import WallClock
from adm_jax.runs.evaluating import Evaluations, compile_policies
from adm_jax.runs.folder import NOT_BEGUN, RunFolder, Standing
from adm_jax.runs.hosts import Hosts
from adm_jax.runs.progress import Progress, print_result
from adm_jax.runs.saving import Saving
from adm_jax.tasks import EnvlessTask
from adm_jax.training import shares
from adm_jax.training.loop import Config, Desk, Plan, Step
from adm_jax.types import InputError

Standings = Mapping[Path, Standing]  # of a run's folder, or of those of its batches


class Run:
    """The members of a folder, or the first so many of them, on their way."""

    def __init__(self, plan: Plan, folder: RunFolder, members: tuple[Member, ...]):
        """Makes the environments, allocates and compiles; all is closed again if that fails."""
        self.plan, self.folder, self.members = plan, folder, members
        self.clock, self.progress = WallClock(), Progress()
        self.background = Background(self.clock)
        self.checkpointer = Checkpointer(folder.checkpoints)
        self.checkpointer.recover()
        config, note = plan.config, self.progress.note
        self.saving = Saving(self.checkpointer, config.checkpoint_share)
        with contextlib.ExitStack() as stack:
            seeds, evaluator = [member.seed for member in members], None
            if plan.task.has_env:
                spare = cores_to_spare()
                evaluator = Evaluator(plan.task.env, seeds, config.eval_episodes, spare_cores=spare)
                stack.callback(evaluator.close)
            for line in plan.notes:
                note(line)
            note(f"settings: {settings_source(config, plan.task)}")
            note(f"run folder: {folder.path}\ncompiling ...")
            self.loop = plan.open(members, Desk(self.clock, note, self.checkpointer.require_room))
            stack.callback(self.loop.close)
            act = None
            if evaluator is not None:
                with self.clock.phase("compile"), matmul_precision(config.matmul_precision):
                    act = compile_policies(
                        self.loop.components.agent.mode_action,
                        self.loop.abstract_policies,
                        (len(members), config.eval_episodes, plan.task.obs_dim),
                    )
            self._resources = stack.pop_all()
        self.evaluations = Evaluations(
            members=members,
            task=plan.task,
            evaluator=evaluator,
            background=self.background,
            folder=folder,
            progress=self.progress,
            act=act,
            draw=partial(folder.draw_curves, plan.references, plan.warmup_steps),
        )

    def close(self) -> None:
        """Frees the environments."""
        self._resources.close()

    def drive(self, *, go_on: bool = False) -> dict[str, Any]:
        """To the end from the beginning, or from the newest checkpoint; returns result.json's content."""
        with naming(self.folder.path), self._resources, self.progress, self.background, self.saving:
            if go_on:
                self._restore()
            shown = None
            while (stage := self.loop.stage()) is not None:
                if stage.name != shown:
                    self.progress.end()
                    self.progress.begin(stage.name, stage.total, stage.done)
                    shown = stage.name
                self.background.poll()
                self.saving.poll()
                if not stage.saves:  # a signal leaves such a step at once
                    with signals.held():
                        self.saving.wait()
                with signals.held(stage.saves) as stopped:
                    self._done(self.loop.advance(), stopped)
            self.progress.end()
        with naming(self.folder.path):
            return self._finish()

    def _restore(self) -> None:
        if self.checkpointer.latest() is None:
            self.progress.note("there is no checkpoint yet: the run begins anew")
            self.folder.truncate()
            return
        restored = self.checkpointer.restore_latest(self.loop.abstract_states())
        self.checkpointer.delete_behind(restored.phase, restored.epoch)
        self.clock.add(restored.extra["clock"])
        step = self.loop.restore(restored)
        self.folder.truncate(restored.extra["files"])
        # stopped between a checkpoint and the end of that step's evaluation
        done = any((row["phase"], row["epoch"]) == step[:2] for row in self.folder.read_eval())
        if step.policies is not None and not done:
            self.evaluations.begin(step.phase, step.epoch, step.counts, step.policies, step.unaveraged)

    def _done(self, step: Step, stopped: Callable[[], bool]) -> None:
        """A step is done: the one place where it is recorded, evaluated, and a checkpoint may be taken.

        One is taken also where a signal has ``stopped`` the run, and is whole then.
        """
        if step.metrics is not None:
            self._record(step)
        if step.info is not None:
            count = max(step.epoch - self.progress.done, 0)
            rates = {name: rate * count for name, rate in step.rates.items()}
            self.progress.advance(count, info=step.info, **rates)
        if step.policies is not None:
            self.evaluations.begin(step.phase, step.epoch, step.counts, step.policies, step.unaveraged)
        if stopped() or (step.save and self._may_save()):
            self._save(step)
        if stopped():
            self.saving.wait()

    def _record(self, step: Step) -> None:
        """A line of metrics.jsonl, and a word on a member's first number that is not finite."""
        assert step.metrics is not None
        line = {"phase": step.phase, "epoch": step.epoch, **step.counts, **step.metrics}
        self.folder.log_metrics({**line, "time": self.clock.to_dict()})
        checked = {name: values for name, values in step.metrics.items() if name not in step.unchecked}
        where = f"step {step.epoch}" if "steps" in step.counts else f"{step.phase} epoch {step.epoch}"
        self.progress.warn_not_finite(where, step.tags, checked, step.running)

    def _may_save(self) -> bool:
        """Whether a checkpoint that is due keeps to its share of the time, or is the first or last one."""
        return self.loop.stage() is None or self.saving.keeps_to_share()

    def _save(self, step: Step) -> None:
        # An earlier step's policies are not in this checkpoint, so their evaluation could not be done again.
        self.evaluations.wait_for_earlier(step.phase, step.epoch)
        self.saving.begin(step.phase, step.epoch, self.loop.to_save, self._to_note)

    def _to_note(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the state."""
        return {"clock": self.clock.to_dict(), "loop": self.loop.to_note(), "files": self.folder.marks()}

    def _finish(self) -> dict[str, Any]:
        """Puts the result together from the run's own files, writes and shows it."""
        result = {
            "algorithm": self.folder.config["algorithm"],
            "task": self.plan.task.name,
            "evaluation": self.evaluations.describe(),
            **self.loop.summarize(self.members, self.folder.read_metrics(), self.folder.read_eval()),
            "wall_clock": self.clock.to_dict(),
        }
        if "extensions" in self.folder.config:
            result["extensions"] = self.folder.config["extensions"]
        self.evaluations.draw()
        result = self.folder.write_result(result)
        print_result(result)
        return result


def run(config: Config, make_plan: Callable[[Any], Plan]) -> dict[str, Any]:
    """A run from its beginning to its end; returns what ``result.json`` holds. Raises: see ``run_in``."""
    return _run_in(config, make_plan)[1]


def run_in(config: Config, make_plan: Callable[[Any], Plan]) -> tuple[RunFolder, dict[str, Any]]:
    """A run from its beginning to its end; returns its folder and what ``result.json`` holds.

    Raises:
      InputError: the configuration, the task, its data, the folder or the memory does not serve; nothing has
        been computed then, and nothing is left. Later: an environment gave a number that is not finite, or a
        fit never had a finite error. Of several processes the first alone needs to see the folder until the
        end.
    """
    path, result = _run_in(config, make_plan)
    return RunFolder.open(path, read_only=True), result


def _run_in(config: Config, make_plan: Callable[[Any], Plan]) -> tuple[str, dict[str, Any]]:
    """``run_in``, with the folder's path."""
    require_jax()
    hosts, config = Hosts(), settled(config)
    with hosts.sharing_errors():
        if not hosts.is_first:
            return shares.follow(hosts, partial(_same_plan, config, make_plan))
        require_writable("workdir", config.workdir)
        members = all_members(config)
        at_a_time = getattr(config, "members_per_batch", None)
        batch_sizes(len(members), at_a_time, config.num_devices)
        shares.require_divided(at_a_time or len(members), config.num_devices, hosts)
        plan = make_plan(config)
        shares.announce(plan, hosts)
        plan = shares.spread(plan, hosts)
        folder = RunFolder.create(
            config.workdir,
            plan.algorithm,
            plan.task.name,
            to_flat(config),
            members,
            {
                "env_id": plan.task.env_id or None,
                "settings_source": settings_source(config, plan.task),
                **plan.record,
            },
        )
        with signals.heard(), folder.lock():
            try:
                with signals.advising(_how_to_go_on(plan, folder), if_left=True):
                    opened = _open(plan, folder)
            except BaseException:  # an interruption too: nothing has been computed, so nothing shall stay
                folder.discard()
                raise
            with signals.advising(_how_to_go_on(plan, folder)):
                result = _start(opened)
        return hosts.end((str(folder.path), plain_json(result)))


def _same_plan(config: Config, make_plan: Callable[[Any], Plan], told: dict[str, Any], _: str | None) -> Plan:
    """The plan of a process that was started like the first. Raises InputError: it was not."""
    own = plain_json(to_flat(config))
    for name in sorted({*own, *told}):
        if own.get(name) != told.get(name):
            raise InputError(f"{name}: is {own.get(name)}, and {told.get(name)} in the first process")
    return make_plan(config)


def resume(
    path: str,
    from_flat: Callable[[Mapping[str, Any]], Config],
    make_plan: Callable[..., Plan],
    *,
    anyway: bool = False,
    **length: int | None,
) -> dict[str, Any]:
    """Continues the run in a folder from its newest checkpoint.

    One that was begun without an environment goes on without, also where there is one now: ``make_plan`` is
    given the reason as ``without_env``. ``length`` is ``num_epochs`` or ``num_steps``, where the run,
    finished or not, is to have another one: see adm_jax.runs.extension. Of several processes the first alone
    needs to see the folder; the run may have had another number of them.

    Raises:
      InputError: the folder holds no run, another process works on it, a file in it is not what was written,
        no checkpoint is whole, or more than the new length is done. Unless ``anyway``, which notes in
        config.json what is another now: code, versions, device or data are not what they were, or a run from
        elsewhere names modules to import.
    """
    require_jax()
    hosts = Hosts()
    with hosts.sharing_errors():
        if not hosts.is_first:
            return shares.follow(hosts, partial(_told_plan, from_flat, make_plan))
        return hosts.end(_resume(path, from_flat, make_plan, hosts, anyway, length))


def _told_plan(
    from_flat: Callable[[Mapping[str, Any]], Config],
    make_plan: Callable[..., Plan],
    told: dict[str, Any],
    without_env: str | None,
) -> Plan:
    """The plan of a process that has not seen the run's folder."""
    config = from_flat(told)
    config = dataclasses.replace(config, num_devices=devices_left(config.num_devices))
    return make_plan(config) if without_env is None else make_plan(config, without_env=without_env)


def _resume(
    path: str,
    from_flat: Callable[[Mapping[str, Any]], Config],
    make_plan: Callable[..., Plan],
    hosts: Hosts,
    anyway: bool,
    length: Mapping[str, int | None],
) -> dict[str, Any]:
    """What the first process does in ``resume``."""
    folder = RunFolder.open(path, ["dynamics"])
    folder.require_own(anyway)
    stored = folder.config["config"]
    folder.require(stored_settings(from_flat({"dynamics": stored["dynamics"]})))
    changed = {name: value for name, value in length.items() if value not in (None, stored[name])}
    before, config = from_flat(stored), from_flat({**stored, **changed})
    config = dataclasses.replace(config, num_devices=devices_left(config.num_devices))
    with signals.heard(), folder.lock():
        plan, size = _planned(config, folder, make_plan), folder.batch_size
        shares.require_divided(size or len(folder.members), config.num_devices, hosts)
        shares.announce(plan, hosts, folder.config.get("not_evaluated"))
        plan = shares.spread(plan, hosts)
        standings = _standings(plan, folder)
        for name in changed:
            extension.require_not_done(folder, name, changed[name], standings.values())
        if changed or folder.read_result() is None or any(each.result is None for each in standings.values()):
            folder.begin_stretch(plan.record, anyway)
        for name in changed:
            differences = partial(plan.differences, before)
            extension.extend(folder, name, changed[name], before.eval_every, differences)
            standings = _standings(plan, folder)
        with signals.advising(_how_to_go_on(plan, folder)):
            if size is not None:
                return _run_batches(plan, folder, size, standings)
            if standings[folder.path].saved is None:
                print("there is no checkpoint yet: the run begins anew")
                folder.truncate()
                return _start(_open(plan, folder))
            return _go_on(plan, standings, folder)


def _standings(plan: Plan, folder: RunFolder) -> Standings:
    """How far a run, or each batch of one, has come."""
    return {part.path: part.standing(plan.last_epoch) for part in folder.parts(read_only=False)}


def _planned(config: Config, folder: RunFolder, make_plan: Callable[..., Plan]) -> Plan:
    """What a run that was begun is to go on with; without an environment, if it was begun without."""
    reason, env_id = folder.config.get("not_evaluated"), folder.config.get("env_id")
    plan = make_plan(config) if reason is None else make_plan(config, without_env=reason)
    if isinstance(plan.task, EnvlessTask) and env_id is not None:
        raise InputError(
            f"{folder.path}: this run is evaluated in {env_id}, which is not available: {plan.task.reason}"
        )
    return plan


def _how_to_go_on(plan: Plan, folder: RunFolder) -> str:
    return f"{plan.command} --resume={folder.path} goes on"


def _open(plan: Plan, folder: RunFolder) -> Run:
    """A run of all members, or of the first of them that fit into memory at a time."""
    members = folder.members
    return first_that_fits(plan.sizes, lambda size: Run(plan, folder, members[:size]))


def _start(opened: Run) -> dict[str, Any]:
    """A run from its beginning, in batches if not all members fit into memory."""
    if opened.members == opened.folder.members:
        return opened.drive()
    opened.close()
    return _run_batches(opened.plan, opened.folder, len(opened.members), {})


def _run_batches(plan: Plan, folder: RunFolder, size: int, standings: Standings) -> dict[str, Any]:
    """Trains ``size`` members at a time, from wherever they were stopped."""
    return run_batches(folder, size, partial(_go_on, plan, standings), plan.references)


def _go_on(plan: Plan, standings: Standings, folder: RunFolder) -> dict[str, Any]:
    """A run, or a batch of one, from wherever it was stopped; one without a standing has not begun."""
    finished = standings.get(folder.path, NOT_BEGUN).result
    if finished is not None:
        print(f"{folder.path}: this run is finished")
        print_result(finished)
        return finished
    return Run(plan, folder, folder.members).drive(go_on=True)
