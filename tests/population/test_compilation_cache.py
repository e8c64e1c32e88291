"""Programs are read back by a second process, and give the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from adm_jax.population import compilation_cache
from adm_jax.types import InputError

_COMPILES = """
import json, logging, sys
import jax, jax.numpy as jnp
from adm_jax.population import compilation_cache
compilation_cache._MIN_SECONDS = 0.0
folder = compilation_cache.enable(json.loads(sys.argv[1]))
hits = []
jax.monitoring.register_event_listener(
    lambda event, **_: hits.append(event) if event.endswith("cache_hits") else None
)
step = lambda x, _: (jnp.tanh(x @ x), x.sum())
run = jax.jit(lambda x: jax.lax.scan(step, x, length=5), donate_argnums=0)
compiled = run.lower(jax.ShapeDtypeStruct((32, 32), jnp.float32)).compile()
out = compiled(jnp.full((32, 32), 0.1))[1]
print(json.dumps([str(folder), len(hits), compiled.memory_analysis().temp_size_in_bytes, out.tolist()]))
"""


def compile_in_a_process(folder: str | None, home: Path) -> list:
    environment = {**os.environ, "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(Path(__file__).parents[2])}
    environment.pop("JAX_COMPILATION_CACHE_DIR")
    command = [sys.executable, "-W", "ignore", "-c", _COMPILES, json.dumps(folder)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(output.stdout)


def test_the_second_process_compiles_nothing(tmp_path: Path) -> None:
    first, second = (compile_in_a_process(None, tmp_path) for _ in range(2))
    assert Path(first[0]).parent == tmp_path / "adm_jax"
    assert first[1] == 0
    assert second[1] >= 1
    assert first[2:] == second[2:]  # the memory that is needed is known of it, too
    assert any(Path(second[0]).iterdir())


def test_a_folder_of_one_s_own_or_none(tmp_path: Path) -> None:
    assert Path(compile_in_a_process(str(tmp_path / "own"), tmp_path)[0]).parent == tmp_path / "own"
    assert compile_in_a_process("off", tmp_path / "home")[0] == "None"
    assert not (tmp_path / "home").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was given is told; the default one is done without."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match=r"compilation_cache: cannot write .*file.* or off") as error:
        compilation_cache.enable(str(tmp_path / "file"))
    assert "\n" not in str(error.value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    assert compilation_cache.enable() is None


def test_jax_s_own_setting_is_left_alone() -> None:
    assert compilation_cache.enable() is None  # the suite has set it
