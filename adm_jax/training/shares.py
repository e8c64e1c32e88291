"""A run whose members lie on several processes: see adm_jax.runs.hosts.

The first process has the run's folder, and drives a loop of all members, ``SharedLoop``; the others
``follow``. Each opens the loop of its own share, a stretch of P / N members, and does what the first says: so
every step is the same for all, and what a checkpoint holds is what one process alone would have written.
Policies are evaluated by the first.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from adm_jax.config.settings import to_flat
from adm_jax.files import plain_json
from adm_jax.population.devices import choose_devices
from adm_jax.population.members import Member, seeds_of
from adm_jax.population.memory import DoesNotFit
from adm_jax.runs import signals
from adm_jax.runs.checkpoint import Restored
from adm_jax.runs.clock import WallClock
from adm_jax.runs.hosts import Hosts
from adm_jax.runs.surroundings import describe_surroundings, differences
from adm_jax.training.loop import Desk, Loop, Note, Plan, Stage, Step
from adm_jax.types import InputError


def require_divided(num_members: int, num_devices: int | None, hosts: Hosts) -> None:
    """Raises InputError where processes, or their devices, do not divide the members trained at a time."""
    if num_members % hosts.count:
        raise InputError(
            f"num_processes: {hosts.count} do not divide the {num_members} members trained at a time"
        )
    choose_devices(num_members // hosts.count, num_devices)


def spread(plan: Plan, hosts: Hosts) -> Plan:
    """The plan of a run that several processes do, for the first of them."""
    if hosts.count == 1:
        return plan
    devices = hosts.count * (plan.config.num_devices or 1)

    def opened(members: tuple[Member, ...], desk: Desk) -> Loop:
        return SharedLoop(Share(plan, hosts), hosts, members, desk)

    return dataclasses.replace(plan, open=opened, sizes=[size for size in plan.sizes if size % devices == 0])


def announce(plan: Plan, hosts: Hosts, without_env: str | None = None) -> None:
    """The first process says what is wanted, and what it is computed by."""
    if hosts.count > 1:
        told = {"config": to_flat(plan.config), "without_env": without_env, "by": _computed_by(plan)}
        hosts.tell("plan", plain_json(told))


def follow(hosts: Hosts, make_plan: Callable[[dict[str, Any], str | None], Plan]) -> Any:
    """What a process that is not the first does, to the run's end; returns what the first ends with.

    Args:
      hosts: the run's processes.
      make_plan: the plan, for the first one's flat configuration and why there is no environment.

    Raises:
      InputError: one of the processes ends with an error; this one would compute something else.
      Interrupted: a signal has ended the run.
    """
    with signals.heard(), signals.held(raises=False):
        _, told = hosts.hear()
        with signals.released():
            plan = make_plan(told["config"], told["without_env"])
        changed = differences(told["by"], plain_json(_computed_by(plan)))
        if changed:
            listed = "; ".join(
                f"{name} is {first} there, {own} here" for name, (first, own) in changed.items()
            )
            raise InputError(f"differs from the first process: {listed}")
        share = Share(plan, hosts)
        while True:
            command, value = hosts.hear()
            if command == "end":
                return value
            getattr(share, command)(*value)


def _computed_by(plan: Plan) -> dict[str, Any]:
    return {**describe_surroundings(), **plan.record}


class Share:
    """A process's part of the members; all processes call the same methods with the same arguments."""

    def __init__(self, plan: Plan, hosts: Hosts):
        self._plan, self._hosts = plan, hosts
        self._loop: Loop | None = None
        self._shares: list[tuple[Member, ...]] = []  # of all processes
        self._notes: list[str] = []  # that the first has not been told

    @property
    def loop(self) -> Loop:
        """The own members'."""
        assert self._loop is not None
        return self._loop

    def open(self, members: Sequence[Mapping[str, Any]], desk: Desk | None = None) -> tuple[str, list[str]]:
        """Opens the loops of a population; why it does not fit into memory, if so, and the others' notes."""
        everyone, count, lacking = tuple(map(Member.from_dict, members)), self._hosts.count, ""
        size = len(everyone) // count
        self._shares = [everyone[start : start + size] for start in range(0, size * count, size)]
        if desk is None:
            desk = Desk(WallClock(), self._notes.append, lambda state: None)
        try:
            opened = desk._replace(anywhere=self._hosts.any)
            with signals.released():
                self._loop = self._plan.open(self._shares[self._hosts.index], opened)
        except DoesNotFit as error:
            lacking = str(error)
        told = self._hosts.exchange([lacking, self._told_notes()])
        lacking = next((f"process {i}: {each[0]}" for i, each in enumerate(told) if each[0]), "")
        if lacking:
            self.close()
        return lacking, [note for _, notes in told for note in notes]

    def advance(self) -> tuple[Step, list[str]]:
        """The next step of all members, as the first sees it, and the others' notes."""
        stage = self.loop.stage()
        assert stage is not None
        with self._hosts.sharing_errors(), signals.released(not stage.saves):
            step = self.loop.advance()
        return self._merged(step)

    def note(self) -> Note:
        """What to_note() is of all members."""
        return _merge_notes(self._hosts.exchange(self.loop.to_note()))

    def save(self, phase: str) -> Any:
        """What to_save() is of all members, for the first."""
        leaves, structure = jax.tree.flatten(self.loop.to_save())
        arrays = [np.asarray(leaf, order="C") for leaf in leaves]
        told = self._hosts.exchange([array.shape for array in arrays])
        names, merged = self._names(phase), []
        for index, array in enumerate(arrays):
            found = self._hosts.gather(array, [shapes[index] for shapes in told])
            merged.append(_rows(names, found) if found else array)
        return jax.tree.unflatten(structure, merged)

    def restore(self, phase: str, epoch: int, note: Note, state: Any = None) -> tuple[Step, list[str]]:
        """Goes on from a checkpoint of all members, whose state the first has; ``advance`` of its step."""
        names = self._names(phase)
        own, total = names[self._hosts.index], len(_all(names))
        rows = [_all(names).index(name) for name in own]
        leaves, structure = jax.tree.flatten(self.loop.abstract_states()[phase](epoch))
        given = [_whole(leaf, total) for leaf in leaves] if state is None else jax.tree.leaves(state)
        placed = []
        for leaf, array in zip(leaves, given, strict=True):
            array = self._hosts.spread(np.ascontiguousarray(array))[rows]
            on_host = isinstance(leaf, np.ndarray)
            placed.append(array if on_host else jax.device_put(array, getattr(leaf, "sharding", None)))
        notes = {
            kind: [
                {name: [dtype, [x[i] for i in rows]] for name, (dtype, x) in each.items()} for each in found
            ]
            for kind, found in note.items()
        }
        restored = Restored(phase, epoch, jax.tree.unflatten(structure, placed), {"loop": notes})
        return self._merged(self.loop.restore(restored))

    def close(self) -> None:
        """Frees what the loop has open."""
        if self._loop is not None:
            self._loop.close()
        self._loop = None

    def whole(self, tree: Any, phase: str) -> Any:
        """Arrays of the shapes that all members' have, which take no memory."""
        total = len(_all(self._names(phase)))
        return jax.tree.map(lambda leaf: _whole(leaf, total), tree)

    def _names(self, phase: str) -> list[list[str]]:
        """Whose rows every process has in a phase's state: a fit's are the seeds'."""
        if phase == "fit":
            return [[f"seed{seed}" for seed in seeds_of(share)] for share in self._shares]
        return [[member.tag for member in share] for share in self._shares]

    def _told_notes(self) -> list[str]:
        notes, self._notes = self._notes, []
        return [f"process {self._hosts.index}: {note}" for note in notes]

    def _merged(self, step: Step) -> tuple[Step, list[str]]:
        """Every process's step as one of all members."""
        own = {
            "metrics": step.metrics,
            "running": step.running,
            "tags": step.tags,
            "info": step.info,
            "rates": step.rates,
            "policies": [jax.tree.leaves(tree) for tree in (step.policies, step.unaveraged)],
            "signal": signals.come(),
            "notes": self._told_notes(),
        }
        told = self._hosts.exchange(own)
        signals.take_over(next((each["signal"] for each in told if each["signal"] is not None), None))
        names = [each["tags"] for each in told]

        def rows(values: Sequence[Any]) -> np.ndarray:
            return _rows(names, [np.asarray(x) for x in values])

        if step.metrics is not None:
            metrics = {name: rows([each["metrics"][name] for each in told]) for name in step.metrics}
            step = step._replace(metrics=metrics, tags=_all(names))
        if step.running is not None:
            step = step._replace(running=rows([each["running"] for each in told]))
        if step.info is not None:
            step = step._replace(
                info={name: _mean([each["info"][name] for each in told]) for name in step.info}
            )
        rates = {name: math.fsum(each["rates"][name] for each in told) for name in step.rates}
        policies = [
            jax.tree.unflatten(jax.tree.structure(tree), [np.concatenate(x) for x in zip(*each, strict=True)])
            for tree, each in zip(
                (step.policies, step.unaveraged),
                zip(*(each["policies"] for each in told), strict=True),
                strict=True,
            )
        ]
        step = step._replace(rates=rates, policies=policies[0], unaveraged=policies[1])
        return step, [note for each in told for note in each["notes"]]


class SharedLoop:
    """The loop of all members, as the first process has it; see Loop."""

    def __init__(self, share: Share, hosts: Hosts, members: tuple[Member, ...], desk: Desk):
        """Raises DoesNotFit: one of the processes has too little memory."""
        self._share, self._hosts, self._note, self._phase = share, hosts, desk.note, "fit"
        told = [member.to_dict() for member in members]
        self._hosts.tell("open", [told])
        whole = desk._replace(require_room=lambda state: desk.require_room(share.whole(state, "train")))
        with self._hosts.sharing_errors():
            lacking, notes = share.open(told, whole)
        if lacking:
            raise DoesNotFit(lacking)
        self._say(notes)
        self._own = share.loop
        self.components = self._own.components
        self.abstract_policies = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((len(members), *x.shape[1:]), x.dtype),
            self._own.abstract_policies,
        )

    def stage(self) -> Stage | None:
        """See Loop."""
        return self._own.stage()

    def advance(self) -> Step:
        """See Loop."""
        self._hosts.tell("advance", [])
        return self._stepped(*self._share.advance())

    def to_save(self) -> Any:
        """See Loop."""
        self._hosts.tell("save", [self._phase])
        return self._share.save(self._phase)

    def to_note(self) -> Note:
        """See Loop."""
        self._hosts.tell("note", [])
        return self._share.note()

    def abstract_states(self) -> Mapping[str, Callable[[int], Any]]:
        """See Loop; all of it in the host's memory."""
        own = self._own.abstract_states()
        return {
            phase: lambda epoch, phase=phase: self._share.whole(own[phase](epoch), phase) for phase in own
        }

    def restore(self, restored: Restored) -> Step:
        """See Loop."""
        arguments = (restored.phase, restored.epoch, restored.extra["loop"])
        self._hosts.tell("restore", arguments)
        with self._hosts.sharing_errors():
            return self._stepped(*self._share.restore(*arguments, restored.state))

    def summarize(
        self, members: tuple[Member, ...], metrics: Sequence[Any], evals: Sequence[Any]
    ) -> dict[str, Any]:
        """See Loop."""
        return self._own.summarize(members, metrics, evals)

    def close(self) -> None:
        """See Loop."""
        self._hosts.tell("close", [])
        self._share.close()

    def _stepped(self, step: Step, notes: list[str]) -> Step:
        self._say(notes)
        self._phase = step.phase
        return step

    def _say(self, notes: list[str]) -> None:
        for note in notes:
            self._note(note)


def _all(names: Sequence[Sequence[str]]) -> list[str]:
    """All names; a seed may be fitted by several processes, with the same result."""
    return list(dict.fromkeys(itertools.chain(*names)))


def _rows(names: Sequence[Sequence[str]], arrays: Sequence[np.ndarray]) -> np.ndarray:
    """One row for each name, from every process's rows."""
    found: dict[str, np.ndarray] = {}
    for own, array in zip(names, arrays, strict=True):
        for name, row in zip(own, array, strict=True):
            found.setdefault(name, row)
    return np.stack([found[name] for name in _all(names)])


def _whole(leaf: Any, total: int) -> np.ndarray:
    return np.broadcast_to(np.zeros((), leaf.dtype), (total, *leaf.shape[1:]))


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else math.nan


def _merge_notes(notes: Sequence[Note]) -> Note:
    """Every process's to_note() as one of all members."""
    first = notes[0]
    return {
        kind: [
            {
                name: [dtype, [x for note in notes for x in note[kind][row][name][1]]]
                for name, (dtype, _) in first[kind][row].items()
            }
            for row in range(len(first[kind]))
        ]
        for kind in first
    }
