"""What every run of policy optimisation has, offline or in the real environment."""

from dataclasses import dataclass, field
from typing import Literal

from adm_jax.config.models import ModelConfig, RecurrentConfig, get_model
from adm_jax.config.parts import FitConfig, SACConfig
from adm_jax.config.settings import check, setting
from adm_jax.types import InputError, MatmulPrecision

MAX_SEED = 2**32 - 1
MAX_ROWS = 2**30  # of a ring buffer: its index is int32


@dataclass(frozen=True)
class RunConfig:
    """Which model and task, which members, where they run; each loop adds its own settings."""

    dynamics: str = setting("adm", "dynamics model")
    task: str = setting("", "task name")
    seeds: tuple[int, ...] = setting(
        (0, 1, 2), "seeds of the members, trained side by side", low=0, high=MAX_SEED
    )
    workdir: str = setting("runs", "folder that holds the run's folder")
    real_ratio: float = setting(0.05, "share of real transitions in a SAC batch", low=0.0, high=1.0)
    eval_episodes: int = setting(10, "episodes per member and evaluation", low=1, high=1000)
    members: Literal["auto", "vmap", "map"] = setting(
        "auto", "how members share the program; auto: map on CPU, vmap on GPU"
    )
    num_devices: int | None = setting(
        None, "devices that the members are spread over; as many as divide them when empty", low=1
    )
    matmul_precision: MatmulPrecision = setting(
        "default",
        "precision of matrix products; default: tensorfloat32 on NVIDIA's GPUs, bfloat16 on TPUs, else "
        "float32; tensorfloat32: float32 where there is no such product",
    )
    checkpoint_share: float = setting(
        0.02,
        "largest share of the time that checkpoints may take: those due too soon after another are left out, "
        "but for the first and the last; 1 leaves out none",
        above=0.0,
        high=1.0,
    )
    deterministic_ops: bool = setting(
        False, "the same bits each time on a GPU, at some loss of speed; a CPU gives them anyway"
    )
    memory_limit_gib: float | None = setting(
        None, "memory this run may use; what is free when empty", above=0.0
    )
    model: ModelConfig = field(default_factory=RecurrentConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    sac: SACConfig = field(default_factory=SACConfig)

    def _check_run(self, *, has_model: bool = True) -> None:
        """Raises InputError at the first of these settings that cannot be."""
        check(self)
        if has_model:
            wanted = get_model(self.dynamics).config_class
            if not isinstance(self.model, wanted):
                given = type(self.model).__name__
                raise InputError(f"model: dynamics={self.dynamics} needs a {wanted.__name__}, not {given}")
        if not self.seeds:
            raise InputError("seeds: empty; give at least one, as in --seeds=0,1,2")
        if len(set(self.seeds)) != len(self.seeds):
            seeds = ",".join(map(str, self.seeds))
            raise InputError(f"seeds: {seeds} names a seed twice; each member needs its own")

    def _check_buffer(self, rows: int, product: str) -> None:
        """Raises InputError where the model buffer is too large, or a batch has no real transition."""
        if rows > MAX_ROWS:
            raise InputError(
                f"rollout_batch_size: times {product} it is {rows} rows of model buffer; at most {MAX_ROWS}"
            )
        if self.real_ratio > 0 and int(self.real_ratio * self.sac.batch_size) == 0:
            raise InputError(
                f"real_ratio: {self.real_ratio} of batch_size {self.sac.batch_size} is less than one "
                "transition; set it to 0 or raise one of them"
            )
