"""Writes a model as diffusers loads it: `python -m vjax.export MODEL --out DIRECTORY`.

What a training run of a published model made is put beside that model's VAE, text encoder,
tokenizer and scheduler, or a LoRA is added to it.
"""

import argparse
import pathlib
import sys

from vjax import ending, loras
from vjax.config import ConfigError
from vjax.tensors import BundleError
from vjax.timeline import RequestError


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="vjax.export", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", metavar="MODEL", help="a bundle, a directory or a hub id")
    parser.add_argument("--out", required=True, type=pathlib.Path, metavar="DIRECTORY")
    parser.add_argument("--base", metavar="MODEL", help="the published model that a bundle is from")
    parser.add_argument(
        "--lora", action="append", metavar="FILE[@high|@low][:SCALE]", help="is added to it"
    )
    options = parser.parse_args(arguments)
    try:
        from vjax.convert.exporting import export  # which takes seconds

        for note in export(options.model, options.out, options.base, loras.of(options.lora)):
            print(f"note: {note}", file=sys.stderr)
    except (BundleError, ConfigError, RequestError) as error:
        print(f"vjax.export: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:  # nothing of it is left
        print("vjax.export: interrupted.", file=sys.stderr)
        return ending.status(interrupt)
    print(options.out)
    return 0


if __name__ == "__main__":
    ending.heed_signals()
    sys.exit(main())
