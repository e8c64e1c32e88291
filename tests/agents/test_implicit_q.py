"""Implicit Q-learning: losses against NumPy, and a chain whose values and better actions are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents import implicit_q
from adm_jax.agents.implicit_q import InSample, advantages, pretrain, row_weights
from adm_jax.config import PretrainConfig, SACConfig
from adm_jax.data.dataset import make_dataset
from adm_jax.data.episodes import EpisodeData
from adm_jax.types import ActionBounds

BOUNDS = ActionBounds.symmetric(1.0, 1)
CONFIG = SACConfig(policy_hidden_dim=32, critic_layer_norm=True, gamma=0.9, batch_size=64)


def chain(num_episodes=200):
    """Episodes of three states: an action of +1 is worth 1, of -1 nothing, whatever the state."""
    rng = np.random.default_rng(0)
    state = np.tile(np.arange(3), num_episodes)
    obs = np.float32(np.stack([state == i for i in range(3)], axis=-1))
    action = np.float32(rng.choice([-1.0, 1.0], (len(state), 1)))
    reward = np.float32(action[:, 0] > 0)
    next_obs = np.roll(obs, -1, axis=0)
    terminated = state == 2
    return EpisodeData(obs, action, reward, next_obs, terminated, np.zeros_like(terminated))


@pytest.fixture(scope="module")
def dataset():
    return make_dataset(chain(), max_backtrack=1)


@pytest.fixture(scope="module")
def learned(dataset):
    settings = PretrainConfig(pretrain_steps=3_000, expectile=0.9)
    return jax.jit(lambda key: pretrain(dataset, key, settings, BOUNDS, CONFIG))(jax.random.key(0))


def mlp(params, x):
    layers = jax.tree.map(np.float64, params["params"])
    for i in range(2):
        x = x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"]
        norm = layers[f"LayerNorm_{i}"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        x = np.maximum(x * norm["scale"] + norm["bias"], 0.0)
    return (x @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"])[:, 0]


def numpy_q(critic_params, batch):
    x = np.float64(np.concatenate([batch.obs, batch.action], axis=-1))
    return np.stack([mlp(jax.tree.map(lambda leaf, i=i: leaf[i], critic_params), x) for i in range(2)])


def test_losses_equal_numpy(dataset, learned):
    state: InSample = learned[0]
    batch = jax.tree.map(lambda x: x[:50], dataset.transitions)
    q = numpy_q(state.target_critic_params, batch).min(axis=0)
    error = q - mlp(state.value_params, np.float64(batch.obs))
    expected = np.mean(np.where(error > 0, 0.7, 0.3) * error**2)
    loss = implicit_q.value_loss(state.value_params, state, batch, CONFIG, 0.7)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)

    value = mlp(state.value_params, np.float64(batch.next_obs))
    target = np.float64(batch.reward) + 0.9 * ~np.asarray(batch.terminated) * value
    expected = np.sum(np.mean((numpy_q(state.critic_params, batch) - target) ** 2, axis=-1))
    loss = implicit_q.critic_loss(state.critic_params, state.value_params, batch, CONFIG)
    np.testing.assert_allclose(loss, expected, rtol=1e-3)


def test_values_are_those_of_the_better_actions(dataset, learned):
    """An expectile of 0.9 of two actions alike: V lies at nine tenths between their values."""
    value = np.zeros(4)
    for state in (2, 1, 0):
        value[state] = 0.9 + 0.9 * value[state + 1]
    advantage, found = jax.jit(lambda: advantages(learned[0], dataset, CONFIG, 0.0, chunk=7))()
    state = np.argmax(np.asarray(dataset.transitions.obs), axis=-1)
    np.testing.assert_allclose(found, value[state], atol=0.05)
    good = np.asarray(dataset.transitions.action)[:, 0] > 0
    np.testing.assert_allclose(np.asarray(advantage)[good], 0.1, atol=0.05)
    np.testing.assert_allclose(np.asarray(advantage)[~good], -0.9, atol=0.05)


def test_advantages_of_recorded_returns(dataset, learned):
    """With lambda 1 an action is credited with all that followed on it in its episode."""
    advantage, value = jax.jit(lambda: advantages(learned[0], dataset, CONFIG, 1.0, chunk=7))()
    reward = np.float64(dataset.transitions.reward).reshape(-1, 3)  # whole episodes
    returns = reward.copy()
    for step in (1, 0):
        returns[:, step] += 0.9 * returns[:, step + 1]
    np.testing.assert_allclose(advantage + value, returns.reshape(-1), rtol=1e-5, atol=1e-5)


def test_row_weights_are_of_shares_of_the_value(dataset, learned):
    settings = PretrainConfig(pretrain_steps=1, advantage_trace_decay=0.5, advantage_temperature=0.2)
    advantage, value = advantages(learned[0], dataset, CONFIG, 0.5)
    found, metrics = row_weights(learned[0], dataset, settings, CONFIG)
    scale = np.abs(value).mean()
    weight = np.minimum(np.exp(np.asarray(advantage) / (0.2 * scale)), 20.0)
    np.testing.assert_allclose(found, weight / weight.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["pretrain/advantage_spread"], np.std(advantage) / scale, rtol=1e-4)
    share = weight.sum() ** 2 / np.square(weight).sum() / len(weight)
    np.testing.assert_allclose(metrics["pretrain/effective_share"], share, rtol=1e-4)


def test_it_learns_from_recorded_actions_alone(dataset, learned):
    """What the critics would say of another action leaves no trace: the value's targets are the data's."""
    metrics = learned[1]
    assert float(metrics["pretrain/critic_loss"]) < 0.01
    assert np.isfinite(float(metrics["pretrain/value_loss"]))


def test_weights_are_finite_where_values_lie_above_all_returns(dataset):
    """Rewards of -1, as for a goal not reached yet, and a V that has not been learned: it is near zero."""
    rewards = dataset.transitions._replace(reward=-jnp.ones_like(dataset.transitions.reward))
    costly, settings = dataset._replace(transitions=rewards), PretrainConfig(pretrain_steps=1)
    state, _ = pretrain(costly, jax.random.key(0), settings, BOUNDS, CONFIG)
    near_zero = jax.tree.map(lambda x: 1e-3 * x, state.value_params)
    state = state._replace(value_params=near_zero)
    advantage, value = advantages(state, costly, CONFIG, settings.advantage_trace_decay)
    exponent = np.float64(advantage) / (settings.advantage_temperature * np.abs(np.float64(value)).mean())
    assert exponent.max() < -1_000  # exp of it is 0
    weight, metrics = row_weights(state, costly, settings, CONFIG)
    expected = np.exp(exponent - exponent.max())
    np.testing.assert_allclose(weight, expected / expected.mean(), rtol=1e-2)
    assert all(np.isfinite(metric) for metric in metrics.values())
