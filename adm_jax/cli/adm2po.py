"""ADM2PO: full-horizon policy optimisation in ADM-v2, from a dataset of real transitions.

adm-jax adm2po --task=hopper-builtin --seeds=0,1,2 --workdir=runs
adm-jax adm2po --task=hopper-medium-replay --dataset=hopper/mine-v0 --horizon=100
adm-jax adm2po --resume=runs/adm2po_fh/hopper-builtin/<run_id>

A few thousand environments live in the fitted model; their episodes go on from epoch to epoch, for up to
--horizon steps. Without flags it runs a quick preset on the dataset that comes with the package. With
--dynamics=adm or ensemble the other models are rolled out as far; --persistent=false is the loop of
``adm-jax offline``, with short roll-outs in ADM-v2 and ADMPO-OFF's settings.
"""

from adm_jax.cli import learning
from adm_jax.config import OfflineConfig

_DEFAULTS = {"dynamics": "adm_v2", "persistent": True}


def define() -> None:
    """Defines the flags."""
    learning.define(OfflineConfig, **_DEFAULTS)


def main(argv: list[str]) -> int:
    """Learns, evaluates and prints a table per seed; returns the exit code."""
    del argv
    return learning.run(OfflineConfig, **_DEFAULTS)
