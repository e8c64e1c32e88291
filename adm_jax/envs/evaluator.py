"""Evaluating a whole population of policies in the real environment, all episodes side by side.

The policy is called once a step for everything that still runs; the environments step as a batch, see
adm_jax.envs.batch. An episode that has ended is not stepped any more.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from adm_jax.envs import environment
from adm_jax.envs.batch import make_batch
from adm_jax.types import Array, EnvSpec, InputError

ActFn = Callable[[np.ndarray], Array | np.ndarray]  # obs [P, E, D] float32 -> action [P, E, A]


class EvaluationResult(NamedTuple):
    """Every episode of one evaluation."""

    returns: np.ndarray  # [P, E] float64, undiscounted
    lengths: np.ndarray  # [P, E] int64, steps
    discounted: np.ndarray  # [P, E, G] float64, with each of the discounts that were asked for
    after: np.ndarray  # [P, E, C] float64, undiscounted, of as many first steps as were asked for


class Evaluator:
    """P x E environments, made once and reset for every evaluation.

    Episode ``e`` of the member with seed ``s`` in evaluation ``i`` is reset with
    ``reset_seed(root_seed, i, s, e)``: a member sees the same starts alone and among others.
    """

    def __init__(
        self,
        env: EnvSpec | str,
        member_seeds: Sequence[int],
        num_episodes: int,
        root_seed: int = 0,
        spare_cores: int = 0,
    ):
        """Makes the environments; ``spare_cores`` are left to what else there is to do meanwhile.

        Raises InputError: the environment cannot be used (see environment.make_env), or there is nothing to
        run.
        """
        if not member_seeds or num_episodes < 1:
            raise InputError(
                f"evaluation: {len(member_seeds)} members with {num_episodes} episodes leave nothing to run"
            )
        self.env_id = environment.as_spec(env).env_id
        self.member_seeds = tuple(member_seeds)
        self.num_episodes = num_episodes
        self.root_seed = root_seed
        self._batch = make_batch(env, len(self.member_seeds) * num_episodes, spare_cores)
        self.action_low, self.action_high = self._batch.action_low, self._batch.action_high  # [A] each
        self.obs_dim = self._batch.obs_dim
        self.step_limit = self._batch.step_limit

    def describe(self) -> dict[str, Any]:
        """What a score depends on: environment, step limit, episodes and the simulator's versions."""
        return {
            "env_id": self.env_id,
            "step_limit": self.step_limit,
            "num_episodes": self.num_episodes,
            **environment.versions(),
        }

    def evaluate(
        self,
        act_fn: ActFn,
        evaluation: int = 0,
        gammas: Sequence[float] = (),
        marks: Sequence[int] = (),
        max_steps: int | None = None,
    ) -> EvaluationResult:
        """Runs E episodes of every member to their end.

        ``act_fn`` is called once a step with the observations [P, E, D] of all environments; those of
        finished ones are stale, and the actions for them are not used. Actions are clipped to the
        environment's bounds: MuJoCo clamps the controls there itself, so that only the control cost could
        differ.

        Another index of the ``evaluation`` gives other initial states. ``gammas`` are G discounts, ``marks``
        C numbers of first steps; without ``max_steps`` the environment's own limit holds.

        Raises:
          ValueError: the actions have the wrong shape.
          InputError: the policy or the environment gave a number that is not finite; the member is named.
        """
        shape = (len(self.member_seeds), self.num_episodes)
        seeds = [
            environment.reset_seed(self.root_seed, evaluation, seed, episode)
            for seed in self.member_seeds
            for episode in range(self.num_episodes)
        ]
        obs = self._batch.reset(seeds).astype(np.float32).reshape(*shape, self.obs_dim)
        returns, lengths = np.zeros(shape), np.zeros(shape, np.int64)
        self._check_outcome(obs, returns, lengths)
        discounted, discount = np.zeros((*shape, len(gammas))), np.ones(len(gammas))
        after = np.zeros((*shape, len(marks)))
        running = np.ones(shape, bool)
        while running.any():
            # the policy gets a copy: a device may still be reading its input while this one is written
            action = np.asarray(act_fn(obs.copy()))
            self._check(action, running)
            action = np.clip(action, self.action_low, self.action_high)
            step = self._batch.step(action[running], np.flatnonzero(running))
            obs[running] = step.obs
            returns[running] += step.reward
            discounted[running] += step.reward[:, None] * discount
            discount *= gammas
            after[running] += step.reward[:, None] * (lengths[running][:, None] < marks)
            lengths[running] += 1
            running[running] = ~(step.terminated | step.truncated)
            running &= lengths < (max_steps or self.step_limit)
            obs[~running & ~np.isfinite(obs).all(axis=-1)] = 0.0  # some environments end an episode so
            self._check_outcome(obs, returns, lengths)
        return EvaluationResult(returns, lengths, discounted, after)

    def _check(self, action: np.ndarray, running: np.ndarray) -> None:
        expected = (*running.shape, *self.action_low.shape)
        if action.shape != expected:
            raise ValueError(
                f"environment {self.env_id}: the policy gave actions of shape {action.shape}, not {expected}"
            )
        broken = running & ~np.isfinite(action).all(axis=-1)
        if broken.any():
            member, episode = np.argwhere(broken)[0]
            seed = self.member_seeds[member]
            raise InputError(
                f"environment {self.env_id}: the policy of member {member} (seed {seed}) gave the action "
                f"{action[member, episode]}; must be finite"
            )

    def _check_outcome(self, obs: np.ndarray, returns: np.ndarray, lengths: np.ndarray) -> None:
        broken = ~(np.isfinite(obs).all(axis=-1) & np.isfinite(returns))
        if broken.any():
            member, episode = np.argwhere(broken)[0]
            steps, seed = lengths[member, episode], self.member_seeds[member]
            raise InputError(
                f"environment {self.env_id}: after {steps} steps of episode {episode} of member {member} "
                f"(seed {seed}) the return is {returns[member, episode]} and the observation "
                f"{obs[member, episode]}; must be finite"
            )

    def close(self) -> None:
        """Frees the environments."""
        self._batch.close()
