"""A preset: what somebody published for a task, and where."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, get_args

# ADMPO-OFF in its authors' code, what its paper states otherwise, and the other algorithms
OfflineFamily = Literal["admpo_off", "admpo_paper", "mopo", "adm2po"]
OnlineFamily = Literal["admpo_on", "mbpo", "sac"]
Family = OfflineFamily | OnlineFamily
FAMILIES: tuple[str, ...] = get_args(OfflineFamily) + get_args(OnlineFamily)


class Preset(NamedTuple):
    """A task's settings for a family of algorithms, above what all its tasks share unless ``complete``."""

    settings: Mapping[str, Any] = MappingProxyType({})  # in flat configuration form
    source: str = ""
    complete: bool = False


Presets = Mapping[str, Preset]  # family -> preset
