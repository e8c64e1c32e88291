"""Members side by side in one program: the population axis P, put on once and outermost.

A member is a seed and its own values of the settings that are swept (``adm_jax.config.SWEPT``). On several
devices each works on its share of the members; nothing is exchanged between them.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adm_jax.agents.sac import make_hyper
from adm_jax.config import SWEPT, Hyper, OfflineConfig, OnlineConfig
from adm_jax.rollout import chunk_size
from adm_jax.settings import only_value, replace_flat, to_flat
from adm_jax.types import InputError, Key

_AXIS = "members"
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


def resolve_members(members: str) -> str:
    """``auto`` is map on CPU and vmap elsewhere.

    On CPU vmap gains nothing (benchmarks/members), and under map a member that has stopped costs nothing.
    """
    if members != "auto":
        return members
    return "map" if jax.default_backend() == "cpu" else "vmap"


def with_chunk(config: C) -> C:
    """The configuration with the rows that are rolled out at a time: a run keeps them on any device."""
    chunk = chunk_size(config.rollout.rollout_chunk, config.rollout.rollout_batch_size)
    return replace_flat(config, {"rollout_chunk": chunk})


def over_members(fn: Callable[..., Any], members: str) -> Callable[..., Any]:
    """``fn(member, *shared)`` over the leading axis of ``member``'s leaves; ``shared`` is not mapped."""
    if members == "vmap":
        return lambda member, *shared: jax.vmap(lambda one: fn(one, *shared))(member)
    return lambda member, *shared: jax.lax.map(lambda one: fn(one, *shared), member)


def member_keys(seeds: Sequence[int], stream: int) -> Key:
    """Each member's key [P] of a named stream: a function of the member's own seed alone."""
    root = jax.random.key(0)
    member = jax.vmap(lambda seed: jax.random.fold_in(root, seed))(jnp.asarray(seeds, jnp.uint32))
    return jax.vmap(lambda key: jax.random.fold_in(key, stream))(member)


def shared_key(seed: int, epoch: int) -> Key:
    """An epoch's key of what all members share; its root is none of the members'."""
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(1), seed), epoch)


def fold_keys(keys: Key, number: int) -> Key:
    """Each member's key [P] of one epoch, or of one environment step."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def choose_devices(num_members: int, num_devices: int | None = None) -> Mesh:
    """The devices that members are spread over, each with as many.

    Args:
      num_members: P.
      num_devices: how many; None for as many of this machine's as divide P.

    Raises:
      InputError: the machine has not so many, or they do not divide P.
    """
    devices = jax.local_devices()
    if num_devices is None:
        num_devices = max(n for n in range(1, len(devices) + 1) if num_members % n == 0)
    if num_devices > len(devices):
        raise InputError(f"num_devices: {num_devices}, but this machine has {len(devices)}")
    if num_members % num_devices:
        raise InputError(f"num_devices: {num_devices} does not divide the {num_members} members")
    return Mesh(devices[:num_devices], (_AXIS,))


def idle_devices(mesh: Mesh) -> str | None:
    """What to say where some of this machine's devices do nothing, as they do not divide the members."""
    here = len(jax.local_devices())
    if mesh.size == here:
        return None
    return f"{mesh.size} of {here} devices are used: the number of members is no multiple of more of them"


def devices_left(num_devices: int | None) -> int | None:
    """``num_devices`` of a run that is resumed: where this machine has fewer, as many as serve."""
    here = len(jax.local_devices())
    if num_devices is None or num_devices <= here:
        return num_devices
    print(f"num_devices: the run had {num_devices}, this machine has {here}; it goes on with these")
    return None


def place(tree: Any, mesh: Mesh) -> Any:
    """Shapes of arrays [P, ...] with the devices they are spread over."""
    sharding = NamedSharding(mesh, PartitionSpec(_AXIS))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


@dataclass(frozen=True)
class Program:
    """A compiled function; its arguments are brought to where it wants them."""

    compiled: jax.stages.Compiled
    shardings: tuple[jax.sharding.Sharding, ...] | None = None  # of its arguments; None: wherever they are

    def __call__(self, *args: Any) -> Any:
        """Calls it."""
        if self.shardings is not None:
            args = tuple(jax.device_put(arg, s) for arg, s in zip(args, self.shardings, strict=True))
        return self.compiled(*args)


def compile_program(
    fn: Callable[..., Any],
    member_args: Sequence[Any],
    shared_args: Sequence[Any] = (),
    *,
    mesh: Mesh | None = None,
    donate: Sequence[int] = (),
) -> Program:
    """Compiles ``fn(*member_args, *shared_args)``, so that its memory is known before anything is allocated.

    Args:
      fn: to be compiled; all it gives back has a leading axis P.
      member_args: arrays with a leading axis P, or ShapeDtypeStructs of them.
      shared_args: those that all members share.
      mesh: devices that the members are spread over; one that holds everything already when None.
      donate: positions of the arguments whose buffers the results may reuse.
    """
    donate = tuple(donate)
    if mesh is None or mesh.size == 1:
        return Program(jax.jit(fn, donate_argnums=donate).lower(*member_args, *shared_args).compile())
    specs = (PartitionSpec(_AXIS),) * len(member_args) + (PartitionSpec(),) * len(shared_args)
    spread = jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(_AXIS), check_vma=False)
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    program = jax.jit(spread, in_shardings=shardings, donate_argnums=donate)
    return Program(program.lower(*member_args, *shared_args).compile(), shardings)
