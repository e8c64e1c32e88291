"""SAC: losses, gradients and whole updates equal PyTorch's."""

from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents.sac import make_hyper, make_sac
from adm_jax.config import SACConfig
from adm_jax.types import ActionBounds, Transition
from tests.agents.small_sac import ACTION_DIM, OBS_DIM


def mlp_from_torch(arrays, name):
    """A three-layer ``nn.Sequential`` in flax's layout; PyTorch keeps weights as [out, in]."""
    return {
        "params": {
            f"Dense_{i}": {
                "kernel": arrays[f"{name}.{2 * i}.weight"].T,
                "bias": arrays[f"{name}.{2 * i}.bias"],
            }
            for i in range(3)
        }
    }


def stacked_from_torch(arrays, name):
    both = [mlp_from_torch(arrays, f"{name}.{i}") for i in range(2)]
    return jax.tree.map(lambda *x: np.stack(x), *both)


@pytest.fixture(scope="module")
def golden(state):
    with np.load(Path(__file__).parent.parent / "golden" / "sac.npz") as file:
        arrays = dict(file)
    setting = {name.split("/")[1]: float(arrays[name]) for name in arrays if name.startswith("setting/")}
    config = SACConfig(
        policy_hidden_dim=16,
        gamma=setting["gamma"],
        auto_entropy=True,
        entropy_weight=setting["alpha"],
        target_entropy=setting["target_entropy"],
        **{name: setting[name] for name in ("actor_lr", "critic_lr", "entropy_lr", "tau")},
    )
    agent, hyper = (
        make_sac(OBS_DIM, ActionBounds.symmetric(setting["scale"], ACTION_DIM), config),
        make_hyper(config),
    )
    state = state._replace(  # Adam's zeros, and PyTorch's parameters
        actor_params=mlp_from_torch(arrays, "param/actor"),
        critic_params=stacked_from_torch(arrays, "param/critics"),
        target_critic_params=stacked_from_torch(arrays, "param/targets"),
        log_alpha=jnp.log(hyper.entropy_weight),
    )
    batch = Transition(*(jnp.asarray(arrays[f"batch/{name}"]) for name in Transition._fields[:5]))
    return SimpleNamespace(arrays=arrays, agent=agent, hyper=hyper, state=state, batch=batch, **setting)


@pytest.fixture
def inject(monkeypatch):
    """Makes ``jax.random.normal`` return given noise, draw after draw: PyTorch's instead of a key's."""

    def replace(*noises):
        left = list(noises)

        def normal(key, shape=(), dtype=jnp.float32):
            return jnp.asarray(left.pop(0), dtype).reshape(shape)

        monkeypatch.setattr(jax.random, "normal", normal)
        return left

    return replace


def assert_trees_close(actual, expected, tolerance=1e-5):
    def check(a, e):
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance * max(1.0, np.abs(e).max()))

    jax.tree.map(check, actual, expected)


def test_critic_loss_and_gradient_equal_pytorch(golden, inject):
    left = inject(golden.arrays["critic_noise"][0])
    loss_fn = jax.jit(jax.value_and_grad(golden.agent.critic_loss, has_aux=True))
    (loss, metrics), grads = loss_fn(
        golden.state.critic_params, golden.state, golden.batch, jax.random.key(0), jnp.float32(golden.alpha)
    )
    assert not left
    np.testing.assert_allclose(loss, golden.arrays["critic_loss"], rtol=1e-5)
    assert metrics["critic/loss"] == loss
    assert_trees_close(grads, stacked_from_torch(golden.arrays, "grad/critics"))


def test_actor_loss_and_gradient_equal_pytorch(golden, inject):
    left = inject(golden.arrays["actor_noise"][0])
    loss_fn = jax.jit(jax.value_and_grad(golden.agent.actor_loss, has_aux=True))
    (loss, metrics), grads = loss_fn(
        golden.state.actor_params,
        golden.state.critic_params,
        golden.batch.obs,
        jax.random.key(0),
        jnp.float32(golden.alpha),
    )
    assert not left
    np.testing.assert_allclose(loss, golden.arrays["actor_loss"], rtol=1e-5)
    assert metrics["actor/loss"] == loss
    assert_trees_close(grads, mlp_from_torch(golden.arrays, "grad/actor"))


def test_whole_updates_equal_pytorch(golden, inject):
    """Critics first, then actor and alpha on the new critics, then the targets; Adam for all of them."""
    arrays, state = golden.arrays, golden.state
    num_updates = len(arrays["alpha_grads"])

    @jax.jit
    def update(state, critic_noise, actor_noise):
        inject(critic_noise, actor_noise)
        return golden.agent.update(state, golden.batch, jax.random.key(0), golden.hyper)

    first_moment = 0.0
    for i in range(num_updates):
        state, metrics = update(state, arrays["critic_noise"][i], arrays["actor_noise"][i])
        first_moment = 0.9 * first_moment + 0.1 * arrays["alpha_grads"][i]
        # Adam's first moment: the only place where alpha's gradient shows, as its steps hide the scale
        np.testing.assert_allclose(state.alpha_opt.mu, first_moment, rtol=1e-4)
        if i == 0:
            np.testing.assert_allclose(metrics["actor/alpha"], golden.alpha, rtol=1e-6)
    np.testing.assert_allclose(state.log_alpha, arrays["updated_log_alpha"], rtol=1e-5)
    # Adam divides by a gradient's own size, so a tiny one's rounding is a large share of a step of 0.01
    assert_trees_close(state.critic_params, stacked_from_torch(arrays, "updated/critics"), 1e-4)
    assert_trees_close(state.target_critic_params, stacked_from_torch(arrays, "updated/targets"), 1e-5)
    assert_trees_close(state.actor_params, mlp_from_torch(arrays, "updated/actor"), 1e-4)
