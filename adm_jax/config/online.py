"""Learning in the real environment, and the collection of data."""

from dataclasses import dataclass, field
from typing import Literal

from adm_jax.config.parts import SWEPT, FitConfig, GrowingRolloutConfig, SACConfig
from adm_jax.config.run import MAX_ROWS, RunConfig
from adm_jax.config.settings import check, only_value, setting
from adm_jax.types import InputError

MODEL_FREE = "none"  # in place of a dynamics model's name


def _sac() -> SACConfig:
    return SACConfig(actor_lr=3e-4, auto_entropy=True, entropy_weight=1.0)


def refuse_dataset_options(sac: SACConfig) -> None:
    """Raises InputError if a setting needs a recorded dataset, which there is none of online."""
    for name in ("cloning_weight", "cloning_rows", "standardize_obs"):
        if getattr(sac, name) != getattr(SACConfig, name):
            raise InputError(f"{name}: has no effect online: it needs a recorded dataset")


@dataclass(frozen=True)
class ReplayConfig:
    """Model-free SAC in the real environment: what ``adm-jax collect`` runs."""

    task: str = setting("hopper", "task name, or module:task; its environment is stepped")
    num_steps: int = setting(100_000, "environment steps", low=1, high=MAX_ROWS)
    seed: int = setting(0, "seed of the networks, the actions and the environment", low=0)
    warmup_steps: int = setting(5_000, "uniformly random steps before the first update", low=1)
    updates_per_step: int = setting(1, "SAC updates per environment step", low=1)
    steps_per_iteration: int = setting(50, "environment steps between two rounds of updates", low=1)
    num_envs: int = setting(1, "environments stepped side by side", low=1, high=1024)
    eval_every: int = setting(5_000, "environment steps between evaluations, where any are needed", low=1)
    eval_episodes: int = setting(10, "episodes of an evaluation", low=1, high=1000)
    sac: SACConfig = field(default_factory=_sac)

    def __post_init__(self) -> None:
        check(self)
        refuse_dataset_options(self.sac)
        for name in SWEPT:
            if hasattr(self.sac, name):
                only_value(name, getattr(self.sac, name))
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
class OnlineConfig(RunConfig):
    """Learning in the real environment (ADM paper, Algorithm 2): ADMPO-ON, MBPO, and SAC without a model.

    Steps are those of one member's environments together, warm-up included.
    """

    dynamics: str = setting(
        "adm",
        "dynamics model: a registered name, module:name to import the module that registers it, or none for "
        "SAC alone",
    )
    task: str = setting("inverted_pendulum", "task name, or module:task of one registered there")
    preset: Literal["code", "steady"] = setting(
        "code", "settings to take: the published ones, or above them the library's own critics and updates"
    )
    num_steps: int = setting(55_000, "environment steps, warm-up included", low=1, high=MAX_ROWS)
    warmup_steps: int = setting(5_000, "uniformly random steps before the first update", low=1)
    num_envs: int = setting(1, "environments of a member, stepped side by side", low=1, high=1024)
    steps_per_iteration: int = setting(1, "environment steps between two rounds of updates", low=1)
    updates_per_step: int = setting(20, "SAC updates per environment step", low=1)
    actor_every: int = setting(1, "critics' updates for each of the actor and the entropy weight", low=1)
    model_every: int = setting(250, "environment steps between two fits, each followed by roll-outs", low=1)
    refit: Literal["warm", "scratch"] = setting(
        "warm", "fit on from the model before for refit_epochs, or anew for fit_max_epochs at most"
    )
    refit_epochs: int = setting(1, "fitting epochs at most of each warm fit but the first", low=1)
    refit_learning_rate: float | None = setting(
        None,
        "Adam's rate at the beginning of each warm fit but the first; when empty fit_learning_rate where it "
        "does not decay, else 0.3 of it",
        above=0.0,
        high=1.0,
    )
    log_every: int = setting(1_000, "environment steps between two lines of metrics", low=1)
    eval_every: int = setting(1_000, "environment steps between evaluations of the policy", low=1)
    checkpoint_every: int = setting(5_000, "environment steps between checkpoints", low=1)
    fit: FitConfig = field(
        default_factory=lambda: FitConfig(fit_steps_per_epoch=250, fit_max_epochs=8, fit_patience=8)
    )
    rollout: GrowingRolloutConfig = field(default_factory=GrowingRolloutConfig)
    sac: SACConfig = field(default_factory=_sac)

    @property
    def has_model(self) -> bool:
        """Whether there is a dynamics model."""
        return self.dynamics != MODEL_FREE

    def __post_init__(self) -> None:
        self._check_run(has_model=self.has_model)
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
        for name, instead in (
            ("refit_epochs", "fit_max_epochs"),
            ("refit_learning_rate", "fit_learning_rate"),
        ):
            if self.refit == "scratch" and getattr(self, name) != getattr(type(self), name):
                raise InputError(f"{name}: has no effect with refit=scratch; {instead} has")
        refuse_dataset_options(self.sac)
        if self.has_model:
            self._check_rollouts()

    def _check_rollouts(self) -> None:
        rollout = self.rollout
        if rollout.final_rollout_length < rollout.rollout_length:
            raise InputError(
                f"final_rollout_length: {rollout.final_rollout_length} is less than rollout_length "
                f"{rollout.rollout_length}; roll-outs may only grow"
            )
        if rollout.growth_end < rollout.growth_start:
            raise InputError(
                f"growth_end: {rollout.growth_end} is before growth_start {rollout.growth_start}"
            )
        rows = rollout.rollout_batch_size * rollout.final_rollout_length * rollout.retain_rollouts
        self._check_buffer(rows, "the longest roll-out and retain_rollouts")
