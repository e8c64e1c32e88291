"""One process at a time on a run's folder."""

import contextlib
import datetime
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import filelock

from adm_jax.types import InputError

_LOCK, _HOLDER = ".lock", ".lock.json"


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder's lock; the system frees it when the process ends, however that happens.

    Raises:
      InputError: another process holds it; the message names that process.
    """
    lock, holder = filelock.FileLock(folder / _LOCK), folder / _HOLDER
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise InputError(f"{folder}: {_describe(holder)} works on this run; wait or stop it") from error
    try:
        since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        holder.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _describe(holder: Path) -> str:
    try:
        values = json.loads(holder.read_text())
        return f"process {values['pid']} on {values['host']}, since {values['since']},"
    except (OSError, ValueError, LookupError, TypeError):  # it is just beginning or ending
        return "another process"
