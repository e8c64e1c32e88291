"""Seconds that the published runs would take on an H100, by a model: nothing is run.

    JAX_PLATFORMS=cpu python -m benchmarks.accelerators.cost_model --seeds=1,5 --json=FILE

The programs of a run's epochs are compiled (benchmarks/accelerators/compile_for.py), and each of their
kernels is taken to last as long as its bytes or its products, whichever is longer, and a part of a launch;
kernels run one after the other. Which rates of a card's limits such kernels reach is assumed: expected, and
an optimistic and a pessimistic value. Observations are Hopper's for all tasks. Left out: evaluation, which
the host does meanwhile, the estimates and the cloning before policies, checkpoints (``--checkpoint_share``).
"""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import flags

from adm_jax.config import OfflineConfig, config_for_task
from adm_jax.config.models import RecurrentConfig
from adm_jax.config.presets.offline import D4RL
from adm_jax.nn.precision import matmul_precision
from benchmarks.accelerators import hlo, targets
from benchmarks.accelerators.compile_for import compile_for, define_seeds, numbers_of_seeds, prepare
from benchmarks.speed import report

_TARGET, _MULTIPROCESSORS, _TILE = "h100", 132, 64 * 64
_FIT_EPOCHS = 30  # the library's default, and what fits of the datasets take


class Rates(NamedTuple):
    """What kernels reach."""

    launch: float  # seconds, of a kernel whose launch another hides
    memory: float  # bytes a second
    cache: float  # bytes a second of what fits into half of the second-level cache
    products: float  # FLOPs a second in TF32 of a multiprocessor


# A product's peak is 3.7e12 of a multiprocessor, the memory's 3.35e12.
RATES = {
    "expected": Rates(2.2e-6, 2.7e12, 4.0e12, 1.3e12),
    "optimistic": Rates(1.5e-6, 3.0e12, 5.5e12, 2.2e12),
    "pessimistic": Rates(4.0e-6, 2.3e12, 3.0e12, 0.7e12),
}
_BRANCH = 5  # launches that the host waits for at a branch
_CACHED = 25e6


def seconds(kernels: Iterable[hlo.Kernel], rates: Rates) -> float:
    """What a program of these kernels takes."""
    return sum(kernel.times * _seconds_of(kernel, rates) for kernel in kernels)


def _seconds_of(kernel: hlo.Kernel, rates: Rates) -> float:
    if kernel.op == "conditional":
        return _BRANCH * rates.launch
    moving = kernel.bytes / (rates.cache if kernel.bytes < _CACHED else rates.memory)
    tiles = max(1.0, kernel.size / _TILE)
    waves = math.ceil(tiles / _MULTIPROCESSORS)
    busy = min(_MULTIPROCESSORS, tiles)  # and the last wave of a few leaves some idle
    idle = waves * _MULTIPROCESSORS / tiles if 1 < waves < 4 else 1.0
    multiplying = kernel.flops / (rates.products * busy) * idle
    return max(rates.launch, 0.5 * rates.launch + max(moving, multiplying))


def program_seconds(program: str, num_seeds: int, **sizes: Any) -> dict[str, float]:
    """Seconds of one run of a program of all seeds by rates, at the published sizes but for what is given."""
    with matmul_precision("default", targets.platform_of(_TARGET)):
        _, job, _ = prepare(program, targets.platform_of(_TARGET), num_seeds, **sizes)
    text = compile_for(targets.device(_TARGET), job).as_text()
    assert text is not None
    kernels = list(hlo.Module(text).kernels())
    return {name: seconds(kernels, rates) for name, rates in RATES.items()}


def run(num_seeds: int) -> dict[str, Any]:
    """Hours of every published task of ADMPO-OFF, and the seconds of an epoch that they are made of."""
    update = program_seconds("update", num_seeds)
    models: dict[tuple[int, int], dict[str, dict[str, float]]] = {}
    tasks: dict[str, Any] = {}
    for task in D4RL:
        config = config_for_task(task)
        assert isinstance(config, OfflineConfig)
        assert isinstance(config.model, RecurrentConfig)
        key = config.model.max_backtrack, config.model.model_hidden_dim
        if key not in models:
            sizes = {"max_backtrack": key[0], "model_hidden_dim": key[1]}
            models[key] = {
                "rollout": program_seconds("rollout_with_histories", num_seeds, rollout_length=5, **sizes),
                "fit": program_seconds("fit", num_seeds, **sizes),
            }
        steps = config.rollout.rollout_length / 5
        hours = {
            name: (
                _FIT_EPOCHS * models[key]["fit"][name]
                + config.num_epochs * (update[name] + steps * models[key]["rollout"][name])
            )
            / 3600
            for name in RATES
        }
        tasks[task] = {
            "max_backtrack": key[0],
            "model_hidden_dim": key[1],
            "rollout_length": config.rollout.rollout_length,
            "num_epochs": config.num_epochs,
            "hours": {name: round(value, 3) for name, value in hours.items()},
        }
    epochs = {f"m={m}, W={width}": parts for (m, width), parts in models.items()}
    return {
        "seconds_of_1000_updates": update,
        "seconds_of_an_epoch": epochs,  # roll-outs of 50,000 starts and five steps; 1,000 steps of the fit
        "tasks": tasks,
    }


def main(argv: list[str]) -> None:
    """Prints the table, and writes it."""
    del argv
    numbers = numbers_of_seeds()
    targets.device(_TARGET)  # before anything is made
    rates = {name: rates._asdict() for name, rates in RATES.items()}
    result: dict[str, Any] = {"target": _TARGET, "jax": jax.__version__, "rates": rates, "by_seeds": {}}
    for number in numbers:
        result["by_seeds"][number] = run(number)
        for task, row in result["by_seeds"][number]["tasks"].items():
            print(f"{number} seeds, {task}: {json.dumps(row)}", flush=True)
    if flags.FLAGS.json:
        Path(flags.FLAGS.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    define_seeds()
    flags.DEFINE_string("json", None, "file that the table is written to")
    report.start(main)
