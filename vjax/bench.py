"""Speed on this machine, of a model, of the shape of a config, or beside diffusers.

    python -m vjax.bench                           # a model: matmul data train sample, or only some
    python -m vjax.bench configs/wan_1_3b.py       # a shape: matmul train sample decode
    python -m vjax.bench peers                     # step encode decode text video, or only some
    python -m vjax.bench load --gigabytes 5        # weights from the disk onto a device

A shape has random weights and clips, so nothing else is needed. Devices have the share of a batch
that the config gives them, also where there are more or fewer, and fields can be changed, such as
`--stages.0.groups.0.buckets.0.batch=16`. Its text encoder is left at one layer: what a run uses
of it can be computed once and kept. On a GPU, XLA_PYTHON_CLIENT_MEM_FRACTION=.94 leaves more room.

`peers` measures the same random weights in vjax and in diffusers, eager and under `torch.compile`,
in turns: a step of the DiT, the VAE, the text encoder and a whole video. On a CPU they are of sizes
that take minutes, on a GPU those of Wan 2.1 1.3B, 81 frames at 480p in bfloat16. It says how far
the results lie apart, and what memory a call takes beyond the weights.

`load` sets the speed of loading against that of the disk alone, and the memory that it takes
against what is kept of it: with random weights of so many gigabytes, or a model's own (--model).

Model FLOPs are counted by hand (`vjax.models.flops`) and set against what a large matrix product
reaches on the same machine in the same run. A part that fails says why, and the others go on.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable

import jax

from vjax import ending, runtime
from vjax.benchmarks import bundle, loading, machine, peers, shapes
from vjax.config import ConfigError


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m vjax.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", help="a config or `peers`, and parts; default: all")
    parser.add_argument("--model", default="default", help="without a config")
    parser.add_argument("--runs", type=int, default=9, help="the median of so many (9)")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the model's, or 4")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="that load writes (5)")
    parser.add_argument("--eager", action="store_true", help="peers without torch.compile")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options, fields = parser.parse_known_intermixed_args(arguments)
    runs, model, steps = options.runs, options.model, options.steps
    paths = [word for word in options.what if word.endswith(".py")]
    beside = "peers" in options.what
    wanted = [word for word in options.what if word not in (*paths, "peers")]
    if beside and paths:
        parser.error("peers have sizes of their own: leave the config out.")
    if len(paths) > 1:
        parser.error(f"one config, not {', '.join(paths)}.")
    if fields and not paths:
        parser.error(f"there is no {fields[0]}; fields are those of a config, which is missing.")
    if not 0.5 <= options.gigabytes <= 500:
        parser.error(f"--gigabytes must be from 0.5 to 500, got {options.gigabytes:g}.")
    if runs < 1:
        parser.error(f"--runs must be 1 or more, got {runs}.")
    parts: dict[str, Callable[[], dict]] = {"matmul": lambda: machine.matmul(runs)}
    if beside:
        pair = functools.cache(lambda: peers.Peers(peers.sizes(), runs, compiled=not options.eager))
        run = lambda name: getattr(pair(), name)()  # noqa: E731
        parts |= {name: functools.partial(run, name) for name in peers.PARTS}
        parts["video"] = lambda: pair().video(steps or 4)
    elif paths:
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
        if "load" in wanted:  # it takes the disk for itself
            own = None if model == "default" else model
            parts["load"] = lambda: loading.load(own, options.gigabytes)
    unknown = [name for name in wanted if name not in parts]
    if unknown:
        parser.error(f"there is no {unknown[0]!r}: choose from {', '.join(parts)}.")
    results: dict = {"jax": jax.__version__}
    status = 0
    try:
        if beside:
            results |= peers.prepare()
        runtime.set_up()
        runtime.check_devices()
        results["device"] = jax.devices()[0].device_kind
        if beside:
            peers.sizes()  # says whether torch can use it
        if not options.json:
            _print(results)
        for name in wanted or parts:
            try:
                found = parts[name]()
                results |= found
                if not options.json:  # parts can take minutes
                    _print(found)
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
    peak, shares = results.get("matmul_gflops_per_second"), {}
    for name, devices in (("train", jax.device_count()), ("sample", 1)):
        reached = results.get(f"{name}_model_gflops_per_second")
        if peak and reached:
            shares[f"{name}_share_of_matmul"] = reached / (peak * devices)
    if options.json:
        print(json.dumps(results | shares))
    else:
        _print(shares)
    return status


def _print(results: dict) -> None:
    for key, value in results.items():
        if isinstance(value, dict):
            print("\n".join(peers.table(key, value)), flush=True)
        else:
            said = value if isinstance(value, str) else format(value, ".4g")
            print(f"{key:32} {said}", flush=True)


if __name__ == "__main__":
    ending.heed_signals()
    sys.exit(main())
