"""Imports a file of transitions into the local Minari store.

python -m experiments.import_dataset --source=d4rl --path=FILE --dataset=hopper/replay-v0
"""

import shlex
import sys
from pathlib import Path

from absl import flags

from adm_jax.data import d4rl, minari_files, minari_io
from adm_jax.types import InputError
from experiments import app

FLAGS = flags.FLAGS
flags.DEFINE_enum("source", "d4rl", ["d4rl"], "layout of the file")
flags.DEFINE_string("path", None, "the file to import")
flags.DEFINE_string("dataset", None, "Minari id to import it as, as hopper/replay-v0")
flags.DEFINE_string("env_id", None, "Gymnasium id of the environment; the file's attribute env_id when empty")
flags.DEFINE_integer(
    "max_episode_steps",
    None,
    "time limit of the episodes, for files without timeouts and next_observations",
    1,
)
flags.DEFINE_float("action_low", -1.0, "lower bound of the actions")
flags.DEFINE_float("action_high", 1.0, "upper bound of the actions")
flags.DEFINE_bool("overwrite", False, "replace a dataset of this id")


def main(_: list[str]) -> None:
    """Reads, validates, saves, and prints what was done."""
    for name in ("path", "dataset"):
        if not FLAGS[name].value:
            raise InputError(f"{name}: empty; give it, as in --path=FILE --dataset=hopper/replay-v0")
    minari_files.check_id(FLAGS.dataset)
    if not (FLAGS.overwrite and minari_files.exists(FLAGS.dataset)):
        minari_files.check_free(FLAGS.dataset, instead="give --overwrite")  # before the long reading
    data, report = d4rl.read(Path(FLAGS.path), env_id=FLAGS.env_id, max_episode_steps=FLAGS.max_episode_steps)
    folder = minari_io.save(
        data,
        FLAGS.dataset,
        env_id=report.env_id,
        action_low=FLAGS.action_low,
        action_high=FLAGS.action_high,
        command=shlex.join(["python", "-m", "experiments.import_dataset", *sys.argv[1:]]),
        overwrite=FLAGS.overwrite,
    )
    for line in report.lines():
        print(line)
    returns = data.return_statistics()
    print(
        f"returns: mean {returns['episode_return_mean']:.1f}, best {returns['episode_return_max']:.1f}, "
        f"weighted by length {returns['transition_weighted_return_mean']:.1f}"
    )
    print(f"saved as {FLAGS.dataset} in {folder}")


if __name__ == "__main__":
    app.run(main)
