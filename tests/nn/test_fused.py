"""Kernels of roll-outs on a GPU, interpreted here: equal to the plain functions, and compiled for CUDA."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from adm_jax.config.models import AnyStepV2Config, RecurrentConfig
from adm_jax.dynamics.interface import Dynamics, ModelParams, make_dynamics
from adm_jax.nn import fused, gru
from adm_jax.nn.precision import matmul_precision
from adm_jax.types import MatmulPrecision, Normalizer, Prediction, Segment, Window

MAX_ROUNDING = 2**-7  # of a bfloat16 number, twice


def normal(shape: tuple[int, ...], seed: int) -> jax.Array:
    return jnp.asarray(0.5 * np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gru_layer", "residual_block"):
        monkeypatch.setattr(fused, name, partial(getattr(fused, name), interpret=True))


# blocks have 64 rows, 64 units and 32 inputs: none, one and several of each, whole and in part
@pytest.mark.parametrize(
    ("streams", "inputs", "begun", "rows", "width"),
    [(3, 3, 2, 70, 40), (2, 2, 1, 64, 64), (2, 1, 2, 5, 72)],
)
def test_a_gru_layer_is_the_plain_one(streams: int, inputs: int, begun: int, rows: int, width: int) -> None:
    params = gru.init(jax.random.key(0), 33, width, 1)
    x, hidden = normal((inputs, rows, 33), 1), normal((begun, rows, width), 2)
    found = jax.jit(partial(fused.gru_layer, interpret=True))(x, hidden, *params[0])
    (expected,) = jax.jit(gru.step)(params, (hidden,), x)
    assert found.shape == (streams, rows, width)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_members_have_weights_of_their_own() -> None:
    params = jax.vmap(lambda key: gru.init(key, 5, 8, 1)[0])(jax.random.split(jax.random.key(0)))
    x, hidden = normal((2, 2, 3, 5), 1), normal((2, 1, 3, 8), 2)
    found = jax.jit(jax.vmap(partial(fused.gru_layer, interpret=True)))(x, hidden, *params)
    for member in range(2):
        own = gru.GRULayer(*(leaf[member] for leaf in params))
        (expected,) = gru.step((own,), (hidden[member],), x[member])
        np.testing.assert_allclose(found[member], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "width"), [(70, 40), (33, 264)])
def test_a_residual_block_is_the_plain_one(rows: int, width: int) -> None:
    """In NumPy, by its definition."""
    x, w = normal((rows, width), 0), normal((width, width), 1)
    b, scale, bias = (normal((width,), seed) for seed in (2, 3, 4))
    found = jax.jit(partial(fused.residual_block, epsilon=1e-5, interpret=True))(x, w, b, scale, bias)
    y = np.asarray(x, np.float64) @ np.asarray(w) + np.asarray(b)
    y = np.asarray(x) + y / (1 + np.exp(-y))
    y = (y - y.mean(axis=1, keepdims=True)) / np.sqrt(y.var(axis=1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(found, y * np.asarray(scale) + np.asarray(bias), rtol=1e-4, atol=1e-5)


def test_states_in_bfloat16_stay_in_it() -> None:
    """Products of rounded numbers, gates in float32, and the result rounded once."""
    params = gru.init(jax.random.key(0), 16, 16, 1)
    x, hidden = (normal((2, 20, 16), seed).astype(jnp.bfloat16) for seed in (1, 2))
    with matmul_precision("bfloat16"):
        found = jax.jit(partial(fused.gru_layer, interpret=True))(x, hidden, *params[0])
        (expected,) = jax.jit(gru.step)(params, (hidden,), x)
    assert found.dtype == expected.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        found.astype(jnp.float32), expected.astype(jnp.float32), rtol=MAX_ROUNDING, atol=1e-3
    )


SMALL = {"max_backtrack": 2, "model_hidden_dim": 8, "num_gru_layers": 1, "num_residual_blocks": 1}
MODELS = [
    ("adm", RecurrentConfig(**SMALL)),
    ("adm_v2", AnyStepV2Config(**SMALL, num_encoder_blocks=1)),
    ("bootstrapped_rnn", RecurrentConfig(**SMALL)),
]


def make(name: str, config: RecurrentConfig, **options: Any) -> tuple[Dynamics, ModelParams]:
    model = make_dynamics(name, 3, 2, replace(config, **options))
    normalizer = Normalizer(jnp.zeros(3), jnp.ones(3), jnp.zeros(2), jnp.ones(2))
    return model, jax.jit(model.init)(jax.random.key(0), normalizer)


def step(model: Dynamics, params: ModelParams) -> tuple[Any, Prediction]:
    """Of five rows behind a history of one: a stream begins, another goes on."""
    window = Window(normal((5, 1, 3), 0), normal((5, 1, 2), 1), jnp.ones((5, 1), bool))
    keys = jax.random.split(jax.random.key(0))
    return model.step(params, model.begin(params, window), normal((5, 3), 2), normal((5, 2), 3), *keys)


@pytest.mark.parametrize(("name", "config"), MODELS[:2])
def test_models_predict_the_same_with_them(name: str, config: RecurrentConfig, interpreted: None) -> None:
    results = []
    for fused_kernels in ("off", "on"):
        model, params = make(name, config, fused_kernels=fused_kernels)
        results.append(jax.jit(partial(step, model))(params))
    expected, found = map(jax.tree.leaves, results)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "config"), MODELS)
def test_they_are_lowered_for_cuda_where_asked_for(name: str, config: RecurrentConfig) -> None:
    """A layer and a block of a step, and of ADM-v2 an encoder's; its history takes as many, others' none."""

    def kernels(**options: Any) -> int:
        model, params = make(name, config, **options)
        lowered = jax.jit(partial(step, model)).trace(params).lower(lowering_platforms=("cuda",))
        return lowered.as_text().count("xla.gpu.triton")

    if jaxlib.version.__version_info__ > (0, 10, 2):
        pytest.skip("Pallas compiles kernels where it lowers them: that needs the plugin for a GPU")

    assert kernels() == kernels(fused_kernels="off") == 0
    assert kernels(fused_kernels="on") == (5 if name == "adm_v2" else 2)


@pytest.mark.parametrize(("name", "config"), MODELS)
def test_a_fit_has_none(name: str, config: RecurrentConfig) -> None:
    """They have no derivative."""
    model, params = make(name, config, fused_kernels="on")
    segment = Segment(normal((4, 3, 3), 0), normal((4, 2, 2), 1), normal((4, 2), 2), jnp.ones((4, 2), bool))
    program = str(jax.make_jaxpr(model.loss)(params, segment, jax.random.key(0)))
    assert "dot_general" in program
    assert "pallas_call" not in program
    assert "pallas_call" in str(jax.make_jaxpr(partial(step, model))(params))


@pytest.mark.parametrize(("name", "config"), MODELS[:2])
def test_with_them_states_are_kept_in_bfloat16(name: str, config: RecurrentConfig, interpreted: None) -> None:
    """Half of the bytes between two steps; predictions differ from float32's by what products are rounded."""

    def predict(precision: MatmulPrecision, fused_kernels: str) -> tuple[Any, Prediction]:
        model, params = make(name, config, fused_kernels=fused_kernels)
        with matmul_precision(precision):
            return jax.jit(partial(step, model))(params)

    _, exact = predict("float32", "off")
    wide, _ = predict("bfloat16", "off")
    carry, found = predict("bfloat16", "on")
    assert {hidden.dtype for hidden in wide.hidden} == {jnp.dtype(jnp.float32)}
    assert {hidden.dtype for hidden in carry.hidden} == {jnp.dtype(jnp.bfloat16)}
    assert found.means.dtype == jnp.float32
    difference = np.abs(np.asarray(found.means) - np.asarray(exact.means)).max()
    assert 0 < difference < 0.05
