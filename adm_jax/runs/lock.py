"""One process at a time on a run's folder.

The lock is the kernel's (``flock``), which frees it when its process ends, however that happens; over NFS it
is the server's. Not every network file system passes it on to other hosts, so its holder is named beside it:
while a file tells of a process on another host that has not said that it ended, the folder is not taken.
"""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from adm_jax import files
from adm_jax.types import InputError

_LOCK, _HOLDER = ".lock", ".lock.json"


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder's lock; what a process that died on this host has left of its own is taken over.

    Raises:
      InputError: another process holds it, or one on another host may; the message names that process.
    """
    lock, holder = filelock.FileLock(folder / _LOCK), folder / _HOLDER
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise InputError(f"{folder}: {_describe(holder)} works on this run; wait or stop it") from error
    try:
        if holder.exists() and _read(holder).get("host") != socket.gethostname():
            raise InputError(
                f"{folder}: {_describe(holder)} has not said that it ended; if it has, remove {holder}"
            )
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        values = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        files.write_atomically(holder, json.dumps(values))
        try:
            yield
        finally:
            holder.unlink(missing_ok=True)
    finally:
        lock.release()


def _read(holder: Path) -> dict[str, Any]:
    """What the file tells of a process; nothing where it is gone or damaged."""
    try:
        values = json.loads(holder.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return values if isinstance(values, dict) else {}


def _describe(holder: Path) -> str:
    values = _read(holder)
    if values.keys() >= {"pid", "host", "since"}:
        return f"process {values['pid']} on {values['host']}, since {values['since']},"
    return "another process"  # it is just beginning or ending
