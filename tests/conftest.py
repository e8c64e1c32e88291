"""Settings every test runs under; they must be in place before JAX and MuJoCo are imported."""

import os
import tempfile

from tests.tiny import QUICK_FLAGS, TINY, bitwise_options

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # its threads fight XLA's on few cores
# dtype promotion stays standard: optax raises a Python float to an int32 count, which strict forbids
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["MPLBACKEND"] = "agg"
# No test may see or change the user's datasets and caches, nor ask a remote for one.
_HOME = tempfile.mkdtemp(prefix="adm_jax-tests-")
os.environ["MINARI_DATASETS_PATH"] = os.path.join(_HOME, "minari")
os.environ["XDG_CACHE_HOME"] = os.path.join(_HOME, "cache")
os.environ["HF_HUB_OFFLINE"] = "1"
# Most of the suite's time is compilation of loops that run for milliseconds here. XLA_FLAGS="" in front of
# pytest: all is compiled as users have it.
os.environ.setdefault("XLA_FLAGS", QUICK_FLAGS)
# A program that was compiled once is read back, however small: by later tests, by subprocesses and by
# pytest-xdist's workers, which inherit the folder's name from the process that starts them. One that a worker
# reads while the other still writes it is damaged, and is compiled again (setup.cfg: no error).
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(_HOME, "jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import gc  # noqa: E402
import shutil  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

# Tracing makes objects by the million, nearly all of which stay or go without it: looking through them for
# cycles at every 700 took a tenth of the time.
gc.set_threshold(50_000, 20, 20)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from adm_jax.population.compiling import MemberProgram  # noqa: E402
from tests import compiled_once  # noqa: E402

if TYPE_CHECKING:
    from adm_jax.config import OfflineConfig


def pytest_unconfigure() -> None:
    """Called at the end, by the process that starts workers as well as by each of them."""
    shutil.rmtree(_HOME, ignore_errors=True)


_OF_COMPILING = {"accelerators", "benchmarks", "population"}  # folders of tests of compiling itself
_plain_compile = jax.stages.Lowered.compile


def _bitwise_compile(
    lowered: jax.stages.Lowered, options: dict | None = None, **others
) -> jax.stages.Compiled:
    return _plain_compile(lowered, {**(bitwise_options() or {}), **(options or {})}, **others)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Chooses the compiler, before fixtures, which compile too; see QUICK_FLAGS."""
    bitwise = item.get_closest_marker("bitwise") is not None
    jax.stages.Lowered.compile = _bitwise_compile if bitwise else _plain_compile  # type: ignore[method-assign]
    once = _OF_COMPILING.isdisjoint(item.path.parts)
    compile_fn = compiled_once.compile_once if once else compiled_once.plain_compile
    MemberProgram.compile = compile_fn  # type: ignore[method-assign]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take minutes come first: at the end one worker would be left alone with them."""
    items.sort(key=lambda item: {"training", "population", "runs"}.isdisjoint(item.path.parts))


@pytest.fixture(autouse=True, scope="module")
def _own_registrations() -> Iterator[None]:
    """A file's models, tasks and programs are its own: what a worker ran before is pytest-xdist's choice."""
    from adm_jax.config import models, presets
    from adm_jax.tasks import registry

    before = [(names, dict(names)) for names in (models._MODELS, registry._TASKS, presets._BY_TASK)]
    yield
    for names, entries in before:
        names.clear()
        names.update(entries)
    compiled_once.forget()


@pytest.fixture(scope="session")
def tiny_dataset() -> str:
    """1,000 random steps of the real Hopper, saved as a Minari dataset; its id."""
    from adm_jax.data.formats import minari_io
    from adm_jax.envs.experience import Experience

    experience = Experience("Hopper-v4", [0], num_steps=1_000)
    rng = np.random.default_rng(0)
    for _ in range(1_000):
        experience.step(experience.random_action([rng]))
    minari_io.save(experience.episodes(), "tests/tiny-hopper-v0", env_id="Hopper-v4")
    experience.close()
    return "tests/tiny-hopper-v0"


@pytest.fixture
def tiny_config(tiny_dataset: str, tmp_path: Path) -> "OfflineConfig":
    """A configuration that runs through everything in seconds."""
    from adm_jax.config import OfflineConfig
    from adm_jax.config.settings import replace_flat

    return replace_flat(OfflineConfig(), {**TINY, "dataset": tiny_dataset, "workdir": str(tmp_path)})


@pytest.fixture(scope="module")
def small_curves() -> Iterator[None]:
    """For files of many runs: whole curves.png take as long as all that such a run computes."""
    from matplotlib.figure import Figure

    from adm_jax.runs import curves

    with pytest.MonkeyPatch.context() as patch:
        size = {"layout": None, "dpi": 30}
        patch.setattr(curves, "Figure", lambda *args, **options: Figure(*args, **{**options, **size}))
        yield


@pytest.fixture(autouse=True)
def _own_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests run in an empty folder: MuJoCo writes MUJOCO_LOG.TXT into the current one."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))
