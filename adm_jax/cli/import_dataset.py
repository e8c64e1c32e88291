"""Imports a file of transitions into the local Minari store.

adm-jax import --source=d4rl --path=FILE.hdf5 --dataset=hopper/replay-v0
adm-jax import --source=neorl --path=FILE.npz --dataset=neorl/hopper-low-v0
"""

import shlex
import sys
from pathlib import Path

import numpy as np
from absl import flags

from adm_jax.config.references import import_named
from adm_jax.data.formats import d4rl, minari_files, minari_io, neorl
from adm_jax.types import ActionBounds, InputError

FLAGS = flags.FLAGS
_READERS = {"d4rl": d4rl.read, "neorl": neorl.read}


def define() -> None:
    """Defines the flags."""
    flags.DEFINE_enum("source", "d4rl", list(_READERS), "layout of the file")
    flags.DEFINE_string("path", None, "the file to import")
    flags.DEFINE_string("dataset", None, "Minari id to import it as, as hopper/replay-v0")
    flags.DEFINE_string(
        "env_id",
        None,
        "Gymnasium id of the environment; module:id first imports a module of your own, which registers it; "
        "when empty a D4RL file's attribute tells, or a NeoRL file's name where its data agree; else there "
        "is none",
    )
    flags.DEFINE_integer(
        "max_episode_steps",
        None,
        "step limit of the episodes; needed for D4RL files without timeouts and next_observations, and for "
        "NeoRL files not of MuJoCo that have no truncated; where known, a longer episode is refused",
        1,
    )
    bounds = (
        "bound of the actions, or one for each dimension, as {}; when empty {}1, or what the data have where "
        "there is no environment"
    )
    flags.DEFINE_list("action_low", None, f"lower {bounds.format('0,0.7', '-')}")
    flags.DEFINE_list("action_high", None, f"upper {bounds.format('5,1', '')}")
    flags.DEFINE_bool("overwrite", False, "replace a dataset of this id")


def main(_: list[str]) -> None:
    """Reads, validates, saves, and prints what was done."""
    for name in ("path", "dataset"):
        if not FLAGS[name].value:
            raise InputError(f"{name}: empty; give it, as in --path=FILE --dataset=hopper/replay-v0")
    minari_files.check_id(FLAGS.dataset)
    if not (FLAGS.overwrite and minari_files.exists(FLAGS.dataset)):
        minari_files.check_free(FLAGS.dataset, instead="give --overwrite")  # before the long reading
    read, env_id = _READERS[FLAGS.source], FLAGS.env_id and import_named(FLAGS.env_id, "env_id")
    data, report = read(Path(FLAGS.path), env_id=env_id, max_episode_steps=FLAGS.max_episode_steps)
    bounds, bounds_from = ActionBounds.symmetric(1.0, data.action.shape[1]), None
    if report.env_id is None:
        bounds, bounds_from = data.action_bounds()
    low, high = _given("action_low", bounds.low), _given("action_high", bounds.high)
    folder = minari_io.save(
        data,
        FLAGS.dataset,
        env_id=report.env_id,
        action_low=np.asarray(low),
        action_high=np.asarray(high),
        command=shlex.join(["adm-jax", "import", *sys.argv[1:]]),
        overwrite=FLAGS.overwrite,
    )
    for line in report.lines():
        print(line)
    if bounds_from is not None:
        print(
            "no environment is named, so that policies of these data are not evaluated for real; --env_id "
            "names one here, --task=<name> in a run"
        )
        if FLAGS.action_low is None or FLAGS.action_high is None:
            print(
                f"actions lie within {ActionBounds(low, high)}: {bounds_from}; --action_low and "
                f"--action_high give others"
            )
    print(data.describe_returns())
    print(f"saved as {FLAGS.dataset} in {folder}")


def _given(flag: str, otherwise: tuple[float, ...]) -> tuple[float, ...]:
    """One bound for each of A dimensions, of a flag that gives one for all or each; else ``otherwise``."""
    values: list[str] | None = FLAGS[flag].value
    if values is None:
        return otherwise
    try:
        given = tuple(float(value) for value in values)
    except ValueError:
        given = ()
    if len(given) not in (1, len(otherwise)):
        raise InputError(
            f"{flag}: {','.join(values)!r}: must be a number, or one for each of the {len(otherwise)} "
            "dimensions of the actions, as 0,0.7"
        )
    return given * (len(otherwise) if len(given) == 1 else 1)
