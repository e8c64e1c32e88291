"""Policies to be evaluated, read from files of three kinds, or from a run's folder.

This library's own (``adm_jax.runs.policy_file``), as ``adm-jax collect`` keeps them; the newest
checkpoint of any run of policy optimisation.

A plain NumPy archive (``.npz``) of a Gaussian policy with tanh layers:

    w0 [D, W], b0 [W], ..., wn [W, A], bn [A]   x = tanh(x @ w + b), the last one without tanh: the mean
    log_std [A]                                 action = clip(mean + exp(log_std) * noise, low, high)
    obs_mean [D], obs_std [D]                   optional: x = (obs - obs_mean) / obs_std at first

The DOPE benchmark's D4RL policies (``.pkl``; google-research/deep_ope): a pickled dictionary of the layers
``fc0, fc1, ..., last_fc`` (the mean) and ``last_fc_log_std``, each with a ``/weight`` [out, in] and a
``/bias``, and of the texts ``nonlinearity`` (relu or tanh) and ``output_distribution`` (tanh_gaussian or
gaussian). A pickle can name any code to be run when it is read; one that names more than arrays is refused.
"""

import functools
import glob
import io
import os
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adm_jax.agents.sac import make_sac, with_raw_inputs
from adm_jax.config import SACConfig
from adm_jax.files import resolve_path
from adm_jax.runs import policy_file
from adm_jax.runs.checkpoint import Checkpointer
from adm_jax.runs.folder import RunFolder
from adm_jax.types import ActionBounds, Array, InputError, Key, Params

_LOG_STD_RANGE = (-5.0, 2.0)
_MOST_TUPLES = 10_000  # in a pickle; a policy has a few for each array


class Kind(NamedTuple):
    """Policies of one kind are the same functions of parameters of the same shapes."""

    form: str  # sac, tanh_npz or dope
    details: tuple[Any, ...]  # what else its functions depend on


class TargetPolicy(NamedTuple):
    """A policy read from a file, as a function of its parameters."""

    name: str  # the file's
    kind: Kind
    params: Params
    obs_dim: int
    action_dim: int
    env_id: str | None = None  # of the environment it was made for, where that is known


ActionFn = Callable[[Params, Array, Key], Array]  # (params, obs [B, D], key) -> action [B, A]


def read_policies(patterns: str, obs_dim: int, bounds: ActionBounds) -> list[TargetPolicy]:
    """Reads the policies of folders, of globs, or of a run's newest checkpoint, separated by commas.

    Raises InputError: there are none; a file is damaged, hostile or of another environment (dimension D, A
    actions within ``bounds``); two have one name.
    """
    policies: list[TargetPolicy] = []
    for pattern in patterns.split(","):
        policies += _read_pattern(pattern, bounds)
    names = [policy.name for policy in policies]
    doubled = next((name for name in names if names.count(name) > 1), None)
    if doubled is not None:
        raise InputError(f"policies: two files are named {doubled}; results are by name")
    for policy in policies:
        if (policy.obs_dim, policy.action_dim) != (obs_dim, bounds.action_dim):
            raise InputError(
                f"policies: {policy.name} is from {policy.obs_dim} observations to {policy.action_dim} "
                f"actions; the dataset has {obs_dim} and {bounds.action_dim}"
            )
        if policy.kind.form == "sac" and not bounds.is_close(policy.kind.details[1]):
            raise InputError(
                f"policies: {policy.name} has actions within {policy.kind.details[1]}; the environment's "
                f"are within {bounds}"
            )
    return policies


def _read_pattern(pattern: str, bounds: ActionBounds) -> list[TargetPolicy]:
    path = resolve_path("policies", pattern)
    if (path / "config.json").exists():
        return policies_of_run(path, bounds)
    if path.is_dir():
        files = [*path.glob("*.npz"), *path.glob("*.pkl")]
    elif path.exists():
        files = [path]
    else:  # relative, for the current folder's own name may have a glob's letters in it
        files = [Path(name).absolute() for name in glob.glob(os.path.expanduser(pattern))]
    if not files:
        raise InputError(f"policies: {pattern}: no file; give a folder of .npz or .pkl files, or a glob")
    return [read_policy(file) for file in sorted(files)]


def policies_of_run(folder: Path, bounds: ActionBounds) -> list[TargetPolicy]:
    """Every member's policy of the newest checkpoint of a run, offline or online: ``<run>/<member>``.

    Raises InputError: the run has no policies yet, or its checkpoint is damaged.
    """
    policies: list[TargetPolicy] = []
    for part in RunFolder.open(folder, read_only=True).parts():
        checkpoints = Checkpointer(part.checkpoints)
        layers: dict[str, dict[str, np.ndarray]] = {}
        averages = part.config["config"].get("actor_average", 0.0) > 0
        actor = "average_actor_params" if averages else "actor_params"
        for name, array in checkpoints.read_newest("train", f"agent/{actor}/params").items():
            layer, leaf = name.split("/")
            layers.setdefault(layer, {})[leaf] = array
        for index, member in enumerate(part.members):
            actor_params = {"params": jax.tree.map(lambda x, i=index: x[i], layers)}
            policy = of_actor(f"{folder.name}/{member.tag}", actor_params, bounds)
            policies.append(policy._replace(env_id=part.config.get("env_id")))
    return policies


def read_policy(path: Path) -> TargetPolicy:
    """Reads one policy. Raises InputError: the file is missing, damaged or hostile."""
    if path.suffix == ".pkl":
        return _from_dope(path, _read_pickle(path))
    try:
        with path.open("rb") as file, np.load(file) as archive:
            is_plain = "w0" in archive
            arrays = dict(archive) if is_plain else {}
    except Exception as error:  # whatever a damaged file makes of its readers
        raise InputError(f"{path}: is no policy, or damaged ({_reason(error)})") from error
    return _from_plain(path, arrays) if is_plain else _own(path)


def action_fn(
    kind: Kind, action_low: np.ndarray, action_high: np.ndarray, *, deterministic: bool
) -> ActionFn:
    """What policies of a kind do, within the bounds [A] of the actions; their modes, or samples."""
    if kind.form == "sac":
        obs_dim, bounds, width, num_layers, norm = kind.details
        config = SACConfig(policy_hidden_dim=width, policy_hidden_layers=num_layers, actor_layer_norm=norm)
        sac = make_sac(obs_dim, bounds, config)

        def act_as_agent(params: Params, obs: Array, key: Key) -> Array:
            action = sac.mode_action(params, obs) if deterministic else sac.sample_action(params, obs, key)
            return jnp.clip(action, action_low[None], action_high[None])

        return act_as_agent
    gaussian = _plain_gaussian if kind.form == "tanh_npz" else functools.partial(_dope_gaussian, kind.details)
    squash = kind.form == "dope" and kind.details[1] == "tanh_gaussian"

    def act(params: Params, obs: Array, key: Key) -> Array:
        mean, log_std = gaussian(params, obs)
        if not deterministic:
            mean = mean + jnp.exp(log_std) * jax.random.normal(key, mean.shape)
        return jnp.clip(jnp.tanh(mean) if squash else mean, action_low[None], action_high[None])

    return act


def _own(path: Path) -> TargetPolicy:
    policy = policy_file.load_policy(path)
    own = of_actor(path.name, policy.actor_params, policy.bounds)
    return own._replace(env_id=policy.info.get("env_id"))


def of_actor(name: str, actor_params: Params, bounds: ActionBounds) -> TargetPolicy:
    """An actor of ``adm_jax.agents.sac``.

    Raises InputError: its layers do not fit, or a parameter is not finite.
    """
    actor_params = with_raw_inputs(actor_params)
    named = actor_params["params"]
    try:
        policy_file.check_layers(named)
        params = _float32(actor_params)
    except ValueError as error:
        raise InputError(f"{name}: is no policy ({error})") from error
    num_hidden = sum(name.startswith("Dense") for name in named) - 1
    (obs_dim, width), outputs = named["Dense_0"]["kernel"].shape, named[f"Dense_{num_hidden}"]["bias"]
    action_dim = len(outputs) // 2
    details = (obs_dim, bounds, width, num_hidden, "LayerNorm_0" in named)
    return TargetPolicy(name, Kind("sac", details), params, obs_dim, action_dim)


def _from_plain(path: Path, arrays: Mapping[str, np.ndarray]) -> TargetPolicy:
    num_layers = sum(re.fullmatch(r"w\d+", name) is not None for name in arrays)
    try:
        layers = [(arrays[f"w{i}"], arrays[f"b{i}"]) for i in range(num_layers)]
        obs_dim, action_dim = layers[0][0].shape[0], layers[-1][0].shape[1]
        params = {
            "layers": layers,
            "log_std": arrays["log_std"],
            "obs_mean": arrays.get("obs_mean", np.zeros(obs_dim)),
            "obs_std": arrays.get("obs_std", np.ones(obs_dim)),
        }
        shapes = {"log_std": (action_dim,), "obs_mean": (obs_dim,), "obs_std": (obs_dim,)}
        _check_layers([w.shape for w, _ in layers], [b.shape for _, b in layers])
        for name, shape in shapes.items():
            _require(params[name].shape == shape, f"{name} has shape {params[name].shape}, not {shape}")
        params = _float32(params)
        _require((params["obs_std"] > 0).all(), "obs_std must be above 0")
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is no policy ({_reason(error)})") from error
    return TargetPolicy(path.name, Kind("tanh_npz", ()), params, obs_dim, action_dim)


def _plain_gaussian(params: Params, obs: Array) -> tuple[Array, Array]:
    x = (obs - params["obs_mean"][None]) / params["obs_std"][None]
    *hidden, (w, b) = params["layers"]
    for weight, bias in hidden:
        x = jnp.tanh(x @ weight + bias[None])
    return x @ w + b[None], params["log_std"][None]


class _DType:
    """A number's type as a pickle tells it; nothing that could hold a pointer."""

    def __init__(self, name: str, *_: Any):
        if not re.fullmatch(r"[fiub]\d+|bool", name):
            raise ValueError(f"an array of type {name!r}, which is no number")
        self.type = np.dtype(name)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.type = self.type.newbyteorder(state[1])


class _Array:
    """An array as a pickle tells it: its bytes, its type and its shape, put together here."""

    value: np.ndarray

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, content = state
        self.value = _array(content, dtype, shape, "F" if is_fortran else "C").value


def _array(content: Any, dtype: Any, shape: Any, order: str) -> _Array:
    array = _Array()
    if not isinstance(dtype, _DType) or not isinstance(content, (bytes, bytearray)):
        raise ValueError("an array that is not made of numbers")
    array.value = np.frombuffer(bytes(content), dtype.type).reshape(shape, order="F" if order == "F" else "C")
    return array


def _reconstruct(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, content: Any) -> _Array:
    return _array(content, dtype, (), "C")


def _latin1(text: str, encoding: str) -> bytes:
    _require(encoding == "latin1", f"text in {encoding!r}")
    return text.encode("latin1")


class _NoClass:
    """Stands for numpy.ndarray, which a pickle names and which is never called."""


_STUBS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _NoClass,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _latin1,
}
for _core in ("numpy.core", "numpy._core"):
    _STUBS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _STUBS[f"{_core}.multiarray", "scalar"] = _scalar
    _STUBS[f"{_core}.numeric", "_frombuffer"] = _array


class _ArraysOnly(pickle.Unpickler):
    """Reads pickles of arrays of numbers and of containers.

    Whatever else a pickle names could run code, and NumPy's own classes, called with what a file chooses,
    could be made to follow pointers: so nothing of NumPy is called, stand-ins take its place.
    """

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _STUBS:
            raise InputError(f"names {module}.{name}, which is not an array; it was not run")
        return _STUBS[module, name]


def _check_sizes(pickled: bytes) -> None:
    """Raises ValueError where a pickle asks for more memory than it fills, or for as deep a stack."""
    num_tuples = 0
    for opcode, argument, _ in pickletools.genops(pickled):  # it reads no more bytes than there are
        num_tuples += opcode.name.startswith("TUPLE")
        if num_tuples > _MOST_TUPLES:  # one within the other, and hashed, they would break the interpreter
            raise ValueError(f"holds more than {_MOST_TUPLES:,} tuples")
        if opcode.name in ("PUT", "LONG_BINPUT") and (argument or 0) > len(pickled):
            raise ValueError(f"an object is number {argument} of {len(pickled)} bytes")
        if opcode.name == "STOP":
            return


def _read_pickle(path: Path) -> dict[str, Any]:
    try:
        pickled = path.read_bytes()
        _check_sizes(pickled)
        content = _ArraysOnly(io.BytesIO(pickled)).load()
    except InputError as error:
        raise InputError(f"{path}: refused: {error}") from error
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(f"{path}: is no pickle of arrays, or damaged ({_reason(error)})") from error
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        kind = type(content).__name__
        raise InputError(f"{path}: holds a {kind}; must be a dictionary of named arrays, as DOPE's policies")
    return {name: getattr(value, "value", value) for name, value in content.items()}


def _from_dope(path: Path, content: Mapping[str, Any]) -> TargetPolicy:
    try:
        num_hidden = sum(re.fullmatch(r"fc\d+/weight", name) is not None for name in content)
        names = [*(f"fc{i}" for i in range(num_hidden)), "last_fc", "last_fc_log_std"]
        layers = [
            (np.asarray(content[f"{name}/weight"]).T, np.asarray(content[f"{name}/bias"])) for name in names
        ]
        details = _text(content["nonlinearity"]), _text(content["output_distribution"])
        _require(details[0] in ("relu", "tanh"), f"nonlinearity {details[0]!r} is neither relu nor tanh")
        known = ("tanh_gaussian", "gaussian")
        _require(details[1] in known, f"output_distribution {details[1]!r} is none of {', '.join(known)}")
        for parts in (layers[:-1], [*layers[:-2], layers[-1]]):
            _check_layers([w.shape for w, _ in parts], [b.shape for _, b in parts])
        _require(layers[-1][0].shape == layers[-2][0].shape, "last_fc and last_fc_log_std differ in shape")
        params = _float32({"layers": layers})
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InputError(f"{path}: is no DOPE policy ({_reason(error)})") from error
    obs_dim, action_dim = layers[0][0].shape[0], layers[-1][0].shape[1]
    return TargetPolicy(path.name, Kind("dope", details), params, obs_dim, action_dim)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _dope_gaussian(details: tuple[str, str], params: Params, obs: Array) -> tuple[Array, Array]:
    *hidden, (w_mean, b_mean), (w_std, b_std) = params["layers"]
    activation = jax.nn.relu if details[0] == "relu" else jnp.tanh
    x = obs
    for weight, bias in hidden:
        x = activation(x @ weight + bias[None])
    return x @ w_mean + b_mean[None], jnp.clip(x @ w_std + b_std[None], *_LOG_STD_RANGE)


def _check_layers(weights: Sequence[tuple[int, ...]], biases: Sequence[tuple[int, ...]]) -> None:
    width = weights[0][0]
    for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        fits = len(weight) == 2 and weight[0] == width and bias == weight[1:]
        _require(fits, f"layer {i} has a weight of {weight} and a bias of {bias} for {width} inputs")
        width = weight[1]


def _float32(params: Params) -> Params:
    params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
    _require(all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)), "a parameter is not finite")
    return params


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"has no {error.args[0]}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def group_by_kind(policies: Sequence[TargetPolicy]) -> list[list[int]]:
    """Indices of policies whose parameters can be stacked: of one kind, with arrays of the same shapes."""
    groups: dict[Any, list[int]] = {}
    for index, policy in enumerate(policies):
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(policy.params))
        groups.setdefault((policy.kind, jax.tree.structure(policy.params), shapes), []).append(index)
    return list(groups.values())


def stack(policies: Sequence[TargetPolicy]) -> Params:
    """The parameters of a group, leaves [P, ...]."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *(policy.params for policy in policies))
