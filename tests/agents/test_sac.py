"""SAC: its losses against NumPy, populations of it, and a problem whose optimum is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents.sac import make_hyper, make_sac
from adm_jax.config import SACConfig
from adm_jax.types import ActionBounds, Transition
from tests.agents.small_sac import ACTION_DIM, CONFIG, OBS_DIM, make_batch

# --- properties ---------------------------------------------------------------------------------------------


def numpy_q(critic_params, obs, action):
    """Both critics' values [2, B], written out."""
    layers = [critic_params["params"][f"Dense_{i}"] for i in range(3)]
    values = []
    for critic in range(2):
        x = np.concatenate([obs, action], axis=-1)
        for i, layer in enumerate(layers):
            x = x @ np.asarray(layer["kernel"][critic]) + np.asarray(layer["bias"][critic])
            x = np.maximum(x, 0.0) if i < 2 else x
        values.append(x[:, 0])
    return np.stack(values)


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_backup_has_an_entropy_term_unless_it_is_deterministic(state, deterministic):
    config = dataclasses.replace(CONFIG, deterministic_backup=deterministic, gamma=0.9)
    agent = make_sac(OBS_DIM, ActionBounds.symmetric(1.0, ACTION_DIM), config)
    batch, key, alpha = make_batch(3), jax.random.key(5), 0.7
    loss, _ = jax.jit(agent.critic_loss)(state.critic_params, state, batch, key, jnp.float32(alpha))
    next_action = np.asarray(agent.sample_action(state.actor_params, batch.next_obs, key), np.float64)
    head = squashed_gaussian_head(state.actor_params, batch.next_obs)
    value = numpy_q(state.target_critic_params, batch.next_obs, next_action).min(axis=0)
    if not deterministic:
        value = value - alpha * tanh_gaussian_log_density(head, next_action)
    target = np.asarray(batch.reward) + 0.9 * (1.0 - np.asarray(batch.terminated)) * value
    error = numpy_q(state.critic_params, batch.obs, batch.action) - target
    np.testing.assert_allclose(loss, np.square(error).mean(axis=1).sum(), rtol=1e-4)


def squashed_gaussian_head(actor_params, obs):
    x = np.asarray(obs, np.float64)
    for i in range(3):
        layer = actor_params["params"][f"Dense_{i}"]
        x = x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
        x = np.maximum(x, 0.0) if i < 2 else x
    return x


def tanh_gaussian_log_density(head, action):
    """Of an action within +-1; head: mean and logarithm of the standard deviation, to be clipped."""
    mean, log_std = np.split(head, 2, axis=-1)
    log_std = np.clip(log_std, -5.0, 2.0)
    before = np.arctanh(action)
    normal = -0.5 * np.square((before - mean) / np.exp(log_std)) - log_std - 0.5 * np.log(2.0 * np.pi)
    return (normal - np.log(1.0 - np.square(action))).sum(axis=-1)


def test_only_terminated_rows_do_without_the_next_state(agent, state):
    """A time limit is no termination: whatever is not flagged is bootstrapped."""
    batch = make_batch(0)
    loss_fn = jax.jit(agent.critic_loss)

    def loss(batch):
        return loss_fn(state.critic_params, state, batch, jax.random.key(1), jnp.float32(0.1))[0]

    def with_other_next_obs(rows):
        return batch._replace(next_obs=jnp.where(rows[:, None], 5.0, batch.next_obs))

    terminated = batch.terminated
    assert loss(with_other_next_obs(terminated)) == loss(batch)
    for row in np.flatnonzero(~terminated):
        assert loss(with_other_next_obs(jnp.arange(32) == row)) != loss(batch)


def test_with_all_rows_terminated_the_target_is_the_reward(agent, state):
    batch = make_batch(1)._replace(terminated=jnp.ones(32, bool), reward=jnp.full(32, 3.0))
    q = []
    for i in range(2):
        layers = jax.tree.map(lambda x, i=i: np.float64(x[i]), state.critic_params)["params"]
        x = np.concatenate([batch.obs, batch.action], axis=-1)
        for name in ("Dense_0", "Dense_1"):
            x = np.maximum(x @ layers[name]["kernel"] + layers[name]["bias"], 0.0)
        q.append((x @ layers["Dense_2"]["kernel"] + layers["Dense_2"]["bias"])[:, 0])
    loss, metrics = jax.jit(agent.critic_loss)(
        state.critic_params, state, batch, jax.random.key(0), jnp.float32(0.1)
    )
    np.testing.assert_allclose(loss, sum(np.mean((3.0 - value) ** 2) for value in q), rtol=1e-5)
    np.testing.assert_allclose(metrics["critic/q"], np.mean(q), rtol=1e-4)


@pytest.mark.parametrize("which", ["actor", "critic"])
def test_gradients_equal_finite_differences(agent, state, which):
    """Along the gradient itself and along a random direction."""
    batch, key, alpha = make_batch(2), jax.random.key(2), jnp.float32(0.1)

    @jax.jit
    def loss(params):
        if which == "critic":
            return agent.critic_loss(params, state, batch, key, alpha)[0]
        return agent.actor_loss(params, state.critic_params, batch.obs, key, alpha)[0]

    params = state.critic_params if which == "critic" else state.actor_params
    grad = jax.jit(jax.grad(loss))(params)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    gradient = np.asarray(jax.flatten_util.ravel_pytree(grad)[0])
    noise = np.random.default_rng(0).normal(size=gradient.shape).astype(np.float32)
    for direction in (gradient, noise):
        direction = direction / np.linalg.norm(direction)
        step = 1e-2
        difference = loss(unravel(flat + step * direction)) - loss(unravel(flat - step * direction))
        np.testing.assert_allclose(difference / (2 * step), gradient @ direction, rtol=0.02, atol=1e-3)


def test_targets_follow_the_critics_slowly(agent, state):
    hyper = make_hyper(CONFIG)._replace(tau=jnp.float32(0.25))
    start = state._replace(
        target_critic_params=jax.tree.map(lambda x: np.asarray(x) + 1, state.critic_params)
    )
    after, _ = jax.jit(agent.update)(start, make_batch(3), jax.random.key(3), hyper)
    expected = jax.tree.map(
        lambda t, p: 0.75 * t + 0.25 * np.asarray(p), start.target_critic_params, after.critic_params
    )
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-6, atol=1e-6),
        after.target_critic_params,
        expected,
    )
    # the critics themselves have moved, all of them
    moved = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - b).max(), after.critic_params, state.critic_params
    )
    assert min(jax.tree.leaves(moved)) > 0


def test_the_initial_state(agent, state):
    jax.tree.map(np.testing.assert_array_equal, state.critic_params, state.target_critic_params)
    kernels = state.critic_params["params"]["Dense_0"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])  # two critics, not one twice
    np.testing.assert_allclose(state.log_alpha, np.log(CONFIG.entropy_weight), rtol=1e-6)


def test_an_adapted_entropy_weight_has_a_bound(state):
    """The losses take at most the bound; what is adapted below it goes on."""
    config = dataclasses.replace(CONFIG, auto_entropy=True, entropy_weight=3.0, max_entropy_weight=1.0)
    bounded, free = (
        make_sac(OBS_DIM, ActionBounds.symmetric(1.0, ACTION_DIM), each)
        for each in (config, dataclasses.replace(config, max_entropy_weight=None))
    )
    for log_alpha, alpha, expected in ((jnp.log(3.0), 1.0, 3.0), (jnp.log(0.5), 0.5, 0.5)):
        begun, hyper = state._replace(log_alpha=log_alpha), make_hyper(config)
        after, metrics = bounded.update(begun, make_batch(0), jax.random.key(0), hyper)
        np.testing.assert_allclose(metrics["actor/alpha"], alpha, rtol=1e-6)
        assert after.log_alpha != begun.log_alpha
        _, metrics = free.update(begun, make_batch(0), jax.random.key(0), hyper)
        np.testing.assert_allclose(metrics["actor/alpha"], expected, rtol=1e-6)


def test_fixed_entropy_weight_is_the_one_given(agent, state):
    hyper = make_hyper(CONFIG)._replace(entropy_weight=jnp.float32(0.7))
    after, metrics = jax.jit(agent.update)(state, make_batch(4), jax.random.key(4), hyper)
    assert metrics["actor/alpha"] == np.float32(0.7)
    assert after.log_alpha == state.log_alpha


# --- members ------------------------------------------------------------------------------------------------


NUM_UPDATES, NUM_MEMBERS = 50, 3


@pytest.fixture(scope="module")
def members(agent, init):
    """``(one member's 50 updates, the members' states, their keys)``; all members share the data."""
    batches = jax.tree.map(
        lambda x: x.reshape(NUM_UPDATES, 32, *x.shape[1:]), make_batch(5, NUM_UPDATES * 32)
    )
    hyper = make_hyper(CONFIG)

    def run(state, key):
        keys = jax.random.split(key, NUM_UPDATES)
        return jax.lax.scan(lambda s, x: agent.update(s, x[0], x[1], hyper), state, (batches, keys))

    states = jax.tree.map(lambda *x: np.stack(x), *(init(jax.random.key(10 + i)) for i in range(NUM_MEMBERS)))
    return run, states, jax.random.split(jax.random.key(6), NUM_MEMBERS)


@pytest.fixture(scope="module")
def alone(members):
    run, states, keys = members
    one = jax.jit(run)
    return [one(jax.tree.map(lambda x, i=i: x[i], states), keys[i]) for i in range(NUM_MEMBERS)]


def test_members_under_vmap_equal_each_alone(members, alone):
    run, states, keys = members
    together, _ = jax.jit(jax.vmap(run))(states, keys)
    for i in range(NUM_MEMBERS):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5), together, alone[i][0]
        )
    moved = np.abs(
        together.actor_params["params"]["Dense_0"]["kernel"]
        - states.actor_params["params"]["Dense_0"]["kernel"]
    )
    assert moved.max() > 1e-3


def test_members_under_map_are_bitwise_those_alone(members, alone):
    run, states, keys = members
    together = jax.jit(lambda s, k: jax.lax.map(lambda x: run(*x), (s, k)))(states, keys)
    for i in range(NUM_MEMBERS):
        jax.tree.map(lambda a, b, i=i: np.testing.assert_array_equal(a[i], b), together, alone[i])


# --- a problem with a known optimum -------------------------------------------------------------------------


def riccati_gain(gamma, a, b, q, r):
    """The optimal ``u = -gain x`` of x' = a x + b u, cost q x^2 + r u^2, discounted by gamma."""
    p = q
    for _ in range(1000):
        gain = gamma * a * b * p / (r + gamma * b * b * p)
        p = q + r * gain**2 + gamma * p * (a - b * gain) ** 2
    return gain


def test_solves_a_linear_quadratic_problem():
    """From uniform data alone. Looking one step ahead gives a gain of 0.37, the optimum is 0.70: only an
    actor that has learned the discounted future finds it.
    """
    gamma, a, b, q, r = 0.9, 1.0, 0.5, 1.0, 1.0
    gain = riccati_gain(gamma, a, b, q, r)
    num_updates = 3000
    config = SACConfig(
        policy_hidden_dim=32,
        gamma=gamma,
        tau=0.02,
        batch_size=128,
        actor_lr=3e-3,
        critic_lr=3e-3,
        entropy_weight=0.1,
    )
    agent, hyper = make_sac(1, ActionBounds.symmetric(1.5, 1), config), make_hyper(config)

    def update(state, xs):
        key, share_left = xs
        obs_key, action_key, update_key = jax.random.split(key, 3)
        obs = jax.random.uniform(obs_key, (128, 1), minval=-1.0, maxval=1.0)
        action = jax.random.uniform(action_key, (128, 1), minval=-1.5, maxval=1.5)
        reward = -(q * obs**2 + r * action**2)[:, 0]
        batch = Transition(obs, action, reward, a * obs + b * action, jnp.zeros(128, bool))
        # rates that fall to zero: the last actor is no longer one of a cloud around the optimum
        rates = {"actor_lr": hyper.actor_lr * share_left, "critic_lr": hyper.critic_lr * share_left}
        return agent.update(state, batch, update_key, hyper._replace(**rates))

    @jax.jit
    def learn(key):
        init_key, updates_key = jax.random.split(key)
        xs = (jax.random.split(updates_key, num_updates), jnp.linspace(1.0, 0.0, num_updates))
        return jax.lax.scan(update, agent.init(init_key, hyper), xs)

    state, metrics = learn(jax.random.key(0))
    assert np.isfinite(metrics["critic/loss"]).all()
    obs = np.linspace(-0.9, 0.9, 19, dtype=np.float32)[:, None]
    action = np.asarray(jax.jit(agent.mode_action)(state.actor_params, obs))
    np.testing.assert_allclose(action, -gain * obs, atol=0.1)
    np.testing.assert_allclose((action * obs).sum() / (obs**2).sum(), -gain, rtol=0.06)
