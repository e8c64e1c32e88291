"""What a run shows while it goes on, and the table at its end."""

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import progress as rich_progress
from rich.console import Console
from rich.table import Table

_WINDOW = 20  # epochs that rates are averaged over
_OF_A_SETTING = (  # of result.json's "settings", in addition to what is swept
    *(
        "num_seeds",
        "left_out",
        "return_mean",
        "return_low",
        "return_high",
        "normalized_score",
        "last_10_return_mean",
    ),
)
_OF_BREAKING = ("epoch", "quantity")  # of "frozen", in addition to the member


class Progress:
    """Shows epochs, rates and the remaining time: a live bar on a terminal, plain lines otherwise.

    Use it as a context manager, so that an exception leaves the terminal as it was:

        with Progress() as progress:
            progress.begin("train", total=50)
            for _ in range(50):
                ...
                progress.advance(updates=3000, imagined_transitions=750_000, info={"return": 812.3})
    """

    def __init__(
        self,
        console: Console | None = None,
        interval: float = 10.0,
        now: Callable[[], float] = time.perf_counter,
    ):
        """``interval`` is the number of seconds between two plain lines."""
        self._console = console or Console(highlight=False)
        self._interval = interval
        self._now = now
        self._live: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None
        self._phase, self._total, self._done = "", 0, 0
        self._steps: deque[tuple[float, Mapping[str, float]]] = deque(maxlen=_WINDOW)
        self._last_time = self._last_line = 0.0
        self._warned: set[str] = set()  # of whom a number was said to be not finite

    def __enter__(self) -> "Progress":
        if self._console.is_terminal:
            self._live = rich_progress.Progress(
                rich_progress.TextColumn("[bold]{task.description}"),
                rich_progress.BarColumn(bar_width=24),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TimeElapsedColumn(),
                rich_progress.TextColumn("{task.fields[text]}"),
                console=self._console,
                refresh_per_second=2,
            )
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def begin(self, phase: str, total: int, done: int = 0) -> None:
        """Starts a phase of ``total`` epochs, of which ``done`` were done before a resume."""
        self._phase, self._total, self._done = phase, total, done
        self._steps.clear()
        self._last_time, self._last_line = self._now(), float("-inf")
        if self._live is not None:
            self._task = self._live.add_task(phase, total=total, completed=done, text="")

    def advance(self, epochs: int = 1, info: Mapping[str, Any] | None = None, **counts: float) -> None:
        """Reports that epochs are done.

        Args:
          epochs: how many since the last call.
          info: what to show with the rates; numbers are rounded.
          counts: what was done in them, shown as a rate: ``updates=3000`` becomes ``.. updates/s``.
        """
        now = self._now()
        self._steps.append((now - self._last_time, {"epochs": epochs, **counts}))
        self._last_time = now
        self._done += epochs
        text = "  ".join([*self._rate_texts(), *_info_texts(info or {})])
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=self._done, text=text)
        elif self._done >= self._total or now - self._last_line >= self._interval:
            self._last_line = now
            self._print(f"{self._phase} {self._done}/{self._total}  {text}")

    def end(self) -> None:
        """Ends a phase, also before its last epoch (early stopping)."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, total=self._done)
            self._live.stop_task(self._task)
            self._task = None

    @property
    def done(self) -> int:
        """Epochs of the phase that have been reported."""
        return self._done

    def note(self, line: str) -> None:
        """Prints a line, above the bar if there is one."""
        self._print(line)

    def warn_not_finite(
        self, where: str, tags: Sequence[str], metrics: Mapping[str, Any], counted: np.ndarray | None = None
    ) -> None:
        """Prints a line for a member's first number that is not finite, and none for its later ones.

        It says so where the policy is frozen for it.

        Args:
          where: the phase and how far it is.
          tags: the members' names, P of them.
          metrics: [P] each; those per backtracking length are passed over, as a length without held-out
            segments has no error.
          counted: whose numbers count [P] bool; everyone's when None.
        """
        for name, values in metrics.items():
            if "_per_" in name:
                continue
            broken = ~np.isfinite(np.asarray(values, np.float64))
            for tag in np.array(tags)[broken if counted is None else broken & counted].tolist():
                if tag not in self._warned:
                    self._warned.add(tag)
                    self._print(f"warning: {name} of {tag} is not finite in {where}")
        for tag in np.array(tags)[np.asarray(metrics.get("agent/frozen", ()), bool)].tolist():
            if f"{tag} frozen" not in self._warned:
                self._warned.add(f"{tag} frozen")
                self._print(f"warning: the policy of {tag} is frozen in {where}, as it was before")

    def rates(self) -> dict[str, float]:
        """``{count: per second}`` over the last epochs; empty before the first one."""
        seconds = sum(step[0] for step in self._steps)
        names = {name for _, counts in self._steps for name in counts}
        if seconds <= 0:
            return {}
        return {
            name: sum(counts.get(name, 0) for _, counts in self._steps) / seconds for name in sorted(names)
        }

    def _rate_texts(self) -> list[str]:
        rates = self.rates()
        speed = rates.pop("epochs", 0.0)
        texts = [
            f"{rate:,.{0 if rate >= 10 else 1}f} {name.replace('_', ' ')}/s" for name, rate in rates.items()
        ]
        if speed > 0 and self._done < self._total:
            texts.append(f"{_duration((self._total - self._done) / speed)} left")
        return texts

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_result(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the table of a result: a row per member, behaviour cloning, and the dataset's returns.

    Args:
      result: result.json's content: ``members`` and ``bc`` (lists of ``seed``, swept settings,
        ``return_mean``, ``return_std``, ``num_episodes``, ``normalized_score``), ``settings``,
        ``dataset`` and ``wall_clock``; without an environment ``evaluation`` has the ``reason``, and
        ``estimates`` are shown.
      console: where to print; stdout by default.
    """
    console = console or Console(highlight=False)
    if "reason" in result.get("evaluation", {}):
        console.print(f"nothing was evaluated for real: {result['evaluation']['reason']}", soft_wrap=True)
    console.print(result_table(result))
    for row in result.get("frozen", ()):
        member = ", ".join(f"{name} {value:g}" for name, value in row.items() if name not in _OF_BREAKING)
        console.print(
            f"{member}: frozen, as {row['quantity']} was not finite at epoch or step {row['epoch']}; "
            "left out of means",
            soft_wrap=True,
        )
    returns = {name: value for name, value in result.get("dataset", {}).items() if "return" in name}
    if returns:
        texts = [f"{name.replace('_', ' ')} {_number(value)}" for name, value in returns.items()]
        console.print(f"dataset: {', '.join(texts)}", soft_wrap=True)
    seconds = result.get("wall_clock", {})
    if seconds:
        texts = [f"{kind} {_duration(value)}" for kind, value in seconds.items()]
        console.print(f"wall clock: {', '.join(texts)}", soft_wrap=True)


def result_table(result: Mapping[str, Any]) -> Table:
    """The rows of ``print_result`` as a rich table; ``last 10`` is the mean of the last ten evaluations.

    Where settings are swept, each has a column, and a row of its seeds' means. Where nothing was evaluated,
    the rows are what the model and the critics say.
    """
    if "reason" in result.get("evaluation", {}):
        return _estimates_table(result["estimates"])
    settings = result.get("settings", [])
    swept = [name for name in (settings[0] if settings else ()) if name not in _OF_A_SETTING]
    table = Table(title="return in the real environment")
    for column in ("policy", "seed", *swept, "mean", "std", "episodes", "score", "last 10"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, members in (("learned", result.get("members")), ("behaviour cloning", result.get("bc"))):
        for member in members or []:
            values = [_number(member.get(setting)) for setting in swept]
            table.add_row(name, str(member["seed"]), *values, *_cells(member))
        means = settings if name == "learned" else [_mean_member(members or [])]
        for mean in means if members and len(members) > len(means) else []:
            values = [_number(mean.get(setting)) for setting in swept]
            table.add_row(name, "all", *values, *_cells(mean), style="bold")
        table.add_section()
    return table


def _estimates_table(estimates: Sequence[Mapping[str, Any]]) -> Table:
    """A row of what model and critics say of each policy."""
    table = Table(title="estimates from the data's initial states, no returns")
    for index, name in enumerate(estimates[0] if estimates else ()):
        table.add_column(name.replace("_", " "), justify="right" if index else "left")
    for row in estimates:
        table.add_row(*(_number(value) for value in row.values()))
    return table


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], console: Console | None = None
) -> None:
    """Shows rows of texts and numbers; None is shown as ``-``.

    Args:
      title: above the table.
      columns: their names; the first holds texts.
      rows: as many cells each as there are columns.
      console: where to; the terminal when None.
    """
    table = Table(title=title)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left")
    for row in rows:
        table.add_row(*(cell if isinstance(cell, str) else _number(cell) for cell in row))
    (console or Console(highlight=False)).print(table)


def _cells(row: Mapping[str, Any]) -> list[str]:
    names = ("return_mean", "return_std", "num_episodes", "normalized_score", "last_10_return_mean")
    return [_number(row.get(name)) for name in names]


def _mean_member(members: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Means over the members; what one of them lacks is left out."""
    means = {}
    for name in ("return_mean", "normalized_score", "last_10_return_mean"):
        values = [member[name] for member in members if member.get(name) is not None]
        if members and len(values) == len(members):
            means[name] = sum(values) / len(values)
    return means


def _info_texts(info: Mapping[str, Any]) -> list[str]:
    return [f"{name} {value if isinstance(value, str) else _number(value)}" for name, value in info.items()]


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.3g}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
