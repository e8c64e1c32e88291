"""Configurations: frozen, hashable dataclasses whose every leaf field is also a command-line flag.

Leaf names are unique across the nested dataclasses, so a configuration can be written flat
(``{"max_backtrack": 5, "penalty_coef": 0.1, ...}``): that is the form of task presets, of flags
and of ``config.json``.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax

from adm_jax.settings import check, replace_flat, setting
from adm_jax.tasks import get_task
from adm_jax.types import InputError

_MAX_SEED = 2**32 - 1
_MAX_ROWS = 2**30  # of a ring buffer: its index is int32


@dataclass(frozen=True)
class DynamicsConfig:
    """The any-step dynamics model (ADM paper, section 3.1; architecture of the authors' code)."""

    max_backtrack: int = setting(5, "maximum backtracking length m", low=1, high=32)
    model_hidden_dim: int = setting(200, "width W of the GRU and of the residual blocks", low=1, high=16_384)
    num_gru_layers: int = setting(3, "GRU layers L", low=1, high=16)
    num_residual_blocks: int = setting(4, "residual blocks of the head", low=0, high=64)
    dropout_rate: float = setting(0.0, "dropout in the residual blocks while fitting", low=0.0, high=0.9)
    rollout_dropout: bool = setting(
        False, "keep dropout on in roll-outs and in the penalty, as the authors' code does"
    )
    backtrack_sampling: Literal["one", "all"] = setting(
        "one", "fit one backtracking length per minibatch (drawn uniformly), or all m in one pass"
    )
    shared_backtrack: bool = setting(
        False, "in roll-outs draw one backtracking length for the whole batch, not one per row"
    )
    logvar_bound_coef: float = setting(0.01, "weight of the log-variance bounds in the loss", low=0.0)


@dataclass(frozen=True)
class FitConfig:
    """Fitting a dynamics model to a dataset."""

    fit_batch_size: int = setting(64, "segments per minibatch", low=1)
    fit_learning_rate: float = setting(1e-3, "Adam's rate for the dynamics model", above=0.0)
    fit_lr_decay: Literal["none", "cosine"] = setting(
        "cosine", "decay of the model's rate to zero over fit_max_epochs"
    )
    fit_steps_per_epoch: int = setting(1000, "optimiser steps between two held-out evaluations", low=1)
    fit_max_epochs: int = setting(30, "fitting epochs at most", low=1)
    fit_patience: int = setting(10, "stop after this many epochs without a better held-out error", low=1)
    selection_metric: Literal["nll", "mse"] = setting(
        "nll", "held-out error that selects the best parameters and stops"
    )
    holdout: Literal["episodes", "tail"] = setting(
        "episodes", "hold out whole episodes chosen at random, or the dataset's tail as the authors do"
    )
    holdout_fraction: float = setting(0.1, "share of the transitions held out at most", above=0.0, high=0.5)
    holdout_max_size: int = setting(10_000, "transitions held out at most", low=1)
    holdout_batch_size: int = setting(2048, "held-out segments evaluated per backtracking length", low=1)
    split_seed: int = setting(0, "seed of the held-out split, shared by all members", low=0)


@dataclass(frozen=True)
class RolloutConfig:
    """Roll-outs in the dynamics model (ADM paper, Algorithm 1)."""

    rollout_length: int = setting(5, "steps H of a roll-out", low=1)
    rollout_batch_size: int = setting(50_000, "starts of roll-outs per epoch", low=1)
    rollout_chunk: int = setting(250, "rows rolled out at a time; bounds the memory of roll-outs", low=1)
    retain_epochs: int = setting(5, "epochs whose roll-outs the model buffer holds", low=1)
    uncertainty: Literal["std_of_means", "total_variance"] = setting(
        "std_of_means", "penalty: spread of the m means (authors' code) or the paper's Eq. 4"
    )
    termination: str | None = setting(None, "termination function by name; the task's own when empty")


@dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic (ADM paper, Table 3)."""

    policy_hidden_dim: int = setting(256, "width of actor and critics", low=1, high=16_384)
    policy_hidden_layers: int = setting(2, "hidden layers of actor and critics", low=1, high=16)
    gamma: float = setting(0.99, "discount", low=0.0, high=1.0)
    tau: float = setting(0.005, "target critics' smoothing coefficient", above=0.0, high=1.0)
    batch_size: int = setting(256, "transitions per update", low=1)
    actor_lr: float = setting(1e-4, "actor's learning rate", above=0.0)
    critic_lr: float = setting(3e-4, "critics' learning rate", above=0.0)
    actor_lr_schedule: Literal["none", "cosine"] = setting(
        "cosine", "decay of the actor's rate over num_epochs"
    )
    auto_entropy: bool = setting(False, "adapt the entropy weight to target_entropy")
    entropy_weight: float = setting(0.1, "entropy weight alpha; where it starts with auto_entropy", above=0.0)
    entropy_lr: float = setting(3e-4, "entropy weight's learning rate with auto_entropy", above=0.0)
    target_entropy: float | None = setting(
        None, "target entropy with auto_entropy; minus the action dimension when empty"
    )

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

    task: str = setting("hopper-builtin", "task name; see adm_jax.tasks")
    dataset: str | None = setting(None, "Minari dataset id; the task's own when empty")
    preset: Literal["code", "paper"] = setting(
        "code", "published settings to take: the authors' code or the paper's tables"
    )
    seeds: tuple[int, ...] = setting(
        (0, 1, 2), "seeds of the members, trained side by side", low=0, high=_MAX_SEED
    )
    workdir: str = setting("runs", "folder that holds the run's folder")
    num_epochs: int = setting(1000, "epochs of roll-out and updates", low=1)
    updates_per_epoch: int = setting(1000, "SAC updates per epoch", low=1)
    real_ratio: float = setting(0.05, "share of real transitions in a SAC batch", low=0.0, high=1.0)
    penalty_coef: float = setting(1.0, "coefficient beta of the uncertainty penalty", low=0.0)
    bc_steps: int = setting(20_000, "behaviour-cloning steps of the baseline; 0 leaves it out", low=0)
    bc_lr: float = setting(3e-4, "behaviour cloning's learning rate", above=0.0)
    eval_every: int = setting(10, "epochs between evaluations in the real environment", low=1)
    eval_episodes: int = setting(10, "episodes per member and evaluation", low=1, high=1000)
    checkpoint_every: int = setting(10, "epochs between checkpoints", low=1)
    members: Literal["auto", "vmap", "map"] = setting(
        "auto", "how members share the program; auto: map on CPU, vmap on GPU"
    )
    memory_limit_gib: float | None = setting(
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

    task: str = setting("hopper", "task name; its environment is stepped")
    num_steps: int = setting(100_000, "environment steps", low=1, high=_MAX_ROWS)
    seed: int = setting(0, "seed of the networks, the actions and the environment", low=0)
    warmup_steps: int = setting(5_000, "uniformly random steps before the first update", low=1)
    updates_per_step: int = setting(1, "SAC updates per environment step", low=1)
    steps_per_iteration: int = setting(50, "environment steps between two rounds of updates", low=1)
    eval_episodes: int = setting(10, "episodes of the last evaluation", low=1, high=1000)
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
        if self.warmup_steps > self.num_steps:
            raise InputError(f"warmup_steps: {self.warmup_steps} is more than num_steps {self.num_steps}")


class Hyper(NamedTuple):
    """Scalars traced by the compiled program, so that they can be swept without recompiling."""

    penalty_coef: jax.Array
    entropy_weight: jax.Array
    actor_lr: jax.Array
    critic_lr: jax.Array
    tau: jax.Array


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
    return replace_flat(OfflineConfig(), {**settings, **overrides, "task": task, "preset": preset})
