"""What the loops of a compiled program launch and move, read from XLA's optimised HLO text.

Every instruction of the scheduled module that is not free is a kernel (or a call of a library); it reads its
operands from memory and writes its result. Of an operand that is only sliced what is sliced counts, of an
update in place what is updated. Branches of a conditional count equally.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

_BYTES = {"pred": 1, "bf16": 2, "f16": 2, "token": 0, "opaque": 0}  # others by their bits
_FREE = (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("add-dependency", "partition-id", "replica-id", "copy-done", "async-done", "async-update"),
)
_GRU_OPERANDS, _UNITS = 6, 64  # of adm_jax.nn.fused: a kernel's operands, and the units of its tiles
_CALLED = re.compile(
    r"\b(?:calls|body|condition|to_apply|true_computation|false_computation|called_computation)=%?([\w.\-]+)"
    r"|\b(?:branch_computations|called_computations)=\{([^}]*)\}"
)
_TRIP_COUNT = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    type: str  # of the result, "(f32[2,3]{1,0}, s32[])"
    op: str
    operands: tuple[str, ...]
    text: str  # operands and attributes
    is_root: bool

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls, of a while its body's first."""
        found = []
        for one, several in _CALLED.findall(self.text):
            found += [one] if one else re.findall(r"[\w.\-]+", several)
        if self.op == "while":
            body = re.search(r"\bbody=%?([\w.\-]+)", self.text)
            assert body is not None
            return [body[1]]
        return found

    @property
    def trips(self) -> int:
        """How often a while's body is run; 1 where XLA doesn't say."""
        known = _TRIP_COUNT.search(self.text)
        return int(known[1]) if known else 1


class Cost(NamedTuple):
    """Of one run of a computation."""

    kernels: float = 0.0
    bytes: float = 0.0

    def plus(self, other: "Cost", times: float = 1.0) -> "Cost":
        """The sum of it and so many times the other."""
        return Cost(self.kernels + times * other.kernels, self.bytes + times * other.bytes)


class Kernel(NamedTuple):
    """One launch of a program."""

    times: float  # launched in one run of the program, a mean where branches differ
    op: str
    bytes: int
    flops: float  # of its products
    size: int  # elements of its largest result


class Loop(NamedTuple):
    """A while and what one of its steps costs, loops inside of it included."""

    trips: int
    depth: int  # loops that it is inside of
    step: Cost


class Module:
    """The computations of an optimised program."""

    def __init__(self, text: str):
        """``text``: ``compiled.as_text()``."""
        self._computations: dict[str, dict[str, Instruction]] = {}
        self._entry = ""
        current: dict[str, Instruction] | None = None
        for line in text.splitlines():
            header = re.match(r"(ENTRY )?%?([\w.\-]+) .*\{$", line)
            if header and not line.startswith(" ") and "=" not in line.split("(")[0]:
                current = self._computations[header[2]] = {}
                self._entry = header[2] if header[1] else self._entry
            elif line.startswith("}"):
                current = None
            elif current is not None and (instruction := _parse(line)) is not None:
                current[instruction.name] = instruction
        if not self._entry:
            raise ValueError("no HLO text: it has no ENTRY computation")

    def total(self) -> Cost:
        """Of one run of the program."""
        return self._cost(self._entry)

    def loops(self) -> list[Loop]:
        """All loops that the program runs, also those inside of others; outer ones first."""
        return list(self._loops(self._entry, 0))

    def kernels(self) -> Iterator[Kernel]:
        """All that the program launches."""
        yield from self._kernels(self._entry, 1.0)

    def _kernels(self, computation: str, times: float) -> Iterator[Kernel]:
        for instruction in self._computations[computation].values():
            called = instruction.called
            if instruction.op == "while":
                yield from self._kernels(called[0], times * instruction.trips)
            elif instruction.op == "conditional":
                yield Kernel(times, "conditional", 0, 0.0, 0)
                for name in called:
                    yield from self._kernels(name, times / len(called))
            elif instruction.op in ("call", "async-start"):
                yield from self._kernels(called[0], times)
            elif instruction.op not in _FREE:
                flops = self._flops(instruction, computation)
                moved, size = (
                    self._bytes(instruction, computation),
                    max(map(math.prod, dims(instruction.type))),
                )
                yield Kernel(times, instruction.op, moved, flops, size)

    def _flops(self, instruction: Instruction, computation: str) -> float:
        if instruction.op == "fusion":
            inner = instruction.called[0]
            return sum(self._flops(other, inner) for other in self._computations[inner].values())
        names = self._computations[computation]
        operands = [dims(names[name].type)[0] for name in instruction.operands if name in names]
        (result, *_) = dims(instruction.type) or [()]
        if instruction.op == "dot":
            contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.text)
            assert contracted is not None
            inner_size = math.prod(operands[0][int(axis)] for axis in contracted[1].split(",") if axis)
            return 2.0 * math.prod(result) * inner_size
        if not re.search(r"gpu\.triton|triton_kernel_call", instruction.text):
            return 0.0
        width = -(-result[-1] // _UNITS) * _UNITS
        if len(operands) == _GRU_OPERANDS:  # x, hidden states, weights of both, biases
            return 6.0 * width * sum(math.prod(operand) for operand in operands[:2])
        return 2.0 * math.prod(result) * width  # a residual block

    def _loops(self, computation: str, depth: int) -> Iterator[Loop]:
        for instruction in self._computations[computation].values():
            is_loop = instruction.op == "while"
            if is_loop:
                yield Loop(instruction.trips, depth, self._cost(instruction.called[0]))
            if instruction.op in ("while", "conditional", "call"):
                for name in instruction.called:
                    yield from self._loops(name, depth + is_loop)

    def _cost(self, computation: str) -> Cost:
        cost = Cost()
        for instruction in self._computations[computation].values():
            called = instruction.called
            if instruction.op == "while":
                cost = cost.plus(self._cost(called[0]), instruction.trips)
            elif instruction.op == "conditional":
                for name in called:
                    cost = cost.plus(self._cost(name), 1 / len(called))
            elif instruction.op in ("call", "async-start"):
                cost = cost.plus(self._cost(called[0]))
            elif instruction.op not in _FREE:
                cost = cost.plus(Cost(1, self._bytes(instruction, computation)))
        return cost

    def _bytes(self, instruction: Instruction, computation: str) -> int:
        types = {name: other.type for name, other in self._computations[computation].items()}
        operands = [num_bytes(types[name]) for name in instruction.operands]
        if instruction.op == "dynamic-slice":
            return 2 * num_bytes(instruction.type)
        if instruction.op == "dynamic-update-slice":
            return 2 * operands[1]
        if instruction.op != "fusion":
            return sum(operands) + num_bytes(instruction.type)
        inner = self._computations[instruction.called[0]]
        parameters = {
            int(p.text.partition(")")[0][1:]): p.name for p in inner.values() if p.op == "parameter"
        }
        read = sum(_read(inner, parameters[n], size) for n, size in enumerate(operands))
        (root,) = (other.name for other in inner.values() if other.is_root)
        return read + _written(inner, root)


def _read(inner: Mapping[str, Instruction], name: str, size: int) -> int:
    """Bytes that a fusion reads of a parameter of that size."""
    total = 0
    for user in inner.values():
        for position, operand in enumerate(user.operands):
            if operand != name:
                continue
            if position == 0 and user.op in ("dynamic-slice", "slice", "gather"):
                total += num_bytes(user.type)
            elif user.op == "bitcast":
                total += _read(inner, user.name, size)
            elif position > 0 or user.op not in ("dynamic-update-slice", "scatter"):
                return size
    return min(total, size)


def _written(inner: Mapping[str, Instruction], name: str) -> int:
    """Bytes that a fusion writes of a result."""
    result = inner[name]
    if result.op == "tuple":
        return sum(_written(inner, operand) for operand in result.operands)
    if result.op == "bitcast" and result.operands[0] in inner:
        return _written(inner, result.operands[0])
    if result.op == "dynamic-update-slice":
        return num_bytes(inner[result.operands[1]].type)
    if result.op == "scatter":
        return num_bytes(inner[result.operands[-1]].type)
    return num_bytes(result.type)


def dims(type_text: str) -> list[tuple[int, ...]]:
    """Dimensions of all arrays in a type."""
    shapes = re.findall(r"\b[a-z]+\d*\[([\d,]*)\]", type_text)
    return [tuple(int(dim) for dim in shape.split(",") if dim) for shape in shapes]


def num_bytes(type_text: str) -> int:
    """Bytes of all arrays in a type."""
    total = 0
    for kind, dims in re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", type_text):
        bits = re.search(r"\d+$", kind)
        size = _BYTES.get(kind) if kind in _BYTES or bits is None else int(bits[0]) / 8
        assert size is not None, kind
        total += math.ceil(size * math.prod(int(dim) for dim in dims.split(",") if dim))
    return total


def _parse(line: str) -> Instruction | None:
    head = re.match(r"\s+(ROOT )?%?([\w.\-]+) = ", line)
    if head is None:
        return None
    rest = line[head.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    kind, rest = rest[:end], rest[end:].lstrip()
    op, _, _ = rest.partition("(")
    text = rest[len(op) :]
    inside = re.sub(r"/\*.*?\*/", "", text[: _closing(text)])
    operands = () if op in ("parameter", "constant") else tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(head[2], kind, op, operands, text, head[1] is not None)


def _closing(text: str) -> int:
    """The position behind the bracket that closes the first character's."""
    depth = 0
    for position, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return position + 1
    raise ValueError(f"no HLO text: {text[:80]!r} closes no bracket")
