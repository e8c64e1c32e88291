"""The validator: every malformed dataset gives one line that names file, episode and field."""

import dataclasses

import numpy as np
import pytest

from adm_jax.data import validation
from adm_jax.data.episodes import EpisodeData
from adm_jax.types import InputError
from tests.data.sample_data import make_data


def changed(name: str, index: tuple[int, ...], value: float | bool) -> EpisodeData:
    data = make_data()
    array = getattr(data, name).copy()
    array[index] = value
    return dataclasses.replace(data, **{name: array})


def message(data: EpisodeData, *bounds: float | np.ndarray) -> str:
    with pytest.raises(InputError) as caught:
        validation.validate(data, *bounds)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_accepts_sound_data():
    """Sound data pass and are left as they are."""
    for data, *bounds in (
        [make_data()],
        [make_data((1,))],
        [make_data(), np.array([-1.0, -2.0]), np.array([1.0, np.inf])],
    ):
        before = data.digests()
        validation.validate(data, *bounds)
        assert data.digests() == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["obs", "action", "next_obs"])
def test_non_finite_values(name, value):
    expected = f"some.hdf5: episode 1, step 2: {name}[1] is {value}; must be finite"
    assert message(changed(name, (6, 1), value)) == expected


def test_non_finite_reward():
    assert (
        message(changed("reward", (0,), np.nan))
        == "some.hdf5: episode 0, step 0: reward is nan; must be finite"
    )


def test_actions_outside_the_bounds():
    line = message(changed("action", (11, 0), -1.5))
    assert line == "some.hdf5: episode 2, step 4: action[0] is -1.5; must lie in the action bounds [-1, 1]"
    assert "[-0.4, 0.4]" in message(make_data(), -0.4, 0.4)
    assert "action[1] is" in message(make_data(), np.array([-1.0, 2.0]), 3.0)
    assert "bounds shape (3,); must agree" in message(make_data(), np.full(3, -1.0), 1.0)


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (np.nan, 1.0, "action[0] are [nan, 1]"),
        (-1.0, np.nan, "action[0] are [-1, nan]"),
        (1.0, -1.0, "action[0] are [1, -1]"),
        (np.array([-1.0, 1.0]), 1.0, "action[1] are [1, 1]"),
        (np.inf, np.inf, "action[0] are [inf, inf]"),
    ],
)
def test_bounds_that_bound_nothing(low, high, shown):
    line = message(make_data(), low, high)
    assert line == f"some.hdf5: bounds of {shown}; action_low must be a number below action_high"


def test_close_bounds_have_a_narrow_tolerance():
    """An action a few widths outside is no rounding, however small its distance."""
    data = make_data(action_dim=1)
    for low, high in ((1e6, 1e6 + 1), (0.0, 1e-6)):
        for action, inside in ((low, True), (high, True), (high + 2 * (high - low), False)):
            made = dataclasses.replace(data, action=np.full_like(data.action, action))
            if inside:
                validation.validate(made, low, high)
            else:
                assert "must lie in the action bounds" in message(made, low, high)


def test_rounding_at_the_bounds_is_accepted_unchanged():
    data = changed("action", (0, 0), -1.0000001)
    assert data.action[0, 0] < -1
    validation.validate(data)
    assert "action[0]" in message(changed("action", (0, 0), -1.0001))


def test_empty():
    assert message(_empty()) == "some.hdf5: empty, obs holds no transition; at least one is needed"


def _empty() -> EpisodeData:
    data = make_data()
    return dataclasses.replace(
        data, **{f.name: getattr(data, f.name)[:0] for f in dataclasses.fields(data)[:6]}
    )


def test_counts_that_do_not_match():
    data = make_data()
    line = message(dataclasses.replace(data, reward=data.reward[:-1]))
    assert line == "some.hdf5: reward has 11 rows; must have as many as obs, 12"


def test_wrong_ranks_dtypes_and_dimensions():
    data = make_data()
    assert "action has shape (12,); must be [N, dimension]" in message(
        dataclasses.replace(data, action=data.action[:, 0])
    )
    assert "reward has shape (12, 1); must be [N]" in message(
        dataclasses.replace(data, reward=data.reward[:, None])
    )
    assert "obs is float64; must be float32" in message(
        dataclasses.replace(data, obs=data.obs.astype(np.float64))
    )
    assert "terminated is int64; must be bool" in message(
        dataclasses.replace(data, terminated=data.terminated.astype(np.int64))
    )
    assert "next_obs has 2 dimensions; must have as many as obs, 3" in message(
        dataclasses.replace(data, next_obs=data.next_obs[:, :2].copy())
    )


def test_last_episode_without_an_end():
    line = message(changed("terminated", (11,), False))
    assert line.startswith(
        "some.hdf5: episode 2: terminated and truncated are both false at its last transition"
    )


def test_next_obs_must_lead_to_the_next_row():
    line = message(changed("next_obs", (5, 0), 7.0))
    assert line.startswith("some.hdf5: episode 1, step 1: next_obs is not the next row's obs (1 such in all)")
    validation.validate(changed("next_obs", (6, 0), 7.0))  # an episode's last


def test_termination_in_mid_episode_shows_as_another_episode():
    data = changed("terminated", (1,), True)
    assert data.episode_lengths.tolist() == [2, 2, 3, 5]


def test_dimensions_against_a_task():
    data = make_data()
    validation.check_dims(data, 3, 2, "task tiny (Tiny-v0)")
    with pytest.raises(InputError) as caught:
        validation.check_dims(data, 11, 3, "task hopper (Hopper-v4)")
    assert str(caught.value) == (
        "some.hdf5: obs has 3 and action 2 dimensions (made in Hopper-v4); "
        "task hopper (Hopper-v4) needs 11 and 3"
    )


def test_data_of_another_environment_of_equal_dimensions_are_refused(caplog):
    data = make_data()
    validation.check_dims(data, 3, 2, "task hopper", env_id="Hopper-v4")
    assert not caplog.text
    with pytest.raises(InputError) as caught:
        validation.check_dims(data, 3, 2, "task halfcheetah", env_id="HalfCheetah-v4")
    assert str(caught.value) == "some.hdf5: made in Hopper-v4; task halfcheetah needs data of HalfCheetah-v4"
    validation.check_dims(
        dataclasses.replace(data, metadata={}), 3, 2, "task halfcheetah", env_id="HalfCheetah-v4"
    )


@pytest.mark.parametrize("env_id", ["Hopper-v5", "hopper-v2", "HOPPER"])
def test_another_version_of_the_environment_is_told(env_id, caplog):
    data = dataclasses.replace(make_data(), metadata={"env_id": env_id})
    validation.check_dims(data, 3, 2, "task hopper", env_id="Hopper-v4")
    assert f"some.hdf5: made in {env_id}; task hopper runs in Hopper-v4, another version" in caplog.text


def test_digests_name_the_changed_field():
    data = make_data()
    validation.check_digests(data, data.digests())
    with pytest.raises(InputError, match=r"^some.hdf5: reward: not the values that were written"):
        validation.check_digests(changed("reward", (3,), 0.5), data.digests())
    with pytest.raises(InputError, match="must be a digest for each field"):
        validation.check_digests(data, None)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a"], "x holds <U1 values; must be real numbers"),
        ([1j], "x holds complex128 values; must be real numbers"),
    ],
)
def test_as_float32_refuses_what_is_no_number(values, expected):
    with pytest.raises(InputError) as caught:
        validation.as_float32(values, "x")
    assert str(caught.value) == expected


def test_as_float32_turns_what_float32_cannot_hold_into_infinity():
    assert np.isinf(validation.as_float32([1e300], "x"))[0]


def test_as_flags():
    assert validation.as_flags([0.0, 1.0], "x").tolist() == [False, True]
    with pytest.raises(InputError, match=r"x\[1\] is 2; must be 0 or 1"):
        validation.as_flags([0, 2], "x")
    with pytest.raises(InputError, match="must be true or false"):
        validation.as_flags(["yes"], "x")
