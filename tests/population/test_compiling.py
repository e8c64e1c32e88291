"""What a run's programs are compiled with."""

import jax
import jax.numpy as jnp
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.population import compiling
from adm_jax.population.compiling import MemberProgram


def compile_sum() -> jax.Array:
    program = MemberProgram(lambda x: x.sum(), "vmap")
    return program.compile(jnp.ones((2, 3)))(jnp.ones((2, 3)))


def test_deterministic_programs_get_xlas_option(monkeypatch: pytest.MonkeyPatch):
    deterministic = OfflineConfig(deterministic_ops=True)
    with compiling.compiling(deterministic):
        assert compile_sum().tolist() == [3.0, 3.0]
    monkeypatch.setattr(compiling, "_DETERMINISTIC_OPS", {"xla_gpu_no_such_option": True})
    with compiling.compiling(OfflineConfig()):
        compile_sum()
    with (
        compiling.compiling(deterministic),
        pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"),
    ):
        compile_sum()
    compile_sum()  # outside of it
