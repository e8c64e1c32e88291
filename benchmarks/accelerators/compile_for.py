"""The programs of an epoch compiled for an accelerator that is not there, and what they cost on it.

    JAX_PLATFORMS=cpu python -m benchmarks.accelerators.compile_for h100 --programs=update --seeds=1,16

Prints one line of JSON for each program and number of seeds, at the published sizes: kernels and bytes of a
step of its loop (an update, a step of the roll-outs of a chunk of rows, a step of the fit: the mean over k),
and the memory of arguments and temporaries; for a TPU the memory alone. They are read from the compiled
program (benchmarks/accelerators/hlo.py): nothing is run. ``full_horizon_*`` are those of ADM2PO, the others
those of ADMPO-OFF.
"""

import json
import time
from collections.abc import Mapping
from typing import Any, cast

import jax
from absl import flags
from jax.sharding import SingleDeviceSharding

from adm_jax.config.presets import full_horizon
from adm_jax.nn.precision import matmul_precision
from adm_jax.types import InputError, MatmulPrecision
from benchmarks.accelerators import hlo, targets
from benchmarks.speed import report, workload
from benchmarks.speed.options import Options
from benchmarks.speed.workload import Job, Workload

PROGRAMS = (
    *("update", "rollout", "rollout_with_histories", "fit"),
    *("full_horizon_update", "full_horizon_rollout", "full_horizon_fit"),
)


def prepare(program: str, platform: str, num_seeds: int, **sizes: Any) -> tuple[Workload, Job, int]:
    """A program with its (abstract) arguments, and the number of steps of the loop that is told of."""
    options = Options(rollout_batch_size=50_000)
    if program.startswith("full_horizon_"):
        sizes = {
            "dynamics": "adm_v2",
            "persistent": True,
            "rollout_batch_size": options.model_envs,
            "rollout_length": full_horizon.STEPS_PER_EPOCH,
            "batch_size": options.full_horizon_batch_size,
            "updates_per_epoch": options.full_horizon_updates,
            **sizes,
        }
    work = workload.prepare_for(platform, options, num_seeds, **sizes)
    fits, state = workload.abstract_state(work)
    part = program.removeprefix("full_horizon_")
    if part == "update":
        return work, workload.update_job(work, state), work.config.updates_per_epoch
    if part == "fit":
        return work, workload.fit_job(work, fits), work.config.fit.fit_steps_per_epoch
    histories = None
    if part == "rollout_with_histories":
        histories = workload.abstract_histories(work, state)
        if histories is None:
            raise InputError(f"programs: {program}: such a run keeps no histories")
    return work, workload.rollout_job(work, state, histories), work.config.rollout.rollout_length


def compile_for(device: Any, job: Job, precision: MatmulPrecision = "default") -> jax.stages.Compiled:
    """The program, compiled for a device that need not be there."""
    sharding = SingleDeviceSharding(device)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), job.args)
    with matmul_precision(precision, device.platform):
        return workload.compile_job(Job(job.fn, shapes))[0]


def memory_of(compiled: jax.stages.Compiled) -> dict[str, float]:
    """The memory of a program's arguments, and what it takes beside them while it runs."""
    memory = compiled.memory_analysis()
    assert memory is not None
    return {
        "arguments_mib": round(memory.argument_size_in_bytes / 2**20, 1),
        "temporaries_mib": round(memory.temp_size_in_bytes / 2**20, 1),
    }


def cost_of_step(compiled: jax.stages.Compiled, num_steps: int) -> dict[str, float]:
    """What a step of the loop that has so many costs; of the inner one where two have."""
    text = compiled.as_text()
    assert text is not None
    loops = [loop for loop in hlo.Module(text).loops() if loop.trips == num_steps]
    if not loops:
        raise ValueError(f"no loop of the compiled program has {num_steps} steps")
    step = max(loops, key=lambda loop: (loop.depth, loop.step.bytes)).step
    return {"kernels": round(step.kernels, 1), "megabytes": round(step.bytes / 1e6, 1)}


def measure(
    target: str, program: str, num_seeds: int, precision: MatmulPrecision = "default"
) -> Mapping[str, Any]:
    """The figures of a program of so many seeds on a target; of a TPU's, which name no loops, the memory."""
    begin, device, platform = time.process_time(), targets.device(target), targets.platform_of(target)
    with matmul_precision(precision, platform):
        work, job, num_steps = prepare(program, platform, num_seeds)
    compiled = compile_for(device, job, precision)
    step = cost_of_step(compiled, num_steps) if platform == "gpu" else {}
    return {
        "target": target,
        "program": program,
        "seeds": num_seeds,
        "precision": precision,
        "chunk": work.config.rollout.rollout_chunk,
        **step,
        **memory_of(compiled),
        "cpu_seconds": round(time.process_time() - begin, 1),
    }


def define_seeds() -> None:
    """The flag ``--seeds``; flags are defined by who is run, as tests import this beside commands."""
    flags.DEFINE_list("seeds", ["1", "16"], "numbers of seeds")


def numbers_of_seeds() -> list[int]:
    """Those that ``--seeds`` asks for. Raises InputError: one is none."""
    for number in flags.FLAGS.seeds:
        if not (number.isdecimal() and int(number)):
            raise InputError(f"seeds: {number!r} is no number of seeds; give a list as 1,16")
    return [int(number) for number in flags.FLAGS.seeds]


def main(argv: list[str]) -> None:
    """Compiles what is asked for and prints it."""
    if len(argv) > 2:
        raise InputError(f"{argv[2]!r} is not a flag; flags look like --name=value")
    if len(argv) < 2:
        raise InputError(f"target: give one of {', '.join(targets.TARGETS)}")
    target, precision = argv[1], cast(MatmulPrecision, flags.FLAGS.precision)
    targets.platform_of(target)
    for program in flags.FLAGS.programs:
        if program not in PROGRAMS:
            raise InputError(f"programs: {program!r} is none of {', '.join(PROGRAMS)}")
    numbers = numbers_of_seeds()
    targets.device(target)  # before anything is made
    for program in flags.FLAGS.programs:
        for number in numbers:
            print(json.dumps(measure(target, program, number, precision)), flush=True)


if __name__ == "__main__":
    define_seeds()
    flags.DEFINE_list("programs", list(PROGRAMS), "programs to compile")
    precisions = ["default", "float32", "tensorfloat32", "bfloat16"]
    flags.DEFINE_enum("precision", "default", precisions, "of matrix products")
    report.start(main, takes_files=True)
