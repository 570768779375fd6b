"""Which slice is the smallest that holds a run, and how its devices are divided best.

Layouts are ranked by an estimate before any is compiled, and those that cannot fit are left out: a
compilation takes a minute, an estimate nothing.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax

from vjax import coding, memory, models
from vjax.config import ConfigError, MeshConfig, ModelConfig, RunConfig
from vjax.models import flops
from vjax.parallel import mesh as meshes
from vjax.parallel import programs, slices
from vjax.parallel.ahead import Part
from vjax.parallel.rehearsal import Video
from vjax.parallel.slices import GIGABYTE, Chip

TRIED = 3  # layouts of a slice that are compiled, before a larger slice is
EFFICIENCY = 0.5  # of a chip's arithmetic, for the estimate alone


@dataclasses.dataclass(frozen=True)
class Work:
    """What an update or a video asks of its devices, for the estimate.

    Args:
        clips: that are computed at once, which devices along data and fsdp share.
        tokens: of each.
        layers: bytes of the layers' parameters, as they are sent.
        resident: bytes that lie somewhere whatever runs, which fsdp and tensor divide.
        kept: so many layers' inputs are kept for the backward pass.
        passes: over the layers, in each of which they are gathered.
        flops: of all devices.
        decoding: bytes that the frames of a latent take on their way, which context divides.
    """

    clips: int
    tokens: int
    layers: float
    resident: float
    kept: int
    passes: int
    flops: float
    decoding: float = 0.0


def work(run: RunConfig, video: Video | None, chip: Chip) -> Work:
    """What an update of a run, or a video, asks for on chips of a kind.

    Raises:
        ConfigError: a network is missing.
        RequestError: there is no such dtype.
    """
    if video is not None:
        model = run.model
        every = [list(programs.looks(model, shapes, video)) for shapes, _ in video.windows]
        tokens = max(length for each in every for _, length, _ in each)
        branches = 2 if video.guided else 1
        amount = branches * max(
            sum(n * flops.dit_flops(model.dit, *length) for n, *length in each) for each in every
        )
        networks = memory.held(model, video.dtype, int8=video.int8)
        resident = sum(memory.resident(networks, chip.memory).values())
        # A dozen float32 features of the smallest tile of frames, as wide as the last layers are.
        tiles = [coding.tiles_of(1, *sides, room=0) for sides in video.decoded]
        numbers = max(each.height * each.width for each in tiles)
        numbers *= model.vae.spatial_ratio**2 * model.vae.temporal_ratio
        numbers *= model.vae.decoder_base_dim or model.vae.base_dim
        decoding = 12 * 4 * numbers
        return Work(branches, tokens, networks["dit"], resident, 0, 1, amount, decoding)
    task = programs.task_of(run)
    model, group = task.config.model, programs.costliest(task)
    clips = math.gcd(*(bucket.batch for bucket in group))
    dit, vae, text = (_numbers(model, name) for name in ("dit", "vae", "text"))
    if task.config.trains == "vae":
        return Work(clips, 0, 0, 20 * vae, 0, 0, 0)
    trained = dit + (text if "text" in task.trained else 0)
    frozen = dit + vae + text - trained
    most = max(group, key=lambda bucket: task.tokens(bucket) * bucket.batch)
    together = max(bucket.batch for bucket in group) // clips
    # Parameters, their average, two moments and gradients.
    resident = 20 * trained + 4 * frozen
    tokens = task.tokens(most) * most.batch // clips
    amount = max(task.flops(bucket) for bucket in group)
    return Work(clips, tokens, 2 * dit * together, resident, model.dit.depth, 2, amount)


def layouts(
    run: RunConfig, need: Work, chip: Chip, count: int, slices_count: int = 1
) -> list[tuple[float, float, MeshConfig]]:
    """Layouts of so many devices, the fastest by the estimate first: seconds, bytes, the layout.

    Bytes are rather too few: a layout is compiled in vain sooner than left out.
    Those whose sizes do not divide heads or clips are left out, not those that are too large.
    """
    dit, text, found = run.model.dit, run.model.text, []
    if not need.tokens:  # the VAE alone
        data = MeshConfig(data=count)
        return [] if need.clips % count else [(0.0, need.resident, data)]
    for data, fsdp, context, tensor in _divisions(count):
        uneven = dit.heads % tensor or (text is not None and text.heads % tensor)
        if need.clips % (data * fsdp) or data % slices_count or uneven:
            continue
        clips, tokens = need.clips // (data * fsdp), math.ceil(need.tokens / context)
        gathered = need.passes * need.layers / tensor * (1 - 1 / fsdp)
        # Of each layer q, k, v and what is attended to, between tokens; sums, between heads.
        moved = 2 * dit.width * clips * tokens * dit.depth * need.passes
        moved *= 4 * (1 - 1 / context) / tensor + 4 * (1 - 1 / tensor)
        seconds = need.flops / count / (EFFICIENCY * chip.flops) + (gathered + moved) / chip.ring
        if dit.heads // tensor % context:  # keys are gathered, or go around
            seconds *= 1.5
        hidden = 2 * dit.ffn / tensor + 5 * dit.width
        size = 2 * clips * tokens * (need.kept * dit.width + hidden)
        size = max(size, need.decoding / context) + need.resident / (fsdp * tensor)
        found.append((seconds, size, MeshConfig(data, fsdp, context, tensor)))
    return sorted(found, key=lambda each: each[:2])


def promising(
    found: list[tuple[float, float, MeshConfig]], chip: Chip
) -> list[tuple[float, float, MeshConfig]]:
    """Those of layouts that may fit, the ones first that leave a fifth of the memory free."""
    fitting = [each for each in found if each[1] <= chip.memory]
    return sorted(fitting, key=lambda each: each[1] > 0.8 * chip.memory)


def _numbers(model: ModelConfig, name: str) -> int:
    """How many parameters a network has."""
    config = getattr(model, name)
    if config is None:
        return 0
    return sum(math.prod(x.shape) for x in jax.tree.leaves(models.abstract(config)))


def _divisions(count: int) -> Iterator[tuple[int, int, int, int]]:
    for data in meshes.divisors(count):
        for fsdp in meshes.divisors(count // data):
            for context in meshes.divisors(count // data // fsdp):
                yield data, fsdp, context, count // data // fsdp // context


def smallest(
    run: RunConfig,
    video: Video | None,
    kinds: tuple[str, ...],
    compiled: Callable[[str, MeshConfig], list[Part]],
    say: Callable[[str], Any],
) -> tuple[str, MeshConfig, list[Part]] | None:
    """The first slice, by the FLOPs of its chips, on which a layout fits; None: there is none.

    Args:
        video: what is made; None: an update.
        kinds: of chips.
        compiled: compiles all programs for a slice and a layout; stops at one that does not fit.
    """
    listed = [(kind, size) for kind in kinds for size in slices.CHIPS[kind].sizes]
    listed.sort(key=lambda each: _devices(*each) * slices.CHIPS[each[0]].flops)
    for kind, size in listed:
        name, chip, count = f"{kind}:{size}", slices.CHIPS[kind], _devices(kind, size)
        need = work(run, video, chip)
        found = layouts(run, need, chip, count)
        if not found:
            say(f"{name}: its {count} devices do not divide {need.clips} clips and the heads.")
            continue
        fitting = promising(found, chip)
        if not fitting:
            least = min(size for _, size, _ in found)
            say(
                f"{name}: too small, about {least / GIGABYTE:.1f} GB for each device of "
                f"{chip.memory / GIGABYTE:.1f}."
            )
            continue
        for _, _, layout in fitting[:TRIED]:
            say(f"{name}: compiling {described(layout)}")
            try:
                parts = compiled(name, layout)
            except ConfigError as error:
                say(f"{name}: {error}")
                continue
            if all(part.fits(chip) for part in parts):
                return name, layout, parts
            worst = next(part for part in parts if not part.fits(chip))
            why = worst.problem or f"{worst.memory / GIGABYTE:.1f} GB are too much"
            say(f"{name}: {worst.job.name} does not fit: {why}")
    return None


def same(layout: MeshConfig, mesh: MeshConfig) -> bool:
    """Whether a mesh of as many devices is that layout."""
    sizes = (mesh.fsdp, mesh.context, mesh.tensor)
    return (layout.fsdp, layout.context, layout.tensor) == sizes


def described(layout: MeshConfig) -> str:
    """The fields that make a layout, as they are written on the command line."""
    names = [name for name in meshes.AXES if (getattr(layout, name) or 1) > 1]
    return " ".join(f"--mesh.{name}={getattr(layout, name)}" for name in names) or "one device"


def _devices(kind: str, size: str) -> int:
    return math.prod(int(side) for side in size.split("x")) * slices.CHIPS[kind].devices
