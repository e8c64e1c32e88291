"""Dynamics models by name: their settings, and how one is made.

A model is registered before it is imported: naming its settings costs nothing, making one imports it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from adm_jax.config.references import import_named
from adm_jax.config.settings import setting
from adm_jax.types import InputError


@dataclass(frozen=True)
class ModelConfig:
    """What every dynamics model has; each adds its own settings."""

    model_hidden_dim: int = setting(200, "width W of the model's hidden layers", low=1, high=16_384)
    logvar_bound_coef: float = setting(0.01, "weight of the log-variance bounds in the loss", low=0.0)
    shared_unit: bool = setting(
        False,
        "in roll-outs draw one unit (backtracking length, or network) for the whole batch, not one per row",
    )


@dataclass(frozen=True)
class RecurrentConfig(ModelConfig):
    """The any-step model (ADM paper, section 3.1; architecture of the authors' code) and its relatives."""

    max_backtrack: int = setting(5, "maximum backtracking length m", low=1, high=32)
    num_gru_layers: int = setting(3, "GRU layers L", low=1, high=16)
    num_residual_blocks: int = setting(4, "residual blocks of the head", low=0, high=64)
    dropout_rate: float = setting(0.0, "dropout in the residual blocks while fitting", low=0.0, high=0.9)
    rollout_dropout: bool = setting(
        False, "keep dropout on in roll-outs and in the penalty, as the authors' code does"
    )
    backtrack_sampling: Literal["one", "all"] = setting(
        "one", "fit one backtracking length per minibatch (drawn uniformly), or all m in one pass"
    )
    fused_kernels: Literal["auto", "on", "off"] = setting(
        "auto",
        "one kernel for a GRU layer's step in roll-outs, and for a residual block; auto: on NVIDIA's GPUs "
        "of compute capability 8.0 or later, except where products are float32; on: on all GPUs",
    )

    def __post_init__(self) -> None:
        if self.rollout_dropout and self.dropout_rate == 0.0:
            raise InputError("rollout_dropout: there is no dropout to keep on; set dropout_rate above 0")

    @property
    def streams(self) -> int:
        """How many predictions of a state a roll-out has."""
        return self.max_backtrack


@dataclass(frozen=True)
class AnyStepV2Config(RecurrentConfig):
    """ADM-v2; the switches are for ablations, their defaults are the model of the authors' code."""

    logvar_bound_coef: float = setting(0.0, "weight of the log-variance bounds in the loss", low=0.0)
    num_residual_blocks: int = setting(3, "residual blocks of the head", low=0, high=64)
    num_encoder_blocks: int = setting(3, "residual blocks of the encoder", low=0, high=64)
    num_streams: int | None = setting(
        None, "streams M of a roll-out; as many as the maximum backtracking length when empty", low=1
    )
    state_input: Literal["encoded", "duplicated"] = setting(
        "encoded",
        "the start state is the first hidden state, encoded, or is joined to every action, as in ADM",
    )
    displacement: Literal["latest", "start"] = setting(
        "latest", "predict the displacement from the latest state, or from the start state as ADM does"
    )
    decoder_input: Literal["pair", "last"] = setting(
        "pair", "decode the hidden states before and after the last action, or the last one alone"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rollout_dropout:
            raise InputError(
                "rollout_dropout: ADM-v2 is rolled out without; its authors have no dropout at all"
            )
        if self.num_streams is not None and self.num_streams > self.max_backtrack:
            raise InputError(
                f"num_streams: {self.num_streams} is more than max_backtrack={self.max_backtrack}, which a "
                "stream's age never exceeds"
            )

    @property
    def streams(self) -> int:
        """How many predictions of a state a roll-out has, M."""
        return self.num_streams or self.max_backtrack

    @property
    def reads_start(self) -> bool:
        """Whether a stream needs the state it started at once it has begun."""
        return self.state_input == "duplicated" or self.displacement == "start"


@dataclass(frozen=True)
class EnsembleConfig(ModelConfig):
    """The probabilistic ensemble (PETS; Chua et al., 2018) as MBPO and MOPO have it."""

    num_networks: int = setting(7, "networks of the ensemble", low=2, high=256)
    num_elites: int = setting(
        5, "networks with the lowest held-out errors, of which roll-outs draw", low=2, high=256
    )
    num_hidden_layers: int = setting(4, "hidden layers of a network", low=1, high=16)
    weight_decays: tuple[float, ...] = setting(
        (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4),
        "weight of half the squared weights in the loss, for each layer from the first to the last",
        low=0.0,
    )

    def __post_init__(self) -> None:
        if self.num_elites > self.num_networks:
            raise InputError(
                f"num_elites: {self.num_elites} of num_networks={self.num_networks} cannot be chosen"
            )
        if len(self.weight_decays) != self.num_hidden_layers + 1:
            raise InputError(
                f"weight_decays: {len(self.weight_decays)} numbers for num_hidden_layers="
                f"{self.num_hidden_layers}; must be one for each and one for the last layer"
            )


def without_kernels(config: ModelConfig) -> ModelConfig:
    """The same model by plain functions, for any device and with gradients."""
    return replace(config, fused_kernels="off") if isinstance(config, RecurrentConfig) else config


class Model(NamedTuple):
    """What is known of a dynamics model before one is made."""

    factory: str | Callable[..., Any]  # (obs_dim, action_dim, config) -> Dynamics; text: "module:function"
    config_class: type[ModelConfig]
    algorithm: str  # what the offline loop is called with it; names the folder of its runs
    online_algorithm: str  # the same of the online loop
    published: Literal["admpo", "mopo"]  # whose published settings of a task go with it
    settings: Mapping[str, Any]  # flat settings that go with it, above the task's published ones


_MODELS: dict[str, Model] = {}


def register_dynamics(
    name: str,
    factory: str | Callable[..., Any],
    config_class: type[ModelConfig] = RecurrentConfig,
    *,
    algorithm: str | None = None,
    online_algorithm: str | None = None,
    published: Literal["admpo", "mopo"] = "admpo",
    settings: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Makes a dynamics model known under a name, for ``--dynamics``.

    ``factory`` is ``(obs_dim, action_dim, config) -> adm_jax.dynamics.interface.Dynamics``, or
    "module:function", which is imported when the first one is made. Every field of ``config_class``, a frozen
    dataclass, is a flag if the model is registered before flags are parsed (those of ``module:name`` are not:
    give them from Python). ``algorithm`` and ``online_algorithm`` name the folders of its runs,
    ``offline_<name>`` and ``online_<name>`` when None. It takes a task's settings ``published`` by ADMPO or
    MOPO, as far as it has such settings, and above them its own flat ``settings`` of the offline loop. Raises
    InputError: the name is taken by another model, and ``overwrite`` is not set.
    """
    algorithm = algorithm or f"offline_{name}"
    online_algorithm = online_algorithm or f"online_{name}"
    model = Model(factory, config_class, algorithm, online_algorithm, published, dict(settings or {}))
    if _MODELS.get(name, model) != model and not overwrite:
        raise InputError(
            f"dynamics: {name} is registered already, as another model; choose another name or overwrite=True"
        )
    _MODELS[name] = model


def get_model(name: str) -> Model:
    """The dynamics model registered under a name; ``module:name`` imports the module first.

    Raises InputError: there is none; the message lists the known names and how to register one.
    """
    short = import_named(name, "dynamics")
    if short not in _MODELS:
        raise InputError(
            f"dynamics: {name!r} is unknown; one of {', '.join(_MODELS)}, or module:name of a module that "
            "calls adm_jax.config.models.register_dynamics"
        )
    return _MODELS[short]


def registered() -> Mapping[str, Model]:
    """All registered dynamics models by name."""
    return _MODELS


register_dynamics("adm", "adm_jax.dynamics.adm:make_adm", algorithm="admpo_off", online_algorithm="admpo_on")
register_dynamics(
    "adm_v2",
    "adm_jax.dynamics.adm_v2:make_adm_v2",
    AnyStepV2Config,
    algorithm="adm2po",
    online_algorithm="adm2po_on",
)
register_dynamics("bootstrapped_rnn", "adm_jax.dynamics.bootstrapped_rnn:make_bootstrapped_rnn")
register_dynamics(
    "ensemble",
    "adm_jax.dynamics.ensemble:make_ensemble",
    EnsembleConfig,
    algorithm="mopo",
    online_algorithm="mbpo",
    published="mopo",
)
