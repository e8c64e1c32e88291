"""Reward, termination and observation of Gymnasium's ``*-v4`` locomotion environments for many rows at once.

Each class restates one environment of ``gymnasium.envs.mujoco`` with arrays ``[n, ...]`` in place of one
simulation's, in the same order of operations and the same types, so that every number is equal to the last
bit; the constants are read from the environment itself, so that arguments of ``gymnasium.make`` hold.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium.envs.mujoco import ant_v4, half_cheetah_v4, hopper_v4, humanoid_v4, walker2d_v4

Fields = Mapping[
    str, np.ndarray
]  # name of a field of MjData -> its values [n, size]; "torso" is a body's position


class Rules:
    """What the environments have in common; ``core`` is the unwrapped environment, read only.

    ``obs_dim`` entries of the observation are kept; fields of MjData behind them are never asked for.
    """

    positions_excluded: ClassVar[int] = 1  # leading entries of qpos that an observation leaves out
    velocity_bound: ClassVar[float | None] = None  # to which an observed velocity is clipped
    extra_fields: tuple[str, ...] = ()  # that reward and termination need, in addition to qpos and qvel

    def __init__(self, core: Any, obs_dim: int):
        self._core = core
        self._obs_dim = obs_dim
        self._skip = self.positions_excluded if core._exclude_current_positions_from_observation else 0
        beyond_state = obs_dim > core.model.nq + core.model.nv - self._skip
        self._further = self.further_observed() if beyond_state else ()
        self.fields = tuple(dict.fromkeys(("qpos", "qvel", *self.extra_fields, *self._further)))

    def further_observed(self) -> tuple[str, ...]:
        """Fields that the observation has behind qpos and qvel."""
        return ()

    def position(self, fields: Fields) -> np.ndarray:
        """The coordinate [n] whose velocity is rewarded."""
        return fields["qpos"][:, 0]

    def observe(self, fields: Fields) -> np.ndarray:
        """The observation [n, D]."""
        velocity = fields["qvel"]
        if self.velocity_bound is not None:
            velocity = np.clip(velocity, -self.velocity_bound, self.velocity_bound)
        parts = [
            fields["qpos"][:, self._skip :],
            velocity,
            *(self._observed(f, fields) for f in self._further),
        ]
        return np.concatenate(parts, axis=1)[:, : self._obs_dim]

    def _observed(self, field: str, fields: Fields) -> np.ndarray:
        return fields[field]

    def judge(
        self, fields: Fields, action: np.ndarray, velocity: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reward [n] of actions [n, A] that led to velocities [n], and whether the episode ends [n]."""
        healthy, ends = self.is_healthy(fields), self._core._terminate_when_unhealthy
        healthy_reward = (healthy | ends).astype(np.float64) * self._core._healthy_reward
        reward = self._forward_reward(velocity) + healthy_reward - self._cost(fields, action)
        return reward, ~healthy & ends

    def is_healthy(self, fields: Fields) -> np.ndarray:
        """Whether the robot stands as it should [n]."""
        raise NotImplementedError

    def _forward_reward(self, velocity: np.ndarray) -> np.ndarray:
        return self._core._forward_reward_weight * velocity

    def _cost(self, fields: Fields, action: np.ndarray) -> np.ndarray:
        del fields
        # in the action's type, float32 for a policy's, as there
        return self._core._ctrl_cost_weight * np.square(action).sum(axis=-1)


def _between(low: float, values: np.ndarray, high: float) -> np.ndarray:
    return (low < values) & (values < high)


class _Hopper(Rules):
    velocity_bound = 10.0

    def is_healthy(self, fields: Fields) -> np.ndarray:
        state = np.concatenate((fields["qpos"], fields["qvel"]), axis=1)
        low, high = self._core._healthy_state_range
        healthy_state = _between(low, state[:, 2:], high).all(axis=1)
        low, high = self._core._healthy_z_range
        healthy_z = _between(low, state[:, 1], high)
        low, high = self._core._healthy_angle_range
        return healthy_state & healthy_z & _between(low, state[:, 2], high)


class _Walker2d(Rules):
    velocity_bound = 10.0

    def is_healthy(self, fields: Fields) -> np.ndarray:
        low, high = self._core._healthy_z_range
        healthy_z = _between(low, fields["qpos"][:, 1], high)
        low, high = self._core._healthy_angle_range
        return healthy_z & _between(low, fields["qpos"][:, 2], high)


class _HalfCheetah(Rules):  # knows no health
    def judge(
        self, fields: Fields, action: np.ndarray, velocity: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        reward = self._forward_reward(velocity) - self._cost(fields, action)
        return reward, np.zeros(len(reward), bool)


class _Ant(Rules):  # with and without contact forces
    positions_excluded = 2

    def __init__(self, core: Any, obs_dim: int):
        forces = ("cfrc_ext",) if core._use_contact_forces else ()
        self.extra_fields = ("torso", *forces)
        super().__init__(core, obs_dim)

    def further_observed(self) -> tuple[str, ...]:
        return ("cfrc_ext",) if self._core._use_contact_forces else ()

    def position(self, fields: Fields) -> np.ndarray:
        return fields["torso"][:, 0]

    def is_healthy(self, fields: Fields) -> np.ndarray:
        low, high = self._core._healthy_z_range
        z = fields["qpos"][:, 2]
        finite = np.isfinite(fields["qpos"]).all(axis=1) & np.isfinite(fields["qvel"]).all(axis=1)
        return finite & (low <= z) & (z <= high)

    def _observed(self, field: str, fields: Fields) -> np.ndarray:
        return np.clip(fields[field], *self._core._contact_force_range)

    def _forward_reward(self, velocity: np.ndarray) -> np.ndarray:
        return velocity

    def _cost(self, fields: Fields, action: np.ndarray) -> np.ndarray:
        cost = super()._cost(fields, action)
        if not self._core._use_contact_forces:
            return cost
        forces = np.square(self._observed("cfrc_ext", fields)).sum(axis=-1)
        return cost + self._core._contact_cost_weight * forces


class _Humanoid(Rules):
    positions_excluded = 2
    extra_fields = ("xipos", "ctrl")

    def further_observed(self) -> tuple[str, ...]:
        return ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")

    def position(self, fields: Fields) -> np.ndarray:
        mass = self._core.model.body_mass
        total = mass.sum()
        # row by row: a sum over bodies of all rows together would be taken in another order
        weighted = [np.einsum("b,bj->j", mass, row.reshape(-1, 3)) for row in fields["xipos"]]
        return np.array([row[0] / total for row in weighted])

    def is_healthy(self, fields: Fields) -> np.ndarray:
        low, high = self._core._healthy_z_range
        return _between(low, fields["qpos"][:, 2], high)

    def _cost(self, fields: Fields, action: np.ndarray) -> np.ndarray:
        return super()._cost(fields, fields["ctrl"])  # of the controls in the simulation, in float64


RULES: Mapping[type[gymnasium.Env], type[Rules]] = {
    hopper_v4.HopperEnv: _Hopper,
    walker2d_v4.Walker2dEnv: _Walker2d,
    half_cheetah_v4.HalfCheetahEnv: _HalfCheetah,
    ant_v4.AntEnv: _Ant,
    humanoid_v4.HumanoidEnv: _Humanoid,
}
