"""README and the site: what they link to exists, their commands parse, and the site builds."""

import importlib.util
import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from adm_jax.cli.main import COMMANDS
from tests.cli import scripts

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RESULTS = ROOT / "benchmarks" / "results"
_OF_RUNS = {  # not this repository's
    *("config.json", "result.json", ".lock.json", "metadata.json", "truth.json", "hopper_trpo_truth.json"),
}


def alternatives(text: str) -> list[str]:
    """``a_{b,c}.json`` is ``a_b.json`` and ``a_c.json``."""
    parts = [part.split(",") for part in re.split(r"[{}]", text)]
    return ["".join(choice) for choice in itertools.product(*parts)]


def quoted() -> list[str]:
    """Every command of the library or the benchmarks in a code block or between backquotes, once.

    ``bench_sac --flags`` is short for ``python -m benchmarks.speed.bench_sac --flags``.
    """
    found = []
    for page in PAGES:
        text = page.read_text()
        blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        inline = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        lines = [line for block in blocks for line in block.splitlines()] + inline
        for line in lines:
            module = r"(?<=python -m )(?:experiments|benchmarks)\.\w+[^&]*|^bench_\w+ -[^&]*"
            pattern = rf"(adm-jax [a-z0-9-]+(?: -[^&]*)?|{module})"
            found += re.findall(pattern, " ".join(line.split()))
    return sorted({re.sub("^bench_", "benchmarks.speed.bench_", command) for command in found})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_result_files_exist(page: Path):
    text = page.read_text()
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target
    for name in re.findall(r"`([^` ]*\.json)`", text):
        for file in alternatives(name):
            if Path(file).name not in _OF_RUNS:
                where = ROOT.glob(file) if "/" in file else RESULTS.rglob(file)
                assert any(where), file


@pytest.mark.parametrize("command", quoted())
def test_quoted_commands_parse(command: str):
    """The flags are all known and in range: what is refused is the one word behind them."""
    first, *arguments = shlex.split(command, comments=True)
    if first == "adm-jax":
        name, _ = COMMANDS[arguments.pop(0)]
    else:
        assert importlib.util.find_spec(first), first
        name = first.removeprefix("experiments.")
    mentioned = first.startswith("benchmarks.") and not arguments
    if not mentioned and arguments != ["--help"]:
        done = scripts.run(name, *arguments, "stop-here")
        assert done.returncode == 2, done.stderr
        files = name == "benchmarks.runs.compare_runs"  # its words are files, which are read first
        refused = "error: [Errno 2] No such file" if files else "error: 'stop-here' is not a flag"
        assert done.stderr.startswith(refused), done.stderr


def test_readme_is_one_page():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_site_builds_without_a_warning(tmp_path: Path):
    pytest.importorskip("sphinx")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        ROOT / "docs",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    settings = (tmp_path / "settings.html").read_text()
    for name in ("rollout_length", "cloning_weight", "steps_per_iteration", "num_streams", "fqe_steps"):
        assert name in settings
