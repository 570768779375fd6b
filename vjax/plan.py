"""Whether a run fits a TPU slice, and what binds it, without the slice.

    python -m vjax.plan configs/FILE.py --slice v5p:4x4x4
    python -m vjax.plan default --slice v5e:1x1
    python -m vjax.plan configs/FILE.py --sample --search [--slice v5e]
    python -m vjax.plan default --slice v5e:1x1 storyboard BOARD.yaml

A config's training step, or with --sample, --frames or --size the making of one video, is compiled
by the TPU's own compiler, laid out over devices that are not there as `mesh` says. After all else a
verb may be given with its options, as to vjax.sample: then what it makes is planned. Any field can
be changed: `--mesh.fsdp=16`, `--dtype=float32`. Networks lie on devices, and devices share a video,
as with vjax.sample, unless `mesh` is given. Memory is the compiler's. Time is a roofline: what
arithmetic, main memory or interconnect take at least, whichever is longest. --search finds the
smallest slice, of all kinds or of the one that --slice names, and how its devices are divided; it
says what it tried.
"""

import argparse
import dataclasses
import functools
import json
import signal
import sys
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from vjax import validation, verbs, weights
from vjax.arguments import parse
from vjax.config import ConfigError, MeshConfig, RunConfig
from vjax.order import Order
from vjax.parallel import ahead, programs, rehearsal, rules, search, slices
from vjax.parallel import mesh as meshes
from vjax.parallel.ahead import Part
from vjax.parallel.rehearsal import Video
from vjax.parallel.slices import GIGABYTE, Chip
from vjax.timeline import RequestError, Timeline
from vjax.verbs.request import parse_size
from vjax.video import MediaError

MOST_SLICES = 256


def report(parts: list[Part], chip: Chip, title: str) -> dict[str, Any]:
    """The plan in plain numbers: bytes and FLOPs of one device, seconds."""
    found: list[dict[str, Any]] = []
    for part in parts:
        seconds, program = part.seconds(chip), part.program
        found.append(
            {
                "name": part.job.name,
                "fits": part.fits(chip),
                "problem": part.problem,
                "bytes": part.bytes,
                "seconds": seconds,
                "binds": max(seconds, key=lambda name: seconds[name]) if seconds else None,
                "times": part.job.times,
                "model_flops": part.job.model_flops,
                "compiled_flops": part.flops or None,
                "flops_of_needed": part.excess,
                "moved_bytes": dict(program.moved) if program else None,
                "moved_over": dict(program.over) if program else None,
                "between_slices_bytes": program.between if program else None,
                "gathered_of_needed": part.gathers,
                "collectives": dict(program.counts) if program else None,
                "kernels": dict(program.kernels) if program else None,
                "warnings": list(part.warnings),
                "compile_seconds": part.seconds_to_compile,
            }
        )
    return {
        "plan": title,
        "fits": all(bool(each["fits"]) for each in found),
        "memory_bytes": chip.memory,
        "programs": found,
        "seconds": sum(
            each["times"] * max(each["seconds"].values(), default=0.0) for each in found
        ),
    }


def table(found: dict[str, Any]) -> Table:
    """A plan for people, a column for each program."""
    shown = Table(title=found["plan"], title_justify="left")
    shown.add_column("one device")
    columns = found["programs"]
    for program in columns:
        shown.add_column(program["name"], justify="right")
    kinds = dict.fromkeys(kind for program in columns for kind in program["bytes"])
    for kind in kinds:
        values = [program["bytes"].get(kind) for program in columns]
        shown.add_row(kind, *("" if v is None else f"{v / GIGABYTE:.2f} GB" for v in values))
    totals = [sum(program["bytes"].values()) for program in columns]
    whole = found["memory_bytes"]
    shown.add_row(
        f"of {whole / GIGABYTE:.2f} GB",
        *(
            f"{t / GIGABYTE:.2f} GB, {t / whole:.0%}" if p["problem"] is None else "too much"
            for t, p in zip(totals, columns, strict=True)
        ),
        end_section=True,
    )
    for kind in ("model_flops", "compiled_flops"):
        values = [program[kind] for program in columns]
        shown.add_row(kind.replace("_", " "), *("" if not v else f"{v:.3g}" for v in values))
    for kind, name in (("flops", "compiled of needed"), ("gathered", "gathered of needed")):
        values = [program[f"{kind}_of_needed"] for program in columns]
        shown.add_row(name, *("" if v is None else f"{v:.2f}" for v in values))
    moves = dict.fromkeys(kind for p in columns for kind in p["moved_over"] or ())
    for kind in sorted(moves):
        values = [(p["moved_over"] or {}).get(kind) for p in columns]
        shown.add_row(
            f"sent in {kind}", *("" if not v else f"{v / GIGABYTE:.3f} GB" for v in values)
        )
    for kind in dict.fromkeys(kind for p in columns for kind in p["seconds"]):
        shown.add_row(
            kind,
            *(f"{1e3 * p['seconds'][kind]:.3g} ms" if p["seconds"] else "" for p in columns),
        )
    shown.add_row("times", *(str(program["times"]) for program in columns))
    shown.add_row("binds", *(program["binds"] or "" for program in columns))
    return shown


def advice(
    parts: list[Part], run: RunConfig, need: search.Work, chip: Chip, count: int
) -> list[str]:
    """What to change where something does not fit, in fields and values."""
    wrong = [part for part in parts if not part.fits(chip)]
    if not wrong:
        return []
    mesh, found = run.mesh, []
    resident = max(sum(part.job.resident.values()) for part in wrong)
    known = [part for part in wrong if part.program is not None]
    over = max((part.memory for part in known), default=chip.memory * 1.01) / chip.memory
    if resident > chip.memory / 2:
        found.append(
            f"What lies on a device whatever runs is {resident / GIGABYTE:.1f} GB of "
            f"{chip.memory / GIGABYTE:.1f}: mesh.fsdp and mesh.tensor divide it, now by "
            f"{mesh.fsdp * mesh.tensor}."
        )
    # Layouts by the estimate, which is corrected by what the compiler found of this one.
    every = search.layouts(run, need, chip, count)
    now = [memory for _, memory, each in every if search.same(each, mesh)]
    factor = max(over * chip.memory / now[0], 1) if now else 1.0
    better = [each for _, memory, each in every if memory * factor <= chip.memory]
    if better:
        found.append(f"By the estimate this layout fits: {search.described(better[0])}.")
    else:
        found.append("By the estimate no layout of this slice fits.")
    trains = need.kept > 0
    if trains and not run.model.dit.remat:
        found.append("--model.dit.remat=True computes each block again and keeps less.")
    shares = count // (mesh.context * mesh.tensor)
    for name, batch in programs.batches(run).items() if trains else ():
        if batch > shares:
            found.append(f"Smaller batches keep less: --{name}={shares} (now {batch}).")
    found.append("--search finds the smallest slice that holds it.")
    return found


def compiled(
    run: RunConfig,
    video: Video | None,
    devices: list[jax.Device],
    slices_count: int,
    say,
    effort: str,
    chip: Chip,
    briefly: bool = False,
) -> tuple[jax.sharding.Mesh, list[Part]]:
    """Compiles the programs of a run for devices.

    Args:
        video: what is made; None: an update.
        chip: that the devices are.
        briefly: the first program that does not fit ends this, which the last one often is.
    """
    mesh = meshes.make_mesh(run.mesh, devices)
    parts = []
    with jax.default_device(devices[0]):
        if video is not None:
            meshes.check(run.mesh, mesh, run.model)
            jobs = programs.sampling(run.model, mesh, video, chip.memory)
        else:
            jobs = programs.training(run, mesh)
        for job in reversed(jobs) if briefly else jobs:
            with meshes.use(mesh, run.mesh):
                size = len(devices) // slices_count
                parts.append(ahead.compile(job, mesh, size, say, effort))
            if briefly and not parts[-1].fits(chip):
                break
    return mesh, parts[::-1] if briefly else parts


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
    parser.add_argument("--slice", help="such as v5e:2x4, v5p:4x4x4 or tpu7x:2x2x1")
    parser.add_argument("--slices", type=int, default=1, help="so many of them (1)")
    parser.add_argument("--search", action="store_true", help="find the smallest slice that fits")
    parser.add_argument("--sample", action="store_true", help="plan a video, not a training step")
    parser.add_argument("--frames", type=int, help="of the video; default: native")
    parser.add_argument("--size", type=parse_size, metavar="WxH", help="default: native")
    parser.add_argument("--int8", action="store_true", help="plan a video with weights in 8 bits")
    parser.add_argument(
        "--thorough",
        action="store_true",
        help="compile as a run does, which takes six times as long",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    given = sys.argv[1:] if arguments is None else arguments
    verb = next((i for i, word in enumerate(given) if i and word in verbs.VERBS), len(given))
    options, fields = parser.parse_known_args(given[:verb])
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    jax.config.update("jax_platforms", "cpu")  # a TPU that is here is not touched
    jax.config.update("jax_enable_compilation_cache", False)  # it could not load what is kept
    try:
        if options.config.endswith(".py"):
            run = validation.override(validation.load_config(options.config), fields)
        else:
            model = weights.read_config(options.config)
            run = validation.override(RunConfig(model.name, "dit", model, stages=()), fields)
        if not 1 <= options.slices <= MOST_SLICES:
            raise ConfigError(f"--slices={options.slices} must be from 1 to {MOST_SLICES}.")
        order = _ordered(given[verb:], options) if given[verb:] else None
        samples = bool(options.sample or options.frames or options.size or order or not run.stages)
        if options.int8 and not samples:
            raise ConfigError("--int8 is for making videos: add --sample.")
        if samples and run.vae is not None:
            vae = weights.read_config(run.vae).vae
            run = dataclasses.replace(run, model=dataclasses.replace(run.model, vae=vae))
        layout = any(field.startswith("--mesh") for field in fields)
        video = None
        if order is not None:
            video = rehearsal.video(run.model, order.requests[0].timeline(), **order.sampling)
            if order.mesh is not None:
                run, layout = dataclasses.replace(run, mesh=order.mesh), True
        elif samples:
            timeline = Timeline("a video", frames=options.frames, size=options.size)
            video = rehearsal.video(run.model, timeline)
        if video is not None:
            video = dataclasses.replace(
                video,
                dtype=(order and order.dtype) or run.dtype or "bfloat16",
                int8=options.int8 or bool(order and order.int8),
            )
        compile_for = functools.partial(
            compiled,
            video=video,
            slices_count=options.slices,
            say=console.print,
            effort=ahead.AS_A_RUN if options.thorough else ahead.QUICKLY,
        )
        if options.search:
            kinds = slices.kinds(options.slice)
            if options.slices != 1:
                raise ConfigError("--search is for one slice: leave out --slices.")
            slices.devices(f"{kinds[0]}:{slices.CHIPS[kinds[0]].sizes[0]}")  # is libtpu there?

            def tried(name: str, layout: MeshConfig) -> list[Part]:
                return compile_for(
                    dataclasses.replace(run, mesh=layout),
                    devices=slices.devices(name),
                    chip=slices.parse(name)[0],
                    briefly=True,
                )[1]

            best = search.smallest(run, video, kinds, tried, console.print)
            if best is None:
                print("vjax.plan: No listed slice holds it.", file=sys.stderr)
                return 1
            name, found_layout, parts = best
            run = dataclasses.replace(run, mesh=found_layout)
            chip, devices = slices.parse(name)[0], slices.devices(name)
            need = search.work(run, video, chip)
            title = f"{run.name} on {name}: {search.described(found_layout)}"
        else:
            if options.slice is None:
                raise ConfigError(
                    "--slice=NAME says for which slice, such as v5e:2x4; or --search."
                )
            chip, _, _ = slices.parse(options.slice)
            need = search.work(run, video, chip)
            devices = slices.devices(options.slice, options.slices)
            if video is not None and not layout:
                fits = meshes.for_one_video(
                    run.model, len(devices), video.guided, need.resident, chip.memory
                )
                run = dataclasses.replace(run, mesh=fits)
            mesh, parts = compile_for(run, devices=devices, chip=chip)
            title = f"{run.name} on {options.slices} x {options.slice}: {meshes.describe(mesh)}"
    except (ConfigError, RequestError, MediaError, weights.BundleError) as error:
        print(f"vjax.plan: {error}", file=sys.stderr)
        return 2
    found = report(parts, chip, title)
    if options.json:
        print(json.dumps(found))
    else:
        Console().print(table(found))
    said = [part.problem for part in parts if part.problem]
    said += [warning for part in parts for warning in part.warnings]
    said += rules.undivided(programs.parameters(run), meshes.make_mesh(run.mesh, devices))
    for sentence in said + advice(parts, run, need, chip, len(devices)):
        console.print(sentence)
    return 0 if found["fits"] else 1


def _ordered(arguments: list[str], options: argparse.Namespace) -> Order:
    """What a verb and its options ask for.

    Raises:
        RequestError: that has another place, or is no part of a plan.
    """
    if options.frames or options.size:
        raise RequestError("--frames and --size are options of the verb here: say them after it.")
    order = parse(arguments)
    if order.model is not None:
        raise RequestError("The model is what is named first: leave out --model.")
    unplanned = {
        "--lora": order.lora,
        "--prompts": len(order.requests) > 1,
        "--variations": order.variations > 1,
        "--upsample": order.upsample,
        "--caption": order.caption,
    }
    for name, asked in unplanned.items():
        if asked:
            raise RequestError(
                "A plan is of one video, by the model as it is, of words as they are: leave out "
                f"{name}."
            )
    return order


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # also while the compiler runs
    sys.exit(main())
