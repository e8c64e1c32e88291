"""The tests' own MemberProgram.compile: the same program is compiled once, and no other is taken for it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.config import OfflineConfig
from adm_jax.config.settings import replace_flat
from adm_jax.population.compiling import MemberProgram, compiling
from tests import compiled_once


@pytest.fixture(autouse=True)
def _nothing_before() -> Iterator[None]:
    compiled_once.forget()
    yield
    compiled_once.forget()


def scaled(factor: Any) -> Callable[..., jax.Array]:
    """A function that has closed over what it multiplies with."""

    def scale(config: OfflineConfig, x: jax.Array) -> jax.Array:
        return factor * x * config.updates_per_epoch

    return scale


def compiled(factor: Any = 3.0, length: int = 2, mapping: str = "vmap", **settings: Any) -> Any:
    config = replace_flat(OfflineConfig(), {"updates_per_epoch": 1, **settings})
    program = MemberProgram(partial(scaled(factor), config), mapping)
    return compiled_once.compile_once(program, jnp.ones((2, length)))


def test_the_same_is_compiled_once() -> None:
    first = compiled()
    assert first(jnp.ones((2, 2))).tolist() == [[3.0, 3.0]] * 2
    assert compiled() is first
    assert compiled(workdir="elsewhere", seeds=(4, 5), num_epochs=7) is first
    assert compiled(np.full(2, 3.0, np.float32)) is compiled(np.full(2, 3.0, np.float32))


@pytest.mark.parametrize(
    "change",
    [
        {"factor": 4.0},
        {"factor": np.full(2, 3.0, np.float32)},
        {"length": 3},
        {"mapping": "map"},
        {"updates_per_epoch": 2},
        {"matmul_precision": "bfloat16"},
    ],
    ids=lambda change: "-".join(change),
)
def test_what_differs_is_compiled_for_itself(change: dict[str, Any]) -> None:
    first = compiled()
    assert compiled(**change) is not first
    factor = np.max(change.get("factor", 3.0)) * change.get("updates_per_epoch", 1)
    x = jnp.ones((2, change.get("length", 2)))
    np.testing.assert_array_equal(compiled(**change)(x), factor * x)


def test_so_is_what_is_compiled_under_other_settings() -> None:
    first = compiled()
    with compiling(OfflineConfig(matmul_precision="bfloat16")):
        assert compiled() is not first
    with compiling(OfflineConfig(deterministic_ops=True)):
        assert compiled() is not first
    with jax.debug_nans(True):
        assert compiled() is not first
    assert compiled() is first


def test_functions_of_one_text_and_other_globals_are_others() -> None:
    def of_module(scale: float) -> Callable[..., jax.Array]:
        names: dict[str, Any] = {"SCALE": scale}
        exec("def fn(config, x): return x * SCALE", names)
        return names["fn"]

    def result(scale: float) -> list[float]:
        program = MemberProgram(partial(of_module(scale), OfflineConfig()), "vmap")
        return compiled_once.compile_once(program, jnp.ones(2))(jnp.ones(2)).tolist()

    assert result(2.0) == [2.0, 2.0]
    assert result(5.0) == [5.0, 5.0]


def test_a_program_may_not_depend_on_a_setting_of_the_run() -> None:
    for read in (lambda config: bool(config.workdir), lambda config: config.num_epochs * 2):
        program = MemberProgram(
            partial(lambda config, x, read: x * read(config), OfflineConfig(), read=read), "map"
        )
        with pytest.raises(TypeError):
            compiled_once.compile_once(program, jnp.ones(2))
