"""Policies on disk: readable by NumPy alone, as the module says, and by the library."""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from adm_jax.agents.sac import make_hyper, make_sac
from adm_jax.config import SACConfig
from adm_jax.runs.policy_file import load_policy, save_policy
from adm_jax.types import ActionBounds, InputError

SCALE = 3.0
BOUNDS = ActionBounds.symmetric(SCALE, 2)
PATH = Path("policies/own.npz")
OBS = np.random.default_rng(0).normal(0.0, 2.0, (20, 5)).astype(np.float32)


@pytest.fixture
def sac_and_params():
    config = SACConfig(policy_hidden_dim=16, policy_hidden_layers=3)
    sac = make_sac(5, BOUNDS, config)
    return sac, sac.init(jax.random.key(1), make_hyper(config)).actor_params


@pytest.fixture
def saved(sac_and_params):
    save_policy(PATH, sac_and_params[1], BOUNDS, {"env_id": "Own-v0", "returns": [1.5, 2.0]})
    return sac_and_params


def numpy_head(arrays, obs):
    x, num_layers = obs, sum(name.startswith("kernel_") for name in arrays)
    for i in range(num_layers):
        x = x @ arrays[f"kernel_{i}"] + arrays[f"bias_{i}"]
        x = np.maximum(x, 0.0) if i < num_layers - 1 else x
    return np.split(x, 2, axis=-1)


def test_numpy_alone_reads_the_policy(saved):
    sac, actor_params = saved
    with np.load(PATH) as file:
        arrays = dict(file)
    mean, log_std = numpy_head(arrays, OBS)
    action = arrays["action_scale"] * np.tanh(mean)
    np.testing.assert_allclose(action, sac.mode_action(actor_params, OBS), rtol=1e-4, atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 2_000)
    sample = jax.jit(jax.vmap(lambda key: sac.sample_action(actor_params, OBS, key)))
    samples = np.asarray(sample(keys))
    noise = np.random.default_rng(0).normal(size=samples.shape)
    drawn = arrays["action_scale"] * np.tanh(mean + np.exp(np.clip(log_std, -5, 2)) * noise)
    np.testing.assert_allclose(samples.mean(axis=0), drawn.mean(axis=0), atol=0.25)
    np.testing.assert_allclose(samples.std(axis=0), drawn.std(axis=0), atol=0.15)
    assert json.loads(str(arrays["info"])) == {"env_id": "Own-v0", "returns": [1.5, 2.0]}


def test_the_library_reads_it_bit_for_bit(saved):
    sac, actor_params = saved
    policy = load_policy(PATH)
    assert (policy.obs_dim, policy.action_dim, policy.bounds) == (5, 2, BOUNDS)
    assert policy.info["returns"] == [1.5, 2.0]
    jax.tree.map(np.testing.assert_array_equal, policy.actor_params, actor_params)
    np.testing.assert_array_equal(
        policy.mode_action(policy.actor_params, OBS), sac.mode_action(actor_params, OBS)
    )
    key = jax.random.key(0)
    np.testing.assert_array_equal(
        policy.sample_action(policy.actor_params, OBS, key), sac.sample_action(actor_params, OBS, key)
    )


def test_bounds_that_are_not_one_are_kept_with_the_policy(sac_and_params):
    """``+-b`` is written as ever: ``action_scale``; each file has what its recipe needs."""
    params, bounds = sac_and_params[1], ActionBounds((0.0, -1.0), (100.0, 3.0))
    sac = make_sac(5, bounds, SACConfig(policy_hidden_dim=16, policy_hidden_layers=3))
    save_policy(PATH, params, bounds, {})
    with np.load(PATH) as file:
        arrays = dict(file)
    assert "action_scale" not in arrays
    low, high = arrays["action_low"], arrays["action_high"]
    mean, _ = numpy_head(arrays, OBS)
    action = np.clip((low + high) / 2 + (high - low) / 2 * np.tanh(mean), low, high)
    np.testing.assert_allclose(action, sac.mode_action(params, OBS), rtol=1e-4, atol=1e-4)
    policy = load_policy(PATH)
    assert policy.bounds == bounds
    np.testing.assert_array_equal(policy.mode_action(params, OBS), sac.mode_action(params, OBS))
    for damaged in ({"action_low": high}, {"action_high": high[:1]}, {"action_low": low * np.nan}):
        np.savez(PATH, **{**arrays, **damaged})
        with pytest.raises(InputError, match=r"own.npz: is no policy, or damaged \(action_low"):
            load_policy(PATH)


def test_nothing_else_is_left_in_the_folder(saved):
    assert [path.name for path in PATH.parent.iterdir()] == ["own.npz"]


def test_a_folder_that_cannot_be_made_is_one_line(sac_and_params):
    Path("file").write_text("")
    with pytest.raises(InputError, match=r"^file/own.npz: cannot be written \(") as error:
        save_policy(Path("file/own.npz"), sac_and_params[1], BOUNDS, {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("damage", ["absent", "empty", "text", "cut", "other"])
def test_what_is_no_policy_is_one_line(saved, damage):
    if damage == "absent":
        PATH.unlink()
    elif damage == "other":
        np.savez(PATH, kernel_0=np.zeros((2, 2)))
    else:
        content = PATH.read_bytes()
        PATH.write_bytes({"empty": b"", "text": b"policy", "cut": content[: len(content) // 2]}[damage])
    with pytest.raises(InputError, match=r"^policies/own.npz: is no policy, or damaged \(") as error:
        load_policy(PATH)
    assert "\n" not in str(error.value)


def changed(**arrays) -> None:
    """The saved policy with other arrays; None removes one."""
    with np.load(PATH) as file:
        kept = {name: array for name, array in {**file, **arrays}.items() if array is not None}
    np.savez(PATH, **kept)


def encrypted() -> None:
    """The bit that says so, in the archive's list of entries and before each of them."""
    content = bytearray(PATH.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + offset] |= 1
            start = content.find(mark, start + 1)
    PATH.write_bytes(content)


WRONG = {
    "encrypted": (encrypted, "is encrypted, password required"),
    "gzip": (lambda: PATH.write_bytes(gzip.compress(PATH.read_bytes())), "a gzip file"),
    "csv": (lambda: PATH.write_text("w0,b0\n0.1,0.2\n"), "a CSV file"),
    "info a list": (lambda: changed(info=np.array("[1]")), "info is no table"),
    "info a number": (lambda: changed(info=np.array("5")), "info is no table"),
    "info nested": (lambda: changed(info=np.array("[" * 100_000)), "maximum recursion depth exceeded"),
    "another env_id": (lambda: changed(info=np.array('{"env_id": [1]}')), "or its env_id no text"),
    "a missing bias": (lambda: changed(bias_1=None), "bias_1"),
    "a bias too short": (lambda: changed(bias_0=np.zeros(1, np.float32)), "bias_0 has shape (1,); must be"),
    "a kernel of rank 1": (lambda: changed(kernel_1=np.zeros(3, np.float32)), "kernel_1 has shape (3,)"),
    "infinite": (lambda: changed(bias_0=np.full(1, np.inf, np.float32)), "bias_0: a parameter is not finite"),
    "text": (lambda: changed(kernel_1=np.array("x")), "kernel_1: a parameter is not finite, or no number"),
    "no scale": (lambda: changed(action_scale=np.float32(0)), "action_scale must be above 0"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_policies_that_are_none_are_one_line(saved, kind):
    damage, reason = WRONG[kind]
    damage()
    with pytest.raises(InputError) as error:
        load_policy(PATH)
    assert str(error.value).startswith("policies/own.npz: is no policy, or damaged (")
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
