"""Roll-outs and SAC updates of one seed in every precision of matrix products that the device has.

    python -m benchmarks.speed.bench_precision --json=FILE

PyTorch's products have the same precision in each. ``shapes`` and rows are those of ``bench_rollout`` and
``bench_sac``, a prefix to their names says which and in what; ``ceilings`` those of each precision.
"""

import dataclasses
from typing import Any

import jax

from adm_jax.nn.precision import matmul_precision
from adm_jax.types import MatmulPrecision
from benchmarks.speed import bench_rollout, bench_sac, measure, report
from benchmarks.speed.options import Options


def precisions() -> tuple[MatmulPrecision, ...]:
    """What products can be asked for on this device, beside ``default``."""
    if jax.default_backend() == "gpu":
        return ("float32", "tensorfloat32", "bfloat16")
    return ("float32", "bfloat16")


def run(options: Options) -> dict[str, Any]:
    """Times both in each precision."""
    one = dataclasses.replace(options, rollout_seeds=(1,), sac_seeds=(1,))
    result: dict[str, Any] = {"shapes": {}, "rows": {}, "ratios": {}, "ceilings": {}}
    for precision in precisions():
        for benchmark, run_one in (("rollout", bench_rollout.run), ("sac", bench_sac.run)):
            if result["rows"] and (late := measure.no_time()):
                result["rows"][f"{precision}, {benchmark}"] = late
                continue
            with matmul_precision(precision):
                part, resolved = run_one(one), measure.resolved_precision()
            prefix = f"{precision}, {benchmark}"
            for name, row in part["rows"].items():
                result["rows"][f"{prefix}, {name}"] = {**row, "matmul_precision": resolved}
            result["ratios"] |= {f"{prefix}, {name}": ratio for name, ratio in part["ratios"].items()}
            result["ceilings"][prefix] = part["ceilings"]
            result["shapes"] = part["shapes"]
    return result


def ceilings(options: Options) -> dict[str, Any]:
    """The large product in each precision, and the large copy, alone."""
    rows = {}
    for precision in precisions():
        with matmul_precision(precision):
            top = measure.make_ceilings(options.matmul_size or 1, options.copy_mib)
            rates = top.report(measure.alternate(top.ways, options.repeats))
        rows[f"matmul, {precision}"] = rates["matmul"]
        rows["copy"] = rates["copy"]
    return {"shapes": {"matmul_size": options.matmul_size, "copy_mib": options.copy_mib}, "rows": rows}


if __name__ == "__main__":
    report.launch(run)
