"""Files keep their pictures, their timing and their settings, or say in a sentence why not."""

import json
import os
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from clips import encode, numbers, ramp
from PIL import Image

from vjax import video
from vjax.video import MediaError
from vjax.video import clip as clips

KINDS = [".mp4", ".webm", ".mkv", ".gif", ".webp"]
SETTINGS = {
    "prompt": '日本 "a" = b; # \\ [x]\n😀',
    "seed": 2**40,
    "guidance": 0.1,
    "of": [None, True],
}


@pytest.mark.parametrize("suffix", KINDS)
@pytest.mark.parametrize("fps", [16, 24, 30000 / 1001])
def test_a_clip_comes_back_with_its_frames_timing_and_settings(tmp_path, suffix, fps):
    frames = ramp(33)
    path = tmp_path / f"clip{suffix}"
    video.write(path, frames, fps, metadata=SETTINGS)
    shown = video.read(path)
    assert numbers(shown.frames) == list(range(33))
    # Gifs count hundredths and webp and webm thousandths: the end is right to that.
    assert abs(33 / shown.fps - 33 / fps) < (0.0051 if suffix == ".gif" else 0.0011)
    error = np.abs(shown.frames.astype(int) - frames)
    if suffix in (".gif", ".webp", ".mkv"):  # few enough colours for a gif, to rounding
        assert error.max() <= (suffix == ".gif")
    else:  # colour blurs at edges, where half of its resolution is left
        assert error.mean() < 1.5
        assert np.median(error) <= 1
    assert video.read_metadata(path) == SETTINGS
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_still_clip_keeps_its_length(tmp_path, suffix):
    video.write(tmp_path / f"a{suffix}", ramp(1).repeat(20, axis=0), 10)
    shown = video.read(tmp_path / f"a{suffix}")
    assert (len(shown.frames), shown.fps) == (20, 10)


@pytest.mark.parametrize("suffix", [".mp4", ".webm"])
@pytest.mark.parametrize("axis", [0, 1])
def test_colour_stays_where_it_is(tmp_path, suffix, axis):
    """Colour at half the resolution, read half of its pixel aside, would be off by 4 levels."""
    wave = 128 + 80 * np.sin(2 * np.pi * np.arange(64) / 16)
    frames = np.full((2, 64, 64, 3), 120, np.uint8)
    frames[..., 2] = np.rint(wave if axis else wave[:, None])
    video.write(tmp_path / f"a{suffix}", frames, 10)
    error = np.abs(video.read(tmp_path / f"a{suffix}").frames.astype(int) - frames)
    assert error[:, 4:-4, 4:-4].mean() < 1


def test_odd_sizes_are_extended_never_scaled(tmp_path):
    frames = ramp(3, 47, 63)
    video.write(tmp_path / "a.mp4", frames, 10)
    back = video.read(tmp_path / "a.mp4").frames
    assert back.shape == (3, 48, 64, 3)
    assert np.abs(back[:, :47, :63].astype(int) - frames).mean() < 2.5
    for suffix in (".webm", ".gif", ".webp"):
        video.write(tmp_path / f"a{suffix}", frames, 10)
        assert video.read(tmp_path / f"a{suffix}").frames.shape == frames.shape


def test_variable_frame_rates_are_shown_at_their_times(tmp_path):
    times = [*range(0, 1000, 100), *range(1000, 4000, 500)]  # ten of 0.1 s, six of 0.5 s
    encode(tmp_path / "vfr.mp4", ramp(16), times=times, crf="5")
    shown = video.read(tmp_path / "vfr.mp4")
    expected = [*range(10), *np.repeat(np.arange(10, 15), 5), 15]
    assert shown.fps == 10
    assert numbers(shown.frames) == expected
    assert numbers(video.resample(shown.frames, 10, 2)) == [0, 5, *range(10, 15)]

    times = [1000 * (i / 30 + 0.004 * np.sin(7 * i)) for i in range(16)]
    encode(tmp_path / "phone.mp4", ramp(16), rate=30, times=times, crf="5")
    shown = video.read(tmp_path / "phone.mp4")
    assert shown.fps == 30
    assert numbers(shown.frames) == list(range(16))


def test_rotation_and_pixel_aspect_of_videos_are_applied(tmp_path):
    frames = ramp(4)
    frames[:, :24] = 0  # the upper half is black

    def rotated(_, stream):
        stream.set_display_rotation(90)

    encode(tmp_path / "r.mp4", frames, setup=rotated)
    turned = video.read(tmp_path / "r.mp4").frames
    assert turned.shape == (4, 64, 48, 3)
    assert turned[:, :, :20].mean() < 3 < turned[:, :, 28:, 1].mean()  # counter-clockwise

    def wide(_, stream):
        stream.codec_context.sample_aspect_ratio = Fraction(2)

    encode(tmp_path / "wide.mp4", frames, setup=wide)
    assert video.read(tmp_path / "wide.mp4").frames.shape == (4, 48, 128, 3)


def test_alpha_in_videos_is_laid_over_black(tmp_path):
    frames = np.full((2, 32, 32, 4), (255, 0, 0, 128), np.uint8)
    encode(tmp_path / "a.webm", frames, "libvpx-vp9", "yuva420p")
    assert abs(int(video.read(tmp_path / "a.webm").frames[0, 16, 16, 0]) - 127) < 4


@pytest.mark.parametrize("suffix", KINDS)
def test_a_broken_tail_is_a_note_that_counts_frames(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 60, (20, 64, 64, 3)).astype(np.uint8)
    path = tmp_path / f"a{suffix}"
    video.write(path, noise, 10)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.7)])
    shown = video.read(path)
    (note,) = shown.notes
    assert f"only {len(shown.frames)} frames" in note
    assert 5 < len(shown.frames) < 19
    assert shown.fps == 10


def test_all_that_is_whole_of_a_short_broken_clip_is_used(tmp_path):
    """Decoders that work on several frames at once would lose those beside a damaged one."""
    noise = np.random.default_rng(0).integers(0, 60, (6, 64, 64, 3)).astype(np.uint8)
    video.write(tmp_path / "a.mp4", noise, 10, quality=50)
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[:-40])
    assert len(video.read(tmp_path / "b.mp4").frames) >= 5


def test_what_is_no_media_is_told_in_one_sentence(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.txt").write_text("hello world\n" * 100)
    (tmp_path / "text.mp4").write_text("hello world\n" * 100)
    (tmp_path / "noise.gif").write_bytes(np.random.default_rng(0).bytes(5000))
    with av.open(str(tmp_path / "sound.m4a"), "w", "ipod") as out:
        stream = out.add_stream("aac", rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), "fltp", "mono")
        frame.rate = 48_000
        out.mux([*stream.encode(frame), *stream.encode()])
    video.write(tmp_path / "whole.png", ramp(1), None)
    (tmp_path / "half.png").write_bytes((tmp_path / "whole.png").read_bytes()[:100])
    video.write(tmp_path / "whole.mp4", ramp(9), 10)
    (tmp_path / "half.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:700])
    expected = {
        "": "directory",
        "missing.mp4": "does not exist",
        "empty.mp4": "zero bytes",
        "text.txt": "not a video",
        "text.mp4": "not a video",
        "noise.gif": "not a video",
        "sound.m4a": "only sound",
        "half.png": "damaged",
        "half.mp4": "damaged",
    }
    for name, words in expected.items():
        for read in (video.read, video.read_metadata) if "half" not in name else (video.read,):
            with pytest.raises(MediaError, match=words) as error:
                read(tmp_path / name)
            assert "\n" not in str(error.value)
            assert str(tmp_path / name) in str(error.value)


def test_another_programs_comment_is_not_taken_for_settings(tmp_path):
    for number, comment in enumerate(["words", '{"vjax": 1}', '{"seed": 1}', "[1]"]):

        def comments(out, _, comment=comment):
            out.metadata["comment"] = comment

        encode(tmp_path / f"{number}.mp4", ramp(1), setup=comments)
        assert video.read_metadata(tmp_path / f"{number}.mp4") is None
    Image.fromarray(ramp(1)[0]).save(tmp_path / "a.gif", comment=b"\xff{")
    assert video.read_metadata(tmp_path / "a.gif") is None


@pytest.mark.parametrize("name", ["a.xyz", ".mp4", "missing/a.mp4", "folder.mp4", "file.txt/a.mp4"])
def test_what_cannot_be_written_is_known_beforehand(tmp_path, name):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(MediaError):
        video.check_writable(tmp_path / name)
    video.check_writable(tmp_path / "fine.MP4")
    assert sorted(os.listdir(tmp_path)) == ["file.txt", "folder.mp4"]


@pytest.mark.parametrize("suffix", [*KINDS, ".png"])
@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_a_failed_write_leaves_the_older_file_alone(tmp_path, monkeypatch, suffix, failure):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"older")

    def fail(*_):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)  # the last thing before the rename
    expected = KeyboardInterrupt if failure is KeyboardInterrupt else MediaError
    with pytest.raises(expected):
        video.write(path, ramp(1), 10, overwrite=True)
    assert path.read_bytes() == b"older"
    assert os.listdir(tmp_path) == [path.name]


def test_settings_and_rates_that_a_file_cannot_hold(tmp_path):
    with pytest.raises(MediaError, match="50 frames a second"):
        video.write(tmp_path / "a.gif", ramp(2), 60)
    with pytest.raises(MediaError, match="frame rate"):
        video.write(tmp_path / "a.mp4", ramp(2), None)
    with pytest.raises(MediaError, match="frame rate"):
        video.write(tmp_path / "a.mp4", ramp(2), 0)
    with pytest.raises(MediaError, match="bytes"):
        video.write(tmp_path / "a.mp4", ramp(2), 10, metadata={"prompt": "x" * 100_000})
    long = {"prompt": "é" * 9_000}
    for suffix in [*KINDS, ".png"]:
        video.write(tmp_path / f"a{suffix}", ramp(1), 10, metadata=long)
        assert video.read_metadata(tmp_path / f"a{suffix}") == long


def test_resample_is_nearest_in_time_however_long():
    frames = np.arange(100_000).astype(np.uint32).view(np.uint8).reshape(-1, 1, 1, 4)[..., :3]

    def decode(x):
        return x.astype(int)[:, 0, 0] @ [1, 256, 65536]

    for from_fps, to_fps in [(24, 30), (30, 24), (30000 / 1001, 16), (60, 16), (16, 16.5)]:
        index = decode(video.resample(frames, from_fps, to_fps))
        assert abs(len(index) / to_fps - len(frames) / from_fps) <= 0.5 / to_fps + 1e-6
        ideal = np.arange(len(index)) / to_fps
        assert np.abs(index[:-1] / from_fps - ideal[:-1]).max() <= 0.5 / from_fps + 1e-6
    assert decode(video.resample(frames[:4], 15, 30)).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert decode(video.resample(frames[:8], 30, 15)).tolist() == [0, 2, 4, 6]
    assert decode(video.resample(frames[:1], 30, 1)).tolist() == [0]


def test_fit_covers_without_distortion():
    y, x = np.mgrid[:60, :100]
    disc = ((y - 29.5) ** 2 + (x - 49.5) ** 2 < 20**2)[..., None].repeat(3, -1)
    frames = (disc * 255).astype(np.uint8)[None]
    for width, height in [(50, 50), (30, 80), (128, 72), (200, 120)]:
        lit = video.fit(frames, width, height)[0, ..., 0] / 255
        assert lit.shape == (height, width)
        scale = max(width / 100, height / 60)
        if scale * 40 < min(width, height):
            assert abs(lit.sum() / (np.pi * (20 * scale) ** 2) - 1) < 0.03
        rows, columns = lit.mean(axis=1), lit.mean(axis=0)
        np.testing.assert_allclose(rows, rows[::-1], atol=0.05)
        np.testing.assert_allclose(columns, columns[::-1], atol=0.05)
    white = np.full((2, 60, 100, 3), 255, np.uint8)
    assert (video.fit(white, 33, 77) == 255).all()
    assert video.fit(white, 100, 60) is white


def test_reading_to_a_size_is_reading_then_fitting(tmp_path):
    video.write(tmp_path / "a.mp4", ramp(6), 10)
    small = video.read(tmp_path / "a.mp4", size=(20, 30))
    whole = video.read(tmp_path / "a.mp4")
    np.testing.assert_array_equal(small.frames, video.fit(whole.frames, 20, 30))


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".mkv", ".gif", ".webp", ".ts"])
def test_a_part_of_a_clip_is_read(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".ts":  # a clock that does not begin at nought
        encode(path, ramp(33), crf="5", g="8")
    else:
        video.write(path, ramp(33), 10)
    part = video.read(path, seconds=(1.2, 2.0))
    assert (part.fps, numbers(part.frames)) == (10, list(range(12, 20)))
    part = video.read(path, seconds=(3.0, np.inf))
    assert (part.fps, numbers(part.frames)) == (10, [30, 31, 32])
    part = video.read(path, frames=4, size=(32, 24))
    assert (part.fps, numbers(part.frames)) == (10, [0, 1, 2, 3])
    assert part.frames.shape == (4, 24, 32, 3)
    part = video.read(path, frames=1)
    assert (part.fps, numbers(part.frames)) == (10, [0])
    with pytest.raises(MediaError, match="no frames after"):
        video.read(path, seconds=(9.0, 10.0))


def test_the_size_may_depend_on_the_files(tmp_path):
    video.write(tmp_path / "a.png", ramp(1), None)
    shown = video.read(tmp_path / "a.png", size=lambda width, height: (width // 2, height // 2))
    assert shown.frames.shape == (1, 24, 32, 3)


def test_a_bare_stream_of_pictures_has_the_rate_it_claims(tmp_path):
    encode(tmp_path / "a.h264", ramp(9), rate=25, crf="5")
    shown = video.read(tmp_path / "a.h264")
    assert (shown.fps, numbers(shown.frames)) == (25, list(range(9)))


def test_a_large_source_is_scaled_while_it_is_decoded(tmp_path):
    y, x = np.mgrid[:1024, :1536]
    frames = np.stack([x // 8, y // 8, (x + y) // 16], axis=-1).astype(np.uint8)[None].repeat(2, 0)
    for name in ("a.mp4", "a.jpg"):
        if name == "a.mp4":
            video.write(tmp_path / name, frames, 10)
        else:
            Image.fromarray(frames[0]).save(tmp_path / name, quality=95)
        small = video.read(tmp_path / name, size=(64, 64)).frames.astype(int)
        whole = video.fit(video.read(tmp_path / name).frames, 64, 64)
        assert np.abs(small - whole).max() <= 3


@pytest.mark.parametrize("aside", [False, True])
def test_too_long_for_memory_or_the_disk_is_an_error_not_a_crash(aside, tmp_path, monkeypatch):
    video.write(tmp_path / "a.mp4", ramp(20), 10)
    monkeypatch.setattr(clips, "MAX_ASIDE" if aside else "MAX_BYTES", 10 * 48 * 64 * 3)
    with pytest.raises(MediaError, match="too long"):
        video.read(tmp_path / "a.mp4", aside=aside)
    assert len(video.read(tmp_path / "a.mp4", aside=not aside).frames) == 20
    assert len(video.read(tmp_path / "a.mp4", size=(32, 24), aside=aside).frames) == 20


def test_reading_takes_memory_for_its_result_alone(tmp_path):
    encode(tmp_path / "a.mp4", ramp(36, 720, 1280), preset="ultrafast")
    program = f"""
import gc
from vjax import video
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
video.read({str(tmp_path / "a.mp4")!r}, size=(64, 36), frames=9)
before = peak()
gc.disable()
video.read({str(tmp_path / "a.mp4")!r}, size=(64, 36))
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert float(done.stdout) < 20  # MB, of 50 for all frames


def test_a_contact_sheet_shows_first_and_last_frames():
    sheet = video.contact_sheet([ramp(9), ramp(1, 20, 30)], columns=3, labels=["nine", "one " * 99])
    assert sheet.shape == (16 + 50 + 16 + 22, 3 * 66, 3)
    row = sheet[16:64]
    assert numbers(np.stack([row[:, 66 * i : 66 * i + 64] for i in range(3)])) == [0, 4, 8]
    assert (sheet[:16].min(), sheet[:16].max()) == (0, 255)  # there is something written


def test_settings_are_plain_json_in_the_file(tmp_path):
    video.write(tmp_path / "a.png", ramp(1), None, metadata={"seed": 1})
    with Image.open(tmp_path / "a.png") as image:
        assert json.loads(image.info["Comment"]) == {"vjax": {"seed": 1}}
