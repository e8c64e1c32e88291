"""A run's folder: what was run, its metrics line by line, its result and its curves.

    <workdir>/<algorithm>/<task>/<run_id>/
      config.json     resolved configuration and where it comes from, members, environment, versions, commit,
                      device, command line
      metrics.jsonl   a line per epoch; arrays over the population, never averaged
      eval.jsonl      a line per evaluation; every episode's return
      checkpoints/    see adm_jax.runs.checkpoint
      tensorboard/    the numbers of both files as TensorBoard's event file
      curves.png      learning curves, drawn as it goes
      batches/        where not all members fit into memory at once: a folder like this one for each batch
      result.json     final returns and scores per member, wall clock

Lines bear ``phase`` (``fit``, ``model``, ``pretrain``, ``bc``, ``train``, in this order) and ``epoch``;
numbers that are not finite become null, as JSON knows none.
"""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import adm_jax
from adm_jax.population.members import Member, seeds_of
from adm_jax.runs import curves, files
from adm_jax.runs.event_files import EventLog
from adm_jax.runs.lock import lock_folder
from adm_jax.types import InputError

PHASES = ("fit", "model", "pretrain", "bc", "train")  # of lines, in the order a run goes through them
_CONFIG, _METRICS, _EVAL, _RESULT = "config.json", "metrics.jsonl", "eval.jsonl", "result.json"
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "distrax", "chex", "orbax-checkpoint"),
    *("mujoco", "gymnasium", "minari", "numpy"),
)


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
            _write_json(path / _CONFIG, config)
        except OSError as error:
            shutil.rmtree(path, ignore_errors=True)
            raise InputError(f"workdir: cannot write {path}: {error.strerror}") from error
        return cls(path, json.loads((path / _CONFIG).read_text()), made)

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], required: Collection[str] = (), *, read_only: bool = False
    ) -> "RunFolder":
        """An existing run's folder; ``required`` is that of ``require``.

        Raises InputError: the folder holds no run, or cannot be written and is not ``read_only``.
        """
        path = resolve_path("resume", path)
        try:
            config = json.loads((path / _CONFIG).read_text())
        except OSError as error:
            raise InputError(f"{path} holds no run: {_CONFIG}: {error.strerror}") from error
        except ValueError as error:
            raise InputError(f"{path} holds no run: {_CONFIG} is damaged") from error
        _require(path, config, required)
        if not read_only and not os.access(path, os.W_OK):
            raise InputError(f"{path} cannot be written")
        return cls(path, config)

    def part(self, number: int, members: Sequence[Member]) -> "RunFolder":
        """The folder of some of the members, ``batches/<number>`` in this one; made if it does not exist."""
        path = self.path / "batches" / str(number)
        path.mkdir(parents=True, exist_ok=True)
        config = {**self.config, "members": [member.to_dict() for member in members]}
        _write_json(path / _CONFIG, config)
        return RunFolder(path, config)

    def parts(self) -> "list[RunFolder]":
        """The folders that hold the members' checkpoints: those of the batches in order, or this one."""
        batches = [path for path in (self.path / "batches").glob("*") if path.name.isdecimal()]
        ordered = sorted(batches, key=lambda path: int(path.name))
        return [RunFolder.open(path, read_only=True) for path in ordered] or [self]

    @property
    def batch_size(self) -> int | None:
        """Members of a batch, if the run was begun in batches."""
        path = self.path / "batches" / "0" / _CONFIG
        return len(json.loads(path.read_text())["members"]) if path.exists() else None

    def require(self, names: Collection[str]) -> None:
        """Raises InputError if the flat configuration in config.json lacks a name.

        A leaf that it lacks would silently take its default.
        """
        _require(self.path, self.config, names)

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

    def truncate(self, phase: str | None = None, epoch: int = 0) -> None:
        """Cuts the files back to a restored checkpoint: lines after ``epoch`` of ``phase`` are dropped.

        Without a phase everything is dropped. A line that a killed process has half written goes too.
        """
        last = (-1, 0) if phase is None else (PHASES.index(phase), epoch)
        for name in (_METRICS, _EVAL):
            path = self.path / name
            if path.exists():
                rows = _read_lines(path)
                kept = [row for row in rows if (PHASES.index(row["phase"]), row["epoch"]) <= last]
                files.write_atomically(path, "".join(map(_line, kept)))
        self._events.rewrite([*self.read_metrics(), *self.read_eval()])

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Writes result.json, or leaves the one before it whole."""
        _write_json(self.path / _RESULT, result)

    def read_result(self) -> dict[str, Any] | None:
        """result.json; None while the run is not finished."""
        path = self.path / _RESULT
        try:
            return json.loads(path.read_text()) if path.exists() else None
        except ValueError as error:
            raise InputError(f"{path} is damaged: {error}; remove it") from error

    def draw_curves(self, references: Mapping[str, float] | None = None, warmup_steps: int = 0) -> None:
        """Draws curves.png from what has been logged.

        Args:
          references: label -> return, drawn as horizontal lines like behaviour cloning's.
          warmup_steps: environment steps of random actions before anything is learned, shaded.
        """
        temporary = self.path / ".curves.png"
        title = f"{self.config['algorithm']} on {self.config['task']}"
        evals, metrics = self.read_eval(), self.read_metrics()
        trained = [row for row in evals if row["phase"] == "train"]
        lines = dict(references or {})
        for row in evals:
            if row["phase"] == "bc":
                lines["behaviour cloning"] = float(np.mean(np.asarray(row["eval/return"], np.float64)))
        shown = temporary, metrics, trained, title, self.members, lines, warmup_steps
        curves.draw(*shown, evaluated="not_evaluated" not in self.config)
        os.replace(temporary, self.path / "curves.png")


def require_writable(name: str, path: str | os.PathLike[str]) -> None:
    """Checks before anything is computed, and without making it, that a folder can be made, or written.

    Args:
      name: the flag it came from.
      path: the folder.

    Raises:
      InputError: it cannot; the message names what is in the way.
    """
    path = resolve_path(name, path)
    existing = next(folder for folder in [path, *path.parents] if folder.exists())
    if not existing.is_dir():
        raise InputError(f"{name}: cannot write {path}: {existing} is not a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{name}: cannot write {path}: no permission to write in {existing}")


def describe_surroundings() -> dict[str, Any]:
    """Versions, commit, device and command line: what a result depends on, its configuration apart."""
    devices = jax.devices()
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "adm_jax": adm_jax.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "git_commit": _git_commit(Path(adm_jax.__file__).parent),
        "device": {"platform": devices[0].platform, "kind": devices[0].device_kind, "count": len(devices)},
        "command_line": sys.orig_argv,
    }


def to_json(value: Any) -> Any:
    """A value in JSON's terms: arrays as nested lists, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    if isinstance(value, (jax.Array, np.ndarray)):
        array = np.asarray(value)
        return to_json(list(array)) if array.ndim else to_json(array[()])
    if isinstance(value, np.generic):
        # float32 as the shortest decimal that reads back as the same float32
        value = float(str(value)) if value.dtype == np.float32 else value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _tags(members: Sequence[Member]) -> tuple[list[str], list[str]]:
    """Names of the members, and of their seeds."""
    return [member.tag for member in members], [f"seed{seed}" for seed in seeds_of(members)]


def resolve_path(name: str, path: str | os.PathLike[str]) -> Path:
    """A folder as absolute path, ``~`` expanded; ``name`` is the flag it came from."""
    if not os.fspath(path):
        raise InputError(f"{name}: empty; give a folder, as in --{name}=runs")
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError as error:  # ~name of nobody
        raise InputError(
            f"{name}: {os.fspath(path)}: there is no such user; write ./~ for a folder ~"
        ) from error


def _require(path: Path, config: Any, names: Collection[str]) -> None:
    lacking = _lacking(config, names)
    if lacking:
        version = ""
        if all(name.startswith("config.") for name in lacking):
            version = "; it was begun by another version, whose runs this one cannot continue"
        raise InputError(f"{path} holds no run: {_CONFIG} lacks {', '.join(lacking)}{version}")


def _lacking(config: Any, required: Collection[str]) -> list[str]:
    """What a config.json does not hold, by name."""
    if not isinstance(config, dict):
        return ["algorithm", "task", "members", "config"]
    lacking = [name for name in ("algorithm", "task") if not isinstance(config.get(name), str)]
    members = config.get("members")
    if not isinstance(members, list) or not all(map(_is_member, members)):
        lacking.append("members")
    flat = config.get("config")
    if not isinstance(flat, dict):
        return [*lacking, "config"]
    return lacking + sorted(f"config.{name}" for name in required if name not in flat)


def _is_member(values: Any) -> bool:
    """Whether a value is what Member.to_dict gives."""
    if not isinstance(values, dict) or not isinstance(values.get("seed"), int):
        return False
    return all(isinstance(value, int | float) for value in values.values())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_commit(package: Path) -> str | None:
    """The commit the package is run from, marked where files differ from it; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not just installed below someone's repository
        changed = git("status", "--porcelain", "--untracked-files=no", ".")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _make_new(parent: Path) -> Path:
    parent.mkdir(parents=True, exist_ok=True)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    for number in range(1, 1000):
        path = parent / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            path.mkdir()
            return path
        except FileExistsError:  # a run begun in the same second
            continue
    raise FileExistsError(0, "too many runs in one second", str(parent))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(to_json(row), allow_nan=False) + "\n"


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


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    files.write_atomically(path, json.dumps(to_json(value), indent=2, allow_nan=False) + "\n")
