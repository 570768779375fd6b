"""Evaluation judges the truth as right and a wrong clip as wrong, and keeps what was made."""

import dataclasses
import functools
import io
import json
import subprocess
import sys

import numpy as np
import pytest
import tiny
from rich.console import Console

from vjax import ending, evaluate, planning, weights, world
from vjax.config import ModelConfig, SamplerConfig, VAEConfig
from vjax.evaluation import judge as judging
from vjax.evaluation import results, trials, words
from vjax.evaluation.judge import judge
from vjax.models.vae import check_video, to_float
from vjax.rollout import SamplingError
from vjax.timeline import RequestError

VAE = VAEConfig(dim_mult=(1, 2, 2), temporal_downsample=(True, True))
MODEL = ModelConfig(name="m", fps=16, frames=33, height=96, width=96, max_frames=65, vae=VAE)
ROWS = {row.name: row for row in trials.rows(MODEL)}


@functools.cache
def trial(row: str, index: int) -> trials.Trial:
    return ROWS[row].trial(index)


@pytest.mark.parametrize("row", ROWS)
def test_the_truth_is_right_and_a_still_picture_is_not(row):
    """The third motion is to the right."""
    answer = trial(row, 2)
    right = judge(answer, answer.truth, 16)
    assert right.pop("off course", 0) == 0
    assert min(right.values()) == 1, (answer.timeline.prompt, right)
    still = answer.frozen()
    assert (still[answer.given] == answer.truth[answer.given]).all()
    if answer.facts.shots[0].things[0].motion != "still":
        assert judge(answer, still, 16)["all facts"] == 0
    assert judge(answer, trial(row, 4).truth, 16)["all facts"] == 0


def test_trials_are_the_same_in_every_run_and_differ_from_each_other():
    for name, row in ROWS.items():
        again, other = row.trial(3), row.trial(4)
        assert again.timeline.prompt == trial(name, 3).timeline.prompt
        np.testing.assert_array_equal(again.truth, trial(name, 3).truth)
        assert (again.facts, again.seed) != (other.facts, other.seed)
    given = trial("extend before", 3)
    np.testing.assert_array_equal(given.timeline.pieces[0].pixels, given.truth[given.given])


def test_prompts_say_which_way_a_thing_passes_behind_the_wall():
    for index in range(40):
        asked = trial("behind the wall", index)
        assert asked.facts.shots[0].things[0].motion in asked.timeline.prompt


@pytest.mark.parametrize("frames", [1, 2])
def test_a_model_of_pictures_is_asked_for_words_alone(frames):
    model = dataclasses.replace(MODEL, frames=frames)
    assert [row.name for row in trials.rows(model)] == [
        row.name for row in trials.rows(model, frames)
    ]


def test_one_frame_is_asked_for_nothing_that_takes_time():
    rows = trials.rows(MODEL, 1)
    assert [row.name for row in rows][:3] == ["one thing", "held-out pairs", "two things"]
    assert not {"camera", "two shots", "behind the wall", "animate"} & {row.name for row in rows}
    for index in range(10):
        answer = rows[0].trial(index)
        assert not {"moves", "spins", "bounces"} & set(answer.timeline.prompt.split())
        scores = judge(answer, answer.truth, 16)
        assert "motion" not in scores
        assert min(scores.values()) == 1


def test_jumps_at_seams_and_changed_frames_are_seen():
    answer = trial("extend after", 2)
    jumped = answer.truth.copy()
    jumped[9:] = np.roll(jumped[9:], 30, axis=2)
    assert judge(answer, jumped, 16)["no jump"] == 0
    assert judge(answer, jumped, 16)["off course"] > 0.1
    brighter = answer.truth.copy()
    brighter[9:] = np.clip(brighter[9:].astype(int) + 20, 0, 255)
    assert judge(answer, brighter, 16)["no jump"] == 0
    elsewhere = answer.facts.shots[0]
    elsewhere = dataclasses.replace(elsewhere, background="sky")
    changed = answer.truth.copy()
    changed[9:] = world.render(
        world.Facts((elsewhere,)), answer.draw.args[1], frames=33, height=96, width=96
    )[9:]
    scores = judge(answer, changed, 16)
    assert (scores["background"], scores["no jump"], scores["all facts"]) == (0, 0, 0)
    brighter[5] += 1
    assert judge(answer, brighter, 16)["given frames as given"] == 0


def test_each_motion_word_says_where_things_go():
    every = [trial("one thing", index) for index in range(10)]
    courses = [(each, words.course(each.truth, 16)) for each in every]
    found = words.by_word(courses)
    assert list(found) == list(world.MOTIONS)
    for word, axis, sign in (("left", "right", -1), ("right", "right", 1), ("down", "down", 1)):
        assert sign * found[word][axis] > 0.15
        assert found[word]["way"] == pytest.approx(abs(found[word][axis]), abs=0.02)
    assert found["grows"]["growth"] > 0.4 > 0.01 > abs(found["still"]["growth"])
    assert found["shrinks"]["growth"] < -0.25
    assert found["spins"]["turn"] > 0.5
    assert found["circles"]["way"] > 0.6
    assert words.course(every[0].truth[:, :8, :8], 16) == {}  # nothing to see


# --- The command ---------------------------------------------------------------------------------


class Truthful:
    """A model that answers with the truth, once its time has come."""

    config = MODEL

    def __init__(self, stop_after=1000):
        self.made, self.stop_after = [], stop_after

    def check(self, timeline):
        if timeline.size == (128, 80):
            raise RequestError("It cannot make 128x80.")

    def plan(self, timeline):
        return planning.plan(timeline, self.config)

    def sample_batch(self, timelines, seeds, *, start, on_step):
        if len(self.made) >= self.stop_after:
            raise KeyboardInterrupt
        self.made += [seed - trials.SEED for seed in seeds]
        on_step(1)
        if start is not None:
            return start[0]
        answers = {trial("one thing", i).timeline.prompt: trial("one thing", i) for i in range(8)}
        return np.stack([answers[timeline.prompt].truth for timeline in timelines])

    def encode(self, video):
        return to_float(video)

    def decode(self, z):
        return z


FOREIGN = ["", "[]", "[" * 10**5, '{"weights": "w"}', "\0" * 9]


def options(*arguments):
    return evaluate.parser().parse_args(["--count", "8", "--batch", "3", *arguments])


def kept(path, weights="w", steps=20, computed="float32-cpu"):
    return results.Results(path, weights, SamplerConfig(steps=steps), computed, judging.version())


def run(pipe, path, *arguments, **key):
    asked, console, store = options(*arguments), Console(file=io.StringIO()), kept(path, **key)
    tasks = evaluate.plan(pipe, asked, console)
    evaluate.make(pipe, tasks, store, asked, console)
    return evaluate.score(pipe, tasks, store, console)


def test_an_evaluation_goes_on_where_it_stopped(tmp_path):
    only = ("--only", "one thing")
    pipe = Truthful(stop_after=3)
    with pytest.raises(KeyboardInterrupt):
        run(pipe, tmp_path, *only)
    pipe.stop_after = 1000
    rows = run(pipe, tmp_path, *only)
    assert sorted(set(pipe.made)) == list(range(8))
    assert pipe.made.count(0) == 1
    assert rows["one thing"]["generations"] == 8
    assert rows["one thing"]["model"]["all facts"] == 1
    assert rows["one thing"]["round trip"]["all facts"] == 1
    assert rows["one thing"]["still picture"]["all facts"] < 0.5
    # A line that was cut off is scored again; no other, and nothing is made again.
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    (tmp_path / "scores.jsonl").write_text("\n".join([*lines, *FOREIGN]))
    assert run(pipe, tmp_path, *only) == rows
    (tmp_path / "scores.jsonl").write_text("\n".join(lines)[:-9])
    made = len(pipe.made)
    assert run(pipe, tmp_path, *only) == rows
    assert len(pipe.made) == made
    again = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert again[: len(lines) - 1] == lines[:-1]
    assert json.loads(again[-1]) == json.loads(lines[-1])
    tasks = evaluate.plan(pipe, options(*only), Console())
    went = evaluate.motion_words(pipe, tasks, kept(tmp_path))["one thing"]
    assert went["model"] == went["truth"] != {}
    # Other weights and other ways to sample are another matter.
    for key in ({"weights": "v"}, {"steps": 10}):
        run(pipe, tmp_path, *only, **key)
    assert len(pipe.made) == 3 * made


def test_another_judge_scores_the_same_clips(tmp_path, monkeypatch):
    pipe = Truthful()
    run(pipe, tmp_path, "--only", "one thing")
    made = len(pipe.made)
    monkeypatch.setattr(judging, "version", lambda: "another")
    monkeypatch.setattr(judging, "judge", lambda *_: {"all facts": 0.0})
    rows = run(pipe, tmp_path, "--only", "one thing")
    assert rows["one thing"]["model"] == {"all facts": 0.0}
    assert len(pipe.made) == made


def test_a_damaged_clip_or_one_of_another_request_is_made_again(tmp_path):
    store, answer = kept(tmp_path), trial("one thing", 1)
    store.add_clip("one thing", answer, answer.truth)
    np.testing.assert_array_equal(store.clip("one thing", answer), answer.truth)
    other = dataclasses.replace(trial("one thing", 2), index=1)
    assert store.clip("one thing", other) is None
    (file,) = tmp_path.rglob("0001.npz")
    file.write_bytes(file.read_bytes()[:-100])
    assert store.clip("one thing", answer) is None


def test_rows_that_a_model_cannot_make_are_left_out_before_anything_is_made():
    said = io.StringIO()
    tasks = evaluate.plan(Truthful(), options(), Console(file=said))
    assert len(tasks) == len(ROWS) - 1
    assert "one thing, 128x80 is left out. It cannot make 128x80." in said.getvalue()
    assert [task.count for task in tasks[:3]] == [8, 8, 2]
    with pytest.raises(evaluate.ResultsError, match="choose from 'one thing', "):
        evaluate.plan(Truthful(), options("--only", "one"), Console())


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), SamplingError("NaN")])
def test_a_row_that_fails_on_the_way_does_not_end_the_others(tmp_path, error):
    class Failing(Truthful):
        def sample_batch(self, timelines, seeds, **rest):
            if timelines[0].size == (80, 128):
                raise error
            return super().sample_batch(timelines, seeds, **rest)

    rows = run(Failing(), tmp_path, "--only", "one thing, 80x128", "one thing")
    assert rows["one thing"]["generations"] == 8
    assert rows["one thing, 80x128"]["generations"] == 0


def test_pictures_are_scored_and_shown_side_by_side(tmp_path):
    class Painter(Truthful):
        def sample_batch(self, timelines, seeds, *, start, on_step):
            every = [row.trial(i) for i in range(8)]
            answers = {each.timeline.prompt: each.truth for each in every}
            return np.stack([answers[timeline.prompt] for timeline in timelines])

    row = trials.rows(MODEL, 1)[0]
    only = ("--only", "one thing", "--frames", "1")
    rows = run(Painter(), tmp_path, *only)
    assert rows["one thing"]["model"]["all facts"] == 1
    assert rows["one thing"]["round trip"]["all facts"] == 1
    assert "still picture" not in rows["one thing"]
    tasks = evaluate.plan(Painter(), options(*only), Console())
    ((pictures, _),) = evaluate._shown(tasks, kept(tmp_path))
    assert len(pictures) == evaluate.SHOWN


def test_clips_of_any_length_go_through_the_vae():
    class Strict(Truthful):
        def encode(self, video):
            check_video(VAE, video.shape)
            return super().encode(video)

    clip = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(evaluate._round_trip(Strict(), clip), clip)


def test_sampling_from_true_clips_has_rows_of_its_own(tmp_path):
    rows = run(Truthful(), tmp_path, "--from", "0.5", "1")
    assert list(rows) == ["one thing from 0.5", "one thing from 1"]
    assert rows["one thing from 0.5"]["model"]["all facts"] == 1


def test_time_that_is_up_ends_the_sampling(tmp_path):
    pipe = Truthful()
    rows = run(pipe, tmp_path, "--only", "one thing", "--minutes", "1e-6")
    assert len(pipe.made) < 8
    assert rows["one thing"]["generations"] == len(set(pipe.made))


@pytest.mark.parametrize(
    ("ended", "status"), [(KeyboardInterrupt(), 130), (ending.Terminated(), 143)]
)
def test_an_evaluation_that_is_ended_says_that_it_goes_on(
    ended, status, tmp_path, monkeypatch, capsys
):
    def load(name):
        raise ended

    monkeypatch.setattr(evaluate.pipeline, "load", load)
    assert evaluate.main(["--out", str(tmp_path)]) == status
    assert "interrupted; the same command goes on" in capsys.readouterr().err


def test_a_size_that_the_vae_cannot_have_leaves_out_its_row(tmp_path, monkeypatch, capsys):
    model = tiny.model(height=17, width=17, min_side=17, max_side=17)
    weights.save(tmp_path / "odd", tiny.bundle(model))
    asked = ["--model", str(tmp_path / "odd"), "--out", str(tmp_path / "out"), "--count", "1"]
    assert evaluate.main(asked) == 0
    assert "vae is left out. Height and width are multiples of 8" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["--count", "0"], ["--from", "0"], ["--frames", "-1"], ["--minutes", "0"]]
)
def test_impossible_numbers_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        evaluate.parser().parse_args(arguments)
    assert "at least 1" in (said := capsys.readouterr().err) or "above 0" in said


def test_nothing_is_imported_that_reads_or_stores_videos(tmp_path):
    """So that a model is scored where only the numerical libraries are."""
    script = f"""
import sys
for name in ("av", "imageio", "tensorflow_datasets", "grain", "tensorboardX"):
    sys.modules[name] = None
import pathlib
import numpy as np
import vjax.evaluate
from vjax.evaluation import report
clip = np.zeros((3, 64, 64, 3), "u1")
report.write_sheet(pathlib.Path({str(tmp_path)!r}) / "s.png", [(clip, "a label")])
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert (tmp_path / "s.png").exists()
