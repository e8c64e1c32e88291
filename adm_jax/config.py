"""Configurations: frozen, hashable dataclasses whose every leaf field is also a command-line flag.

Leaf names are unique across the nested dataclasses, so a configuration can be written flat
(``{"max_backtrack": 5, "penalty_coef": 0.1, ...}``): that is the form of task presets, of flags
and of ``config.json``.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import jax

from adm_jax.models import ModelConfig, RecurrentConfig, get_model, registered
from adm_jax.settings import (
    Leaf,
    check,
    leaves,
    only_value,
    replace_flat,
    setting,
    to_flat,
)
from adm_jax.tasks import Task, get_task, presets
from adm_jax.tasks.task import Family
from adm_jax.types import InputError, MatmulPrecision

_MAX_SEED = 2**32 - 1
_MAX_ROWS = 2**30  # of a ring buffer: its index is int32


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
    fit_min_improvement: float = setting(
        0.0,
        "share of the held-out error by which a new one must be lower to count as better",
        low=0.0,
        high=1.0,
    )
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
    persistent: bool = setting(
        False,
        "full-horizon roll-outs: rollout_batch_size environments live in the model, each epoch takes "
        "rollout_length steps in them, and their episodes go on from epoch to epoch",
    )
    horizon: int = setting(1000, "steps of such an episode at most", low=1)
    rollout_chunk: int = setting(250, "rows rolled out at a time; bounds the memory of roll-outs", low=1)
    retain_epochs: int = setting(5, "epochs whose roll-outs the model buffer holds", low=1)
    history_cache_gib: float = setting(
        4.0,
        "memory for the histories of all transitions, encoded once if they fit in and the run rolls out from "
        "more than twice as many starts; else in each roll-out",
        low=0.0,
    )
    uncertainty: Literal[
        "std_of_means", "sample_std_of_means", "total_variance", "max_aleatoric", "max_deviation"
    ] = setting(
        "std_of_means",
        "penalty: spread of the units' means (ADM's code), the same unbiased (ADM-v2's code), Eq. 4 of the "
        "ADM paper, the largest predicted deviation (MOPO), or the largest distance of a unit's mean from "
        "all units' mean",
    )
    termination: str | None = setting(
        None, "termination function by name, or your own as module:function; the task's own when empty"
    )
    reward: str | None = setting(
        None, "known reward as module:function of (obs, action, next_obs); the learned one when empty"
    )

    def __post_init__(self) -> None:
        if self.horizon != RolloutConfig.horizon and not self.persistent:
            raise InputError(
                "horizon: has no effect without persistent; rollout_length is the roll-outs' own"
            )


@dataclass(frozen=True)
class SACConfig:
    """Soft actor-critic (ADM paper, Table 3)."""

    policy_hidden_dim: int = setting(256, "width of actor and critics", low=1, high=16_384)
    policy_hidden_layers: int = setting(2, "hidden layers of actor and critics", low=1, high=16)
    gamma: float = setting(0.99, "discount", low=0.0, high=1.0)
    tau: float | tuple[float, ...] = setting(
        0.005, "target critics' smoothing coefficient", above=0.0, high=1.0
    )
    batch_size: int = setting(256, "transitions per update", low=1)
    actor_lr: float | tuple[float, ...] = setting(1e-4, "actor's learning rate", above=0.0)
    critic_lr: float | tuple[float, ...] = setting(3e-4, "critics' learning rate", above=0.0)
    actor_lr_schedule: Literal["none", "cosine"] = setting(
        "cosine", "decay of the actor's rate over num_epochs"
    )
    auto_entropy: bool = setting(False, "adapt the entropy weight to target_entropy")
    entropy_weight: float | tuple[float, ...] = setting(
        0.1, "entropy weight alpha; where it starts with auto_entropy", above=0.0
    )
    entropy_lr: float | tuple[float, ...] = setting(
        3e-4, "entropy weight's learning rate with auto_entropy", above=0.0
    )
    target_entropy: float | None = setting(
        None, "target entropy with auto_entropy; minus the action dimension when empty"
    )

    deterministic_backup: bool = setting(False, "leave the entropy term out of the critics' target")

    def __post_init__(self) -> None:
        if self.target_entropy is not None and not self.auto_entropy:
            raise InputError(
                "target_entropy: has no effect without auto_entropy; give --auto_entropy as well"
            )
        if self.entropy_lr != SACConfig.entropy_lr and not self.auto_entropy:
            raise InputError("entropy_lr: has no effect without auto_entropy; give --auto_entropy as well")


@dataclass(frozen=True)
class OfflineConfig:
    """Offline policy optimisation in a learned model (ADMPO-OFF; ADM paper, Algorithm 3).

    Which data, how long, and the parts' configurations.
    """

    dynamics: str = setting(
        "adm", "dynamics model: a registered name, or module:name to import the module that registers it"
    )
    task: str = setting(
        "hopper-builtin", "task name, module:task of one registered there, or auto: made from --dataset"
    )
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
    penalty_coef: float | tuple[float, ...] = setting(
        1.0, "coefficient beta of the uncertainty penalty", low=0.0
    )
    bc_steps: int = setting(20_000, "behaviour-cloning steps of the baseline; 0 leaves it out", low=0)
    bc_lr: float = setting(3e-4, "behaviour cloning's learning rate", above=0.0)
    eval_every: int = setting(10, "epochs between evaluations in the real environment", low=1)
    eval_episodes: int = setting(10, "episodes per member and evaluation", low=1, high=1000)
    checkpoint_every: int = setting(10, "epochs between checkpoints", low=1)
    members: Literal["auto", "vmap", "map"] = setting(
        "auto", "how members share the program; auto: map on CPU, vmap on GPU"
    )
    members_per_batch: int | None = setting(
        None,
        "members trained side by side, one such batch after another; as many as fit into memory when empty",
        low=1,
    )
    num_devices: int | None = setting(
        None, "devices that the members are spread over; as many as divide them when empty", low=1
    )
    matmul_precision: MatmulPrecision = setting(
        "default", "precision of matrix products; default: tensorfloat32 on NVIDIA's GPUs, else float32"
    )
    memory_limit_gib: float | None = setting(
        None, "memory this run may use; what is free when empty", above=0.0
    )
    model: ModelConfig = field(default_factory=RecurrentConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    sac: SACConfig = field(default_factory=SACConfig)

    def __post_init__(self) -> None:
        check(self)
        check_model_config(self.dynamics, self.model)
        check_seeds(self.seeds)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        """Settings that say nothing together; silently ignoring one would mislead."""
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
class ReplayConfig:
    """Model-free SAC in the real environment: what ``experiments.collect`` runs."""

    task: str = setting("hopper", "task name, or module:task; its environment is stepped")
    num_steps: int = setting(100_000, "environment steps", low=1, high=_MAX_ROWS)
    seed: int = setting(0, "seed of the networks, the actions and the environment", low=0)
    warmup_steps: int = setting(5_000, "uniformly random steps before the first update", low=1)
    updates_per_step: int = setting(1, "SAC updates per environment step", low=1)
    steps_per_iteration: int = setting(50, "environment steps between two rounds of updates", low=1)
    num_envs: int = setting(1, "environments stepped side by side", low=1, high=1024)
    eval_every: int = setting(5_000, "environment steps between evaluations, where any are needed", low=1)
    eval_episodes: int = setting(10, "episodes of an evaluation", low=1, high=1000)
    sac: SACConfig = field(
        default_factory=lambda: SACConfig(
            actor_lr=3e-4, actor_lr_schedule="none", auto_entropy=True, entropy_weight=1.0
        )
    )

    def __post_init__(self) -> None:
        check(self)
        for name in SWEPT:
            if hasattr(self.sac, name):
                only_value(name, getattr(self.sac, name))
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


@dataclass(frozen=True)
class GrowingRolloutConfig:
    """Roll-outs that grow longer while the model gets better (ADM paper, Table 4; MBPO)."""

    rollout_length: int = setting(1, "steps of a roll-out at first", low=1)
    final_rollout_length: int = setting(15, "steps of a roll-out when they have grown", low=1)
    growth_start: int = setting(0, "environment steps after warm-up at which roll-outs begin to grow", low=0)
    growth_end: int = setting(50_000, "environment steps after warm-up at which they have grown", low=0)
    rollout_batch_size: int = setting(100_000, "starts of roll-outs each time", low=1)
    rollout_chunk: int = setting(250, "rows rolled out at a time; bounds the memory of roll-outs", low=1)
    retain_rollouts: int = setting(4, "times of rolling out whose rows the model buffer holds", low=1)
    termination: str | None = setting(
        None, "termination function by name, or your own as module:function; the task's own when empty"
    )
    reward: str | None = setting(
        None, "known reward as module:function of (obs, action, next_obs); the learned one when empty"
    )

    def length_at(self, num_steps: int) -> int:
        """Steps of a roll-out after so many environment steps since warm-up: linear, whole numbers."""
        span = max(self.growth_end - self.growth_start, 1)
        share = min(max((num_steps - self.growth_start) / span, 0.0), 1.0)
        if num_steps >= self.growth_end:
            share = 1.0
        return int(self.rollout_length + share * (self.final_rollout_length - self.rollout_length))


MODEL_FREE = "none"  # in place of a dynamics model's name


@dataclass(frozen=True)
class OnlineConfig:
    """Learning in the real environment (ADM paper, Algorithm 2): ADMPO-ON, MBPO, and SAC without a model.

    Steps are those of one member's environments together, warm-up included.
    """

    dynamics: str = setting(
        "adm",
        "dynamics model: a registered name, module:name to import the module that registers it, or none for "
        "SAC alone",
    )
    task: str = setting("inverted_pendulum", "task name, or module:task of one registered there")
    seeds: tuple[int, ...] = setting(
        (0, 1, 2), "seeds of the members, trained side by side", low=0, high=_MAX_SEED
    )
    workdir: str = setting("runs", "folder that holds the run's folder")
    num_steps: int = setting(55_000, "environment steps, warm-up included", low=1, high=_MAX_ROWS)
    warmup_steps: int = setting(5_000, "uniformly random steps before the first update", low=1)
    num_envs: int = setting(1, "environments of a member, stepped side by side", low=1, high=1024)
    steps_per_iteration: int = setting(1, "environment steps between two rounds of updates", low=1)
    updates_per_step: int = setting(20, "SAC updates per environment step", low=1)
    actor_every: int = setting(1, "critics' updates for each of the actor and the entropy weight", low=1)
    real_ratio: float = setting(0.05, "share of real transitions in a SAC batch", low=0.0, high=1.0)
    model_every: int = setting(250, "environment steps between two fits, each followed by roll-outs", low=1)
    refit: Literal["warm", "scratch"] = setting(
        "warm", "fit on from the model before for refit_epochs, or anew for fit_max_epochs at most"
    )
    refit_epochs: int = setting(1, "fitting epochs at most of each warm fit but the first", low=1)
    log_every: int = setting(1_000, "environment steps between two lines of metrics", low=1)
    eval_every: int = setting(1_000, "environment steps between evaluations of the policy", low=1)
    eval_episodes: int = setting(10, "episodes per member and evaluation", low=1, high=1000)
    checkpoint_every: int = setting(5_000, "environment steps between checkpoints", low=1)
    members: Literal["auto", "vmap", "map"] = setting(
        "auto", "how members share the program; auto: map on CPU, vmap on GPU"
    )
    num_devices: int | None = setting(
        None, "devices that the members are spread over; as many as divide them when empty", low=1
    )
    matmul_precision: MatmulPrecision = setting(
        "default", "precision of matrix products; default: tensorfloat32 on NVIDIA's GPUs, else float32"
    )
    memory_limit_gib: float | None = setting(
        None, "memory this run may use; what is free when empty", above=0.0
    )
    model: ModelConfig = field(default_factory=RecurrentConfig)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(fit_steps_per_epoch=250, fit_max_epochs=8, fit_patience=8)
    )
    rollout: GrowingRolloutConfig = field(default_factory=GrowingRolloutConfig)
    sac: SACConfig = field(
        default_factory=lambda: SACConfig(
            actor_lr=3e-4, actor_lr_schedule="none", auto_entropy=True, entropy_weight=1.0
        )
    )

    @property
    def has_model(self) -> bool:
        """Whether there is a dynamics model."""
        return self.dynamics != MODEL_FREE

    def __post_init__(self) -> None:
        check(self)
        if self.has_model:
            check_model_config(self.dynamics, self.model)
        check_seeds(self.seeds)
        if self.sac.actor_lr_schedule != "none":
            raise InputError(
                f"actor_lr_schedule: {self.sac.actor_lr_schedule} has no effect here; must be none"
            )
        if self.steps_per_iteration % self.num_envs:
            raise InputError(
                f"num_envs: {self.num_envs} does not divide steps_per_iteration {self.steps_per_iteration}"
            )
        multiples = ["num_steps", "warmup_steps", "log_every", "eval_every", "checkpoint_every"]
        for name in multiples + ["model_every"] * self.has_model:
            if getattr(self, name) % self.steps_per_iteration:
                raise InputError(
                    f"{name}: {getattr(self, name)} is no multiple of steps_per_iteration "
                    f"{self.steps_per_iteration}"
                )
        for name in ("eval_every", "checkpoint_every"):
            if getattr(self, name) % self.log_every:
                raise InputError(
                    f"{name}: {getattr(self, name)} is no multiple of log_every {self.log_every}"
                )
        if self.warmup_steps > self.num_steps:
            raise InputError(f"warmup_steps: {self.warmup_steps} is more than num_steps {self.num_steps}")
        for name in ("holdout", "holdout_max_size"):  # blocks of steps are held out: adm_jax.data.lanes
            if getattr(self.fit, name) != getattr(FitConfig, name):
                raise InputError(f"{name}: has no effect online; lower or raise holdout_fraction")
        if self.refit == "scratch" and self.refit_epochs != type(self).refit_epochs:
            raise InputError("refit_epochs: has no effect with refit=scratch; fit_max_epochs has")
        if self.has_model:
            self._check_rollouts()

    def _check_rollouts(self) -> None:
        rollout = self.rollout
        longest = max(rollout.rollout_length, rollout.final_rollout_length)
        rows = rollout.rollout_batch_size * longest * rollout.retain_rollouts
        if rows > _MAX_ROWS:
            raise InputError(
                f"rollout_batch_size: times the longest roll-out and retain_rollouts it is {rows} rows of "
                f"model buffer; at most {_MAX_ROWS}"
            )
        if rollout.final_rollout_length < rollout.rollout_length:
            raise InputError(
                f"final_rollout_length: {rollout.final_rollout_length} is less than rollout_length "
                f"{rollout.rollout_length}; roll-outs may only grow"
            )
        if rollout.growth_end < rollout.growth_start:
            raise InputError(
                f"growth_end: {rollout.growth_end} is before growth_start {rollout.growth_start}"
            )
        if self.real_ratio > 0 and int(self.real_ratio * self.sac.batch_size) == 0:
            raise InputError(
                f"real_ratio: {self.real_ratio} of batch_size {self.sac.batch_size} is less than one "
                "transition; set it to 0 or raise one of them"
            )


def check_model_config(dynamics: str, model: ModelConfig) -> None:
    """Raises InputError if a model's settings are not of the class that its name has."""
    wanted = get_model(dynamics).config_class
    if not isinstance(model, wanted):
        raise InputError(f"model: dynamics={dynamics} needs a {wanted.__name__}, not {type(model).__name__}")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Raises InputError if there is no seed, or one is named twice."""
    if not seeds:
        raise InputError("seeds: empty; give at least one, as in --seeds=0,1,2")
    if len(set(seeds)) != len(seeds):
        raise InputError(f"seeds: {','.join(map(str, seeds))} names a seed twice; each member needs its own")


class Hyper(NamedTuple):
    """Scalars traced by the compiled program, so that they can be swept without recompiling."""

    penalty_coef: jax.Array
    entropy_weight: jax.Array
    actor_lr: jax.Array
    critic_lr: jax.Array
    entropy_lr: jax.Array
    tau: jax.Array


SWEPT = Hyper._fields  # the settings that may have several values


def all_leaves(config_class: type) -> Iterator[Leaf]:
    """The leaves of a configuration, and of every registered dynamics model that it could hold."""
    seen = set()
    for leaf in leaves(config_class):
        seen.add(leaf.name)
        yield leaf
    if config_class not in (OfflineConfig, OnlineConfig):
        return
    for model in registered().values():
        for leaf in leaves(model.config_class):
            if leaf.name not in seen:
                seen.add(leaf.name)
                yield leaf._replace(group="model")


def offline_from_flat(values: Mapping[str, Any]) -> OfflineConfig:
    """The configuration that flat values describe; what they leave out takes its default.

    Raises:
      InputError: a name is no setting of this configuration, or a value is out of its range.
    """
    return _from_flat(OfflineConfig, values)


def online_from_flat(values: Mapping[str, Any]) -> OnlineConfig:
    """As ``offline_from_flat``; with ``dynamics=none`` a dynamics model's settings say nothing."""
    return _from_flat(OnlineConfig, values)


C = TypeVar("C", OfflineConfig, OnlineConfig)


def _from_flat(config_class: type[C], values: Mapping[str, Any]) -> C:
    name = values.get("dynamics", "adm")
    if config_class is OnlineConfig and name == MODEL_FREE:
        return replace_flat(config_class(dynamics=name), values)
    base = config_class(dynamics=name, model=get_model(name).config_class())
    both = set(to_flat(base.model)) & {leaf.name for leaf in leaves(config_class) if leaf.group != "model"}
    if both:
        raise InputError(
            f"{sorted(both)[0]}: a setting of the dynamics model {name} and of the loop; rename the model's"
        )
    own = to_flat(base)
    settings = {other: to_flat(model.config_class()) for other, model in registered().items()}
    for field_name in sorted(set(values) - set(own)):
        having = [other for other, theirs in settings.items() if field_name in theirs]
        if having:
            raise InputError(
                f"{field_name}: no setting of the dynamics model {name}, but of {' and '.join(having)}"
            )
    return replace_flat(base, values)


DERIVED_TASK = "auto"  # the name of a task that is made from the dataset and has no published settings
_UNPUBLISHED_TASK = Task(DERIVED_TASK, "", 0, 0, "", **presets.UNPUBLISHED)  # its settings, before it is made


def config_for_task(
    task: str = "hopper-builtin", preset: str = "code", dynamics: str = "adm", **overrides: Any
) -> OfflineConfig:
    """A task's configuration: default < the task's published settings < the model's < ``overrides``.

    With ``persistent=True`` among the overrides the published settings are those of ADM2PO-fh.

    Args:
      task: a name in ``adm_jax.tasks``, or ``auto`` for one made from the dataset.
      preset: ``code`` for the settings of the authors' code, ``paper`` for the paper's tables.
      dynamics: a registered dynamics model; published settings that it doesn't have are left out.
      overrides: fields in flat form, as ``num_epochs=50``.

    Raises:
      InputError: the task, the preset, the model or a field is unknown, or a value is out of its range.
    """
    model = get_model(dynamics)
    known = _UNPUBLISHED_TASK if task == DERIVED_TASK else get_task(task)
    published = known.preset(preset, offline_family(dynamics, overrides.get("persistent", False)))
    own = to_flat(OfflineConfig(dynamics=dynamics, model=model.config_class()))
    unknown = set(published) - {leaf.name for leaf in all_leaves(OfflineConfig)}
    if unknown:
        raise InputError(f"task: {task}: settings: {sorted(unknown)[0]} is no field of the configuration")
    published = {name: value for name, value in published.items() if name in own}
    chosen = {"task": task, "preset": preset, "dynamics": dynamics}
    return offline_from_flat({**published, **model.settings, **overrides, **chosen})


def offline_family(dynamics: str, persistent: bool) -> Family:
    """Whose published settings go with a dynamics model offline; with full-horizon roll-outs ADM-v2's."""
    return "adm2po" if persistent else get_model(dynamics).published


def online_config_for_task(
    task: str = "inverted_pendulum", dynamics: str = "adm", **overrides: Any
) -> OnlineConfig:
    """A task's configuration online: default < the task's published settings < ``overrides``.

    Args:
      task: a name in ``adm_jax.tasks``.
      dynamics: a registered dynamics model, or ``none``; it chooses among ADMPO-ON's, MBPO's and SAC's
        published settings, of which those that it doesn't have are left out.
      overrides: fields in flat form, as ``num_steps=20_000``.

    Raises:
      InputError: the task, the model or a field is unknown, has no effect, or a value is out of its range.
    """
    chosen = {"task": task, "dynamics": dynamics}
    if dynamics == MODEL_FREE:
        _refuse_settings_of_models(overrides)
    published = get_task(task).online_preset(online_family(dynamics))
    own = to_flat(online_from_flat({"dynamics": dynamics}))
    unknown = set(published) - {leaf.name for leaf in all_leaves(OnlineConfig)}
    if unknown:
        raise InputError(f"task: {task}: settings: {sorted(unknown)[0]} is no field of the configuration")
    published = {name: value for name, value in published.items() if name in own}
    return online_from_flat({**published, **overrides, **chosen})


def _refuse_settings_of_models(names: Iterable[str]) -> None:
    """What has no effect where there is no dynamics model."""
    of_models = {"model_every", "refit", "refit_epochs", "real_ratio"}
    of_models |= {leaf.name for leaf in all_leaves(OnlineConfig) if leaf.group in ("model", "fit", "rollout")}
    for name in names:
        if name in of_models:
            raise InputError(f"{name}: has no effect with dynamics={MODEL_FREE}, which has no dynamics model")


def online_family(dynamics: str) -> Literal["admpo", "mbpo", "sac"]:
    """Whose published settings go with a dynamics model online."""
    if dynamics == MODEL_FREE:
        return "sac"
    return "mbpo" if get_model(dynamics).published == "mopo" else "admpo"
