import contextlib
import io

import numpy as np
import pytest
from rich.console import Console

from adm_jax.runs.clock import WallClock
from adm_jax.runs.progress import Progress, print_result


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def run_progress(console: Console, clock: Clock) -> dict[str, float]:
    with Progress(console, interval=10.0, now=clock) as progress:
        progress.begin("train", total=10, done=2)
        for _ in range(8):
            clock.seconds += 4.0
            progress.advance(
                updates=2000, imagined_transitions=100_000, info={"return": 812.34, "alpha": "-"}
            )
        progress.note("a note [with brackets]")
        rates = progress.rates()
        progress.end()
    return rates


def test_plain_lines_come_at_intervals_and_at_the_end():
    out = io.StringIO()
    rates = run_progress(Console(file=out, width=80), Clock())
    lines = out.getvalue().splitlines()
    assert rates == {"epochs": 0.25, "updates": 500.0, "imagined_transitions": 25_000.0}
    assert lines == [
        "train 3/10  25,000 imagined transitions/s  500 updates/s  0:28 left  return 812.3  alpha -",
        "train 6/10  25,000 imagined transitions/s  500 updates/s  0:16 left  return 812.3  alpha -",
        "train 9/10  25,000 imagined transitions/s  500 updates/s  0:04 left  return 812.3  alpha -",
        "train 10/10  25,000 imagined transitions/s  500 updates/s  return 812.3  alpha -",
        "a note [with brackets]",
    ]


def test_a_terminal_gets_a_bar():
    out = io.StringIO()
    run_progress(Console(file=out, width=150, force_terminal=True), Clock())
    assert "10/10" in out.getvalue()
    assert "25,000 imagined transitions/s" in out.getvalue()
    assert "a note [with brackets]" in out.getvalue()


def test_a_member_s_first_number_that_is_not_finite_is_told_once():
    out = io.StringIO()
    with Progress(Console(file=out, width=80)) as progress:
        tags = ["seed0", "seed1", "seed2"]
        metrics = {
            "model/error_per_k": np.full((3, 2), np.nan),
            "critic/q": np.array([1.0, np.nan, np.inf]),
            "critic/loss": np.array([1.0, np.nan, 0.0]),
        }
        progress.warn_not_finite("step 20", tags, metrics, np.array([True, True, False]))
        progress.warn_not_finite("step 30", tags, metrics)
    assert out.getvalue().splitlines() == [
        "warning: critic/q of seed1 is not finite in step 20",
        "warning: critic/q of seed2 is not finite in step 30",
    ]


def test_the_table_has_a_row_per_seed():
    member = {"return_mean": 900.0, "return_std": 12.0, "num_episodes": 30, "normalized_score": 28.4}
    unscored = {"return_mean": 300.0, "return_std": 5.0, "num_episodes": 30, "normalized_score": None}
    result = {
        "members": [{"seed": 0, **member}, {"seed": 7, **member, "return_mean": 1000.0}],
        "settings": [{"num_seeds": 2, "return_mean": 950.0, "normalized_score": 28.4}],
        "bc": [{"seed": 0, **unscored}, {"seed": 7, **unscored, "return_mean": None}],
        "dataset": {"num_episodes": 3, "episode_return_mean": 351.5},
        "wall_clock": {"fit": 61.0, "total": 3700.0},
    }
    out = io.StringIO()
    print_result(result, Console(file=out, width=80))
    text = out.getvalue()
    assert [row.split()[1:4] for row in text.splitlines() if "learned" in row] == [
        ["learned", "│", "0"],
        ["learned", "│", "7"],
        ["learned", "│", "all"],
    ]
    assert "950.0" in text
    assert "28.4" in text
    assert "dataset: episode return mean 351.5\n" in text
    assert "fit 1:01, total 1:01:40" in text


def test_a_sweep_has_a_column_and_a_mean_of_each_setting():
    member = {"return_std": 12.0, "num_episodes": 30, "normalized_score": 28.4}
    result = {
        "members": [
            {"seed": seed, "tau": tau, **member, "return_mean": 1000 * tau + seed}
            for seed in (0, 4)
            for tau in (0.1, 0.5)
        ],
        "settings": [{"tau": tau, "num_seeds": 2, "return_mean": 1000 * tau + 2} for tau in (0.1, 0.5)],
        "bc": [{"seed": seed, **member, "return_mean": 50.0} for seed in (0, 4)],
    }
    out = io.StringIO()
    print_result(result, Console(file=out, width=90))
    rows = [row.replace("│", " ").split() for row in out.getvalue().splitlines()]
    assert ["learned", "4", "0.5", "504.0"] in [row[:4] for row in rows]
    assert ["learned", "all", "0.1", "102.0"] in [row[:4] for row in rows]
    assert ["learned", "all", "0.5", "502.0"] in [row[:4] for row in rows]
    assert ["cloning", "all", "-", "50.0"] in [row[1:5] for row in rows]


def test_wall_clock_excludes_what_is_nested_and_continues_after_a_resume():
    now = Clock()
    clock = WallClock(now=now)
    with clock.phase("fit"):
        now.seconds += 2.0
        with clock.phase("compile"):
            now.seconds += 5.0
        now.seconds += 1.0
    now.seconds += 10.0
    clock.add_background(7.5)  # beside what the main loop did: no part of the total
    spent = clock.to_dict()
    assert spent == {
        "compile": 5.0,
        "environment": 0.0,
        "fit": 3.0,
        "rollout": 0.0,
        "update": 0.0,
        "evaluate": 0.0,
        "evaluate_background": 7.5,
        "total": 18.0,
    }

    now.seconds = 1000.0
    resumed = WallClock(now=now)
    resumed.add(spent)
    with contextlib.suppress(KeyError), resumed.phase("rollout"):
        now.seconds += 1.5
        raise KeyError
    assert resumed.to_dict() == {**spent, "rollout": 1.5, "total": 19.5}
    with pytest.raises(ValueError, match="lunch"), resumed.phase("lunch"):
        pass
