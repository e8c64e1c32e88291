"""What a result says of members that broke."""

import math

from adm_jax.population.members import Member
from adm_jax.runs.results import member_results
from adm_jax.tasks import get_task


def test_a_broken_member_of_averaged_policies_has_a_result_without_numbers():
    """A line of eval.jsonl has null where a return was not finite."""
    returns = [[1.0, 3.0], [None, None]]
    line = {"epoch": 2, "eval/return": returns, "eval/unaveraged_return": returns}
    whole, broken = member_results([Member(0, {}), Member(1, {})], get_task("hopper"), [line])
    assert (whole["return_mean"], whole["unaveraged_return_mean"]) == (2.0, 2.0)
    assert math.isnan(broken["return_mean"])
    assert math.isnan(broken["unaveraged_return_mean"])
