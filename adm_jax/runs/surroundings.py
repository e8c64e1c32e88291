"""What a result depends on but its settings: code, versions, variables, device; and who began it where."""

import datetime
import functools
import getpass
import hashlib
import importlib.metadata
import os
import platform
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

import adm_jax

_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "distrax", "chex", "orbax-checkpoint"),
    *("mujoco", "gymnasium", "minari", "numpy"),
)
_VARIABLES = ("JAX_", "XLA_", "NVIDIA_TF32_", "MUJOCO_")  # beginnings of those that results may depend on
OF_STRETCH = ("created", "git_commit", "code_sha256", "versions", "environment", "device")
_DECISIVE = (  # of surroundings and a run's own record: where they change, so may its numbers
    *("code_sha256", "device.platform", "device.kind", "dataset_sha256", "own_code_sha256"),
    "action_bounds",  # of a task without an environment
    *(f"versions.{package}" for package in ("jax", "jaxlib", "mujoco", "gymnasium", "minari")),
)


def describe_surroundings() -> dict[str, Any]:
    """Commit and digest of the code, versions, variables, device, host, user and command line."""
    devices = jax.local_devices()
    return {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {
            "adm_jax": adm_jax.__version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        "git_commit": _git_commit(Path(adm_jax.__file__).parent),
        "code_sha256": code_digest(),
        "environment": {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_VARIABLES)},
        "device": {
            "platform": devices[0].platform,
            "kind": devices[0].device_kind,
            "count": jax.device_count(),
        },
        **whereabouts(),
        "command_line": sys.orig_argv,
    }


def whereabouts() -> dict[str, str]:
    """Host and user."""
    try:
        user = getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return {"host": socket.gethostname(), "user": user}


@functools.cache
def code_digest() -> str:
    """SHA-256 of the package's sources."""
    root, content = Path(adm_jax.__file__).parent, hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        content.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return content.hexdigest()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What decides about a run's numbers and is another now: key -> (before, now)."""
    ours, theirs = dict(_flat(before)), dict(_flat(now))
    names = [name for name in sorted(ours | theirs) if name.startswith(_DECISIVE)]
    return {name: (ours.get(name), theirs.get(name)) for name in names if ours.get(name) != theirs.get(name)}


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


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
