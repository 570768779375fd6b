"""Storyboards: boards read strictly, cards on their frames, and files that are made again."""

import dataclasses
import pathlib

import numpy as np
import pytest
import tiny

import vjax
from vjax import drafting, planning, sample, verbs, video, weights
from vjax.arguments import parse
from vjax.pipeline import Pipeline
from vjax.timeline import RequestError
from vjax.verbs import board, storyboard

MODEL = tiny.model(max_frames=17)
GOOD = """\
prompt: a red circle # over all of it
seconds: 3
cards:
  - at: 0
    text: yes
  - at: 1.5
    text: "blue: moves right"
    soften: .25
"""


@pytest.fixture
def here(tmp_path, monkeypatch) -> pathlib.Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(text: str | bytes) -> pathlib.Path:
    path = pathlib.Path("b.yaml")
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- Boards --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [GOOD, "\ufeff" + GOOD, GOOD.replace("\n", "\r\n"), GOOD.replace("at: 0", "at: '0'")],
    ids=["plain", "BOM", "CRLF", "quoted"],
)
def test_a_board_is_read_as_it_is_written(text, here):
    assert board.read(written(text)) == {
        "prompt": "a red circle",
        "seconds": 3.0,
        "cards": [
            {"at": 0.0, "text": "yes", "line": 4},
            {"at": 1.5, "text": "blue: moves right", "soften": 0.25, "line": 6},
        ],
    }


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("at: 1.5", "at: 0:30", r"line 6 \(card 2\): '0:30' is no number.* such as 30\."),
        ("at: 1.5", "at: 1:02:03.5", r"line 6 \(card 2\).* such as 3723.5\."),
        ("at: 1.5", "at: 1e1", r"line 6 \(card 2\): '1e1' is no number"),
        ("at: 1.5", "at: -1", r"line 6 \(card 2\): '-1' is no number"),
        ("at: 1.5", "at: .inf", "'.inf' is no number"),
        ("at: 1.5", "at: [1]", r"line 6 \(card 2\): a number is expected here, not a list"),
        ("at: 1.5", "at:", r"line 6 \(card 2\): '' is no number"),
        ("- at: 1.5\n    text", "- text", r"line 6 \(card 2\): the card has no time"),
        (
            "    text: yes",
            "    txt: yes",
            r"line 5 \(card 1\): A card has no 'txt': did you mean text",
        ),
        (
            "    text: yes",
            "    <<: yes",
            r"line 5 \(card 1\): A card has no '<<': it has at, until",
        ),
        ("    text: yes", "    text: ''", r"line 5 \(card 1\): the text is empty"),
        ("    text: yes", "    text: ~", r"line 5 \(card 1\): the text is empty"),
        ("    text: yes", "    text: {a: b}", r"line 5 \(card 1\): a text is expected here, not a"),
        ("    text: yes", "\ttext: yes", r"line 5: a tab where YAML takes only spaces"),
        ("    text: yes", "    text: a: b", r"line 5: mapping values are not allowed.*in quotes"),
        ("    text: yes", "    at: 1", r"line 5 \(card 1\): at is there twice"),
        ("    text: yes", "    cut: yes", r"line 5 \(card 1\): 'yes' is neither true nor false"),
        ("seconds: 3", "second: 3", "line 2: A board has no 'second': did you mean seconds"),
        ("seconds: 3", "seconds: 3s", "line 2: '3s' is no number"),
        ("seconds: 3", "size: big", "line 2: 'big' is no size"),
        ("seconds: 3", "fps: fast", "line 2: 'fast' is no frame rate"),
        ("seconds: 3", "fps: 1/0", "line 2: '1/0' is no frame rate"),
        ("seconds: 3", "frames: 2.5", "line 2: 2.5 is no whole number"),
        ("cards:", "card:", "line 3: A board has no 'card': did you mean cards"),
        (GOOD, "prompt: a", "it has no cards"),
        (GOOD, "cards: 3", "line 1: cards is a list"),
        (GOOD, "cards: []", "line 1: cards is a list"),
        (GOOD, "cards: [3]", r"line 1 \(card 1\): A card is written as KEY: VALUE"),
        (GOOD, "", "A board is written as KEY: VALUE, with the keys prompt"),
        (GOOD, "- a", "line 1: A board is written as KEY: VALUE"),
        (GOOD, "a: &b [*b]", "A board has no 'a'"),
        (GOOD, "? [a]\n: b", "A board has no "),
        (GOOD, "a: b\n---\na: b", "line 2: a second document begins here"),
        (GOOD, "prompt: \x07", "characters that YAML has not"),
        (GOOD, "[" * 100_000, "nested too deeply"),
        (GOOD, "#" * 2**21, "more than a megabyte"),
    ],
)
def test_what_is_wrong_with_a_board_is_said_with_its_line_and_card(old, new, message, here):
    assert old in GOOD
    with pytest.raises(RequestError, match=message) as caught:
        board.read(written(GOOD.replace(old, new, 1)))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250
    assert str(caught.value).startswith("b.yaml")


def test_a_file_that_is_no_board_is_refused(here):
    with pytest.raises(RequestError, match="no text in UTF-8"):
        board.read(written("prompt: é".encode("latin-1")))
    with pytest.raises(RequestError, match="cannot be read"):
        board.read("none.yaml")


# --- Cards ---------------------------------------------------------------------------------------

RED, BLUE = np.full((1, 32, 32, 3), 200, np.uint8), np.full((1, 32, 32, 3), 60, np.uint8)


@pytest.mark.parametrize(
    ("cards", "message"),
    [
        ([], "needs a card"),
        ([{"at": 0}], "Card 1 is empty"),
        ([{"at": 0, "text": "a", "line": 7}, {"line": 9, "at": 0, "text": "b"}],
         r"Card 1 \(line 7\) and card 2 \(line 9\) both have a text at 0 seconds"),
        ([{"at": 0, "image": RED}, {"at": 0, "video": RED}], "both have a image or video at 0"),
        ([{"at": 0, "image": RED, "video": RED}], "an image and a video: make two cards"),
        ([{"at": 1, "text": "a", "until": 3}, {"at": 2, "text": "b"}], "texts cannot overlap"),
        ([{"at": 1, "text": "a", "until": 1}], "Card 1 ends at 1 seconds and begins at 1"),
        ([{"at": 1, "image": RED, "until": 2}], "Card 1 has until, which is for a text"),
        ([{"at": 1, "image": RED, "soften": 2}], "Card 1 has soften, which is for a text"),
        ([{"at": -1, "text": "a"}], "Card 1 has the time -1"),
        ([{"at": 0, "text": " "}], "Card 1 has an empty text"),
        ([{"at": 0, "txt": "a"}], "cards, card 1 has no 'txt': did you mean text"),
        ([{"text": "a"}], "cards, card 1 needs at"),
        ([{"at": "0", "text": "a"}], "cards, card 1: at must be a number, got '0'"),
        ([{"at": 9, "text": "a"}], "Card 1 begins to speak at 9 seconds, but the result ends at 3"),
        ([{"at": 0, "text": "a", "until": 9}], "Card 1 speaks until 9 seconds, but"),
        ([{"at": 3, "image": RED, "line": 2}], r"Card 1 \(line 2\) at 3 seconds would end after"),
        ([{"at": 1, "video": tiny.clip(9)}, {"at": 1.5, "image": RED}],
         "Card 2 at 1.5 seconds would begin before the end"),
        ([{"at": 0, "image": "none.png"}], "Card 1: "),
    ],
)  # fmt: skip
def test_cards_that_cannot_be_are_refused(cards, message):
    with pytest.raises(RequestError, match=message):
        planning.plan(vjax.storyboard(cards, "a", seconds=3), MODEL)


def test_a_text_holds_until_the_next_text_and_pictures_do_not_end_it():
    cards = [
        {"at": 2, "text": "c", "until": 2.5},
        {"at": 0, "text": "a"},
        {"at": 0.5, "image": RED},
        {"at": 1, "text": "b", "soften": 0.25, "cut": True},
    ]
    plan = planning.plan(vjax.storyboard(cards, "d", seconds=3, soften=0.5), MODEL)
    assert [line[:3] for line in plan.script.lines] == [("a", 0, 8), ("b", 8, 16), ("c", 16, 20)]
    assert [line.soften for line in plan.script.lines] == [4, 2, 4]
    assert plan.script.cuts == (8,)
    assert [(s.first, s.stop) for s in plan.segments] == [(0, 8), (8, 24)]
    styled = vjax.storyboard(cards, seconds=3, style="neon")
    assert styled.prompt == ""
    assert all("neon" in span.text for span in styled.spans)
    with pytest.raises(RequestError, match=r"shown from 2\.5 seconds on"):
        planning.plan(vjax.storyboard(cards, seconds=3), MODEL)


@pytest.mark.parametrize("count", [1, 4, 5, 6])
@pytest.mark.parametrize("at", [0, 0.5, 0.625])
def test_every_frame_of_a_card_is_in_its_place(count, at):
    given = tiny.clip(count, seed=3)
    timeline = vjax.storyboard([{"at": at, "video": given}, {"at": 0, "text": "red"}], frames=17)
    film = Pipeline(tiny.bundle(MODEL))(timeline, steps=1)
    first = round(8 * at)
    assert len(film) == 17
    np.testing.assert_array_equal(film[first : first + count], given)
    beside = np.delete(film, slice(first, first + count), axis=0)
    assert not any((frame == other).all() for frame in beside for other in given)


@pytest.mark.parametrize(
    ("gap", "said", "cut"),
    [(3, None, True), (4, None, False), (3, False, False), (4, True, True)],
)
def test_close_cards_cut_and_far_cards_are_bridged_unless_told(gap, said, cut):
    """Half a second is four frames."""
    second = 1 + gap
    cards = [{"at": 0, "image": RED}, {"at": second / 8, "image": BLUE, "cut": said}]
    plan = planning.plan(vjax.storyboard(cards, "a", frames=17), MODEL)
    assert plan.canvas.cuts == ((second,) if cut else ())
    assert any("begins with a cut" in note for note in plan.notes) == (cut and not said)
    seen = []

    class Watched(Pipeline):
        def _sample(self, condition, *rest):
            seen.append(condition)
            return np.zeros(condition.source.shape, np.float32)

    film = Watched(tiny.bundle(MODEL))(plan)
    np.testing.assert_array_equal(film[[0, second]], np.concatenate([RED, BLUE]))
    known = [c.anchors.shape[1] + int(c.strength.sum()) for c in seen]
    assert known == ([1, 1] if cut else [2])  # what comes before a cut sees only its own side
    if cut:
        assert [(s.first, s.stop) for s in plan.segments] == [(1, second), (second + 1, 17)]
        assert plan.segments[1].start == second


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> str:
    directory = tmp_path_factory.mktemp("model") / "tiny"
    weights.save(directory, tiny.bundle(), dtype="float32")
    return str(directory)


def test_a_board_is_made_again_without_its_file(bundle, here, capsys):
    folder = here / "there"
    folder.mkdir()
    video.write(folder / "p.png", tiny.clip(1), None)
    path = folder / "b.yaml"
    path.write_text(
        "negative: blue\nframes: 9\ncards:\n- {at: 0, text: red}\n- {at: 0.5, image: p.png}\n"
    )
    asked = ["storyboard", path, "--model", bundle, "--out", "o.mkv", "--prompt", "a circle"]
    assert sample.main([str(argument) for argument in asked]) == 0
    stored = video.read_metadata("o.mkv")["request"]
    assert stored["cards"][0] == {"at": 0.0, "text": "red"}
    assert stored["cards"][1]["image"]["name"] == "p.png"
    assert (stored["prompt"], stored["negative"], stored["frames"]) == ("a circle", "blue", 9)
    made = video.read("o.mkv").frames
    np.testing.assert_array_equal(made[4], tiny.clip(1)[0])

    path.unlink()
    again = ["--like", "o.mkv", "--model", bundle, "--out", "p.mkv"]
    assert sample.main(again) == 2  # the picture is elsewhere
    assert "made from p.png, which is neither beside it nor" in capsys.readouterr().err
    (folder / "p.png").rename("p.png")
    assert sample.main(again) == 0
    assert pathlib.Path("p.mkv").read_bytes() == pathlib.Path("o.mkv").read_bytes()
    assert sample.main([*again[:-1], "q.mkv", "--prompt", "blue"]) == 0
    assert video.read_metadata("q.mkv")["request"]["cards"] == stored["cards"]


def test_options_go_before_what_a_board_says(here):
    order = parse(["storyboard", str(written(GOOD)), "--frames", "9"])
    (request,) = order.requests
    assert (request.frames, request.seconds, request.prompt) == (9, None, "a red circle")
    assert verbs.to_json(request)["cards"][1]["at"] == 1.5
    assert [card.line for card in request.cards] == [4, 6]
    with pytest.raises(RequestError, match=r"One board is needed, not 2: b.yaml, c.yaml"):
        parse(["storyboard", "b.yaml", "c.yaml"])
    with pytest.raises(RequestError, match="storyboard needs cards: a YAML file"):
        parse(["storyboard", "--prompt", "a"])


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("a red circle: 'moves' \"right\"", 3),
        ("A circle. It moves! and then it stops", 3),
    ],
)
def test_a_draft_is_a_board_that_can_be_made(line, count, here, capsys):
    assert sample.main(["storyboard", "--draft", line]) == 0
    text = capsys.readouterr().out
    assert sample.main(["--out", "d.yaml", "storyboard", f"--draft={line}"]) == 0
    assert pathlib.Path("d.yaml").read_text() == text
    timeline = vjax.storyboard("d.yaml")
    plan = planning.plan(timeline, MODEL)
    assert (timeline.prompt, len(timeline.spans), plan.frames) == ("", count, 16 * count)


def test_a_draft_cuts_where_the_line_does(here):
    line = "a circle moves.\tIt grows. Cut to: a \x7fstar\x00 👩\u200d🚀. Next shot, a ring"
    pathlib.Path("d.yaml").write_text(board.draft(line), encoding="utf-8")
    (request,) = parse(["storyboard", "d.yaml"]).requests
    said = [(card.at, card.text, card.cut) for card in request.cards]
    assert said == [
        (0, "a circle moves.", None),
        (2, "It grows.", None),
        (4, "a star 👩\u200d🚀.", True),
        (6, "a ring", True),
    ]
    assert request.prompt == ""
    assert planning.plan(request.timeline(), MODEL).script.cuts == (32, 48)


def test_a_draft_replaces_nothing_unless_told(here, capsys):
    path = written(GOOD)
    ask = ["storyboard", "--draft", "a", "--out", "b.yaml"]
    assert sample.main(ask) == 2
    assert "b.yaml exists" in capsys.readouterr().err
    assert path.read_text() == GOOD
    assert sample.main([*ask, "--overwrite"]) == 0
    assert board.read(path)["cards"][0]["text"] == "a"
    for wrong in (
        ["--draft"],
        ["--draft", " "],
        ["--draft", "a", "--steps", "3"],
        ["--draft", "a", "--out", "nowhere/d.yaml"],
        ["--draft", "\udcff"],
    ):
        assert sample.main(["storyboard", *wrong]) == 2
    assert not drafting.is_asked(["text", "--draft", "a"])


def test_the_help_says_what_a_card_has(capsys):
    with pytest.raises(SystemExit):
        parse(["storyboard", "--help"])
    said = capsys.readouterr().out
    assert "cards: [{at: 0, text: a red circle}" in said
    last = storyboard.Storyboard.explained.splitlines()[-1]
    assert all(f.name in last for f in dataclasses.fields(storyboard.Card) if f.name != "line")
