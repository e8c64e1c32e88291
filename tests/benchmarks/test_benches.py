"""Every benchmark from end to end at tiny sizes: what it reports is whole, and can be written as JSON."""

import dataclasses
import functools
import importlib.util
import json
import math

import jax
import pytest

from adm_jax.config.presets import full_horizon
from adm_jax.population import memory
from adm_jax.types import InputError
from benchmarks import run_all
from benchmarks.speed import (
    bench_end_to_end,
    bench_fit,
    bench_full_horizon,
    bench_online,
    bench_population,
    bench_rollout,
    bench_sac,
    report,
    workload,
)

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed (pip install -e '.[bench]')"
)
TIMED = ("seconds_median", "seconds_p90", "cpu_seconds_median", "rate")
COUNTED = (
    *("flops", "unfused_bytes", "flops_per_second", "unfused_bytes_per_second"),
    *("fraction_of_matmul_ceiling", "unfused_bytes_over_copy_ceiling", "fraction_of_ceiling_at_these_shapes"),
)


def check(result, ours, with_torch=False):
    """A comparison's rows are whole, its rates fit its seconds, and everything is JSON."""
    json.dumps(result, allow_nan=False)
    assert result["shapes"]["max_backtrack"] == 2
    for name in ours:
        row = result["rows"][name]
        assert all(row[field] > 0 and math.isfinite(row[field]) for field in (*TIMED, *COUNTED)), row
        assert row["compile_seconds"] > 0
        assert row["repeats"] == 2
        assert set(result["ratios"][name]) == (set(report.TORCH_ROWS) if with_torch else set())
    for name in report.TORCH_ROWS:
        row = result["rows"][name]
        assert row["rate"] > 0 if with_torch else "pip install" in row["absent"]
    if with_torch:
        assert "need a GPU" in result["rows"][report.TORCH_GRAPHS]["left_out"]  # tests run on the CPU
    assert set(result["ceilings"]) == {"matmul", "copy"}


def work_done(row):
    return row["rate"] * row["seconds_median"]


def test_rollouts_of_several_seeds(tiny, tmp_path):
    options = dataclasses.replace(tiny, rollout_seeds=(1, 2), trace=str(tmp_path))
    result = bench_rollout.run(options)
    check(result, ["ours", "ours, 2 seeds"])
    one, two = (result["rows"][name] for name in ("ours", "ours, 2 seeds"))
    assert (work_done(one), work_done(two)) == pytest.approx((60, 120))
    assert two["flops"] == 2 * one["flops"]
    assert list(tmp_path.rglob("*.xplane.pb"))  # a profiler's trace of the first


def test_a_population_without_memory_is_left_out_of_roll_outs_and_updates(tiny, monkeypatch):
    prepare = workload.prepare

    def only_one(options, num_seeds, **overrides):
        if num_seeds == 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes.\nand where")
        return prepare(options, num_seeds, **overrides)

    monkeypatch.setattr(workload, "prepare", only_one)
    for bench in (bench_rollout, bench_sac):
        options = dataclasses.replace(tiny, rollout_seeds=(1, 2), sac_seeds=(1, 2))
        rows = bench.run(options)["rows"]
        reason = "out of memory: RESOURCE_EXHAUSTED: Out of memory allocating 8 bytes."
        assert rows["ours, 2 seeds"] == {"left_out": reason}


def test_rollout(tiny):
    result = bench_rollout.run(tiny)
    check(result, ["ours"])
    assert work_done(result["rows"]["ours"]) == pytest.approx(30 * 2)
    # two chunks, of each: a step's first stream alone to begin with, then two steps of both
    (m, width, inputs, outputs), chunk = (2, 8, 14, 24), 20
    cell = 2 * 3 * width * (inputs + width)
    head = 2 * width * width + 2 * width * outputs
    policy = 2 * (11 * 8 + 8 * 8 + 8 * 6)
    expected = 2 * chunk * ((m - 1) * cell + 2 * (m * (cell + head) + policy))
    assert result["rows"]["ours"]["flops"] <= expected  # less once what is known to be zero is left out
    assert result["rows"]["ours"]["flops"] > 0.5 * expected
    assert result["rows"]["ours"]["encoding_seconds"] == 0


def test_rollout_from_histories_encoded_once(tiny):
    """Where a thousand epochs start from more than twice the data: no cell step but those of the roll-out."""
    tiny = dataclasses.replace(tiny, rollout_batch_size=150, rollout_chunk=50)
    result = bench_rollout.run(tiny)
    check(result, ["ours", "ours_encoding"])
    once, each = (result["rows"][name] for name in ("ours", "ours_encoding"))
    width, inputs = 8, 14
    # of the history of one step: a new stream, whose state is zero
    assert each["flops"] - once["flops"] == 2 * 150 * 3 * width * inputs
    assert once["encoding_seconds"] > 0
    rows = bench_rollout.run(dataclasses.replace(tiny, histories=False))["rows"]
    assert rows["ours"]["flops"] == each["flops"]
    assert "ours_encoding" not in rows


def test_sac(tiny):
    result = bench_sac.run(tiny)
    names = ["ours, 1 seeds", "ours, 2 seeds", "ours, 1 seeds, steady"]
    assert result["shapes"]["num_seeds"] == [1, 1, 2]
    check(result, names)
    assert [work_done(result["rows"][name]) for name in names] == pytest.approx([3, 6, 3])
    one, two, steady = (result["rows"][name]["flops"] for name in names)
    assert two == 2 * one
    assert steady == one  # LayerNorm and the cloning term take no matrix products
    assert result["seconds_over_first"]["ours, 1 seeds"] == 1


def test_end_to_end(tiny, monkeypatch):
    events, hits = [], []

    def listen(event, **_):
        events.append(event)

    compile_seconds = bench_end_to_end.compile_seconds

    def watched(work):
        jax.monitoring.register_event_listener(listen)
        seconds = compile_seconds(work)
        jax.monitoring.unregister_event_listener(listen)
        hits.append(events.count("/jax/compilation_cache/cache_hits"))
        return seconds

    monkeypatch.setattr(bench_end_to_end, "compile_seconds", watched)
    result = bench_end_to_end.run(tiny)
    check(result, ["ours"])
    row = result["rows"]["ours"]
    assert row["rollout_seconds_median"] + row["update_seconds_median"] == pytest.approx(
        row["seconds_median"], rel=0.5
    )
    seconds = result["compile_seconds"]
    assert all(set(each) == {"rollout", "update", "epoch"} for each in seconds.values())
    assert set(seconds) == {"cold", "cached"}
    assert hits == [2]  # the second time, and never the first
    memory = result["memory"]
    assert memory["rollout_batch_size"] == bench_end_to_end.MEMORY_STARTS  # asked for, never allocated
    # 60,000 histories of one stream: 8 hidden units, 11 dimensions, a flag; for 2 seeds
    assert memory["histories_gib"] == pytest.approx(2 * 60_000 * (8 * 4 + 11 * 4 + 1) / 2**30, rel=0.01)
    largest = max(memory["temporaries_gib"].values())
    assert memory["beyond_buffers_gib"] == largest + memory["histories_gib"] > largest > 0
    # 2 seeds' buffers of 5 epochs of 2 steps, 27 float32 and a byte a row
    assert memory["buffers_gib"] == pytest.approx(2 * 50_000 * 2 * 5 * (26 * 4 + 1) / 2**30, rel=0.01)


def test_online(tiny):
    result = bench_online.run(
        dataclasses.replace(tiny, online_seeds=(2,), updates_per_step=2, model_every=10)
    )
    json.dumps(result, allow_nan=False)
    row = result["rows"]["ours, 2 seeds"]
    assert work_done(row) == pytest.approx(2 * 10)
    parts = [row[f"{part}_seconds_median"] for part in bench_online.PARTS]
    assert all(seconds > 0 for seconds in parts)
    assert sum(parts) <= row["seconds_median"] * 1.5


def test_full_horizon(tiny):
    result = bench_full_horizon.run(
        dataclasses.replace(tiny, model_envs=20, full_horizon_batch_size=32, full_horizon_updates=3)
    )
    json.dumps(result, allow_nan=False)
    rows, steps = result["rows"], full_horizon.STEPS_PER_EPOCH
    for name in ("adm_v2", "adm"):
        assert work_done(rows[name]) == pytest.approx(20 * steps)
    assert result["adm_v2_over_adm"] == pytest.approx(rows["adm_v2"]["rate"] / rows["adm"]["rate"])
    epoch = rows["epoch"]
    assert epoch["rollout_seconds_median"] + epoch["update_seconds_median"] == pytest.approx(
        epoch["seconds_median"], rel=0.5
    )


def test_population_and_its_plot(tiny, tmp_path):
    result = bench_population.run(dataclasses.replace(tiny, png=str(tmp_path / "seeds.png")))
    json.dumps(result, allow_nan=False)
    one, two = (result["rows"][f"ours, {num} seeds"] for num in (1, 2))
    counted = [field for field in COUNTED if field != "fraction_of_ceiling_at_these_shapes"]
    fields = (*TIMED, *counted, "compile_seconds", "memory_gib")
    assert all(row[field] > 0 for row in (one, two) for field in fields)
    assert two["flops"] == 2 * one["flops"]
    assert (one["over_first"], two["num_seeds"]) == (1.0, 2)
    assert two["seconds_per_seed"] == two["seconds_median"] / 2
    assert (tmp_path / "seeds.png").read_bytes().startswith(b"\x89PNG")


def test_a_population_that_does_not_fit_is_timed_a_batch_after_the_other(tiny, monkeypatch):
    def require(need):
        if need.state > one.state * 1.5:
            raise memory.DoesNotFit("memory: too little")

    one = bench_population._build_batch(tiny, 1).need
    together, _ = bench_population.measure_population(tiny, 2, 2)
    monkeypatch.setattr(memory, "require", require)
    row, timings = bench_population.measure_population(tiny, 2, 2)
    assert len(timings["ours"].wall) == 2
    assert (together["members_per_batch"], row["members_per_batch"], row["num_seeds"]) == (2, 1, 2)
    assert (row["flops"], row["memory_gib"]) == (together["flops"], one.total / 2**30)
    parts = row["rollout_seconds_median"] + row["update_seconds_median"]
    assert parts == pytest.approx(row["seconds_median"], rel=0.5)


def test_a_population_that_takes_too_long_or_too_much_memory_is_left_out(tiny, monkeypatch):
    asked = {}

    def pretend(options, num_seeds, repeats, beside=None):
        asked[num_seeds] = repeats
        if num_seeds == 2:
            raise InputError("memory: too little")
        return {"num_seeds": num_seeds, "seconds_median": 10.0 * num_seeds}, {}

    monkeypatch.setattr(bench_population, "measure_population", pretend)
    options = dataclasses.replace(
        tiny, population=(4, 1, 8, 2), repeats=3, population_repeats=1, max_seconds=50.0
    )
    rows = bench_population.run(options)["rows"]
    assert rows["ours, 1 seeds"] == {"num_seeds": 1, "seconds_median": 10.0, "over_first": 1.0}
    assert rows["ours, 2 seeds"] == {"left_out": "memory: too little"}
    assert rows["ours, 4 seeds"]["over_first"] == 4.0
    assert rows["ours, 8 seeds"] == {"left_out": "an epoch of about 80 s; max_seconds is 50"}
    assert asked == {1: 3, 2: 1, 4: 1}


def test_fit(tiny):
    result = bench_fit.run(tiny)
    json.dumps(result, allow_nan=False)
    assert result["shapes"]["epoch_steps"] == result["shapes"]["num_train"] // 256 * 2
    assert result["goal_of"] == "ours_authors"  # without PyTorch
    assert result["rows"]["ours_authors"]["final_nll"] == result["evaluations_of_the_goal"][-1]
    row = result["rows"]["ours_tuned, 2 seeds"]
    assert (row["steps"], row["stopped"]) == (300, "done")
    assert [steps for _, steps, _ in row["curve"]] == [100, 200, 300]
    assert len(row["final_nll_of_each_seed"]) == 2
    steps = {"shapes": result["shapes"], **result["steps"]}
    check(steps, ["ours_authors", "ours_tuned, 2 seeds"])
    assert work_done(steps["rows"]["ours_tuned, 2 seeds"]) == pytest.approx(200)


def test_rows_that_are_not_known_are_refused(tiny):
    with pytest.raises(InputError, match="only: 'ours' is unknown; one of torch_authors"):
        bench_fit.run(dataclasses.replace(tiny, only=("ours",)))
    with pytest.raises(InputError, match="PyTorch's rows alone are asked for"):
        bench_fit.run(dataclasses.replace(tiny, only=("torch_tuned",)))
    with pytest.raises(InputError, match="only: 'speed' is unknown; one of agreement, ceilings, r"):
        run_all.run(dataclasses.replace(tiny, only=("speed",)))


def test_run_all_writes_what_there_is_after_each(tiny, tmp_path, monkeypatch, capsys):
    def interrupted(options):
        raise KeyboardInterrupt

    def quick(options):
        assert options.only == ()  # which benchmarks is not which rows
        return {"shapes": {}, "rows": {"ours": {"rate": 2.5, "unit": "transitions/s"}}}

    for name, benchmark in (("rollout", quick), ("sac", interrupted)):
        monkeypatch.setitem(run_all.PARTS, name, run_all.Part(benchmark, 1, 1, 1))
    path = tmp_path / "all.json"
    with pytest.raises(KeyboardInterrupt):
        run_all.run(dataclasses.replace(tiny, only=("rollout", "sac"), json=str(path)))
    written = json.loads(path.read_text())
    assert set(written) == {"environment", "rollout"}
    assert written["rollout"]["rows"]["ours"]["rate"] == 2.5
    assert "ours: rate 2.5, unit transitions/s" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.part"))


@needs_torch
def test_rollout_and_sac_beside_pytorch(tiny):
    options = dataclasses.replace(tiny, torch=True)
    check(bench_rollout.run(options), ["ours"], with_torch=True)
    result = bench_sac.run(dataclasses.replace(options, sac_seeds=(1,)))
    check(result, ["ours, 1 seeds", "ours, 1 seeds, steady"], with_torch=True)


@needs_torch
def test_an_online_interval_beside_pytorch(tiny):
    options = dataclasses.replace(tiny, torch=True, online_seeds=(1, 2), updates_per_step=2, model_every=10)
    result = bench_online.run(dataclasses.replace(options, batch_size=32))  # of which 1 in 20 is real
    for seeds in options.online_seeds:
        names = {f"{name}, {seeds} seeds" for name in report.TORCH_ROWS}
        for name in names:
            row = result["rows"][name]
            assert work_done(row) == pytest.approx(seeds * 10)
            parts = [row[f"{part}_seconds_median"] for part in bench_online.PARTS]
            assert all(seconds > 0 for seconds in parts)
            assert sum(parts) <= row["seconds_median"]
        assert set(result["ratios"][f"ours, {seeds} seeds"]) == names


@needs_torch
def test_epochs_of_every_seed_beside_pytorch(tiny):
    from benchmarks.speed import torch_rows

    work = workload.prepare(tiny, 2)
    rows = torch_rows.epochs(tiny, work, workload.initial_state(work))
    assert "need a GPU" in rows.pop(report.TORCH_GRAPHS)[1]["left_out"]  # tests run on the CPU
    for name, (run, details) in rows.items():
        run()
        assert name in report.TORCH_ROWS
        assert details["rollout_threads"] == details["update_threads"] == 1


@needs_torch
def test_the_smallest_population_alternates_with_pytorch(tiny, monkeypatch):
    from benchmarks.speed import torch_rows

    order = []

    def epochs(options, work, state):
        return {name: (functools.partial(order.append, name), {}) for name in report.TORCH_ROWS}

    alternate, timings = bench_population.measure.alternate, []

    def watched(ways, *args, **kwargs):
        own = ways["ours"]
        timings.append(alternate({**ways, "ours": lambda: (order.append("ours"), own())}, *args, **kwargs))
        return timings[-1]

    monkeypatch.setattr(torch_rows, "epochs", epochs)
    monkeypatch.setattr(bench_population.measure, "alternate", watched)
    result = bench_population.run(dataclasses.replace(tiny, torch=True, population=(2, 4)))
    together = ["ours", *report.TORCH_ROWS]
    assert order == 3 * together + 2 * ["ours"]  # each once to warm up
    assert set(result["ratios"]) == {"ours, 2 seeds"}
    assert result["rows"]["torch_fair"]["num_seeds"] == 1
    timed = timings[1]  # after the warm-up
    expected = [2 * one / two for one, two in zip(timed["torch_fair"].wall, timed["ours"].wall, strict=True)]
    found = result["ratios"]["ours, 2 seeds"]["torch_fair"]["median"]
    assert found == pytest.approx(sum(expected) / 2)


@needs_torch
def test_fit_beside_pytorch(tiny):
    result = bench_fit.run(dataclasses.replace(tiny, torch=True, fit_seeds=(1,)))
    assert result["goal_of"] == "torch_authors"
    rows = result["rows"]
    assert set(rows) == {"torch_authors", "torch_tuned", "ours_tuned, 1 seeds"}
    assert (
        rows["torch_authors"]["steps"] == result["shapes"]["epoch_steps"]
    )  # one epoch of theirs, to the step
    assert rows["torch_tuned"]["steps"] == rows["ours_tuned, 1 seeds"]["steps"] == 300
    assert set(result["steps"]["ratios"]["ours_tuned, 1 seeds"]) == {"torch_authors", "torch_tuned"}
