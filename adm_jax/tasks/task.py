"""What the library knows of a task."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from adm_jax.tasks import full_horizon, presets
from adm_jax.types import EnvSpec, InputError

Family = Literal["admpo", "mopo", "adm2po"]  # whose published settings
OnlineFamily = Literal["admpo", "mbpo", "sac"]


@dataclass(frozen=True)
class Task:
    """An environment, how its episodes end, what its returns are measured by, and published settings.

    ``settings`` are ADMPO's published settings as its authors' code has them, in flat configuration form;
    ``paper_settings`` holds only what the paper's tables state otherwise. ``mopo_settings`` is what MOPO,
    with the ensemble in ADM's place, has for this task beside what it has for all.
    """

    name: str
    env_id: str
    obs_dim: int  # D, of what is kept of the observation
    action_dim: int
    termination: str  # a name in adm_jax.envs.termination, or module:function
    reference_min: float | None = None  # return of a random policy
    reference_max: float | None = None  # return of an expert
    dataset: str | None = None  # default Minari dataset id
    settings: Mapping[str, Any] = field(default_factory=dict)
    paper_settings: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""  # where settings and paper_settings come from
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)  # of gymnasium.make
    obs_limit: int | None = None  # entries of the observation that are kept; all when None
    mopo_settings: Mapping[str, Any] = field(default_factory=dict)
    mopo_source: str = ""  # where mopo_settings come from
    full_horizon_settings: Mapping[str, Any] = field(default_factory=dict)  # ADM2PO's, beside what all share
    full_horizon_source: str = ""
    # "admpo", "mbpo" and "sac" -> their published settings of the online loop
    online_settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    online_sources: Mapping[str, str] = field(default_factory=dict)  # family -> where they come from
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

    def settings_source(self, family: Family = "admpo") -> str:
        """Where the settings of a family's presets come from, in words; also where there are none."""
        settings, source = {
            "admpo": (self.settings, self.source),
            "mopo": (self.mopo_settings, self.mopo_source),
            "adm2po": (self.full_horizon_settings, self.full_horizon_source),
        }[family]
        if source:
            return source
        if not settings and family == "adm2po":
            return f"full-horizon defaults; task {self.name} has no settings of its own for it"
        if not settings and family == "mopo":
            return f"what MOPO's tasks share; task {self.name} has no settings of its own for it"
        if not settings:
            return f"task {self.name} has no ADMPO settings: the library's defaults"
        return f"task {self.name}, which does not say where they come from"

    def online_source(self, family: OnlineFamily) -> str:
        """Where the settings of ``online_preset`` come from, in words."""
        if family not in self.online_settings:
            return f"what {family} has for all; task {self.name} has no settings of its own for it"
        return self.online_sources.get(family) or f"task {self.name}, which does not say where they come from"

    def online_preset(self, family: OnlineFamily) -> dict[str, Any]:
        """The flat settings of ADMPO-ON, MBPO or SAC online; what its tasks share where there are none."""
        return {**presets.ONLINE_COMMON[family], **self.online_settings.get(family, {})}

    def preset(self, name: str, family: Family = "admpo") -> dict[str, Any]:
        """The flat settings of a preset: ``code``, or ``paper`` (the code's where the paper is silent).

        Args:
          name: ``code`` or ``paper``.
          family: whose settings; MOPO's and ADM2PO's are ``code`` alone.

        Raises:
          InputError: there is no preset of that name.
        """
        if family != "admpo":
            if name != "code":
                raise InputError(f"preset: {name!r} is of ADMPO's settings; those of {family} are code")
            if family == "adm2po":
                return {**full_horizon.COMMON, **full_horizon.default(), **self.full_horizon_settings}
            return {**presets.MOPO_COMMON, **self.mopo_settings}
        if name == "code":
            return dict(self.settings)
        if name == "paper" and not self.paper_settings:
            raise InputError(f"preset: the paper states no settings for task {self.name}; give preset=code")
        if name == "paper":
            return {**self.settings, **self.paper_settings}
        raise InputError(f"preset: {name!r} is unknown; one of code, paper")
