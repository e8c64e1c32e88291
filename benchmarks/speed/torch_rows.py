"""The rows of PyTorch in every benchmark: the library's parameters in it, and the setting that is fastest.

PyTorch is given what speed there is for the taking: the faster of one thread and all cores (roll-out and
updates each their own), for the fair row also of whole batches and the library's chunks, by one trial each;
and the precision that JAX's products have where the row is made: strict float32, TF32, or inputs rounded to
bfloat16.
"""

# pyright: reportMissingImports=false

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import torch

from adm_jax.envs.environment import make_env
from adm_jax.training.offline import TrainState
from adm_jax.training.programs import rollout_chunk
from adm_jax.types import InputError
from benchmarks.speed import measure
from benchmarks.speed.measure import fastest
from benchmarks.speed.options import Options
from benchmarks.speed.report import TORCH_GRAPHS, TORCH_ROWS
from benchmarks.speed.torch_graphs import GraphLearner
from benchmarks.speed.torch_reference import (
    ADM,
    Fit,
    FitSettings,
    Products,
    learned_from,
    load_learned,
    to_numpy,
)
from benchmarks.speed.torch_sac import SAC, Learner, synchronize
from benchmarks.speed.workload import ACTION_DIM, ACTION_SCALE, OBS_DIM, Workload

AUTHORS_DROPOUT = 0.1
ENV_ID = "Hopper-v4"
_TRIAL_UPDATES = 200  # at least: fewer say little about which number of threads is faster
ONLINE_PARTS: tuple[str, ...] = ("environment", "fit", "rollout", "update")

Run = Callable[[], Any]
Row = tuple[Run | None, dict[str, Any]]  # what is timed, if it can be, and what there is to know about it


def device() -> str:
    """PyTorch's device that JAX's default one is.

    Raises:
      InputError: JAX has an accelerator and this PyTorch doesn't.
    """
    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise InputError("PyTorch sees no GPU and JAX does: install PyTorch for it, or give --notorch")
    return "cuda"


def set_precision() -> Products:
    """Sets PyTorch's products to what JAX's have now; the context its networks are to be computed in."""
    name = measure.resolved_precision()
    torch.set_float32_matmul_precision("highest" if name in ("float32", "highest") else "high")
    torch.backends.cudnn.allow_tf32 = name not in ("float32", "highest")  # of its recurrent layers
    if name != "bfloat16":
        return contextlib.nullcontext
    # without a cache: updates change the weights inside of it
    return functools.partial(torch.autocast, device(), dtype=torch.bfloat16, cache_enabled=False)


def environment() -> dict[str, Any]:
    """What a figure of PyTorch depends on."""
    return {
        "version": torch.__version__,
        "device": torch.cuda.get_device_name() if device() == "cuda" else "cpu",
        "matmul_precision": measure.resolved_precision(),
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }


def make_model(work: Workload, learned: Any, dropout: float) -> ADM:
    """The network with the library's parameters of one member."""
    config: Any = work.config.model
    model = ADM(
        OBS_DIM,
        ACTION_DIM,
        config.model_hidden_dim,
        work.dataset.normalizer,
        config.num_gru_layers,
        config.num_residual_blocks,
        dropout,
    )
    load_learned(model, learned)
    return model.to(device())


def make_learner(
    work: Workload,
    state: TrainState,
    *,
    fair: bool,
    chunk: int | None = None,
    member: int = 0,
    graphs: bool = False,
) -> Learner:
    """One seed's learner with its member's parameters; a fair one may run as CUDA graphs."""
    agent_state, learned, hyper = _member((state.agent, state.model.learned, work.hyper), member)
    agent = SAC(OBS_DIM, ACTION_DIM, ACTION_SCALE, work.config.sac, hyper, device(), graphs)
    agent.load(agent_state.actor_params, agent_state.critic_params, agent_state.target_critic_params)
    model = make_model(work, learned, 0.0 if fair else AUTHORS_DROPOUT)
    parts = (work.config, model, agent, to_numpy(work.dataset), float(hyper.penalty_coef))
    common: dict[str, Any] = {"device": device(), "chunk": chunk, "products": set_precision()}
    return GraphLearner(*parts, **common) if graphs else Learner(*parts, fair=fair, **common)


def _member(tree: Any, member: int) -> Any:
    return jax.tree.map(lambda x: np.asarray(x[member]), tree)


def rollouts(options: Options, work: Workload, state: TrainState) -> dict[str, Row]:
    """Each row's roll-outs of an epoch, one seed."""
    rows: dict[str, Row] = {}
    for name in TORCH_ROWS:
        run, chunk, threads = _best_rollout(options, work, state, fair=name == "torch_fair")
        rows[name] = run, {"chunk": chunk, "threads": threads, **environment()}
    ours = rollout_chunk(work.config)

    def graphs() -> Run:
        return make_learner(work, state, fair=True, chunk=ours, graphs=True).roll_out

    rows[TORCH_GRAPHS] = graphed(graphs)
    return rows


def updates(options: Options, work: Workload, state: TrainState) -> dict[str, Row]:
    """Each row's updates of an epoch, one seed, on full buffers."""
    rows: dict[str, Row] = {}
    for name in TORCH_ROWS:
        run, threads = _best_update(options, work, state, fair=name == "torch_fair")
        rows[name] = run, {"threads": threads, **environment()}

    def graphs() -> Run:
        learner = make_learner(work, state, fair=True, graphs=True)
        learner.fill_buffer()
        return learner.update

    rows[TORCH_GRAPHS] = graphed(graphs)
    return rows


def graphed(make: Callable[[], Run]) -> Row:
    """A row that is recorded as CUDA graphs in its first run; where that cannot be, the reason alone."""
    if device() != "cuda":
        return None, {"left_out": "CUDA graphs need a GPU, and PyTorch runs on the CPU here"}
    try:
        run = make()
        run()
    except RuntimeError as error:
        return None, {"left_out": f"CUDA graphs: {error}".splitlines()[0]}
    return run, environment()


def epochs(options: Options, work: Workload, state: TrainState) -> dict[str, Row]:
    """Each row's epoch of every seed, one seed after the other."""
    rows: dict[str, Row] = {}
    for name in TORCH_ROWS:
        fair = name == "torch_fair"
        _, chunk, rollout_threads = _best_rollout(options, work, state, fair=fair)
        _, update_threads = _best_update(options, work, state, fair=fair)
        learners = [
            make_learner(work, state, fair=fair, chunk=chunk, member=i) for i in range(len(work.config.seeds))
        ]
        threads = {"rollout_threads": rollout_threads, "update_threads": update_threads}
        rows[name] = _sequence(learners, **threads), {"chunk": chunk, **threads, **environment()}
    ours = rollout_chunk(work.config)

    def graphs() -> Run:
        members = range(len(work.config.seeds))
        learners = [make_learner(work, state, fair=True, chunk=ours, member=i, graphs=True) for i in members]
        return _sequence(learners, 1, 1)

    rows[TORCH_GRAPHS] = graphed(graphs)
    return rows


def _sequence(learners: Sequence[Learner], rollout_threads: int, update_threads: int) -> Run:
    def run() -> None:
        for learner in learners:
            torch.set_num_threads(rollout_threads)
            learner.roll_out()
            torch.set_num_threads(update_threads)
            learner.update()

    return run


def _best_rollout(
    options: Options, work: Workload, state: TrainState, *, fair: bool
) -> tuple[Run, int | None, int]:
    """The fastest way of one seed's roll-outs, its chunk and its number of threads."""
    config = work.config.rollout
    ours = rollout_chunk(work.config)
    chunked = fair and ours < config.rollout_batch_size
    runs = {
        chunk: make_learner(work, state, fair=fair, chunk=chunk).roll_out
        for chunk in ((None, ours) if chunked else (None,))
    }
    ways = {
        (chunk, threads): _threaded(threads, run)
        for chunk, run in runs.items()
        for threads in _numbers_of_threads(options)
    }
    chosen = fastest(ways)
    return ways[chosen], *chosen


def _best_update(options: Options, work: Workload, state: TrainState, *, fair: bool) -> tuple[Run, int]:
    """The fastest way of one seed's updates and its number of threads."""
    learner = make_learner(work, state, fair=fair)
    learner.fill_buffer()
    ways = {threads: _threaded(threads, learner.update) for threads in _numbers_of_threads(options)}
    times = -(-_TRIAL_UPDATES // options.updates)
    chosen = fastest({threads: _repeated(times, run) for threads, run in ways.items()})
    return ways[chosen], chosen


def _numbers_of_threads(options: Options) -> list[int]:
    cores = len(os.sched_getaffinity(0))
    return [options.torch_threads] if options.torch_threads else sorted({1, cores})


def _threaded(num_threads: int, run: Run) -> Run:
    def threaded() -> None:
        torch.set_num_threads(num_threads)
        run()

    return threaded


def _repeated(times: int, run: Run) -> Run:
    def repeated() -> None:
        for _ in range(times):
            run()

    return repeated


class OnlineInterval:
    """An interval of the online loop, one seed after the other: steps with their updates, a fit, roll-outs.

    The environments are Gymnasium's alone. Fits, roll-outs and updates are on the built-in dataset, whose
    size changes nothing about their cost; a step's transition is written where the next updates draw from.
    """

    def __init__(
        self,
        options: Options,
        work: Workload,
        state: TrainState,
        fit_settings: dict[str, Any],
        *,
        fair: bool,
    ):
        _, chunk, rollout_threads = _best_rollout(options, work, state, fair=fair)
        _, update_threads = _best_update(options, work, state, fair=fair)
        every = options.model_every
        self._seeds: list[_OnlineSeed] = []
        for member, seed in enumerate(work.config.seeds):
            learned = _member(state.model.learned, member)
            fit = TorchFit(options, work, learned, fit_settings, every, 10 * every)
            options = dataclasses.replace(options, torch_threads=fit.details["threads"])  # one trial will do
            learner = make_learner(work, state, fair=fair, chunk=chunk, member=member)
            self._seeds.append(_OnlineSeed(learner, fit, seed, every))
        self._threads = {"rollout_threads": rollout_threads, "update_threads": update_threads}
        self.details = {"fit_threads": options.torch_threads, **self._threads, **environment()}
        self.seconds: dict[str, list[float]] = {name: [] for name in ONLINE_PARTS}

    def __call__(self) -> None:
        """Runs every seed's interval, and notes the seconds of the parts."""
        for name in ONLINE_PARTS:
            self.seconds[name].append(0.0)
        for one in self._seeds:
            for name, seconds in one.interval(**self._threads).items():
                self.seconds[name][-1] += seconds


class _OnlineSeed:
    """One seed's interval of ``num_steps`` environment steps."""

    def __init__(self, learner: Learner, fit: "TorchFit", seed: int, num_steps: int):
        self._learner, self._fit, self._num_steps = learner, fit, num_steps
        self._learner.roll_out()
        self._env = make_env(ENV_ID)
        self._obs, _ = self._env.reset(seed=seed)

    def interval(self, rollout_threads: int, update_threads: int) -> dict[str, float]:
        """Runs it; the seconds of the parts."""
        seconds = dict.fromkeys(ONLINE_PARTS, 0.0)
        clock = time.perf_counter
        torch.set_num_threads(update_threads)
        for _ in range(self._num_steps):
            start = clock()
            self._step()
            stepped = clock()
            self._learner.update()
            seconds["environment"] += stepped - start
            seconds["update"] += clock() - stepped
        start = clock()
        self._fit.repeat()
        torch.set_num_threads(rollout_threads)
        fitted = clock()
        self._learner.roll_out()
        seconds["fit"], seconds["rollout"] = fitted - start, clock() - fitted
        return seconds

    def _step(self) -> None:
        obs = torch.from_numpy(self._obs[None].astype(np.float32)).to(device())
        action = self._learner.agent.sample_action(obs).cpu().numpy()[0]
        next_obs, reward, terminated, truncated, _ = self._env.step(action)
        self._learner.record(self._obs, action, reward, next_obs, terminated)
        self._obs = self._env.reset()[0] if terminated or truncated else next_obs


class TorchFit:
    """A fit in PyTorch, ``eval_steps`` optimiser steps at a time, with the faster number of threads."""

    def __init__(
        self,
        options: Options,
        work: Workload,
        learned: Any,
        settings: dict[str, Any],
        num_steps: int,
        epoch_steps: int,
    ):
        """Begins at the library's parameters ``learned``; ``epoch_steps`` lie between its own evaluations."""
        cosine_steps = num_steps if settings["fit_lr_decay"] == "cosine" else None
        chosen = FitSettings(settings["fit_batch_size"], settings["fit_learning_rate"], cosine_steps)

        def make() -> Fit:
            model = make_model(work, learned, settings["dropout_rate"])
            rng = np.random.default_rng(options.seed)
            return Fit(model, to_numpy(work.dataset), chosen, rng, device(), set_precision())

        def trial() -> None:
            for _ in range(min(20, options.eval_steps)):
                tried.step()
            synchronize(device())

        tried = make()
        threads = fastest({number: _threaded(number, trial) for number in _numbers_of_threads(options)})
        self._fit, self._threads, self._epoch_steps = make(), threads, epoch_steps
        self._eval_steps, self.steps, self.num_steps = options.eval_steps, 0, num_steps
        self.details = {"threads": threads, **environment()}

    def advance(self) -> None:
        """``eval_steps`` steps, or what is left of them; the authors' evaluation where an epoch ends."""
        self._run(min(self._eval_steps, self.num_steps - self.steps))

    def repeat(self) -> None:
        """``eval_steps`` more, whatever is left: to time steps alone, once the fit is done."""
        self._run(self._eval_steps)

    def _run(self, num_steps: int) -> None:
        torch.set_num_threads(self._threads)
        for _ in range(num_steps):
            self._fit.step()
            self.steps += 1
            if self.steps % self._epoch_steps == 0:
                self._fit.validate()
        synchronize(device())

    def learned(self) -> Any:
        """The library's parameters [1]."""
        return jax.tree.map(lambda x: x[None], learned_from(self._fit.model))
