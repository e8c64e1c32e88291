"""What the commands that learn policies have in common: their flags, and a run or a resume."""

import os
import shlex
import sys
from typing import Any

from absl import flags as absl_flags

from adm_jax.cli import app, flags
from adm_jax.config import OfflineConfig, OnlineConfig, config_for_task, online_config_for_task
from adm_jax.types import InputError

FLAGS = absl_flags.FLAGS
_LENGTH = {OfflineConfig: "num_epochs", OnlineConfig: "num_steps"}  # what a resume may change


def define(config_class: type[OfflineConfig | OnlineConfig], **defaults: Any) -> None:
    """Defines a run's flags, with ``defaults`` of this command."""
    flags.define(config_class)
    for name, value in defaults.items():
        FLAGS.set_default(name, value)
    flags.define_compilation_cache()
    text = (
        "folder of a run to continue from its newest checkpoint; excludes other flags, but "
        f"--{_LENGTH[config_class]}=N, which makes it longer"
    )
    absl_flags.DEFINE_string("resume", None, text, module_name=sys.argv[0])
    text = (
        "goes on with other code, versions, device or data than a run was left with, which its config.json "
        "and result.json then tell, and imports the modules that a run from another host or user names"
    )
    absl_flags.DEFINE_bool("resume_anyway", False, text, module_name=sys.argv[0])
    text = (
        "HOST:PORT of the first of several processes that share the members, each with the same flags but "
        "--process_id; auto: the scheduler's variables tell (SLURM's, Open MPI's)"
    )
    absl_flags.DEFINE_string("coordinator", None, text, module_name=sys.argv[0])
    text = "how many processes share the members; they must divide them"
    absl_flags.DEFINE_integer("num_processes", None, text, module_name=sys.argv[0])
    text = "which of them this is; 0, the first, has the run's folder"
    absl_flags.DEFINE_integer("process_id", None, text, module_name=sys.argv[0])


def run(config_class: type[OfflineConfig | OnlineConfig], **defaults: Any) -> int:
    """Learns, evaluates and prints a table per seed; ``defaults`` lie below the flags that are given.

    Returns the exit code: 3 where a member's policy was frozen before the end.
    """
    given, length = flags.explicit(config_class), _LENGTH[config_class]
    others = [name for name in given if name != length]
    if FLAGS.resume is not None and others:
        raise InputError(
            f"{others[0]}: --resume keeps the run's configuration and takes no other flag than --{length}"
        )
    if FLAGS.resume_anyway and FLAGS.resume is None:
        raise InputError("resume_anyway: says how a run is resumed; give --resume=<its folder>")
    offline_run = config_class is OfflineConfig
    make_config: Any = config_for_task if offline_run else online_config_for_task
    config = None if FLAGS.resume is not None else make_config(**{**defaults, **given})
    # Imported here, as it takes seconds: a mistyped flag is refused at once.
    from adm_jax.population import compilation_cache
    from adm_jax.population.devices import require_jax
    from adm_jax.runs import hosts
    from adm_jax.training import offline, online

    loop: Any = offline if offline_run else online
    try:
        with hosts.joined(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id):
            require_jax()
            together = hosts.Hosts()
            with together.sharing_errors():
                compilation_cache.enable(FLAGS.compilation_cache)
                if FLAGS.resume is not None and together.is_first:
                    _check_command(FLAGS.resume, "offline" if offline_run else "online")
            if FLAGS.resume is None:
                result = loop.run(config)
            else:
                result = loop.resume(FLAGS.resume, given.get(length), anyway=FLAGS.resume_anyway)
    except hosts.Lost as error:  # JAX's own farewell would wait for the process that is gone
        code = app.fail(error)
        sys.stdout.flush()
        os._exit(code)
    return app.PARTIAL if result["frozen"] else 0


def _check_command(folder: str, command: str) -> None:
    """Raises InputError where another command than this one continues what is in a folder."""
    from adm_jax.runs.folder import RunFolder

    run = RunFolder.open(folder)
    algorithm, quoted = run.config["algorithm"], shlex.quote(str(run.path))
    if "fits" in run.config:
        raise InputError(
            f"resume: {run.path} holds a measurement, {algorithm}, which goes on with the same flags: "
            f"adm-jax {algorithm.replace('_', '-')}"
        )
    own = "online" if "num_steps" in run.config["config"] else "offline"
    if own != command:
        raise InputError(
            f"resume: {run.path} is a run of {algorithm}, no {command} one; adm-jax {own} --resume={quoted} "
            "continues it"
        )
