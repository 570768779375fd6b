"""Characters: pictures under names, with a consent that is asked for and shown."""

import hashlib

import numpy as np
import pytest
import tiny

import vjax
from vjax import characters, planning, recipe, sample, verbs, video
from vjax.timeline import RequestError


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("VJAX_CHARACTERS", str(tmp_path / "library"))
    monkeypatch.chdir(tmp_path)
    video.write("ada.jpg.png", tiny.clip(1, 40, 56), None)
    return tmp_path


def add(name: str = "ada", consent: str = "Ada agreed") -> characters.Character:
    return characters.add(name, "ada.jpg.png", consent)


# --- The library ---------------------------------------------------------------------------------


def test_characters_are_added_listed_and_removed(place, capsys):
    assert sample.main(["characters"]) == 0
    assert "no characters in" in capsys.readouterr().err
    asked = ["characters", "add", "ada", "ada.jpg.png"]
    assert sample.main(asked) == 2
    assert "--consent" in capsys.readouterr().err
    assert sample.main([*asked, "--consent", " "]) == 2
    assert "Say who agreed" in capsys.readouterr().err
    assert sample.main([*asked, "--consent", "Ada agreed\n in 2026"]) == 0
    shown = capsys.readouterr().out
    assert shown == f"ada  {place / 'library' / 'ada' / 'ada.png'}  Ada agreed in 2026\n"
    np.testing.assert_array_equal(
        video.read(place / "library" / "ada" / "ada.png").frames, tiny.clip(1, 40, 56)
    )
    assert sample.main(["characters", "list"]) == 0
    assert capsys.readouterr().out == shown
    assert sample.main([*asked, "--consent", "again"]) == 2
    assert "a character ada already" in capsys.readouterr().err
    assert sample.main(["characters", "remove", "ada"]) == 0
    assert characters.characters() == {}
    assert [path.name for path in (place / "library").iterdir()] == []
    assert sample.main(["characters", "remove", "ada"]) == 2
    assert "no character 'ada'" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["", "Ada", "../ada", ".ada", "a" * 41, "ada.png", "ad a", "-a"])
def test_other_names_are_refused_and_nothing_is_left(name, place):
    with pytest.raises(RequestError, match="no name of a character"):
        add(name)
    with pytest.raises(video.MediaError):
        characters.add("ada", "missing.png", "yes")
    assert not (place / "library").exists() or not list((place / "library").iterdir())


@pytest.mark.parametrize("notes", ["", "[]", "{}", '{"consent": ""}', '{"consent": 3}', "{" * 9999])
def test_a_folder_that_is_no_character_is_left_out(notes, place):
    add()
    (place / "library" / "ada" / "character.json").write_text(notes)
    assert characters.characters() == {}


def test_the_library_is_where_data_of_the_user_is(place, monkeypatch):
    assert characters.library() == place / "library"
    monkeypatch.delenv("VJAX_CHARACTERS")
    monkeypatch.setenv("XDG_DATA_HOME", str(place))
    assert characters.library() == place / "vjax" / "characters"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", str(place / "home"))
    assert characters.library() == place / "home" / ".local" / "share" / "vjax" / "characters"


# --- In requests ---------------------------------------------------------------------------------

REQUESTS = {
    "text": {},
    "animate": {"image": "ada.jpg.png"},
    "bridge": {"first": "ada.jpg.png", "last": "ada.jpg.png"},
    "keyframes": {"keys": [["ada.jpg.png", 0.5]]},
    "extend": {"video": "clip.mkv"},
    "infill": {"video": "clip.mkv", "keep": [[0, 2]]},
    "inpaint": {"video": "clip.mkv", "mask": "mask.png"},
    "remix": {"video": "clip.mkv"},
    "blend": {"first": "clip.mkv", "second": "clip.mkv", "seconds": 1.0},
    "storyboard": {"cards": [{"at": 0.5, "text": "a", "image": "ada.jpg.png"}]},
    "recut": {"videos": ["clip.mkv"], "film": [[0, 2], 1.0]},
    "loop": {},
    "interpolate": {"video": "clip.mkv", "fps": 16},
    "upscale": {"video": "clip.mkv", "size": [96, 96]},
}


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_a_character_is_a_reference_in_every_verb_and_moves_nothing(verb):
    video.write("clip.mkv", tiny.clip(6), 8)
    video.write(
        "mask.png",
        np.pad(np.full((1, 9, 9, 3), 255, np.uint8), [(0, 0), (0, 23), (0, 23), (0, 0)]),
        None,
    )
    picture = add().picture
    values = {"verb": verb, "prompt": "a", **REQUESTS[verb]}
    plain = verbs.from_json(values).timeline()
    request = verbs.from_json({**values, "character": ["ada", "ada.jpg.png"]})
    assert verbs.to_json(request)["character"] == [str(picture), "ada.jpg.png"]
    timeline = request.timeline()
    own = len(plain.anchors)
    assert [anchor.at for anchor in timeline.anchors[own:]] == [None, None]
    before, plan = planning.plan(plain, tiny.MODEL), planning.plan(timeline, tiny.MODEL)
    assert plan.frames == before.frames
    assert plan.segments == before.segments
    assert len(plan.references) == 2
    note = "The character ada is used with this consent: Ada agreed"
    assert plan.notes.count(note) == 1
    assert note not in before.notes


def test_a_name_comes_before_a_file_and_what_is_neither_is_refused_with_what_is_there(place):
    with pytest.raises(RequestError, match="'bob', and no picture of that name"):
        vjax.text("a", character=["bob"])
    picture = add().picture
    add("carl")
    (place / "ada").mkdir()
    assert verbs.request_type("text")("a", character=("ada",)).character == (picture,)
    assert verbs.request_type("text")("a", character=("./ada",)).character == ("./ada",)
    with pytest.raises(RequestError, match="There are ada, carl"):
        vjax.text("a", character=["bob"])
    (anchor,) = vjax.text("a", character=[tiny.clip(1)[0]]).anchors
    np.testing.assert_array_equal(anchor.pixels, tiny.clip(1))


def test_a_recipe_finds_a_character_in_the_library_by_its_content(place):
    picture = add().picture
    named = recipe.named(picture)
    assert named == {
        "name": "ada.png",
        "sha256": hashlib.sha256(picture.read_bytes()).hexdigest(),
    }
    assert recipe.find(named, "somewhere/out.mp4") == picture
    characters.remove("ada")
    with pytest.raises(RequestError, match="neither beside it"):
        recipe.find(named, "somewhere/out.mp4")
