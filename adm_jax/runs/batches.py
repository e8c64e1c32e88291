"""A population that is trained a batch of members at a time, because not all fit into memory.

Each batch is a whole run in a folder of its own, ``<run_id>/batches/<number>``; what they say is put together
in the run's folder, as if all members had been trained side by side.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from adm_jax.files import to_json
from adm_jax.population.members import Member, seeds_of
from adm_jax.population.memory import DoesNotFit
from adm_jax.runs.clock import sum_clocks
from adm_jax.runs.folder import PHASES, RunFolder
from adm_jax.runs.progress import print_result
from adm_jax.runs.results import setting_results
from adm_jax.types import InputError

Lines = Sequence[Mapping[str, Any]]
T = TypeVar("T")


def batch_sizes(num_members: int, members_per_batch: int | None, num_devices: int | None) -> list[int]:
    """Sizes of batches worth trying, largest first: they divide the population, and devices divide them.

    Raises:
      InputError: the size that was asked for does not divide the population, or devices do not divide it.
    """
    if members_per_batch is not None and num_members % members_per_batch:
        raise InputError(f"members_per_batch: {members_per_batch} does not divide the {num_members} members")
    whole = members_per_batch or num_members
    if whole % (num_devices or 1):
        raise InputError(f"num_devices: {num_devices} does not divide the {whole} members trained at a time")
    if members_per_batch is not None:
        return [members_per_batch]
    sizes = [size for size in range(num_members, 0, -1) if num_members % size == 0]
    return [size for size in sizes if size % (num_devices or 1) == 0]


def first_that_fits(sizes: Sequence[int], build: Callable[[int], T]) -> T:
    """What ``build`` makes of the first size that fits into memory; why the larger ones do not is printed.

    Raises:
      DoesNotFit: not even the last one does.
    """
    *larger, last = sizes
    for size in larger:
        try:
            return build(size)
        except DoesNotFit as error:
            print(f"{size} members at a time: {error}")
    return build(last)


def run_batches(
    folder: RunFolder,
    size: int,
    run_batch: Callable[[RunFolder], Mapping[str, Any]],
    references: Mapping[str, float],
) -> dict[str, Any]:
    """Trains the members of a run ``size`` at a time, and puts their files together; returns the result.

    Args:
      folder: the run's folder.
      size: members of a batch.
      run_batch: trains the members of a batch in its folder, from wherever it was stopped, and returns its
        result.json's content.
      references: label -> return, drawn into the curves.
    """
    members = folder.members
    batches = [members[start : start + size] for start in range(0, len(members), size)]
    parts = [folder.part(number, batch) for number, batch in enumerate(batches)]
    found = []
    for part in parts:
        print(f"batch {part.path.name}: {', '.join(member.tag for member in part.members)}")
        found.append(run_batch(part))
    result = merge_results(members, found)
    folder.replace_rows(
        merge_rows(batches, [part.read_metrics() for part in parts]),
        merge_rows(batches, [part.read_eval() for part in parts]),
    )
    folder.draw_curves(references)
    result = folder.write_result(result)
    print_result(result)
    return result


def merge_results(members: Sequence[Member], results: Lines) -> dict[str, Any]:
    """The result of a population from those of its batches, in order."""
    rows = [row for result in results for row in result["members"]]
    estimates = [row for result in results for row in result.get("estimates", ())]
    frozen = [row for result in results for row in result["frozen"]]

    def per_seed(name: str) -> list[Any]:
        of_seed: dict[int, Any] = {}
        for result in results:
            for row in result[name]:
                of_seed.setdefault(row["seed"], row)
        return list(of_seed.values())

    return {
        **results[0],
        "members": rows,
        "frozen": frozen,
        "settings": setting_results(members, rows, frozen),
        "estimates": estimates,
        "bc": per_seed("bc"),
        "model": per_seed("model"),
        "wall_clock": sum_clocks([result["wall_clock"] for result in results]),
    }


def merge_rows(batches: Sequence[Sequence[Member]], rows: Sequence[Lines]) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl or eval.jsonl of a population from those of its batches.

    An array over a batch's members becomes one over all members, an array over its seeds one over all
    seeds. Where a batch has no such line (its fits had stopped), its numbers are null. ``time`` becomes what
    all batches together had taken up to their own lines.
    """
    by_line: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    for batch, of_batch in enumerate(rows):
        for row in of_batch:
            by_line.setdefault((row["phase"], row["epoch"]), {})[batch] = row
    merged = []
    clocks: dict[int, Mapping[str, float]] = {}  # each batch's at its last line so far
    for phase, epoch in sorted(by_line, key=lambda line: (PHASES.index(line[0]), line[1])):
        present = by_line[phase, epoch]
        line = dict(next(iter(present.values())))
        if "time" in line:
            clocks |= {batch: row["time"] for batch, row in present.items()}
            line["time"] = sum_clocks(list(clocks.values()))
        for name, example in line.items():
            if not isinstance(example, list):
                continue
            before_policies = phase in ("fit", "model", "pretrain") or name.startswith("bc/")
            names = [_names(batch, before_policies) for batch in batches]
            found: dict[str, Any] = {}
            for batch, row in present.items():
                for one, item in zip(names[batch], row[name], strict=True):
                    found.setdefault(one, item)  # a seed's fit is the same in every batch
            nothing = to_json(np.full(np.shape(example[0]), np.nan))
            line[name] = [found.get(one, nothing) for one in dict.fromkeys(itertools.chain(*names))]
        merged.append(line)
    return merged


def _names(batch: Sequence[Member], of_seeds: bool) -> list[str]:
    return [f"seed{seed}" for seed in seeds_of(batch)] if of_seeds else [member.tag for member in batch]
