"""An order carried out: all of it is checked, then one file is made after another."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax

from vjax import (
    ending,
    memory,
    naming,
    pipeline,
    planning,
    recipe,
    rewriting,
    runtime,
    stages,
    verbs,
    weights,
)
from vjax import method as methods
from vjax import video as media
from vjax.config import MeshConfig, ModelConfig
from vjax.convert import lora, merging
from vjax.order import SAMPLING, Order
from vjax.parallel import cluster, rules
from vjax.parallel import mesh as meshes
from vjax.planning import Plan
from vjax.recipe import Model, Recipe
from vjax.rewriting import Rewritten
from vjax.timeline import RequestError
from vjax.training.process import Interrupt

T = TypeVar("T")

MOST_FILES = 10_000


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
    """A file to make, which one process of several writes."""

    plan: Plan
    seed: int
    writer: media.Writer | None


@dataclasses.dataclass(frozen=True, eq=False)
class Work:
    """An order that can be carried out.

    Args:
        notes: what the user should know beforehand: a sentence each.
    """

    pipe: pipeline.Pipeline
    processes: cluster.Processes
    sampling: Mapping[str, Any]
    jobs: Sequence[Job]
    notes: Sequence[str]


def prepare(order: Order) -> Work:
    """Finds all that can be wrong with an order, before anything is computed.

    Raises:
        RequestError, MediaError, BundleError: something of it cannot be made.
        ConfigError: there is no device to make it on, the devices cannot share it, or processes
            that should make it together differ; or another of them says that it cannot be made.
    """
    count = len(order.requests) * order.variations
    if count > MOST_FILES:
        raise RequestError(f"One run makes at most {MOST_FILES} files, not {count}: ask for fewer.")
    runtime.set_up(keep_memory=True)
    name, plan, write = planned(order)
    model = Model(weights.called(name), weights.fingerprint(name))
    named = {file: recipe.named(file) for file in verbs.files(order.requests[0])}
    processes = cluster.start(_facts(order, model, named))
    if processes.together:
        processes.stop.__enter__()  # from here on a signal to one ends all, until `make` has ended
    if write is not None:
        order, plan = _rewritten(order, plan, name, write, processes)
    return _on_all(processes, lambda: _work(order, processes, plan, name, model, named))


def planned(order: Order) -> tuple[str, Plan, Callable[[], list[Rewritten]] | None]:
    """The model of an order, the plan of its first request as given, and what rewrites the prompts.

    No network is loaded, and no chat endpoint asked until that is called. None: they stay.

    Raises:
        RequestError, MediaError, BundleError: it cannot be made.
    """
    name = order.model
    if name is None:
        name = recipe.find_model(order.recipe.model, order.like) if order.recipe else "default"
    config = weights.read_config(name)
    first: Any = order.requests[0]  # every verb has a prompt
    if order.caption is not None:
        first = dataclasses.replace(first, prompt=rewriting.UNSAID)
    said = merging.check(config, order.lora)
    plan = planning.plan(first.timeline(), config, weights.tokenizer_of(name, config))
    plan = dataclasses.replace(plan, notes=(*plan.notes, *said))
    return name, plan, rewriting.asked(order, plan.timeline, config)


def _work(
    order: Order,
    processes: cluster.Processes,
    plan: Plan,
    name: str,
    model: Model,
    named: Mapping[Any, Any],
) -> Work:
    bundle = weights.open(name, loras=order.lora)
    if order.recipe is not None and bundle.config.boundary is None:
        # That of another model's second expert has no use here.
        old = ("low_guidance", order.recipe.low_guidance)
        sampling = dict(item for item in order.sampling.items() if item != old)
        order = dataclasses.replace(order, sampling=sampling)
    dtype = order.dtype or bundle.dtype or stages.usual_dtype()
    guided = methods.of(plan, bundle.config.sampler, order.sampling).config.guided
    mesh = order.mesh or _mesh(bundle.config, plan, guided, dtype, order.int8)
    need = memory.needed(bundle.config, plan, dtype, guided, mesh, order.int8)
    need.check(bundle.config.name)
    pipe = pipeline.Pipeline(bundle, dtype, mesh, order.int8)
    sound = None
    jobs: list[Job] = []
    taken: set[pathlib.Path] = set()
    notes: dict[str, None] = dict.fromkeys([*bundle.notes, *need.said()])
    used = tuple(map(recipe.applied, order.lora))
    inputs = [*named, *order.reads, *(lora.located(each.file) for each in order.lora)]
    if pipe.mesh is not None:
        notes.update(dict.fromkeys(rules.undivided(bundle.params, pipe.mesh)))
    for index, request in enumerate(order.requests):
        rewritten: Any = order.rewritten[index] if order.rewritten else None
        if isinstance(rewritten, Rewritten):
            notes[rewritten.said()] = None
            rewritten = rewritten.stored()
        if index == 0:
            if not request.mute:
                sound = media.arranged(plan.kept, plan.frames / plan.fps)
        else:  # all share the given frames
            plan = planning.reworded(plan, request.told, pipe.config, pipe.tokenizer)
        _, method = pipe.check(plan, seed=order.seed, variations=order.variations, **order.sampling)
        usual = pipe.check(plan)[1].config
        notes.update(dict.fromkeys([*plan.notes, *plan.warnings]))
        if pipe.mesh is not None:
            width, height = (side // pipe.config.vae.spatial_ratio for side in plan.size)
            if whole := meshes.undivided_frames(pipe.mesh, height, width):
                notes[whole] = None
        if method.config.solver != order.sampling.get("solver", pipe.config.sampler.solver):
            notes[f"It is made with the {method.config.solver} solver, which this needs."] = None
        if request.negative and not method.config.guided:
            notes["A guidance of 1 reads no negative prompt, so it changes nothing."] = None
        for seed in range(order.seed, order.seed + order.variations):
            made = Recipe(
                vjax=recipe.version(),
                request=verbs.to_json(request, named.__getitem__),
                model=model,
                seed=seed,
                dtype=str(pipe.dtype),
                int8=pipe.int8,
                quality=order.quality,
                platform=jax.default_backend(),
                jax=jax.__version__,
                rewritten=rewritten,
                loras=used,
                **{option: getattr(method.config, option) for option in SAMPLING},
            )
            if order.recipe is not None:
                said = recipe.differences(order.recipe, made, order.like)
                notes.update(dict.fromkeys(said))
            if processes.index:
                jobs.append(Job(plan, seed, None))
                continue
            if order.out is None:
                suffix = ".png" if plan.frames == 1 else ".mp4"
                path = naming.name(request, seed, method.config, usual, suffix)
                path = media.free_path(pathlib.Path(path), taken)
            else:
                path = _numbered(order, len(jobs))
            taken.add(path)
            writer, said = _writer(order, path, plan, sound, made, inputs)
            notes.update(dict.fromkeys(said))
            jobs.append(Job(plan, seed, writer))
    if processes.index:
        notes.clear()  # one process says them
    return Work(pipe, processes, order.sampling, jobs, list(notes))


def _rewritten(
    order: Order,
    plan: Plan,
    name: str,
    write: Callable[[], list[Rewritten]],
    processes: cluster.Processes,
) -> tuple[Order, Plan]:
    """The order with other prompts, and the plan of its first one.

    Process 0 has them written for all: who asks again is told something else.

    Raises:
        RequestError: what is given cannot be described.
        ConfigError: that, on other processes.
    """
    asked = _on_all(processes, lambda: [] if processes.index else write())
    requests: list[Any] = list(order.requests)  # every verb has a prompt
    found: list[Rewritten] = []
    for place, request in enumerate(requests):  # one is no long message
        said = dataclasses.asdict(asked[place]) if asked else None
        found.append(Rewritten(**processes.first(said)))
        requests[place] = dataclasses.replace(request, prompt=found[-1].prompt)
    config = weights.read_config(name)
    tokenizer = weights.tokenizer_of(name, config)
    plan = planning.reworded(plan, requests[0].told, config, tokenizer)
    return dataclasses.replace(order, requests=requests, rewritten=found), plan


def make(work: Work) -> Iterator[media.Writer | None]:
    """Makes one file after another, each with the bytes that it has alone, and yields its writer.

    All processes make it and the first writes it; on the others there is no writer.

    Raises:
        SamplingError, MediaError: one cannot be made after all; those before it stay.
        KeyboardInterrupt: a signal came to one of several processes: on all.
        ConfigError, ConnectionError: another process failed.
    """
    for job in work.jobs:
        with job.writer or contextlib.nullcontext() as writer:
            chunks = work.pipe.stream(job.plan, seed=job.seed, **work.sampling)
            following = functools.partial(next, chunks, None)
            while (frames := _on_all(work.processes, following)) is not None:
                if writer is not None:
                    writer.add(frames)
        yield writer
    if work.processes.together:
        work.processes.leave()
        work.processes.stop.__exit__()


def _on_all(processes: cluster.Processes, work: Callable[[], T]) -> T:
    """What `work` returns, once that of all processes is done; what ends one of them ends all."""
    if not processes.together:
        return work()
    try:
        return processes.wait(work)
    except Interrupt:
        by_system = processes.stop.number == signal.SIGTERM
        raise ending.Terminated if by_system else KeyboardInterrupt from None


def _facts(order: Order, model: Model, named: Mapping[Any, Any]) -> dict[str, Any]:
    """What must be the same on all processes, before any prompt is rewritten."""
    first, *others = order.requests
    prompts = json.dumps([each.prompt for each in others])  # they differ in nothing else
    return {
        "the request": verbs.to_json(first, named.__getitem__),
        "the other prompts": hashlib.sha256(prompts.encode()).hexdigest()[:12],
        **{name: bool(getattr(order, name)) for name in ("upsample", "caption")},
        "the model": dataclasses.asdict(model),
        "LoRA files": [dataclasses.asdict(recipe.applied(each)) for each in order.lora],
        **{name: getattr(order, name) for name in ("seed", "variations", "dtype", "int8")},
        **order.sampling,
        "mesh": dataclasses.asdict(order.mesh) if order.mesh else None,
    }


def _mesh(
    config: ModelConfig, plan: Plan, guided: bool, dtype: str, int8: bool
) -> MeshConfig | None:
    """How the devices that are here share a video, where nothing is asked for."""
    if len(jax.devices()) == 1 or config.dit is None or config.vae is None:
        return None
    if jax.process_count() == 1 and jax.default_backend() == "cpu":
        return None  # devices of one CPU have the same cores
    side = config.vae.spatial_ratio
    patches = math.prod(
        length // side // patch
        for length, patch in zip(plan.size[::-1], config.dit.patch[1:], strict=True)
    )
    windows = [window for segment in plan.segments for window in segment.windows]
    latents = max((window.stop - window.start for window in windows), default=0)
    devices = jax.devices()
    alone = latents * patches * (2 if guided else 1) < len(devices) * meshes.TOKENS_EACH
    if alone and jax.process_count() == 1:  # of several processes all take part
        return None
    has = meshes.memory_of_device()
    resident = memory.resident(memory.held(config, dtype, int8=int8), has)
    return meshes.for_one_video(config, len(devices), guided, sum(resident.values()), has)


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
        if plan.timeline.sound is not None:
            notes.append("The sound stays as it is.")
        else:
            notes.append("The sound stays under the frames that are given; the rest is silent.")
    return writer, notes
