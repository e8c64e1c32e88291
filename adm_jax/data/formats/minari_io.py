"""The data store: a dataset by its Minari id, wherever it has to come from."""

import logging
from pathlib import Path

from adm_jax.data import builtin
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_remote
from adm_jax.data.formats.minari_write import save
from adm_jax.types import InputError

__all__ = ["load", "save"]

logger = logging.getLogger(__name__)


def load(dataset_id: str, *, root: Path | None = None) -> EpisodeData:
    """Loads and validates a dataset: local, built-in, or from Minari's remote, in this order.

    ``metadata`` of the data holds ``env_id`` and what was kept when it was saved. Without ``root`` it is
    ``minari_files.datasets_root()``. Raises InputError: one line: a malformed id; no such dataset (within
    seconds where there is no network); damaged or invalid data.
    """
    minari_files.check_id(dataset_id)
    if not minari_files.exists(dataset_id, root):
        if dataset_id in builtin.FILES:
            try:
                builtin.ensure(dataset_id, root=root)
            except InputError as error:  # the packaged data do not need a store that can be written
                logger.warning("%s; going on without a copy", error)
                return builtin.unpack(builtin.FILES[dataset_id])
        else:
            minari_files.check_free(dataset_id, root)
            minari_remote.download(dataset_id, minari_files.datasets_root() if root is None else root)
    if dataset_id in builtin.FILES:
        return _read_builtin(dataset_id, root)
    return minari_files.read(dataset_id, root)


def _read_builtin(dataset_id: str, root: Path | None) -> EpisodeData:
    """The store's copy of a built-in dataset; the packaged file itself where the copy is not the same."""
    expected = builtin.packed_digests(builtin.FILES[dataset_id])
    try:
        data = minari_files.read(dataset_id, root)
        if expected is None or data.digests() == expected:
            return data
        reason = f"{dataset_id}: the copy is not the packaged dataset"
    except InputError as error:
        if expected is None:
            raise
        reason = str(error)
    folder = minari_files.dataset_dir(dataset_id, root)
    logger.warning("%s; taking the packaged file; delete %s", reason, folder)
    return builtin.unpack(builtin.FILES[dataset_id])
