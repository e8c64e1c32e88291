"""The devices a population is spread over, and JAX as it is set up for them.

Each works on its share of the members; nothing is exchanged between them.
"""

import os
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adm_jax.types import InputError

AXIS = "members"  # of the mesh

_SETTINGS = {  # of JAX, by their variables: what they must be, and why
    "JAX_ENABLE_X64": (False, "adm_jax computes in float32"),
    "JAX_DISABLE_JIT": (False, "adm_jax compiles its programs"),
    "JAX_DEFAULT_PRNG_IMPL": ("threefry2x32", "a seed stands for the random numbers of threefry2x32"),
    "JAX_THREEFRY_PARTITIONABLE": (True, "a seed stands for the random numbers that are drawn with it"),
    "JAX_RANDOM_SEED_OFFSET": (0, "a seed stands for the random numbers without it"),
    "JAX_NUMPY_DTYPE_PROMOTION": ("standard", "libraries under adm_jax promote"),
    "JAX_DEBUG_INFS": (False, "infinity is a number like others here"),
}
_TRANSFERS = ("", "_HOST_TO_DEVICE", "_DEVICE_TO_DEVICE", "_DEVICE_TO_HOST")


def require_jax() -> None:
    """Sees that JAX has a device, and none of the settings that make programs fail or results others.

    Raises InputError: it has; the message names the environment's variable, though code may have set it.
    """
    for name, (wanted, reason) in _SETTINGS.items():
        value = getattr(jax.config, name.lower())
        if value != wanted:
            given = "is set" if value is True else f"is {value}"
            raise InputError(f"{name}: {given}, and {reason}; unset it")
    for direction in _TRANSFERS:
        name = f"JAX_TRANSFER_GUARD{direction}"
        value = getattr(jax.config, name.lower())
        if value and value.startswith("disallow"):
            raise InputError(f"{name}: is {value}, and data go to and from the device as they come; unset it")
    try:
        jax.local_devices()
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition(". (set ")[0] or "JAX has no such device here"
        given = os.environ.get("JAX_PLATFORMS", "")
        raise InputError(f"JAX_PLATFORMS: is {given!r}: {reason}; unset it, or cpu") from error


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


def cores_to_spare() -> int:
    """Of the host's, while something else computes there: an accelerator has a thread that launches its work.

    On a CPU what is launched computes on all of them anyway.
    """
    return 0 if jax.local_devices()[0].platform == "cpu" else 1


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


def supports_tf32() -> bool:
    """Whether the default device multiplies in TF32: NVIDIA's GPUs, since compute capability 8.0."""
    device = jax.devices()[0]
    generation = str(getattr(device, "compute_capability", "")).partition(".")[0]  # AMD's say gfx...
    return device.platform == "gpu" and generation.isdigit() and int(generation) >= 8
