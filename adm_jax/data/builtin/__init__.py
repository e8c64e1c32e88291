"""The built-in dataset: one compressed file in the package, copied into the user's Minari store at first use.

The file is an ordinary ``.xz`` (own checksum included). Inside: a line of JSON (shapes, metadata, SHA-256 of
every field), then the arrays. Observations are kept as T + 1 per episode, so ``next_obs`` costs one row per
episode. Every column is split into its four byte planes (2.7 MB against 3.0 for 60,000 Hopper transitions).
"""

import json
import lzma
import os
import tempfile
from pathlib import Path

import numpy as np

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.data.formats import minari_files, minari_write
from adm_jax.types import InputError

BUILTIN_ID = "adm_jax/hopper-replay-v0"
FILES = {BUILTIN_ID: Path(__file__).parent / "hopper_replay.xz"}
REQUIRED_METADATA = ("env_id", "command", "seed", "versions")
_FORMAT = "adm_jax packed episodes 1"


def pack(data: EpisodeData, path: Path) -> int:
    """Writes data with ``REQUIRED_METADATA`` as one ``.xz`` file, in one rename; returns its size in bytes.

    The same data give the same file. Raises InputError: the data are invalid, their metadata lack an entry,
    or the file cannot be written.
    """
    validation.validate(data)
    missing = [name for name in REQUIRED_METADATA if data.metadata.get(name) is None]
    if missing:
        raise InputError(
            f"{data.source}: metadata lack {', '.join(missing)}; a built-in dataset says how it was made"
        )
    after_ends = data.episode_ends + 1
    table = np.insert(data.obs, after_ends, data.next_obs[after_ends - 1], axis=0)
    header = {
        "format": _FORMAT,
        "num_transitions": len(data.obs),
        "num_episodes": len(after_ends),
        "obs_dim": data.obs.shape[1],
        "action_dim": data.action.shape[1],
        "metadata": {**data.metadata, **data.return_statistics(), "sha256": data.digests()},
    }
    parts = [json.dumps(header, sort_keys=True).encode() + b"\n"]
    parts += [np.packbits(data.terminated).tobytes(), np.packbits(data.truncated).tobytes()]
    columns = [*table.T, *data.action.T, data.reward]
    parts += [
        np.ascontiguousarray(column.astype("<f4").view(np.uint8).reshape(-1, 4).T).tobytes()
        for column in columns
    ]
    packed = lzma.compress(b"".join(parts), preset=9 | lzma.PRESET_EXTREME)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".packing-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(packed)
            os.chmod(temporary, 0o644)  # mkstemp's 0600 would make a package unreadable for others
            os.replace(temporary, path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({minari_files.one_line(error)})") from error
    return len(packed)


def unpack(path: Path) -> EpisodeData:
    """Reads and validates what ``pack`` wrote, bit for bit.

    Raises InputError: one line: the file is missing, damaged, or of another format.
    """
    source = str(path)
    try:
        content = lzma.decompress(path.read_bytes())
        line, _, body = content.partition(b"\n")
        header = json.loads(line)
        if header["format"] != _FORMAT:
            raise InputError(f"{source}: format is {header['format']!r}; must be {_FORMAT!r}")
        data = _unpack_arrays(header, body, source)
    except InputError:
        raise
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{source}: cannot be read, damaged or cut short ({minari_files.one_line(error)})"
        ) from error
    validation.validate(data)
    validation.check_digests(data, data.metadata.get("sha256"))
    return data


def packed_digests(path: Path) -> dict[str, str] | None:
    """Every field's SHA-256 as a packed file's first line states it; None where it cannot be read."""
    try:
        with lzma.open(path) as file:
            return json.loads(file.readline())["metadata"]["sha256"]
    except (OSError, EOFError, lzma.LZMAError, ValueError, KeyError, TypeError):
        return None


def ensure(dataset_id: str = BUILTIN_ID, *, root: Path | None = None) -> Path:
    """The folder of a built-in dataset's Minari copy, made now if this is its first use.

    Safe against others doing the same and against being killed: the copy appears complete, by one rename.
    Without ``root`` it is ``minari_files.datasets_root()``. Raises InputError: no such built-in dataset, or
    the copy cannot be written.
    """
    if dataset_id not in FILES:
        raise InputError(f"dataset: {dataset_id} is not built in; one of {', '.join(FILES)}")
    if not minari_files.exists(dataset_id, root):
        data = unpack(FILES[dataset_id])
        try:
            minari_write.save(data, dataset_id, env_id=data.metadata["env_id"], root=root)
        except InputError:
            if not minari_files.exists(dataset_id, root):  # else another process was quicker
                raise
    return minari_files.dataset_dir(dataset_id, root)


def _unpack_arrays(header: dict, body: bytes, source: str) -> EpisodeData:
    n, num_episodes = header["num_transitions"], header["num_episodes"]
    num_flag_bytes = -(-n // 8)
    flags = np.frombuffer(body, np.uint8, 2 * num_flag_bytes).reshape(2, -1)
    terminated, truncated = (np.unpackbits(row, count=n).astype(bool) for row in flags)
    ends = np.flatnonzero(terminated | truncated)
    offset = 2 * num_flag_bytes

    def column(rows: int) -> np.ndarray:
        nonlocal offset
        planes = np.frombuffer(body, np.uint8, 4 * rows, offset).reshape(4, rows)
        offset += 4 * rows
        return np.ascontiguousarray(planes.T).view("<f4")[:, 0].astype(np.float32)

    table = np.stack([column(n + num_episodes) for _ in range(header["obs_dim"])], axis=1)
    action = np.stack([column(n) for _ in range(header["action_dim"])], axis=1)
    reward = column(n)
    if len(ends) != num_episodes or offset != len(body):
        raise ValueError("counts do not match the header's")
    last_obs = ends + 1 + np.arange(num_episodes)  # rows of the table that start no transition
    first_obs = last_obs - np.diff(ends, prepend=-1)
    return EpisodeData(
        obs=np.delete(table, last_obs, axis=0),
        action=action,
        reward=reward,
        next_obs=np.delete(table, first_obs, axis=0),
        terminated=terminated,
        truncated=truncated,
        source=source,
        metadata=header["metadata"],
    )
