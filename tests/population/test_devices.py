"""What JAX may be set to, in this process as a user's code would; variables are in tests/cli."""

from types import SimpleNamespace

import jax
import pytest

from adm_jax.population.devices import cores_to_spare, require_jax
from adm_jax.types import InputError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("jax_enable_x64", True, "JAX_ENABLE_X64: is set, and adm_jax computes in float32; unset it"),
        ("jax_disable_jit", True, "JAX_DISABLE_JIT: is set, and adm_jax compiles its programs; unset it"),
        ("jax_default_prng_impl", "rbg", "JAX_DEFAULT_PRNG_IMPL: is rbg, and a seed stands for the"),
        ("jax_threefry_partitionable", False, "JAX_THREEFRY_PARTITIONABLE: is False, and a seed stands"),
        ("jax_random_seed_offset", 3, "JAX_RANDOM_SEED_OFFSET: is 3, and a seed stands for"),
        ("jax_numpy_dtype_promotion", "strict", "JAX_NUMPY_DTYPE_PROMOTION: is strict, and libraries"),
        ("jax_debug_infs", True, "JAX_DEBUG_INFS: is set, and infinity is a number"),
        ("jax_transfer_guard", "disallow", "JAX_TRANSFER_GUARD: is disallow, and data go to"),
        (
            "jax_transfer_guard_host_to_device",
            "disallow_explicit",
            "JAX_TRANSFER_GUARD_HOST_TO_DEVICE: is",
        ),
    ],
)
def test_what_makes_programs_fail_or_results_others_is_refused(name, value, message):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        with pytest.raises(InputError) as caught:
            require_jax()
    finally:
        jax.config.update(name, before)
    assert str(caught.value).startswith(message)
    require_jax()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jax_debug_nans", True),
        ("jax_numpy_rank_promotion", "raise"),
        ("jax_default_matmul_precision", "bfloat16"),  # a run sets its own
        ("jax_transfer_guard", "log"),
    ],
)
def test_what_changes_no_number_is_allowed(name, value):
    before = getattr(jax.config, name)
    jax.config.update(name, value)
    try:
        require_jax()
    finally:
        jax.config.update(name, before)


@pytest.mark.parametrize(("platform", "cores"), [("cpu", 0), ("gpu", 1), ("tpu", 1)])
def test_a_core_launches_the_work_of_an_accelerator(monkeypatch, platform, cores):
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(platform=platform)])
    assert cores_to_spare() == cores
