"""Wheel and sdist: built as a release is, they hold what they must, and work outside the repository."""

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import adm_jax

ROOT = Path(__file__).parents[1]


def has_backend() -> bool:
    """Whether what pyproject.toml builds with is here, so that nothing need be downloaded."""
    try:
        return int(metadata.version("setuptools").partition(".")[0]) >= 77 and bool(metadata.version("build"))
    except metadata.PackageNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not has_backend(), reason="no build and setuptools (pip install -e '.[dev]')")


def run(*command: object, **options) -> str:
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sdist, and of a wheel made of that."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for package in ("adm_jax", "benchmarks", "experiments", "tests"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("LICENSE", "MANIFEST.in", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / file, source)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source)
    return folder


def test_the_sdist_is_the_package_alone(built):
    (file,) = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {Path(name).parts[1] for name in archive.getnames() if len(Path(name).parts) > 1}
    assert names == {
        *("adm_jax", "adm_jax.egg-info", "LICENSE", "MANIFEST.in", "PKG-INFO"),
        *("README.md", "pyproject.toml", "setup.cfg"),
    }


def test_the_wheel_holds_the_package_whole(built):
    (file,) = built.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        about = f"adm_jax-{adm_jax.__version__}.dist-info"
        entry_points = archive.read(f"{about}/entry_points.txt").decode()
    assert {name.partition("/")[0] for name in names} == {"adm_jax", about}
    assert "adm-jax = adm_jax.cli.main:main" in entry_points
    wanted = {path.relative_to(ROOT).as_posix() for path in (ROOT / "adm_jax").rglob("*.py")}
    wanted |= {"adm_jax/py.typed", "adm_jax/data/builtin/hopper_replay.xz", f"{about}/licenses/LICENSE"}
    assert wanted <= names


def test_the_wheel_works_outside_the_repository(built, tmp_path):
    (file,) = built.glob("*.whl")
    target = tmp_path / "site"
    run(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, file)
    environment = {**os.environ, "PYTHONPATH": str(target), "MINARI_DATASETS_PATH": str(tmp_path / "data")}
    options = {"cwd": tmp_path, "env": environment}
    assert run(target / "bin" / "adm-jax", "--help", **options).startswith("usage: adm-jax COMMAND")
    code = "import adm_jax; print(adm_jax.__file__); adm_jax.load_dataset('adm_jax/hopper-replay-v0')"
    assert Path(run(sys.executable, "-c", code, **options).strip()).is_relative_to(target)
