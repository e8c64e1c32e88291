"""Actions within any box: what agents learn is what they learn of the same actions rescaled to +-1."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents.behaviour_cloning import clone
from adm_jax.agents.implicit_q import pretrain
from adm_jax.agents.sac import Cloning, make_hyper, make_sac
from adm_jax.config import PretrainConfig, SACConfig
from adm_jax.data.dataset import make_dataset
from adm_jax.types import ActionBounds, Transition
from tests.data.sample_data import make_data

LOW, HIGH = np.array([0.0, -1.0]), np.array([100.0, 3.0])
BOUNDS, UNIT = ActionBounds((0.0, -1.0), (100.0, 3.0)), ActionBounds.symmetric(1.0, 2)
CONFIG = SACConfig(policy_hidden_dim=16, batch_size=16, cloning_weight=0.5, cloning_rows="better")


def within_box(action):
    """Actions within +-1 as they are within the box."""
    return np.float32(LOW + (HIGH - LOW) * (np.float64(action) + 1) / 2)


def assert_close(one, other, rtol=1e-4):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), one, other)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        ([-0.4, -0.4], [0.4, 0.4], "+-0.4"),
        ([0.0, 0.0], [100.0, 100.0], "[0, 100]"),
        ([0.0, -1.0], [1.0, 1.0], "[0, 1] x [-1, 1]"),
        ([-1.0, -2.0], [1.0, 2.0], "[-1, 1] x [-2, 2]"),
        ([1e6, 0.1], [1e6 + 1, 0.7], "[1e+06, 1.000001e+06] x [0.1, 0.7]"),
        ([-9e29, 0.0], [1e29, 1e-30], "[-9e+29, 1e+29] x [0, 1e-30]"),
    ],
)
def test_normalised_actions_and_back(low, high, shown):
    bounds = ActionBounds(*(tuple(np.float32(x).tolist()) for x in (low, high)))
    assert str(bounds) == shown
    low, high = bounds.arrays()
    ends = jnp.array([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]]) * bounds.scale
    action = np.asarray(jax.jit(bounds.denormalize)(ends))
    np.testing.assert_allclose(action, [low, high, low / 2 + high / 2], rtol=1e-6, atol=1e-6)
    assert ((action >= low) & (action <= high)).all()  # to the last bit
    inside = np.random.default_rng(0).uniform(-1, 1, (1_000, 2)).astype(np.float32) * bounds.scale
    action = bounds.denormalize(jnp.asarray(inside))
    resolution = np.spacing(np.maximum(np.abs(low), np.abs(high))) / (high / 2 - low / 2)
    wrong = np.abs(np.asarray(bounds.normalize(action)) - inside)
    assert (wrong <= 2 * resolution + 1e-6).all()


def test_bounds_in_float64_are_rounded_into_their_box():
    """One +-b as ever, to the nearest."""
    low, high = np.array([0.1, -0.1]), np.array([0.7, 1e6 + 0.01])
    bounds = ActionBounds.of(low, high, "environment")
    assert (np.array(bounds.low) >= low).all()
    assert (np.array(bounds.high) <= high).all()
    np.testing.assert_allclose(bounds, [low, high], rtol=1e-7)
    assert not (np.float32(low) >= low).all()
    nearest = float(np.float32(0.4))
    assert nearest > 0.4
    assert ActionBounds.of(np.full(2, -0.4), np.full(2, 0.4), "environment") == ActionBounds.symmetric(
        nearest, 2
    )


def test_one_symmetric_bound_leaves_actions_as_they_are():
    action, bounds = jnp.ones((3, 2)), ActionBounds.symmetric(3.0, 2)
    assert bounds.normalize(action) is action
    assert bounds.denormalize(action) is action


@pytest.fixture(scope="module")
def agents():
    """``(SAC, updates of it, state)`` of the box and of +-1."""

    def made(bounds, rescale):
        agent, hyper = make_sac(3, bounds, CONFIG), make_hyper(CONFIG)

        @jax.jit
        def learn(state, batch, action, key):
            cloning = Cloning(rescale(action[:8]), jnp.ones(8))
            return agent.update(state, batch._replace(action=rescale(action)), key, hyper, True, cloning)

        return agent, learn, agent.init(jax.random.key(0), hyper)

    middle, half = np.float32([(LOW + HIGH) / 2]), np.float32([(HIGH - LOW) / 2])
    return made(BOUNDS, lambda action: middle + half * action), made(UNIT, lambda action: action)


def test_sac_learns_the_same(agents):
    rng = np.random.default_rng(0)
    states = [state for *_, state in agents]
    for number in range(20):
        obs, next_obs = rng.normal(size=(2, 16, 3)).astype(np.float32)
        action, reward = rng.uniform(-1, 1, (16, 2)).astype(np.float32), np.float32(rng.normal(size=16))
        batch = Transition(obs, action, reward, next_obs, np.arange(16) == 3)
        key = jax.random.key(number)
        steps = [learn(s, batch, action, key) for (_, learn, _), s in zip(agents, states, strict=True)]
        states, metrics = zip(*steps, strict=True)
        assert_close(*metrics)
    assert_close(*states)
    (agent, *_), (other, *_) = agents
    actor_params, critic_params = states[0].actor_params, states[0].critic_params
    for act in ("sample_action", "mode_action"):
        key = [jax.random.key(7)] * (act == "sample_action")
        own, unit = (np.asarray(getattr(which, act)(actor_params, obs, *key)) for which in (agent, other))
        np.testing.assert_allclose(own, within_box(unit), rtol=1e-5, atol=1e-4)
        assert ((own >= LOW) & (own <= HIGH)).all()
    values = agent.q_values(critic_params, obs, within_box(unit))
    np.testing.assert_allclose(values, other.q_values(critic_params, obs, unit), rtol=1e-4, atol=1e-5)


def test_recorded_actions_are_cloned_and_valued_the_same():
    data = make_data((40, 40))
    boxed = dataclasses.replace(data, action=within_box(data.action))
    found = []
    for own, bounds in ((boxed, BOUNDS), (data, UNIT)):
        dataset = make_dataset(own, max_backtrack=2)
        cloned = clone(
            dataset, jax.random.key(0), num_steps=20, learning_rate=1e-3, bounds=bounds, config=CONFIG
        )
        settings = PretrainConfig(pretrain_steps=20)
        found.append((cloned, pretrain(dataset, jax.random.key(1), settings, bounds, CONFIG)))
    assert_close(*found)
