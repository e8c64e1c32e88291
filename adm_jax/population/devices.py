"""The devices a population is spread over.

Each works on its share of the members; nothing is exchanged between them.
"""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adm_jax.types import InputError

AXIS = "members"  # of the mesh


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
    return Mesh(devices[:num_devices], (AXIS,))


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
    sharding = NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)
