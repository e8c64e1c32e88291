"""Whose settings a run has, in words: shown at its start and kept in its config.json."""

from adm_jax.config import DERIVED_TASK, OfflineConfig, OnlineConfig, offline_family, online_family
from adm_jax.config.models import get_model
from adm_jax.config.settings import to_flat
from adm_jax.tasks import Task

# what published settings tune from one dataset to the next
_TUNED = (
    *("max_backtrack", "rollout_length", "rollout_batch_size", "penalty_coef", "entropy_weight"),
    *("real_ratio", "num_epochs"),
)


def settings_source(config: OfflineConfig | OnlineConfig, task: Task) -> str:
    """Where a run's settings come from, and which were given instead.

    A task's published settings are for a family: MOPO's for the ensemble, ADMPO's for the other models, and
    ADM2PO's for full-horizon roll-outs. Of a task that is made from a dataset, and has none, the values are
    shown too.
    """
    values = to_flat(config)
    if isinstance(config, OnlineConfig):
        family = online_family(config.dynamics)
        source, published = task.online_source(family), task.online_preset(family)
    else:
        family = offline_family(config.dynamics, config.rollout.persistent)
        source = task.settings_source(family)
        published = {**task.preset(config.preset, family), **get_model(config.dynamics).settings}
    others = [name for name, value in published.items() if name in values and values[name] != value]
    parts = [source]
    if others:
        parts.append(f"given instead: {', '.join(others)}")
    if config.task == DERIVED_TASK:
        parts.append(", ".join(f"{name}={values[name]}" for name in _TUNED if name in values))
    return "; ".join(parts)
