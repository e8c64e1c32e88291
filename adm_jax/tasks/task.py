"""What the library knows of a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adm_jax.config.presets.preset import Presets
from adm_jax.types import ActionBounds, EnvSpec, InputError


@dataclass(frozen=True)
class Task:
    """An environment, how its episodes end, what its returns are measured by, and published settings."""

    name: str
    env_id: str
    obs_dim: int  # D, of what is kept of the observation
    action_dim: int
    termination: str  # a name in adm_jax.envs.termination, or module:function
    reference_min: float | None = None  # return of a random policy
    reference_max: float | None = None  # return of an expert
    dataset: str | None = None  # default Minari dataset id
    presets: Presets = field(default_factory=dict)  # family -> (settings, source)
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)  # of gymnasium.make
    obs_limit: int | None = None  # entries of the observation that are kept; all when None
    # of a dictionary observation, in the order they are joined; offline they are the data's
    obs_keys: tuple[str, ...] = ()
    # whether its termination redefines the data's episodes: they are ended where it says so, when loaded
    relabel_terminations: bool = False

    @property
    def env(self) -> EnvSpec:
        """The real environment, as adm_jax.envs makes it."""
        return EnvSpec(self.env_id, self.env_kwargs, obs_limit=self.obs_limit, obs_keys=self.obs_keys)

    @property
    def has_env(self) -> bool:
        """Whether policies can be evaluated in a real environment."""
        return True

    def normalized_score(self, episode_return: float) -> float | None:
        """D4RL's score, 100 for an expert and 0 for a random policy; None where there is no reference."""
        if self.reference_min is None or self.reference_max is None:
            return None
        return 100.0 * (episode_return - self.reference_min) / (self.reference_max - self.reference_min)


@dataclass(frozen=True)
class EnvlessTask(Task):
    """A task of logged data whose environment is not available: nothing is evaluated for real."""

    reason: str = ""  # why there is no environment, in a line
    bounds: ActionBounds = field(kw_only=True)  # of the actions: what the environment would have told
    bounds_from: str = ""  # where they come from, in words
    longest_episode: int = 1  # of the recorded ones, in steps: as long are those in the model

    @property
    def env(self) -> EnvSpec:
        """Raises InputError: there is none."""
        raise InputError(f"task {self.name}: there is no environment to evaluate in: {self.reason}")

    @property
    def has_env(self) -> bool:
        """It has not."""
        return False

    @property
    def record(self) -> dict[str, Any]:
        """Entries of a run's config.json, which stand for the environment's."""
        return {"not_evaluated": self.reason, "action_bounds": [[*self.bounds.low], [*self.bounds.high]]}

    def lines(self, horizon: int | None = None) -> list[str]:
        """What follows from it, to be told before anything is computed; ``horizon`` is that of estimates."""
        steps = (
            f"{horizon} steps" if horizon else f"{self.longest_episode} steps, the longest recorded episode"
        )
        return [
            "warning: policies are not evaluated for real, for want of an environment (--task=<name> of a "
            f"registered task gives one): {self.reason}",
            f"actions lie within {self.bounds}: {self.bounds_from}; returns are estimated over {steps}",
        ]
