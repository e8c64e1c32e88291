"""Offline policy optimisation."""

from dataclasses import dataclass, field
from typing import Literal

from adm_jax.config.models import ModelConfig, RecurrentConfig
from adm_jax.config.parts import (
    MAX_ROWS,
    MAX_SEED,
    FitConfig,
    PretrainConfig,
    RolloutConfig,
    SACConfig,
    check_model_config,
    check_seeds,
)
from adm_jax.config.settings import check, setting, values_of
from adm_jax.types import InputError, MatmulPrecision


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
        (0, 1, 2), "seeds of the members, trained side by side", low=0, high=MAX_SEED
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
    start: Literal["random", "cloned"] = setting(
        "random", "the actor that policy optimisation starts from; cloned: behaviour cloning's"
    )
    hold_epochs: int = setting(
        0, "first epochs in which the actor is held and the critics alone are updated", low=0
    )
    estimate_rows: int = setting(
        256,
        "episodes in the model, from the dataset's initial states, that estimate a policy's return with each "
        "evaluation; 0 leaves the estimate out",
        low=0,
    )
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
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    def __post_init__(self) -> None:
        check(self)
        check_model_config(self.dynamics, self.model)
        check_seeds(self.seeds)
        self._check_contradictions()

    def _check_contradictions(self) -> None:
        """Settings that say nothing together; silently ignoring one would mislead."""
        rows = self.rollout.rollout_batch_size * self.rollout.rollout_length * self.rollout.retain_epochs
        if rows > MAX_ROWS:
            raise InputError(
                f"rollout_batch_size: times rollout_length and retain_epochs it is {rows} rows of model "
                f"buffer; at most {MAX_ROWS}"
            )
        if self.real_ratio > 0 and int(self.real_ratio * self.sac.batch_size) == 0:
            raise InputError(
                f"real_ratio: {self.real_ratio} of batch_size {self.sac.batch_size} is less than one "
                "transition; set it to 0 or raise one of them"
            )
        self._check_cloning()

    def _check_cloning(self) -> None:
        if self.start == "cloned" and not self.bc_steps:
            raise InputError("start: cloned needs a cloned actor; set bc_steps above 0")
        if self.hold_epochs >= self.num_epochs:
            raise InputError(
                f"hold_epochs: {self.hold_epochs} of num_epochs={self.num_epochs} leave none in which the "
                "actor learns"
            )
        clones = max(values_of(self.sac.cloning_weight)) > 0
        if clones and self.real_ratio == 0:
            raise InputError("cloning_weight: clones real rows, and real_ratio=0 leaves none in a batch")
        if self.sac.cloning_rows != "all" and not clones:
            raise InputError(
                f"cloning_rows: {self.sac.cloning_rows} has no effect without cloning_weight above 0"
            )
        if self.sac.cloning_rows == "advantage" and not self.pretrain.pretrain_steps:
            raise InputError(
                "cloning_rows: advantage needs values of recorded actions; set pretrain_steps above 0"
            )
        for name in ("expectile", "pretrain_lr", "pretrain_tau", "advantage_temperature"):
            changed = getattr(self.pretrain, name) != getattr(PretrainConfig, name)
            if changed and not self.pretrain.pretrain_steps:
                raise InputError(f"{name}: has no effect without pretrain_steps above 0")
