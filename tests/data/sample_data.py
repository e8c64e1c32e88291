"""Small sound datasets and what tests of this folder do with them."""

import numpy as np
import pytest

from adm_jax.data.episodes import FIELDS, EpisodeData
from adm_jax.types import InputError


def make_data(lengths: tuple[int, ...] = (4, 3, 5), obs_dim: int = 3, action_dim: int = 2) -> EpisodeData:
    rng = np.random.default_rng(0)
    observations = [rng.normal(size=(length + 1, obs_dim)).astype(np.float32) for length in lengths]
    num, ends = sum(lengths), np.cumsum(lengths) - 1
    terminated, truncated = np.zeros(num, bool), np.zeros(num, bool)
    terminated[ends[::2]] = True
    truncated[ends[1::2]] = True
    return EpisodeData(
        obs=np.concatenate([o[:-1] for o in observations]),
        action=rng.uniform(-1, 1, (num, action_dim)).astype(np.float32),
        reward=rng.normal(size=num).astype(np.float32),
        next_obs=np.concatenate([o[1:] for o in observations]),
        terminated=terminated,
        truncated=truncated,
        source="some.hdf5",
        metadata={"env_id": "Hopper-v4"},
    )


def d4rl_arrays(data: EpisodeData) -> dict[str, np.ndarray]:
    """The data's arrays by D4RL's names."""
    return {
        "observations": data.obs,
        "actions": data.action,
        "rewards": data.reward,
        "next_observations": data.next_obs,
        "terminals": data.terminated,
        "timeouts": data.truncated,
    }


def assert_same_bits(a: EpisodeData, b: EpisodeData) -> None:
    for name in FIELDS:
        left, right = getattr(a, name), getattr(b, name)
        assert left.dtype == right.dtype, name
        assert left.shape == right.shape, name
        assert left.tobytes() == right.tobytes(), name


def error_line(function, *args, **kwargs) -> str:
    """The one line that a call fails with."""
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)
