"""Makes videos from the command line: `python -m vjax.sample --prompt "a red circle moves right"`.

Each file is a line on stdout as soon as it is whole. Its metadata hold the settings that made it,
and `--like FILE` makes it again.
"""

import io
import sys
import time
import traceback
import warnings
from typing import TYPE_CHECKING

from vjax import characters, drafting, ending, styles
from vjax.arguments import PROGRAM, parse
from vjax.timeline import printable

if TYPE_CHECKING:
    from vjax.video import Writer

LONGEST_LINE = 800  # characters on stderr


def main(arguments: list[str] | None = None) -> int:
    """The command line: one line per problem, and no traceback for what the user can mend.

    Returns:
        0; 2 where nothing was begun, 1 where making failed, 130 after Ctrl-C, 143 where the system
        ended it. Files that were finished by then are kept, and their paths are on stdout.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # paths leave as the very bytes that they are
        sys.stdout.reconfigure(encoding=sys.getfilesystemencoding(), errors="surrogateescape")
    finished, total, failure = 0, 0, 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always", UserWarning)
            warnings.showwarning = lambda message, *_, **__: _say(f"note: {message}")
            arguments = sys.argv[1:] if arguments is None else arguments
            if arguments[:1] == ["styles"]:
                return _list_styles(arguments[1:])
            if drafting.is_asked(arguments):
                print(drafting.draft(arguments), flush=True)
                return 0
            if arguments[:1] == ["characters"]:
                return characters.main(arguments[1:])
            order = parse(arguments)
            from vjax import making

            if order.dry_run:
                print(making.planned(order)[1].describe(), flush=True)
                return 0
            work = making.prepare(order)
            for note in work.notes:
                _say(f"note: {note}")
            total, failure, began = len(work.jobs), 1, time.perf_counter()
            for writer in making.make(work):
                if writer is None:  # another process writes it
                    continue
                finished += 1
                turn = f"{finished} of {total}: " if total > 1 else ""
                _say(f"{turn}{_made(writer)} in {time.perf_counter() - began:.1f} s")
                print(writer.path, flush=True)
                began = time.perf_counter()
    except KeyboardInterrupt as interrupt:
        _say(f"vjax.sample: interrupted; {_so_far(finished, total)}.")
        return ending.status(interrupt)
    except Exception as error:
        if (why := _for_the_user(error)) is None:
            raise
        after = f" ({_so_far(finished, total)})" if finished else ""
        _say(f"vjax.sample: {why}{after}")
        return failure
    return 0


def _list_styles(arguments: list[str]) -> int:
    """`styles [FILE]`: what `--style` may name, a line each."""
    if len(arguments) > 1 or arguments[:1] in (["-h"], ["--help"]):
        print(f"usage: {PROGRAM} styles [FILE]\n\nLists what --style may name, those of FILE too.")
        return 2 if len(arguments) > 1 else 0
    known = styles.styles(*arguments)
    width = max(map(len, known))
    for name, style in known.items():
        line = f"{name:<{width}}  {style.prompt}"
        print(printable(line))
    return 0


def _made(writer: "Writer") -> str:
    size = "{}x{}".format(*writer.size)
    if writer.count == 1:
        return f"1 frame of {size}"
    return f"{writer.count} frames of {size} at {writer.fps:g} fps"


def _so_far(finished: int, total: int) -> str:
    return f"{finished} of {total} files are finished and kept" if finished else "no file was made"


def _say(text: str) -> None:
    """A line on stderr; what comes from files and prompts can neither break, steer nor flood it."""
    text = text if len(text) <= LONGEST_LINE else text[: LONGEST_LINE // 2] + " … " + text[-100:]
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    print("".join(shown), file=sys.stderr, flush=True)


def _for_the_user(error: Exception) -> str | None:
    """What an error says to the user; None for one that is a fault of this program."""
    full = isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    if full or isinstance(error, MemoryError):
        return "There is not enough memory: ask for a smaller --size or fewer --frames."
    ours = isinstance(error, ValueError) and type(error).__module__.startswith("vjax.")
    return str(error) if ours or isinstance(error, OSError) else None


if __name__ == "__main__":
    ending.heed_signals()
    try:
        status = main()
    except Exception:
        traceback.print_exc()
        status = 1
    if "vjax.parallel.cluster" in sys.modules:  # there may be other processes
        from vjax.parallel import cluster

        cluster.end(lambda: status)
    sys.exit(status)
