"""Target policies: the three kinds of files against NumPy, and every way a file can be wrong."""

import os
import pickle
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.agents.sac import make_hyper, make_sac
from adm_jax.config import SACConfig
from adm_jax.evaluation import policies
from adm_jax.runs import policy_file
from adm_jax.types import ActionBounds, InputError
from tests.evaluation.policy_files import write

D, A, W = 4, 2, 5
BOUNDS, WIDE = ActionBounds.symmetric(0.4, A), ActionBounds.symmetric(1.0, A)
LOW, HIGH = np.float32([-0.4, -0.5]), np.float32([0.4, 0.5])
KEY = jax.random.key(0)
SHARED = Path(__file__).parents[3] / "shared" / "data" / "policies"


def arrays(rng, *shapes):
    return [np.float32(rng.normal(size=shape)) for shape in shapes]


def plain(rng, **changes):
    w0, b0, w1, b1, w2, b2 = arrays(rng, (D, W), (W,), (W, W), (W,), (W, A), (A,))
    content = {"w0": w0, "b0": b0, "w1": w1, "b1": b1, "w2": 0.5 * w2, "b2": 0.1 * b2}
    content |= {"log_std": np.float32([-2.0, -3.0]), "obs_mean": arrays(rng, (D,))[0]}
    content |= {"obs_std": np.float32(rng.uniform(0.5, 2, D)), "kind": np.array("trpo")}
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


def dope(rng, **changes):
    shapes = {"fc0": (W, D), "fc1": (W, W), "last_fc": (A, W), "last_fc_log_std": (A, W)}
    content = {"nonlinearity": "relu", "output_distribution": "tanh_gaussian"}
    for name, shape in shapes.items():
        content[f"{name}/weight"], content[f"{name}/bias"] = arrays(rng, shape, shape[:1])
    content["last_fc_log_std/weight"] *= 5.0  # wide enough that log-std leaves [-5, 2] on both sides
    return {name: value for name, value in {**content, **changes}.items() if value is not None}


def act(policy, obs, key=KEY, deterministic=True):
    fn = policies.action_fn(policy.kind, LOW, HIGH, deterministic=deterministic)
    return np.asarray(jax.jit(fn)(policy.params, jnp.asarray(obs), key))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("normalised", [True, False])
def test_plain_archive_acts_as_in_numpy(rng, tmp_path, normalised):
    content = plain(rng) if normalised else plain(rng, obs_mean=None, obs_std=None)
    policy = policies.read_policy(write(tmp_path / "a.npz", content))
    obs = rng.normal(size=(50, D)).astype(np.float32)
    x = (obs - content["obs_mean"]) / content["obs_std"] if normalised else obs
    for i in (0, 1):
        x = np.tanh(x @ content[f"w{i}"] + content[f"b{i}"])
    mean = x @ content["w2"] + content["b2"]
    assert (np.abs(mean) > LOW * -1).any()  # some must be clipped
    np.testing.assert_allclose(act(policy, obs), np.clip(mean, LOW, HIGH), rtol=1e-5, atol=1e-6)
    sampled = np.clip(mean + np.exp([-2.0, -3.0]) * np.asarray(jax.random.normal(KEY, mean.shape)), LOW, HIGH)
    np.testing.assert_allclose(act(policy, obs, deterministic=False), sampled, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("nonlinearity", ["relu", "tanh"])
@pytest.mark.parametrize("distribution", ["tanh_gaussian", "gaussian"])
def test_dope_pickle_acts_as_in_numpy(rng, tmp_path, nonlinearity, distribution):
    content = dope(rng, nonlinearity=nonlinearity, output_distribution=distribution)
    policy = policies.read_policy(write(tmp_path / "a.pkl", content))
    obs = x = rng.normal(size=(200, D)).astype(np.float32)
    for i in (0, 1):
        x = x @ content[f"fc{i}/weight"].T + content[f"fc{i}/bias"]
        x = np.maximum(x, 0) if nonlinearity == "relu" else np.tanh(x)
    mean = x @ content["last_fc/weight"].T + content["last_fc/bias"]
    log_std = x @ content["last_fc_log_std/weight"].T + content["last_fc_log_std/bias"]
    assert (log_std < -5).any()
    assert (log_std > 2).any()
    squash = np.tanh if distribution == "tanh_gaussian" else np.asarray
    np.testing.assert_allclose(act(policy, obs), np.clip(squash(mean), LOW, HIGH), rtol=1e-5, atol=1e-6)
    noise = jax.random.normal(KEY, mean.shape)
    sampled = np.clip(squash(mean + np.exp(np.clip(log_std, -5, 2)) * noise), LOW, HIGH)
    np.testing.assert_allclose(act(policy, obs, deterministic=False), sampled, rtol=1e-5, atol=1e-5)


def test_own_file_acts_as_the_agent_does(rng, tmp_path):
    sac = make_sac(D, BOUNDS, SACConfig(policy_hidden_dim=W))
    params = sac.init(KEY, make_hyper(SACConfig(), 0.0)).actor_params
    policy_file.save_policy(tmp_path / "own.npz", params, BOUNDS, {"task": "mine"})
    policy = policies.read_policy(tmp_path / "own.npz")
    obs = rng.normal(size=(6, D)).astype(np.float32)
    np.testing.assert_allclose(act(policy, obs), sac.mode_action(params, obs), rtol=1e-6)
    sampled = act(policy, obs, deterministic=False)
    np.testing.assert_allclose(sampled, sac.sample_action(params, obs, KEY), rtol=1e-6)


class Hostile:
    """Unpickled naively it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("where", ["alone", "inside"])
def test_a_pickle_that_names_code_is_refused_and_not_run(rng, tmp_path, where):
    proof = tmp_path / "proof"
    hostile = Hostile(f"touch {proof}")
    path = write(tmp_path / "bad.pkl", hostile if where == "alone" else dope(rng, extra=hostile))
    with pytest.raises(InputError, match=r"bad\.pkl: refused: names posix\.system, which is not an array"):
        policies.read_policy(path)
    assert not proof.exists()
    pickle.loads(path.read_bytes())
    assert proof.exists()  # so the file would have run it


class Called:
    """Pickled, it is a call of a function, and of the result's ``__setstate__``."""

    def __init__(self, fn, arguments, state=None):
        self.reduced = (fn, arguments) if state is None else (fn, arguments, state)

    def __reduce__(self):
        return self.reduced


POINTERS = {  # what NumPy, called with it, would follow
    "called": Called(np.ndarray, ((1,), np.dtype("O"), b"A" * 8)),
    "state": Called(
        np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("O"), False, b"A" * 8)
    ),
    "void": Called(
        np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"b"), (1, (1,), np.dtype("V8"), False, b"A" * 8)
    ),
}


@pytest.mark.parametrize("payload", POINTERS)
def test_pointers_in_a_pickle_are_not_followed(rng, tmp_path, payload):
    path = write(tmp_path / "bad.pkl", dope(rng, **{"fc0/bias": POINTERS[payload]}))
    with pytest.raises(InputError, match=r"bad\.pkl: is no pickle of arrays"):
        policies.read_policy(path)


def test_a_pickle_cannot_ask_for_all_memory(tmp_path):
    """An object's number is as large a table, zeroed, as pickle's own reader makes it."""
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"\x80\x02}r" + (2**32 - 1).to_bytes(4, "little") + b".")
    with pytest.raises(InputError, match=r"bad\.pkl: is no pickle .* is number 4294967295 of 9 bytes"):
        policies.read_policy(path)


def test_a_pickle_cannot_break_the_interpreter(tmp_path):
    """Hashed, tuples a million deep overflow the stack."""
    path = tmp_path / "bad.pkl"
    path.write_bytes(b"\x80\x02}()" + b"\x85" * 1_000_000 + b"K\x01u.")
    with pytest.raises(InputError, match=r"bad\.pkl: is no pickle .*holds more than 10,000 tuples"):
        policies.read_policy(path)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2"])
def test_every_protocol_and_every_kind_of_number_is_read(rng, tmp_path, protocol, dtype):
    content = dope(rng)
    wide = {name: x.astype(dtype) if isinstance(x, np.ndarray) else x for name, x in content.items()}
    wide["fc1/weight"] = np.asfortranarray(wide["fc1/weight"])
    wide["last_fc/bias"] = np.array([wide["last_fc/bias"][0], 0.25], dtype)
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(wide, protocol=protocol))
    policy = policies.read_policy(path)
    for i, name in enumerate(("fc0", "fc1", "last_fc")):
        weight, bias = policy.params["layers"][i]
        np.testing.assert_array_equal(weight, np.float32(wide[f"{name}/weight"]).T)
        np.testing.assert_array_equal(bias, np.float32(wide[f"{name}/bias"]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.npz", lambda rng: plain(rng, b1=None), r"a\.npz: is no policy \(has no b1\)"),
        ("a.npz", lambda rng: plain(rng, log_std=np.zeros(3)), r"log_std has shape \(3,\), not \(2,\)"),
        ("a.npz", lambda rng: plain(rng, w1=np.zeros((3, W))), "layer 1 has a weight of .* for 5 inputs"),
        ("a.npz", lambda rng: plain(rng, b0=np.full(W, np.nan)), "a parameter is not finite"),
        ("a.npz", lambda rng: {"x": np.zeros(3)}, r"is no policy, or damaged"),
        ("a.pkl", lambda rng: dope(rng, **{"fc1/bias": None}), r"is no DOPE policy \(has no fc1/bias\)"),
        ("a.pkl", lambda rng: dope(rng, nonlinearity="gelu"), "nonlinearity 'gelu' is neither relu nor tanh"),
        ("a.pkl", lambda rng: dope(rng, output_distribution="beta"), "output_distribution 'beta' is none of"),
        ("a.pkl", lambda rng: dope(rng, **{"last_fc/weight": np.zeros((3, W))}), "layer 2 has a weight"),
        ("a.pkl", lambda rng: [1, 2], "holds a list; must be a dictionary of named arrays"),
        ("a.pkl", lambda rng: {0: (1.0, 2.0)}, "holds a dict; must be a dictionary of named arrays"),
        ("a.pkl", lambda rng: dope(rng, **{"fc0/bias": ["a"] * W}), "is no DOPE policy"),
        ("a.pkl", lambda rng: dope(rng, **{"fc0/bias": np.full(W, np.inf)}), "a parameter is not finite"),
        ("a.npz", lambda rng: plain(rng, obs_std=np.zeros(D)), "obs_std must be above 0"),
        ("a.npz", lambda rng: plain(rng, b0=np.array(["a"] * W)), "is no policy"),
    ],
)
def test_what_is_no_policy_is_told(rng, tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        policies.read_policy(write(tmp_path / name, content(rng)))


@pytest.mark.parametrize("name", ["cut.npz", "cut.pkl"])
def test_damaged_and_missing_files_are_told(rng, tmp_path, name):
    whole = write(tmp_path / name, plain(rng) if name.endswith("npz") else dope(rng))
    whole.write_bytes(whole.read_bytes()[:100])
    with pytest.raises(InputError, match=rf"{name}: .* damaged \("):
        policies.read_policy(whole)
    with pytest.raises(InputError, match=r"nothing\.npz: .*No such file"):
        policies.read_policy(tmp_path / "nothing.npz")


def test_a_set_of_policies(rng, tmp_path):
    for name in ("b.npz", "a.pkl", "c.npz"):
        write(tmp_path / name, plain(rng) if name.endswith("npz") else dope(rng))
    (tmp_path / "notes.txt").write_text("no policy")
    read = policies.read_policies(str(tmp_path), D, WIDE)
    assert [policy.name for policy in read] == ["a.pkl", "b.npz", "c.npz"]
    assert len(policies.read_policies(f"{tmp_path}/*.npz", D, WIDE)) == 2
    several = policies.read_policies(f"{tmp_path}/c.npz,{tmp_path}/[ab].*", D, WIDE)
    assert [policy.name for policy in several] == ["c.npz", "a.pkl", "b.npz"]
    assert policies.group_by_kind(read) == [[0], [1, 2]]
    stacked = policies.stack(read[1:])
    assert {leaf.shape[0] for leaf in jax.tree.leaves(stacked)} == {2}
    with pytest.raises(InputError, match=r"policies: .*\*\.zip: no file; give a folder"):
        policies.read_policies(f"{tmp_path}/*.zip", D, WIDE)
    with pytest.raises(InputError, match=r"a\.pkl is from 4 observations to 2 actions; the dataset has 11"):
        policies.read_policies(str(tmp_path), 11, WIDE)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "same.npz", plain(rng))
    with pytest.raises(InputError, match=r"two files are named same\.npz"):
        policies.read_policies(f"{tmp_path}/*/same.npz", D, WIDE)
    np.save(tmp_path / "x.npy", np.zeros(3))
    with pytest.raises(InputError, match=r"x\.npy: is no policy"):
        policies.read_policies(f"{tmp_path}/*.npy", D, WIDE)


def test_folders_may_have_a_globs_letters_in_their_names(rng, tmp_path, monkeypatch):
    folder = tmp_path / "run[1]"
    (folder / "more").mkdir(parents=True)
    write(folder / "more" / "a.npz", plain(rng))
    monkeypatch.chdir(folder)
    for pattern in ("more", "more/a.npz", "more/*.npz", str(folder / "more"), str(folder / "more" / "a.npz")):
        assert len(policies.read_policies(pattern, D, WIDE)) == 1


def test_own_policies_must_have_the_environments_actions(tmp_path):
    sac = make_sac(D, BOUNDS, SACConfig(policy_hidden_dim=W))
    params = sac.init(KEY, make_hyper(SACConfig(), 0.0)).actor_params
    policy_file.save_policy(tmp_path / "own.npz", params, BOUNDS, {})
    assert len(policies.read_policies(str(tmp_path), D, BOUNDS)) == 1
    with pytest.raises(
        InputError, match=r"own\.npz has actions within \+-0\.4; the environment's are within \+-1"
    ):
        policies.read_policies(str(tmp_path), D, WIDE)
    broken = jax.tree.map(lambda x: np.full(x.shape, np.nan, np.float32), params)
    policy_file.save_policy(tmp_path / "own.npz", broken, BOUNDS, {})
    with pytest.raises(
        InputError, match=r"own\.npz: is no policy, or damaged \(kernel_0: a parameter is not finite"
    ):
        policies.read_policies(str(tmp_path), D, BOUNDS)
    policy_file.save_policy(tmp_path / "own.npz", params, BOUNDS, {})
    arrays = dict(np.load(tmp_path / "own.npz"))
    for name, shape in (("kernel_1", (W, 2 * W)), ("kernel_1", (2 * W, W)), ("bias_2", (3,))):
        np.savez(tmp_path / "own.npz", **{**arrays, name: np.zeros(shape, np.float32)})
        with pytest.raises(InputError, match=rf"own\.npz: is no policy, or damaged \({name} has shape"):
            policies.read_policies(str(tmp_path), D, BOUNDS)


@pytest.mark.skipif(not SHARED.exists(), reason="the shared policies are absent")
@pytest.mark.parametrize(
    ("name", "obs_dim", "action_dim"),
    [("hopper_online_5.pkl", 11, 3), ("hopper_trpo_200.npz", 11, 3), ("walker_online_5.pkl", 17, 6)],
)
def test_published_policies_are_read(name, obs_dim, action_dim):
    (policy,) = policies.read_policies(str(SHARED / name), obs_dim, ActionBounds.symmetric(1.0, action_dim))
    bounds = np.ones(action_dim, np.float32)
    fn = policies.action_fn(policy.kind, -bounds, bounds, deterministic=True)
    action = fn(policy.params, jnp.zeros((1, obs_dim)), KEY)
    assert np.isfinite(action).all()
    assert (np.abs(action) <= 1).all()
