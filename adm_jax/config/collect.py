"""Which datasets are collected with a run of SAC."""

from dataclasses import dataclass

from adm_jax.config.settings import check, setting
from adm_jax.types import InputError

DEFAULT_KINDS = ("random", "medium", "replay", "expert", "medium-expert")
KINDS = (*DEFAULT_KINDS, "full-replay")


@dataclass(frozen=True)
class CollectConfig:
    """What is kept of a run of SAC, and of the policies it has learned."""

    kinds: tuple[str, ...] = setting(
        DEFAULT_KINDS,
        f"what to collect, of {', '.join(KINDS)}; full-replay alone where --builtin_file is given without it",
    )
    num_transitions: int = setting(100_000, "transitions of random, medium and expert each", low=1)
    medium_return: float | None = setting(
        None,
        "return at which a policy is medium; when empty a third of the way from the task's random to its "
        "expert return",
    )
    deterministic: bool = setting(
        False, "medium and expert policies act by their mode, not by samples as in D4RL"
    )

    def __post_init__(self) -> None:
        check(self)
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds:
            raise InputError(f"kinds: {(unknown or [''])[0]!r} is unknown; some of {', '.join(KINDS)}")
        if len(set(self.kinds)) != len(self.kinds):
            raise InputError(f"kinds: {','.join(self.kinds)} names a kind twice")
