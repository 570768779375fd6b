"""The README's commands and code run as they stand, on a model of its shape that is quick."""

import importlib
import os
import pathlib
import re
import shlex
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest
import tiny
import tiny_wan

from vjax import characters, weights
from vjax import video as media

ROOT = pathlib.Path(__file__).parent.parent
BLOCKS = re.findall(
    r"^ *```(\w+)\n(.*?)^ *```", (ROOT / "README.md").read_text("utf-8"), re.S | re.M
)
SMALL = [
    "--stages=({'groups': ({'buckets': ({'frames': 1, 'height': 32, 'width': 32, 'batch': 8},)},),"
    " 'steps': 1},)",
    *[f"--model.{field}" for field in ("frames=1", "height=32", "width=32", "min_side=32")],
    "--sample_prompts=()",
]
SMALLEST = {
    "sample": ["--steps", "1"],
    "evaluate": ["--count", "1", "--only", "one thing"],
    "bench": ["--runs", "1", "--steps", "1", "--model", "small"],
    "train": {
        "world_vae": [
            *SMALL,
            *(f"--model.vae.{f}" for f in ("base_dim=4", "decoder_base_dim=4", "dim_mult=(1,1,1)")),
        ],
        "world_dit": [
            *SMALL,
            *(f"--model.dit.{field}" for field in ("width=16", "depth=1", "ffn=16")),
            "--model.text.depth=1",
        ],
        "wan_lora": SMALL[:1],
    },
}


def commands() -> list[list[str]]:
    """The arguments of each `python -m vjax.…`: module, then what follows it."""
    found = []
    for language, text in BLOCKS:
        if language in ("sh", "bash", "console"):
            for line in re.sub(r"\\?\n +(?=[-\[])", " ", text).splitlines():
                if line.startswith("python -c"):
                    continue
                for command in re.split(r"&&|;|\|(?= )", line) if "[" not in line else [line]:
                    words = shlex.split(command, comments=True)
                    if words[1:2] == ["-m"] and words[2].startswith("vjax."):
                        found.append(words[2:])
    return found


def is_synopsis(command: list[str]) -> bool:
    """Whether it has parts to fill in: `[--seed N]`, FILE, …"""
    return any("[" in word or "…" in word or re.fullmatch("[A-Z]{2,}", word) for word in command)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A directory with a model of the default one's shape, a photo and a clip."""
    directory = tmp_path_factory.mktemp("readme")
    weights.save(directory / "assets" / "default", tiny.bundle(tiny.of_default_shape()))
    weights.save(directory / "small", tiny.bundle())
    tiny_wan.write(directory / "wan", "t2v")
    (directory / "configs").symlink_to(ROOT / "configs")
    return directory


@pytest.fixture(autouse=True)
def in_place(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(weights, "ASSETS", place / "assets")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("VJAX_CHARACTERS", str(place / "characters"))


def main(module: str, arguments: list[str]) -> int | str | None:
    try:
        return importlib.import_module(module).main(arguments)
    except SystemExit as done:
        return done.code


def prepare(arguments: list[str]) -> None:
    """Makes the photos, clips and prompts that a command reads."""
    for before, word in zip(["", *arguments], arguments, strict=False):
        name = word.partition("@")[0]
        if before == "--like":  # one may lie there that was not made
            again = ["--prompt", "a red circle", "--steps", "1", "--out", name, "--overwrite"]
            assert main("vjax.sample", again) == 0
        elif before in ("--out", "--prompt") or os.path.exists(name):
            continue
        elif before == "--prompts":
            pathlib.Path(name).write_text("a red circle\na blue circle\n")
        elif before == "--character":
            add = next(
                command for command in commands() if command[1:4] == ["characters", "add", name]
            )
            prepare(add[1:])
            if name not in characters.characters():
                assert main(add[0], add[1:]) == 0
        elif before == "--mask":
            media.write(name, np.arange(96 * 96 * 3, dtype=np.uint8).reshape(1, 96, 96, 3), 16)
        elif name.endswith(".yaml"):
            (board,) = (textwrap.dedent(text) for language, text in BLOCKS if language == "yaml")
            pathlib.Path(name).write_text(board)
            prepare(re.findall(r"photo\.png", board))
        elif name.endswith((".png", ".jpg", ".webp")):
            media.write(name, tiny.clip(1, 96, 96), 16)
        elif name.endswith((".mp4", ".webm", ".gif")):
            said = {"request": {"verb": "text", "prompt": "a red circle"}}
            media.write(name, tiny.clip(33, 96, 96), 16, metadata=said)


@pytest.mark.parametrize("command", [c for c in commands() if not is_synopsis(c)], ids=" ".join)
def test_a_command_runs(command):
    module, *arguments = command
    if module == "vjax.plan":
        pytest.importorskip("libtpu", reason="the TPU's compiler is not here")
    small = SMALLEST.get(module.removeprefix("vjax."), [])
    if isinstance(small, dict):
        small = small[pathlib.Path(arguments[0]).stem]
    if module == "vjax.sample" and "wan" in arguments:
        small = [*small, "--size", "64x64", "--frames", "5"]
    prepare(arguments)
    lists = {"--help", "--draft", "styles", "characters"} & {*arguments}
    assert main(module, arguments + ([] if lists else small)) == 0


@pytest.mark.parametrize("command", [c for c in commands() if is_synopsis(c)], ids=" ".join)
def test_a_synopsis_names_what_there_is(command, capsys):
    module, *arguments = command
    verb = [word for word in arguments[:1] if re.fullmatch("[a-z]+", word)]
    assert main(module, [*verb, "--help"]) == 0
    shown = capsys.readouterr().out
    for option in re.findall(r"--[a-z][\w-]*", " ".join(arguments)):
        assert re.search(rf"{option}\b", shown), f"{option} is not an option of {module}"


def test_the_code_runs():
    code = [text for language, text in BLOCKS if language == "python"]
    given = {
        "image": tiny.clip(1, 96, 96)[0],
        "other": tiny.clip(1, 96, 96, seed=1)[0],
        "mask": np.eye(96, dtype=bool),
        "pixels": tiny.clip(33, 96, 96)[None] / np.float32(127.5) - 1,
        "t": jnp.full((1,), 0.5),
    }
    assert code
    for text in code:
        exec(text, given)


def test_commands_are_found():
    modules = {command[0] for command in commands()}
    assert modules >= {"vjax.sample", "vjax.train", "vjax.evaluate", "vjax.bench"}
