"""Programs over a population, compiled before anything of it is allocated."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adm_jax.population.devices import AXIS


@dataclass(frozen=True)
class Program:
    """A compiled function; its arguments are brought to where it wants them."""

    compiled: jax.stages.Compiled
    shardings: tuple[jax.sharding.Sharding, ...] | None = None  # of its arguments; None: wherever they are

    def __call__(self, *args: Any) -> Any:
        """Calls it."""
        if self.shardings is not None:
            args = tuple(jax.device_put(arg, s) for arg, s in zip(args, self.shardings, strict=True))
        return self.compiled(*args)


def compile_program(
    fn: Callable[..., Any],
    member_args: Sequence[Any],
    shared_args: Sequence[Any] = (),
    *,
    mesh: Mesh | None = None,
    donate: Sequence[int] = (),
) -> Program:
    """Compiles ``fn(*member_args, *shared_args)``, so that its memory is known before anything is allocated.

    Args:
      fn: to be compiled; all it gives back has a leading axis P.
      member_args: arrays with a leading axis P, or ShapeDtypeStructs of them.
      shared_args: those that all members share.
      mesh: devices that the members are spread over; one that holds everything already when None.
      donate: positions of the arguments whose buffers the results may reuse.
    """
    donate = tuple(donate)
    if mesh is None or mesh.size == 1:
        return Program(jax.jit(fn, donate_argnums=donate).lower(*member_args, *shared_args).compile())
    specs = (PartitionSpec(AXIS),) * len(member_args) + (PartitionSpec(),) * len(shared_args)
    spread = jax.shard_map(fn, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
    shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
    program = jax.jit(spread, in_shardings=shardings, donate_argnums=donate)
    return Program(program.lower(*member_args, *shared_args).compile(), shardings)
