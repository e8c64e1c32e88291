from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from adm_jax.population import memory
from adm_jax.types import InputError

GIB = 2**30


def test_temporaries_are_what_a_program_takes_beside_its_arguments():
    def program(x):
        y = jnp.sin(x)[:, None] * jnp.cos(x)[None, :]
        return x + jnp.sort(y, axis=0)[0]  # a sort needs the whole of y

    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    compiled = jax.jit(program, donate_argnums=0).lower(x).compile()
    matrix = 1000 * 1000 * 4
    assert matrix <= memory.temporary_bytes(compiled) <= 4 * matrix


def test_a_backend_that_tells_nothing_counts_as_nothing():
    assert memory.temporary_bytes(SimpleNamespace(memory_analysis=lambda: None)) == 0


def test_tree_bytes_of_abstract_arrays_and_keys():
    tree = {"x": jax.ShapeDtypeStruct((3, 5), jnp.float32), "k": jax.random.split(jax.random.key(0), 3)}
    assert memory.tree_bytes(tree) == 3 * 5 * 4 + 3 * 2 * 4
    assert memory.tree_bytes(jax.eval_shape(lambda: jax.random.key(0))) == 8
    assert memory.tree_bytes(jnp.zeros((4, 0))) == 0
    huge = SimpleNamespace(shape=(2**31, 2**31, 2**31), dtype=jnp.dtype("float32"))
    assert memory._leaf_bytes(huge) == 4 * 2**93


def test_estimate_counts_the_hungriest_moment_and_says_so():
    compiled = jax.jit(lambda x: x + 1.0).lower(jax.ShapeDtypeStruct((250,), jnp.float32)).compile()
    need = memory.estimate({"fit": compiled}, state=jnp.zeros(100), resident=jnp.zeros(10))
    assert (need.state, need.data, need.checkpoint) == (400, 40, 400)
    assert need.temporaries["fit"] >= 1000
    assert need.total == 400 + 40 + 400 + need.temporaries["fit"]  # written while programs run
    beside = memory.estimate({"fit": compiled}, state=jnp.zeros(100), recorded=jnp.zeros(50))
    assert (beside.state, beside.checkpoint) == (600, 400)
    need = memory.MemoryEstimate(2 * GIB, GIB, 2 * GIB, {"fit": GIB, "rollout": 14 * GIB})
    assert need.total == 19 * GIB
    assert need.to_allocate == 18 * GIB
    assert "about 19.00 GiB" in need.line()
    assert "rollout 14.00" in need.line()


def test_results_that_are_kept_count_once():
    compiled = jax.jit(lambda x: x + 1.0).lower(jax.ShapeDtypeStruct((2**18,), jnp.float32)).compile()
    histories = jax.ShapeDtypeStruct((2**18,), jnp.float32)
    need = memory.estimate({"encode": compiled}, state=(), histories=histories, kept=("encode",))
    assert (need.histories, need.total) == (2**20, 2**20 + need.temporaries["encode"])
    assert need.temporaries["encode"] < 2**20
    twice = memory.estimate({"encode": compiled}, state=(), histories=histories)
    assert twice.total >= 2 * 2**20


@pytest.mark.parametrize(
    ("platform", "num_devices", "needed"),
    # the data are on the first device: what the others need, and on a CPU in one memory
    [("gpu", 1, 3), ("gpu", 4, 5), ("cpu", 1, 3), ("cpu", 4, 18)],
)
def test_devices_of_a_cpu_share_its_memory(monkeypatch, platform, num_devices, needed):
    need = memory.MemoryEstimate(GIB, 2 * GIB, 0, {"rollout": 2 * GIB})
    device = SimpleNamespace(platform=platform)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed * GIB)
    memory.require(need, None, device, num_devices)
    monkeypatch.setattr(memory, "free_bytes", lambda device: needed * GIB - 1)
    with pytest.raises(InputError, match=f"about {needed}.00 GiB more are needed"):
        memory.require(need, None, device, num_devices)
    total = 5 * num_devices if platform == "cpu" else 5
    memory.require(need, total, device, num_devices)
    with pytest.raises(InputError, match=f"about {total}.00 GiB are needed"):
        memory.require(need, total - 0.5, device, num_devices)


@pytest.mark.parametrize(
    ("temporaries", "state", "what"),
    [
        ({"rollout": 9 * GIB}, GIB, "rollout_chunk"),
        ({"rollout": GIB}, 9 * GIB, "retain_epochs"),
        ({"fit": 9 * GIB}, GIB, "fit_batch_size"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_to_lower(monkeypatch, temporaries, state, what):
    need = memory.MemoryEstimate(state, 0, 0, temporaries)
    memory.require(need, limit_gib=10.5)
    with pytest.raises(InputError, match=f"10.00 GiB are needed and memory_limit_gib is 4; lower {what}"):
        memory.require(need, limit_gib=4)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 3 * GIB)
    with pytest.raises(InputError, match=f"3.00 GiB are free; lower {what}"):
        memory.require(need)
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    memory.require(need)


def test_free_memory_of_this_machine():
    free = memory.free_bytes()
    assert free is not None
    assert free > 0


def test_free_memory_of_an_accelerator():
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 100, "bytes_in_use": 30})
    assert memory.free_bytes(device) == 70
    assert memory.free_bytes(SimpleNamespace(platform="gpu", memory_stats=lambda: None)) is None


@pytest.mark.parametrize(
    ("platform", "stats", "gib"),
    [
        ("gpu", {"bytes_limit": 60 * GIB, "bytes_in_use": GIB}, 60.0),
        ("gpu", None, None),
        ("tpu", {}, None),
        ("cpu", {"bytes_limit": 60 * GIB}, None),
    ],
)
def test_memory_of_an_accelerator(monkeypatch, platform, stats, gib):
    device = SimpleNamespace(platform=platform, memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory.accelerator_gib() == gib


def test_limits_of_control_groups_hold_at_every_level(tmp_path):
    group = tmp_path / "job" / "step"
    group.mkdir(parents=True)
    for folder, used, limit in ((group, 40, "max"), (group.parent, 60, "100")):
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.stat").write_text("anon 5\ninactive_file 7\n")
    assert memory.cgroup_free_bytes(tmp_path, "/job/step") == [47]
    old = tmp_path / "memory"
    old.mkdir()
    (old / "memory.usage_in_bytes").write_text("10")
    (old / "memory.limit_in_bytes").write_text("30")
    assert memory.cgroup_free_bytes(tmp_path, "") == [20]
