"""What SAC does beside its published form, against NumPy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents.sac import Cloning, make_hyper, make_sac
from adm_jax.config import SACConfig
from adm_jax.types import ActionBounds, Normalizer, Transition

OBS_DIM, ACTION_DIM, BATCH = 3, 2, 16
CONFIG = SACConfig(
    policy_hidden_dim=8,
    critic_layer_norm=True,
    actor_layer_norm=True,
    standardize_obs=True,
    num_critics=4,
    actor_average=0.25,
    cloning_weight=0.5,
)
NORMALIZER = Normalizer(
    jnp.array([1.0, -2.0, 0.5]), jnp.array([2.0, 0.1, 10.0]), jnp.zeros(ACTION_DIM), jnp.ones(ACTION_DIM)
)


def spread(params):
    """Parameters off their initial values, but for the constants that standardise."""
    rng = np.random.default_rng(3)

    def move(path, x):
        if "Standardize_0" in jax.tree_util.keystr(path):
            return x
        return x + 0.3 * rng.normal(size=x.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(move, params)


def make(config=CONFIG):
    agent = make_sac(OBS_DIM, ActionBounds.symmetric(1.5, ACTION_DIM), config)
    state = agent.init(jax.random.key(0), make_hyper(config), NORMALIZER)
    moved = [spread(x) for x in (state.actor_params, state.critic_params, state.target_critic_params)]
    return agent, state._replace(actor_params=moved[0], critic_params=moved[1], target_critic_params=moved[2])


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    return Transition(
        obs=jnp.asarray(3 * rng.normal(size=(BATCH, OBS_DIM)), jnp.float32),
        action=jnp.asarray(rng.uniform(-1.5, 1.5, (BATCH, ACTION_DIM)), jnp.float32),
        reward=jnp.asarray(rng.normal(size=BATCH), jnp.float32),
        next_obs=jnp.asarray(3 * rng.normal(size=(BATCH, OBS_DIM)), jnp.float32),
        terminated=jnp.asarray(rng.random(BATCH) < 0.3),
    )


def network(params, x, layer_norm=True, standardize=True):
    """What the networks compute, in float64."""
    params = jax.tree.map(np.float64, params["params"])
    x = np.float64(x)
    if standardize:
        x[..., :OBS_DIM] = (x[..., :OBS_DIM] - np.float64(NORMALIZER.obs_mean)) / np.float64(
            NORMALIZER.obs_std
        )
    num_hidden = sum(name.startswith("Dense") for name in params) - 1
    for i in range(num_hidden):
        x = x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]
        if layer_norm:
            norm = params[f"LayerNorm_{i}"]
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
            x = x * norm["scale"] + norm["bias"]
        x = np.maximum(x, 0.0)
    last = params[f"Dense_{num_hidden}"]
    return x @ last["kernel"] + last["bias"]


def q_values(critic_params, obs, action):
    x = np.concatenate([obs, action], axis=-1)
    each = [jax.tree.map(lambda leaf, i=i: leaf[i], critic_params) for i in range(4)]
    return np.stack([network(params, x)[:, 0] for params in each])


def mode(actor_params, obs):
    return 1.5 * np.tanh(network(actor_params, obs)[:, :ACTION_DIM])


def test_networks_standardise_and_normalise_layers(batch):
    agent, state = make()
    np.testing.assert_allclose(
        jax.jit(agent.mode_action)(state.actor_params, batch.obs),
        mode(state.actor_params, batch.obs),
        rtol=1e-4,
        atol=1e-5,
    )
    np.testing.assert_allclose(
        jax.jit(agent.q_values)(state.critic_params, batch.obs, batch.action),
        q_values(state.critic_params, batch.obs, batch.action),
        rtol=1e-4,
        atol=1e-4,
    )


def test_the_constants_that_standardise_do_not_learn(batch):
    agent, state = make()
    cloning = Cloning(batch.action[:4], jnp.ones(4))
    update = jax.jit(agent.update)
    for seed in range(3):
        state, _ = update(state, batch, jax.random.key(seed), make_hyper(CONFIG), True, cloning)
    for params in (state.actor_params, state.critic_params, state.target_critic_params):
        constants = params["params"]["Standardize_0"]
        shape = constants["mean"].shape
        np.testing.assert_array_equal(constants["mean"], np.broadcast_to(NORMALIZER.obs_mean, shape))
        np.testing.assert_array_equal(constants["std"], np.broadcast_to(NORMALIZER.obs_std, shape))


@pytest.mark.parametrize("number", [1, 2, 3])
def test_targets_take_the_minimum_of_so_many_critics(batch, number):
    """Each update draws anew: over keys every subset's minimum turns up, and nothing else."""
    config = dataclasses.replace(CONFIG, num_min_critics=number, deterministic_backup=True)
    agent, state = make(config)
    batch = jax.tree.map(lambda x: x[:1], batch)._replace(terminated=jnp.zeros(1, bool))

    @jax.jit
    def loss(key):
        return agent.critic_loss(state.critic_params, state, batch, key, jnp.float32(0.1))[0]

    def next_action(key):
        return agent.sample_action(state.actor_params, batch.next_obs, key)

    q = q_values(state.critic_params, batch.obs, batch.action)[:, 0]
    seen = set()
    for seed in range(30):
        key = jax.random.key(seed)
        target_q = q_values(state.target_critic_params, batch.next_obs, next_action(key))[:, 0]
        # the minimum of a subset of `number`: any critic but the `number - 1` largest
        candidates = np.sort(target_q)[: 4 - number + 1]
        losses = np.array([np.sum((q - (batch.reward[0] + 0.99 * x)) ** 2) for x in candidates])
        which = int(np.argmin(np.abs(losses - float(loss(key)))))
        np.testing.assert_allclose(loss(key), losses[which], rtol=1e-3)
        seen.add(which)
    assert seen == set(range(len(candidates)))


@pytest.mark.parametrize("rows", ["all", "better"])
def test_cloning_term_equals_numpy(batch, rows):
    config = dataclasses.replace(CONFIG, cloning_rows=rows)
    agent, state = make(config)
    weight = jnp.linspace(0.5, 2.0, 5)
    cloning = Cloning(batch.action[:5], weight)
    key, alpha = jax.random.key(4), jnp.float32(0.1)
    arguments = (state.actor_params, state.critic_params, batch.obs, key, alpha)
    without, _ = jax.jit(agent.actor_loss)(*arguments)
    with_term, metrics = jax.jit(agent.actor_loss)(*arguments, cloning, jnp.float32(0.5))

    own = mode(state.actor_params, batch.obs[:5])
    distance = np.mean(((own - batch.action[:5]) / 1.5) ** 2, axis=-1)
    if rows == "better":
        recorded_q = q_values(state.critic_params, batch.obs[:5], batch.action[:5]).min(axis=0)
        keep = recorded_q > q_values(state.critic_params, batch.obs[:5], own).min(axis=0)
        assert 0 < keep.sum() < 5
        distance = np.where(keep, distance, 0.0)
    sampled = agent.sample_action(state.actor_params, batch.obs, key)
    scale = np.abs(q_values(state.critic_params, batch.obs, sampled).min(axis=0)).mean()
    expected = np.mean(np.asarray(weight) * distance)
    np.testing.assert_allclose(metrics["actor/cloning"], expected, rtol=1e-4)
    np.testing.assert_allclose(with_term - without, 0.5 * scale * expected, rtol=1e-3)


def test_cloning_alone_finds_the_recorded_action(batch):
    """With a weight that drowns the critics the mode goes to the data's action."""
    config = dataclasses.replace(CONFIG, cloning_weight=1e4, actor_lr=3e-3, actor_layer_norm=False)
    agent, state = make(config)
    hyper = make_hyper(config)
    cloning = Cloning(jnp.full((BATCH, ACTION_DIM), 0.6), jnp.ones(BATCH))

    @jax.jit
    def learn(state, keys):
        step = lambda state, key: (agent.update(state, batch, key, hyper, True, cloning)[0], None)  # noqa: E731
        return jax.lax.scan(step, state, keys)[0]

    state = learn(state, jax.random.split(jax.random.key(5), 2_000))
    np.testing.assert_allclose(agent.mode_action(state.actor_params, batch.obs), 0.6, atol=0.05)


def test_averaged_actor_follows_with_its_share(batch):
    agent, state = make()
    before = state.average_actor_params
    after, _ = jax.jit(agent.update)(state, batch, jax.random.key(6), make_hyper(CONFIG))
    expected = jax.tree.map(lambda mean, new: 0.75 * mean + 0.25 * new, before, after.actor_params)
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6),
        after.average_actor_params,
        expected,
    )


def test_a_row_s_own_discount_takes_gamma_s_place(batch):
    agent, state = make(dataclasses.replace(CONFIG, deterministic_backup=True))
    discount = jnp.linspace(0.0, 1.0, BATCH)
    key, alpha = jax.random.key(7), jnp.float32(0.1)
    loss = jax.jit(agent.critic_loss)(
        state.critic_params, state, batch._replace(discount=discount), key, alpha
    )[0]
    next_action = agent.sample_action(state.actor_params, batch.next_obs, key)
    next_q = q_values(state.target_critic_params, batch.next_obs, next_action).min(axis=0)
    target = batch.reward + discount * ~batch.terminated * next_q
    q = q_values(state.critic_params, batch.obs, batch.action)
    np.testing.assert_allclose(loss, np.sum(np.mean((q - target[None]) ** 2, axis=-1)), rtol=1e-4)
