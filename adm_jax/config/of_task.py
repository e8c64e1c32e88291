"""Configurations from flat values, and from the published settings of a task."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, TypeVar

from adm_jax.config import presets
from adm_jax.config.models import get_model, registered
from adm_jax.config.offline import OfflineConfig
from adm_jax.config.online import MODEL_FREE, OnlineConfig
from adm_jax.config.presets import DERIVED_TASK
from adm_jax.config.presets.offline import STEADY_SOURCE
from adm_jax.config.presets.preset import Family, OfflineFamily, OnlineFamily, Presets
from adm_jax.config.references import import_named
from adm_jax.config.run import RunConfig
from adm_jax.config.settings import Leaf, leaves, replace_flat, to_flat
from adm_jax.types import InputError

C = TypeVar("C", OfflineConfig, OnlineConfig)

# what published settings tune from one dataset to the next
_TUNED = (
    "max_backtrack", "rollout_length", "rollout_batch_size", "penalty_coef", "entropy_weight", "real_ratio",
    "num_epochs",
)  # fmt: skip


# settings that runs of earlier versions have not stored; those did what the default does
_NOT_STORED = {  # whose defaults are what runs did before there were these settings
    "max_entropy_weight",
    "preset",
    "eval_env",
    "clip_to_data",
    "checkpoint_share",
    "deterministic_ops",
    *("num_critics", "num_min_critics", "critic_layer_norm", "actor_layer_norm", "critic_lr_schedule"),
    *("standardize_obs", "actor_average", "cloning_weight", "cloning_rows", "trace_decay"),
    *("uncertainty_quantile", "start", "critic_start", "hold_epochs", "estimate_rows"),
    *("bc_lr_schedule", "bc_weight_decay", "pretrain_steps", "pretrain_lr", "pretrain_tau", "expectile"),
    *("advantage_trace_decay", "advantage_temperature"),
}


def is_derived(task: str) -> bool:
    """Whether a task is made from the dataset: ``auto``, or ``module:auto`` (see ``import_named``)."""
    return task.rpartition(":")[2] == DERIVED_TASK


class _Task(Protocol):
    """A task, as far as its settings go."""

    @property
    def name(self) -> str: ...

    @property
    def presets(self) -> Presets: ...


def all_leaves(config_class: type) -> Iterator[Leaf]:
    """The leaves of a configuration, and of every registered dynamics model that it could hold."""
    seen = set()
    for leaf in leaves(config_class):
        seen.add(leaf.name)
        yield leaf
    if not issubclass(config_class, RunConfig):
        return
    for model in registered().values():
        for leaf in leaves(model.config_class):
            if leaf.name not in seen:
                seen.add(leaf.name)
                yield leaf._replace(group="model")


def offline_from_flat(values: Mapping[str, Any]) -> OfflineConfig:
    """The configuration that flat values describe; what they leave out takes its default.

    Raises InputError: a name is no setting of this configuration, or a value is out of its range.
    """
    return _from_flat(OfflineConfig, values)


def online_from_flat(values: Mapping[str, Any]) -> OnlineConfig:
    """As ``offline_from_flat``; with ``dynamics=none`` a dynamics model's settings say nothing."""
    values = dict(values)
    schedule = values.pop("actor_lr_schedule", "none")  # which runs of earlier versions have stored
    if schedule != "none":
        raise InputError(f"actor_lr_schedule: {schedule} has no effect here; must be none")
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


def stored_settings(config: OfflineConfig | OnlineConfig) -> list[str]:
    """Names that a run's config.json must hold: what it lacks would silently take its default."""
    return [name for name in to_flat(config) if name not in _NOT_STORED]


def config_for_task(
    task: str = "hopper-builtin", preset: str = "code", dynamics: str = "adm", **overrides: Any
) -> OfflineConfig:
    """A task's configuration: default < the task's published settings < the model's < ``overrides``.

    The task ``auto`` is made from the dataset; ``preset`` is ``code``, the settings of the authors' code and
    where nothing is published the library's own, ``paper``, those of its tables, or ``steady``, the library's
    own. Published settings that the dynamics model doesn't have are left out; with
    ``persistent=True`` they are ADM2PO-fh's. Overrides are fields in flat form, as ``num_epochs=50``.

    Raises InputError: the task, the preset, the model or a field is unknown, or a value is out of its range.
    """
    model = get_model(dynamics)
    name = import_named(task, "task")
    own = {} if name == DERIVED_TASK else presets.presets_of(task)
    family = _offline_family(dynamics, overrides.get("persistent", False))
    published = presets.settings_of(name, own, family, preset)
    default = OfflineConfig(dynamics=dynamics, model=model.config_class())
    chosen = {"task": task, "preset": preset, "dynamics": dynamics}
    return offline_from_flat({**_known(task, published, default), **model.settings, **overrides, **chosen})


def online_config_for_task(
    task: str = "inverted_pendulum", dynamics: str = "adm", preset: str = "code", **overrides: Any
) -> OnlineConfig:
    """A task's configuration online: default < the task's published settings < ``overrides``.

    The dynamics model, or ``none``, chooses among ADMPO-ON's, MBPO's and SAC's published settings; with the
    ``preset`` steady the library's own lie above them.

    Raises InputError: the task, the preset, the model or a field is unknown, a field has no effect, or a
    value is out of range.
    """
    if dynamics == MODEL_FREE:
        _refuse_settings_of_models(overrides)
    published = presets.settings_of(task, presets.presets_of(task), _online_family(dynamics), preset)
    default = online_from_flat({"dynamics": dynamics})
    chosen = {"task": task, "preset": preset, "dynamics": dynamics}
    return online_from_flat({**_known(task, published, default), **overrides, **chosen})


def _known(task: str, published: Mapping[str, Any], config: OfflineConfig | OnlineConfig) -> dict[str, Any]:
    """The published settings that the configuration with its dynamics model has."""
    unknown = set(published) - {leaf.name for leaf in all_leaves(type(config))}
    if unknown:
        raise InputError(f"task: {task}: settings: {sorted(unknown)[0]} is no field of the configuration")
    own = to_flat(config)
    return {name: value for name, value in published.items() if name in own}


def _refuse_settings_of_models(names: Iterable[str]) -> None:
    """What has no effect where there is no dynamics model."""
    of_models = {"model_every", "refit", "refit_epochs", "refit_learning_rate", "real_ratio"}
    of_models |= {leaf.name for leaf in all_leaves(OnlineConfig) if leaf.group in ("model", "fit", "rollout")}
    for name in names:
        if name in of_models:
            raise InputError(f"{name}: has no effect with dynamics={MODEL_FREE}, which has no dynamics model")


def _offline_family(dynamics: str, persistent: bool) -> OfflineFamily:
    """Whose published settings go with a dynamics model offline; with full-horizon roll-outs ADM-v2's."""
    if persistent:
        return "adm2po"
    return "mopo" if get_model(dynamics).published == "mopo" else "admpo_off"


def _online_family(dynamics: str) -> OnlineFamily:
    """Whose published settings go with a dynamics model online."""
    if dynamics == MODEL_FREE:
        return "sac"
    return "mbpo" if get_model(dynamics).published == "mopo" else "admpo_on"


def settings_source(config: OfflineConfig | OnlineConfig, task: _Task) -> str:
    """Where a run's settings come from, in words, and which were given instead.

    For a task that is made from a dataset, and has none, the values are added.
    """
    family: Family
    if isinstance(config, OnlineConfig):
        family = _online_family(config.dynamics)
        published = presets.settings_of(task.name, task.presets, family, config.preset)
    else:
        family = _offline_family(config.dynamics, config.rollout.persistent)
        published = presets.settings_of(task.name, task.presets, family, config.preset)
        published |= get_model(config.dynamics).settings
    values = to_flat(config)
    others = [name for name, value in published.items() if name in values and values[name] != value]
    source = presets.source_of(task.name, task.presets, family)
    if config.preset == "steady":
        source = STEADY_SOURCE if isinstance(config, OfflineConfig) else f"preset steady above {source}"
    parts = [source]
    if others:
        parts.append(f"given instead: {', '.join(others)}")
    if is_derived(config.task):
        parts.append(", ".join(f"{name}={values[name]}" for name in _TUNED if name in values))
    return "; ".join(parts)
