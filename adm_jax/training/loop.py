"""What a run and its loop are to each other: the plan that a run follows, and the steps that a loop does."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from adm_jax.config.references import named_in, source_digest
from adm_jax.config.settings import to_flat
from adm_jax.data.episodes import EpisodeData
from adm_jax.population.members import Member
from adm_jax.runs.checkpoint import Restored
from adm_jax.runs.clock import WallClock
from adm_jax.tasks import EnvlessTask, Task
from adm_jax.training.components import Components
from adm_jax.types import Params

Config = Any  # OfflineConfig or OnlineConfig
Note = dict[str, list[dict[str, Any]]]  # kind -> rows of name -> dtype and the members' values


class Stage(NamedTuple):
    """A stretch of a run, as its progress is shown."""

    name: str
    total: int  # epochs, or environment steps
    done: int
    saves: bool = True  # whether a checkpoint can be taken behind the next step


class Step(NamedTuple):
    """What a loop has just done, and what belongs to it."""

    phase: str  # of the lines in metrics.jsonl and eval.jsonl
    epoch: int  # epochs of the phase done; online environment steps
    counts: Mapping[str, int]  # further entries of these lines: updates, steps
    metrics: Mapping[str, Any] | None = None  # of a line in metrics.jsonl; arrays over the members, or seeds
    unchecked: Collection[str] = ()  # metrics that may be NaN and mean nothing by it
    tags: Sequence[str] = ()  # whose metrics they are
    running: np.ndarray | None = None  # whose numbers count [P] bool; everyone's when None
    info: Mapping[str, Any] | None = None  # what progress shows; None: nothing yet
    rates: Mapping[str, float] = {}  # counts an epoch (online: an environment step), shown per second
    policies: Params | None = None  # [P]; to be evaluated now
    unaveraged: Params | None = None  # [P]; where policies are averages: what of, to be evaluated as well
    save: bool = False  # whether a checkpoint is due


class Loop(Protocol):
    """What a run does step by step, for all its members."""

    components: Components
    abstract_policies: Params  # shapes of all members' [P]

    def stage(self) -> Stage | None:
        """What the next step belongs to; None at the end."""
        ...

    def advance(self) -> Step:
        """Does the next step."""
        ...

    def to_save(self) -> Any:
        """What a checkpoint must hold, behind any step of a phase that has checkpoints."""
        ...

    def to_note(self) -> Note:
        """What else a checkpoint must hold, as JSON can."""
        ...

    def abstract_states(self) -> Mapping[str, Callable[[int], Any]]:
        """For each of these phases, a function of the epoch: the shapes of its state."""
        ...

    def restore(self, restored: Restored) -> Step:
        """Goes on from a checkpoint; the step it was saved behind."""
        ...

    def summarize(
        self, members: tuple[Member, ...], metrics: Sequence[Any], evals: Sequence[Any]
    ) -> dict[str, Any]:
        """The loop's part of result.json, from all members' lines of metrics.jsonl and eval.jsonl."""
        ...

    def close(self) -> None:
        """Frees the environments."""
        ...


class Desk(NamedTuple):
    """What a loop gets from its run."""

    clock: WallClock
    note: Callable[[str], None]  # shows a line
    require_room: Callable[[Any], None]  # asks the disk for room for checkpoints of a state; see Checkpointer
    anywhere: Callable[[bool], bool] = bool  # whether something is so in any process of the run


@dataclass(frozen=True)
class Plan:
    """What is wanted of a run, checked and not begun."""

    config: Config
    task: Task
    algorithm: str
    last_epoch: int  # of phase train
    open: Callable[[tuple[Member, ...], Desk], Loop]  # allocates and compiles what so many members need
    sizes: Sequence[int]  # members trained at a time: the first that fits into memory is taken
    data: EpisodeData | None = None  # what is learned from, if that is there already
    notes: Sequence[str] = ()  # lines about it
    warmup_steps: int = 0
    command: str = "adm-jax offline"  # that resumes the run
    # of a run that is made longer, before and the epochs done: where one begun so long has done otherwise
    differences: Callable[[Config, int], Sequence[str]] = lambda before, start: ()

    @property
    def record(self) -> dict[str, Any]:
        """Entries of config.json that decide about the run's numbers, and that a resume compares."""
        named = named_in(to_flat(self.config))
        own = {name: source_digest(reference, name) for name, reference in named.items()}
        data = {} if self.data is None else {"dataset_sha256": self.data.digests()}
        of_task = self.task.record if isinstance(self.task, EnvlessTask) else {}
        return {**data, **of_task, **({"own_code_sha256": own} if own else {})}

    @property
    def references(self) -> dict[str, float]:
        """Label to return, drawn into the curves."""
        if self.data is None:
            return {}
        return {"dataset mean": self.data.return_statistics()["episode_return_mean"]}
