"""The any-step model computed without JAX: PyTorch's golden arrays, and plain NumPy."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.dynamics.interface import ModelParams
from adm_jax.dynamics.recurrent import RecurrentParams
from adm_jax.nn.gru import GRULayer
from adm_jax.types import Normalizer, Segment

NUM_LAYERS, NUM_BLOCKS = 3, 4


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
    head = {"Dense_0": dense("head")}
    for i in range(NUM_BLOCKS):
        norm = {"scale": get(f"norms.{i}.weight"), "bias": get(f"norms.{i}.bias")}
        head[f"ResidualBlock_{i}"] = {"Dense_0": dense(f"linears.{i}"), "LayerNorm_0": norm}
    return RecurrentParams(tuple(layers), {"params": head}, get("min_logvar"), get("max_logvar"))


@pytest.fixture(scope="session")
def golden():
    """PyTorch's arrays with the model's parameters, segment and gradients in this package's layout."""
    path = Path(__file__).parent.parent / "golden" / "adm.npz"
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


def encode(params: ModelParams, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One row's prediction after ``k = len(actions)`` steps, in float64, one gate at a time.

    Args:
      params: the model's.
      states: the GRU reads them with the actions [k, D]; one [D] is read at every step. The displacement
        starts from the last.
      actions: [k, A].

    Returns:
      Mean of next observation and reward, and log-variance, each [D + 1].
    """
    learned, norm = jax.tree.map(np.float64, params)
    states = np.broadcast_to(np.float64(states), (len(actions), norm.obs_mean.size))
    hidden = [np.zeros(layer.w_hidden.shape[0]) for layer in learned.gru]
    for state, action in zip(states, np.float64(actions), strict=True):
        x = np.concatenate(
            [(state - norm.obs_mean) / norm.obs_std, (action - norm.action_mean) / norm.action_std]
        )
        for i, layer in enumerate(learned.gru):
            from_input = np.split(layer.w_input.T @ x + layer.b_input, 3)
            from_hidden = np.split(layer.w_hidden.T @ hidden[i] + layer.b_hidden, 3)
            reset = 1.0 / (1.0 + np.exp(-(from_input[0] + from_hidden[0])))
            update = 1.0 / (1.0 + np.exp(-(from_input[1] + from_hidden[1])))
            new = np.tanh(from_input[2] + reset * from_hidden[2])
            x = hidden[i] = (1.0 - update) * new + update * hidden[i]
    head = learned.head["params"]
    for i in range(sum(name.startswith("ResidualBlock") for name in head)):
        block = head[f"ResidualBlock_{i}"]
        y = np.float64(block["Dense_0"]["kernel"]).T @ x + block["Dense_0"]["bias"]
        x = x + y / (1.0 + np.exp(-y))
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5) * block["LayerNorm_0"]["scale"] + block["LayerNorm_0"][
            "bias"
        ]
    mean, logvar = np.split(head["Dense_0"]["kernel"].T @ x + head["Dense_0"]["bias"], 2)
    low, high = learned.min_logvar, learned.max_logvar
    logvar = high - np.logaddexp(0.0, high - logvar)
    logvar = low + np.logaddexp(0.0, logvar - low)
    return mean + np.append(states[-1], 0.0), logvar


@pytest.fixture(scope="session")
def encode_history():
    return encode
