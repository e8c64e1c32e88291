"""What the library knows of a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from adm_jax.config.presets.preset import Presets
from adm_jax.types import EnvSpec


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
    # whether its termination redefines the data's episodes: they are ended where it says so, when loaded
    relabel_terminations: bool = False

    @property
    def env(self) -> EnvSpec:
        """The real environment, as adm_jax.envs makes it."""
        return EnvSpec(self.env_id, self.env_kwargs, obs_limit=self.obs_limit)

    def normalized_score(self, episode_return: float) -> float | None:
        """D4RL's score, 100 for an expert and 0 for a random policy; None where there is no reference."""
        if self.reference_min is None or self.reference_max is None:
            return None
        return 100.0 * (episode_return - self.reference_min) / (self.reference_max - self.reference_min)
