"""All benchmarks, the most important first, into one file.

    python -m benchmarks.run_all --json=FILE [--minutes=8] [--trace=DIR] [--quick] [--only=rollout,sac]

First the device must compute what the CPU does (``agreement``), or nothing is timed. With ``--minutes`` each
part has a share of the time that is left: repeats that do not fit are left out, and so are parts, with a line
that says so in their place. Each program is compiled once then: what compiling takes without and with a cache
is not measured. The file is written after each part, so that an interruption (Ctrl-C) loses only the one that
is running; a part that fails is told, and the others go on.
"""

import dataclasses
import json
import math
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from adm_jax.nn.precision import matmul_precision
from adm_jax.types import InputError
from benchmarks.speed import (
    agreement,
    bench_end_to_end,
    bench_fit,
    bench_full_horizon,
    bench_online,
    bench_population,
    bench_precision,
    bench_rollout,
    bench_sac,
    measure,
    options,
    report,
)
from benchmarks.speed.budget import Budget
from benchmarks.speed.options import Options


class Part(NamedTuple):
    """A benchmark, and the seconds that it needs, compiling included: guesses that what is seen corrects."""

    run: Callable[[Options], dict[str, Any]]
    accelerator: float
    cpu: float
    quick: float  # on CPU

    def seconds(self, quick: bool) -> float:
        """On this device."""
        on_cpu = jax.default_backend() == "cpu"
        return min(self.quick if quick else math.inf, self.cpu if on_cpu else self.accelerator)


PARTS = {  # in order of importance
    "agreement": Part(agreement.run, 40, 15, 15),
    "ceilings": Part(bench_precision.ceilings, 5, 5, 2),
    "rollout": Part(bench_rollout.run, 60, 60, 15),
    "sac": Part(bench_sac.run, 70, 60, 20),
    "fit": Part(bench_fit.run, 80, 200, 30),
    "end_to_end": Part(bench_end_to_end.run, 60, 300, 20),
    "full_horizon": Part(bench_full_horizon.run, 50, 150, 25),
    "precision": Part(bench_precision.run, 90, 200, 50),
    "population": Part(bench_population.run, 150, 900, 30),
    "online": Part(bench_online.run, 300, 1800, 60),
}


def run(chosen: Options) -> dict[str, Any]:
    """Runs the benchmarks that are asked for and writes what there is after each.

    Raises:
      InputError: ``only`` names no benchmark; PyTorch lacks the device; the device does not compute what the
        CPU does; at the end, some of the benchmarks failed.
    """
    unknown = set(chosen.only) - set(PARTS)
    if unknown:
        raise InputError(f"only: {sorted(unknown)[0]!r} is unknown; one of {', '.join(PARTS)}")
    if chosen.with_torch:
        from benchmarks.speed import torch_rows

        torch_rows.device()  # that it is the same is told before anything is measured
    wanted = {name: part for name, part in PARTS.items() if not chosen.only or name in chosen.only}
    budget = Budget(chosen.minutes)
    result: dict[str, Any] = {"environment": measure.environment()}
    print(json.dumps(result["environment"]), flush=True)
    expected = {name: part.seconds(chosen.quick) for name, part in wanted.items()}
    for number, (name, part) in enumerate(wanted.items()):
        later = sum(list(expected.values())[number + 1 :])
        share = budget.share(expected[name], later)
        if share is None:
            result[name] = {"left_out": _too_little(budget, expected[name])}
        else:
            result[name] = _run(name, part, chosen, share)
            budget.took(result[name]["seconds_in_all"], share)
        report.show(name, result[name])
        report.write(chosen.json, result)
        if name == "agreement" and "failed" not in result[name]:
            agreement.require(result[name])
    failed = [name for name in wanted if "failed" in result[name]]
    if failed:
        raise InputError(
            f"{failed[0]}: {result[failed[0]]['failed']} ({len(failed)} of {len(wanted)} failed)"
        )
    return result


def _too_little(budget: Budget, expected: float) -> str:
    left, needed = max(budget.left(), 0.0), budget.expected(expected)
    return f"minutes: {left:.0f} s are left, and it takes about {needed:.0f} s"


def _run(name: str, part: Part, chosen: Options, share: float) -> dict[str, Any]:
    """A part's result within about ``share`` seconds; ``failed`` and the reason where there is none."""
    start = time.perf_counter()
    result: dict[str, Any]
    try:
        with measure.within(share):
            result = part.run(options_within(name, chosen, share))
    except Exception as error:  # whatever it is, a device lent for minutes shall run the other parts
        memory = report.out_of_memory(error)
        if memory is None and not isinstance(error, InputError):
            traceback.print_exc()
        reason = f"out of memory: {memory}" if memory else str(error) or type(error).__name__
        result = {"failed": reason.splitlines()[0]}
    result["seconds_in_all"] = time.perf_counter() - start
    result["load_average_at_the_end"] = os.getloadavg()
    return result


def options_within(name: str, chosen: Options, share: float) -> Options:
    """A part's options: no rows chosen, a folder of its own for a trace, and the limits of its share."""
    changes: dict[str, Any] = {"only": ()}
    if chosen.trace:
        changes["trace"] = str(Path(chosen.trace) / name)
    if math.isfinite(share):
        rows = len(chosen.fit_seeds or (1,)) + 2 * chosen.with_torch
        limit = share / (2 * rows) if name == "fit" else share / 3
        changes |= {"compilation": False, "max_seconds": min(chosen.max_seconds, limit)}
    return dataclasses.replace(chosen, **changes)


def main(argv: list[str]) -> None:
    """The command line."""
    del argv
    chosen = options.from_flags()
    with matmul_precision(chosen.matmul_precision):
        run(chosen)


if __name__ == "__main__":
    options.define_flags()
    report.start(main)
