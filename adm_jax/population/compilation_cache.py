"""Compiled programs kept on disk, so that a second run of the same shapes begins at once."""

import errno
import hashlib
import os
import platform
from pathlib import Path

import jax
import platformdirs

from adm_jax.population.devices import require_jax
from adm_jax.types import InputError

OFF = "off"
_VARIABLE = "JAX_COMPILATION_CACHE_DIR"  # JAX's own: whoever has set it knows better
_MAX_BYTES = 2 * 2**30  # the programs that were used longest ago go first
_MIN_SECONDS = 0.5  # what compiles faster is not worth a file


def enable(folder: str | None = None) -> Path | None:
    """Makes JAX keep what it compiles, for this process and later ones; to be called before it compiles.

    A program that was compiled for one processor may not run on another, and home folders are shared between
    machines: on CPU every kind of processor has a folder of its own.

    Args:
      folder: where; ``off`` for nowhere; in the user's cache folder when None, if that can be written.

    Returns:
      The folder; None if there is none.

    Raises:
      InputError: a folder that was given cannot be written, or JAX cannot be used: see ``require_jax``.
    """
    require_jax()
    if folder == OFF or (folder is None and os.environ.get(_VARIABLE)):
        return None
    path = (Path(folder).expanduser() if folder else platformdirs.user_cache_path("adm_jax")) / _machine()
    try:
        path.mkdir(parents=True, exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        if folder:
            raise InputError(
                f"compilation_cache: cannot write {path}: {error.strerror}; give another folder, or {OFF}"
            ) from error
        return None
    jax.config.update("jax_compilation_cache_dir", os.fspath(path.absolute()))
    jax.config.update("jax_compilation_cache_max_size", _MAX_BYTES)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _MIN_SECONDS)
    return path


def _machine() -> str:
    """A name for what programs are compiled for."""
    if jax.default_backend() != "cpu":
        return jax.default_backend()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    wanted = ("model name", "flags", "Features", "CPU part")
    features = sorted({line for line in lines if line.startswith(wanted)})
    return f"cpu-{hashlib.sha256(repr(features).encode()).hexdigest()[:12]}"
