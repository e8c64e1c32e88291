"""Fitting the dynamics model: time to the same held-out NLL, and optimiser steps per second.

    python -m benchmarks.speed.bench_fit --json=FILE [--only=torch_authors,ours_tuned]

The goal is the held-out NLL that the authors' settings have in PyTorch after ``--epochs`` epochs of theirs
(floor(N / 256) * m steps each), the median of the evaluations in the last of them. Rows:

- ``torch_authors``: batches of 256, rate 3e-4, dropout 0.1, their held-out evaluation after each epoch;
- ``torch_tuned``: the same code with the library's settings (smaller batches, larger, decaying rate, no
  dropout);
- ``ours_tuned``: the library's fit program with those settings, for each number in ``--fit_seeds``;
- ``ours_authors``: the library's with the authors' settings; unless asked for with ``--only``, it takes
  part only where there is no PyTorch to set the goal.

All start from the same parameters. Every ``--eval_steps`` steps one function, the library's with dropout
off, takes each row's held-out NLL on the same segments, outside the clocks; the clocks hold the steps and
each row's own held-out evaluation. It is always the row with the least time that goes on, so that they
share whatever the machine does meanwhile. Ctrl-C ends the race early with what is there.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from adm_jax.dynamics.interface import ModelParams
from adm_jax.population.keys import Purpose, fold_keys, offline_keys, shared_key
from adm_jax.types import InputError
from benchmarks.speed import fit_race, report, workload
from benchmarks.speed.counting import count
from benchmarks.speed.fit_race import Runner
from benchmarks.speed.options import Options
from benchmarks.speed.workload import Workload

AUTHORS = {
    "fit_batch_size": 256,
    "fit_learning_rate": 3e-4,
    "fit_lr_decay": "none",
    "dropout_rate": 0.1,
    "backtrack_sampling": "one",
}
TUNED = {
    "fit_batch_size": 64,
    "fit_learning_rate": 1e-3,
    "fit_lr_decay": "cosine",
    "dropout_rate": 0.0,
    "backtrack_sampling": "one",
}
ROWS = ("torch_authors", "torch_tuned", "ours_tuned", "ours_authors")


class LibraryFit:
    """The library's fit program, ``eval_steps`` optimiser steps of all its members at a time."""

    def __init__(self, options: Options, num_seeds: int, num_steps: int, settings: dict[str, Any]):
        num_epochs = -(-num_steps // options.eval_steps)
        schedule = {
            "fit_steps_per_epoch": options.eval_steps,
            "fit_max_epochs": num_epochs,
            "fit_patience": num_epochs,  # no early end: the curve is what is asked for
        }
        self.work = workload.prepare(options, num_seeds, **settings, **schedule)
        self.job = workload.fit_job(self.work, workload.initial_fit(self.work))
        compiled, self.compile_seconds = workload.compile_job(self.job)
        self._timed = workload.Loop(compiled, self.job)  # a copy: to warm up, and to time steps alone
        self.repeat()
        self._loop, self._epoch = workload.Loop(compiled, self.job), 0
        self._eval_steps, self.num_steps = options.eval_steps, num_epochs * options.eval_steps

    @property
    def steps(self) -> int:
        """Optimiser steps done."""
        return self._epoch * self._eval_steps

    def advance(self) -> None:
        """``eval_steps`` steps and the held-out evaluation after them."""
        work, seeds = self.work, self.work.config.seeds
        keys = fold_keys(offline_keys(seeds, Purpose.FIT), self._epoch)
        shared = shared_key(work.config.fit.split_seed, self._epoch)
        self._loop(keys, offline_keys(seeds, Purpose.BOOTSTRAP), work.data, shared)
        self._epoch += 1

    def learned(self) -> Any:
        """Parameters [P]."""
        return self._loop.state.learned

    def repeat(self) -> None:
        """``eval_steps`` steps outside the fit proper, which never come to the schedule's end."""
        state = self._timed.state
        beginning = {"epoch": state.epoch, "epochs_since_best": state.epochs_since_best}
        beginning = {name: jnp.zeros_like(value) for name, value in beginning.items()}
        self._timed.state = state._replace(active=jnp.ones_like(state.active), **beginning)
        self._timed()


def run(options: Options) -> dict[str, Any]:
    """Runs the race, then times the steps alone.

    Raises:
      InputError: ``only`` names no row.
    """
    work = workload.prepare(options, 1)
    epoch_steps = len(work.dataset.train.index) // AUTHORS["fit_batch_size"] * options.max_backtrack
    library, torch = _runners(options, work, epoch_steps)
    runners: dict[str, Runner] = {**torch, **library}
    baseline = next((name for name in runners if name.endswith("_authors")), next(iter(runners)))
    curves = fit_race.race(runners, _holdout_nll(work), options.max_seconds)
    outcome = fit_race.compare(curves, baseline, epoch_steps)
    for name, fit in library.items():
        outcome["rows"].get(name, {})["compile_seconds"] = fit.compile_seconds
    return {
        "shapes": {
            **workload.shapes(work),
            "num_train": len(work.dataset.train.index),
            "epoch_steps": epoch_steps,
            "epochs": options.epochs,
            "fit_steps": options.fit_steps,
            "eval_steps": options.eval_steps,
        },
        "settings": {"authors": AUTHORS, "tuned": TUNED},
        **outcome,
        "steps": _time_steps(options, library, torch),
    }


def _runners(
    options: Options, work: Workload, epoch_steps: int
) -> tuple[dict[str, LibraryFit], dict[str, Any]]:
    """The library's rows and PyTorch's that are asked for, the authors' first."""
    unknown = set(options.only) - set(ROWS)
    if unknown:
        raise InputError(f"only: {sorted(unknown)[0]!r} is unknown; one of {', '.join(ROWS)}")
    wanted = options.only or (ROWS[:3] if options.with_torch else ROWS[2:])
    steps_of_authors = options.epochs * epoch_steps
    library = {}
    if "ours_authors" in wanted:
        library["ours_authors"] = LibraryFit(options, 1, steps_of_authors, AUTHORS)
    if "ours_tuned" in wanted:
        for num_seeds in options.fit_seeds or (1,):
            name = f"ours_tuned, {num_seeds} seeds"
            library[name] = LibraryFit(options, num_seeds, options.fit_steps, TUNED)
    torch = {}
    if options.with_torch:
        from benchmarks.speed import torch_rows

        initial = jax.tree.map(lambda x: x[0], workload.initial_fit(work).learned)
        if "torch_authors" in wanted:
            torch["torch_authors"] = torch_rows.TorchFit(
                options, work, initial, AUTHORS, steps_of_authors, epoch_steps
            )
        if "torch_tuned" in wanted:
            torch["torch_tuned"] = torch_rows.TorchFit(
                options, work, initial, TUNED, options.fit_steps, work.config.fit.fit_steps_per_epoch
            )
    if not library and not torch:
        raise InputError("only: PyTorch's rows alone are asked for, and it is not there")
    return library, torch


def _holdout_nll(work: Workload) -> Callable[[Any], list[float]]:
    """Parameters [P] to each member's held-out NLL, the mean over backtracking lengths, dropout off."""
    known = work.data.holdout.valid.any(axis=0)

    @jax.jit
    def nll(learned: Any) -> jax.Array:
        def one(learned: Any) -> jax.Array:
            errors = work.components.model.validate(
                ModelParams(learned, work.dataset.normalizer), work.data.holdout
            )
            return jnp.mean(errors.nll[0], where=known)

        return jax.lax.map(one, learned)

    return lambda learned: [float(value) for value in nll(learned)]


def _time_steps(options: Options, library: dict[str, LibraryFit], torch: dict[str, Any]) -> dict[str, Any]:
    """``eval_steps`` optimiser steps of each row, alternating with the machine's ceilings."""
    ways: dict[str, Any] = {name: fit.repeat for name, fit in torch.items()}
    ways |= {name: fit.repeat for name, fit in library.items()}
    work = {
        name: options.eval_steps * (library[name].work.keys.shape[0] if name in library else 1)
        for name in ways
    }
    details: dict[str, Any] = {name: fit.details for name, fit in torch.items()}
    details |= {name: {"compile_seconds": fit.compile_seconds} for name, fit in library.items()}
    counts = {name: count(fit.job.fn, *fit.job.args) for name, fit in library.items()}
    return report.compare(options, ways, counts, work, "seed-steps/s", details)


if __name__ == "__main__":
    report.launch(run)
