"""The command line: every verb on real files, files that can be made again, and bad input."""

import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
import tiny
from PIL import Image

from vjax import sample, weights
from vjax import video as media

PROMPT = ["--prompt", "a red circle moves right"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("model") / "tiny"
    weights.save(directory, tiny.bundle(), dtype="float32")
    return str(directory)


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    """An empty working directory."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> pathlib.Path:
    """Media to start from: videos of 5 and 9 frames at 8 fps and a picture of another shape."""
    directory = tmp_path_factory.mktemp("inputs")
    media.write(directory / "five.mp4", tiny.clip(5), 8)
    media.write(directory / "nine.gif", tiny.clip(9), 8)
    media.write(directory / "picture.png", tiny.clip(1, 48, 48), None)
    return directory


def run(capsys, *arguments) -> tuple[int, list[str], list[str]]:
    """Exit code and the lines on stdout and stderr."""
    code = sample.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


def succeed(capsys, *arguments) -> list[pathlib.Path]:
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    return [pathlib.Path(line) for line in out]


# --- Verbs and kinds of files --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "gif", "webp"])
def test_words_become_a_video(suffix, bundle, here, capsys):
    (path,) = succeed(capsys, "--model", bundle, *PROMPT, "--frames", 5, "--out", f"out.{suffix}")
    clip = media.read(path)
    assert clip.frames.shape == (5, 32, 32, 3)
    assert clip.fps == pytest.approx(8, rel=0.05)
    assert [file.name for file in here.iterdir()] == [f"out.{suffix}"]


def test_one_frame_is_a_picture_and_files_are_named_after_the_prompt(bundle, here, capsys):
    (path,) = succeed(capsys, "--model", bundle, *PROMPT, "--frames", 1, "--seed", 4)
    assert path.name == "a-red-circle-moves-right-4.png"
    with Image.open(path) as image:
        assert image.size == (32, 32)


def test_animate_fits_the_picture_and_keeps_it(bundle, here, inputs, capsys):
    arguments = ["animate", inputs / "picture.png", "--model", bundle, *PROMPT, "--out", "o.webp"]
    code, out, err = run(capsys, *arguments)
    assert code == 0
    assert out[-1] == "o.webp"
    assert any("48x48" in line and line.startswith("note: ") for line in err)
    frames = media.read("o.webp").frames
    assert frames.shape == (9, 32, 32, 3)
    np.testing.assert_array_equal(frames[:1], media.fit(tiny.clip(1, 48, 48), 32, 32))


def test_extend_adds_seconds_before_or_after(bundle, here, inputs, capsys):
    given = media.read(inputs / "five.mp4").frames
    common = [inputs / "five.mp4", "--model", bundle, *PROMPT, "--seconds", 0.5]
    (after,) = succeed(capsys, "extend", *common, "--out", "after.webp")
    (before,) = succeed(capsys, "extend", *common, "--before", "--out", "before.webp")
    after, before = media.read(after), media.read(before)
    assert len(after.frames) == len(before.frames) == 9
    assert after.fps == before.fps == 8
    np.testing.assert_array_equal(after.frames[:5], given)
    np.testing.assert_array_equal(before.frames[4:], given)


def test_infill_keeps_the_ranges(bundle, here, inputs, capsys):
    given = media.read(inputs / "nine.gif").frames
    keep = ["--keep", "0:3", "--keep=-2:9"]
    arguments = ["infill", inputs / "nine.gif", "--model", bundle, *PROMPT, *keep]
    (path,) = succeed(capsys, *arguments, "--out", "out.webp")
    made = media.read(path).frames
    assert len(made) == 9
    np.testing.assert_array_equal(made[[0, 1, 2, 7, 8]], given[[0, 1, 2, 7, 8]])
    assert (made[3:7] != given[3:7]).any(axis=(1, 2, 3)).all()


def test_options_may_stand_before_or_after_the_verb():
    after = sample._settings(["animate", "i.png", *PROMPT, "--seed", "3", "--frames", "5"])
    before = sample._settings([*PROMPT, "--seed", "3", "--frames", "5", "animate", "i.png"])
    mixed = sample._settings(["--seed", "3", *PROMPT, "animate", "i.png", "--frames", "5"])
    assert before == after == mixed
    assert (after["verb"], after["seed"], after["frames"]) == ("animate", 3, 5)


# --- Making a file again -------------------------------------------------------------------------


def test_like_makes_a_file_again_and_takes_changes(bundle, here, inputs, capsys, monkeypatch):
    model = os.path.relpath(bundle)
    made = ["infill", os.path.relpath(inputs / "nine.gif"), "--model", model, *PROMPT]
    made += ["--keep", "0:3", "--keep=-2:9", "--seed", 2, "--guidance", 1.5, "--out", "one.mp4"]
    succeed(capsys, *made)
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    succeed(capsys, "--like", "../one.mp4", "--out", "again.mp4")
    succeed(capsys, "--like", "../one.mp4", "--seed", 7, "--out", "other.mp4")
    one, again, other = (media.read(f).frames for f in ("../one.mp4", "again.mp4", "other.mp4"))
    np.testing.assert_array_equal(again, one)
    assert not np.array_equal(other, one)
    old, new = media.read_metadata("../one.mp4"), media.read_metadata("other.mp4")
    assert {**old, "seed": 7} == new
    assert old["guidance"] == 1.5
    assert old["steps"] == tiny.MODEL.sampler.steps


def test_variations_are_files_of_their_own(bundle, here, capsys):
    arguments = ["--model", bundle, *PROMPT, "--frames", 5]
    paths = succeed(capsys, *arguments, "--variations", 2, "--seed", 5, "--out", "o.webp")
    assert [str(path) for path in paths] == ["o-0.webp", "o-1.webp"]
    assert media.read_metadata(paths[1])["seed"] == 6
    (again,) = succeed(capsys, "--like", paths[1], "--out", "again.webp")
    difference = media.read(paths[1]).frames.astype(int) - media.read(again).frames
    assert np.abs(difference).max() <= 1
    assert not np.array_equal(media.read(paths[0]).frames, media.read(paths[1]).frames)


# --- Bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Say what to make"),
        (["animate", "{inputs}/picture.png"], "Say what to make"),
        (["--prompt", " "], "prompt is empty"),
        (["animate", "{inputs}/none.png", *PROMPT], "does not exist"),
        (["extend", "{inputs}/text.mp4", *PROMPT], "not a video"),
        (["extend", "{inputs}/zero.mp4", *PROMPT], "zero bytes"),
        (["extend", "{inputs}/five.mp4", *PROMPT, "--seconds", "-1"], "positive"),
        (["extend", "{inputs}/five.mp4", *PROMPT, "--frames", "5"], "takes --seconds"),
        (["infill", "{inputs}/five.mp4", *PROMPT], "at least one range"),
        (["infill", "{inputs}/five.mp4", *PROMPT, "--keep", "0:7"], "frames 0 to 5"),
        (["infill", "{inputs}/five.mp4", *PROMPT, "--keep", "some"], "START:END"),
        (["infill", "{inputs}/five.mp4", *PROMPT, "--seconds", "1"], "keeps the length"),
        ([*PROMPT, "--size", "30x30"], "nearest is 32x32"),
        ([*PROMPT, "--size", "big"], "width x height"),
        ([*PROMPT, "--frames", "0"], "at least 1 frame"),
        ([*PROMPT, "--seconds", "nan"], "no number"),
        ([*PROMPT, "--frames", "5", "--seconds", "1"], "not both"),
        ([*PROMPT, "--steps", "0"], "at least 1 step"),
        ([*PROMPT, "--seed", "-3"], "seed is a whole number"),
        ([*PROMPT, "--solver", "magic"], "euler, heun, unipc"),
        ([*PROMPT, "--variations", "0"], "At least 1 variation"),
        ([*PROMPT, "--model", "nothing"], "Unknown model 'nothing'"),
        ([*PROMPT, "--out", "missing/out.mp4"], "missing does not exist"),
        ([*PROMPT, "--out", "out.avi"], r"\.mp4, \.webm"),
        ([*PROMPT, "--out", "out.png"], "A png holds one frame"),
        ([*PROMPT, "--like", "{inputs}/five.mp4"], "no vjax settings"),
        ([*PROMPT, "--sede", "3"], "no option --sede: did you mean --seed"),
        ([*PROMPT, "--seed", "three"], "--seed"),
        (["remix", *PROMPT], "remix"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(
    arguments, message, bundle, here, inputs, capsys, monkeypatch
):
    def computed(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setattr("vjax.pipeline.Pipeline.__call__", computed)
    (inputs / "text.mp4").write_text("not a video at all\n" * 20)
    (inputs / "zero.mp4").write_bytes(b"")
    arguments = [argument.format(inputs=inputs) for argument in arguments]
    code, out, err = run(capsys, "--model", bundle, *arguments)
    assert code != 0
    assert out == []
    assert len(err) == 1
    assert err[0].startswith("vjax.sample: ")
    assert re.search(message, err[0])
    assert list(here.iterdir()) == []


def test_a_broken_tail_is_noted_and_the_rest_used(bundle, here, inputs, capsys):
    whole = (inputs / "five.mp4").read_bytes()
    (inputs / "broken.mp4").write_bytes(whole[: int(0.9 * len(whole))])
    arguments = ["extend", inputs / "broken.mp4", "--model", bundle, *PROMPT, "--seconds", 0.5]
    code, out, err = run(capsys, *arguments, "--out", "out.gif")
    assert (code, out) == (0, ["out.gif"])
    assert any(line.startswith("note: ") and "damaged" in line for line in err)


def test_unknown_words_are_noted(bundle, here, capsys):
    arguments = ["--model", bundle, "--prompt", "a red dragon", "--frames", 1, "--out", "o.png"]
    code, _, err = run(capsys, *arguments)
    assert code == 0
    assert any(line.startswith("note: ") and line.endswith("dragon.") for line in err)


def test_an_interrupted_run_writes_nothing(bundle, here, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vjax.pipeline.Pipeline.__call__", interrupted)
    code, out, err = run(capsys, "--model", bundle, *PROMPT)
    assert (code, out) == (130, [])
    assert len(err) == 1
    assert list(here.iterdir()) == []


# --- As a command --------------------------------------------------------------------------------


def test_the_command_helps_and_runs(bundle, here):
    command = [sys.executable, "-m", "vjax.sample"]
    environment = {**os.environ, "PYTHONPATH": str(pathlib.Path(__file__).parent.parent)}

    def call(*arguments):
        return subprocess.run(
            [*command, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    shown = call("--help")
    assert shown.returncode == 0
    assert "animate photo.png" in shown.stdout
    made = call(*PROMPT, "--frames", "1", "--model", bundle, "--out", "out.png")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "out.png"
    assert media.read_metadata("out.png")["prompt"] == PROMPT[1]
    wrong = call(*PROMPT, "--frames", "0", "--model", bundle)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("vjax.sample: A video has at least 1 frame")
