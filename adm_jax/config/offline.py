"""Offline policy optimisation."""

from dataclasses import dataclass, field, fields
from typing import Literal

from adm_jax.config.parts import PretrainConfig, RolloutConfig
from adm_jax.config.run import RunConfig
from adm_jax.config.settings import setting, values_of
from adm_jax.types import InputError


@dataclass(frozen=True)
class OfflineConfig(RunConfig):
    """Offline policy optimisation in a learned model (ADMPO-OFF; ADM paper, Algorithm 3).

    Which data, how long, and the parts' configurations.
    """

    dynamics: str = setting(
        "adm", "dynamics model: a registered name, or module:name to import the module that registers it"
    )
    task: str = setting(
        "hopper-builtin",
        "task name, or auto: made from --dataset; module:task and module:auto first import a module of your "
        "own, which registers the task, or the dataset's environment",
    )
    dataset: str | None = setting(None, "Minari dataset id; the task's own when empty")
    eval_env: Literal["recorded", "dataset"] = setting(
        "recorded",
        "with task=auto, the environment that policies are evaluated in: the one that was recorded, or the "
        "eval_env that the dataset names beside it",
    )
    preset: Literal["code", "paper", "steady"] = setting(
        "code",
        "settings to take: the authors' code's, the paper's tables', or the library's own, one for all data",
    )
    num_epochs: int = setting(1000, "epochs of roll-out and updates", low=1)
    updates_per_epoch: int = setting(1000, "SAC updates per epoch", low=1)
    penalty_coef: float | tuple[float, ...] = setting(
        1.0, "coefficient beta of the uncertainty penalty", low=0.0
    )
    actor_lr_schedule: Literal["none", "cosine"] = setting(
        "cosine", "decay of the actor's rate over num_epochs"
    )
    critic_lr_schedule: Literal["none", "cosine"] = setting(
        "none", "decay of the critics' rate over num_epochs"
    )
    bc_steps: int = setting(20_000, "behaviour-cloning steps of the baseline; 0 leaves it out", low=0)
    bc_lr: float = setting(3e-4, "behaviour cloning's learning rate", above=0.0)
    bc_lr_schedule: Literal["none", "cosine"] = setting("none", "decay of bc_lr over bc_steps")
    bc_weight_decay: float = setting(0.0, "behaviour cloning's decoupled weight decay (AdamW)", low=0.0)
    start: Literal["random", "cloned"] = setting(
        "random", "the actor that policy optimisation starts from; cloned: behaviour cloning's"
    )
    critic_start: Literal["random", "pretrained"] = setting(
        "random", "the critics that it starts from; pretrained: those of pretrain_steps"
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
    checkpoint_every: int = setting(10, "epochs between checkpoints", low=1)
    members_per_batch: int | None = setting(
        None,
        "members trained side by side, one such batch after another; as many as fit into memory when empty",
        low=1,
    )
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)

    def __post_init__(self) -> None:
        self._check_run()
        rollout = self.rollout
        rows = rollout.rollout_batch_size * rollout.rollout_length * rollout.retain_epochs
        self._check_buffer(rows, "rollout_length and retain_epochs")
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
        weighs_start = self.sac.cloning_rows == "advantage" and self.bc_steps > 0
        if self.sac.cloning_rows != "all" and not (clones or weighs_start):
            raise InputError(
                f"cloning_rows: {self.sac.cloning_rows} has no effect without cloning_weight above 0"
            )
        if self.sac.cloning_rows == "advantage" and not self.pretrain.pretrain_steps:
            raise InputError(
                "cloning_rows: advantage needs values of recorded actions; set pretrain_steps above 0"
            )
        is_pretrained = self.critic_start == "pretrained"
        if is_pretrained and not self.pretrain.pretrain_steps:
            raise InputError("critic_start: pretrained needs pretrained critics; set pretrain_steps above 0")
        if self.pretrain.pretrain_steps and not is_pretrained and self.sac.cloning_rows != "advantage":
            raise InputError(
                "pretrain_steps: has no effect without cloning_rows=advantage or critic_start=pretrained"
            )
        for name in [x.name for x in fields(PretrainConfig) if x.name != "pretrain_steps"]:
            changed = getattr(self.pretrain, name) != getattr(PretrainConfig, name)
            if changed and not self.pretrain.pretrain_steps:
                raise InputError(f"{name}: has no effect without pretrain_steps above 0")
