"""Colours come out as they are meant, whatever a video or picture says or leaves out."""

import struct

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace
from clips import encode
from PIL import Image, ImageCms

from vjax import video
from vjax.video import colour

RED = (230, 40, 40)


def plain(height: int, width: int, color=RED) -> np.ndarray:
    return np.full((2, height, width, 3), color, np.uint8)


def coded(path, pixels, space, full=False, tagged=False, transfer=2, primaries=2, depth=8):
    """A lossless video of RGB frames of 8 or 16 bits in a colour space."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=10)
        stream.height, stream.width = pixels.shape[1:3]
        stream.pix_fmt = "yuv444p" if depth == 8 else "yuv444p10le"
        context = stream.codec_context
        context.color_range = ColorRange.JPEG if full else ColorRange.MPEG
        context.color_trc, context.color_primaries = transfer, primaries
        if tagged:
            context.colorspace = {Colorspace.BT2020: 9, Colorspace.ITU709: 1}.get(space, 6)
        for i, each in enumerate(pixels):
            frame = av.VideoFrame.from_ndarray(each, "rgb24" if depth == 8 else "rgb48le").reformat(
                format=stream.pix_fmt, dst_colorspace=space, dst_color_range=context.color_range
            )
            frame.colorspace = context.colorspace
            frame.color_trc, frame.color_primaries = transfer, primaries
            frame.pts = i
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.mark.parametrize(
    ("height", "space", "tagged"),
    [
        (576, Colorspace.ITU601, False),
        (720, Colorspace.ITU709, False),
        (720, Colorspace.ITU601, True),
        (576, Colorspace.ITU709, True),
    ],
)
@pytest.mark.parametrize("full", [False, True])
def test_the_matrix_is_what_the_tag_says_or_the_size(tmp_path, height, space, tagged, full):
    coded(tmp_path / "a.mkv", plain(height, 64), space, full, tagged)
    shown = video.read(tmp_path / "a.mkv", frames=1).frames[0, 0, 0]
    assert np.abs(shown.astype(int) - RED).max() <= 2, shown


def pq(nits) -> np.ndarray:
    """The signal of BT.2100's PQ."""
    power = (np.asarray(nits, float) / 10000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375


def deep(signals, width=16) -> np.ndarray:
    """A frame of 16 bits with a column per colour or grey."""
    signals = np.atleast_2d(np.array(signals, float).T).T * np.ones(3)
    row = np.rint(signals * 65535).astype(np.uint16).repeat(width, axis=0)
    return np.ascontiguousarray(np.broadcast_to(row, (1, 16, *row.shape)))


def columns(path) -> tuple[np.ndarray, video.Clip]:
    shown = video.read(path)
    return shown.frames[0, 8, 8::16].astype(int), shown


def test_pq_keeps_what_is_dark_and_bends_what_is_bright(tmp_path):
    nits = [0, 1, 5, 20, 60, 203, 400, 1000, 4000]
    coded(tmp_path / "a.mkv", deep(pq(nits)), Colorspace.BT2020, False, True, 16, 9, 10)
    shown, clip = columns(tmp_path / "a.mkv")
    assert np.abs(shown - shown[:, :1]).max() <= 1  # grey stays grey
    light = (shown[:, 0] / 255) ** 2.4 * 203
    np.testing.assert_allclose(light[1:5], nits[1:5], rtol=0.05, atol=0.4)
    assert (np.diff(shown[:, 0])[:-1] > 4).all()  # nothing below the peak is clipped
    assert shown[-2:, 0].tolist() == [255, 255]
    assert ["PQ BT.2020" in note for note in clip.notes] == [True]


def test_hlg_is_as_bright_as_the_same_light_in_pq(tmp_path):
    coded(tmp_path / "hlg.mkv", deep([0.75, 1.0]), Colorspace.BT2020, False, True, 18, 9, 10)
    coded(tmp_path / "pq.mkv", deep(pq([203, 1000])), Colorspace.BT2020, False, True, 16, 9, 10)
    hlg, clip = columns(tmp_path / "hlg.mkv")
    assert np.abs(hlg - columns(tmp_path / "pq.mkv")[0]).max() <= 2
    assert ["HLG BT.2020" in note for note in clip.notes] == [True]


def test_a_wide_gamut_is_shown_in_the_narrow_one(tmp_path):
    # BT.709's red, green and blue at 40 nits, told in BT.2020's primaries.
    light = np.linalg.inv(np.array(colour._TO_709[9])).T * 40
    coded(tmp_path / "a.mkv", deep(pq(light)), Colorspace.BT2020, False, True, 16, 9, 10)
    shown = columns(tmp_path / "a.mkv")[0]
    level = 255 * (40 / 203) ** (1 / 2.4)
    np.testing.assert_allclose(shown, np.eye(3) * level, atol=6)


def test_half_frames_are_made_whole(tmp_path):
    frames = np.zeros((6, 64, 96, 3), np.uint8)
    for i in range(6):
        for field in (0, 1):  # a bar that moves on between the two fields of a frame
            x = 8 + 12 * i + 6 * field
            frames[i, field::2, x : x + 12] = 255
    encode(tmp_path / "a.mp4", frames, **{"x264-params": "interlaced=1:tff=1", "crf": "1"})
    shown = video.read(tmp_path / "a.mp4")
    assert shown.frames.shape == frames.shape
    assert shown.fps == 10
    assert ["interlaced" in note for note in shown.notes] == [True]

    def combs(clip):
        return np.abs(np.diff(clip.astype(float), axis=1)).mean()

    assert combs(shown.frames[1:-1]) < 0.3 * combs(frames[1:-1])


def display_p3() -> bytes:
    """An ICC profile of Display P3's primaries with a gamma of 2.2."""

    def xyz(*values):
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(v * 65536)) for v in values)

    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
    name = b"desc\0\0\0\0" + struct.pack(">I", 11) + b"Display P3\0" + bytes(79)
    tags = {
        b"desc": name,
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.51512, 0.24120, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.15710, 0.06657, 0.78407),
        **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve),
    }
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", offset + len(body), len(data))
        body += data
    head = struct.pack(
        ">I4sI4s4s4s", offset + len(body), b"", 0x02400000, b"mntr", b"RGB ", b"XYZ "
    )
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


def test_colour_profiles_of_pictures_are_applied(tmp_path):
    profile = display_p3()
    Image.fromarray(plain(8, 8, (255, 0, 0))[0]).save(tmp_path / "p3.png", icc_profile=profile)
    Image.fromarray(plain(8, 8, (200, 120, 80))[0]).save(tmp_path / "less.png", icc_profile=profile)
    wide = video.read(tmp_path / "p3.png")
    assert wide.frames[0, 0, 0, 0] == 255
    assert ["Display P3 to sRGB" in note for note in wide.notes] == [True]
    shown = video.read(tmp_path / "less.png").frames[0, 0, 0].astype(int)
    light = np.array(colour._TO_709[12]) @ (np.array((200, 120, 80)) / 255) ** 2.2
    assert np.abs(shown - 255 * light ** (1 / 2.2)).max() <= 3, shown
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, data in (("srgb.png", srgb), ("broken.png", b"no profile")):
        Image.fromarray(plain(8, 8)[0]).save(tmp_path / name, icc_profile=data)
        untouched = video.read(tmp_path / name)
        assert untouched.frames[0, 0, 0].tolist() == list(RED)
        assert untouched.notes == ()
