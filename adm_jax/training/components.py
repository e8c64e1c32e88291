"""What the compiled programs are made of, offline and online: data, components, how a program is declared.

Offline all members share one dataset (``SharedData``); online each has its own (``OwnData``), in arrays that
are allocated once.
"""

import functools
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp

from adm_jax.agents.sac import SAC, make_sac
from adm_jax.config import MODEL_FREE, FitConfig, OfflineConfig, OnlineConfig
from adm_jax.config.models import ModelConfig, RecurrentConfig
from adm_jax.config.settings import values_of
from adm_jax.data.dataset import Dataset
from adm_jax.data.lanes import LaneIndex, Lanes, as_dataset
from adm_jax.dynamics.histories import row_multiple
from adm_jax.dynamics.interface import Dynamics, ModelParams, make_dynamics
from adm_jax.dynamics.uncertainty import UNCERTAINTIES
from adm_jax.envs import environment
from adm_jax.envs.termination import get_termination
from adm_jax.envs.user_functions import RewardFn, get_reward
from adm_jax.population.compiling import MemberProgram
from adm_jax.population.devices import require_jax, supports_tf32
from adm_jax.population.members import resolve_mapping
from adm_jax.rollout import PolicyFn, Simulation
from adm_jax.tasks import EnvlessTask, Task
from adm_jax.types import ActionBounds, Array, InputError, Key, Prediction, Segment

Config = OfflineConfig | OnlineConfig
Metrics = dict[str, Array]


class SharedData(NamedTuple):
    """Offline: one dataset, and what is held out of it, for all members."""

    dataset: Dataset
    holdout: Segment


class OwnData(NamedTuple):
    """Online: what each member has gone through so far; leaves [P, ...]."""

    lanes: Lanes
    index: LaneIndex
    holdout_key: Key  # draws the segments that a whole fit is judged by


Data = SharedData | OwnData


class Components(NamedTuple):
    """What the programs are made of, settled by the configuration and the task."""

    dynamics: Dynamics | None  # None: SAC alone
    agent: SAC
    termination_fn: Callable[[Array], Array]
    reward_fn: RewardFn | None  # known reward; the model's own when None
    uncertainty_fn: Callable[[Prediction], Array] | None  # of the roll-outs
    obs_dim: int
    action_dim: int
    action_bounds: ActionBounds
    mapping: str  # vmap or map
    data_is_shared: bool
    clips: bool = False  # predictions, into the data's widened range
    longest_episode: int | None = None  # what bounds estimates of returns where no environment does
    row_multiple: int = 1  # of kept histories, see adm_jax.dynamics.histories

    @property
    def model(self) -> Dynamics:
        """The dynamics model, where there is one."""
        assert self.dynamics is not None
        return self.dynamics


P = ParamSpec("P")
C = TypeVar("C", bound=FitConfig | Config)
R = TypeVar("R")


def member_program(
    shared: Collection[str] = (),
    whole: Collection[str] = (),
    donated: Collection[str] = (),
    side_by_side: bool = False,
) -> Callable[[Callable[Concatenate[Components, C, P], R]], Callable[[Components, C], MemberProgram[P, R]]]:
    """Makes ``(components, config, *args)``, written for one member, a program of components and config.

    It says which of ``args`` are ``shared``, ``whole`` or ``donated``, as MemberProgram has it; ``data`` is
    shared offline. ``side_by_side``: online it is vmapped whatever the mapping.
    """

    def declare(
        fn: Callable[Concatenate[Components, C, P], R],
    ) -> Callable[[Components, C], MemberProgram[P, R]]:
        @functools.wraps(fn)
        def bind(components: Components, config: C) -> MemberProgram[P, R]:
            offline = components.data_is_shared
            mapping = "vmap" if side_by_side and not offline else components.mapping
            names = (*shared, "data") if offline else tuple(shared)
            own = tuple(name for name in whole if name not in names)
            return MemberProgram(partial(fn, components, config), mapping, names, own, donated)

        return bind

    return declare


def make_components(config: Config, task: Task, platform: str | None = None) -> Components:
    """The dynamics model and the agent of a configuration in a task, for a ``platform``: resolve_mapping's.

    Raises:
      InputError: JAX cannot be used as it is set up, the task's dimensions are not its environment's, a
        function of the user's does not serve, or the model doesn't offer the uncertainty that is penalised.
    """
    require_jax()
    if task.has_env:
        environment.require_dims(task.env, task.obs_dim, task.action_dim, f"task {task.name}")
    dims, settings = (task.obs_dim, task.action_dim), config.rollout
    bounds, offline = environment.bounds_of_task(task), isinstance(config, OfflineConfig)
    dynamics = None
    if config.dynamics != MODEL_FREE:
        dynamics = make_dynamics(config.dynamics, *dims, resolve_kernels(config, platform))
    return Components(
        dynamics=dynamics,
        agent=make_sac(task.obs_dim, bounds, config.sac),
        termination_fn=get_termination(settings.termination or task.termination, task.obs_dim),
        reward_fn=None if settings.reward is None else get_reward(settings.reward, *dims),
        uncertainty_fn=None if dynamics is None else UNCERTAINTIES[_uncertainty(config, dynamics)],
        obs_dim=task.obs_dim,
        action_dim=task.action_dim,
        action_bounds=bounds,
        mapping=resolve_mapping(config.members, platform),
        data_is_shared=offline,
        clips=settings.clip_to_data,
        longest_episode=task.longest_episode if isinstance(task, EnvlessTask) else None,
        row_multiple=row_multiple(platform or jax.default_backend()),
    )


def resolve_kernels(config: Config, platform: str | None = None) -> ModelConfig:
    """The model's settings, with ``fused_kernels`` on or off: auto is on where the platform gains by them.

    On is for all GPUs, and off elsewhere, so that a run can go on there. Without a ``platform`` (``cpu``,
    ``gpu`` or ``tpu``) it is the default device's.
    """
    model = config.model
    if not isinstance(model, RecurrentConfig) or model.fused_kernels == "off":
        return model
    serve = (platform or jax.default_backend()) == "gpu"
    if model.fused_kernels == "auto":
        serve &= (platform is not None or supports_tf32()) and config.matmul_precision != "float32"
    return replace(model, fused_kernels="on" if serve else "off")


def _uncertainty(config: Config, dynamics: Dynamics) -> str:
    """What roll-outs record, and offline subtract: online beta is 0."""
    if isinstance(config, OnlineConfig):
        return dynamics.uncertainties[0]
    name, known = config.rollout.uncertainty, dynamics.uncertainties
    if max(values_of(config.penalty_coef)) > 0 and name not in known:
        raise InputError(
            f"uncertainty: {name} says nothing of the predictions of {config.dynamics} with these settings; "
            f"one of {', '.join(known)}"
        )
    return name


def make_simulation(
    components: Components,
    model: ModelParams,
    policy_fn: PolicyFn,
    dataset: Dataset,
    penalty_coef: Array | None = None,
) -> Simulation:
    """A policy in a member's model of its dataset; without uncertainty where there is no penalty."""
    uncertainty_fn = components.uncertainty_fn
    if penalty_coef is None or uncertainty_fn is None:
        penalty_coef, uncertainty_fn = jnp.zeros(()), lambda prediction: jnp.zeros_like(prediction.reward)
    return Simulation(
        dynamics=components.model,
        params=model,
        policy_fn=policy_fn,
        termination_fn=components.termination_fn,
        uncertainty_fn=uncertainty_fn,
        penalty_coef=penalty_coef,
        reward_fn=components.reward_fn,
        value_range=dataset.value_range,
        clips=components.clips,
    )


def dataset_of(data: Data) -> Dataset:
    """What roll-outs begin in, of one member."""
    return data.dataset if isinstance(data, SharedData) else as_dataset(data.lanes, data.index)
