"""The any-step models computed without JAX: PyTorch's golden arrays, and plain NumPy."""

from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.dynamics.interface import ModelParams
from adm_jax.dynamics.recurrent import RecurrentParams
from adm_jax.nn.gru import GRULayer
from adm_jax.types import Normalizer, Segment
from tests.dynamics import by_hand

NUM_LAYERS = 3


def from_torch(arrays, prefix) -> RecurrentParams:
    """Arrays under PyTorch's names, which keeps weights as [out, in], as the model's parameters."""

    def get(name):
        array = arrays[f"{prefix}/{name}"]
        return jnp.asarray(array.T)

    def dense(name):
        return {"kernel": get(f"{name}.weight"), "bias": get(f"{name}.bias")}

    layers = [
        GRULayer(*(get(f"gru.{name}_l{i}") for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")))
        for i in range(NUM_LAYERS)
    ]

    def blocks(module):
        parts = {"Dense_0": dense(f"{module}head")}
        for i in range(sum(name.startswith(f"{prefix}/{module}linears") for name in arrays) // 2):
            norm = {"scale": get(f"{module}norms.{i}.weight"), "bias": get(f"{module}norms.{i}.bias")}
            parts[f"ResidualBlock_{i}"] = {"Dense_0": dense(f"{module}linears.{i}"), "LayerNorm_0": norm}
        if f"{prefix}/{module}read_in.weight" in arrays:
            parts["read_in"] = dense(f"{module}read_in")
        return {"params": parts}

    bounds = get("min_logvar"), get("max_logvar")
    has_encoder = f"{prefix}/encoder.head.weight" in arrays
    return RecurrentParams(
        tuple(layers), blocks("decoder."), *bounds, blocks("encoder.") if has_encoder else None
    )


@pytest.fixture(scope="session")
def golden():
    """ADM: PyTorch's arrays with the model's parameters, segment and gradients in this package's layout."""
    return read_golden("adm")


@pytest.fixture(scope="session")
def golden_v2():
    """The same of ADM-v2."""
    return read_golden("adm_v2")


def read_golden(name):
    path = Path(__file__).parent.parent / "golden" / f"{name}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    names = ("obs_mean", "obs_std", "action_mean", "action_std")
    normalizer = Normalizer(*(jnp.asarray(arrays[name]) for name in names))
    steps = np.arange(arrays["action"].shape[1])
    return SimpleNamespace(
        **{name: value for name, value in arrays.items() if "/" not in name and name not in names},
        params=ModelParams(from_torch(arrays, "param"), normalizer),
        grad_one=from_torch(arrays, "grad_one"),
        grad_all=from_torch(arrays, "grad_all"),
        segment=Segment(
            jnp.asarray(arrays["obs"]),
            jnp.asarray(arrays["action"]),
            jnp.asarray(arrays["reward"]),
            jnp.asarray(steps[None] < arrays["lengths"][:, None]),
        ),
    )


@pytest.fixture(scope="session")
def encode_history():
    return by_hand.adm
