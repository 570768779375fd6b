"""Names of new files: what was made, in any script, in few bytes."""

import dataclasses

import pytest
import tiny

from vjax import naming, verbs

USUAL = tiny.MODEL.sampler


def name(prompt: str, seed: int = 0, suffix: str = ".mp4", sampling=USUAL, **values) -> str:
    values = {"verb": "text", "prompt": prompt, **values}
    return naming.name(verbs.from_json(values), seed, sampling, USUAL, suffix)


def test_a_name_says_the_verb_the_prompt_what_is_unusual_and_the_seed():
    assert name("A red circle, moves right!", 7) == "text-a-red-circle-moves-right-7.mp4"
    extended = name("a red circle", verb="extend", video="/a/b.mp4", seconds=0.5, before=True)
    assert extended == "extend-a-red-circle-seconds-0.5-before-0.mp4"
    sampling = dataclasses.replace(USUAL, steps=9, guidance=1.5)
    sized = name("a", 3, ".png", sampling, size=[48, 32], negative="b")
    assert sized == "text-a-size-48-32-steps-9-guidance-1.5-3.png"
    assert name("a") != name("a", sampling=sampling)
    kept = name("a", verb="infill", video="a.mp4", keep=[[0, 5], [-5, 33]])
    assert kept == "infill-a-keep-0-5-minus-5-33-0.mp4"
    kept = name("a", verb="infill", video="a.mp4", keep=[[None, 5], [-5, None]])
    assert kept == "infill-a-keep-start-5-minus-5-end-0.mp4"
    film = [[1, 0, 17], 1.0, [8, 33]]  # would be hard to read
    assert name("a", verb="recut", videos=["a.mp4", "b.mp4"], film=film) == "recut-a-0.mp4"
    assert name("a", style="neon") == "text-a-style-neon-style-0.mp4"


@pytest.mark.parametrize(
    "prompt",
    [
        "a",
        "?!",
        "a very long prompt " * 20,
        "onewordonly" * 30,
        "赤い円が右に動く" * 20,
        "a " + "赤" * 200,
        "लाल वृत्त दाईं ओर चलता है " * 9,
        "دائرة حمراء تتحرك إلى اليمين " * 9,
        "🔴" * 90,
        "a\n/../..\\b:c\x00*",
        "İ" * 99,
    ],
)
@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_name_is_short_in_any_script_and_leaves_room_for_a_number(prompt, seed):
    values = {"verb": "infill", "video": "v.mp4", "keep": [[i, i + 1] for i in range(0, 90, 2)]}
    for made in (name(prompt, seed), name(prompt, seed, **values)):
        assert len(made.encode()) <= naming.LONGEST - 8
        assert made.endswith(f"-{seed}.mp4")
        assert not set(made) & set("/\\:*\n\x00 ")
        assert "--" not in made


def test_marks_belong_to_their_letters():
    assert name("लाल वृत्त") == "text-लाल-वृत्त-0.mp4"


def test_words_are_kept_whole_where_they_are_short():
    assert name("a very long prompt " * 20).startswith("text-a-very-long-prompt-a-very")
    assert "-long-prompt-0" in name("long prompt " * 20) or "-long-0" in name("long prompt " * 20)
    assert "赤" * 20 in name("a " + "赤" * 200)
