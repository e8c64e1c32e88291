"""The floors of the package: imports point downwards only, and each library has its one place.

Files of the package and of its tests are short, and test files stand alone.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = (
    "types",
    "files",
    "statistics",
    "config",
    "tasks",
    "nn",
    "data",
    "envs",
    "dynamics",
    "returns",
    "agents",
    "rollout",
    "model_envs",
    "model_episodes",
    "population",
    "runs",
    "training",
    "evaluation",
    "api",
    "cli",
)
ONLY_IN = {  # library -> where it may be imported
    "flax": ("nn",),
    "distrax": ("nn",),
    "gymnasium": ("envs", "data/formats/minari_write.py"),  # Minari stores Gymnasium's spaces
    "mujoco": ("envs",),
    "minari": ("data/formats",),
    "h5py": ("data/formats",),
    "orbax": ("runs",),
    "matplotlib": ("runs", "evaluation"),
    "rich": ("runs",),
    "tensorboardX": ("runs",),
    "psutil": ("population",),
    "platformdirs": ("population",),
    "absl": ("cli",),
    "experiments": (),
    "benchmarks": (),
    "tests": (),
}
NUMERIC_CORE = (
    "types",
    "nn",
    "data.dataset",
    "data.lanes",
    "data.ring_buffer",
    "dynamics",
    "agents",
    "returns",
    "rollout",
    "model_envs",
    "model_episodes",
)
BEYOND_THE_CORE = (  # not rich: flax imports it
    "gymnasium",
    "mujoco",
    "minari",
    "orbax",
    "h5py",
    "matplotlib",
    "psutil",
    "tensorboardX",
    "torch",
    "huggingface_hub",
    "experiments",
)

MOST_LINES = 400


def imports(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules() -> list[Path]:
    return sorted((ROOT / "adm_jax").rglob("*.py"))


def test_imports_point_downwards():
    wrong = []
    for path in modules():
        parts = path.relative_to(ROOT / "adm_jax").with_suffix("").parts
        if parts == ("__init__",):
            continue
        own = FLOORS.index(parts[0])
        for name in imports(path):
            first, *rest = name.split(".")
            if first == "adm_jax" and rest and rest[0] in FLOORS and FLOORS.index(rest[0]) > own:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_every_module_has_its_floor():
    inside = [path for path in (ROOT / "adm_jax").iterdir() if path.name != "py.typed"]
    names = {path.stem if path.is_file() else path.name for path in inside}
    assert names - {"__init__", "__pycache__"} <= set(FLOORS)


@pytest.mark.parametrize("library", ONLY_IN)
def test_each_library_has_its_place(library):
    wrong = []
    for path in modules():
        inside = path.relative_to(ROOT / "adm_jax").as_posix()
        allowed = any(inside == place or inside.startswith(f"{place}/") for place in ONLY_IN[library])
        if not allowed and any(name.split(".")[0] == library for name in imports(path)):
            wrong.append(inside)
    assert not wrong


def test_the_numeric_core_imports_with_jax_flax_optax_chex_and_distrax_alone():
    """With an import hook in place, so that it also holds for what is imported indirectly."""
    core = [module for name in NUMERIC_CORE for module in core_modules(name)]
    assert len(core) > 10
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BEYOND_THE_CORE!r}:
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocker())
import importlib
for name in {core!r}:
    importlib.import_module(name)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def core_modules(name: str) -> list[str]:
    path = ROOT / "adm_jax" / name.replace(".", "/")
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    return [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files
    ]


def test_files_are_short():
    long = []
    for path in [*modules(), *modules_of_tests()]:
        number = len(path.read_text().splitlines())
        if number > MOST_LINES:
            long.append(f"{path.relative_to(ROOT)} has {number} lines, at most {MOST_LINES}")
    assert not long


def test_test_files_do_not_import_each_other():
    """What they share lies in helper modules and conftest.py."""
    wrong = []
    for path in modules_of_tests():
        for name in imports(path):
            first, *rest = name.split(".")
            if first == "tests" and any(part.startswith("test_") for part in rest):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def modules_of_tests() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


def test_no_file_mentions_the_machine_it_was_written_on():
    found = []
    for path in tracked_files():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        if re.search(r"(?<![\w.])/(work|root|home)/|\.\./shared", text):
            found.append(str(path.relative_to(ROOT)))
    assert not found


def tracked_files() -> list[Path]:
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("not a checkout")
    files = [ROOT / line for line in done.stdout.splitlines() if not line.startswith("tests/")]
    return [path for path in files if path.exists()]
