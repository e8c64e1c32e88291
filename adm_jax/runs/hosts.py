"""Several processes that train one population together, through ``jax.distributed``.

Each has its share of the members, on devices of its own, and computes as if there were no others. What they
tell each other goes from host to host (gloo), whatever the members run on; the first process decides what is
done next. All of them make the same exchanges in the same order: one that fails takes part in the next one
with its error, and all end with it.
"""

import contextlib
import functools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adm_jax.runs import signals
from adm_jax.types import InputError

AUTO = "auto"  # as coordinator: the scheduler's variables tell
_SIZES = (2**12, 2**16, 2**19, 2**22)  # bytes that a process gives at a time; each is a program of its own
_HEAD = _SIZES[0] - 8  # bytes that go with their own number
_ARRAY = "__array__"


class Lost(InputError):
    """Another process of the run is gone: nothing can be agreed upon any more."""


def join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> bool:
    """Makes this process one of several, before JAX is used; without a coordinator it stays alone.

    Args:
      coordinator: ``HOST:PORT`` of the first process, or ``auto`` for what SLURM, Open MPI or another
        scheduler that JAX knows has put into the environment.
      num_processes: how many there are; None with ``auto``.
      process_id: which of them this is, from 0; None with ``auto``.

    Returns:
      Whether it is one of several.

    Raises:
      InputError: they contradict each other, or the processes do not find each other.
    """
    if coordinator is None:
        for name, value in (("num_processes", num_processes), ("process_id", process_id)):
            if value is not None:
                raise InputError(
                    f"{name}: says nothing without --coordinator=HOST:PORT, of the first process"
                )
        return False
    given = {}
    if coordinator == AUTO:
        for name, value in (("num_processes", num_processes), ("process_id", process_id)):
            if value is not None:
                raise InputError(f"{name}: --coordinator={AUTO} takes it from the scheduler; leave it out")
    else:
        if re.fullmatch(r".+:\d+", coordinator) is None:
            raise InputError(
                f"coordinator: {coordinator!r} is neither HOST:PORT of the first process nor {AUTO}"
            )
        if num_processes is None or process_id is None:
            missing = "num_processes" if num_processes is None else "process_id"
            raise InputError(f"{missing}: is needed with --coordinator={coordinator}")
        if not 0 <= process_id < num_processes:
            raise InputError(f"process_id: {process_id} is not one of 0 to {num_processes - 1}")
        given = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "cluster_detection_method": "deactivate",
        }
    jax.config.update("jax_enable_preemption_service", False)  # it would hear the signals in our place
    try:
        # who is gone is noticed by the connections; a host that stands still for minutes shall not end all
        jax.distributed.initialize(**given, heartbeat_timeout_seconds=600)
    except (ValueError, RuntimeError) as error:
        if coordinator == AUTO and "should be defined" in str(error):
            raise InputError(
                f"coordinator: {AUTO} finds no scheduler's variables here; give HOST:PORT, num_processes "
                "and process_id"
            ) from error
        raise InputError(f"coordinator: {coordinator}: {' '.join(str(error).split())}") from error
    return True


@contextlib.contextmanager
def joined(coordinator: str | None, num_processes: int | None, process_id: int | None) -> Iterator[None]:
    """Within it this process is one of several: see ``join``. They leave together, unless one is Lost."""
    several = join(coordinator, num_processes, process_id)
    try:
        yield
    except Lost:  # who would be waited for
        raise
    except BaseException:
        _leave(several)
        raise
    _leave(several)


def _leave(several: bool) -> None:
    if several:
        jax.distributed.shutdown()


class Hosts:
    """The processes of this run; alone, without ``jax.distributed``, it is one."""

    def __init__(self) -> None:
        self.count, self.index = jax.process_count(), jax.process_index()
        self._over = self.count == 1  # nobody listens

    @property
    def is_first(self) -> bool:
        """Whether this process has the run's folder, and decides."""
        return self.index == 0

    # --- what they tell each other ---

    def exchange(self, value: Any) -> list[Any]:
        """What every process gives, in their order; values are JSON's, and arrays.

        Raises:
          InputError: one of them ends with an error, which the message has.
          Interrupted: a signal ends one of them.
          Lost: one is gone.
        """
        if self.count == 1:
            return [_unpack(_pack(value))]
        if self._over:
            raise Lost("the other processes of this run have ended")
        found = [_unpack(data) for data in self._collect(_pack({"value": value}))]
        for index, each in enumerate(found):
            if "value" not in each:
                self._over = True
                if each["signal"] is not None:
                    raise signals.Interrupted(each["signal"])
                raise InputError(f"process {index}: {each['error']}")
        return [each["value"] for each in found]

    def any(self, value: bool) -> bool:
        """Whether it is so for any process."""
        return bool(value) if self.count == 1 else any(self.exchange(bool(value)))

    def tell(self, command: str, value: Any = None) -> None:
        """The first process says what is done next; the others ``hear`` it."""
        if not self._over:
            self.exchange([command, value])

    def hear(self) -> tuple[str, Any]:
        """What the first process tells."""
        command, value = self.exchange(None)[0]
        return command, value

    def end(self, value: Any) -> Any:
        """The first process says that all is done, with the value that the others hear; returns it."""
        self.tell("end", value)
        self._over = True
        return value

    def fail(self, error: BaseException) -> None:
        """Takes part in the next exchange with what ends this process; then nobody listens any more."""
        if self._over:
            return
        self._over = True
        number = error.number if isinstance(error, signals.Interrupted) else None
        with contextlib.suppress(Lost):
            self._collect(_pack({"error": str(error) or type(error).__name__, "signal": number}))

    @contextlib.contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """What ends this process within it ends the others, too."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            raise

    def gather(self, array: np.ndarray, shapes: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Every process's array, for the first; empty for the others, who keep nothing of it.

        Args:
          array: of this process.
          shapes: of all processes' arrays, which have one dtype.
        """
        if self.count == 1:
            return [array]
        sizes = [int(np.prod(shape)) * array.dtype.itemsize for shape in shapes]
        kept = [np.empty(size if self.is_first else 0, np.uint8) for size in sizes]
        data = np.frombuffer(array.tobytes(), np.uint8)
        for start, width in _stretches(max(sizes)):
            rows = self._all_of(_padded(data[start : start + width], width))
            for own, size, row in zip(kept, sizes, rows, strict=True):
                if self.is_first:
                    stop = min(start + width, size)
                    own[start:stop] = row[: max(stop - start, 0)]
        if not self.is_first:
            return []
        return [x.view(array.dtype).reshape(shape) for x, shape in zip(kept, shapes, strict=True)]

    def spread(self, array: np.ndarray) -> np.ndarray:
        """The first process's array, for all; the others give one of its shape and dtype."""
        if self.count == 1:
            return array
        data = np.frombuffer(array.tobytes(), np.uint8)
        found = np.empty_like(data)
        for start, width in _stretches(data.size):
            part = data[start : start + width]
            found[start : start + part.size] = self._first_of(_padded(part, width))[: part.size]
        return found.view(array.dtype).reshape(array.shape)

    # --- how ---

    def _collect(self, data: bytes) -> list[bytes]:
        """Every process's bytes."""
        head = len(data).to_bytes(8, "big")
        rows = self._all_of(_padded(np.frombuffer(head + data[:_HEAD], np.uint8), _SIZES[0]))
        sizes = [int.from_bytes(row[:8].tobytes(), "big") for row in rows]
        found = [[row[8 : 8 + size].tobytes()] for row, size in zip(rows, sizes, strict=True)]
        rest = np.frombuffer(data, np.uint8)[_HEAD:]
        for start, width in _stretches(max(sizes) - _HEAD):
            rows = self._all_of(_padded(rest[start : start + width], width))
            for parts, size, row in zip(found, sizes, rows, strict=True):
                parts.append(row[: max(size - _HEAD - start, 0)].tobytes())
        return [b"".join(parts) for parts in found]

    def _all_of(self, data: np.ndarray) -> np.ndarray:
        return self._run(_programs()[0], data)

    def _first_of(self, data: np.ndarray) -> np.ndarray:
        return self._run(_programs()[1], data)

    def _run(self, program: Any, data: np.ndarray) -> np.ndarray:
        """A collective operation on [B] of every process; no signal comes between it and its result."""
        own = NamedSharding(_mesh(), PartitionSpec("processes"))
        with signals.held(raises=False):
            try:
                given = jax.make_array_from_process_local_data(own, data[None], (self.count, *data.shape))
                return np.asarray(program(given).addressable_data(0))
            except (ValueError, RuntimeError) as error:
                self._over = True
                reason = " ".join(str(error).split())
                raise Lost(f"another process of this run is gone ({reason})") from error


@functools.cache
def _mesh() -> Mesh:
    """A CPU device of each process."""
    firsts: dict[int, Any] = {}
    for device in jax.devices("cpu"):
        firsts.setdefault(device.process_index, device)
    return Mesh([firsts[index] for index in sorted(firsts)], ("processes",))


@functools.cache
def _programs() -> tuple[Any, Any]:
    """``[N, B] -> [N, B]`` and ``[N, B] -> [B]``, the first row: for every process."""
    everywhere = NamedSharding(_mesh(), PartitionSpec())
    return tuple(jax.jit(f, out_shardings=everywhere) for f in (lambda x: x, lambda x: x[0]))  # pyright: ignore


def _stretches(total: int) -> Iterator[tuple[int, int]]:
    """Beginnings and widths, of ``_SIZES``, of what so many bytes are given in."""
    start = 0
    while start < total:
        width = next((size for size in _SIZES if size >= total - start), _SIZES[-1])
        yield start, width
        start += width


def _padded(data: np.ndarray, size: int) -> np.ndarray:
    return np.pad(data, (0, size - data.size))


def _pack(value: Any) -> bytes:
    """JSON, and behind it the arrays it names."""
    arrays: list[np.ndarray] = []

    def plain(x: Any) -> Any:
        if isinstance(x, (np.ndarray, np.generic, jax.Array)):
            arrays.append(np.asarray(x, order="C"))
            return {_ARRAY: [str(arrays[-1].dtype), list(arrays[-1].shape)]}
        if isinstance(x, Mapping):
            return {name: plain(each) for name, each in x.items()}
        return [plain(each) for each in x] if isinstance(x, (list, tuple)) else x

    text = json.dumps(plain(value)).encode()
    return b"".join([len(text).to_bytes(8, "big"), text, *(array.tobytes() for array in arrays)])


def _unpack(data: bytes) -> Any:
    size = 8 + int.from_bytes(data[:8], "big")
    position = size

    def whole(x: Any) -> Any:
        nonlocal position
        if isinstance(x, dict) and _ARRAY in x:
            dtype, shape = np.dtype(x[_ARRAY][0]), x[_ARRAY][1]
            count = int(np.prod(shape))
            array = np.frombuffer(data, dtype, count, position).reshape(shape)
            position += count * dtype.itemsize
            return array
        if isinstance(x, dict):
            return {name: whole(each) for name, each in x.items()}
        return [whole(each) for each in x] if isinstance(x, list) else x

    return whole(json.loads(data[8:size]))
