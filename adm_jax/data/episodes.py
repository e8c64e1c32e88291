"""Host-side episodes: what every file format is read into and every Dataset is made from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from adm_jax.types import ActionBounds, is_bounded

FIELDS = ("obs", "action", "reward", "next_obs", "terminated", "truncated")


class Reset(NamedTuple):
    """What a recorded episode began with."""

    episode: int
    seed: int
    options: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class EpisodeData:
    """N transitions in NumPy arrays, episode after episode, each in its order of time.

    The last transition of every episode, and none other, has ``terminated`` or ``truncated`` set.
    """

    obs: np.ndarray  # [N, D] float32
    action: np.ndarray  # [N, A] float32
    reward: np.ndarray  # [N] float32
    next_obs: np.ndarray  # [N, D] float32
    terminated: np.ndarray  # [N] bool
    truncated: np.ndarray  # [N] bool
    source: str = ""  # file or Minari id, for messages
    metadata: Mapping[str, Any] = field(default_factory=dict)
    # of the spaces stored with the data: lowest and highest action [A], and observation [D], where there are
    action_space: tuple[np.ndarray, np.ndarray] | None = None
    obs_space: tuple[np.ndarray, np.ndarray] | None = None  # None in this library's files: it bounds nothing
    resets: tuple[Reset, ...] = ()  # of the first episodes, where they were seeded; not saved

    @property
    def episode_ends(self) -> np.ndarray:
        """Indices [E] of the episodes' last transitions."""
        return np.flatnonzero(self.terminated | self.truncated)

    @property
    def episode_lengths(self) -> np.ndarray:
        """Lengths [E] in transitions."""
        return np.diff(self.episode_ends, prepend=-1)

    @property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted returns [E], summed in float64."""
        starts = np.concatenate([[0], self.episode_ends[:-1] + 1])
        return np.add.reduceat(self.reward.astype(np.float64), starts)

    def return_statistics(self) -> dict[str, float]:
        """Episode mean, transition-weighted mean and best return: three ways to say how good the data is."""
        returns, lengths = self.episode_returns, self.episode_lengths
        return {
            "episode_return_mean": float(returns.mean()),
            "transition_weighted_return_mean": float((returns * lengths).sum() / lengths.sum()),
            "episode_return_max": float(returns.max()),
        }

    def describe_returns(self) -> str:
        """Them in words."""
        mean, weighted, best = self.return_statistics().values()
        return f"returns: mean {mean:.1f}, best {best:.1f}, weighted by length {weighted:.1f}"

    def action_bounds(self) -> tuple[ActionBounds, str]:
        """Bounds of the actions as the data have them, and where they come from, in words.

        They are those of the stored action space; without a finite one, of the largest action on both sides.
        Raises InputError: a dimension of it has but one action.
        """
        if self.action_space is not None and is_bounded(*self.action_space).all():
            return ActionBounds.of(*self.action_space, self.source), "the dataset's action space"
        largest = float(np.float32(np.abs(self.action).max(initial=1e-3)))
        bounds = ActionBounds.symmetric(largest, self.action.shape[1])
        return bounds, "the largest action in the data, which have no action space"

    def digests(self) -> dict[str, str]:
        """SHA-256 of every field's bytes, stored with the data to notice a bit that flipped on disk."""
        return {
            name: hashlib.sha256(np.ascontiguousarray(getattr(self, name)).data).hexdigest()
            for name in FIELDS
        }


def end_at(data: EpisodeData, terminal: np.ndarray) -> EpisodeData:
    """The same episodes, each terminated at its first transition to a ``terminal`` [N] state.

    What came behind those transitions is left out.
    """
    ends = data.episode_ends
    starts = np.repeat(ends - data.episode_lengths + 1, data.episode_lengths)
    before = np.cumsum(terminal) - terminal  # [N] terminal ones ahead of each, in all episodes
    kept = before == before[starts]
    fields = {name: getattr(data, name)[kept] for name in FIELDS}
    return replace(data, **{**fields, "terminated": fields["terminated"] | terminal[kept]})
