"""Makes a video from the command line: `python -m vjax.sample --prompt "a red circle moves right"`.

The last line on stdout is the path of the file. Its metadata hold the settings that made it, and
`--like FILE` makes it again.
"""

import argparse
import difflib
import math
import os
import pathlib
import sys
import textwrap
import time
import warnings
from typing import Any

DEFAULTS = {"model": "default", "seed": 0, "variations": 1}
STORED = (
    "verb",
    "input",
    "prompt",
    "negative",
    "size",
    "frames",
    "seconds",
    "fps",
    "before",
    "keep",
    "seed",
    "steps",
    "guidance",
    "solver",
    "variations",
    "model",
)
OPTIONS = ("help", "out", "like", *STORED[2:])
EXAMPLES = """\
examples:
  python -m vjax.sample --prompt "a red circle moves right on a black background"
  python -m vjax.sample animate photo.png --prompt "a blue star spins at night"
  python -m vjax.sample extend clip.mp4 --seconds 2 --prompt "a red circle moves right"
  python -m vjax.sample infill clip.mp4 --keep 0:5 --keep 28:33 --prompt "a red circle moves right"
  python -m vjax.sample --like out.mp4 --seed 7 --out other.mp4
"""


class UsageError(ValueError):
    """A command line that cannot work."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    common = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    what = common.add_argument_group("what to make")
    what.add_argument("--prompt", help="what the video should show")
    what.add_argument("--negative", help="what it should not show")
    what.add_argument("--size", metavar="WxH", type=_size, help="such as 128x80; default: native")
    what.add_argument("--frames", metavar="N", type=int, help="length in frames")
    what.add_argument("--seconds", metavar="S", type=_number, help="length in seconds")
    what.add_argument("--fps", metavar="F", type=_number, help="frame rate; default: native")
    what.add_argument("--variations", metavar="K", type=int, help="this many, with seeds N, N+1, …")
    how = common.add_argument_group("how to make it")
    how.add_argument("--model", metavar="NAME|DIR", help="a shipped model or a bundle's directory")
    how.add_argument("--seed", metavar="N", type=int, help="decides what is left open (0)")
    how.add_argument("--steps", metavar="N", type=int, help="sampling steps")
    how.add_argument(
        "--guidance", metavar="G", type=_number, help="how closely to follow the prompt"
    )
    how.add_argument("--solver", help="euler, heun, unipc or stochastic")
    common.add_argument("--out", metavar="FILE", help="mp4, webm, gif, webp, or png for one frame")
    common.add_argument("--like", metavar="FILE", help="repeat FILE, except for what is given here")

    parser = _Parser(
        prog="python -m vjax.sample",
        description="Makes a video from words, an image or a video.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    verbs = parser.add_subparsers(dest="verb", metavar="[animate | extend | infill]")
    verb = verbs.add_parser("animate", parents=[common], help="a video that starts with an image")
    verb.add_argument("input", metavar="IMAGE")
    verb = verbs.add_parser("extend", parents=[common], help="more video after or before a video")
    verb.add_argument("input", metavar="VIDEO")
    verb.add_argument(
        "--before", action="store_true", default=argparse.SUPPRESS, help="what came before"
    )
    verb = verbs.add_parser("infill", parents=[common], help="new frames between kept ones")
    verb.add_argument("input", metavar="VIDEO")
    verb.add_argument(
        "--keep",
        metavar="A:B",
        type=_range,
        action="append",
        default=argparse.SUPPRESS,
        help="keep frames A to B - 1; may be repeated",
    )
    return parser


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number")
    return value


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no size: write width x height, such as 96x96"
        ) from None
    return width, height


def _range(text: str) -> tuple[int, int]:
    try:
        start, end = (int(part) for part in text.split(":"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no range of frames: write START:END, such as 0:5"
        ) from None
    return start, end


def _check_options(arguments: list[str]) -> None:
    """Refuses an unknown option by its name; argparse would take its value for a verb."""
    for argument in arguments:
        name = argument.partition("=")[0]
        if name[:2] == "--" and not any(f"--{option}".startswith(name) for option in OPTIONS):
            near = difflib.get_close_matches(name[2:], OPTIONS, n=1)
            hint = f"did you mean --{near[0]}?" if near else "see --help."
            raise UsageError(f"There is no option {name}: {hint}")


def _settings(arguments: list[str]) -> dict[str, Any]:
    """What to make: the stored settings of `--like`, then what the command line says."""
    from vjax import video as media

    _check_options(arguments)
    given = {k: v for k, v in vars(_parser().parse_args(arguments)).items() if v is not None}
    like = given.pop("like", None)
    if like is not None:
        stored = media.read_metadata(like)
        if not stored or "vjax" not in stored:
            raise UsageError(f"{like} holds no vjax settings, so it cannot be made again.")
        old = {k: v for k, v in stored.items() if k in STORED and v is not None}
        if "frames" in given or "seconds" in given:
            old = {k: v for k, v in old.items() if k not in ("frames", "seconds")}
        given = {**old, **given}
    settings = {**DEFAULTS, **given}
    settings.setdefault("verb", "text")
    if "prompt" not in settings:
        raise UsageError('Say what to make: --prompt "a red circle moves right".')
    return settings


def _timeline(settings: dict[str, Any]):
    from vjax import verbs

    verb = settings["verb"]
    if verb == "extend" and "frames" in settings:
        raise UsageError("extend takes --seconds, the length of what is added, not --frames.")
    if verb == "infill" and ("frames" in settings or "seconds" in settings):
        raise UsageError("infill keeps the length of the video: leave out --frames and --seconds.")
    kind = verbs.request_type(verb)
    values = {name: settings[name] for name in verbs.options(kind) if name in settings}
    if "input" in settings:
        values["image" if verb == "animate" else "video"] = settings["input"]
    return kind.read(values).timeline()


def _output(settings: dict[str, Any], frames: int) -> pathlib.Path:
    if "out" in settings:
        return pathlib.Path(settings["out"])
    words = "".join(c if c.isalnum() else " " for c in settings["prompt"].lower()).split()
    name = "-".join(words)[:60].strip("-") or "video"
    return pathlib.Path(f"{name}-{settings['seed']}.{'png' if frames == 1 else 'mp4'}")


def _numbered(path: pathlib.Path, index: int, count: int) -> pathlib.Path:
    return path if count == 1 else path.with_name(f"{path.stem}-{index}{path.suffix}")


def run(arguments: list[str]) -> list[pathlib.Path]:
    """Makes what the arguments say and returns the written files.

    All that can be wrong with the request is found before anything is computed.
    """
    settings = _settings(arguments)

    import vjax
    from vjax import runtime, weights
    from vjax import video as media

    runtime.set_up()
    began = time.perf_counter()
    if settings["verb"] != "text":
        settings["input"] = os.path.abspath(settings["input"])
    model = weights.find(settings["model"])
    if model.parent != weights.ASSETS:
        settings["model"] = os.path.abspath(model)
    timeline = _timeline(settings)
    pipe = vjax.load(settings["model"])
    plan = pipe.plan(timeline)
    count = settings["variations"]
    pipe.check(
        plan,
        seed=settings["seed"],
        steps=settings.get("steps"),
        solver=settings.get("solver"),
        variations=count,
    )
    out = _output(settings, plan.frames)
    paths = [_numbered(out, i, count) for i in range(count)]
    for path in paths:
        media.check_writable(path, overwrite=True)
    if out.suffix.lower() == ".png" and plan.frames > 1:
        raise UsageError("A png holds one frame: add --frames 1, or choose mp4, gif or webp.")
    for note in (*plan.notes, *plan.warnings):
        print(f"note: {note}", file=sys.stderr)

    videos = pipe(
        plan,
        seed=settings["seed"],
        steps=settings.get("steps"),
        guidance=settings.get("guidance"),
        solver=settings.get("solver"),
        variations=count,
    )
    sampler = pipe.config.sampler
    used = {
        **{name: getattr(sampler, name) for name in ("steps", "guidance", "solver")},
        **{name: settings[name] for name in STORED if name in settings},
    }
    for i, (path, frames) in enumerate(zip(paths, videos, strict=True)):
        made = {"vjax": _version(), **used, "seed": settings["seed"] + i, "variations": 1}
        media.write(path, frames, plan.fps, metadata=made, overwrite=True)
    width, height = plan.size
    print(
        f"{plan.frames} frames of {width}x{height} at {plan.fps:g} fps in "
        f"{time.perf_counter() - began:.1f} s",
        file=sys.stderr,
    )
    return paths


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vjax")
    except PackageNotFoundError:  # run from a checkout
        return "not installed"


def main(arguments: list[str] | None = None) -> int:
    """The command line: one line per problem, and no traceback for what the user can mend."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = _show_as_note
            paths = run(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print("vjax.sample: interrupted; nothing was written.", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if not _is_for_the_user(error):
            raise
        print(f"vjax.sample: {textwrap.shorten(str(error), 600)}", file=sys.stderr)
        return 2
    for path in paths:
        print(path)
    return 0


def _show_as_note(message, *_, **__) -> None:
    print(f"note: {message}", file=sys.stderr)


def _is_for_the_user(error: Exception) -> bool:
    """Whether an error is of our own making, with a message that says what to do."""
    return isinstance(error, OSError) or type(error).__module__.startswith(("vjax.", "__main__"))


if __name__ == "__main__":
    sys.exit(main())
