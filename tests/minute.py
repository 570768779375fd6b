"""How much memory each verb takes for clips of several lengths: `python tests/minute.py 4 60`.

Prints, for each verb, MB above what the process had before, one for each number of seconds. All is
done as the command line does it, but for the encoding of the result, which has a test of its own.
The model is the tiny one, with sizes up to 160x160.
"""

import contextlib
import ctypes
import dataclasses
import gc
import json
import pathlib
import sys
import tempfile

import numpy as np
import tiny

from vjax import making, video, weights
from vjax.arguments import parse

SIZE, FPS = 160, 16
PROMPT = ["--prompt", "a red circle moves right"]
SHOTS = ["--prompt", "a red circle. Cut to a blue circle. Cut to: a red one"]
BOARD = """
prompt: a red circle
seconds: {s}
cards:
  - {{at: 0, text: a red circle moves right}}
  - {{at: {a}, text: a blue circle, soften: 0.25}}
  - {{at: {b}, image: picture.png}}
  - {{at: {c}, text: a red circle, cut: true}}
  - {{at: {d}, video: short.mp4, text: a blue circle}}
"""


def model() -> weights.Bundle:
    # Latents of 10x10: they cost next to nothing.
    vae = dataclasses.replace(tiny.MODEL.vae, patch_size=16, spatial_downsample=(False, False))
    dit = dataclasses.replace(tiny.MODEL.dit, patch=(1, 2, 2))
    return tiny.bundle(
        tiny.model(vae=vae, dit=dit, height=96, width=96, max_side=SIZE, fps=FPS, max_frames=33)
    )


def calls(s: int) -> dict[str, list[str]]:
    """A command line of each verb of which what is given, or made, is so many seconds long."""
    n, mp4, mask = s * FPS, f"{s}.mp4", ["--mask", "mask.png"]
    return {
        "text": [*PROMPT, "--seconds", f"{s}"],
        "shots": [*SHOTS, "--seconds", f"{s}"],
        "character": [*PROMPT, "--seconds", f"{s}", "--character", "picture.png"],
        "animate": ["animate", "picture.png", *PROMPT, "--seconds", f"{s}"],
        "bridge": ["bridge", "picture.png", "other.png", *PROMPT, "--seconds", f"{s}"],
        "keyframes": ["keyframes", f"picture.png@{s / 2}", *PROMPT, "--seconds", f"{s}"],
        "extend": ["extend", mp4, *PROMPT, "--seconds", "1"],
        "extend before": ["extend", mp4, *PROMPT, "--seconds", "1", "--before"],
        "extend by as much": ["extend", mp4, *PROMPT, "--seconds", f"{s}"],
        "infill": ["infill", mp4, *PROMPT, "--keep", "0:5", "--keep", f"-5:{n}"],
        "inpaint": ["inpaint", mp4, *PROMPT, *mask],
        "inpaint by a clip": ["inpaint", mp4, *PROMPT, "--mask", mp4],
        "remix": ["remix", mp4, *PROMPT, "--source-prompt", "a blue circle"],
        "remix with noise": ["remix", mp4, *PROMPT, "--source-prompt", "", "--region", "mask.png"],
        "blend": ["blend", mp4, mp4, *PROMPT, "--seconds", "1"],
        "blend under a curve": ["blend", mp4, mp4, *PROMPT, "--curve", "ease"],
        "recut": ["recut", mp4, *PROMPT, "--keep", f"{n // 2}:{n}", "--gap", "1", "--keep", "0:9"],
        "loop": ["loop", *PROMPT, "--seconds", f"{s}"],
        "loop of a video": ["loop", mp4, *PROMPT, "--seconds", "1"],
        "interpolate": ["interpolate", mp4, *PROMPT, "--fps", f"{3 * FPS // 2}"],
        "upscale": ["upscale", mp4, *PROMPT],
        "upscale in tiles": ["upscale", mp4, *PROMPT, "--size", "192x192"],
        "storyboard": ["storyboard", f"{s}.yaml"],
    }


def write_inputs(s: int) -> None:
    """A video of so many seconds, with sound, and a board; one mask and two pictures for all."""
    row, column = np.mgrid[:SIZE, :SIZE]
    shades = np.stack([row, column, row + column], axis=-1)
    square = np.zeros((1, SIZE, SIZE, 3), np.uint8)
    square[:, 40:100, 40:100] = 255
    for name, picture in (
        ("picture", shades[None]),
        ("other", shades[::-1][None]),
        ("mask", square),
    ):
        video.write(f"{name}.png", picture.astype(np.uint8), None, overwrite=True)
    hum = np.sin(np.arange(16_000 * s) / 7) * 9000
    sound = video.Sound(hum[:, None].astype(np.int16), 16_000)
    for name, count in (("short", FPS), (f"{s}", s * FPS)):
        options = {"sound": sound, "overwrite": True}
        with video.Writer(f"{name}.mp4", FPS, (SIZE, SIZE), **options) as writer:
            for n in range(count):
                writer.add((shades + 2 * n).astype(np.uint8)[None])
    times = {"a": s / 4, "b": s / 3, "c": s / 2, "d": 3 * s / 4}
    pathlib.Path(f"{s}.yaml").write_text(BOARD.format(s=s, **times))


def peak(arguments: list[str]) -> float:
    """MB that the process takes at most while it makes what is asked for, above what it has."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # from here on VmHWM counts anew
    before = _status("VmRSS")
    fixed = ["--size", f"{SIZE}x{SIZE}"] if "--size" not in arguments else []
    work = making.prepare(parse([*arguments, *fixed, "--model", "model", "--steps", "1"]))
    for job in work.jobs:
        frames = sum(map(len, work.pipe.stream(job.plan, seed=job.seed, **work.sampling)))
        if frames != job.plan.frames:
            raise ValueError(f"{frames} frames of {job.plan.frames} were made.")
    return _status("VmHWM") - before


def _status(key: str) -> float:
    (line,) = (
        line
        for line in pathlib.Path("/proc/self/status").read_text().splitlines()
        if line.startswith(key)
    )
    return int(line.split()[1]) / 1024


def main(seconds: list[int], only: list[str]) -> None:
    weights.save("model", model(), dtype="float32")
    for s in seconds:
        write_inputs(s)
    for verb in only or calls(1):
        peak(calls(seconds[0])[verb])  # compiles what serves all lengths
        found = [round(peak(calls(s)[verb]), 1) for s in seconds]
        print(json.dumps([verb, *found]), flush=True)


if __name__ == "__main__":
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        main([int(s) for s in given if s.isdigit()], [v for v in given if not v.isdigit()])
