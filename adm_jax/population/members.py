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

C = TypeVar("C", OfflineConfig, OnlineConfig)


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


def settled(config: C, platform: str | None = None) -> C:
    """The configuration with what depends on the device where it was begun: a run keeps it on any other.

    That is the rows that are rolled out at a time. On CPU 250 stay in the cache (measured: bench_rollout with
    ``--rollout_chunk``). An accelerator needs many to be busy, and has memory for them; 10,000 have not been
    measured there. Without a ``platform`` it is JAX's default one.
    """
    platform, settings = platform or jax.default_backend(), config.rollout
    chunk = settings.rollout_chunk or (250 if platform == "cpu" else 10_000)
    return replace_flat(config, {"rollout_chunk": min(chunk, settings.rollout_batch_size)})
