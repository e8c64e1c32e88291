"""A run that is made longer than it was to be: what its folder keeps of its former end, and says of it.

A run that was always to be so long is not evaluated where this one ended, unless an evaluation was due there.
Where none was, an extended run goes back to the checkpoint before its end: so it equals the other to the last
bit, in its files too.
"""

from collections.abc import Callable, Iterable, Sequence

from adm_jax.runs import config_file
from adm_jax.runs.checkpoint import Checkpointer, Saved
from adm_jax.runs.folder import RunFolder, Standing
from adm_jax.types import InputError


def require_not_done(folder: RunFolder, name: str, length: int, standings: Iterable[Standing]) -> None:
    """Raises InputError: the run, or a batch of its members, has done more than its new length.

    ``name`` is the setting that is the length, ``num_epochs`` or ``num_steps``.
    """
    done = _done(standing.saved for standing in standings)
    if length < done:
        raise InputError(f"{name}: {length} is less than the {done} that {folder.path} has done; give more")


def extend(
    folder: RunFolder,
    name: str,
    length: int,
    eval_every: int,
    differences: Callable[[int], Sequence[str]],
) -> None:
    """Gives a run, whose stretch has begun, another length, and says what that means.

    config.json gets it, and an entry in its ``extensions``. A result of the former end becomes
    ``result-<length>.json``; checkpoints of an end where no evaluation was due are removed.

    Args:
      folder: the run's.
      name: the setting that is its length, ``num_epochs`` or ``num_steps``.
      length: the new one.
      eval_every: between evaluations, in the same unit.
      differences: what a run of the new length has done otherwise, in lines, by how much is done.

    Raises:
      InputError: such an end is the only checkpoint that is whole; it stays.
    """
    before, parts = folder.config["config"][name], folder.parts(read_only=False)
    checkpointers = [Checkpointer(part.checkpoints) for part in parts]
    end = ("train", before) if before % eval_every else None
    start = _done(checkpointer.newest(apart_from=end) for checkpointer in checkpointers)
    if end is not None:
        for checkpointer in checkpointers:
            checkpointer.remove(*end)
    for part in {each.path: each for each in (folder, *parts)}.values():
        part.put_result_aside(f"result-{before}.json")
    notes = list(differences(start))
    stretch = len(config_file.stretches(folder.config)) - 1  # it was extended at the beginning of
    entry = {name: length, "before": before, "from": start, "stretch": stretch, "notes": notes}
    folder.config = config_file.write(folder.path, config_file.with_extension(folder.config, entry, name))
    print(f"{folder.path}: {name} is {length} now, was {before}; {start} are done", *notes, sep="\n")


def _done(newest: Iterable[Saved | None]) -> int:
    """Epochs or steps in the newest checkpoints, of the batch of members that has come furthest."""
    return max((saved.epoch for saved in newest if saved is not None and saved.phase == "train"), default=0)
