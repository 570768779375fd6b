"""What a compiled program does on one device, read from its text, with every loop counted in full.

XLA's own analysis counts the body of a loop once, however often it runs, and says nothing of what
moves between devices.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_SHAPE = re.compile(r"\b(pred|[suf]\d+\w*|bf16|c64|c128)\[([\d,]*)\](\{[^{}]*\})?")
_LAYOUT = re.compile(r"(\[[\d,]*\])\{[^{}]*\}")
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ *(ROOT )?%?([\w.-]+) = (.*)$")
_OPERATION = re.compile(r"(?:^|[\s)}\]])([a-z][\w-]*)\(")
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.-]+)")
# What moves no data by itself.
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call", "iota")


@dataclasses.dataclass(frozen=True)
class Program:
    """Totals of one run of a program on one device.

    Args:
        flops: of matrix products and convolutions. What custom kernels compute is not seen.
        memory: bytes that are read from and written to the device's main memory.
        moved: bytes that leave the device, by kind of collective, on rings within a slice.
        over: the same by kind and the axes of the mesh that it goes over: "all-gather over fsdp".
        between: those that go between slices.
        counts: how many collectives of each kind run.
        kernels: how often each custom kernel runs, by name.
    """

    flops: int
    memory: int
    moved: Mapping[str, int]
    over: Mapping[str, int]
    between: int
    counts: Mapping[str, int]
    kernels: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class _Value:
    kind: str
    sides: tuple[int, ...]
    on_chip: bool  # in fast memory beside the cores

    @property
    def size(self) -> int:
        """In bytes."""
        bits = re.search(r"\d+", self.kind)
        return math.ceil((int(bits[0]) if bits else 8) * math.prod(self.sides) / 8)


@dataclasses.dataclass(frozen=True)
class _Instruction:
    name: str
    operation: str
    made: tuple[_Value, ...]  # one, or those of a tuple
    operands: tuple[str, ...]
    text: str  # from the operation on
    is_root: bool


_Computation = dict[str, _Instruction]


def read(
    compiled: jax.stages.Compiled,
    axes: Mapping[str, int] | None = None,
    slice_size: int | None = None,
) -> Program:
    """The totals of a compiled program.

    Args:
        axes: the mesh that it is for.
        slice_size: so many devices are in a slice; None: there is one slice.
    """
    return parse(compiled.as_text(), axes, slice_size)


def parse(
    text: str, axes: Mapping[str, int] | None = None, slice_size: int | None = None
) -> Program:
    """The totals of a program from its text.

    Loops whose number of trips is decided when they run count once, and of the branches of a
    condition the costliest.
    """
    computations, entry = _computations(text)

    @functools.cache
    def totals(name: str, fused: bool) -> Counter[tuple[str, str]]:
        """Of one run of a computation: what is counted, and of which kind."""
        found: Counter[tuple[str, str]] = Counter()
        computation = computations[name]
        for each in computation.values():
            if each.operation == "while":
                trips = _trips(each.text, computations)
                inner = totals(_attribute(each.text, "body"), fused)
                found.update({key: trips * value for key, value in inner.items()})
                continue
            if branches := _branches(each.text):
                found.update(max((totals(branch, fused) for branch in branches), key=_cost))
                continue
            if not fused:
                found["memory", ""] += _traffic(each, computation, computations)
            kind = _collective(each)
            if kind is not None:
                leaves, groups = _leaves(kind, each, computation, computations)
                found["count", kind] += 1
                if slice_size is not None and _differ(groups // slice_size):
                    found["between", kind] += leaves
                else:
                    found["moved", kind] += leaves
                    found["over", f"{kind}{_over(groups, axes or {})}"] += leaves
                continue  # what it reduces with costs nothing
            if each.operation in ("dot", "convolution"):
                found["flops", ""] += _flops(each, computation)
            elif each.operation == "custom-call":
                found["kernel", _attribute(each.text, "custom_call_target")] += 1
            for called in _CALLED.findall(each.text):
                if called in computations:
                    found.update(totals(called, fused or each.operation == "fusion"))
        return found

    found = totals(entry, False)

    def of(what: str) -> dict[str, Any]:
        return {kind: value for (name, kind), value in found.items() if name == what}

    return Program(
        flops=found["flops", ""],
        memory=found["memory", ""],
        moved=of("moved"),
        over=of("over"),
        between=sum(of("between").values()),
        counts=of("count"),
        kernels=of("kernel"),
    )


def _cost(totals: Mapping[tuple[str, str], int]) -> tuple[int, int]:
    return totals.get(("flops", ""), 0), totals.get(("memory", ""), 0)


def _branches(text: str) -> list[str]:
    """The computations of which a conditional runs one."""
    if not text.startswith("conditional("):
        return []
    listed = re.search(r"branch_computations=\{([^}]*)\}", text)
    two = re.findall(r"(?:true|false)_computation=%?([\w.-]+)", text)
    return re.findall(r"%?([\w.-]+)", listed[1]) if listed else two


def _computations(text: str) -> tuple[dict[str, _Computation], str]:
    found: dict[str, _Computation] = {}
    entry, current = "", None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = found.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (match := _INSTRUCTION.match(line)):
            parsed = _instruction(*match.groups())
            if parsed is not None:
                current[parsed.name] = parsed
    return found, entry


def _instruction(root: str | None, name: str, text: str) -> _Instruction | None:
    bare = _LAYOUT.sub(r"\1", text)
    operation = _OPERATION.search(bare)
    if operation is None:
        return None
    rest = bare[operation.start(1) :]
    values = text[: text.index(f"{operation[1]}(")]
    made = tuple(
        _Value(kind, tuple(int(n) for n in sides.split(",") if n), "S(1)" in layout)
        for kind, sides, layout in _SHAPE.findall(values)
    )
    operands = re.findall(r"%([\w.-]+)", rest[: rest.index(")")])
    return _Instruction(name, operation[1], made, tuple(operands), rest, root is not None)


def _attribute(text: str, name: str) -> str:
    found = re.search(rf'\b{name}="?%?([\w.$-]+)', text)
    return found[1] if found else ""


def _trips(text: str, computations: Mapping[str, _Computation]) -> int:
    """How often a loop runs: what its condition compares the counter with."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', text):
        return int(known[1])
    condition = computations.get(_attribute(text, "condition"), {})
    compared = [name for each in condition.values() if each.is_root for name in each.operands]
    bounds = (re.match(r"constant\((\d+)\)", condition[n].text) for n in compared if n in condition)
    return max((int(bound[1]) for bound in bounds if bound), default=1)


# --- Main memory ---------------------------------------------------------------------------------


def _traffic(each: _Instruction, computation, computations) -> int:
    """Bytes of main memory that an instruction reads and writes."""
    if each.operation in _FREE or each.operation.endswith("-done"):
        return 0
    given = [v for name in each.operands for v in _made(name, computation)]
    inside = (
        computations.get(_attribute(each.text, "calls"), {}) if each.operation == "fusion" else {}
    )
    read = sum(v.size * _share_read(inside, i, v) for i, v in enumerate(given) if not v.on_chip)
    written = sum(v.size for v in each.made if not v.on_chip)
    updated = [i for i in inside.values() if i.operation == "dynamic-update-slice"]
    if each.operation == "dynamic-update-slice" or updated:
        # In place: only what is new is written, and what it replaces is not read.
        where = [(i, inside) for i in updated] or [(each, computation)]
        whole = sum(v.size for v in each.made if not v.on_chip)
        new = sum(v.size for i, c in where for v in _made(i.operands[1], c))
        return round(max(read - whole, 0) + min(new, whole))
    return round(read + written)


def _share_read(inside: _Computation, number: int, value: _Value) -> float:
    """The share of an operand that a fusion reads: less than all where it only takes slices."""
    given = [i for i in inside.values() if re.match(rf"parameter\({number}\)", i.text)]
    if not given or not value.size:
        return 1
    users = [i for i in inside.values() if given[0].name in i.operands]
    if not users or any(i.operation not in ("dynamic-slice", "slice") for i in users):
        return 1
    return min(sum(v.size for i in users for v in i.made) / value.size, 1)


def _made(name: str, computation: _Computation) -> tuple[_Value, ...]:
    return computation[name].made if name in computation else ()


# --- Collectives ---------------------------------------------------------------------------------


def _collective(each: _Instruction) -> str | None:
    """The kind of an instruction that is a collective or begins one; its end moves nothing."""
    if each.operation == "fusion" and _attribute(each.text, "calls").startswith(
        "all-reduce-scatter"
    ):
        return "reduce-scatter"
    return next((k for k in COLLECTIVES if each.operation in (k, f"{k}-start")), None)


def _leaves(kind: str, each: _Instruction, computation, computations) -> tuple[int, np.ndarray]:
    """Bytes that one device sends on a ring, and the groups of devices that take part."""
    given = sum(v.size for name in each.operands for v in _made(name, computation))
    text = each.text
    if each.operation == "fusion":  # the group is written inside
        inside = computations[_attribute(text, "calls")].values()
        text = next(i.text for i in inside if i.operation == "all-reduce")
    groups = _groups(text)
    if kind == "collective-permute":
        return given, groups
    members = groups.shape[1]
    times = {"all-gather": members - 1, "all-reduce": 2 - 2 / members}
    return round(given * times.get(kind, 1 - 1 / members)), groups


def _differ(groups: np.ndarray) -> bool:
    return bool((groups != groups[:, :1]).any())


def _over(groups: np.ndarray, axes: Mapping[str, int]) -> str:
    """ " over fsdp": along which axes of a mesh the devices of a group lie."""
    if math.prod(axes.values()) <= groups.max():
        return ""
    places = np.unravel_index(groups, tuple(axes.values()))
    found = [name for name, place in zip(axes, places, strict=True) if _differ(place)]
    return f" over {' and '.join(found)}" if found else ""


def _groups(text: str) -> np.ndarray:
    """The devices of each group of a collective [groups members]."""
    pairs = re.search(r"source_target_pairs=\{([\d{},]*)\}", text)
    lists = re.search(r"replica_groups=\{(\{[\d{},]*\})\}", text)
    if found := pairs or lists:
        rows = re.findall(r"\{([\d,]+)\}", found[1])
        return np.array([[int(n) for n in row.split(",")] for row in rows])
    if iota := re.search(r"replica_groups=(\[[\d,]+\])<=(\[[\d,]+\](?:T\([\d,]+\))?)", text):
        return _iota(iota[2]).reshape(_numbers(iota[1]))
    if named := re.search(
        r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^ ]*)\))? \{([^}]*)\}", text
    ):
        axes = re.findall(r"'(\w+)'=(\d+)", named[1])
        names, sizes = [name for name, _ in axes], [int(size) for _, size in axes]
        ids = _iota(named[2] or f"[{math.prod(sizes)}]").reshape(sizes)
        over = [names.index(name) for name in re.findall(r"'(\w+)'", named[3])]
        ids = np.moveaxis(ids, over, range(-len(over), 0))
        return ids.reshape(-1, math.prod(sizes[axis] for axis in over))
    return np.zeros((1, 1), int)


def _iota(text: str) -> np.ndarray:
    """`[4,2]T(1,0)`: the numbers from 0 in that shape, transposed."""
    shape, _, order = text.partition("T")
    ids = np.arange(math.prod(_numbers(shape))).reshape(_numbers(shape))
    return ids.transpose(_numbers(order)) if order else ids


def _numbers(text: str) -> list[int]:
    return [int(n) for n in re.findall(r"\d+", text)]


# --- Arithmetic ----------------------------------------------------------------------------------


def _flops(each: _Instruction, computation: _Computation) -> int:
    """Two for each multiply-add of a product or a convolution."""
    made = math.prod(each.made[0].sides)
    left, right = (_made(name, computation)[0].sides for name in each.operands[:2])
    if each.operation == "dot":
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", each.text)
        return 2 * made * math.prod(left[axis] for axis in _numbers(axes[1] if axes else ""))
    inputs, kernel, outputs = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.text).groups()
    total = 2 * right[kernel.index("i")]
    for label, side in zip(outputs, each.made[0].sides, strict=True):
        if label.isdecimal():
            total *= _taps(each.text, int(label), left[inputs.index(label)], side)
        else:
            total *= side
    return total


def _taps(text: str, axis: int, given: int, made: int) -> int:
    """How often a window meets a number along an axis, neither padding nor a gap between numbers.

    Products that are batched, or that make heads, are convolutions on TPUs whose windows meet next
    to nothing else.
    """
    window = re.search(r"window=\{([^}]*)\}", text)
    fields = dict(field.split("=") for field in window[1].split()) if window else {}

    def field(name: str, default: str) -> list[int]:
        found = fields[name].split("x")[axis] if name in fields else default
        return [int(n) for n in found.split("_")]

    (size,), (stride,), (before, _) = field("size", "1"), field("stride", "1"), field("pad", "0_0")
    (apart,), (spread,) = field("lhs_dilate", "1"), field("rhs_dilate", "1")
    at = np.arange(made)[:, None] * stride + np.arange(size)[None] * spread - before
    return int(((at >= 0) & (at <= (given - 1) * apart) & (at % apart == 0)).sum())
