"""A run's folder: what was run, its metrics line by line, its result and its curves.

    <workdir>/<algorithm>/<task>/<run_id>/
      config.json     resolved configuration and where it comes from, members, environment, versions, commit,
                      variables, device, command line, and every resume; sealed: see adm_jax.runs.seals
      metrics.jsonl   a line per epoch; arrays over the population, never averaged
      eval.jsonl      a line per evaluation; every episode's return
      checkpoints/    see adm_jax.runs.checkpoint
      tensorboard/    the numbers of both files as TensorBoard's event file
      curves.png      learning curves, drawn as it goes
      batches/        where not all members fit into memory at once: a folder like this one for each batch
      result.json     final returns and scores per member, wall clock, what each stretch of the run was
                      computed by; sealed, with the digests of the files that it is made of;
                      result-<length>.json of a run that was made longer: see adm_jax.runs.extension

Lines bear ``phase`` (``fit``, ``model``, ``pretrain``, ``bc``, ``train``, in this order) and ``epoch``;
numbers that are not finite become null, as JSON knows none.
"""

import contextlib
import datetime
import json
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adm_jax import files
from adm_jax.files import resolve_path
from adm_jax.population.members import Member, seeds_of
from adm_jax.runs import config_file, curves, seals
from adm_jax.runs.checkpoint import Checkpointer, Saved
from adm_jax.runs.event_files import EventLog
from adm_jax.runs.lock import lock_folder
from adm_jax.runs.seals import SEAL
from adm_jax.runs.surroundings import describe_surroundings
from adm_jax.types import InputError

PHASES = ("fit", "model", "pretrain", "bc", "train")  # of lines, in the order a run goes through them
_CONFIG, _RESULT, _CURVES = config_file.NAME, "result.json", "curves.png"
_METRICS, _EVAL = "metrics.jsonl", "eval.jsonl"


class Standing(NamedTuple):
    """How far a run has come, by files that are what was written."""

    saved: Saved | None  # the newest checkpoint that is whole
    result: dict[str, Any] | None  # of a finished run


NOT_BEGUN = Standing(None, None)


class RunFolder:
    """The folder of one run; made by ``create``, found again by ``open``."""

    def __init__(self, path: Path, config: dict[str, Any], made: Sequence[Path] = ()):
        self.path = path
        self._made = made  # folders above it that were made with it, innermost first
        self.config = config  # config.json's content; the flat configuration is its entry "config"
        self._events = EventLog(path / "tensorboard", *_tags(self.members))

    @property
    def members(self) -> tuple[Member, ...]:
        """The population whose arrays the files hold."""
        return tuple(Member.from_dict(values) for values in self.config.get("members", ()))

    @classmethod
    def create(
        cls,
        workdir: str | os.PathLike[str],
        algorithm: str,
        task: str,
        config_flat: Mapping[str, Any],
        members: Sequence[Member],
        extra: Mapping[str, Any] | None = None,
    ) -> "RunFolder":
        """Makes a new folder ``<workdir>/<algorithm>/<task>/<run_id>`` with its config.json.

        ``workdir`` holds the runs of all algorithms and is made if it does not exist; ``extra`` are further
        entries of config.json, such as ``env_id``. Raises InputError: the folder cannot be written; nothing
        is left of it.
        """
        parent = resolve_path("workdir", workdir) / algorithm / task
        made = [folder for folder in [parent, *parent.parents] if not folder.exists()]
        try:
            path = _make_new(parent)
        except OSError as error:
            raise InputError(f"workdir: cannot write {parent}: {error.strerror}") from error
        config = {
            "algorithm": algorithm,
            "task": task,
            "run_id": path.name,
            "members": [member.to_dict() for member in members],
            "config": dict(config_flat),
            **describe_surroundings(),
            **dict(extra or {}),
        }
        try:
            return cls(path, config_file.write(path, config), made)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise InputError(f"workdir: cannot write {path}: {error.strerror}") from error

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], required: Collection[str] = (), *, read_only: bool = False
    ) -> "RunFolder":
        """An existing run's folder; ``required`` is that of ``require``.

        Raises InputError: the folder holds no run, its config.json is not what was written, or it cannot be
        written and is not ``read_only``.
        """
        path = resolve_path("resume", path)
        config = config_file.read(path, required, read_only=read_only)
        if not read_only and not os.access(path, os.W_OK):
            raise InputError(f"{path} cannot be written")
        return cls(path, config)

    def part(self, number: int, members: Sequence[Member]) -> "RunFolder":
        """The folder of some of the members, ``batches/<number>`` in this one; made if it does not exist."""
        path = self.path / "batches" / str(number)
        files.make_folder(path)
        config = {**self.config, "members": [member.to_dict() for member in members]}
        return RunFolder(path, config_file.write(path, config))

    def parts(self, *, read_only: bool = True) -> "list[RunFolder]":
        """The folders that hold the members' checkpoints: those of the batches in order, or this one."""
        batches = [path.parent for path in (self.path / "batches").glob(f"*/{_CONFIG}")]
        ordered = sorted(batches, key=lambda path: int(path.name))
        return [RunFolder.open(path, read_only=read_only) for path in ordered] or [self]

    @property
    def batch_size(self) -> int | None:
        """Members of a batch, if the run was begun in batches."""
        first = self.parts()[0]
        return None if first is self else len(first.members)

    def require(self, names: Collection[str]) -> None:
        """Raises InputError if the flat configuration in config.json lacks a name."""
        config_file.require(self.path, self.config, names)

    def require_own(self, anyway: bool) -> None:
        """See config_file."""
        config_file.require_own(self.path, self.config, anyway)

    def begin_stretch(self, record: Mapping[str, Any], anyway: bool) -> None:
        """Keeps in config.json what the run goes on under, from now; see config_file.with_resume."""
        config = config_file.with_resume(self.path, self.config, record, anyway)
        self.config = config_file.write(self.path, config)

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Held by the process that works on the run: see adm_jax.runs.lock."""
        return lock_folder(self.path)

    def discard(self) -> None:
        """Removes the folder and those ``create`` made above it: a run failed before it computed anything."""
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in self._made:
            with contextlib.suppress(OSError):  # another run has begun in it meanwhile
                parent.rmdir()

    @property
    def checkpoints(self) -> Path:
        """Folder of the run's checkpoints."""
        return self.path / "checkpoints"

    def log_metrics(self, row: Mapping[str, Any]) -> None:
        """Appends a line to metrics.jsonl: ``phase``, ``epoch`` and arrays over the population."""
        _append(self.path / _METRICS, row)
        self._events.add(row)

    def log_eval(self, row: Mapping[str, Any]) -> None:
        """Appends a line to eval.jsonl: ``phase``, ``epoch``, ``updates``, ``eval/return`` [P][episodes]."""
        _append(self.path / _EVAL, row)
        self._events.add(row)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        return _read_lines(self.path / _METRICS)

    def read_eval(self) -> list[dict[str, Any]]:
        """All lines of eval.jsonl."""
        return _read_lines(self.path / _EVAL)

    def replace_rows(self, metrics: Sequence[Mapping[str, Any]], evals: Sequence[Mapping[str, Any]]) -> None:
        """Writes all lines of metrics.jsonl and of eval.jsonl anew."""
        files.write_atomically(self.path / _METRICS, "".join(map(_line, metrics)))
        files.write_atomically(self.path / _EVAL, "".join(map(_line, evals)))
        self._events.rewrite([*metrics, *evals])

    def marks(self) -> dict[str, Any]:
        """What is kept with a checkpoint or a result: config.json's seal, length and digest of all lines.

        They are on the disk then.
        """
        lines = {name: seals.mark(self.path / name) for name in (_METRICS, _EVAL)}
        for path in (self.path / _METRICS, self.path / _EVAL):
            if path.exists():
                files.sync(path)
        return {_CONFIG: self.config.get(SEAL), **lines}

    def verify(self, marks: Mapping[str, Any], kept_in: Path, *, finished: bool = False) -> None:
        """Compares the files with their marks; lines may follow where the run has not finished.

        Raises InputError: one line: which file is not what it was.
        """
        if marks[_CONFIG] not in config_file.seals_of(self.config):
            raise InputError(f"{self.path / _CONFIG} is not what it was when {kept_in} was written")
        for path in (self.path / _METRICS, self.path / _EVAL):
            if not seals.holds(path, marks[path.name], whole=finished):
                raise InputError(
                    f"{path} is not what it was when {kept_in} was written; restore it, or remove {kept_in} "
                    "to go on from what came before"
                )

    def standing(self, last_epoch: int) -> Standing:
        """How far the run has come, after tidying up behind a process that was killed; for the lock's holder.

        ``last_epoch`` is that of phase train. Raises InputError: a file is not what was written.
        """
        for name in (_CONFIG, _METRICS, _EVAL, _RESULT, _CURVES):
            (self.path / f".{name}").unlink(missing_ok=True)
        checkpointer = Checkpointer(self.checkpoints)
        checkpointer.recover()
        saved, result, path = checkpointer.newest(), self.read_result(), self.path / _RESULT
        if saved is None:
            if result is not None:
                raise InputError(f"{path}: its run has no checkpoints any more; remove it to begin anew")
            return NOT_BEGUN
        self.verify(saved.extra["files"], self.checkpoints / saved.name)
        if result is None or saved[:2] != ("train", last_epoch):
            return Standing(saved, None)
        self.verify(result["files"], path, finished=True)
        return Standing(saved, result)

    def truncate(self, marks: Mapping[str, Any] | None = None) -> None:
        """Cuts the files back to what a restored checkpoint has marked; without marks nothing stays.

        A line that a killed process has half written goes too, and so does the result.
        """
        (self.path / _RESULT).unlink(missing_ok=True)
        for name in (_METRICS, _EVAL):
            files.cut(self.path / name, marks[name]["length"] if marks else 0)
        self._events.rewrite([*self.read_metrics(), *self.read_eval()])

    def write_result(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Writes result.json, or leaves the one before it whole; returns its content.

        Added are what every stretch of the run was computed by, where it was made longer, and the marks of
        the files it is made of.
        """
        told = {name: self.config[name] for name in (config_file.EXTENSIONS,) if name in self.config}
        told["stretches"] = config_file.stretches(self.config)
        result = {**result, **told, "files": self.marks()}
        written = files.write_json(self.path / _RESULT, seals.sealed(files.plain_json(result)))
        return {**result, SEAL: written[SEAL]}

    def put_result_aside(self, name: str) -> None:
        """Renames result.json, if there is one."""
        if (self.path / _RESULT).exists():
            files.replace(self.path / _RESULT, self.path / name)

    def read_result(self) -> dict[str, Any] | None:
        """result.json; None while the run is not finished."""
        path = self.path / _RESULT
        try:
            result = json.loads(path.read_text()) if path.exists() else None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is damaged: {error}; remove it") from error
        if result is not None and SEAL in self.config and not seals.is_sealed(result):
            raise InputError(f"{path} is damaged: not what was written; remove it")
        return result

    def draw_curves(self, references: Mapping[str, float] | None = None, warmup_steps: int = 0) -> None:
        """Draws curves.png from what has been logged.

        Args:
          references: label -> return, drawn as horizontal lines like behaviour cloning's.
          warmup_steps: environment steps of random actions before anything is learned, shaded.
        """
        temporary = self.path / f".{_CURVES}"
        title = f"{self.config['algorithm']} on {self.config['task']}"
        evals, metrics = self.read_eval(), self.read_metrics()
        trained = [row for row in evals if row["phase"] == "train"]
        lines = dict(references or {})
        for row in evals:
            if row["phase"] == "bc":
                lines["behaviour cloning"] = float(np.mean(np.asarray(row["eval/return"], np.float64)))
        shown = temporary, metrics, trained, title, self.members, lines, warmup_steps
        curves.draw(*shown, evaluated="not_evaluated" not in self.config)
        os.replace(temporary, self.path / _CURVES)


def _tags(members: Sequence[Member]) -> tuple[list[str], list[str]]:
    """Names of the members, and of their seeds."""
    return [member.tag for member in members], [f"seed{seed}" for seed in seeds_of(members)]


def _make_new(parent: Path) -> Path:
    files.make_folder(parent)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
            files.sync(parent)
            return path
        except FileExistsError:  # a run begun in the same second
            continue
    raise FileExistsError(0, "too many runs in one second", str(parent))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(files.to_json(row), allow_nan=False) + "\n"


def _append(path: Path, row: Mapping[str, Any]) -> None:
    if row["phase"] not in PHASES or not isinstance(row["epoch"], int):
        raise ValueError(f"a line needs a phase of {PHASES} and an epoch: {row['phase']!r}, {row['epoch']!r}")
    line = _line(row)
    with files.naming(path, len(line)), path.open("a") as file:
        file.write(line)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").split("\n")
    # what follows the last newline is half written
    return [_read_line(line, f"{path} is damaged: line {i}") for i, line in enumerate(lines[:-1], 1)]


def _read_line(text: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    if not isinstance(row, dict) or row.get("phase") not in PHASES or type(row.get("epoch")) is not int:
        raise InputError(f"{where}: must be an object with a phase, one of {', '.join(PHASES)}, and an epoch")
    return row
