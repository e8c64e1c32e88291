"""Results of single policies on disk, for an evaluation that was stopped, or gets more policies."""

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import numpy as np

import adm_jax
from adm_jax.evaluation.policies import TargetPolicy
from adm_jax.runs.surroundings import code_digest

R = TypeVar("R")  # a NamedTuple of arrays
_CODE = "code"  # in a file: the digest of the sources it was made by


class KeptResults(Generic[R]):
    """Results of an estimator, a file for each policy.

    Its name is a digest of what its content depends on: the estimator's settings, the policy and its name.
    ``outdated`` counts the results found that other code has made.
    """

    def __init__(self, folder: Path, kind: Callable[..., R], *depends_on: Any):
        """``depends_on`` are trees of arrays, numbers and strings; ``kind`` makes a result of its fields."""
        self.folder, self._kind, self._depends_on = folder, kind, _digest((adm_jax.__version__, depends_on))
        self.outdated = 0

    def _path(self, policy: TargetPolicy) -> Path:
        digest = _digest((self._depends_on, policy.name, policy.kind, policy.params))
        return self.folder / f"{digest[:32]}.npz"

    def get(self, policy: TargetPolicy) -> R | None:
        """A policy's result, if there is one that can be read and that this code has made."""
        try:
            with self._path(policy).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                arrays = dict(archive)
            if str(arrays.pop(_CODE, "")) != code_digest():
                self.outdated += 1
                return None
            return self._kind(**arrays)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile):
            return None

    def put(self, policy: TargetPolicy, result: Any) -> None:
        """Keeps a policy's result; nobody finds half of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self._path(policy)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        with temporary.open("wb") as file:
            arrays = {**result._asdict(), _CODE: np.asarray(code_digest())}
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _digest(tree: Any) -> str:
    leaves, structure = jax.tree.flatten(jax.device_get(tree))
    content = hashlib.sha256(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, np.ndarray | np.generic):
            content.update(f"{leaf.dtype}{leaf.shape}".encode())
            content.update(np.ascontiguousarray(leaf).tobytes())
        else:
            content.update(repr(leaf).encode())
        content.update(b";")
    return content.hexdigest()
