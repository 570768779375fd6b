"""Styles: what is said around a prompt, from the package and from files of the user's."""

import json

import pytest

from vjax import styles
from vjax.timeline import RequestError


def test_a_style_speaks_around_the_prompt():
    style = styles.find("Film-Noir")
    assert style.told("A street at night.").startswith("A street at night. Style: film noir")
    assert style.avoided("rain") == "rain, colour, bright light"
    assert styles.of("").told("as it is.") == "as it is."
    assert (
        styles.of(("{prompt}. Grainy.", "")).told("a. Cut to: b") == "a. Grainy. Cut to: b. Grainy."
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_files_of_other_programs_are_read(tmp_path, ending):
    rows = ["name,prompt,negative_prompt", 'ink,"{prompt}, ink, {bold}, paper",photo']
    rows += ['wet,"rain, puddles",', 'neon,"our {prompt}",""']
    (tmp_path / "a.csv").write_text("\ufeff" + ending.join(rows), newline="")
    found = styles.styles(tmp_path / "a.csv")
    assert found["ink"] == ("{prompt}, ink, {bold}, paper", "photo")
    assert found["ink"].told("a cat") == "a cat, ink, {bold}, paper"
    assert found["wet"].told("a {cat}") == "a {cat}, rain, puddles"  # added where it has no place
    assert found["neon"].told("cat") == "our cat"  # before the one that ships
    assert found["pixel"] == styles.find("pixel")
    (tmp_path / "b.csv").write_text('name, prompt\n>> Ours,\nink, "{prompt}, oil, ink"')
    assert styles.read(tmp_path / "b.csv") == {"ink": ("{prompt}, oil, ink", "")}
    entries = [{"name": "ink", "prompt": "{prompt}, ink"}]
    (tmp_path / "a.json").write_text(json.dumps(entries))
    assert styles.find("INK", tmp_path / "a.json").told("a cat") == "a cat, ink"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.json", '[{"name": "ink",}]', "no JSON, line 1"),
        ("a.json", '{"name": "ink"}', "no list of styles"),
        ("a.json", '[{"prompt": "ink"}]', "Style 1 of .* has no name"),
        ("a.json", '[{"name": "ink", "prompt": 3}]', "Style 1"),
        ("a.json", '[{"name": "ink", "prompt": "a"}, {"name": "Ink", "prompt": "b"}]', "twice"),
        ("a.csv", "ink,paper\n", "does not begin with the line"),
        ("a.csv", b"name,prompt\nink,\xff", "no text in UTF-8"),
        (
            "a.csv",
            "name,prompt\nink,{prompt}, oil, thick",
            "line 2: there are more values .*quotes",
        ),
        ("a.csv", 'name,prompt\nink,"{prompt}, oil\n', "a.csv, line .: unexpected end of data"),
    ],
)
def test_a_file_of_something_else_is_said_to_be(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RequestError, match=message):
        styles.styles(tmp_path / file)


def test_a_style_that_is_not_there_names_the_nearest():
    with pytest.raises(RequestError, match="did you mean neon"):
        styles.find("noen")
