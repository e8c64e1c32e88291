"""``--termination`` and ``--reward`` from a module in the current folder, as a user runs them."""

from pathlib import Path

import pytest

SOURCE = """
import jax.numpy as jnp

def fallen(next_obs):
    return next_obs[..., 0] < 0.7

def column(obs, action, next_obs):
    return next_obs[:, 5:6]
"""


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--termination=my_hopper:fallen", "--reward=my_hopper:column"],
            "reward: my_hopper:column gave float32 [2, 1] for [2, 11], [2, 3], [2, 11]; must be float32 [2]",
        ),
        (["--termination=my_hoper:fallen"], "termination: module 'my_hoper' cannot be imported"),
        (["--task=my_hopper:mine"], "adm_jax.tasks.register_task"),
    ],
)
def test_what_does_not_serve_is_one_line_before_anything_is_computed(flags, message, refused):
    Path("my_hopper.py").write_text(SOURCE)
    done = refused("admpo_off", "--max_backtrack=2", *flags)
    assert done.stdout == ""
    assert message in done.stderr
    assert [path.name for path in Path().rglob("*") if path.is_file()] == ["my_hopper.py"]
