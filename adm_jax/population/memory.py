"""How much memory a run needs on each of its devices, known before it is allocated."""

import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from adm_jax.types import InputError

_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_LOWER = {  # what takes the memory -> the fields that make it smaller
    "state": "retain_epochs (online: retain_rollouts), rollout_batch_size or the number of seeds",
    "data": "the dataset's size",
    "histories": "history_cache_gib",
    "fit": "fit_batch_size, holdout_batch_size or the number of seeds",
    "rollout": "rollout_chunk or the number of seeds",
    "update": "batch_size or the number of seeds",
}


class DoesNotFit(InputError):
    """A run needs more memory than there is."""


class MemoryEstimate(NamedTuple):
    """Bytes a run needs; programs run one after the other, so only the hungriest one's temporaries count."""

    state: int  # learned arrays, optimisers, buffers, and what is recorded
    data: int  # the dataset; on the device already when the estimate is made
    # the copy that is written while programs run; 0 on an accelerator, where it is made in the host's memory
    checkpoint: int
    temporaries: Mapping[str, int]  # program -> temporaries and results that reuse no argument
    histories: int = 0  # encoded ones that are kept

    @property
    def total(self) -> int:
        """Everything, at the worst moment."""
        return self.data + self.to_allocate

    @property
    def to_allocate(self) -> int:
        """What is not there yet: all but the dataset."""
        return self.state + self.histories + self.checkpoint + max([0, *self.temporaries.values()])

    def largest(self) -> str:
        """The part that takes most: ``state``, ``data``, ``histories`` or a program's name."""
        parts = {"state": self.state, "data": self.data, "histories": self.histories, **self.temporaries}
        return max(parts, key=parts.__getitem__)

    def line(self) -> str:
        """What is needed, in one line."""
        programs = ", ".join(f"{name} {_gib(size)}" for name, size in self.temporaries.items())
        return (
            f"memory: about {_gib(self.total)} GiB: state and buffers {_gib(self.state)}, "
            f"histories {_gib(self.histories)}, "
            f"data {_gib(self.data)}, checkpoint {_gib(self.checkpoint)}, and one at a time: {programs}"
        )


def estimate(
    compiled: Mapping[str, Any],
    state: Any,
    resident: Any = (),
    histories: Any = (),
    kept: Collection[str] = (),
    recorded: Any = (),
) -> MemoryEstimate:
    """Adds up what a run's programs and arrays take.

    Args:
      compiled: name -> ``jax.stages.Compiled``; where the backend tells nothing, it counts as 0.
      state: pytree of (abstract) arrays that live as long as the run and go into the checkpoint.
      resident: pytree of arrays that are on the device already.
      histories: pytree of (abstract) arrays that live as long as roll-outs are made, in no checkpoint.
      kept: names of the programs whose results are part of ``state`` or ``histories``: counted there.
      recorded: pytree of (abstract) arrays in the host's memory, which is counted on a CPU alone.
    """
    temporaries = {
        name: temporary_bytes(program, with_results=name not in kept) for name, program in compiled.items()
    }
    size = tree_bytes(state)
    checkpoint, host = (size, tree_bytes(recorded)) if jax.default_backend() == "cpu" else (0, 0)
    return MemoryEstimate(size + host, tree_bytes(resident), checkpoint, temporaries, tree_bytes(histories))


def temporary_bytes(program: Any, with_results: bool = True) -> int:
    """Bytes a compiled program adds to its arguments: temporaries, and results that reuse none."""
    analysis = program.memory_analysis()
    if analysis is None:
        return 0
    if not with_results:
        return analysis.temp_size_in_bytes
    results = max(analysis.output_size_in_bytes - analysis.alias_size_in_bytes, 0)
    return analysis.temp_size_in_bytes + results


def tree_bytes(tree: Any, whole: bool = False) -> int:
    """Bytes of all (abstract) arrays of a pytree, on one device if they are spread unless ``whole``.

    Typed keys count as their data.
    """
    return sum(_leaf_bytes(leaf, whole) for leaf in jax.tree.leaves(tree))


def require(
    need: MemoryEstimate, limit_gib: float | None = None, device: Any = None, num_devices: int = 1
) -> None:
    """Refuses a run that does not fit, before anything of it is allocated.

    Args:
      need: what the run needs on each of its devices.
      limit_gib: what it may use on each accelerator, or in all on a CPU, whose devices share one memory;
        what is free where None.
      device: one of the run's JAX devices, the default one where None.
      num_devices: how many of them it runs on; the dataset is on the first one alone until then.

    Raises:
      DoesNotFit: the message says what to lower.
    """
    device = device or jax.local_devices()[0]
    sharing = num_devices if device.platform == "cpu" else 1
    others = sharing - 1 if device.platform == "cpu" else min(num_devices - 1, 1)
    total, to_allocate = need.total * sharing, need.to_allocate * sharing + need.data * others
    lower = _LOWER.get(need.largest(), "the number of seeds")
    if limit_gib is not None and total > limit_gib * _GIB:
        needed = f"about {_gib(total)} GiB are needed"
        raise DoesNotFit(f"memory: {needed} and memory_limit_gib is {limit_gib:g}; lower {lower}")
    free = free_bytes(device)
    if limit_gib is None and free is not None and to_allocate > free:
        needed = f"about {_gib(to_allocate)} GiB more are needed"
        raise DoesNotFit(f"memory: {needed} and {_gib(free)} GiB are free; lower {lower}")


def require_compiled(program: str, error: Exception) -> None:
    """Says what a compiler's error means that refuses a program for its memory, as a TPU's does.

    The estimate cannot know: a program that was not compiled tells nothing.

    Raises:
      DoesNotFit: that is what it means; the message says what to lower.
    """
    lines = str(error).splitlines()
    _, found, reason = lines[0].partition("RESOURCE_EXHAUSTED: ") if lines else ("", "", "")
    if found and "shared memory" not in reason.lower():  # which a kernel lacks, not the device
        lower = _LOWER.get(program, "the number of seeds")
        reason = reason.partition(" HLO module:")[0].rstrip(" .")
        raise DoesNotFit(f"memory: the compiler refuses {program}: {reason}; lower {lower}") from error


def free_bytes(device: Any = None) -> int | None:
    """Bytes that can still be allocated on a device (a CPU's share them); None if its backend is silent."""
    device = device or jax.local_devices()[0]
    if device.platform == "cpu":
        return min(psutil.virtual_memory().available, *cgroup_free_bytes(_CGROUP, _own_cgroup()))
    stats = device.memory_stats()
    if not stats or "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)


def accelerator_gib() -> float | None:
    """The memory that JAX may use on this machine's first device; None of a CPU, and if it is silent."""
    device = jax.local_devices()[0]
    stats = None if device.platform == "cpu" else device.memory_stats()
    return stats["bytes_limit"] / _GIB if stats and "bytes_limit" in stats else None


def cgroup_free_bytes(root: Path, own: str) -> list[int]:
    """What Linux control groups (containers, batch systems) leave, one number per limit; often none.

    Args:
      root: where they are mounted.
      own: this process's group, as in ``/proc/self/cgroup``; limits of those above it hold too.
    """
    free = []
    group = root / own.lstrip("/")
    for folder in [group, *group.parents]:
        if folder != root and root not in folder.parents:
            break
        used, limit = _number(folder / "memory.current"), _number(folder / "memory.max")
        if used is not None and limit is not None:
            free.append(max(limit - used + _reclaimable(folder / "memory.stat"), 0))
    old = root / "memory"  # version 1; "no limit" is a huge number there
    used, limit = _number(old / "memory.usage_in_bytes"), _number(old / "memory.limit_in_bytes")
    if used is not None and limit is not None:
        free.append(max(limit - used + _reclaimable(old / "memory.stat"), 0))
    return free


def _own_cgroup() -> str:
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    return next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "")


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None  # "max": no limit


def _reclaimable(path: Path) -> int:
    """File caches count as used but are given back under pressure."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return 0
    values = dict(line.split() for line in lines if len(line.split()) == 2)
    return int(values.get("total_inactive_file", values.get("inactive_file", 0)))


def _leaf_bytes(leaf: Any, whole: bool = False) -> int:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    sharding = getattr(leaf, "sharding", None)
    shape = leaf.shape if whole or sharding is None else sharding.shard_shape(leaf.shape)
    return math.prod(shape) * np.dtype(leaf.dtype).itemsize


def _gib(size: int) -> str:
    return f"{size / _GIB:.2f}" if size >= 0.005 * _GIB else f"{size / _GIB:.4f}"
