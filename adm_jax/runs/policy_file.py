"""A policy on disk: a plain NumPy archive that can be read without this library.

    kernel_0 [D, W], bias_0 [W], ..., kernel_n [W, 2 A], bias_n [2 A]    float32
    scale_0 [W], shift_0 [W], ..., up to n - 1                           float32, of an actor with LayerNorm
    action_scale []                                                      float32, b, of actions within one +-b
    action_low [A], action_high [A]                                      float32, where bounds are others
    info []                                                              JSON: task, env_id, returns, ...

``x = obs``, the environment's observation [D], neither scaled nor shifted (of it the first ``obs_limit``
entries, where ``info`` names that); then ``x = max(norm_i(x @ kernel_i + bias_i), 0)`` for all layers but the
last, where ``norm_i(y)`` is y without LayerNorm, else
``(y - mean(y)) / sqrt(var(y) + 1e-5) * scale_i + shift_i``;
``mean, log_std = split(x @ kernel_n + bias_n, 2)``. The deterministic action [A] is ``b * tanh(mean)``, a
sampled one ``b * tanh(mean + exp(clip(log_std, -5, 2)) * noise)`` with standard normal noise. Other bounds
take the same tanh ``t`` to ``clip((low + high) / 2 + (high - low) / 2 * t, low, high)``.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from adm_jax import files
from adm_jax.agents.sac import make_sac, with_raw_inputs
from adm_jax.config import SACConfig
from adm_jax.data.formats import containers
from adm_jax.data.formats.minari_metadata import one_line
from adm_jax.types import ActionBounds, Array, InputError, Key, Params, is_bounded

# a layer's arrays here, and their names in the file
_STORED = {
    "Dense": {"kernel": "kernel", "bias": "bias"},
    "LayerNorm": {"scale": "scale", "bias": "shift"},
}


class Policy(NamedTuple):
    """A policy read from a file, as pure functions of its parameters."""

    actor_params: Params
    mode_action: Callable[[Params, Array], Array]  # obs [B, D] -> action [B, A]
    sample_action: Callable[[Params, Array, Key], Array]  # obs [B, D], key -> action [B, A]
    obs_dim: int
    action_dim: int
    bounds: ActionBounds  # of the actions
    info: dict[str, Any]


def save_policy(path: Path, actor_params: Params, bounds: ActionBounds, info: Mapping[str, Any]) -> None:
    """Writes an actor's parameters, in one rename.

    Args:
      path: the file, ending in ``.npz``; its folder is made.
      actor_params: of ``adm_jax.agents.sac``.
      bounds: of the actions.
      info: what JSON can hold: where the policy comes from.

    Raises:
      InputError: the file cannot be written.
    """
    low, high = bounds.arrays()
    arrays = {"action_scale": high[0]} if bounds.is_symmetric else {"action_low": low, "action_high": high}
    arrays["info"] = np.asarray(json.dumps(dict(info)))
    for layer, values in with_raw_inputs(actor_params)["params"].items():
        kind, number = layer.split("_")
        for name, stored in _STORED[kind].items():
            arrays[f"{stored}_{number}"] = values[name]
    temporary = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
            files.sync(temporary)
            files.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _layer(arrays: Mapping[str, np.ndarray], kind: str, number: int) -> dict[str, np.ndarray]:
    return {name: arrays[f"{stored}_{number}"] for name, stored in _STORED[kind].items()}


def check_layers(layers: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Raises ValueError where an actor's layers do not fit each other, in the file's words."""
    stored = {
        f"{name}_{layer.partition('_')[2]}": layers[layer][own].shape
        for layer in layers
        for own, name in _STORED[layer.partition("_")[0]].items()
    }
    last = sum(name.startswith("kernel_") for name in stored) - 1
    width, hidden_dim = stored["kernel_0"]
    for i in range(last + 1):
        out = hidden_dim if i < last else stored[f"kernel_{i}"][-1]
        wanted = {"kernel": (width, out), "bias": (out,)}
        if "scale_0" in stored and i < last:
            wanted |= {"scale": (out,), "shift": (out,)}
        for name, shape in wanted.items():
            if stored[f"{name}_{i}"] != shape or 0 in shape:
                raise ValueError(f"{name}_{i} has shape {stored[f'{name}_{i}']}; must be {shape}")
        width = out
    if width % 2:
        raise ValueError(f"kernel_{last} has {width} outputs, which are no means and deviations")


def _check(arrays: Mapping[str, np.ndarray], info: Any) -> None:
    """Raises ValueError: an array holds no finite numbers, or info is no table."""
    for name, array in arrays.items():
        if name != "info" and not (array.dtype.kind == "f" and np.isfinite(array).all()):
            raise ValueError(f"{name}: a parameter is not finite, or no number")
    if not isinstance(info, dict) or not isinstance(info.get("env_id", ""), str | None):
        raise ValueError("info is no table, or its env_id no text")


def _bounds(arrays: Mapping[str, np.ndarray], action_dim: int) -> ActionBounds:
    if "action_scale" in arrays:
        if not arrays["action_scale"] > 0:
            raise ValueError("action_scale must be above 0")
        high = np.full(action_dim, arrays["action_scale"])
        low = -high
    else:
        low, high = arrays["action_low"], arrays["action_high"]
    if not (low.shape == high.shape == (action_dim,) and is_bounded(low, high).all() and (low < high).all()):
        raise ValueError(f"action_low {low} and action_high {high} are no bounds of {action_dim} actions")
    return ActionBounds(tuple(low.tolist()), tuple(high.tolist()))


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Reads what ``save_policy`` wrote.

    Raises:
      InputError: the file is missing, damaged or no policy.
    """
    try:
        with Path(path).open("rb") as file, np.load(file) as archive:
            arrays = dict(archive)
        num_layers = sum(name.startswith("kernel_") for name in arrays)
        layer_norm = "scale_0" in arrays
        layers = {f"Dense_{i}": _layer(arrays, "Dense", i) for i in range(num_layers)}
        if layer_norm:
            layers |= {f"LayerNorm_{i}": _layer(arrays, "LayerNorm", i) for i in range(num_layers - 1)}
        info = json.loads(str(arrays["info"]))
        _check(arrays, info)
        check_layers(layers)
        obs_dim, hidden_dim = arrays["kernel_0"].shape
        out_dim = len(arrays[f"bias_{num_layers - 1}"])
        bounds = _bounds(arrays, out_dim // 2)
    except Exception as error:  # whatever a damaged file makes of its readers
        kind, _ = containers.kind_of(Path(path))
        reason = one_line(error) if kind in ("", containers.NPZ) else kind
        raise InputError(f"{path}: is no policy, or damaged ({reason})") from error
    config = SACConfig(
        policy_hidden_dim=hidden_dim, policy_hidden_layers=num_layers - 1, actor_layer_norm=layer_norm
    )
    sac = make_sac(obs_dim, bounds, config)
    return Policy({"params": layers}, sac.mode_action, sac.sample_action, obs_dim, out_dim // 2, bounds, info)
