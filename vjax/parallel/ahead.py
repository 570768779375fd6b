"""A program compiled for TPUs that are not there, and what it needs of one of them."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.extend import core

from vjax.models import flops
from vjax.parallel import hlo
from vjax.parallel.slices import Chip, heard

# How hard the compiler tries. The search for fast tiles takes most of its time. Without it a 480p
# video of 1.3B was said to need 0.1 GB more in its steps, and 4.7 GB more where it is decoded.
QUICKLY, AS_A_RUN = "O0", "UNKNOWN"


@dataclasses.dataclass(frozen=True)
class Job:
    """A program before it is compiled, in figures for one device.

    Args:
        trace: gives the program, traced for its mesh.
        resident: bytes that lie there whatever runs, by what they are.
        model_flops: counted by hand, forward and backward, without recomputation.
        expected_flops: what has to be computed, with recomputation and encoding, but without
            attention; None: not known.
        attention_flops: the same of attention. Kernels may need more, of which theirs counts.
        gathers: bytes of parameters that a device sends at least.
        times: how often it runs for one update, or one video.
    """

    name: str
    trace: Callable[[], Any]
    resident: Mapping[str, float]
    model_flops: float = 0.0
    expected_flops: float | None = None
    attention_flops: float = 0.0
    gathers: float = 0.0
    times: int = 1


@dataclasses.dataclass(frozen=True)
class Part:
    """A job once it is compiled.

    Args:
        activations: bytes of what layers leave for the backward pass, such as their inputs.
        temporaries: bytes that the program needs beside those and what is resident.
        kernel_flops: what its kernels compute, which no compiler sees into.
        problem: why it does not compile, such as too little memory; then there are no figures.
        warnings: what the compiler says of how it divides the program.
    """

    job: Job
    activations: float = 0.0
    temporaries: float = 0.0
    program: hlo.Program | None = None
    kernel_flops: float = 0.0
    problem: str | None = None
    warnings: tuple[str, ...] = ()
    seconds_to_compile: float = 0.0

    @property
    def memory(self) -> float:
        return sum(self.bytes.values())

    @property
    def bytes(self) -> dict[str, float]:
        """Of memory, by what they are."""
        kept = {"activations": self.activations} if self.activations else {}
        return {**self.job.resident, **kept, "temporaries": self.temporaries}

    @property
    def flops(self) -> float:
        """What is computed, as compiled."""
        return 0.0 if self.program is None else self.program.flops + self.kernel_flops

    @property
    def excess(self) -> float | None:
        """How many times as much is computed as has to be."""
        if self.program is None or not self.job.expected_flops:
            return None
        attention = max(self.job.attention_flops, self.kernel_flops)
        return self.flops / (self.job.expected_flops + attention)

    @property
    def gathers(self) -> float | None:
        """How many times as many bytes of parameters are gathered as have to be."""
        if self.program is None or not self.job.gathers:
            return None
        moved = self.program.over
        found = sum(moved.get(f"{kind} over fsdp", 0) for kind in ("all-gather", "all-to-all"))
        return (found + moved.get("collective-permute over fsdp", 0)) / self.job.gathers

    def fits(self, chip: Chip) -> bool:
        return self.problem is None and self.memory <= chip.memory

    def seconds(self, chip: Chip) -> dict[str, float]:
        """What the program takes at least, by what could bind it."""
        if self.program is None:
            return {}
        return {
            "arithmetic": self.flops / chip.flops,
            "main memory": self.program.memory / chip.bandwidth,
            "interconnect": sum(self.program.moved.values()) / chip.ring,
            "network between slices": self.program.between / chip.between,
        }


def compile(
    job: Job,
    mesh: jax.sharding.Mesh,
    slice_size: int,
    say: Callable[[str], Any],
    effort: str = QUICKLY,
) -> Part:
    """Compiles a job, which is what takes long.

    Args:
        slice_size: so many devices of the mesh are in a slice.
        effort: of the compiler, `QUICKLY` or `AS_A_RUN`.
    """
    began, before = time.monotonic(), jax.config.jax_optimization_level
    part, said = Part(job), list[str]()
    jax.config.update("jax_optimization_level", effort)
    try:
        with heard(said):
            traced = job.trace()
            compiled = traced.lower().compile()
    except Exception as error:
        if not re.search("RESOURCE_EXHAUSTED|exceed.*hbm|hbm.*exceed", str(error), re.IGNORECASE):
            raise
        part = dataclasses.replace(part, problem=_shortage(str(error)))
    else:
        found = compiled.memory_analysis()
        needed = found.temp_size_in_bytes + found.generated_code_size_in_bytes
        needed += max(found.output_size_in_bytes - found.alias_size_in_bytes, 0)
        # Tokens are on all devices but those that share heads alone.
        activations = min(kept(traced.jaxpr) * mesh.shape["tensor"] / mesh.size, needed)
        part = dataclasses.replace(
            part,
            activations=activations,
            temporaries=needed - activations,
            program=hlo.read(
                compiled, dict(mesh.shape), slice_size if slice_size < mesh.size else None
            ),
            kernel_flops=flops.traced(traced.jaxpr, kernels_only=True),
        )
    finally:
        jax.config.update("jax_optimization_level", before)
    warnings = dict.fromkeys(line for line in said if "rematerialization" in line.lower())
    seconds = time.monotonic() - began
    say(f"{job.name}: compiled in {seconds:.0f} s")
    return dataclasses.replace(part, warnings=tuple(warnings), seconds_to_compile=seconds)


def kept(traced: core.ClosedJaxpr) -> int:
    """Bytes that scans over layers stack on the way forward and read on the way back.

    With rematerialisation these are the inputs of the layers; without, all that a layer's gradient
    asks for, of which the compiler may share some.
    """
    stacked: set[Any] = set()
    total = 0
    for each in traced.jaxpr.eqns:
        if each.primitive.name != "scan":
            continue
        layer = each.params["jaxpr"]
        if not each.params["reverse"]:
            outputs = zip(each.outvars, layer.out_avals, strict=True)
            stacked.update(x for x, one in outputs if x.aval.ndim > one.ndim)
            continue
        for x, one in zip(each.invars, layer.in_avals, strict=True):
            if isinstance(x, core.Var) and x in stacked and x.aval.ndim > one.ndim:
                total += x.aval.size * x.aval.dtype.itemsize
    return total


def sent(params, network: str, itemsize: int, passes: int, *, without: str = "^$") -> float:
    """Bytes that a device sends at least so that all have the parameters of a network.

    Args:
        params: placed on a mesh.
        without: what the names of those match that are not used.
        itemsize: of the numbers that layers are sent as.
        passes: over the layers, forward and backward; the rest is sent once.
    """
    total = 0.0
    for path, x in jax.tree.leaves_with_path(params):
        name = f"{network}/{jax.tree_util.keystr(path, simple=True, separator='/')}"
        spec = (axes if isinstance(axes, tuple) else (axes,) for axes in x.sharding.spec)
        if re.search(f"/embedding$|{without}", name) or not any("fsdp" in axes for axes in spec):
            continue
        layers = re.search("/(blocks|control_blocks|layers)/", name)
        count = math.prod(x.sharding.shard_shape(x.shape)) * (x.sharding.mesh.shape["fsdp"] - 1)
        total += count * (min(itemsize, x.dtype.itemsize) * passes if layers else x.dtype.itemsize)
    return total


def _shortage(text: str) -> str:
    """What the compiler says of memory, in its words but few of them."""
    used = re.search(r"Used ([\d.]+\w) of ([\d.]+\w) hbm", text)
    if used:
        return f"It needs {used[1]} of a device's {used[2]}."
    return " ".join(text.split())[:300]


def whole(mesh: jax.sharding.Mesh, shape: tuple[int, ...], kind: Any = np.float32):
    """The shape of an array that lies whole on every device."""
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    return jax.ShapeDtypeStruct(shape, kind, sharding=sharding)
