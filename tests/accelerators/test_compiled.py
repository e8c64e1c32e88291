"""What a run compiles, compiled for an H100 (by hand for a TPU, too), without one: kernels, bytes and memory.

A change that makes the programs worse on an accelerator is seen here, where there is none. The compilers are
in wheels of their own, beside the environment: in it they would look for a card in every process
(`.ci/run` has the commands).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from benchmarks.accelerators import targets
from benchmarks.accelerators.targets import TARGETS

ROOT = Path(__file__).parents[2]
MEASURED_WITH = "0.10.2"  # jax, whose XLA the figures below are of
SLACK = 1.05  # of each figure; below its MUCH_BETTER it is to be put right
MUCH_BETTER = 0.8

COLUMNS = ("kernels", "megabytes", "arguments_mib", "temporaries_mib")
# (program, seeds) -> of a step of its loop, and of the program, at the published sizes on an H100
FIGURES: dict[tuple[str, int], tuple[float, float, float, float]] = {
    ("update", 1): (86, 76, 134, 9),
    ("update", 16): (72, 625, 2056, 90),
    ("rollout", 16): (56, 3194, 2058, 948),
    ("fit", 16): (140, 1122, 197, 818),
    ("full_horizon_update", 16): (74, 1962, 16131, 195),
    ("full_horizon_rollout", 16): (71, 3589, 16778, 1861),
}
SLOWER = {  # more than the two minutes that the check may take
    ("rollout", 1): (55, 3142, 132, 432),
    ("fit", 1): (203, 154, 19, 45),
    ("full_horizon_update", 1): (89, 157, 1014, 19),
    ("full_horizon_rollout", 1): (71, 1545, 1051, 246),
}

found: dict[tuple[str, str, int], dict[str, Any]] = {}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as one calls it by hand: a compiler of a plugin stays out of the tests' process."""
    quick = (
        "--xla_backend_optimization_level=0"  # LLVM's, after all that is counted here: a fifth of the time
    )
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.accelerators.compile_for", *arguments],
        cwd=ROOT,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": quick},
        capture_output=True,
        text=True,
        check=False,
    )


def compiled(target: str, program: str, seeds: int, known: Any) -> dict[str, Any]:
    """The figures of a program; those of one number of seeds are compiled by one process."""
    if (target, program, seeds) not in found:
        names = [name for name, number in known if number == seeds]
        done = command(target, f"--programs={','.join(names)}", f"--seeds={seeds}")
        assert done.returncode == 0, done.stderr[-2000:]
        for line in done.stdout.splitlines():
            row = json.loads(line)
            found[target, row["program"], row["seeds"]] = row
    return found[target, program, seeds]


def require(target: str) -> None:
    if reason := targets.missing(target):
        pytest.skip(reason)


def require_within(row: dict[str, Any], figures: tuple[float, ...]) -> None:
    if jax.__version__ != MEASURED_WITH:
        pytest.skip(f"compiled; its figures are those of jax {MEASURED_WITH}, and this is {jax.__version__}")
    expected = dict(zip(COLUMNS, figures, strict=True))
    worse = {name: row[name] for name in COLUMNS if row[name] > SLACK * expected[name]}
    assert not worse, f"more than {expected}"
    better = {name: row[name] for name in COLUMNS if row[name] < MUCH_BETTER * expected[name]}
    assert not better, f"much less than {expected}: put the table right"


@pytest.mark.parametrize(("program", "seeds"), FIGURES)
def test_programs_cost_an_h100_no_more_than_they_did(program: str, seeds: int):
    require("h100")
    require_within(compiled("h100", program, seeds, FIGURES), FIGURES[program, seeds])


@pytest.mark.slow
@pytest.mark.parametrize(("program", "seeds"), SLOWER)
def test_further_programs_cost_an_h100_no_more_than_they_did(program: str, seeds: int):
    require("h100")
    require_within(compiled("h100", program, seeds, SLOWER), SLOWER[program, seeds])


@pytest.mark.slow
@pytest.mark.parametrize("program", ["update", "rollout", "fit"])
def test_programs_compile_for_a_tpu_and_fit_into_its_memory(program: str):
    require("v5e")
    known = [(name, 1) for name in ("update", "rollout", "fit")]
    row = compiled("v5e", program, 1, known)
    assert row["arguments_mib"] > 0
    assert row["arguments_mib"] + row["temporaries_mib"] < 15.75 * 1024


_PRODUCT = """
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from adm_jax.nn.precision import matmul, matmul_precision
from benchmarks.accelerators import targets

device = targets.device("h100")
x = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=SingleDeviceSharding(device))
with matmul_precision("PRECISION", device.platform):
    jax.jit(lambda x: matmul(x, x)).lower(x).compile()
"""


@pytest.mark.parametrize(
    ("precision", "on_tensor_cores"), [("default", True), ("tensorfloat32", True), ("float32", False)]
)
def test_products_of_tensorfloat32_are_those_of_tensor_cores(precision, on_tensor_cores, tmp_path: Path):
    """In the assembler of the compiled kernel."""
    require("h100")
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_dump_to={tmp_path}"}
    code = [sys.executable, "-W", "ignore", "-c", _PRODUCT.replace("PRECISION", precision)]
    done = subprocess.run(
        code, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assembler = "".join(path.read_text() for path in tmp_path.glob("*.ptx"))
    assert (".tf32" in assembler) == on_tensor_cores
    assert ("fma.rn.f32" in assembler) == (not on_tensor_cores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a100"], "target: 'a100' is none of h100, v5e"),
        ([], "target: give one of h100, v5e"),
        (["h100", "--programs=learn"], "programs: 'learn' is none of update, rollout"),
        (["h100", "--seeds=0"], "seeds: '0' is no number of seeds; give a list as 1,16"),
        (["h100", "--precision=half"], "value should be one of <default|float32|tensorfloat32|bfloat16>"),
    ],
)
def test_what_cannot_be_compiled_is_one_line(arguments: list[str], message: str):
    done = command(*arguments)
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert message in line
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("target", TARGETS)
def test_a_compiler_that_is_not_installed_is_one_line(target: str):
    if targets.missing(target) is None:
        pytest.skip(f"the compiler for {target} is installed")
    done = command(target)
    assert done.returncode == 2
    (line,) = [text for text in done.stderr.splitlines() if text.startswith("error:")]
    assert line.startswith(f"error: target: {target} needs ")
    assert "pip install" in line
