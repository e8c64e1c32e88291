"""Minari's remote: is it there, and fetch a dataset from it.

Minari itself retries for 23 s when there is no network, and downloads into the place where it will look for
datasets. Here one short request asks first, and the download runs in a process of its own whose datasets
folder is a hidden staging folder: an interrupted one leaves nothing that looks like a dataset.
"""

import logging
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

from adm_jax.data.formats import minari_files, minari_write
from adm_jax.types import InputError

logger = logging.getLogger(__name__)

PROBE_SECONDS = 6.0
_DEFAULT_REMOTE = "hf://farama-minari"
_DOWNLOAD = "import sys, minari; minari.download_dataset(sys.argv[1])"


def remote_name() -> str:
    """The remote Minari would use: ``MINARI_REMOTE`` or its default."""
    return os.environ.get("MINARI_REMOTE") or _DEFAULT_REMOTE


def unreachable(seconds: float = PROBE_SECONDS) -> str:
    """Why the remote cannot be reached, empty where it can.

    The request runs in a thread because looking up a name knows no time limit.
    """
    kind, _, author = remote_name().partition("://")
    if kind != "hf":  # a bucket of the user's own: Minari must find out
        return ""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE is set"
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    answer = [f"{endpoint} does not answer within {seconds:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{endpoint}/api/datasets?author={author}&limit=1", timeout=seconds):
                answer[0] = ""
        except TimeoutError:
            pass
        except (OSError, ValueError) as error:  # URLError and HTTPError are OSErrors
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            answer[0] = f"{endpoint}: {' '.join(str(reason).split())}"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answer[0]


def download(dataset_id: str, root: Path) -> Path:
    """Fetches a dataset into ``root``; takes as long as the network does.

    Raises InputError: one line that says what was looked for, where, and how to import a file instead.
    """
    reason = unreachable()
    if reason:
        raise InputError(_not_found(dataset_id, root, f"{remote_name()} cannot be reached ({reason})"))
    logger.warning("%s: not in %s; downloading it from %s", dataset_id, root, remote_name())
    try:
        staging = minari_write.make_staging(root)
    except OSError as error:
        raise InputError(
            f"dataset: {dataset_id} cannot be written to {root} ({minari_files.one_line(error)}); "
            f"set {minari_files.ROOT_VARIABLE} to a folder that can be written"
        ) from error
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _DOWNLOAD, dataset_id],
            env={**os.environ, minari_files.ROOT_VARIABLE: str(staging)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode or not minari_files.exists(dataset_id, staging):
            reason = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
            raise InputError(_not_found(dataset_id, root, f"{remote_name()} did not give it ({reason})"))
        return minari_write.publish(staging / dataset_id, dataset_id, root)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _not_found(dataset_id: str, root: Path, remote: str) -> str:
    source = "neorl" if "neorl" in dataset_id.lower() else "d4rl"
    return (
        f"dataset: {dataset_id} is not in {root} and {remote}; to import a file: "
        f"adm-jax import --source={source} --path=FILE --dataset={dataset_id}"
    )
