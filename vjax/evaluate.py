"""Scores a model of the captioned world: `python -m vjax.evaluate --model default`.

Every clip that the model makes is read by the oracle, which knows nothing of the prompt, and is
compared with what was asked for. Prompts, first frames and clips come from seeds that no training
uses. A contact sheet of what was scored is written beside the figures, to be looked at.
"""

import argparse
import collections
import dataclasses
import json
import pathlib
import sys
from collections.abc import Callable, Iterator

import numpy as np
from rich.console import Console
from rich.progress import track as progress_bar
from rich.table import Table

from vjax import pipeline, runtime, verbs, weights, world
from vjax import video as media
from vjax.timeline import Timeline
from vjax.world import oracle

SEED = 2_000_003  # training draws its clips from other seeds
SHOWN = 6  # clips of a row on the contact sheet
EXTEND_SECONDS = 2.0


class ResultsError(ValueError):
    """An evaluation that cannot begin or go on."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """One clip to make, and how to judge it: scores by name, true or false or a number."""

    timeline: Timeline
    facts: world.Facts
    judge: Callable[[np.ndarray], dict[str, float]]
    label: str


def _one_thing(rng: np.random.Generator, split: str) -> world.Facts:
    thing = world.sample_thing(rng, split=split)
    return world.Facts((world.Shot((thing,), str(rng.choice(world.BACKGROUNDS))),))


def _two_things(rng: np.random.Generator, split: str) -> world.Facts:
    while True:
        facts = world.sample_facts(rng, 2.0, split)
        things = facts.shots[0].things
        if len(things) == 2 and facts.shots[0].relation != "behind" and facts.style == "flat":
            return facts


def _of_kind(wanted: Callable[[world.Facts], bool]):
    def sample(rng: np.random.Generator, split: str) -> world.Facts:
        while True:
            facts = world.sample_facts(rng, 2.0, split)
            if wanted(facts):
                return facts

    return sample


def _text_trials(pipe, sample, split: str, size: tuple[int, int]) -> Iterator[Trial]:
    index = 0
    while True:
        rng = np.random.default_rng((SEED, index))
        facts = sample(rng, split)
        prompt = world.caption(facts, rng, long=index % 2 == 1)
        keys = [
            "color",
            "shape",
            "motion",
            "background",
            "count",
            "relation",
            "permanence",
            "camera",
            "cut",
            "style",
        ]

        def judge(video, facts=facts, keys=keys):
            agrees = oracle.agree(facts, oracle.read(video, pipe.config.fps))
            scores = {key: float(agrees[key]) for key in keys if key in agrees}
            asked = ("color", "shape", "motion", "background")
            return scores | {"all four": float(all(agrees[key] for key in asked))}

        yield Trial(verbs.text(prompt, size=size), facts, judge, prompt)
        index += 1


def _true_clip(pipe, index: int, motions=None) -> tuple[np.ndarray, world.Facts, str]:
    """A ground-truth clip of one thing, in the model's native shape, and its caption."""
    model = pipe.config
    rng = np.random.default_rng((SEED, 1, index))
    thing = world.sample_thing(rng, motions or world.MOTIONS)
    facts = world.Facts((world.Shot((thing,), str(rng.choice(world.BACKGROUNDS))),))
    video = world.render(
        facts,
        (SEED, 2, index),
        frames=model.frames,
        height=model.height,
        width=model.width,
        fps=model.fps,
    )
    return video, facts, world.caption(facts, rng, long=index % 2 == 1)


def _same_thing(facts: world.Facts, video: np.ndarray, fps: float) -> dict[str, float]:
    agrees = oracle.agree(facts, oracle.read(video, fps))
    return {
        "identity": float(agrees["color"] and agrees["shape"]),
        "motion": float(agrees["motion"]),
        "background": float(agrees["background"]),
    }


def _animate_trials(pipe) -> Iterator[Trial]:
    index = 0
    while True:
        clip, facts, prompt = _true_clip(pipe, index)

        def judge(video, clip=clip, facts=facts):
            as_given = {"first frame as given": float((video[0] == clip[0]).all())}
            return as_given | _same_thing(facts, video, pipe.config.fps)

        yield Trial(verbs.animate(clip[0], prompt), facts, judge, prompt)
        index += 1


def _extend_trials(pipe, before: bool) -> Iterator[Trial]:
    index = 0
    while True:
        clip, facts, prompt = _true_clip(pipe, index)

        def judge(video, clip=clip, facts=facts):
            color = facts.shots[0].things[0].color
            path = oracle.track(video, color)
            steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
            seam = len(video) - len(clip) - 1 if before else len(clip) - 1
            own = steps[seam + 1 :] if before else steps[:seam]
            kept = video[-len(clip) :] if before else video[: len(clip)]
            made = video[: -len(clip) + 1] if before else video[len(clip) - 1 :]
            reading = oracle.read(made, pipe.config.fps)
            things = [thing for shot in reading.shots for thing in shot.things]
            wanted = facts.shots[0].things[0]
            same = len(things) == 1 and (things[0].color, things[0].shape) == (color, wanted.shape)
            return {
                "no jump": float(steps[seam] <= np.nanmax(own) + 2),
                "identity": float(same),
                "given frames as given": float((kept == clip).all()),
            }

        timeline = verbs.extend(clip, prompt, seconds=EXTEND_SECONDS, before=before)
        yield Trial(timeline, facts, judge, prompt)
        index += 1


def _infill_trials(pipe) -> Iterator[Trial]:
    index, frames = 0, pipe.config.frames
    ends = max(frames // 6, 1)
    keep = [(0, ends), (frames - ends, frames)]
    while True:
        clip, facts, prompt = _true_clip(pipe, index)

        def judge(video, clip=clip, facts=facts):
            color = facts.shots[0].things[0].color
            error = oracle.track(video, color) - oracle.track(clip, color)
            error = np.linalg.norm(error[ends : frames - ends], axis=1)
            kept = all((video[a:b] == clip[a:b]).all() for a, b in keep)
            missing = np.where(np.isnan(error), 0.5 * clip.shape[2], error)
            return {
                "centroid error / width": float(missing.mean() / clip.shape[2]),
                "kept frames as given": float(kept),
                **_same_thing(facts, video, pipe.config.fps),
            }

        yield Trial(verbs.infill(clip, prompt, keep=keep), facts, judge, prompt)
        index += 1


def _vae_psnr(pipe, count: int) -> float:
    errors = []
    for index in range(count):
        clip, *_ = world.clip(
            (SEED, 3, index),
            frames=pipe.config.frames,
            height=pipe.config.height,
            width=pipe.config.width,
            fps=pipe.config.fps,
        )
        video = clip[None] / np.float32(127.5) - 1
        decoded = np.clip(np.asarray(pipe.decode(pipe.encode(video))), -1, 1)
        errors.append(10 * np.log10(4 / np.mean((decoded - video) ** 2)))
    return float(np.mean(errors))


def rows(pipe) -> dict[str, Iterator[Trial]]:
    """What a model is scored on: a name for each row and its endless trials."""
    model = pipe.config
    native = (model.width, model.height)
    tall, wide = ((80, 128), (128, 80)) if model.height == 96 else ((96, 160), (160, 96))

    def text(sample, split="train", size=native):
        return _text_trials(pipe, sample, split, size)

    def first_shot(facts: world.Facts) -> world.Shot:
        return facts.shots[0]

    return {
        "one thing": text(_one_thing),
        "held-out pairs": text(_one_thing, "held_out"),
        "two things": text(_two_things),
        "behind the wall": text(_of_kind(lambda f: first_shot(f).wall and f.style == "flat")),
        "camera": text(_of_kind(lambda f: first_shot(f).camera != "static" and f.style == "flat")),
        "two shots": text(_of_kind(lambda f: len(f.shots) == 2 and f.style == "flat")),
        "styles": text(_of_kind(lambda f: f.style != "flat" and len(f.shots) == 1)),
        f"one thing, {tall[0]}x{tall[1]}": text(_one_thing, size=tall),
        f"one thing, {wide[0]}x{wide[1]}": text(_one_thing, size=wide),
        "animate": _animate_trials(pipe),
        "extend after": _extend_trials(pipe, before=False),
        "extend before": _extend_trials(pipe, before=True),
        "infill the middle": _infill_trials(pipe),
    }


class Results:
    """A file with a line for every scored trial, so that an evaluation goes on where it stopped."""

    def __init__(self, path: pathlib.Path, model: str):
        self.path = path
        self.trials: dict[tuple[str, int], dict[str, float]] = {}
        if not path.exists():
            path.write_text(json.dumps({"model": model}) + "\n")
        try:
            header, *lines = path.read_text().splitlines()
            found = json.loads(header)["model"]
            for line in lines:
                row, index, scores = json.loads(line)
                self.trials[row, index] = scores
        except (ValueError, KeyError, TypeError):
            raise ResultsError(f"{path} holds no scores: remove it or name another file.") from None
        if found != model:
            raise ResultsError(
                f"{path} holds the scores of another model ({found}, not {model}): remove it or "
                "name another file."
            )

    def add(self, row: str, index: int, scores: dict[str, float]) -> None:
        self.trials[row, index] = scores
        with self.path.open("a") as file:
            file.write(json.dumps([row, index, scores]) + "\n")

    def means(self, row: str, count: int) -> dict[str, float]:
        scores = collections.defaultdict(list)
        for index in range(count):
            for key, value in self.trials[row, index].items():
                scores[key].append(value)
        return {key: float(np.mean(values)) for key, values in scores.items()}


def score(pipe, count: int, only: list[str], results: Results, console: Console):
    """Mean scores by row, and a few clips of each row with their labels."""
    available = rows(pipe)
    names = [*available, "vae"]
    for name in only:
        if name not in names:
            known = ", ".join(map(repr, names))
            raise ResultsError(f"There is no row {name!r}: choose from {known}.")
    means, sheet = {}, []
    for name, trials in available.items():
        if only and name not in only:
            continue
        for index in progress_bar(
            range(count), f"{name:22}", console=console, disable=not console.is_terminal
        ):
            trial = next(trials)
            if index >= SHOWN and (name, index) in results.trials:
                continue
            video = pipe(trial.timeline, seed=SEED + index)
            judged = trial.judge(video)
            if (name, index) not in results.trials:
                results.add(name, index, judged)
            if index < SHOWN:
                wrong = [key for key, value in judged.items() if value == 0 and key != "all four"]
                missed = f" [not: {', '.join(wrong)}]" if wrong else ""
                sheet.append((video, f"{name}: {trial.label}{missed}"))
        means[name] = results.means(name, count)
    if not only or "vae" in only:
        means["vae"] = {"psnr": _vae_psnr(pipe, min(count, 64))}
    return means, sheet


def _table(means: dict[str, dict[str, float]], count: int) -> Table:
    table = Table("row", "scores", title=f"{count} generations per row")
    for name, scores in means.items():
        shown = [
            f"{key} {value:.1f} dB" if key == "psnr" else f"{key} {100 * value:.1f}%"
            for key, value in scores.items()
        ]
        table.add_row(name, "   ".join(shown))
    return table


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m vjax.evaluate", description=__doc__)
    parser.add_argument("--model", default="default", help="a shipped model or a bundle")
    parser.add_argument("--count", type=int, default=200, help="generations per row (200)")
    parser.add_argument("--only", nargs="*", default=[], help="the names of rows; default: all")
    parser.add_argument("--json", action="store_true", help="print the scores as JSON")
    parser.add_argument(
        "--results", default="evaluate.jsonl", help="keeps every score; goes on where it stopped"
    )
    parser.add_argument("--sheet", default="evaluate.png", help="where the contact sheet goes")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    try:
        media.check_writable(options.sheet)
        runtime.set_up()
        pipe = pipeline.load(options.model)
        name = f"{pipe.config.name}, {pipe.config.origin}"
        results = Results(pathlib.Path(options.results), name)
        means, sheet = score(pipe, options.count, options.only, results, console)
        if sheet:
            clips, labels = zip(*sheet, strict=True)
            image = media.contact_sheet(clips, labels=labels)
            media.write(options.sheet, image[None], None)
    except (weights.BundleError, media.MediaError, ResultsError, OSError) as error:
        print(f"vjax.evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"vjax.evaluate: interrupted; the same command goes on from {options.results}.",
            file=sys.stderr,
        )
        return 130
    if options.json:
        print(json.dumps({"model": options.model, "count": options.count, "scores": means}))
    else:
        Console().print(_table(means, options.count))
    print(f"contact sheet: {pathlib.Path(options.sheet)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
