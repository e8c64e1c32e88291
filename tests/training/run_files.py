"""What a run has written, also one that was killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from orbax.checkpoint import v1 as ocp

from adm_jax.config import OfflineConfig, OnlineConfig
from adm_jax.config.models import get_model
from adm_jax.config.settings import to_flat

ROOT = Path(__file__).parents[2]


def run_folder(config: OfflineConfig) -> Path:
    algorithm = get_model(config.dynamics).algorithm + "_fh" * config.rollout.persistent
    (folder,) = (Path(config.workdir) / algorithm / config.task).iterdir()
    return folder


def computed(result: dict) -> dict:
    """Of result.json what the same run gives again."""
    own = ("wall_clock", "stretches", "files", "seal")
    return {name: value for name, value in result.items() if name not in own}


def lines(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]


def newest_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Every array of the newest checkpoint."""
    return arrays_of(folder, max((folder / "checkpoints").glob("train-*")).name)


def arrays_of(folder: Path, checkpoint: str) -> dict[str, np.ndarray]:
    """Every array of a checkpoint."""
    arrays = ocp.load(folder / "checkpoints" / checkpoint / "arrays")
    return {name: np.asarray(array) for name, array in arrays.items()}


def kill(experiment: str, config: OfflineConfig | OnlineConfig, checkpoint: str) -> None:
    """Runs an experiment in a process of its own, and kills it once a checkpoint stands."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command(experiment, config), cwd=ROOT, env=environment, **output) as run:
        deadline = time.monotonic() + 300
        while not list(Path(config.workdir).glob(f"*/*/*/checkpoints/{checkpoint}")):
            assert run.poll() is None, run.stdout and run.stdout.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.005)
        run.send_signal(signal.SIGKILL)


def command(experiment: str, config: OfflineConfig | OnlineConfig) -> list[str]:
    """What runs an experiment with a configuration in a process of its own."""
    flags = [f"--{name}={_text(value)}" for name, value in to_flat(config).items() if value is not None]
    return [sys.executable, "-m", f"experiments.{experiment}", *flags]


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
