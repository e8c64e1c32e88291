"""Counts what a JAX program multiplies: floating-point operations and bytes of its products, shape by shape.

The program's jaxpr is walked, so the counts are those of the mathematics as written, before XLA optimises
it, but without what no result depends on: every ``dot_general`` times the trip counts of the scans around it
(``lax.map`` and ``fori_loop`` with static bounds are scans too; what ``vmap`` adds is in the shapes).
Elementwise work counts as nothing. Bytes are those of a product's operands and result as if each were read
from and written to memory: an upper bound of the products' own traffic that fusion and caches undercut, and
without that of anything elementwise.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr


class Product(NamedTuple):
    """A ``dot_general`` by its shapes; two that are equal take the same time."""

    lhs: tuple[int, ...]
    rhs: tuple[int, ...]
    result: tuple[int, ...]
    dtypes: tuple[str, str, str]  # of lhs, rhs, result
    dimension_numbers: Any
    precision: Any

    @property
    def flops(self) -> int:
        """A multiplication and an addition for every entry of the result and of the contracted axes."""
        (contracted, _), _ = self.dimension_numbers
        return 2 * math.prod(self.result) * math.prod(self.lhs[axis] for axis in contracted)

    @property
    def bytes(self) -> int:
        """Of both operands and the result, once each."""
        shapes = (self.lhs, self.rhs, self.result)
        return sum(
            math.prod(shape) * jax.numpy.dtype(dtype).itemsize
            for shape, dtype in zip(shapes, self.dtypes, strict=True)
        )


class Counts(NamedTuple):
    """How often a program computes each product; a share of once where only some of its branches do."""

    products: Counter[Product]

    @property
    def flops(self) -> float:
        """Floating-point operations of all products."""
        return sum(product.flops * times for product, times in self.products.items())

    @property
    def bytes(self) -> float:
        """Bytes of all products' operands and results."""
        return sum(product.bytes * times for product, times in self.products.items())


def count(fn: Callable[..., Any], *args: Any) -> Counts:
    """Counts the products of ``fn(*args)``; arrays may be abstract (``jax.ShapeDtypeStruct``).

    Of a branch (``lax.cond``, ``lax.switch``) the mean over those that multiply at all is taken: a uniform
    draw among lengths, or work that a member which has stopped leaves out.

    Raises:
      ValueError: a loop without a static trip count holds products, or a kernel that is not of
        adm_jax.nn.fused.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return Counts(_walk(needed))


def _walk(jaxpr: Jaxpr) -> Counter[Product]:
    total: Counter[Product] = Counter()
    for equation in jaxpr.eqns:
        _add(total, _equation(equation))
    return total


def _equation(equation: Any) -> Counter[Product]:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        product = _product(equation)
        return Counter({product: 1} if product.flops else {})  # of no rows: nothing
    if name == "pallas_call":
        return _kernel(equation)
    if name == "cond":
        branches = [_walk(branch.jaxpr) for branch in params["branches"]]
        working = [branch for branch in branches if branch]
        return _sum((branch, 1 / len(working)) for branch in working)
    inner = _sum((_walk(jaxpr), 1) for jaxpr in _jaxprs(params))
    if inner and name in ("while", "conv_general_dilated"):
        raise ValueError(f"{name}: the products in it cannot be counted")
    factors = {"scan": lambda: params["length"], "shard_map": lambda: params["mesh"].size}
    return _sum([(inner, factors[name]() if name in factors else 1)])


def _kernel(equation: Any) -> Counter[Product]:
    """The products of a GRU layer's step, or of a residual block, as those of all rows by one matrix."""
    shapes = [variable.aval.shape for variable in equation.invars]
    operands = {"gru_layer": ((0, 2), (1, 3)), "residual_block": ((0, 1),)}
    own = equation.params["name"] or ""
    if own not in operands:
        raise ValueError(f"pallas_call: the products in {own} cannot be counted")
    total: Counter[Product] = Counter()
    for x, w in operands[own]:
        lhs, rhs = (math.prod(shapes[x][:-1]), shapes[x][-1]), shapes[w][-2:]
        contracted = (((1,), (0,)), ((), ()))
        total[Product(lhs, rhs, (lhs[0], rhs[1]), ("float32", "float32", "float32"), contracted, None)] += 1
    return total


def _product(equation: Any) -> Product:
    lhs, rhs = (variable.aval for variable in equation.invars)
    result = equation.outvars[0].aval
    return Product(
        lhs.shape,
        rhs.shape,
        result.shape,
        tuple(np.dtype(x.dtype).name for x in (lhs, rhs, result)),  # pyright: ignore[reportArgumentType]
        equation.params["dimension_numbers"],
        equation.params["precision"],
    )


def _jaxprs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """Everything an equation calls: the bodies of jit, scan, custom derivatives, checkpoints ..."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _sum(parts: Any) -> Counter[Product]:
    total: Counter[Product] = Counter()
    for part, factor in parts:
        _add(total, part, factor)
    return total


def _add(total: Counter[Product], part: Counter[Product], factor: float = 1) -> None:
    for product, times in part.items():
        total[product] += factor * times  # pyright: ignore[reportArgumentType]  # shares of once
