"""Functions a user names for termination and reward: imported, tried, refused in a line."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from adm_jax.envs.termination import get_termination
from adm_jax.envs.user_functions import get_reward
from adm_jax.types import InputError

MODULE = "own_functions_of_tests"
SOURCE = """
import jax.numpy as jnp

def low(next_obs):
    return next_obs[..., 0] < 0.5

def as_float(next_obs):
    return jnp.where(next_obs[..., 0] < 0.5, 1.0, 0.0)

def whole_batch(next_obs):
    return (next_obs[..., 0] < 0.5).any()

def keeps_the_axis(next_obs):
    return next_obs[..., :1] < 0.5

def python_branch(next_obs):
    return next_obs[..., 0] if next_obs[0, 0] > 0.5 else next_obs[..., 1]

def beyond(next_obs):
    return next_obs[..., 0] + next_obs[..., :3].sum(-1) + jnp.dot(next_obs, jnp.ones(99))

def nothing(next_obs):
    pass

def speed(obs, action, next_obs):
    return (next_obs[:, 0] - obs[:, 0]) / 0.05 - 0.1 * jnp.square(action).sum(-1)

number = 3
"""


@pytest.fixture(autouse=True)
def _module():
    Path(f"{MODULE}.py").write_text(SOURCE)


def test_a_termination_of_ones_own():
    function = get_termination(f"{MODULE}:low", 3)
    assert function(jnp.array([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]])).tolist() == [True, False]


def test_a_reward_of_ones_own():
    function = get_reward(f"{MODULE}:speed", 2, 1)
    reward = function(jnp.zeros((2, 2)), jnp.array([[1.0], [2.0]]), jnp.array([[0.05, 0.0], [0.1, 0.0]]))
    np.testing.assert_allclose(reward, [0.9, 1.6], rtol=1e-6)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (
            "absent_of_tests:low",
            "module 'absent_of_tests' cannot be imported; it must lie in the current folder",
        ),
        (f"{MODULE}:high", f"module '{MODULE}' has no function 'high'"),
        (f"{MODULE}:number", f"module '{MODULE}' has no function 'number'"),
        (f"{MODULE}:", "is malformed; must be module:function, as my_robot:termination"),
        (":low", "is malformed; must be module:function"),
        (f"{MODULE}.py:low", "has no function 'low'|cannot be imported"),
        (f"./{MODULE}:low", "is malformed; must be module:function"),
        (f"{MODULE}:as_float", r"as_float gave float32 \[2\] for \[2, 3\]; must be bool \[2\]"),
        (f"{MODULE}:whole_batch", r"whole_batch gave bool \[\] for \[2, 3\]; must be bool \[2\]"),
        (f"{MODULE}:keeps_the_axis", r"gave bool \[2, 1\] for \[2, 3\]; must be bool \[2\]"),
        (f"{MODULE}:python_branch", r"python_branch fails on \[2, 3\]: Attempted boolean conversion"),
        (f"{MODULE}:beyond", r"beyond fails on \[2, 3\]: "),
        (f"{MODULE}:nothing", r"nothing gave a NoneType for \[2, 3\]"),
        (f"{MODULE}:speed", r"speed fails on \[2, 3\]: .*missing 2 required positional arguments"),
    ],
)
def test_what_does_not_serve_is_told_in_one_line(reference, message):
    with pytest.raises(InputError, match=message) as error:
        get_termination(reference, 3)
    assert str(error.value).startswith("termination: ")
    assert "\n" not in str(error.value)


def test_a_reward_of_other_dimensions_or_of_another_dtype_is_refused():
    with pytest.raises(InputError, match=r"^reward: .*:low fails on \[2, 2\], \[2, 1\], \[2, 2\]: "):
        get_reward(f"{MODULE}:low", 2, 1)
    Path(f"{MODULE}_2.py").write_text("def whole(obs, action, next_obs):\n    return obs[:, 0].astype(int)\n")
    with pytest.raises(InputError, match=r"^reward: .* gave int32 \[2\] .*; must be float32 \[2\]$"):
        get_reward(f"{MODULE}_2:whole", 2, 1)
