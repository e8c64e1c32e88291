"""What a run has written."""

import json
from pathlib import Path

from adm_jax.config import OfflineConfig
from adm_jax.config.models import get_model


def run_folder(config: OfflineConfig) -> Path:
    algorithm = get_model(config.dynamics).algorithm + "_fh" * config.rollout.persistent
    (folder,) = (Path(config.workdir) / algorithm / config.task).iterdir()
    return folder


def lines(path: Path) -> list[dict]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "time"} for row in rows]
