"""Recipes: what a file says of how it was made is checked like any other input."""

import copy
import dataclasses
import os

import pytest
import tiny

from vjax import arguments, recipe, verbs, weights
from vjax import video as media
from vjax.recipe import Model
from vjax.timeline import RequestError

SHA = "0" * 64
GOOD = {
    "vjax": "0.1.0",
    "request": {
        "verb": "infill",
        "video": {"name": "five.mp4", "sha256": SHA},
        "prompt": "a red circle",
        "keep": [[0, 2]],
    },
    "model": {"name": "tiny", "weights": "0123456789abcdef"},
    "seed": 3,
    "solver": "unipc",
    "steps": 2,
    "guidance": 2.0,
    "shift": 1,
    "dtype": "float32",
    "quality": None,
    "platform": "cpu",
    "jax": "0.10.2",
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a folder beside it."""
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def write(metadata, path="made.png") -> str:
    media.write(path, tiny.clip(1), None, metadata=metadata, overwrite=True)
    return path


def test_a_recipe_is_read_as_it_was_stored(here):
    found = recipe.read(write(GOOD))
    assert found.stored() == GOOD | {
        "rewritten": None,
        "loras": (),
        "int8": False,
        "low_guidance": None,
    }  # which older files lack
    assert found.model == Model("tiny", "0123456789abcdef")


def changed(path: str, value) -> dict:
    """The good settings with a value put at a place in them, or taken out (None)."""
    settings = copy.deepcopy(GOOD)
    *outer, last = path.split(".")
    inner = settings
    for name in outer:
        inner = inner[name]
    inner[last] = value
    if value is None:
        del inner[last]
    return settings


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("request.verb", "destroy", "no verb 'destroy'"),
        ("request.verb", ["infill"], "no verb"),
        ("request", [1], "request must be"),
        ("request", None, "request is missing"),
        ("request.prompt", 7, "prompt must be text"),
        ("request.prompt", "\ud800", "no text in UTF-8"),
        ("request.keep", "0:2", "keep must be a list"),
        ("request.frames", 5, "no 'frames'"),
        ("request.size", [2**60, 1], "size must be"),
        ("request.video", "/etc/passwd", "not given by its name"),
        ("request.video", {"name": "/etc/passwd", "sha256": SHA}, "not given by its name"),
        ("request.video", {"name": "../five.mp4", "sha256": SHA}, "not given by its name"),
        ("request.video", {"name": "..", "sha256": SHA}, "not given by its name"),
        ("request.video", {"name": "a\0b", "sha256": SHA}, "not given by its name"),
        ("request.video", {"name": "a" * 300, "sha256": SHA}, "not given by its name"),
        ("request.video", {"name": "\ud800", "sha256": SHA}, "not given by its name"),
        ("request.video", {"name": ["five.mp4"], "sha256": SHA}, "not given by its name"),
        ("request.video", {"name": "five.mp4"}, "not given by its name"),
        ("model", "/home", "model must be"),
        ("seed", -1, "seed must be a whole number from 0"),
        ("seed", True, "seed must be"),
        ("seed", 2**70, "seed must be"),
        ("steps", "9", "steps must be a whole number"),
        ("steps", 2.5, "steps must be a whole number"),
        ("guidance", 10**400, "guidance must be a finite number"),
        ("dtype", 3, "dtype must be a text"),
        ("shift", None, "shift is missing"),
        ("x\x1b[2J" * 9, "y", "unknown field"),
        ("loras", [{"name": "../a", "sha256": SHA, "scale": 1.0}], "not given by its name"),
        ("loras", [{"name": "a", "sha256": SHA, "scale": "1"}], r"loras\.0\.scale must be"),
    ],
)
def test_settings_that_anybody_may_have_written_are_refused_in_a_line(path, value, words, here):
    with pytest.raises(RequestError, match=words) as caught:
        recipe.read(write(changed(path, value)))
    assert str(caught.value).startswith("The settings in made.png cannot be used: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_file_without_settings_cannot_be_made_again(here):
    for metadata in (None, {}):
        with pytest.raises(RequestError, match="no vjax settings"):
            recipe.read(write(metadata))


def test_an_input_is_found_beside_the_file_and_here_by_its_content(here):
    file, wanted = "../there/made.mp4", None
    media.write("five.mp4", tiny.clip(5), 8)
    wanted = recipe.named("../here/five.mp4")
    assert wanted == {"name": "five.mp4", "sha256": recipe.sha256("five.mp4")}
    assert os.path.samefile(recipe.find(wanted, file), "five.mp4")
    media.write("../there/five.mp4", tiny.clip(5, seed=1), 8)
    assert os.path.samefile(recipe.find(wanted, file), "five.mp4")  # the other is another
    os.rename("five.mp4", "../there/six.mp4")
    with pytest.raises(RequestError, match=r"another five\.mp4"):
        recipe.find(wanted, file)
    os.replace("../there/six.mp4", "../there/five.mp4")
    assert os.path.samefile(recipe.find(wanted, file), "../there/five.mp4")
    os.remove("../there/five.mp4")
    os.mkfifo("../there/five.mp4")  # reading it would wait for ever
    with pytest.raises(RequestError, match="neither beside it"):
        recipe.find(wanted, file)


def test_a_folder_is_known_by_its_pictures(here):
    media.write("clip", tiny.clip(3), 8)
    wanted = recipe.named("clip/")
    assert wanted["name"] == "clip"
    assert recipe.named("clip/.") == wanted
    assert recipe.find(wanted, "made.mp4").samefile("clip")
    media.write("clip/000001.png", tiny.clip(1, seed=4), None, overwrite=True)
    with pytest.raises(RequestError, match="another clip"):
        recipe.find(wanted, "made.mp4")


def test_a_model_is_found_by_its_weights(here):
    weights.save("../there/tiny", tiny.bundle())
    model = Model("tiny", weights.fingerprint("../there/tiny"))
    assert recipe.find_model(model, "../there/made.mp4") == "../there/tiny"
    with pytest.raises(RequestError, match="model tiny, which is not here"):
        recipe.find_model(model, "made.mp4")
    with pytest.raises(RequestError, match="other weights than the one that is here"):
        recipe.find_model(dataclasses.replace(model, weights="0"), "../there/made.mp4")
    shipped = Model("default", weights.fingerprint("default"))
    assert recipe.find_model(shipped, "made.mp4") == "default"
    with pytest.raises(RequestError, match="no model's name"):
        recipe.find_model(dataclasses.replace(model, name="../there/tiny"), "made.mp4")


def test_another_verb_takes_over_fields_that_mean_the_same(here):
    stored = recipe.read(write(changed("request.size", [32, 48])))
    extend, infill = verbs.request_type("extend"), verbs.request_type("infill")
    assert recipe.carried(stored, extend, {}, "made.png") == {
        "prompt": "a red circle",
        "size": [32, 48],
    }
    given = {"video": "other.mp4", "prompt": "b"}
    kept = recipe.carried(stored, infill, given, "made.png")
    assert kept == {"keep": [[0, 2]], "size": [32, 48]}
    with pytest.raises(RequestError, match=r"made from five\.mp4"):
        recipe.carried(stored, infill, {}, "made.png")


def test_what_is_otherwise_than_it_was_is_said(here):
    old = recipe.read(write(GOOD))
    assert recipe.differences(old, dataclasses.replace(old, seed=4), "made.png") == []
    new = dataclasses.replace(old, platform="tpu", jax="1.0", model=Model("tiny", "f"))
    (note,) = recipe.differences(old, new, "made.png")
    for words in ("platform cpu", "jax 0.10.2", "other weights", "made.png"):
        assert words in note


def test_the_guidance_of_a_second_expert_is_asked_for_again(here):
    path = write(GOOD | {"low_guidance": 3.0})

    def guidance(*more: str) -> dict:
        sampling = arguments.parse(["--like", path, "extend", "five.mp4", *more]).sampling
        return {name: sampling[name] for name in sampling if "guidance" in name}

    assert guidance() == {"guidance": 2.0, "low_guidance": 3.0}
    assert guidance("--guidance", "5") == {"guidance": 5.0}
    assert guidance("--low-guidance", "1") == {"guidance": 2.0, "low_guidance": 1.0}
