"""What is measured of fitted models; ``adm_jax.config.OfflineConfig`` says how they are fitted."""

from dataclasses import dataclass
from typing import Literal

from adm_jax.config.settings import check, setting
from adm_jax.types import InputError

REGRET_AT = (1, 3)  # every k of regret@k


@dataclass(frozen=True)
class EvaluationConfig:
    """Which models are measured; they are fitted as in ``adm-jax offline``."""

    dynamics: tuple[str, ...] = setting(("adm_v2",), "dynamics models: registered names, or module:name")
    models: str | None = setting(
        None, "folder that keeps fitted models: those it has are taken; in the run's own when empty"
    )
    horizon: int | None = setting(
        None, "steps of an episode at most; the environment's time limit when empty", low=1
    )

    def __post_init__(self) -> None:
        check(self)
        if not self.dynamics:
            raise InputError("dynamics: empty; give at least one, as in --dynamics=adm_v2,ensemble")
        doubled = [name for name in self.dynamics if self.dynamics.count(name) > 1]
        if doubled:
            raise InputError(f"dynamics: {doubled[0]} is named twice")


@dataclass(frozen=True)
class OPEConfig(EvaluationConfig):
    """Off-policy evaluation in dynamics models."""

    policies: str | None = setting(
        None,
        "policies to evaluate: folders or globs of .npz and .pkl files, or runs' folders; commas between",
    )
    truth: str | None = setting(None, "JSON file of true returns; see adm_jax.evaluation.truth")
    real_episodes: int = setting(
        0,
        "episodes of each policy in the real environment, for the true returns; 0: none are rolled out",
        low=0,
        high=1000,
    )
    gammas: tuple[float, ...] = setting(
        (0.995, 1.0), "discounts; the first is what figures show", above=0.0, high=1.0
    )
    num_episodes: int = setting(200, "episodes of each policy in each model", low=2, high=100_000)
    episode_chunk: int = setting(250, "episodes rolled out at a time; bounds the memory", low=1)
    deterministic: bool = setting(False, "evaluate the policies' modes instead of their samples")
    predictions: Literal["samples", "means"] = setting(
        "means",
        "next states are the mean of all units' means, or samples of one unit. Where the environment itself "
        "has no noise, sampled errors end episodes too early",
    )
    regret_at: tuple[int, ...] = setting(REGRET_AT, "every k of the metric regret@k", low=1)
    fqe_steps: int = setting(
        50_000, "optimiser steps of fitted Q evaluation for each policy, the baseline; 0 leaves it out", low=0
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        texts = [f"{gamma:g}" for gamma in self.gammas]  # what results are named by
        if not texts or len(set(texts)) < len(texts):
            raise InputError(f"gammas: {','.join(texts)} must be one or more, different in six digits")
        if self.truth is not None and self.real_episodes:
            raise InputError(
                "truth: the true returns come from the file or from real_episodes, not from both"
            )


@dataclass(frozen=True)
class CompoundingErrorConfig(EvaluationConfig):
    """Growth of models' errors over held-out episodes."""

    episode_chunk: int = setting(100, "episodes predicted at a time; bounds the memory", low=1)
