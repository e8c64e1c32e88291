"""Configurations from flat values, and from the published settings of a task."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from adm_jax.config.models import get_model, registered
from adm_jax.config.offline import OfflineConfig
from adm_jax.config.online import MODEL_FREE, OnlineConfig
from adm_jax.config.settings import Leaf, leaves, replace_flat, to_flat
from adm_jax.tasks import Task, get_task, presets
from adm_jax.tasks.task import Family, OnlineFamily
from adm_jax.types import InputError

DERIVED_TASK = "auto"  # the name of a task that is made from the dataset and has no published settings
_UNPUBLISHED_TASK = Task(DERIVED_TASK, "", 0, 0, "", **presets.UNPUBLISHED)  # its settings, before it is made
C = TypeVar("C", OfflineConfig, OnlineConfig)


def all_leaves(config_class: type) -> Iterator[Leaf]:
    """The leaves of a configuration, and of every registered dynamics model that it could hold."""
    seen = set()
    for leaf in leaves(config_class):
        seen.add(leaf.name)
        yield leaf
    if config_class not in (OfflineConfig, OnlineConfig):
        return
    for model in registered().values():
        for leaf in leaves(model.config_class):
            if leaf.name not in seen:
                seen.add(leaf.name)
                yield leaf._replace(group="model")


def offline_from_flat(values: Mapping[str, Any]) -> OfflineConfig:
    """The configuration that flat values describe; what they leave out takes its default.

    Raises:
      InputError: a name is no setting of this configuration, or a value is out of its range.
    """
    return _from_flat(OfflineConfig, values)


def online_from_flat(values: Mapping[str, Any]) -> OnlineConfig:
    """As ``offline_from_flat``; with ``dynamics=none`` a dynamics model's settings say nothing."""
    return _from_flat(OnlineConfig, values)


def _from_flat(config_class: type[C], values: Mapping[str, Any]) -> C:
    name = values.get("dynamics", "adm")
    if config_class is OnlineConfig and name == MODEL_FREE:
        return replace_flat(config_class(dynamics=name), values)
    base = config_class(dynamics=name, model=get_model(name).config_class())
    both = set(to_flat(base.model)) & {leaf.name for leaf in leaves(config_class) if leaf.group != "model"}
    if both:
        raise InputError(
            f"{sorted(both)[0]}: a setting of the dynamics model {name} and of the loop; rename the model's"
        )
    own = to_flat(base)
    settings = {other: to_flat(model.config_class()) for other, model in registered().items()}
    for field_name in sorted(set(values) - set(own)):
        having = [other for other, theirs in settings.items() if field_name in theirs]
        if having:
            raise InputError(
                f"{field_name}: no setting of the dynamics model {name}, but of {' and '.join(having)}"
            )
    return replace_flat(base, values)


def config_for_task(
    task: str = "hopper-builtin", preset: str = "code", dynamics: str = "adm", **overrides: Any
) -> OfflineConfig:
    """A task's configuration: default < the task's published settings < the model's < ``overrides``.

    With ``persistent=True`` among the overrides the published settings are those of ADM2PO-fh.

    Args:
      task: a name in ``adm_jax.tasks``, or ``auto`` for one made from the dataset.
      preset: ``code`` for the settings of the authors' code, ``paper`` for the paper's tables.
      dynamics: a registered dynamics model; published settings that it doesn't have are left out.
      overrides: fields in flat form, as ``num_epochs=50``.

    Raises:
      InputError: the task, the preset, the model or a field is unknown, or a value is out of its range.
    """
    model = get_model(dynamics)
    known = _UNPUBLISHED_TASK if task == DERIVED_TASK else get_task(task)
    published = known.preset(preset, offline_family(dynamics, overrides.get("persistent", False)))
    own = to_flat(OfflineConfig(dynamics=dynamics, model=model.config_class()))
    unknown = set(published) - {leaf.name for leaf in all_leaves(OfflineConfig)}
    if unknown:
        raise InputError(f"task: {task}: settings: {sorted(unknown)[0]} is no field of the configuration")
    published = {name: value for name, value in published.items() if name in own}
    chosen = {"task": task, "preset": preset, "dynamics": dynamics}
    return offline_from_flat({**published, **model.settings, **overrides, **chosen})


def offline_family(dynamics: str, persistent: bool) -> Family:
    """Whose published settings go with a dynamics model offline; with full-horizon roll-outs ADM-v2's."""
    return "adm2po" if persistent else get_model(dynamics).published


def online_config_for_task(
    task: str = "inverted_pendulum", dynamics: str = "adm", **overrides: Any
) -> OnlineConfig:
    """A task's configuration online: default < the task's published settings < ``overrides``.

    Args:
      task: a name in ``adm_jax.tasks``.
      dynamics: a registered dynamics model, or ``none``; it chooses among ADMPO-ON's, MBPO's and SAC's
        published settings, of which those that it doesn't have are left out.
      overrides: fields in flat form, as ``num_steps=20_000``.

    Raises:
      InputError: the task, the model or a field is unknown, has no effect, or a value is out of its range.
    """
    chosen = {"task": task, "dynamics": dynamics}
    if dynamics == MODEL_FREE:
        _refuse_settings_of_models(overrides)
    published = get_task(task).online_preset(online_family(dynamics))
    own = to_flat(online_from_flat({"dynamics": dynamics}))
    unknown = set(published) - {leaf.name for leaf in all_leaves(OnlineConfig)}
    if unknown:
        raise InputError(f"task: {task}: settings: {sorted(unknown)[0]} is no field of the configuration")
    published = {name: value for name, value in published.items() if name in own}
    return online_from_flat({**published, **overrides, **chosen})


def _refuse_settings_of_models(names: Iterable[str]) -> None:
    """What has no effect where there is no dynamics model."""
    of_models = {"model_every", "refit", "refit_epochs", "refit_learning_rate", "real_ratio"}
    of_models |= {leaf.name for leaf in all_leaves(OnlineConfig) if leaf.group in ("model", "fit", "rollout")}
    for name in names:
        if name in of_models:
            raise InputError(f"{name}: has no effect with dynamics={MODEL_FREE}, which has no dynamics model")


def online_family(dynamics: str) -> OnlineFamily:
    """Whose published settings go with a dynamics model online."""
    if dynamics == MODEL_FREE:
        return "sac"
    return "mbpo" if get_model(dynamics).published == "mopo" else "admpo"
