"""Checkpoints of a run's whole state: written by orbax, checked file by file before they are read.

A checkpoint is a folder ``<phase>-<epoch>`` that appears under its name only when it is complete,
so a process killed at any moment leaves the previous ones whole. Storage rots silently (a flipped
bit is loaded as a wrong number), so every file's SHA-256 is kept and compared, and so is the phase and epoch
that a checkpoint is of.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax import files
from adm_jax.population.memory import tree_bytes
from adm_jax.runs import seals, stored_arrays
from adm_jax.types import InputError

PHASES = ("fit", "train")  # those with checkpoints, in the order a run goes through them
_NAME = re.compile(rf"({'|'.join(PHASES)})-(\d{{6,}})")
_SAVING, _DELETING = "saving-", "deleting-"
_ARRAYS, _RECORD = "arrays", "record.json"
_KEY_IMPLS = ("threefry2x32", "rbg", "unsafe_rbg")


class DamagedCheckpoint(Exception):
    """A checkpoint cannot be read back as it was written."""


class Saved(NamedTuple):
    """A checkpoint that is whole, less its state: ``epoch`` epochs of ``phase`` were done."""

    phase: str
    epoch: int
    extra: dict[str, Any]  # the host's part

    @property
    def name(self) -> str:
        """Its folder's name."""
        return _name(self.phase, self.epoch)


class Restored(NamedTuple):
    """What a checkpoint held: ``epoch`` epochs of ``phase`` are done."""

    phase: str
    epoch: int
    state: Any  # pytree of arrays
    extra: dict[str, Any]  # the host's part: counters, wall clock


class Checkpointer:
    """The checkpoints of one run; ``keep`` newest ones stay on disk.

    Phases are ordered (``fit`` before ``train``), epochs are ordered within a phase. A folder is
    only made when the first checkpoint is saved. Reading changes nothing; ``recover`` and ``save`` are for
    whoever holds the run's lock.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2):
        self._folder = Path(folder).absolute()  # orbax fails at a later call on a relative path
        self._keep = keep

    def recover(self) -> None:
        """Tidies up after a process that was killed; what it had written completely is kept."""
        for saving in self._folder.glob(f"{_SAVING}*"):
            target = self._folder / saving.name.removeprefix(_SAVING)
            try:
                _read_record(saving)
                saving.rename(target)
            except (DamagedCheckpoint, OSError):  # incomplete, or the target exists
                shutil.rmtree(saving, ignore_errors=True)
        for deleting in self._folder.glob(f"{_DELETING}*"):
            shutil.rmtree(deleting, ignore_errors=True)

    def require_room(self, state: Any) -> None:
        """Sees that the disk has room for the checkpoints that are kept and the one that is being written.

        Asked before a run begins: hours later it would be stopped by it.

        Args:
          state: pytree of (abstract) arrays, the largest that will be saved.

        Raises:
          InputError: it has not; the message says how much is needed.
        """
        num_bytes = tree_bytes(state, whole=True)
        present = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        disk = next(path for path in (self._folder, *self._folder.parents) if path.exists())
        room = shutil.disk_usage(disk).free + present
        number = self._keep + 1
        if room < number * _with_margin(num_bytes):
            raise InputError(
                f"workdir: {number} checkpoints of {num_bytes / 2**20:.1f} MiB, {self._keep} that are kept "
                f"and the next, do not fit into the {room / 2**20:.1f} MiB that {disk} has left"
            )

    def save(self, phase: str, epoch: int, state: Any, extra: Mapping[str, Any] | None = None) -> None:
        """Writes the state and returns when it is safe on disk.

        Args:
          phase: one of ``PHASES``.
          epoch: epochs of that phase done.
          state: pytree of arrays (typed keys too); Python numbers belong into ``extra``.
          extra: host values that JSON can hold.

        Raises:
          OSError: the folder cannot be written, or its disk has not enough room.
        """
        self.write(phase, epoch, {name: _to_host(name, leaf) for name, leaf in _named_leaves(state)}, extra)

    def copied(self, state: Any) -> dict[str, np.ndarray]:
        """A state's arrays by their names, in the host's memory and in nobody else's hands: for ``write``."""
        named = _named_leaves(state)
        for _, leaf in named:
            if isinstance(leaf, jax.Array) and not _is_key(leaf):
                leaf.copy_to_host_async()  # side by side
        return {name: _own(_to_host(name, leaf), leaf) for name, leaf in named}

    def write(
        self, phase: str, epoch: int, leaves: Mapping[str, np.ndarray], extra: Mapping[str, Any] | None = None
    ) -> None:
        """``save`` of a state's arrays by their names."""
        files.make_folder(self._folder)
        saving = self._folder / f"{_SAVING}{_name(phase, epoch)}"
        shutil.rmtree(saving, ignore_errors=True)
        num_bytes = sum(leaf.nbytes for leaf in leaves.values())
        _require_room(self._folder, num_bytes)
        try:
            with files.naming(self._folder / _name(phase, epoch), num_bytes):
                stored_arrays.write(saving / _ARRAYS, leaves)
                _write_record(saving, phase, epoch, leaves, extra or {})
                files.sync_tree(saving)
        except OSError:
            shutil.rmtree(saving, ignore_errors=True)
            raise
        self.remove(phase, epoch)
        files.replace(saving, self._folder / _name(phase, epoch))
        self.delete_behind(phase, epoch)
        self._delete(self._entries()[: -self._keep])

    def delete_behind(self, phase: str, epoch: int) -> None:
        """Removes later checkpoints: of a future that a resume from an earlier one has abandoned."""
        self._delete([entry for entry in self._entries() if _order(*entry) > _order(phase, epoch)])

    def remove(self, phase: str, epoch: int) -> None:
        """Removes a checkpoint, if there is one of that phase and epoch."""
        self._delete([entry for entry in self._entries() if entry == (phase, epoch)])

    def latest(self) -> tuple[str, int] | None:
        """The newest checkpoint's phase and epoch; None if there is none."""
        entries = self._entries()
        return entries[-1] if entries else None

    def newest(self, apart_from: tuple[str, int] | None = None) -> Saved | None:
        """The newest whole checkpoint but ``apart_from``, or None. Raises InputError: all are damaged."""
        entries = [entry for entry in self._entries() if entry != apart_from]
        for phase, epoch in reversed(entries):
            with contextlib.suppress(DamagedCheckpoint):
                return Saved(phase, epoch, _read_record(self._folder / _name(phase, epoch))["extra"])
        if entries:
            raise InputError(f"{self._folder}: no checkpoint that could be restored")
        return None

    def restore(self, phase: str, epoch: int, abstract_state: Any) -> Restored:
        """One checkpoint's state.

        Args:
          phase: one of ``PHASES``.
          epoch: epochs of that phase done.
          abstract_state: pytree of arrays or ``jax.ShapeDtypeStruct`` of the state's structure. Arrays
            come back committed to a leaf's sharding if it states one, else on the default device;
            NumPy leaves come back as NumPy. What is in bfloat16 on one kind of device and in float32 on the
            other is converted.

        Raises:
          DamagedCheckpoint: a file is missing or differs from what was written.
          InputError: it holds a state of another structure or shape.
        """
        path = self._folder / _name(phase, epoch)
        record = _read_record(path)
        saved, abstract = record["leaves"], dict(_named_leaves(abstract_state))
        _check_structure(path, saved, abstract)
        targets = {name: np.empty(leaf["shape"], np.dtype(leaf["dtype"])) for name, leaf in saved.items()}
        host = stored_arrays.read(path / _ARRAYS, targets)
        leaves = [_to_device(_converted(host[name], leaf), leaf) for name, leaf in abstract.items()]
        state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
        return Restored(phase, epoch, state, record["extra"])

    def restore_latest(self, abstract_states: Mapping[str, Callable[[int], Any]]) -> Restored:
        """The newest checkpoint that is whole; a damaged one costs a warning line on stderr.

        Args:
          abstract_states: for each phase a function of the epoch that returns its abstract state (see
            ``restore``).

        Raises:
          InputError: there is no checkpoint, none is whole, or it has another structure.
        """
        for phase, epoch in reversed(self._entries()):
            try:
                return self.restore(phase, epoch, abstract_states[phase](epoch))
            except DamagedCheckpoint as error:
                print(f"warning: damaged checkpoint, trying the one before it: {error}", file=sys.stderr)
        raise InputError(f"{self._folder}: no checkpoint that could be restored")

    def read_newest(self, phase: str, below: str) -> dict[str, np.ndarray]:
        """The arrays of a phase's newest checkpoint that lie below a path, by their names from there on.

        Args:
          phase: one of ``PHASES``.
          below: such as ``agent/actor_params``, wherever in the state that is.

        Raises:
          InputError: there is no such checkpoint, it has no such array, or it is damaged.
        """
        entries = [entry for entry in self._entries() if entry[0] == phase]
        if not entries:
            raise InputError(f"{self._folder}: has no checkpoint of phase {phase}")
        path = self._folder / _name(*entries[-1])
        try:
            saved = _read_record(path)["leaves"]
        except DamagedCheckpoint as error:
            raise InputError(f"{path}: damaged checkpoint ({error})") from error
        targets = {name: np.empty(leaf["shape"], np.dtype(leaf["dtype"])) for name, leaf in saved.items()}
        stored = stored_arrays.read(path / _ARRAYS, targets)
        inside = {name: f"/{name}".partition(f"/{below}/")[2] for name in saved}
        if not any(inside.values()):
            raise InputError(f"{path}: has no arrays {below}/...")
        return {rest: stored[name] for name, rest in inside.items() if rest}

    def _entries(self) -> list[tuple[str, int]]:
        """Complete checkpoints, oldest first."""
        names = [path.name for path in self._folder.glob("*-*") if path.is_dir()]
        matches = [match for match in map(_NAME.fullmatch, names) if match]
        return sorted(((match[1], int(match[2])) for match in matches), key=lambda entry: _order(*entry))

    def _delete(self, entries: list[tuple[str, int]]) -> None:
        # Renamed first, so that no half-deleted folder ever bears a checkpoint's name.
        for entry in entries:
            deleting = self._folder / f"{_DELETING}{_name(*entry)}"
            shutil.rmtree(deleting, ignore_errors=True)
            (self._folder / _name(*entry)).rename(deleting)
            shutil.rmtree(deleting)


def _name(phase: str, epoch: int) -> str:
    if phase not in PHASES:
        raise ValueError(f"phase {phase!r} is none of {PHASES}")
    return f"{phase}-{epoch:06d}"


def _order(phase: str, epoch: int) -> tuple[int, int]:
    return PHASES.index(phase), epoch


def _named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Leaves with their path written out; saved flat, so that no container type has to be restored."""
    name = functools.partial(jax.tree_util.keystr, simple=True, separator="/")
    return [(name(path) or "state", leaf) for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]


def restore_names(arrays: Mapping[str, np.ndarray], abstract: Any) -> Any:
    """A pytree of ``abstract``'s structure from arrays by their names. Raises InputError: one is missing."""
    names = [name for name, _ in _named_leaves(abstract)]
    missing = [name for name in names if name not in arrays]
    if missing:
        raise InputError(f"checkpoint: has no array {missing[0]}; it is of another configuration or version")
    return jax.tree.unflatten(jax.tree.structure(abstract), [jnp.asarray(arrays[name]) for name in names])


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_host(name: str, leaf: Any) -> np.ndarray:
    if not isinstance(leaf, (jax.Array, np.ndarray, np.generic)):
        raise TypeError(f"{name}: {type(leaf).__name__} is not an array; host values belong into extra")
    if isinstance(leaf, jax.Array) and _is_key(leaf):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf, order="C")


def _converted(host: np.ndarray, abstract: Any) -> np.ndarray:
    return host.astype(abstract.dtype) if _is_other_width(str(host.dtype), abstract) else host


def _is_other_width(saved: str, abstract: Any) -> bool:
    """Whether one is float32 and the other bfloat16."""
    return {saved, str(abstract.dtype)} == {"float32", "bfloat16"}


def _own(host: np.ndarray, leaf: Any) -> np.ndarray:
    """The array of a leaf, copied where it lies in the leaf's own memory, which the next step may reuse."""
    on_device = isinstance(leaf, jax.Array) and all(device.platform != "cpu" for device in leaf.devices())
    return host if on_device else host.copy()


def _to_device(host: np.ndarray, abstract: Any) -> Any:
    if isinstance(abstract, (np.ndarray, np.generic)):
        return host
    sharding = getattr(abstract, "sharding", None)
    if _is_key(abstract):
        impl = next(impl for impl in _KEY_IMPLS if jax.random.key(0, impl=impl).dtype == abstract.dtype)
        return jax.device_put(jax.random.wrap_key_data(jnp.asarray(host), impl=impl), sharding)
    return jax.device_put(host, sharding)


def _require_room(folder: Path, num_bytes: int) -> None:
    # Asked beforehand: a disk that fills up under orbax's threads ends in pages of logged tracebacks.
    free = shutil.disk_usage(folder).free
    if free < _with_margin(num_bytes):
        message = f"a checkpoint of {num_bytes / 2**20:.1f} MiB does not fit into {free / 2**20:.1f} MiB"
        raise OSError(errno.ENOSPC, message, str(folder))


def _with_margin(num_bytes: int) -> float:
    return 1.02 * num_bytes + 2**20


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_record(
    folder: Path, phase: str, epoch: int, leaves: Mapping[str, np.ndarray], extra: Mapping[str, Any]
) -> None:
    """Writes what the leaves are and the SHA-256 of every file orbax made of them."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    record = {
        "phase": phase,
        "epoch": epoch,
        "leaves": {name: {"shape": leaf.shape, "dtype": str(leaf.dtype)} for name, leaf in leaves.items()},
        "files": {str(path.relative_to(folder)): _digest(path) for path in paths},
        "extra": extra,
    }
    record = json.loads(json.dumps(record))  # what is sealed is what a reader will see: tuples become lists
    (folder / _RECORD).write_text(json.dumps({"record": record, "sha256": seals.digest(record)}))


def _read_record(folder: Path) -> dict[str, Any]:
    """The record of a checkpoint whose files are all as they were written.

    They are compared before orbax reads them: a damaged one can make it log at great length, or load
    wrong numbers.
    """
    try:
        sealed = json.loads((folder / _RECORD).read_text())
        record, seal = sealed["record"], sealed["sha256"]
        if seals.digest(record) != seal:
            raise DamagedCheckpoint(f"{folder / _RECORD} is not what was saved")
        # those of earlier versions do not say which they are
        own = _name(record["phase"], record["epoch"]) if "phase" in record else None
        if own not in (None, folder.name.removeprefix(_SAVING)):
            raise DamagedCheckpoint(f"{folder} is not what was saved: it is {own}, under another name")
        for name, digest in record["files"].items():
            if _digest(folder / name) != digest:
                raise DamagedCheckpoint(f"{folder / name} is not what was saved")
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"{folder / _RECORD}: {error}") from error
    return record


def _check_structure(path: Path, saved: Mapping[str, Any], abstract: Mapping[str, Any]) -> None:
    different = sorted(set(saved) ^ set(abstract))
    if different:
        holds = "holds" if different[0] in saved else "lacks"
        raise InputError(f"{path}: {holds} {different[0]}; it was saved by another configuration or version")
    for name, leaf in abstract.items():
        spec = jax.eval_shape(jax.random.key_data, leaf) if _is_key(leaf) else leaf
        was = (tuple(saved[name]["shape"]), saved[name]["dtype"])
        expected = (tuple(spec.shape), was[1] if _is_other_width(was[1], spec) else str(np.dtype(spec.dtype)))
        if was != expected:
            raise InputError(
                f"{path}: {name} is {was[1]}{list(was[0])}, not {spec.dtype}{list(spec.shape)}; "
                "it was saved by another configuration or version"
            )
