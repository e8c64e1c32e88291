"""Options and flags of the benchmarks: each other's mirror, with one line for what is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest
from absl import flags

from adm_jax.types import InputError
from benchmarks.speed import options
from benchmarks.speed.options import Options
from tests.cli import scripts

ROOT = Path(__file__).parents[2]


def parse(*arguments):
    values = flags.FlagValues()
    options.define_flags(values)
    values(["program", *arguments])
    return options.from_flags(values)


def test_without_flags_the_defaults_by_device():
    assert parse() == options.by_device(Options())
    assert parse().rollout_batch_size == 5_000  # tests run on the CPU
    assert parse().population == (1, 2, 4, 8, 16, 32, 64)
    assert parse().fit_seeds == (1,)


def test_flags_of_every_kind():
    chosen = parse("--num_seeds=3", "--population=1,4", "--only=fit,sac", "--notorch", "--max_seconds=2.5")
    assert (chosen.num_seeds, chosen.population, chosen.only) == (3, (1, 4), ("fit", "sac"))
    assert (chosen.torch, chosen.max_seconds, chosen.with_torch) == (False, 2.5, False)


def test_quick_leaves_what_is_given():
    quick = parse("--quick", "--updates=7")
    assert quick.updates == 7
    assert quick.rollout_batch_size == options.QUICK["rollout_batch_size"]
    assert set(options.QUICK) <= set(Options.__dataclass_fields__)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--num_seeds=0", "num_seeds: 0"),
        ("--population=1,0", "population: 0"),
        ("--population=x", "population"),
        ("--json=absent/x.json", "json: absent/x.json cannot be written: .*/absent is no folder"),
        ("--png=absent/x.png", "png: absent/x.png cannot be written"),
    ],
)
def test_values_out_of_range_are_refused(argument, message):
    with pytest.raises(InputError, match=message):
        parse(argument)


@pytest.mark.parametrize("argument", ["--population=x", "--nonsense=1"])
def test_the_command_line_answers_in_one_line(argument):
    done = scripts.run("benchmarks.speed.bench_sac", argument)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert argument.lstrip("-").split("=")[0] in line


def test_memory_that_runs_out_is_told_in_one_line():
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.bench_sac",
        "--quick",
        "--notorch",
        "--copy_mib=1000000000",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: out of memory: lower num_seeds, population or ")
    assert "Traceback" not in done.stderr
