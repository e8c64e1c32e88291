"""Histories kept in flat rows: each is what the model makes of it, whatever it is filled up to."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import config_for_task
from adm_jax.data.dataset import gather_windows, make_dataset
from adm_jax.dynamics.histories import encode_rows, from_flat, row_layouts, row_multiple
from adm_jax.dynamics.interface import make_dynamics
from adm_jax.tasks import get_task
from adm_jax.training.components import make_components
from tests.known_dynamics import DATA, M

SMALL: dict[str, Any] = {"max_backtrack": M, "model_hidden_dim": 8, "num_gru_layers": 2}
ROWS = (5, 17, 3, 38, 12)  # two chunks of three: the last is filled up


@pytest.mark.parametrize("multiple", [1, 16])
@pytest.mark.parametrize("dynamics", ["adm", "adm_v2", "bootstrapped_rnn"])
def test_flat_rows_are_the_models_own(dynamics: str, multiple: int):
    model = make_dynamics(dynamics, 3, 1, config_for_task("auto", dynamics=dynamics, **SMALL).model)
    dataset = make_dataset(DATA, M)
    params = model.init(jax.random.key(0), dataset.normalizer)
    rows = jnp.asarray(ROWS)
    kept = jax.jit(lambda rows: encode_rows(model, params, dataset, rows, 3, multiple))(rows)
    for leaf in jax.tree.leaves(kept):
        assert (leaf.ndim, leaf.shape[0], leaf.shape[1] % multiple) == (2, 6, 0)
    order = [4, 0, 3]
    found = from_flat(
        jax.tree.map(lambda x: x[jnp.asarray(order)], kept), row_layouts(model, params, dataset)
    )
    window, _ = gather_windows(dataset, rows[jnp.asarray(order)], M)
    expected = jax.jit(model.begin)(params, window)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, own in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (ours.shape, ours.dtype) == (own.shape, own.dtype)
        np.testing.assert_allclose(ours, own, rtol=1e-6, atol=1e-6)
        assert own.size


@pytest.mark.parametrize("dynamics", ["adm", "bootstrapped_rnn"])
def test_what_rows_are_filled_up_with_changes_no_bit(dynamics: str):
    model = make_dynamics(dynamics, 3, 1, config_for_task("auto", dynamics=dynamics, **SMALL).model)
    dataset = make_dataset(DATA, M)
    params = model.init(jax.random.key(0), dataset.normalizer)
    layouts = row_layouts(model, params, dataset)

    @jax.jit
    def kept(rows):
        every = [encode_rows(model, params, dataset, rows, 3, multiple) for multiple in (1, 128)]
        return [from_flat(histories, layouts) for histories in every]

    plain, filled = kept(jnp.asarray(ROWS))
    jax.tree.map(np.testing.assert_array_equal, plain, filled)


@pytest.mark.parametrize(("platform", "multiple"), [("cpu", 1), ("gpu", 1), ("tpu", 128)])
def test_rows_are_filled_up_for_a_tpu_alone(platform: str, multiple: int, tiny_config):
    assert row_multiple(platform) == multiple
    assert make_components(tiny_config, get_task("hopper"), platform).row_multiple == multiple
