"""The verbs: requests that are checked once, stored as JSON and read back, and their timelines."""

import dataclasses
import json
import pathlib
import types

import numpy as np
import pytest
import tiny
from PIL import Image

import vjax
from vjax import planning, verbs, video
from vjax.timeline import RequestError, Timeline

VIDEO = {"video": "clip.mp4", "prompt": "a"}
FULL = [
    {"verb": "text", "prompt": "a red circle", "frames": 7, "size": [32, 16]},
    {"verb": "animate", "image": "p.png", "prompt": "a", "seconds": 1.5, "negative": "b"},
    {"verb": "bridge", "first": "p.png", "last": "q.png", "prompt": "a", "frames": 20},
    {"verb": "keyframes", "keys": [["p.png", 0.5], ["q.png", 2.0]], "prompt": "a", "frames": 40},
    {"verb": "extend", **VIDEO, "seconds": 1.0, "before": True, "fps": 12.0, "fps_in": 8.0},
    {"verb": "infill", **VIDEO, "keep": [[None, 3], [-2, None]]},
    {"verb": "inpaint", **VIDEO, "mask": "m.png", "fps_in": 8.0},
    {"verb": "remix", **VIDEO, "strength": "subtle", "region": "m.png"},
    {"verb": "remix", **VIDEO, "strength": 0.25, "source_prompt": ""},
    {"verb": "blend", "first": "a.mp4", "second": "b.mp4", "prompt": "a", "seconds": 1.5},
    {"verb": "blend", "first": "a.mp4", "second": "b.mp4", "prompt": "a", "curve": "ease"},
    {
        "verb": "blend",
        "first": "a.mp4",
        "second": "b.mp4",
        "prompt": "a",
        "curve": [[0.0, 0.0], [1.0, 0.5]],
    },
    {"verb": "loop", "prompt": "a", "video": "p.mp4", "seconds": 1.0},
    {"verb": "loop", "prompt": "a", "frames": 32},
    {"verb": "upscale", **VIDEO, "size": [96, 96], "strength": 0.5},
    {"verb": "interpolate", "video": "p.mp4", "prompt": "a", "fps": 24.0, "fps_in": 8.0},
    {
        "verb": "recut",
        "videos": ["a.mp4", "b.mp4"],
        "prompt": "a",
        "film": [[0, 3], 1.5, [1, None, 5]],
    },
    {
        "verb": "storyboard",
        "cards": [
            {"at": 0.0, "text": "a", "until": 1.0, "soften": 0.5},
            {"at": 1.5, "image": "p.png"},
            {"at": 2.0, "text": "b", "video": "a.mp4"},
        ],
        "prompt": "c",
        "soften": 0.25,
    },
]


# --- Storing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", FULL, ids=lambda values: values["verb"])
def test_a_request_survives_json(values):
    request = verbs.from_json(json.loads(json.dumps(values)))
    assert verbs.to_json(request) == values
    again = verbs.from_json(json.loads(json.dumps(verbs.to_json(request))))
    assert dataclasses.asdict(again) == dataclasses.asdict(request)
    hash(dataclasses.astuple(request))  # nothing in it can be changed


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_every_verb_is_told_its_style(verb, tmp_path):
    video.write(tmp_path / "a.mkv", tiny.clip(9), 8)
    values = next(values for values in FULL if values["verb"] == verb) | {"style": "film noir"}
    stored = json.loads(json.dumps(verbs.to_json(verbs.from_json(values))))
    assert stored["style"][0].startswith("{prompt}. Style: film noir")  # needs no list of styles
    request = verbs.from_json(stored | {"negative": "rain"}, lambda _: tmp_path / "a.mkv")
    timeline = request.timeline()
    assert timeline.prompt.startswith(f"{values['prompt']}. Style: film noir")
    assert timeline.negative.startswith("rain, colour")


def test_files_are_stored_under_names_and_found_again():
    request = verbs.from_json({"verb": "infill", **VIDEO, "keep": [[0, 1]]})
    stored = verbs.to_json(request, lambda file: {"name": str(file), "sha256": "0"})
    assert stored["video"] == {"name": "clip.mp4", "sha256": "0"}
    assert verbs.files(request) == ["clip.mp4"]
    found = verbs.from_json(stored, lambda value: pathlib.Path("elsewhere") / value["name"])
    assert found.video == pathlib.Path("elsewhere/clip.mp4")
    with pytest.raises(RequestError, match="video must be a file"):
        verbs.from_json(stored)
    frames = dataclasses.replace(request, video=tiny.clip(5))
    with pytest.raises(RequestError, match="frames in memory cannot be stored"):
        verbs.to_json(frames)
    keys = [["a.png", 0], ["b.png", 1]]
    request = verbs.from_json({"verb": "keyframes", "keys": keys, "prompt": "a"})
    assert verbs.files(request) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"verb": "destroy", "prompt": "a"}, "no verb 'destroy': choose one of text, animate"),
        ({"verb": "__init__", "prompt": "a"}, "no verb"),
        ({"verb": ["text"], "prompt": "a"}, "no verb"),
        ({"prompt": "a"}, "no verb 'None'"),
        ([], "object with a verb"),
        ({"verb": "text"}, "text needs prompt"),
        ({"verb": "text", "prompt": None}, "text needs prompt"),
        ({"verb": "text", "prompt": 3}, "prompt must be text, got 3"),
        ({"verb": "text", "prompt": "caf\udce9"}, "prompt is no text in UTF-8"),
        ({"verb": "text", "prompt": {"a": {}}}, "prompt must be text, got dict"),
        ({"verb": "text", "prompt": "a", "promt": "b"}, "no 'promt': did you mean prompt"),
        ({"verb": "infill", **VIDEO, "frames": 5}, "infill has no 'frames'"),
        ({"verb": "text", "prompt": "a", "frames": "9"}, "frames must be a whole number, got '9'"),
        ({"verb": "text", "prompt": "a", "frames": 2.5}, "frames must be a whole number"),
        ({"verb": "text", "prompt": "a", "frames": True}, "frames must be a whole number"),
        ({"verb": "text", "prompt": "a", "frames": 10**400}, "frames must be a whole number"),
        ({"verb": "text", "prompt": "a", "seconds": float("inf")}, "seconds must be a number"),
        ({"verb": "text", "prompt": "a", "fps": float("nan")}, "fps must be a number, got nan"),
        ({"verb": "text", "prompt": "a", "size": [1, 2, 3]}, "whole number, a whole number"),
        ({"verb": "text", "prompt": "a", "size": ["1", 2]}, "size must be a whole number"),
        ({"verb": "animate", "image": "", "prompt": "a"}, "image must be a file"),
        ({"verb": "animate", "image": None, "prompt": "a"}, "needs image: the picture"),
        ({"verb": "extend", **VIDEO, "before": 1}, "before must be true or false, got 1"),
        ({"verb": "extend", **VIDEO, "seconds": 0}, "positive"),
        ({"verb": "extend", **VIDEO, "seconds": 1, "frames": 9}, "not both"),
        ({"verb": "infill", **VIDEO, "keep": [[0, 1], [2]]}, "keep must be"),
        ({"verb": "infill", **VIDEO, "keep": {"0": 1}}, "keep must be a list"),
        ({"verb": "infill", **VIDEO, "keep": []}, "at least one range"),
        ({"verb": "infill", **VIDEO, "keep": [0, 5]}, r"keep must be a list: write \[\(0, 5\)\]"),
        (
            {"verb": "remix", **VIDEO, "strength": "wild"},
            "'wild' cannot be: choose subtle, mild, s",
        ),
        ({"verb": "remix", **VIDEO, "strength": 1.5}, "number from 0 .nothing changes. to 1"),
        ({"verb": "remix", **VIDEO, "strength": -0.1}, "number from 0 .nothing changes. to 1"),
        ({"verb": "remix", **VIDEO, "strength": True}, "strength must be text or a number"),
        ({"verb": "inpaint", **VIDEO}, "inpaint needs mask: a picture for all frames"),
        ({"verb": "interpolate", **VIDEO}, "how many frames a second"),
        ({"verb": "storyboard", "cards": [3]}, "cards, card 1 must be card, got 3"),
        ({"verb": "storyboard", "cards": 3}, "cards must be a list, each of it card"),
    ],
)
def test_values_of_any_other_kind_are_refused_in_one_line(values, message):
    with pytest.raises(RequestError, match=message) as caught:
        verbs.from_json(values)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


# --- The command line ----------------------------------------------------------------------------


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_every_field_says_how_to_ask_for_it(verb):
    kind = verbs.request_type(verb)
    assert kind.verb == verb
    assert kind.__doc__
    fields = {field.name: field for field in dataclasses.fields(kind)}
    found = verbs.options(kind)
    assert list(found) == list(fields)
    for name, option in found.items():
        assert option.help
        assert option.metavar or verbs.is_flag(kind, name) or option.spelled
        # Python gives in place what the command line gives in place, and the prompt.
        assert (not fields[name].kw_only) == (option.positional or name == "prompt")
    assert verbs.repeats(kind, "keep") if verb == "infill" else True


def test_words_of_the_command_line_are_parsed():
    infill = verbs.options(verbs.request_type("infill"))
    assert infill["keep"].parse("-4:-1") == (-4, -1)
    assert infill["size"].parse("96X64") == (96, 64)
    assert infill["fps"].parse("12.5") == 12.5
    assert infill["prompt"].parse("a") == "a"
    for name, word in (("keep", "some"), ("size", "big"), ("fps", "fast")):
        with pytest.raises(ValueError, match=word):
            infill[name].parse(word)


# --- In Python -----------------------------------------------------------------------------------


def test_functions_make_timelines_and_refuse_unknown_options():
    for name in verbs.VERBS:
        assert getattr(vjax, name) is verbs.function(name)
        assert name in dir(vjax)
    assert isinstance(vjax.text("a", frames=np.int64(5), fps=24), Timeline)
    with pytest.raises(RequestError, match="infill has no 'frames'"):
        vjax.infill(tiny.clip(9), "a", keep=[(0, 1)], frames=5)
    with pytest.raises(RequestError, match="did you mean seconds"):
        vjax.text("a", second=3)
    with pytest.raises(AttributeError, match="no attribute 'remake'"):
        vjax.remake  # noqa: B018


@pytest.mark.parametrize(
    "given",
    [
        tiny.clip(3),
        tiny.clip(3) / 255,
        (tiny.clip(3) / 255).astype(np.float32),
        tiny.clip(3).astype(np.int64),
        tiny.clip(3)[::-1, :, ::-1][::-1, :, ::-1],
        np.asfortranarray(tiny.clip(3)),
        np.broadcast_to(tiny.clip(3)[:, :, :, :], (3, 32, 32, 3)),
    ],
    ids=["uint8", "float64", "float32", "int64", "negative strides", "fortran", "read-only"],
)
def test_arrays_of_any_kind_are_the_same_frames(given):
    (piece,) = vjax.extend(given, "a").pieces
    assert piece.pixels.dtype == np.uint8
    np.testing.assert_array_equal(piece.pixels, tiny.clip(3))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((0, 9, 9, 3), np.uint8), "at least one frame"),
        (np.zeros((9, 9), np.uint8), r"\[9, 9\]"),
        (np.zeros((2, 9, 9, 5), np.uint8), r"\[2, 9, 9, 5\]"),
        (np.full((9, 9, 3), 1.5), "floats go from 0 to 1"),
        (np.full((9, 9, 3), np.nan), "floats go from 0 to 1"),
        (np.full((9, 9, 3), 256), "0 to 255"),
        (np.full((9, 9, 3), -1), "0 to 255"),
        (np.zeros((9, 9, 3), bool), "not bool"),
        (np.zeros((9, 9, 3), complex), "not complex128"),
    ],
)
def test_other_arrays_are_refused(given, message):
    with pytest.raises(RequestError, match=message):
        vjax.animate(given, "a")


def test_pieces_are_shown_in_the_order_of_the_film_with_their_sound(tmp_path):
    beep = np.zeros((8000, 1), np.int16)
    beep[4000:4400] = 20_000  # in the frame 4 of 8
    for name, seed in (("a", 1), ("b", 2)):
        clip = tiny.clip(8, seed=seed)
        video.write(tmp_path / f"{name}.mkv", clip, 8, sound=video.Sound(beep, 8000))
    film = [0.5, (1, 3, 6), 0.25, (-5, 8), (0, 1), 1]
    timeline = vjax.recut([tmp_path / "a.mkv", tmp_path / "b.mkv"], "a", film=film)
    plan = planning.plan(timeline, tiny.MODEL)
    a, b = tiny.clip(8, seed=1), tiny.clip(8, seed=2)
    pixels, strength = plan.canvas.cut(0, plan.frames)
    known = [n for n in range(plan.frames) if strength[n].all()]
    assert (plan.frames, known) == (23, [4, 5, 6, 9, 10, 11, 12, 13, 14])
    np.testing.assert_array_equal(pixels[known], np.concatenate([b[3:6], a[3:], a[:1]]))
    heard = video.arranged(plan.kept, plan.frames / plan.fps)
    loud = np.flatnonzero(np.abs(heard.samples[:, 0].astype(int)) > 10_000) / 1000
    assert [n for n in range(23) if ((loud >= n) & (loud < n + 0.4)).any()] == [5, 10]


@pytest.mark.parametrize(
    ("film", "message"),
    [
        ([], "Nothing is kept"),
        ([1.0], "Nothing is kept"),
        ([(0, 9)], "8 frames end at 8"),
        ([(1, 0, 2)], "no video 1"),
        ([()], r"film must be a number or"),
        ([(0, 1, 2, 3)], r"film must be a number or \[a whole number, a whole number\] or"),
    ],
)
def test_a_film_that_cannot_be_cut_is_refused(film, message):
    with pytest.raises(RequestError, match=message):
        vjax.recut([tiny.clip(8)], "a", film=film)


def test_a_rate_that_is_given_is_checked_and_parts_frames_from_their_sound(tmp_path):
    tone = video.Sound(np.full((4000, 1), 9000, np.int16), 4000)
    video.write(tmp_path / "a.mkv", tiny.clip(8), 8, sound=tone)
    clip = tmp_path / "a.mkv"
    given = {
        "extend": {"video": clip},
        "infill": {"video": clip, "keep": [(0, 3)]},
        "inpaint": {"video": clip, "mask": np.ones((32, 32))},
        "remix": {"video": clip},
        "recut": {"videos": [clip], "film": [(0, 3)]},
        "blend": {"first": clip, "second": clip, "curve": "ease"},
        "loop": {"video": clip},
        "interpolate": {"video": clip, "fps": 16.0},
        "upscale": {"video": clip, "size": (64, 64)},
    }
    assert given.keys() == {
        verb for verb in verbs.VERBS if "fps_in" in verbs.options(verbs.request_type(verb))
    }
    for verb, values in given.items():
        for rate in (0, -1, 1e-9, 5000):
            with pytest.raises(RequestError, match=r"cannot have a rate of .*: it is from 0.01"):
                verbs.from_json({"verb": verb, "prompt": "a", "fps_in": rate, **values}).timeline()
    (piece,) = vjax.extend(clip, "a", fps_in=4).pieces
    assert piece.sound is None
    assert "its sound, which does not fit that, is left out" in piece.notes[0]
    assert vjax.extend(clip, "a", fps_in=8).pieces[0].sound is not None
    with pytest.raises(RequestError, match="none is given"):
        vjax.loop("a", fps_in=8)


def test_a_video_in_place_of_a_picture_is_one_frame_and_says_so(tmp_path):
    video.write(tmp_path / "a.mkv", tiny.clip(8), 8)
    for given, note in ((tmp_path / "a.mkv", "of which only the first"), (tiny.clip(8), "Of 8 fr")):
        (piece,) = vjax.animate(given, "a").pieces
        assert len(piece.pixels) == 1
        assert note in piece.notes[0]
    assert not vjax.animate(tiny.clip(1), "a").pieces[0].notes


def test_pictures_are_taken_from_whatever_holds_them_and_transparent_ones_over_black(tmp_path):
    read = verbs.request_type("animate").of
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8)
    pixels[0, 0] = 200, 100, 50, 0
    picture = Image.fromarray(pixels)
    picture.save(tmp_path / "a.png")
    floats = pixels.astype(np.float32) / 255
    given = (
        tmp_path / "a.png",
        picture,
        pixels,
        floats,
        types.SimpleNamespace(__array_interface__=pixels.__array_interface__),
    )
    pieces = [read(each, "a").timeline().pieces[0] for each in given]
    for piece in pieces:
        np.testing.assert_array_equal(piece.pixels, pieces[0].pixels)
        assert "over black" in " ".join(piece.notes)
    assert not pieces[0].pixels[0, 0, 0].any()
    opaque = read(picture.convert("RGB").convert("P"), "a").timeline().pieces[0]
    assert opaque.pixels.shape == (1, 8, 8, 3)
    assert not opaque.notes
    turned = Image.fromarray(pixels[:4, :, :3])
    turned.getexif()[0x0112] = 6  # as a phone held upright
    assert read(turned, "a").timeline().pieces[0].pixels.shape == (1, 8, 4, 3)


def test_a_large_file_is_made_smaller_as_it_is_read(tmp_path):
    video.write(tmp_path / "a.mp4", np.zeros((3, 720, 2560, 3), np.uint8), 8)
    (piece,) = vjax.extend(tmp_path / "a.mp4", "a").pieces
    assert piece.pixels.shape == (3, 540, 1920, 3)
    assert any("2560x720" in note for note in piece.notes)
    assert vjax.animate(tmp_path / "a.mp4", "a").pieces[0].pixels.shape == (1, 540, 1920, 3)
