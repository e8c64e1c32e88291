"""Arrays in a folder, as orbax writes and reads them; whoever calls this is the only process that does."""

import contextlib
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

_EMPTY = {"": np.zeros(1, np.int8)}  # orbax refuses a tree without arrays


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by their names. Raises OSError: the folder cannot be written."""
    context = ocp.Context()
    context.array.saving.use_compression = False  # 3 times as fast; float noise shrinks by a tenth only
    with _alone(), context, _errors_of_the_disk():
        ocp.save(str(folder), _EMPTY | _stored(arrays))


def read(folder: Path, targets: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of the names, shapes and types of ``targets``."""
    with _alone():
        stored = ocp.load(str(folder), _EMPTY | _stored(targets))
    return {name: np.asarray(stored.get(name, target)) for name, target in targets.items()}


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Of several processes of a run (adm_jax.runs.hosts) one alone saves and loads.

    Orbax asks JAX how many there are, and waits for all of them when it saves, also where its
    ``active_processes`` are to be this one.
    """
    asked = jax.process_count
    jax.process_count = lambda *_: 1
    try:
        yield
    finally:
        jax.process_count = asked


def _stored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Without arrays of size zero, which orbax refuses; their shape says all."""
    return {name: array for name, array in arrays.items() if array.size}


@contextlib.contextmanager
def _errors_of_the_disk() -> Iterator[None]:
    """Makes an OSError of what orbax raises where a file cannot be written, and of pages it logs nothing.

    Its other writes fail behind the first, and tell an event loop that is closed by then; after a failure
    that stays silent.
    """
    log, shown = logging.getLogger("absl"), sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            shown(unraisable)

    was, log.disabled, sys.unraisablehook = log.disabled, True, hook
    try:
        yield
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1]))) from error
    else:
        sys.unraisablehook = shown
    finally:
        log.disabled = was
