"""The recurrent models' predictions of one row in plain NumPy: float64, a gate and a history at a time."""

import jax
import numpy as np

from adm_jax.dynamics.interface import ModelParams


def adm(params: ModelParams, states: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ADM's prediction, or the bootstrapped RNN's, after ``k = len(actions)`` steps.

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
        x = [(state - norm.obs_mean) / norm.obs_std, (action - norm.action_mean) / norm.action_std]
        hidden = gru_step(learned.gru, hidden, np.concatenate(x))
    mean, logvar = gaussian(learned, hidden[-1])
    return mean + np.append(states[-1], 0.0), logvar


def adm_v2(
    params: ModelParams, start: np.ndarray, actions: np.ndarray, origin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ADM-v2's prediction, without switches, after ``k = len(actions)`` steps.

    Args:
      params: the model's.
      start: the state that is encoded [D].
      actions: [k, A].
      origin: the latest state [D], which the displacement is added to.
    """
    learned, norm = jax.tree.map(np.float64, params)
    encoding = residual_head(learned.encoder, (start - norm.obs_mean) / norm.obs_std)
    hidden = np.split(encoding, len(learned.gru))
    before = hidden
    for action in np.float64(actions):
        before = hidden
        hidden = gru_step(learned.gru, hidden, (action - norm.action_mean) / norm.action_std)
    mean, logvar = gaussian(learned, np.concatenate([before[-1], hidden[-1]]))
    return mean + np.append(origin, 0.0), logvar


def gru_step(layers, hidden, x):
    """All layers' next hidden states."""
    states = []
    for layer, h in zip(layers, hidden, strict=True):
        from_input = np.split(layer.w_input.T @ x + layer.b_input, 3)
        from_hidden = np.split(layer.w_hidden.T @ h + layer.b_hidden, 3)
        reset = 1.0 / (1.0 + np.exp(-(from_input[0] + from_hidden[0])))
        update = 1.0 / (1.0 + np.exp(-(from_input[1] + from_hidden[1])))
        x = (1.0 - update) * np.tanh(from_input[2] + reset * from_hidden[2]) + update * h
        states.append(x)
    return states


def residual_head(params, x):
    """A layer to the blocks' width if there is one, the blocks, a linear read-out."""
    parts = params["params"]
    if "read_in" in parts:
        x = linear(parts["read_in"], x)
    for i in range(sum(name.startswith("ResidualBlock") for name in parts)):
        block = parts[f"ResidualBlock_{i}"]
        y = linear(block["Dense_0"], x)
        x = x + y / (1.0 + np.exp(-y))
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        x = x * block["LayerNorm_0"]["scale"] + block["LayerNorm_0"]["bias"]
    return linear(parts["Dense_0"], x)


def linear(layer, x):
    return layer["kernel"].T @ x + layer["bias"]


def gaussian(learned, x):
    """Mean and log-variance between its bounds."""
    mean, logvar = np.split(residual_head(learned.head, x), 2)
    low, high = learned.min_logvar, learned.max_logvar
    logvar = high - np.logaddexp(0.0, high - logvar)
    return mean, low + np.logaddexp(0.0, logvar - low)
