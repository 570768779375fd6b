"""Whether a run fits a TPU slice, and what binds it, without the slice.

    python -m vjax.plan configs/FILE.py --slice v5p:4x4x4
    python -m vjax.plan default --slice v5e:1x1

A config's training step, or with --sample, --frames or --size the making of one video, is compiled
by the TPU's own compiler, laid out over devices that are not there as `mesh` says. Any field can be
changed: `--mesh.fsdp=16`. Memory is the compiler's. Time is a roofline: what arithmetic, main
memory or interconnect take at least, whichever is longest.
"""

import argparse
import json
import math
import sys
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from vjax import validation, weights
from vjax.config import ConfigError, RunConfig
from vjax.parallel import mesh as meshes
from vjax.parallel import slices
from vjax.parallel.ahead import Part, sampling, training
from vjax.parallel.slices import GIGABYTE, Chip
from vjax.verbs.request import parse_size


def report(parts: list[Part], chip: Chip, title: str) -> dict[str, Any]:
    """The plan in plain numbers: bytes and FLOPs of one device, seconds."""
    programs: list[dict[str, Any]] = []
    for part in parts:
        seconds = part.seconds(chip)
        program = part.program
        programs.append(
            {
                "name": part.name,
                "fits": part.problem is None and part.memory <= chip.memory,
                "problem": part.problem,
                "bytes": {**part.resident, "temporaries": part.temporaries},
                "seconds": seconds,
                "binds": max(seconds, key=lambda name: seconds[name]) if seconds else None,
                "times": part.times,
                "model_flops": part.model_flops,
                "compiled_flops": part.flops or None,
                "moved_bytes": dict(program.moved) if program else None,
                "between_slices_bytes": program.between if program else None,
                "collectives": dict(program.counts) if program else None,
                "kernels": dict(program.kernels) if program else None,
                "compile_seconds": part.compile_seconds,
            }
        )
    return {
        "plan": title,
        "fits": all(bool(program["fits"]) for program in programs),
        "memory_bytes": chip.memory,
        "programs": programs,
        "seconds": sum(
            program["times"] * max(program["seconds"].values(), default=0.0) for program in programs
        ),
    }


def table(found: dict[str, Any]) -> Table:
    """A plan for people, a column for each program."""
    shown = Table(title=found["plan"], title_justify="left")
    shown.add_column("one device")
    programs = found["programs"]
    for program in programs:
        shown.add_column(program["name"], justify="right")
    kinds = dict.fromkeys(kind for program in programs for kind in program["bytes"])
    for kind in kinds:
        values = [program["bytes"].get(kind) for program in programs]
        shown.add_row(kind, *("" if v is None else f"{v / GIGABYTE:.2f} GB" for v in values))
    totals = [sum(program["bytes"].values()) for program in programs]
    whole = found["memory_bytes"]
    shown.add_row(
        f"of {whole / GIGABYTE:.2f} GB",
        *(
            f"{t / GIGABYTE:.2f} GB, {t / whole:.0%}" if p["problem"] is None else "too much"
            for t, p in zip(totals, programs, strict=True)
        ),
        end_section=True,
    )
    for kind in ("model_flops", "compiled_flops"):
        values = [program[kind] for program in programs]
        shown.add_row(kind.replace("_", " "), *("" if not v else f"{v:.3g}" for v in values))
    moves = dict.fromkeys(kind for p in programs for kind in p["moved_bytes"] or ())
    for kind in moves:
        values = [(p["moved_bytes"] or {}).get(kind) for p in programs]
        shown.add_row(
            f"sent in {kind}", *("" if not v else f"{v / GIGABYTE:.3f} GB" for v in values)
        )
    for kind in dict.fromkeys(kind for p in programs for kind in p["seconds"]):
        shown.add_row(
            kind,
            *(f"{1e3 * p['seconds'][kind]:.3g} ms" if p["seconds"] else "" for p in programs),
        )
    shown.add_row("times", *(str(program["times"]) for program in programs))
    shown.add_row("binds", *(program["binds"] or "" for program in programs))
    return shown


def advice(parts: list[Part], chip: Chip, mesh: jax.sharding.Mesh) -> list[str]:
    """What to change where something does not fit."""
    wrong = [p for p in parts if p.problem is not None or p.memory > chip.memory]
    if not wrong:
        return []
    found, resident = [], max(sum(part.resident.values()) for part in wrong)
    if resident > chip.memory / 2:
        held = mesh.shape["fsdp"] * mesh.shape["tensor"]
        least = 2 ** math.ceil(math.log2(held * resident / (chip.memory / 2)))
        found.append(
            f"What lies on a device whatever runs is {resident / GIGABYTE:.1f} GB: divide it over "
            f"{least} devices or more (mesh.fsdp x mesh.tensor is {held})."
        )
    else:
        found.append(
            "What a program needs on the way is too much: a smaller batch in the bucket, a larger "
            f"mesh.context (now {mesh.shape['context']}), or model.dit.remat where it is off."
        )
    found.append("Or take a larger slice, or a chip with more memory.")
    return found


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vjax.plan",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "config", help="a file in configs/, or a bundle, which is planned to sample"
    )
    parser.add_argument("--slice", required=True, help="such as v5e:2x4, v5p:4x4x4 or tpu7x:2x2x1")
    parser.add_argument("--slices", type=int, default=1, help="so many of them (1)")
    parser.add_argument("--sample", action="store_true", help="plan a video, not a training step")
    parser.add_argument("--frames", type=int, help="of the video; default: native")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="default: native")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options, fields = parser.parse_known_args(arguments)
    console = Console(stderr=True, highlight=False)
    jax.config.update("jax_platforms", "cpu")  # a TPU that is here is not touched
    jax.config.update("jax_enable_compilation_cache", False)  # it could not load what is kept
    try:
        if options.config.endswith(".py"):
            config = validation.override(validation.load_config(options.config), fields)
        else:
            model = weights.read_config(options.config)
            config = RunConfig(model.name, "dit", model, stages=())
            config = validation.override(config, fields)
        samples = options.sample or options.frames or options.size or not config.stages
        chip, _, _ = slices.parse(options.slice)
        devices = slices.devices(options.slice, options.slices)
        mesh = meshes.make_mesh(config.mesh, devices)
        title = f"{config.name} on {options.slices} x {options.slice}: {meshes.describe(mesh)}"
        per_slice = len(devices) // options.slices
        with jax.default_device(devices[0]), meshes.use(mesh, config.mesh):
            if samples:
                model = config.model
                asked = options.frames or model.frames, options.size or (model.width, model.height)
                parts = sampling(model, mesh, per_slice, console.print, *asked)
            else:
                parts = training(config, mesh, per_slice, console.print)
    except (ConfigError, weights.BundleError) as error:
        print(f"vjax.plan: {error}", file=sys.stderr)
        return 2
    found = report(parts, chip, title)
    if options.json:
        print(json.dumps(found))
    else:
        Console().print(table(found))
    for sentence in [part.problem for part in parts if part.problem] + advice(parts, chip, mesh):
        console.print(sentence)
    return 0 if found["fits"] else 1


if __name__ == "__main__":
    sys.exit(main())
