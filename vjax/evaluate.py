"""Scores a model of the captioned world: `python -m vjax.evaluate --model default`.

Every clip that the model makes is read by the oracle, which knows nothing of the prompt, and is
compared with what was asked for. Beside each row stands what the true clips score after a round
trip through the model's VAE, which is what a perfect DiT would get, and what a still picture of
them scores. Prompts, first frames and clips come from seeds that no training uses.

Clips and scores are kept, so that the same command goes on where it stopped. A contact sheet of
what was scored lies beside the figures, to be looked at.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import sys
import time
from collections.abc import Iterator

import jax
import numpy as np
from rich.console import Console

from vjax import ending, pipeline, progress, runtime, seams, weights
from vjax.config import ConfigError
from vjax.evaluation import films, judge, trials, verbs, words
from vjax.evaluation.report import label, tables, write_sheet
from vjax.evaluation.results import Results, ResultsError
from vjax.evaluation.trials import Row, Trial
from vjax.models.vae import to_uint8
from vjax.rollout import SamplingError
from vjax.timeline import RequestError

SHOWN = 6  # clips of a row on the contact sheet
CEILINGS = 50  # trials of a row, at most, for which a round trip and a still picture are judged


@dataclasses.dataclass(frozen=True)
class Task:
    """A row to score: so many trials, begun from noise or from true clips noised to `start`."""

    row: Row
    count: int
    start: float | None = None

    @property
    def name(self) -> str:
        return self.row.name if self.start is None else f"{self.row.name} from {self.start:g}"


def plan(pipe, options, console: Console) -> list[Task]:
    """The rows that were asked for and that the model can make; says which it cannot."""
    if options.verbs and (options.frames or options.start or pipe.config.frames < 9):
        raise ResultsError("Verbs are scored at the model's own length, from noise, in clips.")
    frames = options.frames
    if options.start and frames is None:
        frames = pipe.config.frames
    rows = verbs.rows(pipe.config) if options.verbs else trials.rows(pipe.config, frames)
    names = [*(row.name for row in rows), *([] if options.verbs else ["vae"])]
    for name in options.only:
        if name not in names:
            known = ", ".join(map(repr, names))
            raise ResultsError(f"There is no row {name!r}: choose from {known}.")
    only = options.only or (["one thing"] if options.start else names)
    tasks = []
    for row in rows:
        if row.name not in only:
            continue
        try:
            pipe.check(row.trial(0).timeline)
        except RequestError as error:
            console.print(f"{row.name} is left out. {error}", highlight=False)
            continue
        count = max(1, round(options.count * row.share))
        tasks += [Task(row, count, start) for start in options.start or [None]]
    return tasks


def _batches(tasks: list[Task], results: Results, size: int) -> Iterator[tuple[Task, list[Trial]]]:
    """What is still to be made, a batch of each row in turn."""
    queues = []
    for task in tasks:
        every = (task.row.trial(index) for index in range(task.count))
        missing = [trial for trial in every if results.clip(task.name, trial) is None]
        parts = math.ceil(len(missing) / size)
        each = math.ceil(len(missing) / max(parts, 1))  # batches of one size compile once
        queues.append((task, [missing[i * each : (i + 1) * each] for i in range(parts)]))
    for turn in range(max((len(parts) for _, parts in queues), default=0)):
        for task, parts in queues:
            if turn < len(parts):
                yield task, parts[turn]


def make(pipe, tasks: list[Task], results: Results, options, console: Console) -> None:
    """Samples what is missing, until the time is up. A row that fails does not end the others."""
    began, longest = time.monotonic(), 0.0
    batches = list(_batches(tasks, results, options.batch))
    steps = pipe.config.sampler.steps
    failed: list[Task] = []
    bar = progress.bar(console)

    def advance(done: float, count: int, step: int) -> None:
        bar.update(shown, completed=done + 0.95 * count * min(step / steps, 1))

    with bar:
        shown = bar.add_task("", total=sum(len(batch) for _, batch in batches))
        for task, batch in batches:
            before = time.monotonic()
            if options.minutes and before - began + longest > 60 * options.minutes:
                return
            done = bar.tasks[0].completed
            bar.update(shown, description=f"{task.name:20}")
            padded = [*batch, *batch[-1:] * (_size(batches, task) - len(batch))]
            start = None
            if task.start is not None:
                start = (np.stack([trial.truth for trial in padded]), task.start)
            if task in failed:
                continue
            try:
                videos = pipe.sample_batch(
                    [trial.timeline for trial in padded],
                    [trial.seed for trial in padded],
                    start=start,
                    on_step=functools.partial(advance, done, len(batch)),
                )
            except (RequestError, SamplingError, RuntimeError) as error:  # also: no memory
                console.print(f"{task.name} ends here. {str(error)[:300]}", highlight=False)
                failed.append(task)
                continue
            for trial, video in zip(batch, videos, strict=False):
                results.add_clip(task.name, trial, video)
            bar.update(shown, completed=done + len(batch))
            longest = max(longest, time.monotonic() - before)


def _size(batches, task: Task) -> int:
    return max(len(batch) for other, batch in batches if other is task)


def _round_trip(pipe, video: np.ndarray) -> np.ndarray:
    beyond = -(len(video) - 1) % pipe.config.vae.temporal_ratio  # frames that fill a latent
    padded = np.pad(video, ((0, beyond), (0, 0), (0, 0), (0, 0)), mode="edge")
    decoded = pipe.decode(pipe.encode(padded[None]))[0, : len(video)]
    return np.array(to_uint8(decoded))


def _answer(pipe, task: Task, trial: Trial, kind: str, results: Results) -> np.ndarray | None:
    if kind == "model":
        return results.clip(task.name, trial)
    if kind == "still picture":
        return trial.frozen()
    video = _round_trip(pipe, trial.truth)
    if trial.given.any():
        asked = pipe.plan(trial.timeline)
        ((video,),) = seams.joined([video[None]], [asked.canvas], 0, asked.cuts)
    return trial.restored(video)


def score(pipe, tasks: list[Task], results: Results, console: Console) -> dict[str, dict]:
    """Mean scores of the answers by row: of the model, of round trips and of still pictures."""
    rows: dict[str, dict] = {}
    with progress.bar(console) as bar:
        shown = bar.add_task("judging", total=len(tasks))
        for task in tasks:
            trial = functools.cache(task.row.trial)

            def judged(kind: str, index: int, task=task, trial=trial) -> dict[str, float] | None:
                found = results.scores(task.name, kind, index)
                if found is None:
                    video = _answer(pipe, task, trial(index), kind, results)
                    if video is not None:
                        found = _judged(trial(index), video, pipe.config.fps)
                        results.add_scores(task.name, kind, index, found)
                return found

            row: dict = {}
            for kind in ("model", "round trip", "still picture"):
                count = task.count if kind == "model" else min(task.count, CEILINGS)
                still = kind == "still picture" and len(trial(0).given) == 1
                if kind == "model" or (task.start is None and not still):
                    every = [judged(kind, index) for index in range(count)]
                    every = [scores for scores in every if scores is not None]
                    row |= {"generations": len(every)} if kind == "model" else {}
                    row[kind] = _means(every)
            rows[task.name] = row
            bar.advance(shown)
    return rows


def _judged(trial: Trial, video: np.ndarray, fps: float) -> dict[str, float]:
    kind = films if isinstance(trial, films.FilmTrial) else judge
    return kind.judge(trial, video, fps)


def motion_words(pipe, tasks: list[Task], results: Results) -> dict[str, dict]:
    """Where single things went by each motion word, and where the true ones go."""
    found = {}
    for task in tasks:
        if task.row.name == "one thing" and len(task.row.trial(0).given) > 1:
            courses: dict[str, list] = {"model": [], "truth": []}
            for trial in map(task.row.trial, range(task.count)):
                video = results.clip(task.name, trial)
                for kind, clip in (("model", video), ("truth", trial.truth)):
                    seen = results.scores(task.name, f"course of {kind}", trial.index)
                    if seen is None and video is not None:
                        seen = words.course(clip, pipe.config.fps)
                        results.add_scores(task.name, f"course of {kind}", trial.index, seen)
                    courses[kind].append((trial, seen or {}))
            found[task.name] = {kind: words.by_word(every) for kind, every in courses.items()}
    return found


def _means(scores: list[dict[str, float]]) -> dict[str, float]:
    keys = dict.fromkeys(key for each in scores for key in each)
    return {key: float(np.mean([each[key] for each in scores if key in each])) for key in keys}


def vae_psnr(pipe, count: int) -> float:
    """Mean PSNR in dB of clips of the whole world after a round trip."""
    errors = []
    for index in range(count):
        clip = trials.vae_clip(pipe.config, index)
        error = _round_trip(pipe, clip).astype(np.float64) - clip
        errors.append(10 * np.log10(255**2 / np.mean(error**2)))
    return float(np.mean(errors))


def _shown(tasks: list[Task], results: Results) -> list[tuple[np.ndarray, str]]:
    """A few clips of each row, and under each what was asked and what is wrong."""
    found = []
    for task in tasks:
        of_row = []
        for trial in map(task.row.trial, range(min(task.count, SHOWN))):
            video = results.clip(task.name, trial)
            scores = results.scores(task.name, "model", trial.index)
            if video is not None and scores is not None:
                of_row.append((video, label(f"{task.name}: {trial.said}", scores)))
        if of_row and len(of_row[0][0]) == 1:  # pictures, side by side
            pictures, labels = zip(*of_row, strict=True)
            of_row = [(np.concatenate(pictures), ", ".join(labels))]
        found += of_row
    return found


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is too few: at least 1")
    return number


def _time(text: str) -> float:
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no time: above 0 (data) and up to 1 (noise)")
    return number


def _minutes(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is no time to sample in: above 0")
    return number


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vjax.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", default="default", help="a shipped model or a bundle")
    add(
        "--count",
        type=_positive,
        default=200,
        help="generations of one thing and of held-out pairs; other rows take a quarter (200)",
    )
    add("--only", nargs="*", default=[], metavar="ROW", help="the names of rows; default: all")
    add(
        "--frames",
        type=_positive,
        help="length of the clips, for the rows of words alone; 1 scores pictures",
    )
    add("--verbs", action="store_true", help="score what the verbs make, instead of the rows above")
    add(
        "--from",
        dest="start",
        nargs="+",
        type=_time,
        default=[],
        metavar="T",
        help="start sampling from true clips noised to these times: tells at which noise level a "
        "model fails. For one thing, where --only names no other row of words",
    )
    add("--batch", type=_positive, default=8, help="clips that are sampled at once (8)")
    add("--minutes", type=_minutes, help="stop sampling then, and score what is there")
    add("--out", default="evaluation", help="where clips, scores and sheet are kept (evaluation)")
    add("--json", action="store_true", help="print the scores as JSON")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    options = parser().parse_args(arguments)
    console, out = Console(stderr=True), pathlib.Path(options.out)
    try:
        runtime.set_up()
        runtime.check_devices()
        pipe = pipeline.load(options.model)
        computed = f"{pipe.dtype}-{jax.default_backend()}"
        version = (films if options.verbs else judge).version()
        results = Results(
            out, weights.fingerprint(options.model), pipe.config.sampler, computed, version
        )
        tasks = plan(pipe, options, console)
        make(pipe, tasks, results, options, console)
        report = {
            "model": pipe.config.name,
            "origin": pipe.config.origin,
            **results.key,
            "rows": score(pipe, tasks, results, console),
            "each motion word": motion_words(pipe, tasks, results),
        }
        everything = not (options.only or options.start or options.verbs)
        if everything or "vae" in options.only:
            count = min(max(1, options.count // 4), 64)
            try:
                report["vae"] = {"clips": count, "psnr": vae_psnr(pipe, count)}
            except ValueError as error:
                console.print(f"vae is left out. {error}", highlight=False)
        (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        write_sheet(out / "sheet.png", _shown(tasks, results))
    except (weights.BundleError, ConfigError, ResultsError, OSError) as error:
        print(f"vjax.evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(
            f"vjax.evaluate: interrupted; the same command goes on from what is in {out}.",
            file=sys.stderr,
        )
        return ending.status(interrupt)
    if options.json:
        print(json.dumps(report))
    else:
        Console().print(*tables(report), sep="\n")
    print(
        f"kept in {out}: {', '.join(sorted(path.name for path in out.iterdir()))}", file=sys.stderr
    )
    return 0


if __name__ == "__main__":
    ending.heed_signals()
    sys.exit(main())
