"""Timing side by side, statistics, and what the machine allows: its ceilings, measured in the same run.

Ways to compare alternate within a repeat, so that a machine which slows down slows all of them, and a ratio
is the median of the repeats' own ratios. A way returns when its work is done: JAX's are blocked on their
results, PyTorch's synchronise the device.
"""

import contextlib
import functools
import importlib.metadata
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

import adm_jax
from adm_jax.nn import precision
from adm_jax.population.devices import supports_tf32
from benchmarks.speed.counting import Counts, Product

Name = TypeVar("Name", bound=Hashable)

_REPEATS_OF_CEILINGS = 4  # within one timed run
_GIB = 2**30
_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)  # of time.perf_counter()


class Timing(NamedTuple):
    """Seconds of every timed run of a way."""

    wall: list[float]
    cpu: list[float]  # of all this process's threads together


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    """A context in which ``alternate`` begins no repeat but the first that would end later than this."""
    token = _deadline.set(min(_deadline.get(), time.perf_counter() + seconds))
    try:
        yield
    finally:
        _deadline.reset(token)


def no_time() -> dict[str, str] | None:
    """The entry of a row for which `within` leaves no time; None where some is left."""
    late = time.perf_counter() > _deadline.get()
    return {"left_out": "minutes: its part's time is over"} if late else None


def alternate(ways: Mapping[Name, Callable[[], Any]], repeats: int, warmups: int = 1) -> dict[Name, Timing]:
    """Times every way ``repeats`` times, one after the other within a repeat, after untimed ``warmups``.

    Fewer times, once at least, where `within` leaves no time for another repeat as long as the one before.
    """
    timings = {name: Timing([], []) for name in ways}
    for repeat in range(-warmups, repeats):
        taken = sum(timing.wall[-1] for timing in timings.values()) if repeat > 0 else 0.0
        if repeat > 0 and time.perf_counter() + taken > _deadline.get():
            break
        for name, run in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            run()
            if repeat >= 0:
                timings[name].wall.append(time.perf_counter() - start)
                timings[name].cpu.append(time.process_time() - cpu_start)
    return timings


def fastest(ways: Mapping[Name, Callable[[], Any]]) -> Name:
    """The name of the fastest way by one trial of each after one to warm up; the only one if there is one."""
    if len(ways) == 1:
        return next(iter(ways))
    timings = alternate(ways, repeats=1)
    return min(timings, key=lambda name: timings[name].wall[0])


def summarize(timing: Timing, work: float, unit: str) -> dict[str, Any]:
    """Median and 90th percentile of the seconds, and the rate at the median: ``work`` is done by one run."""
    median = float(np.median(timing.wall))
    return {
        "seconds_median": median,
        "seconds_p90": float(np.percentile(timing.wall, 90)),
        "cpu_seconds_median": float(np.median(timing.cpu)),
        "repeats": len(timing.wall),
        "rate": work / median,
        "unit": unit,
    }


def ratio(of: Timing, to: Timing, scale: float = 1.0) -> dict[str, Any]:
    """How many times as long ``of`` takes as ``to``: the median of the repeats' own ratios, and all of them.

    Where a run of ``to`` does ``scale`` times as much, the ratio is of the times for the same work.
    """
    each = [scale * a / b for a, b in zip(of.wall, to.wall, strict=True)]
    return {"median": float(np.median(each)), "per_repeat": [round(x, 3) for x in each]}


def efficiency(
    counts: Counts, own: Timing, ceilings: "Ceilings", timings: Mapping[str, Timing]
) -> dict[str, Any]:
    """What a way multiplies, and which fraction of the ceilings timed beside it that is.

    Args:
      counts: of one run of the way.
      own: its timing.
      ceilings: what was timed beside it.
      timings: of the ceilings' ways.
    """

    def fraction(amount: float, name: str) -> float:
        """The median of the repeats' own: what the way does in a second, of what the ceiling does in one."""
        scale = amount / ceilings.work[name]
        return ratio(timings[name], own, scale)["median"]

    median = float(np.median(own.wall))
    return {
        "flops": counts.flops,
        "unfused_bytes": counts.bytes,
        "flops_per_second": counts.flops / median,
        "unfused_bytes_per_second": counts.bytes / median,
        "fraction_of_matmul_ceiling": fraction(counts.flops, "matmul"),
        "unfused_bytes_over_copy_ceiling": fraction(counts.bytes, "copy"),
    }


class Ceilings(NamedTuple):
    """What the machine can do at most, as ways to be timed beside others."""

    ways: dict[str, Callable[[], Any]]
    work: dict[str, float]  # of a run: floating-point operations of matmul, bytes of copy

    def report(self, timings: Mapping[str, Timing]) -> dict[str, Any]:
        """Their rates."""
        units = {"matmul": "flops/s", "copy": "bytes/s"}
        return {name: summarize(timings[name], self.work[name], units[name]) for name in self.ways}


def make_ceilings(matmul_size: int, copy_mib: int) -> Ceilings:
    """A large product, in the precision that the library's programs are traced with, and a large copy.

    The copy adds one to an array in place: it reads and writes every byte once.
    """
    dtype = jnp.bfloat16 if resolved_precision() == "bfloat16" else jnp.float32  # nothing is left to round
    matrix = jax.random.normal(jax.random.key(0), (matmul_size, matmul_size), jnp.float32).astype(dtype)
    multiply = jax.jit(precision.matmul)
    size = copy_mib * 2**20 // 4
    array = [jnp.zeros((size,), jnp.float32)]
    increment = jax.jit(lambda x: x + 1.0, donate_argnums=0)

    def run_matmul() -> None:
        for _ in range(_REPEATS_OF_CEILINGS):
            multiply(matrix, matrix).block_until_ready()

    def run_copy() -> None:
        for _ in range(_REPEATS_OF_CEILINGS):
            array[0] = increment(array[0]).block_until_ready()

    work = {"matmul": 2.0 * matmul_size**3, "copy": 2.0 * 4 * size}
    return Ceilings(
        {"matmul": run_matmul, "copy": run_copy},
        {name: _REPEATS_OF_CEILINGS * amount for name, amount in work.items()},
    )


def products_way(counts: Counts) -> Callable[[], Any]:
    """A run of a program's products with nothing between: the ceiling at the shapes in use.

    A large product's rate is out of reach for small ones. Each shape is computed as often as the program
    does, in a loop of its own, in the program's precision.
    """
    times = {product: max(1, round(number)) for product, number in counts.products.items()}
    operands = [
        tuple(
            jax.random.normal(jax.random.key(i), shape, jnp.float32).astype(dtype)
            for i, (shape, dtype) in enumerate(
                zip((product.lhs, product.rhs), product.dtypes[:2], strict=True)
            )
        )
        for product in times
    ]

    @jax.jit
    def run(operands: list[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
        return [
            _repeat(product, number, lhs, rhs)
            for (product, number), (lhs, rhs) in zip(times.items(), operands, strict=True)
        ]

    return lambda: jax.block_until_ready(run(operands))


def _repeat(product: Product, number: int, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """The product ``number`` times; each reads an entry that the one before has written."""

    def body(lhs: jax.Array, _: None) -> tuple[jax.Array, None]:
        result = jax.lax.dot_general(
            lhs,
            rhs,
            product.dimension_numbers,
            precision=product.precision,
            preferred_element_type=jnp.dtype(product.dtypes[2]),
        )
        # behind the barrier, or the compiler would compute the one entry that is read
        entry = jnp.tanh(jax.lax.optimization_barrier(result)[(0,) * result.ndim]).astype(lhs.dtype)
        return lhs.at[(0,) * lhs.ndim].set(entry), None

    return jax.lax.scan(body, lhs, None, length=number, unroll=min(4, number))[0]


def resolved_precision() -> str:
    """What programs traced now multiply in: what was asked for, else what JAX takes on this device."""
    asked = jax.config.jax_default_matmul_precision  # pyright: ignore[reportAttributeAccessIssue]
    if asked is not None:
        return "tensorfloat32" if "TF32" in str(asked) else str(asked)
    if jax.devices()[0].platform == "tpu":
        return "bfloat16"
    return "tensorfloat32" if supports_tf32() else "float32"


def environment() -> dict[str, Any]:
    """Device, precision, versions, threads and load: what a figure depends on beside the code."""
    device = jax.devices()[0]
    values: dict[str, Any] = {
        "command": " ".join([f"python -m {_module_name()}", *sys.argv[1:]]),
        "device": device.device_kind,
        "platform": device.platform,
        "num_devices": jax.device_count(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "matmul_precision": resolved_precision(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": {
            "adm_jax": adm_jax.__version__,
            "jax": jax.__version__,
            "jaxlib": _version("jaxlib"),
            "torch": _version("torch"),
            "backend": device.client.platform_version.splitlines()[0],  # of CUDA, on a GPU
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
        "load_average_at_the_start": os.getloadavg(),
    }
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        values["memory_limit_gib"] = round(stats["bytes_limit"] / _GIB, 2)
    return values


def _version(package: str) -> str | None:
    """What is installed, without importing it."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _module_name() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec else "benchmarks"


@functools.cache
def _processor() -> str:
    """The processor's name; JAX calls every one "cpu"."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
