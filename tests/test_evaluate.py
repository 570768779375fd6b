"""Evaluation judges the truth as right and a wrong clip as wrong, on every kind of row."""

import io
import types

import numpy as np
import pytest
from rich.console import Console

from vjax import evaluate, world
from vjax.config import ModelConfig

MODEL = ModelConfig(name="m", fps=16, frames=33, height=96, width=96, max_frames=65)
PIPE = types.SimpleNamespace(config=MODEL)


def truth(index: int, facts: world.Facts, frames: int = 33, size=(96, 96)) -> np.ndarray:
    width, height = size
    seed = (evaluate.SEED, 2, index)
    return world.render(facts, seed, frames=frames, height=height, width=width)


def test_more_frames_of_a_clip_begin_like_fewer():
    clip, facts, _ = evaluate._true_clip(PIPE, 0)
    np.testing.assert_array_equal(truth(0, facts, 65)[:33], clip)


@pytest.mark.parametrize("row", ["one thing", "held-out pairs", "two things", "two shots"])
def test_text_rows_accept_what_was_asked_for_and_nothing_else(row):
    trials = evaluate.rows(PIPE)[row]
    first, second, *_ = (next(trials) for _ in range(2))
    right = first.judge(truth(0, first.facts))
    assert min(right.values()) == 1, right
    wrong = first.judge(truth(1, second.facts))
    assert wrong["all four"] == 0


def test_other_aspects_are_asked_for_in_their_size():
    trial = next(evaluate.rows(PIPE)["one thing, 80x128"])
    assert trial.timeline.size == (80, 128)
    assert trial.judge(truth(0, trial.facts, size=(80, 128)))["all four"] == 1


def test_animate_extend_and_infill_rows():
    rows = evaluate.rows(PIPE)
    for index in range(3):
        clip, facts, _ = evaluate._true_clip(PIPE, index)
        longer = truth(index, facts, 65)
        animate, after, infill = (
            next(rows[name]) for name in ("animate", "extend after", "infill the middle")
        )
        assert min(animate.judge(clip).values()) == 1
        assert min(after.judge(longer).values()) == 1
        filled = infill.judge(clip)
        assert filled.pop("centroid error / width") == 0
        assert min(filled.values()) == 1


def test_a_jump_at_the_seam_and_changed_frames_are_seen():
    after = next(evaluate.rows(PIPE)["extend after"])
    _, facts, _ = evaluate._true_clip(PIPE, 0)
    longer = truth(0, facts, 65)
    longer[33:] = np.roll(longer[33:], 30, axis=2)
    assert after.judge(longer)["no jump"] == 0
    longer[5] += 1
    assert after.judge(longer)["given frames as given"] == 0


def test_an_evaluation_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "scores.jsonl"
    made = []

    def pipe(timeline, seed):
        made.append(seed)
        if len(made) == 9:
            raise KeyboardInterrupt
        return truth(0, evaluate._one_thing(np.random.default_rng(seed), "train"))

    pipe.config = MODEL

    def score():
        results = evaluate.Results(path, "m")
        return evaluate.score(pipe, 10, ["one thing"], results, Console(file=io.StringIO()))

    with pytest.raises(KeyboardInterrupt):
        score()
    means, sheet = score()
    # Those on the contact sheet are made again, the seventh and eighth are not.
    assert [seed - evaluate.SEED for seed in made] == [*range(9), *range(6), 8, 9]
    assert len(sheet) == 6
    assert set(means["one thing"]) >= {"color", "all four"}
    with pytest.raises(evaluate.ResultsError, match="another model"):
        evaluate.Results(path, "other")
    with pytest.raises(evaluate.ResultsError, match="choose from 'one thing', "):
        evaluate.score(pipe, 10, ["one"], evaluate.Results(path, "m"), Console())
    assert len(path.read_text().splitlines()) == 1 + 10  # what was made again is not kept twice
    path.write_text("")
    with pytest.raises(evaluate.ResultsError, match="holds no scores"):
        evaluate.Results(path, "m")
