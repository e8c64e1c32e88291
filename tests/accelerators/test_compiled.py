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
    ("update", 1): (78, 76, 134, 11),
    ("update", 16): (65, 626, 2056, 113),
    ("rollout", 16): (37, 994, 2058, 601),
    ("fit", 16): (140, 1122, 197, 818),
    ("full_horizon_update", 16): (65, 1962, 16155, 256),
    ("full_horizon_rollout", 16): (49, 1543, 16778, 1641),
}
SLOWER = {  # more than the two minutes that the check may take
    ("rollout", 1): (38, 943, 132, 204),
    ("fit", 1): (203, 154, 19, 45),
    ("full_horizon_update", 1): (79, 157, 1014, 23),
    ("full_horizon_rollout", 1): (49, 645, 1051, 112),
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


_GATHERED = """
import json
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from adm_jax.dynamics.histories import RowLayout, from_flat, row_multiple
from adm_jax.population.compiling import MemberProgram
from benchmarks.accelerators import targets
from benchmarks.accelerators.compile_for import memory_of

NUM_MEMBERS, NUM_ROWS, CHUNK, LAYOUT = 16, 60_000, 625, RowLayout(1, (4, 200))
multiple = row_multiple("tpu") if FILLED else 1

def roll(weights, key, histories):
    def chunk(index, total):
        rows = jax.random.randint(jax.random.fold_in(key, index), (CHUNK,), 0, NUM_ROWS)
        hidden = from_flat(histories.at(rows), LAYOUT)
        return total + jax.lax.fori_loop(0, 5, lambda _, x: jnp.tanh(x @ weights), hidden).sum()
    return jax.lax.fori_loop(0, 80, chunk, jnp.zeros(()))

place = SingleDeviceSharding(targets.device("v5e"))
width = LAYOUT.size + -LAYOUT.size % multiple
shapes = [((NUM_MEMBERS, 200, 200), jnp.float32), ((NUM_MEMBERS,), jax.random.key(0).dtype)]
shapes.append(((NUM_MEMBERS, NUM_ROWS, width), jnp.float32))
given = [jax.ShapeDtypeStruct(shape, kind, sharding=place) for shape, kind in shapes]
program = MemberProgram(roll, "vmap", whole=("histories",))
print(json.dumps(memory_of(program.compile(*given).compiled)))
"""


@pytest.mark.slow
@pytest.mark.parametrize(("filled", "copies"), [(True, 0.0), (False, 1.0)])
def test_a_tpu_copies_kept_histories_only_where_rows_are_no_whole_tiles(filled: bool, copies: float):
    """Of rows of another length it takes all of them first, in the layout that it gathers from."""
    require("v5e")
    code = [sys.executable, "-W", "ignore", "-c", _GATHERED.replace("FILLED", str(filled))]
    own = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(code, cwd=ROOT, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    row = json.loads(done.stdout.splitlines()[-1])
    histories = 16 * 60_000 * 896 * 4 / 2**20
    assert row["temporaries_mib"] / histories == pytest.approx(copies, abs=0.01)


_PRODUCT = """
import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding
from adm_jax.nn import fused
from adm_jax.nn.precision import matmul, matmul_precision
from benchmarks.accelerators import targets

device = targets.device("h100")
x = jax.ShapeDtypeStruct((512, 512), jnp.float32, sharding=SingleDeviceSharding(device))
with matmul_precision("PRECISION", device.platform):
    jax.jit(lambda x: EXPRESSION).lower(x).compile()
"""


def assembler(expression: str, precision: str, folder: Path) -> str:
    """What an expression of a matrix x is compiled to for an H100."""
    require("h100")
    own = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_dump_to={folder}"}
    code = _PRODUCT.replace("PRECISION", precision).replace("EXPRESSION", expression)
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return "".join(path.read_text() for path in folder.glob("*.ptx"))


@pytest.mark.parametrize(
    ("precision", "on_tensor_cores"), [("default", True), ("tensorfloat32", True), ("float32", False)]
)
def test_products_of_tensorfloat32_are_those_of_tensor_cores(precision, on_tensor_cores, tmp_path: Path):
    text = assembler("matmul(x, x)", precision, tmp_path)
    assert (".tf32" in text) == on_tensor_cores
    assert ("fma.rn.f32" in text) == (not on_tensor_cores)


@pytest.mark.parametrize(
    "kernel",
    [
        "fused.gru_layer(x[None], x[None], *[jnp.tile(x, (1, 3))] * 2, *[jnp.tile(x[0], 3)] * 2)",
        "fused.residual_block(x, x, x[0], x[0], x[0], 1e-5)",  # as wide as they serve
    ],
)
@pytest.mark.parametrize(("precision", "type_of_inputs"), [("default", ".tf32"), ("bfloat16", ".bf16.bf16")])
def test_kernels_of_roll_outs_multiply_on_tensor_cores(kernel, precision, type_of_inputs, tmp_path: Path):
    text = assembler(kernel, precision, tmp_path)
    products = [line for line in text.splitlines() if "mma" in line and ".sync." in line]
    assert products
    assert all(type_of_inputs in line for line in products if "m16n8" in line or "m64n" in line)


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
    done = command(*arguments)  # a process of its own: what a plugin says when it is loaded is no answer
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
