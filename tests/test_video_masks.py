"""Masks: one region in every form of file is one mask, or it is refused by name."""

import numpy as np
import pytest
from PIL import Image

from vjax import video
from vjax.video import MediaError

REGION = np.zeros((24, 32), bool)
REGION[5:17, 9:30] = True
GRAY = REGION.astype(np.uint8) * 255
FULL = np.full_like(GRAY, 255)


def palette(transparent: int) -> Image.Image:
    picture = Image.fromarray(REGION.astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, 255, 255, 255])
    picture.info["transparency"] = transparent
    return picture


FORMS = {
    "L": Image.fromarray(GRAY),
    "RGB": Image.fromarray(GRAY).convert("RGB"),
    "1": Image.fromarray(REGION),
    "P, black transparent": palette(0),
    "P, white transparent": palette(1),
    "LA": Image.fromarray(np.stack([GRAY, FULL], -1), "LA"),
    "LA, white all over": Image.fromarray(np.stack([FULL, GRAY], -1), "LA"),
    "RGBA": Image.fromarray(GRAY).convert("RGBA"),
    "RGBA, all transparent": Image.fromarray(np.stack([GRAY, GRAY, GRAY, 0 * GRAY], -1)),
    "RGBA, white transparent": Image.fromarray(np.stack([GRAY, GRAY, GRAY, 255 - GRAY], -1)),
    "RGBA, alpha alone": Image.fromarray(np.stack([0 * GRAY, 0 * GRAY, 0 * GRAY, GRAY], -1)),
    "16 bits": Image.fromarray(REGION.astype(np.uint16) * 65535),
    "half gray": Image.fromarray(np.where(REGION, 128, 127).astype(np.uint8)),
    "16 bits, half gray": Image.fromarray(np.where(REGION, 32768, 32639).astype(np.uint16)),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("form", FORMS)
def test_a_region_is_one_mask_in_every_form(form, tmp_path):
    FORMS[form].save(tmp_path / "mask.png")
    found = video.read_mask(tmp_path / "mask.png")
    np.testing.assert_array_equal(found.white, REGION[None])
    told = any(word in form for word in ("transparent", "alpha alone", "half", "all over"))
    assert bool(found.notes) == told


def test_frames_of_a_mask_are_read_from_videos_animations_and_folders(tmp_path):
    masks = np.stack([np.roll(REGION, n, axis=1) for n in range(5)])
    frames = np.repeat(masks[..., None].astype(np.uint8) * 255, 3, axis=-1)
    for name in ("m.mkv", "m.gif", "m.webp", "m"):
        video.write(tmp_path / name, frames, 8)
        found = video.read_mask(tmp_path / name)
        np.testing.assert_array_equal(found.white, masks)
        assert found.fps == pytest.approx(8, abs=0.01)
    video.write(tmp_path / "m.mp4", frames, 8)  # with loss
    assert (video.read_mask(tmp_path / "m.mp4").white == masks).mean() > 0.99


def test_what_is_no_mask_is_said(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, 32).astype(np.uint8), (24, 32))
    Image.fromarray(np.stack([ramp, ramp, ramp, 255 - GRAY], -1)).save(tmp_path / "hole.png")
    with pytest.raises(MediaError, match=r"hole.png is a picture with transparent parts"):
        video.read_mask(tmp_path / "hole.png")
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert "white from half on" in video.read_mask(tmp_path / "ramp.png").notes[0]
    Image.fromarray(np.stack([GRAY, 0 * GRAY, 0 * GRAY], -1)).save(tmp_path / "red.png")
    assert not np.any(video.read_mask(tmp_path / "red.png").white)  # it is darker than half gray
