"""A benchmark's result: ways timed side by side, put into rows, shown and written down."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from absl import app, flags

from adm_jax.nn.precision import matmul_precision
from adm_jax.population.memory import DoesNotFit
from adm_jax.types import InputError
from benchmarks.speed import measure, options
from benchmarks.speed.counting import Counts
from benchmarks.speed.measure import Timing
from benchmarks.speed.options import Options

ABSENT = {"absent": "PyTorch was not asked for or is not installed (pip install -e '.[bench]')"}
TORCH_ROWS = ("torch_authors", "torch_fair")
TORCH_GRAPHS = "torch_graphs"  # the fair row again, replayed from CUDA graphs: on NVIDIA's GPUs alone
# how XLA says it, also INTERNAL of a computation that waited for another, and how PyTorch does
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


def compare(
    options: Options,
    ways: Mapping[str, Callable[[], Any]],
    counts: Mapping[str, Counts],
    work: Mapping[str, float],
    unit: str,
    details: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Times ways that alternate with the machine's ceilings, and reports a row for each.

    Args:
      options: how often.
      ways: name -> run; those that ``counts`` has are the library's, the others are PyTorch's.
      counts: what a run of the library's ways multiplies.
      work: what a run of each way does, in ``unit``.
      unit: of the work, per second.
      details: further entries of a way's row; with ``left_out``, the reason why there is no such way.
    """
    top = measure.make_ceilings(options.matmul_size or 1, options.copy_mib)
    products = {f"products of {name}": measure.products_way(count) for name, count in counts.items()}
    timings = measure.alternate({**ways, **products, **top.ways}, options.repeats)
    rows: dict[str, dict[str, Any]] = {}
    for name in ways:
        row = measure.summarize(timings[name], work[name], unit)
        if name in counts:
            row |= measure.efficiency(counts[name], timings[name], top, timings)
            alone = measure.ratio(timings[f"products of {name}"], timings[name])
            row["fraction_of_ceiling_at_these_shapes"] = alone["median"]
        rows[name] = {**row, **details.get(name, {})}
    others = [name for name in ways if name not in counts]
    ratios = {own: _ratios(own, others, timings, work) for own in counts}
    rows |= {} if others else {name: dict(ABSENT) for name in TORCH_ROWS}
    # what could not be timed is there with its reason
    rows |= {name: dict(detail) for name, detail in details.items() if "left_out" in detail}
    if options.trace and counts:
        traced = next(iter(counts))
        with jax.profiler.trace(options.trace):
            ways[traced]()
        rows[traced]["trace"] = options.trace
    return {"rows": rows, "ratios": ratios, "ceilings": top.report(timings)}


def add(
    name: str,
    row: tuple[Callable[[], Any] | None, dict[str, Any]],
    ways: dict[str, Callable[[], Any]],
    details: dict[str, Any],
) -> None:
    """Adds a row of PyTorch to what is timed; one that cannot be run has but its reason (``left_out``)."""
    run, details[name] = row
    if run is not None:
        ways[name] = run


def _ratios(
    own: str, others: list[str], timings: Mapping[str, Timing], work: Mapping[str, float]
) -> dict[str, Any]:
    """How many times the rate of the others is the library's."""
    return {name: measure.ratio(timings[name], timings[own], work[own] / work[name]) for name in others}


def show(name: str, result: Mapping[str, Any]) -> None:
    """Prints a result's rows and ratios, a line each."""
    print(f"{name}: {json.dumps(result.get('shapes', {}))}", flush=True)
    for row_name, row in result.get("rows", {}).items():
        print(f"  {row_name}: {', '.join(_texts(row))}")
    for own, ratios in result.get("ratios", {}).items():
        for other, ratio in ratios.items():
            print(f"  {own} is {ratio['median']:.2f} times as fast as {other}")
    for key, value in result.items():
        if key not in ("shapes", "rows", "ratios"):
            print(f"  {key}: {json.dumps(value)}")
    sys.stdout.flush()


def _texts(row: Mapping[str, Any]) -> list[str]:
    shown = {key: value for key, value in row.items() if not isinstance(value, list | dict)}
    return [
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in shown.items()
    ]


def write(path: str | None, content: Mapping[str, Any]) -> None:
    """Writes a JSON file in one rename, if a path is given: an earlier one is never left half-written."""
    if path is None:
        return
    temporary = Path(f"{path}.part")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    temporary.replace(path)


def out_of_memory(error: BaseException) -> str | None:
    """The line that says so where memory ran out; None where something else is wrong."""
    text = str(error)
    if not isinstance(error, MemoryError | DoesNotFit) and not any(sign in text for sign in _OUT_OF_MEMORY):
        return None
    return text.splitlines()[0] if text else "no more on the host"


def of_populations(makers: Mapping[str, Callable[[], tuple[Any, ...]]]) -> tuple[dict[str, Any], ...]:
    """Ways, details, counts and amounts of several populations, by their rows' names.

    Each maker gives those of its own rows, of which the first has the name it goes by. The first population
    must be there; a later one has the reason in its details where its part's time, or memory, is over.
    """
    found: tuple[dict[str, Any], ...] = ({}, {}, {}, {})
    for number, (name, make) in enumerate(makers.items()):
        if number and (late := measure.no_time()):
            found[1][name] = late
            continue
        try:
            ours = make()
            if number:
                ours[0][name]()  # memory that runs out is told of this population, not of all
        except (MemoryError, RuntimeError, DoesNotFit) as error:
            reason = out_of_memory(error)
            if not number or reason is None:
                raise
            found[1][name] = {"left_out": f"out of memory: {reason}"}
            continue
        for whole, part in zip(found, ours, strict=True):
            whole.update(part)
    return found


def launch(run: Callable[[Options], dict[str, Any]]) -> None:
    """A benchmark's command line: flags to options, the result printed and, with ``--json``, written."""

    def main(argv: list[str]) -> None:
        del argv
        chosen = options.from_flags()
        with matmul_precision(chosen.matmul_precision):
            environment = measure.environment()
            name = environment["command"].split()[2]
            print(json.dumps(environment), flush=True)
            result = run(chosen)
        show(name, result)
        write(chosen.json, {"environment": environment, **result})

    options.define_flags()
    start(main)


def start(main: Callable[[list[str]], None], takes_files: bool = False) -> None:
    """Runs ``main`` under absl; what a user got wrong is one line on stderr and exit code 2.

    Words that are no flags are refused, unless ``takes_files``.
    """

    def guarded(argv: list[str]) -> None:
        try:
            if len(argv) > 1 and not takes_files:
                raise InputError(f"{argv[1]!r} is not a flag; flags look like --name=value")
            main(argv)
        except (InputError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        except (MemoryError, RuntimeError) as error:
            reason = out_of_memory(error)
            if reason is None:
                raise
            print(f"error: out of memory: lower num_seeds, population or batches: {reason}", file=sys.stderr)
            sys.exit(2)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(130)

    options.leave_memory_for_torch()
    app.run(guarded, flags_parser=_parse)


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        print(f"error: {error} (--help lists all flags)", file=sys.stderr)
        sys.exit(2)
