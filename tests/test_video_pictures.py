"""Pictures and animations of every kind come out upright, in time and in their colours."""

import numpy as np
import pytest
from clips import numbers, ramp
from PIL import Image

from vjax import video
from vjax.video import MediaError


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_durations_of_animated_pictures_are_honoured(tmp_path, suffix):
    images = [Image.fromarray(frame) for frame in ramp(5)]
    durations = [100, 300, 100, 200, 400]
    path = tmp_path / f"a{suffix}"
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations)
    shown = video.read(path)
    assert shown.fps == 10
    assert numbers(shown.frames) == [0, 1, 1, 1, 2, 3, 3, 4, 4, 4, 4]


def test_a_gif_frame_of_no_duration_lasts_a_tenth_of_a_second(tmp_path):
    images = [Image.fromarray(frame) for frame in ramp(4)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:], duration=0)
    assert video.read(tmp_path / "a.gif").fps == 10


def test_pictures_of_every_kind(tmp_path):
    def first(name):
        return video.read(tmp_path / name).frames[0]

    Image.fromarray(np.full((4, 6), 77, np.uint8)).save(tmp_path / "grey.png")
    assert (first("grey.png") == 77).all()
    deep = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    assert (first("deep.png")[..., 0] == deep // 257).all()
    Image.fromarray(np.full((4, 4, 4), (200, 100, 50, 128), np.uint8)).save(tmp_path / "alpha.png")
    assert first("alpha.png")[0, 0].tolist() == [100, 50, 25]
    Image.fromarray(ramp(1)[0]).convert("P").save(tmp_path / "palette.png")
    assert first("palette.png").shape == (48, 64, 3)
    Image.fromarray(ramp(1)[0]).convert("CMYK").save(tmp_path / "press.jpg")
    assert first("press.jpg").shape == (48, 64, 3)
    Image.fromarray(np.full((4, 4, 2), (200, 128), np.uint8), "LA").save(tmp_path / "la.png")
    assert first("la.png")[0, 0].tolist() == [100, 100, 100]
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(first("bits.png")[..., 0], 255 * np.eye(8, dtype=np.uint8))
    Image.fromarray(ramp(1)[0]).convert("P").save(tmp_path / "hole.png", transparency=0)
    assert first("hole.png").shape == (48, 64, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path, suffix, orientation):
    upright = np.zeros((48, 64, 3), np.uint8)
    upright[:16, :16] = 250  # the corner that tells all eight apart, in a shape that is no square
    flipped = {2: (1,), 3: (0, 1), 4: (0,), 6: (0,), 7: (0, 1), 8: (1,)}
    stored = upright.swapaxes(0, 1) if orientation >= 5 else upright
    stored = np.flip(stored, flipped.get(orientation, ()))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)
    shown = video.read(path).frames[0].astype(int)
    assert shown.shape == upright.shape
    assert np.abs(shown - upright).mean() < 3


def test_frames_of_a_gif_are_disposed_of_as_they_say(tmp_path):
    squares = np.zeros((3, 32, 32, 4), np.uint8)
    for i, x in enumerate((2, 12, 22)):
        squares[i, 8:16, x : x + 8] = (250, 250, 250, 255)
    images = [Image.fromarray(frame) for frame in squares]
    for disposal, lit in ((2, [64, 64, 64]), (1, [64, 128, 192])):
        path = tmp_path / f"{disposal}.gif"
        images[0].save(
            path, save_all=True, append_images=images[1:], duration=100, disposal=disposal
        )
        shown = video.read(path)
        assert (shown.frames[..., 0] > 200).sum(axis=(1, 2)).tolist() == lit


def test_a_png_is_exact_and_one_frame(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (1, 13, 17, 3), np.uint8)
    video.write(tmp_path / "a.png", noise, None, metadata={"prompt": "日本", "of": [None, True]})
    np.testing.assert_array_equal(video.read(tmp_path / "a.png").frames, noise)
    assert video.read(tmp_path / "a.png").fps is None
    assert video.read_metadata(tmp_path / "a.png") == {"prompt": "日本", "of": [None, True]}
    with pytest.raises(MediaError, match="one frame"):
        video.write(tmp_path / "b.png", ramp(2), 16)


def test_webp_is_exact_whatever_changes_between_frames(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (1, 21, 27, 3), np.uint8).repeat(6, axis=0)
    frames[2, 11, 13] ^= 255  # one pixel at odd coordinates
    frames[4:, 5:9, 3:27] ^= 15
    video.write(tmp_path / "a.webp", frames, 12)
    np.testing.assert_array_equal(video.read(tmp_path / "a.webp").frames, frames)
