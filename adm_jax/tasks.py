"""Tasks: environment, termination, reference scores and published settings.

Environments are the ``*-v4`` ones: their dynamics and rewards are those of the D4RL v2 data (Walker2d-v5
has other foot friction, Hopper-v5 another reward).

Which settings are the default. The ADM paper's tables and the authors' code differ in a few entries and in
one thing of weight: the paper penalises with Eq. 4, the code with the standard deviation of the m means.
The published coefficients, and the scores reported with them, belong to the code's form, whose scale is
another. So ``settings`` is what the code runs, and ``paper_settings`` only what the paper states otherwise.
How the dynamics model is fitted is part of neither: the library's own defaults reach a lower held-out error.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from adm_jax.types import EnvSpec, InputError


@dataclass(frozen=True)
class Task:
    """What the library knows of a task.

    ``settings`` are the published settings of the authors' code in flat configuration form;
    ``paper_settings`` holds only what the paper's tables state otherwise.
    """

    name: str
    env_id: str
    obs_dim: int
    action_dim: int
    termination: str  # a name in adm_jax.envs.termination
    reference_min: float | None = None  # return of a random policy (D4RL)
    reference_max: float | None = None  # return of an expert (D4RL)
    dataset: str | None = None  # default Minari dataset id
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper_settings: Mapping[str, Any] = field(default_factory=dict)
    mopo_settings: Mapping[str, Any] = field(default_factory=dict)  # for an ensemble as dynamics model
    source: str = ""  # where the settings come from
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)  # of gymnasium.make
    obs_limit: int | None = None  # entries of the observation that are kept; all when None

    @property
    def env(self) -> EnvSpec:
        """The real environment, as adm_jax.envs makes it."""
        return EnvSpec(self.env_id, self.env_kwargs, obs_limit=self.obs_limit)

    def normalized_score(self, episode_return: float) -> float | None:
        """D4RL's score, 100 for an expert and 0 for a random policy; None where there is no reference."""
        if self.reference_min is None or self.reference_max is None:
            return None
        return 100.0 * (episode_return - self.reference_min) / (self.reference_max - self.reference_min)

    def preset(self, name: str, family: str = "admpo") -> dict[str, Any]:
        """The flat settings of a preset: ``code``, or ``paper`` (the code's where the paper is silent).

        Args:
          name: ``code`` or ``paper``.
          family: ``admpo``, or ``mopo`` for MOPO's settings, which are of the code alone.

        Raises:
          InputError: there is no preset of that name.
        """
        if family == "mopo":
            if name != "code":
                raise InputError(f"preset: {name!r} is of ADMPO's settings; MOPO's are code")
            return dict(self.mopo_settings)
        if name == "code":
            return dict(self.settings)
        if name == "paper" and not self.paper_settings:
            having = ", ".join(task.name for task in TASKS.values() if task.paper_settings)
            raise InputError(f"preset: the paper states no settings for task {self.name}; only for {having}")
        if name == "paper":
            return {**self.settings, **self.paper_settings}
        raise InputError(f"preset: {name!r} is unknown; one of code, paper")


# environment -> the fields of Task that all of its tasks share; references: D4RL's infos.py, all versions
_ENVIRONMENTS: dict[str, dict[str, Any]] = {
    "hopper": {
        "env_id": "Hopper-v4",
        "obs_dim": 11,
        "action_dim": 3,
        "termination": "hopper",
        "reference_min": -20.272305,
        "reference_max": 3234.3,
    },
    "walker2d": {
        "env_id": "Walker2d-v4",
        "obs_dim": 17,
        "action_dim": 6,
        "termination": "walker2d",
        "reference_min": 1.629008,
        "reference_max": 4592.3,
    },
    "halfcheetah": {
        "env_id": "HalfCheetah-v4",
        "obs_dim": 17,
        "action_dim": 6,
        "termination": "halfcheetah",
        "reference_min": -280.178953,
        "reference_max": 12135.0,
    },
}

_OFFLINE_COMMON: dict[str, Any] = {
    "num_epochs": 5000,
    "updates_per_epoch": 1000,
    "rollout_batch_size": 50_000,
    "retain_epochs": 5,
    "real_ratio": 0.05,
    "entropy_weight": 0.1,
    "auto_entropy": False,
    "actor_lr": 1e-4,
    "actor_lr_schedule": "cosine",
    "model_hidden_dim": 200,
    "uncertainty": "std_of_means",
    "eval_every": 10,
    "eval_episodes": 10,
}

# environment and data -> max_backtrack, rollout_length, penalty_coef, entropy_weight and what else departs
# from _OFFLINE_COMMON in the authors' code
_OFFLINE: dict[str, tuple[int, int, float, float, dict[str, Any]]] = {
    "hopper-random": (5, 50, 5.0, 1.0, {"num_epochs": 3000}),
    "halfcheetah-random": (2, 10, 2.5, 0.1, {"num_epochs": 3000}),
    "walker2d-random": (2, 50, 2.5, 1.0, {"num_epochs": 3000}),
    "hopper-medium": (5, 10, 1.0, 0.05, {}),
    "halfcheetah-medium": (2, 5, 2.5, 0.1, {}),
    "walker2d-medium": (5, 10, 5.0, 0.01, {}),
    "hopper-medium-replay": (5, 5, 0.1, 0.05, {"real_ratio": 0.5}),
    "halfcheetah-medium-replay": (2, 5, 2.5, 0.1, {"actor_lr": 7e-5, "actor_lr_schedule": "none"}),
    "walker2d-medium-replay": (5, 5, 0.1, 0.1, {"real_ratio": 0.5}),
    "hopper-medium-expert": (2, 20, 20.0, 0.05, {"real_ratio": 0.5}),
    "halfcheetah-medium-expert": (2, 20, 9.16, 0.05, {"real_ratio": 0.5, "model_hidden_dim": 400}),
    "walker2d-medium-expert": (3, 2, 6.0, 0.011, {"real_ratio": 0.5}),
}

_PAPER_COMMON: dict[str, Any] = {"uncertainty": "total_variance"}  # Eq. 4
_PAPER: dict[str, dict[str, Any]] = {
    "halfcheetah-medium-replay": {"actor_lr": 1e-4},  # Table 3
    "halfcheetah-medium-expert": {"rollout_length": 50, "penalty_coef": 10.0},  # Table 5
}

# of an environment alone, with data nobody has published settings for: those of its medium data
_BARE = {"hopper": "hopper-medium", "walker2d": "walker2d-medium", "halfcheetah": "halfcheetah-medium"}

# Hopper's medium-replay settings cut to a run of minutes on two CPU cores: fewer, shorter epochs, and larger,
# constant rates. Found in three tries on this dataset, rates of actor and critics: 1e-4 and 3e-4 (mean return
# 491 after 15,000 updates), 3e-4 and 3e-4 (387 after 12,000), 3e-4 and 1e-3 (512 after 12,000).
_QUICK: dict[str, Any] = {
    "max_backtrack": 5,
    "rollout_length": 5,
    "penalty_coef": 0.1,
    "entropy_weight": 0.05,
    "real_ratio": 0.5,
    "actor_lr": 3e-4,
    "critic_lr": 1e-3,
    "actor_lr_schedule": "none",
    "rollout_batch_size": 5_000,
    "num_epochs": 12,
    "updates_per_epoch": 1_000,
    "eval_every": 4,
    "eval_episodes": 30,
    "checkpoint_every": 4,
    "fit_max_epochs": 12,
    "fit_steps_per_epoch": 400,
    "fit_patience": 12,
    "bc_steps": 10_000,
}


def _published(name: str) -> dict[str, Any]:
    """The authors' code's settings of a D4RL task."""
    max_backtrack, rollout_length, penalty_coef, entropy_weight, others = _OFFLINE[name]
    return {
        **_OFFLINE_COMMON,
        "max_backtrack": max_backtrack,
        "rollout_length": rollout_length,
        "penalty_coef": penalty_coef,
        "entropy_weight": entropy_weight,
        **others,
    }


def _tasks() -> Iterator[Task]:
    for env, fields in _ENVIRONMENTS.items():
        yield Task(
            env, **fields, settings=_published(_BARE[env]), source=f"the published settings of {_BARE[env]}"
        )
    for name in _OFFLINE:
        env, _, data = name.partition("-")
        yield Task(
            name,
            **_ENVIRONMENTS[env],
            dataset=f"d4rl/{env}-{data}-v2",
            settings=_published(name),
            paper_settings={**_PAPER_COMMON, **_PAPER.get(name, {})},
            source="settings: the authors' code (HxLyn3/ADMPO, 2025-02-13); "
            "paper_settings: arXiv 2405.17031, Tables 3 and 5, Eq. 4",
        )
    yield Task(
        "hopper-builtin",
        **_ENVIRONMENTS["hopper"],
        dataset="adm_jax/hopper-replay-v0",
        settings=_QUICK,
        source="quick preset: hopper-medium-replay's settings with fewer, shorter epochs",
    )


TASKS: Mapping[str, Task] = {task.name: task for task in _tasks()}


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
      InputError: there is none; the message lists the known names.
    """
    if name not in TASKS:
        raise InputError(f"task: {name!r} is unknown; one of {', '.join(TASKS)}")
    return TASKS[name]
