"""Behaviour cloning against NumPy, and on data whose policy is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents.behaviour_cloning import bc_loss, clone
from adm_jax.agents.sac import make_actor
from adm_jax.config import SACConfig
from adm_jax.data.dataset import Dataset, make_dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.types import ActionBounds, Params, Transition

SCALE = 0.4
BOUNDS = ActionBounds.symmetric(SCALE, 2)
CONFIG = SACConfig(policy_hidden_dim=32, batch_size=64)


def demonstrations(num_rows: int = 2_000) -> Dataset:
    """Actions ``0.4 tanh(obs @ M)``: a policy that the actor's network can represent closely."""
    rng = np.random.default_rng(0)
    obs = rng.normal(size=(num_rows + 1, 3)).astype(np.float32)
    action = (SCALE * np.tanh(obs[:-1] @ [[0.5, -1.0], [1.0, 0.2], [-0.3, 0.7]])).astype(np.float32)
    ends = np.arange(num_rows) % 100 == 99
    data = EpisodeData(obs[:-1], action, np.zeros(num_rows, np.float32), obs[1:], np.zeros_like(ends), ends)
    return make_dataset(data, max_backtrack=2)


def test_loss_equals_numpy() -> None:
    dataset = demonstrations()
    batch = jax.tree.map(lambda x: x[:50], dataset.transitions)
    params = make_actor(3, 2, CONFIG).init(jax.random.key(1), batch.obs)
    x = np.asarray(batch.obs, np.float64)
    layers = [params["params"][f"Dense_{i}"] for i in range(3)]
    for i, layer in enumerate(layers):
        x = x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"], np.float64)
        x = np.maximum(x, 0) if i < 2 else x
    expected = np.mean((SCALE * np.tanh(x[:, :2]) - np.asarray(batch.action)) ** 2)
    np.testing.assert_allclose(bc_loss(params, batch, BOUNDS, CONFIG), expected, rtol=1e-5)


def test_known_policy_is_recovered() -> None:
    dataset = demonstrations()
    run = jax.jit(
        lambda key: clone(dataset, key, num_steps=1_500, learning_rate=3e-3, bounds=BOUNDS, config=CONFIG)
    )
    params, metrics = run(jax.random.key(0))
    spread = float(jnp.var(dataset.transitions.action))
    assert float(bc_loss(params, dataset.transitions, BOUNDS, CONFIG)) < 0.01 * spread
    assert float(metrics["bc/loss"]) < 0.02 * spread


def test_weight_decay_shrinks_what_is_learned() -> None:
    """AdamW's first step goes ``rate * decay * parameters`` further than Adam's; constants stay."""
    dataset = demonstrations()
    config = dataclasses.replace(CONFIG, standardize_obs=True)
    key, rate, decay = jax.random.key(0), 1e-2, 0.5

    def after_one_step(weight_decay: float) -> Params:
        settings = {"num_steps": 1, "learning_rate": rate, "bounds": BOUNDS, "config": config}
        return clone(dataset, key, **settings, weight_decay=weight_decay)[0]["params"]

    plain, decayed = jax.jit(after_one_step, static_argnums=0)(0.0), after_one_step(decay)
    first = make_actor(3, 2, config).init(jax.random.split(key)[0], jnp.zeros((1, 3)))["params"]
    for name in ("Dense_0", "Dense_1", "Dense_2"):
        expected = plain[name]["kernel"] - rate * decay * first[name]["kernel"]
        np.testing.assert_allclose(decayed[name]["kernel"], expected, rtol=1e-4, atol=1e-6)
    normalizer = dataset.normalizer
    np.testing.assert_array_equal(decayed["Standardize_0"]["mean"], normalizer.obs_mean)
    np.testing.assert_array_equal(decayed["Standardize_0"]["std"], normalizer.obs_std)


def test_loss_refuses_to_broadcast() -> None:
    params = make_actor(3, 1, CONFIG).init(jax.random.key(1), jnp.zeros((1, 3)))
    batch = Transition(
        jnp.zeros((4, 3)), jnp.zeros((1, 1)), jnp.zeros(4), jnp.zeros((4, 3)), jnp.zeros(4, bool)
    )
    with pytest.raises(ValueError, match="shapes differ"):
        bc_loss(params, batch, BOUNDS, CONFIG)
