"""Members side by side in one program: the population axis P, put on once and outermost.

A member is a seed and its own values of the settings that are swept (``adm_jax.config.SWEPT``).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from adm_jax.agents.sac import make_hyper
from adm_jax.config import SWEPT, Hyper, OfflineConfig, OnlineConfig
from adm_jax.config.settings import only_value, replace_flat, to_flat
from adm_jax.population.devices import choose_devices
from adm_jax.population.memory import accelerator_gib

C = TypeVar("C", OfflineConfig, OnlineConfig)

_ROWS = 10_000  # of all members, rolled out at a time on an accelerator
_FEWEST_ROWS = 125  # of a member
_HISTORIES_GIB = 1.0  # of a member's, where the device's memory is not known


class Member(NamedTuple):
    """One of the population."""

    seed: int
    swept: Mapping[str, float]  # its values of the settings that have several

    @property
    def tag(self) -> str:
        """Its name in files: ``seed0``, or ``seed0,penalty_coef=0.5``."""
        return ",".join([f"seed{self.seed}", *(f"{name}={value:g}" for name, value in self.swept.items())])

    def to_dict(self) -> dict[str, Any]:
        """``{"seed": 0, "penalty_coef": 0.5}``."""
        return {"seed": self.seed, **self.swept}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Member":
        """What ``to_dict`` gave."""
        return cls(values["seed"], {name: value for name, value in values.items() if name != "seed"})


def all_members(config: OfflineConfig | OnlineConfig) -> tuple[Member, ...]:
    """Every combination of a seed and a value of each swept setting; those of a seed follow each other."""
    swept = {name: value for name, value in to_flat(config).items() if name in SWEPT}
    swept = {name: value for name, value in swept.items() if isinstance(value, tuple)}
    # the order that members and their names have had from the first: the penalty's coefficient varies slowest
    swept = dict(sorted(swept.items(), key=lambda item: item[0] != "penalty_coef"))
    combinations = list(itertools.product(*swept.values()))
    return tuple(
        Member(seed, dict(zip(swept, values, strict=True)))
        for seed in config.seeds
        for values in combinations
    )


def seeds_of(members: Sequence[Member]) -> tuple[int, ...]:
    """The different seeds: what is fitted does not depend on anything swept, and is shared by a seed's."""
    return tuple(dict.fromkeys(member.seed for member in members))


def member_hyper(config: OfflineConfig | OnlineConfig, members: Sequence[Member]) -> Hyper:
    """The traced scalars of every member, [P] each."""
    rows = []
    for member in members:
        alone = replace_flat(config, {**member.swept, "seeds": (member.seed,)})
        penalty_coef = alone.penalty_coef if isinstance(alone, OfflineConfig) else 0.0
        rows.append(make_hyper(alone.sac, only_value("penalty_coef", penalty_coef)))
    return jax.tree.map(lambda *values: jnp.stack(values), *rows)


def resolve_mapping(members: str, platform: str | None = None) -> str:
    """How programs run the members, ``vmap`` or ``map``; ``auto`` is map on CPU and vmap elsewhere.

    On CPU vmap gains nothing (benchmarks/speed/members.py), and under map a member that has stopped costs
    nothing. Without a ``platform`` (``cpu``, ``gpu`` or ``tpu``) it is JAX's default one.
    """
    if members != "auto":
        return members
    return "map" if (platform or jax.default_backend()) == "cpu" else "vmap"


def settled(config: C, platform: str | None = None, device_gib: float | None = None) -> C:
    """The configuration with what depends on the device where it was begun: a run keeps it on any other.

    That is the rows of a member that are rolled out at a time. On CPU 250 stay in the cache (measured:
    bench_rollout with ``--rollout_chunk``). An accelerator needs many to be busy, and has memory for them:
    10,000, not measured there, of all members that are side by side on one, so that temporaries do not grow
    with their number. And it is the memory for a member's kept histories: on CPU as much as ever, on an
    accelerator an equal part of half of it.

    Args:
      config: of a run; what is set in it stays as it is.
      platform: ``cpu``, ``gpu`` or ``tpu``; JAX's default one when None.
      device_gib: memory of each device; what this machine's first one has when None.
    """
    platform, settings = platform or jax.default_backend(), config.rollout
    side_by_side, num_rows = _side_by_side(config, platform), settings.rollout_batch_size
    chunk = settings.rollout_chunk
    if chunk is None:
        chunk = 250 if platform == "cpu" else _even_chunk(_ROWS // side_by_side, num_rows)
    values: dict[str, Any] = {"rollout_chunk": min(chunk, num_rows)}
    if isinstance(config, OfflineConfig) and config.rollout.history_cache_gib is None:
        values["history_cache_gib"] = _HISTORIES_GIB
        device_gib = config.memory_limit_gib or device_gib or accelerator_gib()
        if platform != "cpu" and device_gib is not None:
            values["history_cache_gib"] = round(0.5 * device_gib / side_by_side, 2)
    return replace_flat(config, values)


def _side_by_side(config: OfflineConfig | OnlineConfig, platform: str) -> int:
    """Members whose arrays are in one device's memory at a time, in each operation of a program."""
    if platform == "cpu" or resolve_mapping(config.members, platform) == "map":
        return 1
    at_a_time = getattr(config, "members_per_batch", None) or len(all_members(config))
    return at_a_time // choose_devices(at_a_time, config.num_devices).size


def _even_chunk(limit: int, num_rows: int) -> int:
    """Rows of each of the fewest chunks of at most ``limit``, which leave little to fill up."""
    return -(-num_rows // -(-num_rows // max(limit, _FEWEST_ROWS)))
