"""Environment steps per second of the online loop (ADMPO-ON on Hopper), and which part takes the time.

    python -m benchmarks.bench_online --json=FILE

A run is one interval: ``--model_every`` environment steps with ``--updates_per_step`` updates each, one warm
fit of as many optimiser steps, and one time rolling out, without a penalty. ``ours`` does it for all of
``--online_seeds`` seeds side by side, behind its warm-up and its first fit; PyTorch for one seed, on the
built-in data and the steps it takes. Ratios are of one seed's share.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from adm_jax.config import online_config_for_task
from adm_jax.tasks import get_task
from adm_jax.training.online import OnlineLoop
from adm_jax.training.population import all_members
from benchmarks import bench_fit, measure, report, workload
from benchmarks.options import Options

PARTS = ("environment", "fit", "rollout", "update")
_WARMUP_STEPS = 1_000


class Interval:
    """The library's interval, of all its seeds."""

    def __init__(self, options: Options, num_seeds: int):
        intervals = options.repeats + 2  # the first fit, one to warm up
        config = online_config_for_task(
            "hopper",
            seeds=tuple(range(options.seed, options.seed + num_seeds)),
            num_steps=_WARMUP_STEPS + intervals * options.model_every,
            warmup_steps=_WARMUP_STEPS,
            log_every=1,
            eval_every=1,
            checkpoint_every=1,
            members=options.members,
            max_backtrack=options.max_backtrack,
            model_hidden_dim=options.model_hidden_dim,
            updates_per_step=options.updates_per_step,
            model_every=options.model_every,
            fit_steps_per_epoch=options.model_every,
            fit_max_epochs=1,
            refit_epochs=1,
            rollout_length=options.rollout_length,
            final_rollout_length=options.rollout_length,
            rollout_batch_size=options.rollout_batch_size,
        )
        self.config, self._every = config, options.model_every
        self._loop = OnlineLoop(config, get_task("hopper"), all_members(config))
        self.compile_seconds = self._loop.clock.to_dict()["compile"]
        self.seconds: dict[str, list[float]] = {name: [] for name in PARTS}
        while self._loop.num_steps < _WARMUP_STEPS + 1:
            self._loop.iterate()

    def __call__(self) -> None:
        """Runs the interval to its end, and notes the seconds of its parts."""
        before = self._loop.clock.to_dict()
        for _ in range(self._every):
            self._loop.iterate()
        after = self._loop.clock.to_dict()
        for name in PARTS:
            self.seconds[name].append(after[name] - before[name])


def run(options: Options) -> dict[str, Any]:
    """Times intervals of each number of seeds, alternating with PyTorch's."""
    ways: dict[str, Any] = {}
    amounts: dict[str, float] = {}
    details: dict[str, dict[str, Any]] = {}
    for num_seeds in options.online_seeds:
        name = f"ours, {num_seeds} seeds"
        ways[name] = Interval(options, num_seeds)
        amounts[name] = num_seeds * options.model_every
        details[name] = {"num_seeds": num_seeds, "compile_seconds": ways[name].compile_seconds}
    own = list(ways)
    if options.with_torch:
        for name, way in _torch_ways(options).items():
            ways[name], amounts[name], details[name] = way, options.model_every, {"num_seeds": 1}
    timings = measure.alternate(ways, options.repeats)
    rows: dict[str, Any] = {}
    for name, way in ways.items():
        row = measure.summarize(timings[name], amounts[name], "environment steps/s of all seeds")
        parts = {
            f"{part}_seconds_median": float(np.median(x[-options.repeats :]))
            for part, x in way.seconds.items()
        }
        rows[name] = {**row, **parts, **details[name]}
    others = [name for name in ways if name not in own]
    ratios = {
        name: {
            other: measure.ratio(timings[other], timings[name], amounts[name] / amounts[other])
            for other in others
        }
        for name in own
    }
    rows |= {} if others else {name: dict(report.ABSENT) for name in report.TORCH_ROWS}
    shapes = {
        name: getattr(options, name)
        for name in (
            "updates_per_step",
            "model_every",
            "rollout_length",
            "rollout_batch_size",
            "max_backtrack",
        )
    }
    return {"shapes": {"task": "hopper", **shapes}, "rows": rows, "ratios": ratios}


def _torch_ways(options: Options) -> dict[str, Any]:
    from benchmarks import torch_rows

    per_step = dataclasses.replace(options, updates=options.updates_per_step, eval_steps=options.model_every)
    work = workload.prepare(per_step, 1, real_ratio=0.05, penalty_coef=0.0, auto_entropy=True)
    state = workload.initial_state(work)
    ways = {}
    for name in report.TORCH_ROWS:
        fair = name == "torch_fair"
        settings = bench_fit.TUNED if fair else bench_fit.AUTHORS
        learned = jax.tree.map(lambda x: x[0], state.model.learned)
        fit = torch_rows.TorchFit(
            per_step, work, learned, settings, options.model_every, 10 * options.model_every
        )
        ways[name] = torch_rows.OnlineInterval(per_step, work, state, fit, fair=fair)
    return ways


if __name__ == "__main__":
    report.launch(run)
