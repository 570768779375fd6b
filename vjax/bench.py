"""Speed on this machine, of a model or of the shape of a config.

    python -m vjax.bench                           # a model: matmul data train sample, or only some
    python -m vjax.bench configs/wan_1_3b.py       # a shape: matmul train sample decode

A shape has random weights and clips, so nothing else is needed. Devices have the share of a batch
that the config gives them, also where there are more or fewer, and fields can be changed, such as
`--stages.0.groups.0.buckets.0.batch=16`. Its text encoder is left at one layer: what a run uses
of it can be computed once and kept. On a GPU, XLA_PYTHON_CLIENT_MEM_FRACTION=.94 leaves more room.

Model FLOPs are counted by hand (`vjax.models.flops`) and set against what a large matrix product
reaches on the same machine in the same run. A part that fails says why, and the others go on.
"""

import argparse
import json
import sys
from collections.abc import Callable

import jax

from vjax import ending, runtime
from vjax.benchmarks import bundle, machine, shapes
from vjax.config import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vjax.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", help="a config, and parts; default: all of them")
    parser.add_argument("--model", default="default", help="without a config")
    parser.add_argument("--runs", type=int, default=9, help="the median of so many (9)")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the model's, or 4")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options, fields = parser.parse_known_args(arguments)
    runs, model, steps = options.runs, options.model, options.steps
    paths = [word for word in options.what if word.endswith(".py")]
    wanted = [word for word in options.what if word not in paths]
    if len(paths) > 1:
        parser.error(f"one config, not {', '.join(paths)}.")
    if fields and not paths:
        parser.error(f"there is no {fields[0]}; fields are those of a config, which is missing.")
    if runs < 1:
        parser.error(f"--runs must be 1 or more, got {runs}.")
    parts: dict[str, Callable[[], dict]] = {"matmul": lambda: machine.matmul(runs)}
    if paths:
        parts |= {
            "train": lambda: shapes.train(runs, shapes.read(paths[0], fields)),
            "sample": lambda: shapes.sample(runs, shapes.read(paths[0], fields), steps),
            "decode": lambda: shapes.decode(runs, shapes.read(paths[0], fields)),
        }
    else:
        parts |= {
            "data": lambda: bundle.data(runs),
            "train": lambda: bundle.train(runs, model),
            "sample": lambda: bundle.sample(runs, model, steps),
        }
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}: choose from {', '.join(parts)}.")
    results: dict = {"jax": jax.__version__}
    status = 0
    try:
        runtime.set_up()
        runtime.check_devices()
        results["device"] = jax.devices()[0].device_kind
        for name in wanted or parts:
            try:
                results |= parts[name]()
            except Exception as error:  # whatever it is, the other parts have their figures
                kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
                print(f"vjax.bench: {name} failed: {kind}{error}", file=sys.stderr)
                status = 1
    except ConfigError as error:
        print(f"vjax.bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:  # finished parts have their figures, too
        print("vjax.bench: interrupted.", file=sys.stderr)
        status = ending.status(interrupt)
    peak = results.get("matmul_gflops_per_second")
    for name, devices in (("train", jax.device_count()), ("sample", 1)):
        reached = results.get(f"{name}_model_gflops_per_second")
        if peak and reached:
            results[f"{name}_share_of_matmul"] = reached / (peak * devices)
    if options.json:
        print(json.dumps(results))
    else:
        for key, value in results.items():
            print(f"{key:32} {value if isinstance(value, str) else format(value, '.4g')}")
    return status


if __name__ == "__main__":
    ending.heed_signals()
    sys.exit(main())
