"""Environment steps per second of the online loop (ADMPO-ON on Hopper), and which part takes the time.

    python -m benchmarks.speed.bench_online --json=FILE

A run is one interval: ``--model_every`` environment steps with ``--updates_per_step`` updates each, one warm
fit of as many optimiser steps, and one time rolling out, without a penalty. ``ours`` does it for all of
``--online_seeds`` seeds side by side, behind its warm-up, its first fit and one interval more; PyTorch for
one seed after the other, on the built-in data and the steps it takes, behind the trials of its threads.
"""

import dataclasses
from typing import Any

import numpy as np

from adm_jax.config import online_config_for_task
from adm_jax.population.members import all_members, settled
from adm_jax.tasks import get_task
from adm_jax.training.online import OnlineLoop
from benchmarks.speed import bench_fit, measure, report, workload
from benchmarks.speed.options import Options

PARTS = ("environment", "fit", "rollout", "update")
_WARMUP_STEPS = 1_000


class Interval:
    """The library's interval, of all its seeds."""

    def __init__(self, options: Options, num_seeds: int):
        intervals = options.repeats + 2  # behind the first fit, and one to warm up
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
        config = settled(config)
        self.config, self._every = config, options.model_every
        self._loop = OnlineLoop(config, get_task("hopper"), all_members(config))
        self.details = {"compile_seconds": self._loop.clock.to_dict()["compile"]}
        self.seconds: dict[str, list[float]] = {name: [] for name in PARTS}
        while self._loop.num_steps < _WARMUP_STEPS + 1:
            self._loop.iterate()
        self()

    def __call__(self) -> None:
        """Runs the interval to its end, and notes the seconds of its parts."""
        before = self._loop.clock.to_dict()
        for _ in range(self._every):
            self._loop.iterate()
        after = self._loop.clock.to_dict()
        for name in PARTS:
            self.seconds[name].append(after[name] - before[name])


def run(options: Options) -> dict[str, Any]:
    """Times intervals of each number of seeds, alternating with PyTorch's of as many."""
    ways: dict[str, Any] = {}
    seeds: dict[str, int] = {}
    for num_seeds in options.online_seeds:
        ours = {"ours": Interval(options, num_seeds)}
        theirs = _torch_ways(options, num_seeds) if options.with_torch else {}
        named = {_row(name, num_seeds): way for name, way in {**ours, **theirs}.items()}
        ways |= named
        seeds |= dict.fromkeys(named, num_seeds)
    timings = measure.alternate(ways, options.repeats, warmups=0)  # each is warm when it is made
    rows: dict[str, Any] = {}
    for name, way in ways.items():
        work = seeds[name] * options.model_every
        row = measure.summarize(timings[name], work, "environment steps/s of all seeds")
        parts = {
            f"{part}_seconds_median": float(np.median(x[-len(timings[name].wall) :]))
            for part, x in way.seconds.items()
        }
        rows[name] = {**row, **parts, "num_seeds": seeds[name], **way.details}
    ratios: dict[str, Any] = {}
    for num_seeds in options.online_seeds:
        own = _row("ours", num_seeds)
        others = [_row(name, num_seeds) for name in report.TORCH_ROWS]
        ratios[own] = {name: measure.ratio(timings[name], timings[own]) for name in others if name in ways}
        rows |= {name: dict(report.ABSENT) for name in others if name not in ways}
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


def _row(name: str, num_seeds: int) -> str:
    return f"{name}, {num_seeds} seeds"


def _torch_ways(options: Options, num_seeds: int) -> dict[str, Any]:
    from benchmarks.speed import torch_rows

    per_step = dataclasses.replace(options, updates=options.updates_per_step, eval_steps=options.model_every)
    work = workload.prepare(per_step, num_seeds, real_ratio=0.05, penalty_coef=0.0, auto_entropy=True)
    state = workload.initial_state(work)
    settings = {"torch_authors": bench_fit.AUTHORS, "torch_fair": bench_fit.TUNED}
    return {
        name: torch_rows.OnlineInterval(per_step, work, state, settings[name], fair=name == "torch_fair")
        for name in report.TORCH_ROWS
    }


if __name__ == "__main__":
    report.launch(run)
