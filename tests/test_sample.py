"""The command line: every verb on real files, files that can be made again, and bad input."""

import dataclasses
import errno
import hashlib
import json
import os
import pathlib
import re
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from typing import NoReturn

import jax
import numpy as np
import pytest
import tiny
from forked import Forked
from PIL import Image
from test_chat import served

import vjax
from vjax import ending, making, memory, pipeline, planning, sample, verbs, weights
from vjax import video as media
from vjax.arguments import parse
from vjax.order import Order
from vjax.parallel import mesh

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
    """Exit code and the lines on stdout and stderr, without those of progress."""
    code = sample.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    progress = ("compiling", "sampling: ")
    return code, out.splitlines(), [x for x in err.splitlines() if not x.startswith(progress)]


def succeed(capsys, *arguments) -> list[pathlib.Path]:
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    return [pathlib.Path(line) for line in out]


# --- Verbs and kinds of files --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv", ".gif", ".webp", ""])
def test_words_become_a_video(suffix, bundle, here, capsys):
    (path,) = succeed(capsys, "--model", bundle, *PROMPT, "--frames", 5, "--out", f"out{suffix}")
    clip = media.read(path)
    assert clip.frames.shape == (5, 32, 32, 3)
    assert clip.fps == pytest.approx(8, rel=0.05)
    assert [file.name for file in here.iterdir()] == [f"out{suffix}"]


def test_one_frame_is_a_picture_and_files_are_named_after_what_was_made(bundle, here, capsys):
    (path,) = succeed(capsys, "--model", bundle, *PROMPT, "--frames", 1, "--seed", 4)
    assert path.name == "text-a-red-circle-moves-right-frames-1-4.png"
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
    keep = ["--keep", "0:3", "--keep", "-2:9"]
    arguments = ["infill", inputs / "nine.gif", "--model", bundle, *PROMPT, *keep]
    (path,) = succeed(capsys, *arguments, "--out", "out.webp")
    made = media.read(path).frames
    assert len(made) == 9
    np.testing.assert_array_equal(made[[0, 1, 2, 7, 8]], given[[0, 1, 2, 7, 8]])
    assert (made[3:7] != given[3:7]).any(axis=(1, 2, 3)).all()


def test_pictures_are_shown_at_their_times_and_no_other(bundle, here, capsys):
    for name in "ab":
        media.write(f"{name}.png", tiny.clip(1, seed=ord(name)), 8)
    a, b = (media.read(f"{name}.png").frames[0] for name in "ab")
    common = ["--model", bundle, *PROMPT, "--steps", 1]
    (path,) = succeed(capsys, "bridge", "a.png", "b.png", *common, "--frames", 7, "--out", "o.mkv")
    made = media.read(path).frames
    assert [(frame == a).all() for frame in made] == [n == 0 for n in range(7)]
    assert [(frame == b).all() for frame in made] == [n == 6 for n in range(7)]
    for number in range(1, 7):
        keys = [f"a.png@{(number + 1) / 8}", f"b.png@{number / 8}"]
        out = ["--frames", 8, "--out", f"{number}.mkv"]
        (path,) = succeed(capsys, "keyframes", *keys, *common, *out)
        made = media.read(path).frames
        assert [(frame == b).all() for frame in made] == [n == number for n in range(8)]
        assert [(frame == a).all() for frame in made] == [n == number + 1 for n in range(8)]
    (again,) = succeed(capsys, "--like", path, "--model", bundle, "--out", "again.mkv")
    assert again.read_bytes() == path.read_bytes()


def test_the_order_of_the_options_is_that_of_the_film(bundle, here, inputs, capsys):
    for name in ("picture.png", "nine.gif"):
        shutil.copy(inputs / name, here)
    given = media.read("nine.gif").frames
    film = ["--gap", 0.25, "--keep", "1:4:6", *PROMPT, "--keep", "0:1", "--gap", 0.125]
    common = ["--keep", "1:-2:9", "--model", bundle, "--steps", 1, "--out", "out.mkv"]
    (path,) = succeed(capsys, "recut", "picture.png", "nine.gif", *film, *common)
    made = media.read(path).frames
    assert len(made) == 2 + 2 + 1 + 1 + 2
    np.testing.assert_array_equal(made[[2, 3, 6, 7]], given[[4, 5, 7, 8]])
    (again,) = succeed(capsys, "--like", path, "--model", bundle, "--out", "again.mkv")
    assert again.read_bytes() == path.read_bytes()


def test_a_mask_parts_what_is_made_from_what_is_kept_in_any_form(bundle, here, inputs, capsys):
    given = media.read(inputs / "nine.gif").frames
    region = np.zeros((32, 32), bool)
    region[:16, 9:] = True
    gray = region.astype(np.uint8) * 255
    forms = {
        "1.png": Image.fromarray(region),
        "rgba.png": Image.fromarray(np.stack([gray, gray, gray, 255 - gray], -1)),
        "16.png": Image.fromarray(region.astype(np.uint16) * 65535),
    }
    common = ["--model", bundle, *PROMPT, "--steps", 1]
    videos = []
    for name, picture in forms.items():
        picture.save(name)
        media.write(f"{name}.mkv", given, 8)
        arguments = ["inpaint", f"{name}.mkv", "--mask", name, *common, "--out", f"o-{name}.mkv"]
        code, out, err = run(capsys, *arguments)
        assert code == 0, err
        assert any("white in 36% of the picture: that changes, black is kept" in e for e in err)
        videos.append(media.read(out[0]).frames)
    np.testing.assert_array_equal(videos[0][:, ~region], given[:, ~region])
    assert (videos[0][:, region] != given[:, region]).any(axis=-1).mean() > 0.9
    for other in videos[1:]:
        np.testing.assert_array_equal(other, videos[0])
    (again,) = succeed(capsys, "--like", out[0], "--model", bundle, "--out", "again.mkv")
    assert again.read_bytes() == pathlib.Path(out[0]).read_bytes()
    media.write("eight.mkv", np.repeat(gray[None, ..., None], 3, -1).repeat(8, 0), 8)
    code, _, err = run(capsys, "inpaint", "1.png.mkv", "--mask", "eight.mkv", *common)
    assert code == 2
    assert "mask has 8 frames and the video 9" in err[0]


def test_a_folder_of_pictures_is_a_video(bundle, here, capsys):
    media.write("in", tiny.clip(5), 8)
    common = ["extend", "in/", "--model", bundle, *PROMPT, "--frames", 9]
    (path,) = succeed(capsys, *common, "--out", "out/")
    made = media.read(path)
    np.testing.assert_array_equal(made.frames[:5], tiny.clip(5))
    assert (len(made.frames), made.fps) == (9, 8)
    code, _, err = run(capsys, *common, "--out", "in", "--overwrite")
    assert code == 2
    assert "is an input" in err[0]


def test_sound_stays_under_the_frames_that_are_kept(bundle, here, capsys):
    tone = np.rint(9000 * np.sin(np.arange(8000) * 0.3)).astype(np.int16)[:, None]
    media.write("in.mkv", tiny.clip(8), 8, sound=media.Sound(tone, 8000))
    arguments = ["extend", "in.mkv", "--model", bundle, *PROMPT, "--seconds", 1]
    code, _, err = run(capsys, *arguments, "--before", "--out", "out.mkv")
    assert code == 0, err
    assert any("sound stays" in line for line in err)
    heard = media.read("out.mkv").sound
    succeed(capsys, "--like", "out.mkv", "--model", bundle, "--mute", "--out", "mute.mkv")
    assert media.read("mute.mkv").sound is None
    assert heard.seconds == pytest.approx(2, abs=0.02)
    assert not heard.samples[:7900].any()
    np.testing.assert_array_equal(heard.samples[8100:15900], tone[100:7900])
    code, _, err = run(capsys, *arguments, "--out", "out.gif")
    assert code == 0
    assert any("no sound" in line for line in err)


# --- What the command line says ------------------------------------------------------------------


def test_options_may_stand_before_or_after_the_verb():
    after = parse(["animate", "i.png", *PROMPT, "--seed", "3", "--frames", "5"])
    before = parse([*PROMPT, "--seed", "3", "--frames", "5", "animate", "i.png"])
    mixed = parse(["--seed=3", *PROMPT, "animate", "--frames", "5", "--", "i.png"])
    for order in (after, before, mixed):
        assert dataclasses.replace(order, requests=()) == Order(requests=(), sampling={}, seed=3)
        (request,) = order.requests
        assert (request.verb, request.image, request.frames) == ("animate", "i.png", 5)


@pytest.mark.parametrize("verb", [verb for verb in verbs.VERBS if verb != "storyboard"])
def test_the_example_of_a_verb_is_one_of_it(verb):
    order = parse(shlex.split(verbs.request_type(verb).example))
    assert order.requests[0].verb == verb


def test_the_word_after_an_option_is_its_value_whatever_it_begins_with():
    order = parse(
        [
            "infill",
            "i.mp4",
            "--keep",
            "-4:-1",
            "--prompt",
            "-red",
            "--negative",
            "--x",
            "--shift",
            "2",
        ]
    )
    (request,) = order.requests
    assert (request.keep, request.prompt, request.negative) == (((-4, -1),), "-red", "--x")
    assert order.sampling == {"shift": 2.0}


@pytest.mark.parametrize(
    "prompt",
    ["?!…", "دائرة حمراء تتحرك", "🔴➡️👩‍👩‍👧", "a red\ncircle\x1b[2J", "赤い円" * 90, "-", "नमस्ते"],
)
def test_any_text_is_a_prompt(prompt, bundle, here, capsys):
    arguments = ["--model", bundle, "--prompt", prompt, "--frames", 1, "--steps", 1]
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert len(out) == 1
    assert len(out[0].encode()) <= 120
    assert (len(prompt.encode()) > 31) == any("longer than" in line for line in err)
    assert not any("\x1b" in line for line in err)
    assert media.read_metadata(out[0])["request"]["prompt"] == prompt
    again = succeed(capsys, "--like", out[0], "--model", bundle)
    assert str(again[0]) == out[0].removesuffix(".png") + "-2.png"


def test_prompts_of_a_file_are_made_by_one_model(bundle, here, capsys, monkeypatch):
    loads = []
    load = weights.open
    monkeypatch.setattr(
        weights, "open", lambda *given, **more: loads.append(given) or load(*given, **more)
    )
    (here / "prompts.txt").write_bytes("a red circle\r\n\n  a blue circle \n".encode("utf-8-sig"))
    arguments = ["--model", bundle, "--prompts", "prompts.txt", "--variations", 2, "--frames", 1]
    code, out, err = run(capsys, *arguments)
    assert code == 0, err
    assert out == [
        f"text-a-{colour}-circle-frames-1-{seed}.png"
        for colour in ("red", "blue")
        for seed in (0, 1)
    ]
    assert err[-1].startswith("4 of 4: ")
    assert len(loads) == 1
    (alone,) = succeed(capsys, "--like", out[3], "--model", bundle)
    assert alone.read_bytes() == (here / out[3]).read_bytes()
    assert str(alone) == "text-a-blue-circle-frames-1-1-2.png"


def test_what_changes_nothing_or_gets_lost_is_noted(bundle, here, capsys):
    arguments = ["--model", bundle, *PROMPT, "--frames", 1, "--out", "o.png"]
    arguments += ["--guidance", 1, "--negative", "blue " * 20, "--quality", 50]
    code, _, err = run(capsys, *arguments)
    assert code == 0
    for words in ("guidance of 1", "negative prompt is longer", "quality of 50 changes nothing"):
        assert any(line.startswith("note: ") and words in line for line in err), words


# --- Files are new and whole ---------------------------------------------------------------------


def test_nothing_is_written_over_without_being_asked(bundle, here, capsys):
    arguments = ["--model", bundle, *PROMPT, "--frames", 1, "--steps", 1]
    first, second, third = (succeed(capsys, *arguments)[0] for _ in range(3))
    assert [path.stem[-4:] for path in (second, third)] == ["-0-2", "-0-3"]
    before = first.read_bytes()
    code, out, err = run(capsys, *arguments, "--seed", 5, "--out", first)
    assert (code, out) == (2, [])
    assert "exists and is kept" in err[-1]
    assert first.read_bytes() == before
    succeed(capsys, *arguments, "--seed", 5, "--out", first, "--overwrite")
    assert first.read_bytes() != before


def test_an_input_is_never_written_over(bundle, here, capsys):
    clip = here / "extend-a-red-circle-moves-right-0.mp4"  # what extend would name its result
    media.write(clip, tiny.clip(5), 8)
    before = clip.read_bytes()
    (here / "link.mp4").symlink_to(clip.name)
    os.link(clip, here / "same.mp4")
    arguments = ["extend", clip.name, "--model", bundle, *PROMPT]
    for other in (clip.name, f"../work/{clip.name}", clip, "link.mp4", "same.mp4"):
        code, out, err = run(capsys, *arguments, "--out", other, "--overwrite")
        assert (code, out) == (2, [])
        assert "is an input" in err[-1]
    (made,) = succeed(capsys, *arguments)
    assert made.name == "extend-a-red-circle-moves-right-0-2.mp4"
    code, _, err = run(capsys, "--like", made, "--model", bundle, "--out", made, "--overwrite")
    assert code == 2
    assert clip.read_bytes() == before


@pytest.mark.parametrize(
    ("failure", "expected", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted; 1 of 3 files are finished"),
        (ending.Terminated(), 143, "interrupted; 1 of 3 files"),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1, "No space left .*1 of 3 files"),
        (MemoryError(), 1, "not enough memory.*1 of 3"),
    ],
    ids=["interrupted", "ended", "disk full", "memory full"],
)
def test_what_is_finished_is_kept_and_listed(
    failure, expected, words, bundle, here, capsys, monkeypatch
):
    stream = pipeline.Pipeline.stream

    def failing(self, timeline, *, seed, **options):
        for frames in stream(self, timeline, seed=seed, **options):
            if seed == 1:
                raise failure
            yield frames

    monkeypatch.setattr(pipeline.Pipeline, "stream", failing)
    arguments = ["--model", bundle, *PROMPT, "--frames", 5, "--variations", 3, "--out", "o.gif"]
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (expected, ["o-0.gif"])
    assert re.search(words, err[-1])
    assert os.listdir(here) == ["o-0.gif"]
    assert len(media.read("o-0.gif").frames) == 5


# --- Making a file again -------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["mp4", "webp"])
def test_like_makes_a_file_of_a_batch_again_byte_for_byte(suffix, bundle, here, capsys):
    media.write("nine.gif", tiny.clip(9), 8)
    made = ["infill", "nine.gif", "--model", bundle, *PROMPT, "--keep", "0:3", "--keep", "-2:9"]
    made += ["--variations", 2, "--seed", 2, "--guidance", 1.5, "--shift", 2, "--quality", 60]
    one, two = succeed(capsys, *made, "--out", f"o.{suffix}")
    assert one.read_bytes() != two.read_bytes()
    (again,) = succeed(capsys, "--like", two, "--model", bundle, "--out", f"again.{suffix}")
    assert again.read_bytes() == two.read_bytes()
    (other,) = succeed(
        capsys, "--like", two, "--model", bundle, "--seed", 7, "--out", f"other.{suffix}"
    )
    old, new = media.read_metadata(two), media.read_metadata(other)
    assert {**old, "seed": 7} == new
    assert (old["guidance"], old["shift"], old["quality"], old["seed"]) == (1.5, 2, 60, 3)
    assert old["steps"] == tiny.MODEL.sampler.steps


def test_what_a_prompt_was_rewritten_from_is_stored_and_not_asked_again(
    bundle, inputs, here, capsys
):
    settings = ["--model", bundle, "--steps", 2, "--frames", 5]
    arguments = ["--upsample", "--prompt", "a red circle", *settings, "--out", "a.mp4"]
    code, _, err = run(capsys, *arguments)
    assert code == 0
    said = "a red circle moves right on a black background"
    assert f"note: The prompt was rewritten by template: {said}" in err
    stored = media.read_metadata("a.mp4")
    assert stored["request"]["prompt"] == said
    assert stored["rewritten"] == {"of": "a red circle", "by": "template"}
    succeed(capsys, "--like", "a.mp4", "--model", bundle, "--out", "b.mp4")
    assert pathlib.Path("a.mp4").read_bytes() == pathlib.Path("b.mp4").read_bytes()
    succeed(capsys, "--like", "a.mp4", "--prompt", "red", "--model", bundle, "--out", "c.mp4")
    assert media.read_metadata("c.mp4")["rewritten"] is None
    for wrong, message in (
        (["--caption", "http://127.0.0.1:9"], "Nothing is given that could be described"),
        (["--upsample", "http://", *arguments[1:3]], "A chat endpoint is a URL"),
        ([*arguments[:3], "--upsample-model", "m"], "--upsample-model is for --upsample URL"),
        (["--caption", "http://127.0.0.1:9", *arguments[1:3]], "leave --prompt and --upsample out"),
    ):
        code, _, err = run(capsys, *wrong, *settings)
        assert code == 2
        assert message in err[0]
    code, _, err = run(capsys, "remix", "a.mp4", *arguments[:3], "--model", bundle)
    assert code == 2
    assert "--upsample would make one longer" in err[-1]
    five, larger = inputs / "five.mp4", ["--size", "48x48", "--model", bundle]
    for given, wrong, message in (
        (five, ["--caption", "http://127.0.0.1:9/v1"], "did not describe what is given"),
        (five, ["--prompt", " ", "--upsample"], "does not say what it shows"),
        ("a.mp4", ["--upsample"], "There is no prompt to rewrite"),
    ):
        code, _, err = run(capsys, "upscale", given, *larger, *wrong)
        assert code == 2
        assert message in err[-1]


def test_a_file_names_what_it_was_made_from_without_its_place(bundle, here, capsys, monkeypatch):
    (here / "there").mkdir()
    media.write("there/five.mp4", tiny.clip(5), 8)
    made = ["extend", here / "there" / "five.mp4", "--model", bundle, *PROMPT, "--frames", 7]
    succeed(capsys, *made, "--out", "there/made.mp4")
    stored = json.dumps(media.read_metadata("there/made.mp4"))
    assert str(here) not in stored
    assert bundle not in stored
    assert hashlib.sha256((here / "there/five.mp4").read_bytes()).hexdigest() in stored

    def again(*more):
        arguments = ["--like", "there/made.mp4", *more, "--out", "again.mp4", "--overwrite"]
        return run(capsys, *arguments)

    assert again("--model", bundle)[0] == 0  # the input is beside the file
    os.rename("there/five.mp4", "five.mp4")
    assert again("--model", bundle)[0] == 0  # it is here
    code, _, err = again()
    assert code == 2
    assert "made by the model tiny, which is not here" in err[0]
    shutil.copytree(bundle, "tiny")
    assert again()[0] == 0  # so is the model
    media.write("there/five.mp4", tiny.clip(5, seed=1), 8)
    os.rename("five.mp4", "six.mp4")
    code, _, err = again()
    assert code == 2
    assert "another five.mp4" in err[0]
    code, _, err = again("extend", "six.mp4")
    assert code == 0, err  # it may always be named
    os.remove("there/five.mp4")
    assert "neither beside it nor" in again()[2][0]


def test_another_verb_takes_over_what_it_asks_for_too(bundle, here, inputs, capsys):
    arguments = ["--model", bundle, *PROMPT, "--frames", 5, "--size", "48x32", "--seed", 6]
    (made,) = succeed(capsys, *arguments)
    order = parse(["--like", str(made), "extend", "i.mp4"])
    (request,) = order.requests
    assert (request.prompt, request.size, request.frames) == (PROMPT[1], (48, 32), None)
    assert order.seed == 6
    order = parse(["--like", str(made), "animate", "i.png"])
    assert order.requests[0].frames == 5
    order = parse(["--like", str(made), "--seconds", "2"])
    assert (order.requests[0].frames, order.requests[0].seconds) == (None, 2)


def test_another_machine_is_noted(bundle, here, capsys, monkeypatch):
    arguments = ["--model", bundle, *PROMPT, "--frames", 1, "--out", "o.png"]
    with monkeypatch.context() as patch:
        patch.setattr(jax, "__version__", "0.0.1")
        succeed(capsys, *arguments)
    code, _, err = run(capsys, "--like", "o.png", "--model", bundle, "--dtype", "bfloat16")
    assert code == 0
    assert any("jax 0.0.1" in line and "dtype float32" in line for line in err)
    hostile = {**media.read_metadata("o.png"), "platform": "x\n\x1b[2J" * 2000}
    media.write("h.png", tiny.clip(1), None, metadata=hostile)
    code, _, err = run(capsys, "--like", "h.png", "--model", bundle)
    assert (code, len(err)) == (0, 2)
    assert max(map(len, err)) < 3000
    assert "\x1b" not in err[0]


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
        (["extend", "{inputs}/five.mp4", *PROMPT, "--frames", "3"], "more than a result of"),
        (["extend", "{inputs}/five.mp4", *PROMPT, "--keep", "0:1"], "an option of infill"),
        (["extend", *PROMPT], "extend needs video"),
        (["extend", "a.mp4", "b.mp4", *PROMPT], "no place for 'b.mp4'"),
        (["--prompt", "a", "red", "circle"], "no verb 'red'.*in quotes"),
        (["bridge", "{inputs}/picture.png", *PROMPT], "bridge needs last"),
        (["keyframes", *PROMPT], "keyframes needs keys"),
        (["keyframes", "{inputs}/picture.png", *PROMPT], "IMAGE@SECONDS"),
        (["keyframes", "{inputs}/picture.png@1", "b.png@1", *PROMPT], "Two pictures"),
        (
            ["keyframes", "{inputs}/picture.png@1", *PROMPT, "--frames", "8"],
            "0.875 is the last time",
        ),
        (["keyframes", "{inputs}/picture.png@x", *PROMPT], "IMAGE@SECONDS"),
        (["infill", "{inputs}/five.mp4", *PROMPT], "at least one range"),
        (["infill", "{inputs}/five.mp4", *PROMPT, "--keep", "0:7"], "5 frames end at 5"),
        (["infill", "{inputs}/five.mp4", *PROMPT, "--keep", "some"], "START:END"),
        (["infill", "{inputs}/five.mp4", *PROMPT, "--seconds", "1"], "infill has no --seconds"),
        ([*PROMPT, "--size", "30x30"], "nearest is 32x32"),
        ([*PROMPT, "--size", "big"], "width x height"),
        ([*PROMPT, "--frames", "0"], "at least 1 frame"),
        ([*PROMPT, "--seconds", "nan"], "must be a number"),
        ([*PROMPT, "--frames", "5", "--seconds", "1"], "not both"),
        ([*PROMPT, "--steps", "0"], "steps must be a whole number from 1 to 1000"),
        ([*PROMPT, "--seed", "-1"], "seed is a whole number"),
        ([*PROMPT, "--seed", str(2**32)], "seed is a whole number"),
        ([*PROMPT, "--seed", str(2**32 - 1), "--variations", "2"], "seed is a whole number"),
        ([*PROMPT, "--seed", str(2**64)], "seed is a whole number"),
        ([*PROMPT, "--seed", "9" * 5000], "no whole number"),
        ([*PROMPT, "--guidance", "inf"], "guidance must be a finite number"),
        ([*PROMPT, "--shift", "0"], "shift must be a finite number from 0.001"),
        ([*PROMPT, "--dtype", "int4"], "float32 or bfloat16"),
        ([*PROMPT, "--quality", "101"], "1 to 100"),
        ([*PROMPT, "--fps", "60", "--out", "x.gif"], "at most 50 frames a second"),
        ([*PROMPT, "--prompts", "{inputs}/zero.mp4"], "not both"),
        (["--prompts", "{inputs}/zero.mp4"], "holds no prompt"),
        (["--prompts", "{inputs}/five.mp4"], "no text in UTF-8"),
        (["--prompts", "none.txt"], "No such file"),
        (["--prompt"], "--prompt needs a value"),
        (["--prompt", "--seed", "3"], "--prompt needs a value"),
        (["--prompt", os.fsdecode(b"caf\xe9")], "no text in UTF-8"),
        (["--like"], "--like needs a value"),
        (["--like", ""], "--like: a name is needed after it"),
        ([*PROMPT, "--variations", "99999999999"], "at most 10000 files"),
        (["infill", "{inputs}/five.mp4", *PROMPT, "--keep", "9" * 5000 + ":1"], "START:END"),
        ([*PROMPT, "--solver", "magic"], "solver must be one of"),
        ([*PROMPT, "--variations", "0"], "At least 1 variation"),
        ([*PROMPT, "--model", "nothing"], "Unknown model 'nothing'"),
        ([*PROMPT, "--out", "missing/out.mp4"], "missing does not exist"),
        ([*PROMPT, "--out", "out.avi"], r"\.mp4, \.webm"),
        ([*PROMPT, "--out", "out.png"], "png holds one frame"),
        ([*PROMPT, "--like", "{inputs}/five.mp4"], "no vjax settings"),
        ([*PROMPT, "--sede", "3"], "no option --sede: did you mean --seed"),
        ([*PROMPT, "--var", "3"], "did you mean --variations"),
        ([*PROMPT, "-s", "3"], "no option -s"),
        ([*PROMPT, "--overwrite=yes"], "--overwrite"),
        ([*PROMPT, "--seed", "three"], "--seed"),
        (["remix", *PROMPT], "remix"),
        ([*PROMPT, "--mesh.context", "3"], "is 3, which does not divide the 8 dev.* 1, 2, 4 or 8"),
        ([*PROMPT, "--mesh.tensor=8"], "cannot share the 2 heads of model.dit"),
        ([*PROMPT, "--mesh.data=8"], "8 devices .* cannot share 2 samples.* can be 1 or 2, and"),
        ([*PROMPT, "--mesh.fsdp=0"], "--mesh.fsdp must be a whole number from 1"),
        ([*PROMPT, "--mesh.attention=all"], "--mesh.attention must be one of 'auto', 'gather'"),
        ([*PROMPT, "--mesh.rows=2"], "no option --mesh.rows"),
    ],
)
def test_bad_input_is_one_line_that_says_what_to_do(
    arguments, message, bundle, here, inputs, capsys, monkeypatch
):
    def computed(*_, **__):
        raise AssertionError("something was computed")

    monkeypatch.setattr("vjax.pipeline.Pipeline.stream", computed)
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


def test_a_dry_run_says_what_would_be_made_and_loads_no_network(bundle, here, capsys, monkeypatch):
    monkeypatch.setattr(weights, "open", None)
    arguments = ["--model", bundle, "--prompt", "red. Cut to a dragon", "--frames", 8, "--dry-run"]
    code, out, err = run(capsys, *arguments)
    assert (code, err, list(here.iterdir())) == (0, [], [])
    assert out[0] == "prompt  red. Cut to a dragon"
    assert out[2:4] == [
        "cut     at 0.5 s",
        "in all  8 frames at 8 a second, 1 s, 32x32, made in 2 windows",
    ]
    assert out[-1].startswith("note    ")
    assert out[-1].endswith("cannot know: dragon.")
    code, _, err = run(capsys, "--model", bundle, *PROMPT, "--size", "9x9")
    assert code == 2  # nothing is loaded for a refusal either
    assert "cannot make 9x9" in err[-1]


def test_an_interrupted_run_writes_nothing(bundle, here, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("vjax.pipeline.Pipeline.stream", interrupted)
    code, out, err = run(capsys, "--model", bundle, *PROMPT)
    assert (code, out) == (130, [])
    assert len(err) == 1
    assert list(here.iterdir()) == []


# --- On several devices --------------------------------------------------------------------------


def nearly(path, other) -> None:
    """The same settings, and frames that rounding alone parts."""
    frames, expected = (media.read(file).frames.astype(int) for file in (path, other))
    assert np.abs(frames - expected).max() <= 1
    assert (frames != expected).mean() < 0.01
    assert expected.std() > 10
    assert media.read_metadata(path) == media.read_metadata(other)


def test_devices_share_one_video(bundle, here, capsys):
    same = [*PROMPT, "--frames", "9", "--model", bundle]
    (alone,) = succeed(capsys, *same, "--out", "alone.mkv")
    (shared,) = succeed(
        capsys, *same, "--out", "shared.mkv", "--mesh.data=2", "--mesh.context", "4"
    )
    nearly(shared, alone)


def as_a_command(*arguments: str) -> NoReturn:
    sys.argv[1:] = arguments
    runpy.run_path(sample.__file__, run_name="__main__")


def test_two_processes_make_one_video_and_end_alike(bundle, here, capsys):
    media.write("picture.png", tiny.clip(1), None)
    media.write("character.png", tiny.clip(1, seed=3), None)
    pathlib.Path("board.yaml").write_text(
        "cards:\n- {at: 0, text: red}\n- {at: 0.5, text: blue, soften: 0.2}\n"
        "- {at: 0.75, image: picture.png}\n"
    )
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    environment = {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=1"),
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
    }
    same = ["--model", bundle]
    command = ["storyboard", "board.yaml", *PROMPT, *same]
    command += ["--character", "character.png", "--frames", "9", "--out", "shared.mkv"]

    def both(*last, then=None):
        running = []
        try:
            for i, more in enumerate(last):
                named = {**environment, "JAX_PROCESS_ID": str(i)}
                running.append(Forked(here.parent, named, as_a_command, *command, *more))
            if then is not None:
                then(*running)
            statuses = [process.status() for process in running]
        finally:
            for process in running:
                process.kill()
        return statuses, [process.said for process in running]

    # An endpoint that never says the same is asked by one, for all.
    with served(f"a red circle number {i} moves right" for i in range(9)) as (url, asked):
        statuses, said = both(["--upsample", url], ["--upsample", url])
    assert statuses == [0, 0], said
    assert len(asked) == 1
    ours = [[x for x in out.splitlines() if not x.startswith("[Gloo]")] for out, _ in said]
    assert ours == [["shared.mkv"], []]
    assert "9 frames" not in said[1][1]
    stored = media.read_metadata("shared.mkv")
    assert stored["request"]["prompt"] == "a red circle number 0 moves right"
    assert stored["rewritten"]["of"] == PROMPT[1]
    nearly("shared.mkv", *succeed(capsys, "--like", "shared.mkv", *same, "--out", "alone.mkv"))
    # Who is told something else is refused before anything is computed.
    statuses, said = both(["--overwrite"], ["--overwrite", "--seed=7"])
    assert statuses == [2, 2], said
    for _, err in said:
        assert "seed is 0 on process 0 and 7 on process 1" in err
    # What only the first can know is said by all.
    statuses, said = both([], [])
    assert statuses == [2, 2], said
    for _, err in said:
        (line,) = [x for x in err.splitlines() if x.startswith("vjax.sample: ")]
        assert "shared.mkv exists" in line
        assert "***" not in err
        assert "Traceback" not in err

    # A signal to one stops all.
    def stop(first, second):
        first.await_said("shared-0.mkv\n")
        second.signal(signal.SIGTERM)

    many = ["--variations", "99"]
    statuses, said = both(many, many, then=stop)
    assert statuses == [143, 143], said
    for _, err in said:
        assert "vjax.sample: interrupted; " in err
        assert "Traceback" not in err
    made = [path.name for path in here.iterdir() if path.suffix not in (".png", ".yaml")]
    assert all(re.fullmatch(r"(alone|shared(-\d+)?)\.mkv", name) for name in made)


@pytest.mark.parametrize(
    ("devices", "guided", "resident", "sizes"),
    [
        (8, True, 5, (2, 1, 4, 1)),
        (8, False, 5, (1, 1, 8, 1)),
        (3, True, 5, (1, 1, 3, 1)),
        # What does not fit on a device is divided.
        (8, True, 27, (1, 2, 4, 1)),
        (8, True, 50, (1, 2, 2, 2)),
        (8, False, 27, (1, 1, 4, 2)),
        (8, False, 500, (1, 1, 4, 2)),  # it has two heads
    ],
)
def test_devices_share_a_video_unasked(devices, guided, resident, sizes):
    found = mesh.for_one_video(tiny.MODEL, devices, guided, resident, memory=31)
    assert (found.data, found.fsdp, found.context, found.tensor) == sizes


def test_what_decides_how_devices_share_a_video_is_what_lies_on_them(monkeypatch):
    model, plan = tiny.MODEL, planning.plan(vjax.text("a"), tiny.MODEL)
    held = memory.held(model, "bfloat16")
    monkeypatch.setattr(mesh, "memory_of_device", lambda: 2 * (held["dit"] + held["vae"]))
    monkeypatch.setattr(mesh, "crowded", lambda *_: False)
    monkeypatch.setattr(mesh, "TOKENS_EACH", 0)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")

    def divided(model, dtype="bfloat16"):
        return making._mesh(model, plan, True, dtype, False).fsdp

    assert divided(model) == 1
    assert divided(model, "float32") == 2
    assert divided(dataclasses.replace(model, boundary=0.6)) == 2


def test_memory_is_reckoned_with_the_guidance_of_model_and_request(tmp_path, monkeypatch):
    sampler = dataclasses.replace(tiny.MODEL.sampler, guidance=1.0)
    weights.save(tmp_path / "one", tiny.bundle(tiny.model(sampler=sampler)), dtype="float32")
    needed, guided = memory.needed, []
    monkeypatch.setattr(memory, "needed", lambda *asked: guided.append(asked[3]) or needed(*asked))
    for more, wanted in ([], False), (["--guidance=2"], True):
        asked = [*PROMPT, f"--model={tmp_path}/one", f"--out={tmp_path}/a.png", "--frames=1"]
        making.prepare(parse([*asked, *more]))
        assert guided[0] == wanted  # before the networks are read, and then again
        guided.clear()


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
    for said in ("animate photo.png", "styles [FILE]", "characters  "):
        assert said in shown.stdout
    made = call(*PROMPT, "--frames", "1", "--model", bundle, "--out", "out.png")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[-1] == "out.png"
    assert media.read_metadata("out.png")["request"]["prompt"] == PROMPT[1]
    wrong = call(*PROMPT, "--frames", "0", "--model", bundle)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("vjax.sample: A video has at least 1 frame")


def test_only_ends_of_lines_part_prompts(tmp_path):
    (tmp_path / "prompts").write_text("a red\u2028circle\x0cmoves\nright", encoding="utf-8")
    order = parse(["--prompts", str(tmp_path / "prompts")])
    assert [each.prompt for each in order.requests] == ["a red\u2028circle\x0cmoves", "right"]
