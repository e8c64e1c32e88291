"""Configurations: frozen, hashable dataclasses whose every leaf field is also a command-line flag.

Leaf names are unique across the nested dataclasses, so a configuration can be written flat
(``{"max_backtrack": 5, "penalty_coef": 0.1, ...}``): that is the form of task presets, of flags
and of ``config.json``.
"""

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import numpy as np

from adm_jax.tasks import get_task
from adm_jax.types import InputError

T = TypeVar("T")

_INT32_MAX = 2**31 - 1  # JAX's integers: counts end here
_MAX_SEED = 2**32 - 1
_MAX_ROWS = 2**30  # of a ring buffer: its index is int32


def _field(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """A dataclass field with its help text and bounds (``low``/``high`` inclusive, ``above`` exclusive)."""
    return field(default=default, metadata={"help": help, "low": low, "high": high, "above": above})


@dataclass(frozen=True)
class DynamicsConfig:
    """The any-step dynamics model (ADM paper, section 3.1; architecture of the authors' code)."""

    max_backtrack: int = _field(5, "maximum backtracking length m", low=1, high=32)
    model_hidden_dim: int = _field(200, "width W of the GRU and of the residual blocks", low=1, high=16_384)
    num_gru_layers: int = _field(3, "GRU layers L", low=1, high=16)
    num_residual_blocks: int = _field(4, "residual blocks of the head", low=0, high=64)
    dropout_rate: float = _field(0.0, "dropout in the residual blocks while fitting", low=0.0, high=0.9)
    rollout_dropout: bool = _field(
        False, "keep dropout on in roll-outs and in the penalty, as the authors' code does"
    )
    backtrack_sampling: Literal["one", "all"] = _field(
        "one", "fit one backtracking length per minibatch (drawn uniformly), or all m in one pass"
    )
    shared_backtrack: bool = _field(
        False, "in roll-outs draw one backtracking length for the whole batch, not one per row"
    )
    logvar_bound_coef: float = _field(0.01, "weight of the log-variance bounds in the loss", low=0.0)


@dataclass(frozen=True)
class FitConfig:
    """Fitting a dynamics model to a dataset."""

    fit_batch_size: int = _field(64, "segments per minibatch", low=1)
    fit_learning_rate: float = _field(1e-3, "Adam's rate for the dynamics model", above=0.0)
    fit_lr_decay: Literal["none", "cosine"] = _field(
        "cosine", "decay of the model's rate to zero over fit_max_epochs"
    )
    fit_steps_per_epoch: int = _field(1000, "optimiser steps between two held-out evaluations", low=1)
    fit_max_epochs: int = _field(30, "fitting epochs at most", low=1)
    fit_patience: int = _field(10, "stop after this many epochs without a better held-out error", low=1)
    selection_metric: Literal["nll", "mse"] = _field(
        "nll", "held-out error that selects the best parameters and stops"
    )
    holdout: Literal["episodes", "tail"] = _field(
        "episodes", "hold out whole episodes chosen at random, or the dataset's tail as the authors do"
    )
    holdout_fraction: float = _field(0.1, "share of the transitions held out at most", above=0.0, high=0.5)
    holdout_max_size: int = _field(10_000, "transitions held out at most", low=1)
    holdout_batch_size: int = _field(2048, "held-out segments evaluated per backtracking length", low=1)
    split_seed: int = _field(0, "seed of the held-out split, shared by all members", low=0)


@dataclass(frozen=True)
class RolloutConfig:
    """Roll-outs in the dynamics model (ADM paper, Algorithm 1)."""

    rollout_length: int = _field(5, "steps H of a roll-out", low=1)
    rollout_batch_size: int = _field(50_000, "starts of roll-outs per epoch", low=1)
    rollout_chunk: int = _field(250, "rows rolled out at a time; bounds the memory of roll-outs", low=1)
    retain_epochs: int = _field(5, "epochs whose roll-outs the model buffer holds", low=1)
    uncertainty: Literal["std_of_means", "total_variance"] = _field(
        "std_of_means", "penalty: spread of the m means (authors' code) or the paper's Eq. 4"
    )
    termination: str | None = _field(
        None, "termination function by name, or your own as module:function; the task's own when empty"
    )
    reward: str | None = _field(
        None, "known reward as module:function of (obs, action, next_obs); the learned one when empty"
    )


@dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic (ADM paper, Table 3)."""

    policy_hidden_dim: int = _field(256, "width of actor and critics", low=1, high=16_384)
    policy_hidden_layers: int = _field(2, "hidden layers of actor and critics", low=1, high=16)
    gamma: float = _field(0.99, "discount", low=0.0, high=1.0)
    tau: float = _field(0.005, "target critics' smoothing coefficient", above=0.0, high=1.0)
    batch_size: int = _field(256, "transitions per update", low=1)
    actor_lr: float = _field(1e-4, "actor's learning rate", above=0.0)
    critic_lr: float = _field(3e-4, "critics' learning rate", above=0.0)
    actor_lr_schedule: Literal["none", "cosine"] = _field(
        "cosine", "decay of the actor's rate over num_epochs"
    )
    auto_entropy: bool = _field(False, "adapt the entropy weight to target_entropy")
    entropy_weight: float = _field(0.1, "entropy weight alpha; where it starts with auto_entropy", above=0.0)
    entropy_lr: float = _field(3e-4, "entropy weight's learning rate with auto_entropy", above=0.0)
    target_entropy: float | None = _field(
        None, "target entropy with auto_entropy; minus the action dimension when empty"
    )

    deterministic_backup: bool = _field(False, "leave the entropy term out of the critics' target")

    def __post_init__(self) -> None:
        if self.target_entropy is not None and not self.auto_entropy:
            raise InputError(
                "target_entropy: has no effect without auto_entropy; give --auto_entropy as well"
            )
        if self.entropy_lr != SACConfig.entropy_lr and not self.auto_entropy:
            raise InputError("entropy_lr: has no effect without auto_entropy; give --auto_entropy as well")


@dataclass(frozen=True)
class OfflineConfig:
    """ADMPO-OFF (ADM paper, Algorithm 3): which data, how long, and the parts' configurations."""

    task: str = _field("hopper-builtin", "task name, or module:task of one registered there")
    dataset: str | None = _field(None, "Minari dataset id; the task's own when empty")
    preset: Literal["code", "paper"] = _field(
        "code", "published settings to take: the authors' code or the paper's tables"
    )
    seeds: tuple[int, ...] = _field(
        (0, 1, 2), "seeds of the members, trained side by side", low=0, high=_MAX_SEED
    )
    workdir: str = _field("runs", "folder that holds the run's folder")
    num_epochs: int = _field(1000, "epochs of roll-out and updates", low=1)
    updates_per_epoch: int = _field(1000, "SAC updates per epoch", low=1)
    real_ratio: float = _field(0.05, "share of real transitions in a SAC batch", low=0.0, high=1.0)
    penalty_coef: float = _field(1.0, "coefficient beta of the uncertainty penalty", low=0.0)
    bc_steps: int = _field(20_000, "behaviour-cloning steps of the baseline; 0 leaves it out", low=0)
    bc_lr: float = _field(3e-4, "behaviour cloning's learning rate", above=0.0)
    eval_every: int = _field(10, "epochs between evaluations in the real environment", low=1)
    eval_episodes: int = _field(10, "episodes per member and evaluation", low=1, high=1000)
    checkpoint_every: int = _field(10, "epochs between checkpoints", low=1)
    members: Literal["auto", "vmap", "map"] = _field(
        "auto", "how members share the program; auto: map on CPU, vmap on GPU"
    )
    memory_limit_gib: float | None = _field(
        None, "memory this run may use; what is free when empty", above=0.0
    )
    model: DynamicsConfig = field(default_factory=DynamicsConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    sac: SACConfig = field(default_factory=SACConfig)

    def __post_init__(self) -> None:
        check(self)
        if not self.seeds:
            raise InputError("seeds: empty; give at least one, as in --seeds=0,1,2")
        if len(set(self.seeds)) != len(self.seeds):
            raise InputError(
                f"seeds: {','.join(map(str, self.seeds))} names a seed twice; each member needs its own"
            )
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        """Settings that say nothing together; silently ignoring one would mislead."""
        if self.model.rollout_dropout and self.model.dropout_rate == 0.0:
            raise InputError("rollout_dropout: there is no dropout to keep on; set dropout_rate above 0")
        rows = self.rollout.rollout_batch_size * self.rollout.rollout_length * self.rollout.retain_epochs
        if rows > _MAX_ROWS:
            raise InputError(
                f"rollout_batch_size: times rollout_length and retain_epochs it is {rows} rows of model "
                f"buffer; at most {_MAX_ROWS}"
            )
        if self.real_ratio > 0 and int(self.real_ratio * self.sac.batch_size) == 0:
            raise InputError(
                f"real_ratio: {self.real_ratio} of batch_size {self.sac.batch_size} is less than one "
                "transition; set it to 0 or raise one of them"
            )


@dataclass(frozen=True)
class OnlineConfig:
    """Model-free SAC in the real environment: what ``experiments.collect`` runs."""

    task: str = _field("hopper", "task name, or module:task; its environment is stepped")
    num_steps: int = _field(100_000, "environment steps", low=1, high=_MAX_ROWS)
    seed: int = _field(0, "seed of the networks, the actions and the environment", low=0)
    warmup_steps: int = _field(5_000, "uniformly random steps before the first update", low=1)
    updates_per_step: int = _field(1, "SAC updates per environment step", low=1)
    steps_per_iteration: int = _field(50, "environment steps between two rounds of updates", low=1)
    num_envs: int = _field(1, "environments stepped side by side", low=1, high=1024)
    eval_every: int = _field(5_000, "environment steps between evaluations, where any are needed", low=1)
    eval_episodes: int = _field(10, "episodes of an evaluation", low=1, high=1000)
    sac: SACConfig = field(
        default_factory=lambda: SACConfig(
            actor_lr=3e-4, actor_lr_schedule="none", auto_entropy=True, entropy_weight=1.0
        )
    )

    def __post_init__(self) -> None:
        check(self)
        if self.sac.actor_lr_schedule != "none":
            raise InputError(
                f"actor_lr_schedule: {self.sac.actor_lr_schedule} has no effect here; must be none"
            )
        if self.num_steps % self.steps_per_iteration or self.warmup_steps % self.steps_per_iteration:
            raise InputError(
                f"steps_per_iteration: {self.steps_per_iteration} does not divide num_steps {self.num_steps} "
                f"and warmup_steps {self.warmup_steps}"
            )
        if self.steps_per_iteration % self.num_envs:
            raise InputError(
                f"num_envs: {self.num_envs} does not divide steps_per_iteration {self.steps_per_iteration}"
            )
        if self.warmup_steps > self.num_steps:
            raise InputError(f"warmup_steps: {self.warmup_steps} is more than num_steps {self.num_steps}")


class Hyper(NamedTuple):
    """Scalars traced by the compiled program, so that they can be swept without recompiling."""

    penalty_coef: jax.Array
    entropy_weight: jax.Array
    actor_lr: jax.Array
    critic_lr: jax.Array
    tau: jax.Array


class Leaf(NamedTuple):
    """One leaf field of a configuration."""

    name: str
    type: Any
    default: Any
    help: str
    metadata: Mapping[str, Any]  # low, high, above: bounds or None
    group: str = ""  # the part it belongs to, "" at the top


def leaves(cls: type) -> Iterator[Leaf]:
    """The leaf fields of a configuration class, depth first."""
    hints = typing.get_type_hints(cls)
    template = cls()
    for f in dataclasses.fields(cls):
        if dataclasses.is_dataclass(hints[f.name]):
            nested = getattr(template, f.name)
            for leaf in leaves(hints[f.name]):
                yield leaf._replace(default=getattr(nested, leaf.name), group=f.name)
        else:
            yield Leaf(f.name, hints[f.name], getattr(template, f.name), f.metadata["help"], f.metadata)


def to_flat(config: Any) -> dict[str, Any]:
    """A configuration as ``{leaf name: value}``."""
    flat = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        flat.update(to_flat(value) if dataclasses.is_dataclass(value) else {f.name: value})
    return flat


def replace_flat(config: T, values: Mapping[str, Any]) -> T:
    """``config`` with the named leaves replaced.

    Raises:
      InputError: a name is no field of the configuration, or a value is out of its range.
    """
    unknown = set(values) - set(to_flat(config))
    if unknown:
        raise InputError(f"{sorted(unknown)[0]}: no such field; known: {', '.join(sorted(to_flat(config)))}")
    return _replace(config, values)


def config_for_task(task: str = "hopper-builtin", preset: str = "code", **overrides: Any) -> OfflineConfig:
    """A task's configuration: default < the task's published settings < ``overrides``.

    Args:
      task: a name in ``adm_jax.tasks``.
      preset: ``code`` for the settings of the authors' code, ``paper`` for the paper's tables.
      overrides: fields in flat form, as ``num_epochs=50``.

    Raises:
      InputError: the task, the preset or a field is unknown, or a value is out of its range.
    """
    settings = get_task(task).preset(preset)
    unknown = set(settings) - set(to_flat(OfflineConfig()))
    if unknown:
        raise InputError(f"task: {task}: settings: {sorted(unknown)[0]} is no field of the configuration")
    return replace_flat(OfflineConfig(), {**settings, **overrides, "task": task, "preset": preset})


def _replace(config: Any, values: Mapping[str, Any]) -> Any:
    changes = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            changes[f.name] = _replace(value, values)
        elif f.name in values:
            new = values[f.name]
            changes[f.name] = tuple(new) if isinstance(new, list) else new
    return dataclasses.replace(config, **changes)


def base_type(annotation: Any) -> tuple[Any, bool]:
    """``(type, optional)`` of a leaf's annotation: ``float | None`` gives ``(float, True)``."""
    if isinstance(annotation, types.UnionType):
        return next(a for a in typing.get_args(annotation) if a is not type(None)), True
    return annotation, False


def check(config: Any) -> None:
    """Checks every leaf's type, choices and range; raises InputError naming the field and what is right."""
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            check(value)
        else:
            check_leaf(f.name, hints[f.name], value, f.metadata)


def check_leaf(name: str, annotation: Any, value: Any, metadata: Mapping[str, Any]) -> None:
    """Checks one value's type, choices and range.

    Raises:
      InputError: the message names the field and says what would be right.
    """
    kind, optional = base_type(annotation)
    if value is None and optional:
        return
    if typing.get_origin(kind) is Literal:
        if value not in typing.get_args(kind):
            raise InputError(f"{name}: {value!r} is unknown; one of {', '.join(typing.get_args(kind))}")
        return
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, tuple):
            raise InputError(f"{name}: {value!r} is not a tuple")
        for item in value:
            check_leaf(name, int, item, metadata)
        return
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InputError(f"{name}: {value!r} is not of type {kind.__name__}")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        _check_range(name, value, metadata)


def _check_range(name: str, value: float, metadata: Mapping[str, Any]) -> None:
    low, high, above = metadata["low"], metadata["high"], metadata["above"]
    if high is None and isinstance(value, int):
        high = _INT32_MAX
    too_low = (low is not None and value < low) or (above is not None and value <= above)
    if too_low or (high is not None and value > high) or not math.isfinite(value):
        wanted = range_text(low, high, above) or "a finite number"
        raise InputError(f"{name}: {value} is out of range; {wanted}")
    # smaller numbers are flushed to zero on the device
    tiny, largest = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
    if isinstance(value, float) and value and not tiny <= abs(value) <= largest:
        raise InputError(
            f"{name}: {value} is out of range of float32; 0, or of a size from {tiny:.2g} to {largest:.2g}"
        )


def range_text(low: float | None, high: float | None, above: float | None) -> str:
    """Bounds in words, "" where there are none: ``at least 0 and at most 1``."""
    parts = [f"at least {low}"] * (low is not None) + [f"above {above}"] * (above is not None)
    return " and ".join(parts + [f"at most {high}"] * (high is not None))
