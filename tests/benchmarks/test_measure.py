"""Statistics of timings against numbers by hand; the ceilings do what they say."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import measure
from benchmarks.speed.counting import count
from benchmarks.speed.measure import Ceilings, Timing


def test_ways_alternate_after_a_warm_up():
    order = []
    timings = measure.alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert all(len(timing.wall) == len(timing.cpu) == 2 for timing in timings.values())
    assert not measure.alternate({"a": lambda: None}, 0, warmups=0)["a"].wall


def test_a_sleep_takes_time_but_no_processor():
    timing = measure.alternate({"sleep": lambda: time.sleep(0.05)}, 1)["sleep"]
    assert timing.wall[0] >= 0.05
    assert timing.cpu[0] < 0.04


def test_the_fastest_way_is_found():
    assert measure.fastest({"slow": lambda: time.sleep(0.05), "fast": lambda: None}) == "fast"
    assert measure.fastest({(None, 1): pytest.fail}) == (None, 1)  # nothing to try


def test_summary_by_hand():
    row = measure.summarize(Timing([4.0, 1.0, 2.0], [0.5, 0.25, 9.0]), work=10.0, unit="things/s")
    assert row["seconds_median"] == 2.0
    assert row["seconds_p90"] == pytest.approx(2.0 + 0.8 * 2.0)
    assert row["cpu_seconds_median"] == 0.5
    assert (row["rate"], row["unit"], row["repeats"]) == (5.0, "things/s", 3)


def test_a_ratio_is_the_median_of_the_repeats_own():
    """A machine that was ten times as slow in one repeat doesn't change it."""
    slow, fast = Timing([2.0, 60.0, 4.0], []), Timing([1.0, 20.0, 1.0], [])
    result = measure.ratio(slow, fast)
    assert result == {"median": 3.0, "per_repeat": [2.0, 3.0, 4.0]}
    assert measure.ratio(slow, fast, scale=2.0)["median"] == 6.0


def test_fractions_of_the_ceilings_by_hand():
    counts = count(jnp.matmul, np.ones((10, 10), np.float32), np.ones((10, 10), np.float32))
    ceilings = Ceilings({}, {"matmul": 4_000.0, "copy": 2_400.0})
    timings = {"matmul": Timing([1.0, 10.0], []), "copy": Timing([1.0, 10.0], [])}
    row = measure.efficiency(counts, Timing([2.0, 20.0], []), ceilings, timings)
    assert (row["flops"], row["unfused_bytes"]) == (2_000, 1_200)
    assert row["fraction_of_matmul_ceiling"] == pytest.approx(0.25)  # 1,000 a second of 4,000
    assert row["unfused_bytes_over_copy_ceiling"] == pytest.approx(0.25)
    assert row["flops_per_second"] == pytest.approx(2_000 / 11.0)


def test_ceilings_run_and_say_what_they_do():
    top = measure.make_ceilings(matmul_size=32, copy_mib=1)
    timings = measure.alternate(top.ways, 1)
    report = top.report(timings)
    assert top.work == {"matmul": 4 * 2 * 32**3, "copy": 4 * 2 * 2**20}
    assert report["matmul"]["rate"] == pytest.approx(top.work["matmul"] / timings["matmul"].wall[0])
    assert report["copy"]["unit"] == "bytes/s"


def test_every_product_is_really_computed():
    """Twice the products take about twice the time: no loop is hoisted, nor only the entry that is read."""
    x = jnp.ones((256, 256))

    def program(times):
        return measure.products_way(count(lambda x: [x @ (x + i) for i in range(times)], x))

    timings = measure.alternate({"few": program(10), "many": program(40)}, 5)
    assert 2.0 < min(timings["many"].cpu) / min(timings["few"].cpu) < 8.0
    flops_per_second = 10 * 2 * 256**3 / min(timings["few"].cpu)
    assert flops_per_second < 1e13


def test_batched_products_run_too():
    x, w = jnp.ones((3, 4, 5)), jnp.ones((3, 5, 2))
    results = measure.products_way(count(lambda x, w: jnp.einsum("bij,bjk->bik", x, w), x, w))()
    assert len(results) == 1


def test_the_environment_is_told():
    values = measure.environment()
    assert values["versions"]["jax"]
    assert values["cores"] >= 1
    assert values["command"].startswith("python -m ")
