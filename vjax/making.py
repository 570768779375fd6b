"""An order carried out: all of it is checked, then one file is made after another."""

import dataclasses
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax

from vjax import naming, pipeline, planning, recipe, runtime, verbs, weights
from vjax import video as media
from vjax.order import SAMPLING, Order
from vjax.planning import Plan
from vjax.recipe import Model, Recipe
from vjax.timeline import RequestError

MOST_FILES = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A file to make."""

    plan: Plan
    seed: int
    writer: media.Writer


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """An order that can be carried out.

    Args:
        notes: what the user should know beforehand: a sentence each.
    """

    pipe: pipeline.Pipeline
    sampling: Mapping[str, Any]
    jobs: Sequence[Job]
    notes: Sequence[str]


def prepare(order: Order) -> Work:
    """Finds all that can be wrong with an order, before anything is computed.

    Raises:
        RequestError, MediaError, BundleError: something of it cannot be made.
        ConfigError: there is no device to make it on.
    """
    count = len(order.requests) * order.variations
    if count > MOST_FILES:
        raise RequestError(f"One run makes at most {MOST_FILES} files, not {count}: ask for fewer.")
    runtime.set_up(keep_memory=True)
    runtime.check_devices()
    name = order.model
    if name is None:
        name = recipe.find_model(order.recipe.model, order.like) if order.recipe else "default"
    pipe = pipeline.load(name, order.dtype)
    model = Model(weights.find(name).resolve().name, weights.fingerprint(name))
    files = verbs.files(order.requests[0])
    given = order.requests[0].timeline()
    named = {file: recipe.named(file) for file in files}
    plan, sound = None, None
    jobs: list[Job] = []
    taken: set[pathlib.Path] = set()
    notes: dict[str, None] = {}
    for request in order.requests:
        if plan is None:
            plan = pipe.plan(given)
            sound = media.arranged(plan.kept, plan.frames / plan.fps)
        else:  # all share the given frames
            plan = planning.reworded(plan, request.prompt, pipe.config, pipe.tokenizer)
        _, method = pipe.check(plan, seed=order.seed, variations=order.variations, **order.sampling)
        notes.update(dict.fromkeys([*plan.notes, *plan.warnings]))
        if request.negative and method.config.guidance == 1:
            notes["A guidance of 1 reads no negative prompt, so it changes nothing."] = None
        for seed in range(order.seed, order.seed + order.variations):
            made = Recipe(
                vjax=recipe.version(),
                request=verbs.to_json(request, named.__getitem__),
                model=model,
                seed=seed,
                dtype=str(pipe.dtype),
                quality=order.quality,
                platform=jax.default_backend(),
                jax=jax.__version__,
                **{option: getattr(method.config, option) for option in SAMPLING},
            )
            if order.recipe is not None:
                said = recipe.differences(order.recipe, made, order.like)
                notes.update(dict.fromkeys(said))
            if order.out is None:
                suffix = ".png" if plan.frames == 1 else ".mp4"
                path = naming.name(request, seed, method.config, pipe.config.sampler, suffix)
                path = media.free_path(pathlib.Path(path), taken)
            else:
                path = _numbered(order, len(jobs))
            taken.add(path)
            writer, said = _writer(order, path, plan, sound, made, [*files, *order.reads])
            notes.update(dict.fromkeys(said))
            jobs.append(Job(plan, seed, writer))
    return Work(pipe, order.sampling, jobs, list(notes))


def make(work: Work) -> Iterator[media.Writer]:
    """Makes one file after another, each with the bytes that it has alone, and yields its writer.

    Raises:
        SamplingError, MediaError: one cannot be made after all; those before it stay.
    """
    for job in work.jobs:
        with job.writer as writer:
            for frames in work.pipe.stream(job.plan, seed=job.seed, **work.sampling):
                writer.add(frames)
        yield writer


def _numbered(order: Order, index: int) -> pathlib.Path:
    path = pathlib.Path(order.out)
    if len(order.requests) * order.variations == 1:
        return path
    return path.with_name(f"{path.stem}-{index}{path.suffix}")


def _writer(
    order: Order,
    path: pathlib.Path,
    plan: Plan,
    sound: media.Sound | None,
    made: Recipe,
    inputs: Sequence[Any],
) -> tuple[media.Writer, list[str]]:
    """What writes a file, and what the user should know of it."""
    notes = media.check_writable(
        path,
        frames=plan.frames,
        fps=plan.fps,
        size=plan.size,
        quality=order.quality,
        sound=sound is not None,
        overwrite=order.overwrite,
        inputs=inputs,
    )
    writer = media.Writer(
        path,
        plan.fps,
        plan.size,
        metadata=made.stored(),
        quality=order.quality,
        sound=sound,
        overwrite=order.overwrite,
    )
    if sound is not None and media.holds_sound(path):
        notes.append("The sound stays under the frames that are kept; the rest is silent.")
    return writer, notes
