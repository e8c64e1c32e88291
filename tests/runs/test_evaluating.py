"""Evaluations beside a loop: a member whose policy has broken does not take the others down."""

import io
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
from rich.console import Console

from adm_jax.envs.evaluator import Evaluator
from adm_jax.population.members import Member
from adm_jax.runs.background import Background
from adm_jax.runs.clock import WallClock
from adm_jax.runs.evaluating import Evaluations
from adm_jax.runs.progress import Progress
from adm_jax.tasks import get_task


def test_a_policy_that_is_not_finite_or_overflows_scores_nan_and_the_others_are_evaluated():
    lines, shown = [], io.StringIO()
    evaluations = Evaluations(
        members=tuple(Member(seed, {}) for seed in (0, 1, 2)),
        task=get_task("hopper"),
        evaluator=Evaluator("Hopper-v4", [0, 1, 2], 2),
        background=Background(WallClock()),
        folder=SimpleNamespace(log_eval=lines.append),  # pyright: ignore[reportArgumentType]
        progress=Progress(Console(file=shown, width=120)),
        act=lambda params, obs: obs[..., :3] * jnp.square(params)[:, None, None],
        draw=lambda: None,
    )
    with evaluations.background:
        # the second's is finite, its square is not
        evaluations.begin("train", 1, {"steps": 50}, jnp.array([0.5, 1e38, jnp.nan]))
    (line,) = lines
    assert np.isfinite(line["eval/return"]).all(axis=1).tolist() == [True, False, False]
    alone = Evaluator("Hopper-v4", [0], 2).evaluate(lambda obs: obs[..., :3] * np.float32(0.25), evaluation=1)
    np.testing.assert_allclose(line["eval/return"][0], alone.returns[0], rtol=1e-4)
    assert shown.getvalue().startswith("step 50: mean returns seed0 ")
