"""A given time: what is left out, what is shortened, and in which order."""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from adm_jax.nn.precision import matmul_precision
from adm_jax.types import InputError
from benchmarks import run_all
from benchmarks.speed import agreement, bench_precision, measure
from benchmarks.speed.budget import Budget
from benchmarks.speed.measure import within
from tests.cli import scripts

ROOT = Path(__file__).parents[2]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_shares_are_of_what_is_left_and_in_proportion():
    clock = Clock()
    budget = Budget(1.0, clock)
    assert budget.share(10.0, later=20.0) == pytest.approx(20.0)
    clock.now += 45.0
    assert budget.left() == pytest.approx(15.0)
    assert budget.share(10.0, later=20.0) == 10.0  # what it needs, though later parts will not fit
    assert budget.share(15.1, later=0.0) is None


def test_a_part_that_takes_longer_than_its_share_makes_others_longer():
    clock = Clock()
    budget = Budget(1.0, clock)
    budget.took(5.0, share=20.0)
    assert budget.expected(25.0) == 25.0
    budget.took(60.0, share=20.0)
    assert budget.expected(25.0) == 75.0
    assert budget.share(25.0, later=0.0) is None
    assert budget.share(20.0, later=0.0) == 60.0


def test_without_minutes_there_is_no_end():
    budget = Budget(None)
    assert budget.share(1e9, later=1e9) == math.inf


def test_repeats_are_as_many_as_fit(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(measure.time, "perf_counter", clock)

    def run():
        clock.now += 10.0

    with within(35.0):
        assert len(measure.alternate({"way": run}, 5)["way"].wall) == 2  # and one to warm up
        assert measure.no_time() is None
        clock.now += 10.0
        assert "time is over" in measure.no_time()["left_out"]
    assert measure.no_time() is None
    with within(0.0):
        assert len(measure.alternate({"way": run}, 5)["way"].wall) == 1
    assert len(measure.alternate({"way": run}, 5)["way"].wall) == 5


def part(name, seconds, clock, done):
    def run(options):
        done.append((name, options))
        clock.now += seconds
        return {"rows": {}}

    return run_all.Part(run, 30.0, 30.0, 30.0)


@pytest.fixture
def suite(monkeypatch):
    """Parts of 30 s each, but for the second, which takes 50; the clock; what is run."""
    clock, done = Clock(), []
    parts = {name: part(name, seconds, clock, done) for name, seconds in (("a", 5), ("b", 50), ("c", 30))}
    monkeypatch.setattr(run_all, "PARTS", parts)
    monkeypatch.setattr(run_all, "Budget", lambda minutes: Budget(minutes, clock))
    return parts, done


def test_the_most_important_first_and_the_rest_is_left_out(tiny, suite, tmp_path, capsys):
    _, done = suite
    path = tmp_path / "all.json"
    result = run_all.run(dataclasses.replace(tiny, minutes=1.25, json=str(path), trace=str(tmp_path)))
    assert [name for name, _ in done] == ["a", "b"]
    assert result["c"] == {"left_out": "minutes: 20 s are left, and it takes about 30 s"}
    assert json.loads(path.read_text())["c"] == result["c"]
    assert "left_out" in capsys.readouterr().out
    options = done[1][1]
    assert (options.compilation, options.trace) == (False, str(tmp_path / "b"))
    assert options.max_seconds == pytest.approx(35.0 / 3)


def test_a_part_that_fails_is_told_and_the_others_go_on(tiny, suite, monkeypatch, tmp_path):
    parts, done = suite

    def fail(options):
        raise RuntimeError("no kernel\nat all")

    monkeypatch.setitem(parts, "b", run_all.Part(fail, 1.0, 1.0, 1.0))
    path = tmp_path / "all.json"
    with pytest.raises(InputError, match=r"b: no kernel \(1 of 3 failed\)"):
        run_all.run(dataclasses.replace(tiny, json=str(path)))
    assert [name for name, _ in done] == ["a", "c"]
    written = json.loads(path.read_text())
    assert written["b"]["failed"] == "no kernel"
    assert written["environment"]["matmul_precision"] == "float32"


def test_all_parts_are_known_in_the_order_of_their_importance():
    first = list(run_all.PARTS)[:4]
    assert first == ["agreement", "ceilings", "rollout", "sac"]
    others = ("population", "online")
    assert sum(part.accelerator for name, part in run_all.PARTS.items() if name not in others) < 8 * 60


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--minutes=0", "error: minutes: 0.0 is out of range; above 0"),
        ("--minutes=soon", "minutes"),
        ("--trace=pyproject.toml", "error: trace: pyproject.toml cannot be a folder: File exists"),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(argument, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    done = scripts.run("benchmarks.run_all", argument)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_command_measures_and_writes_what_it_is_asked_for(tmp_path):
    """A real part of real programs, whose numbers are compared with the CPU's first."""
    path = tmp_path / "quick.json"
    flags = ("--quick", "--only=agreement,ceilings", "--matmul_precision=bfloat16", "--notorch")
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.run_all", *flags, f"--json={path}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    written = json.loads(path.read_text())
    assert set(written) == {"environment", "agreement", "ceilings"}
    assert written["environment"]["matmul_precision"] == "bfloat16"
    agreement = written["agreement"]
    assert (agreement["precision"], agreement["reference"]) == ("bfloat16", "cpu, float32")
    assert 0.0 < agreement["largest_relative_difference"] <= agreement["allowed"] < 1.0
    assert {"rollout/reward", "update/critic_gradient"} <= set(agreement["differences"])
    rows = written["ceilings"]["rows"]
    assert all(rows[name]["rate"] > 0 for name in ("matmul, float32", "matmul, bfloat16", "copy"))
    assert all(written[name]["seconds_in_all"] > 0 for name in ("agreement", "ceilings"))
    assert "matmul, bfloat16: seconds_median" in done.stdout


def test_precisions_are_told_as_they_are():
    assert measure.resolved_precision() == "float32"
    with matmul_precision("bfloat16"):
        assert measure.resolved_precision() == measure.environment()["matmul_precision"] == "bfloat16"
    with jax.default_matmul_precision("TF32_TF32_F32"):
        assert measure.resolved_precision() == "tensorfloat32"


def test_ceilings_of_each_precision(tiny):
    rows = bench_precision.ceilings(tiny)["rows"]
    assert set(rows) == {"matmul, float32", "matmul, bfloat16", "copy"}
    assert all(row["rate"] > 0 for row in rows.values())


def test_bfloat16_agrees_with_float32_as_far_as_it_can(tiny):
    assert "the device is the CPU" in agreement.run(tiny)["left_out"]
    with matmul_precision("bfloat16"):
        result = agreement.run(tiny)
    json.dumps(result)
    assert result["precision"] == "bfloat16"
    assert 1e-5 < result["largest_relative_difference"] < result["allowed"]
    agreement.require(result)
    wrong = result | {"allowed": 1e-6}
    with pytest.raises(InputError, match=r"on cpu in bfloat16 differs from the CPU's by .*nothing is timed"):
        agreement.require(wrong)


def test_differences_by_hand():
    expected = np.array([3.0, 4.0])
    assert agreement.difference(np.array([3.0, 4.5]), expected) == pytest.approx(0.1)
    assert agreement.difference(np.array([np.nan, 4.0]), expected) == math.inf
    assert agreement.difference(np.zeros(2), np.zeros(2)) == 0.0
