"""What the configurations of several loops are made of."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax

from adm_jax.config.settings import setting
from adm_jax.types import InputError


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
class SimulationConfig:
    """Steps in the dynamics model."""

    rollout_chunk: int | None = setting(
        None,
        "a member's rows rolled out at a time, which bounds the memory; 250 on CPU, else 10,000 over the "
        "members that are side by side when empty",
        low=1,
    )
    termination: str | None = setting(
        None, "termination function by name, or your own as module:function; the task's own when empty"
    )
    reward: str | None = setting(
        None, "known reward as module:function of (obs, action, next_obs); the learned one when empty"
    )
    clip_to_data: bool = setting(
        False,
        "clip predicted next observations and rewards to the data's range, widened on each side by half its "
        "width",
    )


@dataclass(frozen=True)
class RolloutConfig(SimulationConfig):
    """Roll-outs in the dynamics model (ADM paper, Algorithm 1)."""

    rollout_length: int = setting(5, "steps H of a roll-out", low=1)
    rollout_batch_size: int = setting(50_000, "starts of roll-outs per epoch", low=1)
    persistent: bool = setting(
        False,
        "full-horizon roll-outs: rollout_batch_size environments live in the model, each epoch takes "
        "rollout_length steps in them, and their episodes go on from epoch to epoch",
    )
    horizon: int = setting(1000, "steps of such an episode at most", low=1)
    retain_epochs: int = setting(5, "epochs whose roll-outs the model buffer holds", low=1)
    history_cache_gib: float | None = setting(
        None,
        "memory of each member for the histories of all transitions, encoded once if they fit in and the run "
        "rolls out from more than twice as many starts; else in each roll-out. 1 on CPU, else half of the "
        "device's over the members that are side by side when empty",
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
    trace_decay: float = setting(
        0.0,
        "lambda: critics regress on lambda-returns along a roll-out's steps, each row on one drawn n-step "
        "return; 0 for one step",
        low=0.0,
        high=1.0,
    )
    uncertainty_quantile: float | None = setting(
        None,
        "quantile of the uncertainty along the data above which a roll-out ends, without the step; none when "
        "empty",
        above=0.0,
        high=1.0,
    )

    def __post_init__(self) -> None:
        if self.trace_decay and self.rollout_length == 1:
            raise InputError(
                "trace_decay: has no effect with rollout_length=1, which has one step to a return"
            )
        if self.horizon != RolloutConfig.horizon and not self.persistent:
            raise InputError(
                "horizon: has no effect without persistent; rollout_length is the roll-outs' own"
            )


@dataclass(frozen=True)
class GrowingRolloutConfig(SimulationConfig):
    """Roll-outs that grow longer while the model gets better (ADM paper, Table 4; MBPO)."""

    rollout_length: int = setting(1, "steps of a roll-out at first", low=1)
    final_rollout_length: int = setting(15, "steps of a roll-out when they have grown", low=1)
    growth_start: int = setting(0, "environment steps after warm-up at which roll-outs begin to grow", low=0)
    growth_end: int = setting(50_000, "environment steps after warm-up at which they have grown", low=0)
    rollout_batch_size: int = setting(100_000, "starts of roll-outs each time", low=1)
    retain_rollouts: int = setting(4, "times of rolling out whose rows the model buffer holds", low=1)

    def length_at(self, num_steps: int) -> int:
        """Steps of a roll-out after so many environment steps since warm-up: linear, whole numbers."""
        span = max(self.growth_end - self.growth_start, 1)
        share = min(max((num_steps - self.growth_start) / span, 0.0), 1.0)
        if num_steps >= self.growth_end:
            share = 1.0
        return int(self.rollout_length + share * (self.final_rollout_length - self.rollout_length))


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
    max_entropy_weight: float | None = setting(
        None, "entropy weight at most with auto_entropy; without bound when empty", above=0.0
    )
    deterministic_backup: bool = setting(False, "leave the entropy term out of the critics' target")
    num_critics: int = setting(2, "critics", low=1, high=100)
    num_min_critics: int | None = setting(
        None,
        "critics, drawn anew for each update, whose minimum is the target; all of them when empty",
        low=1,
    )
    critic_layer_norm: bool = setting(False, "LayerNorm before each ReLU of the critics")
    actor_layer_norm: bool = setting(False, "LayerNorm before each ReLU of the actor")
    standardize_obs: bool = setting(
        False, "actor and critics see observations less the dataset's mean, over its deviation"
    )
    actor_average: float = setting(
        0.0,
        "share by which an averaged actor, which is the policy then, follows the actor with each update; "
        "0: the actor is the policy",
        low=0.0,
        high=1.0,
    )
    cloning_weight: float | tuple[float, ...] = setting(
        0.0,
        "weight of the actor's mean squared distance from recorded actions on real rows, times the mean |Q|",
        low=0.0,
    )
    cloning_rows: Literal["all", "better", "advantage"] = setting(
        "all",
        "cloned rows: all; those whose recorded action the critics prefer; or all, weighted by the "
        "exponential of their advantage, which pretraining finds",
    )

    def __post_init__(self) -> None:
        if (self.num_min_critics or 1) > self.num_critics:
            raise InputError(
                f"num_min_critics: the minimum of {self.num_min_critics} of num_critics={self.num_critics} "
                "critics; give at most as many"
            )
        for name in ("target_entropy", "entropy_lr", "max_entropy_weight"):
            if getattr(self, name) != getattr(SACConfig, name) and not self.auto_entropy:
                raise InputError(f"{name}: has no effect without auto_entropy; give --auto_entropy as well")


@dataclass(frozen=True)
class PretrainConfig:
    """Values of recorded actions, before the policies (implicit Q-learning; Kostrikov et al., 2022)."""

    pretrain_steps: int = setting(
        0, "updates of critics and state values on recorded actions, before policies are optimised", low=0
    )
    pretrain_lr: float = setting(1e-3, "their learning rate, which decays to zero as a cosine", above=0.0)
    pretrain_tau: float = setting(0.01, "their target critics' smoothing coefficient", above=0.0, high=1.0)
    expectile: float = setting(0.7, "expectile of Q that state values regress on", low=0.5, high=0.999)
    advantage_trace_decay: float = setting(
        1.0,
        "lambda of the advantages along recorded episodes; 1: the recorded return less V",
        low=0.0,
        high=1.0,
    )
    advantage_temperature: float = setting(
        0.05, "advantage, as a share of the mean |V|, that weighs a cloned row by e", above=0.0
    )


class Hyper(NamedTuple):
    """Scalars traced by the compiled program, so that they can be swept without recompiling."""

    penalty_coef: jax.Array
    entropy_weight: jax.Array
    actor_lr: jax.Array
    critic_lr: jax.Array
    entropy_lr: jax.Array
    tau: jax.Array
    cloning_weight: jax.Array


SWEPT = Hyper._fields  # the settings that may have several values
