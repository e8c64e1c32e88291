"""What a run's programs are compiled with."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.population import compiling
from adm_jax.population.compiling import MemberProgram
from adm_jax.population.memory import DoesNotFit


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


# as libtpu 0.0.52 refuses a program, and as earlier ones did
TPU_MESSAGES = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for "
    "HLO temporaries (25.23G) exceeds available HBM (15.75G). HLO module: jit__unnamed_function.\n"
    "See https://openxla.org/xla/errors/error_1000 for more details.",
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 31.02G "
    "of 15.75G hbm. Exceeded hbm capacity by 15.27G.\n\nTotal hbm usage >= 31.28G:\n    reserved     258.00M",
)


def rollout_program(components: None, x: jax.Array) -> jax.Array:
    return x + 1.0


@pytest.mark.parametrize("message", TPU_MESSAGES)
def test_a_program_that_the_compiler_refuses_does_not_fit_into_memory(
    message: str, monkeypatch: pytest.MonkeyPatch
):
    def refuse(lowered: jax.stages.Lowered, options: Any = None) -> jax.stages.Compiled:
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", refuse)
    with pytest.raises(DoesNotFit) as caught:
        MemberProgram(functools.partial(rollout_program, None), "vmap").compile(jnp.ones((2, 3)))
    line = str(caught.value)
    assert line.startswith("memory: the compiler refuses rollout: ")
    assert line.endswith("; lower rollout_chunk or the number of seeds")
    assert "15.75G" in line
    assert "\n" not in line
    with pytest.raises(DoesNotFit, match=r"the compiler refuses <lambda>: .*; lower the number of seeds$"):
        compile_sum()


@pytest.mark.parametrize(
    "message",
    [
        "INTERNAL: no layout",
        "RESOURCE_EXHAUSTED: Shared memory size limit exceeded: requested 139264, available: 101376",
    ],
)
def test_other_errors_of_a_compiler_are_what_they_are(message: str, monkeypatch: pytest.MonkeyPatch):
    """Also that a kernel takes more of a processor's own memory than it has: fewer members would not help."""

    def fail(lowered: jax.stages.Lowered, options: Any = None) -> jax.stages.Compiled:
        raise jax.errors.JaxRuntimeError(message)

    monkeypatch.setattr(jax.stages.Lowered, "compile", fail)
    with pytest.raises(jax.errors.JaxRuntimeError, match=f"^{message}$"):
        compile_sum()
