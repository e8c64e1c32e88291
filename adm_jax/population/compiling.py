"""Programs over a population: written for one member, mapped, spread over devices, compiled ahead of time."""

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from adm_jax.config.run import RunConfig
from adm_jax.nn.precision import matmul_precision
from adm_jax.population.devices import AXIS
from adm_jax.population.memory import require_compiled
from adm_jax.types import Array

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# XLA for GPU refuses operations that sum in any order, and takes each product's kernel without trying several
_DETERMINISTIC_OPS: dict[str, str | bool] = {"xla_gpu_deterministic_ops": True}
_compiler_options: ContextVar[dict[str, str | bool] | None] = ContextVar("compiler_options", default=None)


@contextlib.contextmanager
def compiling(config: RunConfig) -> Iterator[None]:
    """A context in which a run's programs are traced and compiled."""
    token = _compiler_options.set(_DETERMINISTIC_OPS if config.deterministic_ops else None)
    try:
        with matmul_precision(config.matmul_precision):
            yield
    finally:
        _compiler_options.reset(token)


class Whole(NamedTuple):
    """Arrays of all members, and which of them a program runs for: nothing of the others is copied."""

    tree: Any  # leaves [P, ...]
    index: Array  # []

    def at(self, *rows: Array) -> Any:
        """The member's own leaves, or their entries at ``rows``."""
        return jax.tree.map(lambda x: x[(self.index, *rows)], self.tree)


@dataclass(frozen=True)
class Program(Generic[P, R]):
    """A compiled function; it brings its arguments to where it wants them."""

    compiled: jax.stages.Compiled
    shardings: tuple[jax.sharding.Sharding, ...] | None = None  # of the arguments; None: wherever they are

    def share(self, tree: T) -> T:
        """Arrays that all members share, on each of the program's devices: calls need not copy them then."""
        shared = (s for s in self.shardings or () if s.is_fully_replicated)
        sharding = next(shared, None)
        return tree if sharding is None else jax.device_put(tree, sharding)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls it; arguments are positional."""
        values = args
        if self.shardings is not None:
            values = tuple(jax.device_put(arg, s) for arg, s in zip(args, self.shardings, strict=True))
        return self.compiled(*values, **kwargs)


@dataclass(frozen=True)
class MemberProgram(Generic[P, R]):
    """A function of one member, and how a population runs it.

    In the population its arguments and results have a leading axis P, but for those it declares ``shared``.
    Of ``whole`` arguments the function gets a ``Whole``: sliced, each member's would be copied first.
    """

    fn: Callable[P, R]
    mapping: str  # vmap or map
    shared: Collection[str] = ()  # names of arguments that all members share
    whole: Collection[str] = ()  # names of arguments the function indexes itself
    donated: Collection[str] = ()  # names of arguments whose memory the results reuse

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Runs the members, not compiled: for jax.jit and jax.eval_shape."""
        names = self._names(len(args))
        own = {n: x for n, x in zip(names, args, strict=True) if n not in (*self.shared, *self.whole)}
        others = {n: x for n, x in zip(names, args, strict=True) if n not in own}
        index = jnp.arange(jax.tree.leaves(own)[0].shape[0]) if self.whole else None

        def one(member: tuple[dict[str, Any], Array | None]) -> R:
            values, number = member
            wrapped = {n: others[n] for n in others}
            for n in self.whole:
                wrapped[n] = None if others[n] is None else Whole(others[n], number)  # pyright: ignore
            return self.fn(*(values[n] if n in values else wrapped[n] for n in names))  # pyright: ignore

        mapped = jax.vmap(one) if self.mapping == "vmap" else lambda members: jax.lax.map(one, members)
        return mapped((own, index))

    @property
    def donated_positions(self) -> tuple[int, ...]:
        """Of the donated arguments."""
        return tuple(i for i, name in enumerate(self._names()) if name in self.donated)

    def shapes(self, *args: Any) -> R:
        """Shapes of the results for (abstract) arguments."""
        return jax.eval_shape(self, *args)

    def compile(self, *args: Any, mesh: Mesh | None = None) -> Program[P, R]:
        """Compiles it for (abstract) arguments, so that its memory is known before anything is allocated.

        Args:
          args: as the program will be called with.
          mesh: devices that the members are spread over; one that holds everything already when None.

        Raises:
          DoesNotFit: the compiler refuses it, as it takes more memory than the device has.
        """
        donate = self.donated_positions
        if mesh is None or mesh.size == 1:
            return Program(self._compiled(jax.jit(self, donate_argnums=donate).lower(*args)))
        names = self._names(len(args))
        specs = tuple(PartitionSpec() if name in self.shared else PartitionSpec(AXIS) for name in names)
        spread = jax.shard_map(
            self, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False
        )
        shardings = tuple(NamedSharding(mesh, spec) for spec in specs)
        program = jax.jit(spread, in_shardings=shardings, donate_argnums=donate)
        return Program(self._compiled(program.lower(*args)), shardings)

    def _compiled(self, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
        try:
            return lowered.compile(_compiler_options.get())
        except jax.errors.JaxRuntimeError as error:
            name = getattr(getattr(self.fn, "func", self.fn), "__name__", "a program")
            require_compiled(name.removesuffix("_program"), error)
            raise

    def _names(self, number: int | None = None) -> list[str]:
        return list(inspect.signature(self.fn).parameters)[:number]


def compiled_of(programs: Any) -> dict[str, jax.stages.Compiled]:
    """The compiled functions of a NamedTuple of programs, by name; it may nest others, and lack some."""
    found = {}
    for name, program in programs._asdict().items():
        if isinstance(program, Program):
            found[name] = program.compiled
        elif program is not None:
            found |= compiled_of(program)
    return found
