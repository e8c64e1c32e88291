"""All benchmarks, one after the other, into one file.

    python -m benchmarks.run_all --json=FILE [--quick] [--only=rollout,sac]

The file is written after each of them, so that an interruption (Ctrl-C) loses only the one under way.
"""

import dataclasses
import json
import os
import time
from typing import Any

from adm_jax.nn.precision import matmul_precision
from adm_jax.types import InputError
from benchmarks.speed import (
    bench_end_to_end,
    bench_fit,
    bench_full_horizon,
    bench_online,
    bench_population,
    bench_rollout,
    bench_sac,
    measure,
    options,
    report,
)
from benchmarks.speed.options import Options

BENCHMARKS = {
    "rollout": bench_rollout.run,
    "sac": bench_sac.run,
    "end_to_end": bench_end_to_end.run,
    "population": bench_population.run,
    "fit": bench_fit.run,
    "online": bench_online.run,
    "full_horizon": bench_full_horizon.run,
}


def run(chosen: Options) -> dict[str, Any]:
    """Runs the benchmarks that are asked for and writes what there is after each.

    Raises:
      InputError: ``only`` names no benchmark.
    """
    unknown = set(chosen.only) - set(BENCHMARKS)
    if unknown:
        raise InputError(f"only: {sorted(unknown)[0]!r} is unknown; one of {', '.join(BENCHMARKS)}")
    result: dict[str, Any] = {"environment": measure.environment()}
    print(json.dumps(result["environment"]), flush=True)
    for name, benchmark in BENCHMARKS.items():
        if chosen.only and name not in chosen.only:
            continue
        start = time.perf_counter()
        result[name] = benchmark(dataclasses.replace(chosen, only=()))
        result[name]["seconds_in_all"] = time.perf_counter() - start
        result[name]["load_average_at_the_end"] = os.getloadavg()
        report.show(name, result[name])
        report.write(chosen.json, result)
    return result


def main(argv: list[str]) -> None:
    """The command line."""
    del argv
    chosen = options.from_flags()
    with matmul_precision(chosen.matmul_precision):
        run(chosen)


if __name__ == "__main__":
    options.define_flags()
    report.start(main)
