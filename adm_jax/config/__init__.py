"""Configurations: frozen, hashable dataclasses whose every leaf field is also a command-line flag.

Leaf names are unique across the nested dataclasses, so a configuration can be written flat
(``{"max_backtrack": 5, "penalty_coef": 0.1, ...}``): that is the form of task presets, of flags
and of ``config.json``.
"""

from adm_jax.config.of_task import (
    DERIVED_TASK,
    all_leaves,
    config_for_task,
    is_derived,
    offline_from_flat,
    online_config_for_task,
    online_from_flat,
    settings_source,
    stored_settings,
)
from adm_jax.config.offline import OfflineConfig
from adm_jax.config.online import MODEL_FREE, OnlineConfig, ReplayConfig
from adm_jax.config.parts import (
    SWEPT,
    FitConfig,
    GrowingRolloutConfig,
    Hyper,
    PretrainConfig,
    RolloutConfig,
    SACConfig,
)

__all__ = [
    "DERIVED_TASK",
    "MODEL_FREE",
    "SWEPT",
    "FitConfig",
    "GrowingRolloutConfig",
    "Hyper",
    "OfflineConfig",
    "OnlineConfig",
    "PretrainConfig",
    "ReplayConfig",
    "RolloutConfig",
    "SACConfig",
    "all_leaves",
    "config_for_task",
    "is_derived",
    "offline_from_flat",
    "online_config_for_task",
    "online_from_flat",
    "settings_source",
    "stored_settings",
]
