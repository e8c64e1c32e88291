"""PyTorch's SAC of the benchmarks learns what the library's does, from the same batches and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed (pip install -e '.[bench]')")

import torch

from adm_jax.agents.sac import make_hyper, make_sac
from adm_jax.config import SACConfig
from adm_jax.types import ActionBounds, Transition
from benchmarks.speed.torch_reference import Rows
from benchmarks.speed.torch_sac import SAC, Replay

OBS_DIM, ACTION_DIM, SCALE, BATCH = 5, 2, 0.4, 24


def stack(tree):
    """Parameters wide enough that the log-deviation is cut on both sides."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: x + jnp.asarray(0.4 * rng.normal(size=x.shape), jnp.float32), tree)


def batch_of(rng):
    return Transition(
        obs=rng.normal(size=(BATCH, OBS_DIM)).astype(np.float32),
        action=rng.uniform(-SCALE, SCALE, (BATCH, ACTION_DIM)).astype(np.float32),
        reward=rng.normal(size=BATCH).astype(np.float32),
        next_obs=rng.normal(size=(BATCH, OBS_DIM)).astype(np.float32),
        terminated=np.arange(BATCH) % 3 == 0,
    )


def assert_mlp_close(module, params, index=None, tolerance=2e-5):
    linear = [layer for layer in module if isinstance(layer, torch.nn.Linear)]
    for i, layer in enumerate(linear):
        dense = params["params"][f"Dense_{i}"]
        dense = dense if index is None else jax.tree.map(lambda x: x[index], dense)
        for ours, theirs in ((dense["kernel"], layer.weight.T), (dense["bias"], layer.bias)):
            np.testing.assert_allclose(theirs.detach().numpy(), ours, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("deterministic_backup", "auto_entropy"), [(False, False), (True, False), (False, True)]
)
def test_losses_and_updates_equal_the_librarys(monkeypatch, deterministic_backup, auto_entropy):
    config = SACConfig(
        policy_hidden_dim=16,
        policy_hidden_layers=2,
        batch_size=BATCH,
        actor_lr=3e-3,
        critic_lr=1e-2,
        tau=0.05,
        auto_entropy=auto_entropy,
        **({"entropy_lr": 1e-2, "target_entropy": -1.0} if auto_entropy else {}),
        entropy_weight=0.3,
        gamma=0.9,
        deterministic_backup=deterministic_backup,
    )
    agent, hyper = make_sac(OBS_DIM, ActionBounds.symmetric(SCALE, ACTION_DIM), config), make_hyper(config)
    state = agent.init(jax.random.key(0), hyper)
    state = state._replace(
        actor_params=stack(state.actor_params),
        critic_params=stack(state.critic_params),
        target_critic_params=stack(state.target_critic_params),
    )
    theirs = SAC(OBS_DIM, ACTION_DIM, SCALE, config, hyper, "cpu")
    theirs.load(state.actor_params, state.critic_params, state.target_critic_params)
    rng = np.random.default_rng(1)
    for _ in range(3):
        batch, noise = batch_of(rng), rng.normal(size=(2, BATCH, ACTION_DIM)).astype(np.float32)
        left = list(noise)

        def normal(key, shape=(), dtype=jnp.float32, left=left):
            return jnp.asarray(left.pop(0), dtype).reshape(shape)

        monkeypatch.setattr(jax.random, "normal", normal)
        # a new function each time: what is compiled holds the noise
        state, metrics = jax.jit(lambda *args: agent.update(*args))(
            state, jax.tree.map(jnp.asarray, batch), jax.random.key(0), hyper
        )
        assert not left
        losses = theirs.update([torch.from_numpy(x) for x in batch[:5]], *map(torch.from_numpy, noise))
        assert float(losses["critic"]) == pytest.approx(float(metrics["critic/loss"]), rel=2e-5)
        assert float(losses["actor"]) == pytest.approx(float(metrics["actor/loss"]), rel=2e-5)
    assert theirs.log_alpha.item() == pytest.approx(float(state.log_alpha), rel=1e-5)
    assert (theirs.log_alpha.item() != pytest.approx(np.log(0.3))) == auto_entropy
    assert_mlp_close(theirs.actor, state.actor_params)
    for i in range(2):
        assert_mlp_close(theirs.critics[i], state.critic_params, i)
        assert_mlp_close(theirs.targets[i], state.target_critic_params, i)


def rows_of(start, valid, device):
    """Two steps of two rows whose rewards count from ``start``."""
    reward = start + np.arange(4, dtype=np.float32).reshape(2, 2)
    vectors = np.repeat(reward[..., None], OBS_DIM, axis=-1)
    flags = np.zeros((2, 2), bool)
    columns = (vectors, vectors[..., :ACTION_DIM], reward, vectors, flags, np.array(valid), reward)
    return Rows(*(columns if device is None else [torch.from_numpy(x.copy()) for x in columns]))


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_replay_buffer_keeps_the_newest_valid_rows(device):
    buffer = Replay(5, OBS_DIM, ACTION_DIM, device)
    buffer.add(rows_of(0.0, [[True, True], [False, True]], device))
    assert buffer.size == 3
    buffer.add(rows_of(10.0, [[True, True], [True, True]], device))
    assert buffer.size == 5
    obs, action, reward, next_obs, terminated = buffer.sample(300, np.random.default_rng(0))
    assert set(np.asarray(reward).tolist()) == {
        3.0,
        10.0,
        11.0,
        12.0,
        13.0,
    }  # 2 was not valid, 0 and 1 are old
    np.testing.assert_array_equal(np.asarray(obs)[:, 0], np.asarray(reward))
    np.testing.assert_array_equal(np.asarray(next_obs)[:, -1], np.asarray(reward))
    assert np.asarray(action).shape == (300, ACTION_DIM)
    assert not np.asarray(terminated).any()
