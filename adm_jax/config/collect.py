"""Which datasets are collected with a run of SAC."""

import math
from dataclasses import dataclass

from adm_jax.types import InputError

DEFAULT_KINDS = ("random", "medium", "replay", "expert", "medium-expert")
KINDS = (*DEFAULT_KINDS, "full-replay")


@dataclass(frozen=True)
class CollectConfig:
    """What is collected beside the run of SAC."""

    kinds: tuple[str, ...] = DEFAULT_KINDS
    num_transitions: int = 100_000  # of random, medium and expert each
    medium_return: float | None = None  # MEDIUM_SHARE of the task's references when None
    deterministic: bool = False  # medium and expert act by their mode, not by samples

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"kinds: {(unknown or [''])[0]!r} is unknown; some of {', '.join(KINDS)}")
        if len(set(self.kinds)) != len(self.kinds):
            raise InputError(f"kinds: {','.join(self.kinds)} names a kind twice")
        if self.num_transitions < 1:
            raise InputError(f"num_transitions: {self.num_transitions} is out of range; at least 1")
        if self.medium_return is not None and not math.isfinite(self.medium_return):
            raise InputError(f"medium_return: {self.medium_return} is out of range; a finite number")
