"""What every benchmark can be asked for: one frozen dataclass, a flag for each of its fields."""

import dataclasses
import importlib.util
import os
import sys
import typing
from pathlib import Path
from typing import Any

import jax
from absl import flags

from adm_jax.config.settings import base_type, check, leaves, setting
from adm_jax.types import InputError, MatmulPrecision

QUICK = {  # a smoke run: every part once, at sizes whose figures mean nothing
    "rollout_batch_size": 500,
    "updates": 20,
    "num_seeds": 2,
    "population": (1, 2),
    "rollout_seeds": (1, 2),
    "sac_seeds": (1, 2),
    "fit_seeds": (1,),
    "online_seeds": (1, 2),
    "updates_per_step": 2,
    "model_every": 10,
    "model_envs": 100,
    "full_horizon_batch_size": 64,
    "full_horizon_updates": 20,
    "fit_steps": 200,
    "eval_steps": 50,
    "max_seconds": 4.0,
    "repeats": 2,
    "matmul_size": 512,
    "copy_mib": 16,
}


@dataclasses.dataclass(frozen=True)
class Options:
    """Sizes and choices of a benchmark run; the defaults are those of the published table.

    ``None`` means: by the device, see ``by_device``.
    """

    quick: bool = setting(False, "a minute's smoke run at tiny sizes")
    torch: bool = setting(True, "compare with PyTorch, where it is installed")
    json: str | None = setting(None, "file the result is written to")
    png: str | None = setting(None, "file for the plot of wall-clock against seeds (population)")
    only: tuple[str, ...] = setting((), "benchmarks to run (run_all), or rows to fit (fit); all when empty")
    minutes: float | None = setting(
        None, "about as long as all may take (run_all): the most important first, fewer repeats", above=0.0
    )
    trace: str | None = setting(None, "folder for a profiler trace of each benchmark's first row, if given")
    repeats: int = setting(
        5, "timed runs of each way, after one to warm up; of the smallest (population)", low=1
    )
    seed: int = setting(0, "seed of parameters, windows and minibatches", low=0)
    members: str = setting("auto", "how seeds share a program: auto, map or vmap")
    matmul_precision: MatmulPrecision = setting(
        "default", "of matrix products, as a run's flag of that name; PyTorch gets the same"
    )
    max_backtrack: int = setting(5, "m", low=1)
    model_hidden_dim: int = setting(200, "width W of the dynamics model", low=1)
    rollout_length: int = setting(5, "steps H of a roll-out", low=1)
    rollout_batch_size: int | None = setting(None, "starts of roll-outs: 5,000 on CPU, else 50,000", low=1)
    rollout_chunk: int | None = setting(None, "rows rolled out at a time; the library's own default", low=1)
    batch_size: int = setting(256, "transitions of a SAC update", low=1)
    histories: bool = setting(True, "keep encoded histories where a run of 1,000 epochs does")
    policy_hidden_dim: int = setting(256, "width of actor and critics", low=1)
    updates: int = setting(1000, "SAC updates of an epoch", low=1)
    num_seeds: int = setting(5, "seeds of the end-to-end comparison", low=1)
    population: tuple[int, ...] = setting((1, 2, 4, 8, 16, 32, 64), "numbers of seeds (population)", low=1)
    population_repeats: int = setting(1, "timed runs of all but the smallest (population)", low=1)
    rollout_seeds: tuple[int, ...] | None = setting(
        None, "numbers of seeds (roll-out): 1 on CPU, else 1,16", low=1
    )
    sac_seeds: tuple[int, ...] | None = setting(
        None, "numbers of seeds (SAC): 1 on CPU, else 1,16,32,64", low=1
    )
    fit_seeds: tuple[int, ...] | None = setting(None, "numbers of seeds (fit): 1 on CPU, else 1,16", low=1)
    online_seeds: tuple[int, ...] = setting((1, 8), "numbers of seeds (online)", low=1)
    updates_per_step: int = setting(20, "SAC updates of an environment step (online)", low=1)
    model_every: int = setting(
        250, "environment steps of an interval, with a fit and roll-outs (online)", low=1
    )
    model_envs: int = setting(4096, "environments that live in the model (full_horizon)", low=1)
    full_horizon_batch_size: int = setting(1024, "transitions of a SAC update (full_horizon)", low=1)
    full_horizon_updates: int = setting(500, "SAC updates of an epoch (full_horizon)", low=1)
    compilation: bool = setting(True, "compile again, with and without a cache, and for memory (end_to_end)")
    epochs: int = setting(10, "epochs of the authors' settings (fit)", low=1)
    fit_steps: int = setting(30_000, "optimiser steps of our schedule (fit)", low=1)
    eval_steps: int = setting(250, "optimiser steps between two held-out evaluations (fit)", low=1)
    max_seconds: float = setting(900.0, "limit of a row (fit), of a population (population)", above=0.0)
    matmul_size: int | None = setting(None, "side of the large product: 2,048 on CPU, else 8,192", low=1)
    copy_mib: int = setting(256, "MiB of the array that is copied", low=1)
    torch_threads: int = setting(0, "PyTorch's threads; the faster of 1 and all cores when 0", low=0)

    def __post_init__(self) -> None:
        check(self)

    @property
    def with_torch(self) -> bool:
        """Whether PyTorch is asked for and can be imported."""
        return self.torch and importlib.util.find_spec("torch") is not None


def by_device(options: Options) -> Options:
    """The options with nothing left open: ``quick``'s sizes, and what depends on the device."""
    on_cpu = jax.default_backend() == "cpu"
    defaults = {
        "rollout_batch_size": 5_000 if on_cpu else 50_000,
        "rollout_seeds": (1,) if on_cpu else (1, 16),
        "sac_seeds": (1,) if on_cpu else (1, 16, 32, 64),
        "fit_seeds": (1,) if on_cpu else (1, 16),
        "matmul_size": 2_048 if on_cpu else 8_192,
    }
    chosen = {**defaults, **QUICK} if options.quick else defaults
    untouched = {f.name for f in dataclasses.fields(Options) if getattr(options, f.name) == f.default}
    return dataclasses.replace(options, **{name: chosen[name] for name in chosen if name in untouched})


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Defines a flag for every option."""
    for leaf in leaves(Options):
        kind, _ = base_type(leaf.type)
        common: dict[str, Any] = {"name": leaf.name, "default": leaf.default, "help": leaf.help}
        common["flag_values"] = flag_values
        if kind is bool:
            flags.DEFINE_boolean(**common)
        elif kind is int:
            flags.DEFINE_integer(**common)
        elif kind is float:
            flags.DEFINE_float(**common)
        elif typing.get_origin(kind) is tuple:
            common["default"] = None if leaf.default is None else [str(item) for item in leaf.default]
            flags.DEFINE_list(**common)
        else:
            flags.DEFINE_string(**common)
        flag_values.register_key_flag_for_module(sys.argv[0], flag_values[leaf.name])  # for --help


def from_flags(flag_values: flags.FlagValues = flags.FLAGS) -> Options:
    """What the command line asks for.

    Raises:
      InputError: a value is out of its range, or a file that is asked for cannot be written.
    """
    values = {}
    for leaf in leaves(Options):
        value = flag_values[leaf.name].value
        kind, _ = base_type(leaf.type)
        if typing.get_origin(kind) is tuple and value is not None:
            value = tuple(_item(leaf.name, typing.get_args(kind)[0], item) for item in value)
        values[leaf.name] = value
    options = by_device(Options(**values))
    for name in ("json", "png"):  # a mistyped folder is told before anything is measured
        path = getattr(options, name)
        folder = path and Path(path).absolute().parent
        if folder and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(f"{name}: {path} cannot be written: {folder} is no folder one may write in")
    if options.trace:
        _require_folder("trace", options.trace)
    return options


def _require_folder(name: str, path: str) -> None:
    """Makes the folder if there is none. Raises InputError: one cannot write in it."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{name}: {path} cannot be a folder: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise InputError(f"{name}: {path} is no folder one may write in")


def _item(name: str, kind: Any, text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise InputError(f"{name}: {text!r} is no {kind.__name__}; give a list as 1,2,4") from error


def leave_memory_for_torch() -> None:
    """Lets JAX take half of an accelerator's memory, not three quarters; before its first use.

    Not where PyTorch takes no part.
    """
    if importlib.util.find_spec("torch") is None or {"--notorch", "--torch=false"} & set(sys.argv):
        return
    os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", "0.5")
