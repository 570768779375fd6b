"""Sound stays with the frames that it belongs to, through every kind of file that can hold it."""

import av
import numpy as np
import pytest
from clips import ramp

from vjax import video
from vjax.video import Sound


def tone(seconds: float, rate: int = 48_000, channels: int = 2) -> Sound:
    """A tone that grows louder: how loud it is says when it was."""
    time = np.arange(round(seconds * rate)) / rate
    wave = 20_000 * (time / seconds) * np.sin(2 * np.pi * 440 * time)
    return Sound(np.rint(wave).astype(np.int16)[:, None].repeat(channels, axis=1), rate)


def loudness(sound: Sound, at: float) -> float:
    """The largest sample within 20 ms."""
    first = round(at * sound.rate)
    return float(np.abs(sound.samples[first : first + sound.rate // 50].astype(int)).max())


@pytest.mark.parametrize(("suffix", "tolerance"), [(".mp4", 600), (".webm", 600), (".mkv", 0)])
@pytest.mark.parametrize(("rate", "channels"), [(48_000, 2), (44_100, 1)])
def test_sound_comes_back_in_time(tmp_path, suffix, tolerance, rate, channels):
    sound = tone(2.0, rate, channels)
    video.write(tmp_path / f"a{suffix}", ramp(20), 10, sound=sound)
    back = video.read(tmp_path / f"a{suffix}").sound
    assert back.samples.shape[1] == channels
    assert abs(back.seconds - 2) < 0.01
    for at in (0.2, 0.9, 1.7):
        assert abs(loudness(back, at) - loudness(sound, at)) < tolerance + 400
    if not tolerance and rate == 48_000:
        np.testing.assert_array_equal(back.samples, sound.samples)
    part = video.read(tmp_path / f"a{suffix}", seconds=(1.0, 1.5))
    assert len(part.frames) == 5
    assert abs(part.sound.seconds - 0.5) < 0.01
    assert abs(loudness(part.sound, 0.2) - loudness(sound, 1.2)) < tolerance + 400
    assert video.read(tmp_path / f"a{suffix}", sound=False).sound is None


def test_sound_ends_with_the_frames(tmp_path):
    video.write(tmp_path / "a.mkv", ramp(10), 10, sound=tone(3.0))
    assert video.read(tmp_path / "a.mkv").sound.seconds == pytest.approx(1.0)
    with av.open(str(tmp_path / "a.mkv")) as file:
        ends = [float((p.pts + p.duration) * p.time_base) for p in file.demux(audio=0) if p.size]
    assert 0.95 < max(ends) < 1.1
    video.write(tmp_path / "b.mkv", ramp(10), 10, sound=tone(0.5))
    back = video.read(tmp_path / "b.mkv").sound
    assert loudness(back, 0.45) > 10_000
    assert loudness(back, 0.6) == 0


@pytest.mark.parametrize("rate", [100, 800, 4000, 192_000])
def test_sound_of_any_rate_that_is_written_is_read(tmp_path, rate):
    sound = tone(2.0, rate, 1)
    video.write(tmp_path / "a.mkv", ramp(20), 10, sound=sound)
    back = video.read(tmp_path / "a.mkv")
    assert not back.notes
    np.testing.assert_array_equal(back.sound.samples, sound.samples)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a"])
def test_what_has_no_sound_says_so(tmp_path, name):
    notes = video.write(tmp_path / name, ramp(1), 10, sound=tone(0.1))
    assert any("sound" in note for note in notes)
    assert video.write(tmp_path / "b.mp4", ramp(1), 10, sound=tone(0.1)) == []


def test_pieces_are_placed_on_a_timeline():
    sound = tone(4.0)
    moved = sound.arrange([(1.0, 2.0, 0.5), (3.0, 9.0, 3.0)], 5.0)
    assert moved.samples.shape == (5 * 48_000, 2)
    for at, expected in [(0.2, 0), (0.7, 1.2), (1.3, 1.8), (2.0, 0), (3.5, 3.5), (4.2, 0)]:
        assert abs(loudness(moved, at) - loudness(sound, expected) * (expected > 0)) < 10
    # What goes on is not faded: cut in two and joined, a sound is what it was.
    whole = sound.arrange([(0.0, 1.3, 0.0), (1.3, 4.0, 1.3)], 4.0)
    np.testing.assert_array_equal(whole.samples, sound.samples)
    # A cut is, where the wave is high: no click.
    high = 2 + 1 / 1760
    cut = sound.arrange([(high, high + 1, 0.5)], 2.0)
    assert abs(loudness(cut, 1.0) - loudness(sound, high + 0.5)) < 10
    assert np.abs(np.diff(cut.samples[:, 0].astype(int))).max() < 2_000
    # What begins before the timeline or the sound is cut.
    early = sound.arrange([(-1.0, 2.0, -0.5)], 1.0)
    assert loudness(early, 0.2) == 0
    assert abs(loudness(early, 0.7) - loudness(sound, 0.2)) < 10


def test_several_sounds_come_onto_one_timeline():
    low, high = tone(2.0, 16_000, 1), tone(2.0, 48_000, 2)
    found = video.arranged([(low, 0.5, 1.5, 0.0), (None, 0, 1, 1.0), (high, 1.0, 2.0, 2.0)], 3.0)
    assert (found.rate, found.samples.shape) == (48_000, (144_000, 2))
    for at, expected in ((0.3, loudness(low, 0.8)), (1.5, 0), (2.4, loudness(high, 1.4))):
        assert abs(loudness(found, at) - expected) < 200
    assert video.arranged([(None, 0, 1, 0)], 1.0) is None


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (48_000, 2)])
def test_another_rate_moves_nothing(rate, channels):
    beep = np.zeros((24_000, 1), np.int16)
    beep[12_000:12_240] = 20_000
    found = video.Sound(beep, 24_000).resampled(rate, channels)
    assert abs(found.seconds - 1) < 0.002
    loud = np.flatnonzero(np.abs(found.samples[:, 0].astype(int)) > 10_000) / rate
    np.testing.assert_allclose([loud[0], loud[-1]], [0.5, 0.51], atol=0.001)


def test_sound_of_many_channels_is_mixed_to_two_and_says_so(tmp_path):
    wave = tone(1.0).samples[:, 0].astype(np.float32) / 32768
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        pictures = out.add_stream("ffv1", rate=10)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "bgr0"
        sound = out.add_stream("aac", rate=48_000, layout="5.1")
        for frame in ramp(10):
            frame = av.VideoFrame.from_ndarray(frame, "rgb24").reformat(format="bgr0")
            out.mux(pictures.encode(frame))
        frame = av.AudioFrame.from_ndarray(np.stack([wave] * 6), "fltp", "5.1")
        frame.rate = 48_000
        out.mux([*pictures.encode(), *sound.encode(frame), *sound.encode()])
    clip = video.read(tmp_path / "a.mkv")
    assert clip.sound.samples.shape[1] == 2
    assert loudness(clip.sound, 0.8) > 5_000
    assert ["6 channels" in note for note in clip.notes] == [True]
