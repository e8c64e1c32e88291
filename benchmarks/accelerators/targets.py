"""Accelerators that need not be there: the compilers in their plugins' wheels, for a described device."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from jax.experimental import topologies

from adm_jax.types import InputError

# target -> JAX's platform, the plugins that compile for it, and where these come from
TARGETS = {
    "h100": (
        "gpu",
        ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"),
        "pip install -e '.[accelerator-check]'",
    ),
    "v5e": ("tpu", ("libtpu",), "pip install libtpu"),
}


def platform_of(target: str) -> str:
    """A target's platform, ``gpu`` or ``tpu``. Raises InputError: there is no such target."""
    if target not in TARGETS:
        raise InputError(f"target: {target!r} is none of {', '.join(TARGETS)}")
    return TARGETS[target][0]


def missing(target: str) -> str | None:
    """What a target's compiler lacks here, in a line; None if it is there."""
    _, plugins, source = TARGETS[target]
    if any(_is_installed(name) for name in plugins):
        return None
    return f"target: {target} needs {' or '.join(plugins)}, which is not installed: {source}"


def device(target: str) -> Any:
    """One JAX device of a target, which programs can be compiled for and nothing else.

    Raises InputError: there is no such target, or its compiler is not installed.
    """
    platform = platform_of(target)
    if reason := missing(target):
        raise InputError(reason)
    if platform == "tpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # else it asks the network for the machine it is in
        return topologies.get_topology_desc(platform="tpu", topology_name=f"{target}:2x2").devices[0]
    described = Path(__file__).with_name(f"{target}.txtpb").read_text()
    topology = topologies.get_topology_desc(
        platform="cuda", topology_name=target, topology="1x1x1", target_config=described
    )
    return topology.devices[0]


def _is_installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package that it would be in
        return False
