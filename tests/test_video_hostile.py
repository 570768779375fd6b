"""Files that are odd or meant to harm: a sentence, no other file opened, no memory taken."""

import json
import resource
import struct
import zlib

import av
import numpy as np
import pytest
from clips import encode, numbers, ramp
from PIL import Image

from vjax import video
from vjax.video import MediaError, streams

PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.ts\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile other.ts\n",
    "smil": "<smil><body><video src='other.ts'/></body></smil>",
    "dash": '<?xml version="1.0"?><MPD><BaseURL>other.ts</BaseURL></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
    "text": "hello world\n" * 100,
}


@pytest.mark.parametrize("suffix", [".m3u8", ".mp4", ".png"])
@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_file_that_names_others_is_refused(tmp_path, suffix, kind):
    encode(tmp_path / "other.ts", ramp(3), "mpeg2video")
    (tmp_path / f"a{suffix}").write_text(PLAYLISTS[kind])
    for read in (video.read, video.read_metadata):
        with pytest.raises(MediaError, match="is not a video"):
            read(tmp_path / f"a{suffix}")


def test_no_demuxer_can_open_a_second_file(tmp_path, monkeypatch):
    """Were playlists let through, what they name would still not be opened."""
    encode(tmp_path / "other.ts", ramp(3), "mpeg2video")
    (tmp_path / "a.txt").write_text(PLAYLISTS["ffconcat"])
    monkeypatch.setattr(streams, "_DEMUXERS", "concat,mpegts")
    monkeypatch.setattr(streams, "_PLAYLISTS", (b"nothing",))
    with pytest.raises(MediaError):
        video.read(tmp_path / "a.txt")


def gif(width: int, height: int) -> bytes:
    """A gif of 4x4 whose only frame claims a size."""
    screen = b"GIF89a" + struct.pack("<HH", 4, 4) + b"\x80\0\0" + bytes(6)
    return screen + b"," + struct.pack("<4H", 0, 0, width, height) + b"\0\x02\x02\x4c\x01\0;"


def png(width: int, height: int) -> bytes:
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.gif", gif(65535, 65535)),
        ("a.png", png(60000, 60000)),
        ("a.y4m", b"YUV4MPEG2 W9000 H9000 F25:1 Ip A1:1 C420\nFRAME\n" + bytes(1000)),
        ("b.y4m", b"YUV4MPEG2 W64 H64 F25:1 Ip A1000000:1 C420\nFRAME\n" + bytes(64 * 96)),
    ],
)
def test_a_size_is_checked_before_memory_is_taken(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(MediaError, match="too many pixels"):
        video.read(tmp_path / name)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KB


def test_a_frame_that_lasts_for_days_is_too_long(tmp_path):
    encode(tmp_path / "a.mkv", ramp(3), times=[0, 40, 10**9])
    with pytest.raises(MediaError, match="too long"):
        video.read(tmp_path / "a.mkv")


def test_a_clock_that_runs_wild_is_slowed_down(tmp_path):
    encode(tmp_path / "a.mp4", ramp(4), times=[0, 1, 2, 9000], clock=90_000)
    shown = video.read(tmp_path / "a.mp4")
    assert shown.fps <= 1000
    assert len(shown.frames) <= 200


@pytest.mark.parametrize("suffix", [".png", ".webp", ".jpg"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense", b"\0" * 40]
)
def test_a_broken_exif_block_says_nothing(tmp_path, suffix, exif):
    Image.fromarray(ramp(1)[0]).save(tmp_path / f"a{suffix}", exif=exif)
    assert video.read(tmp_path / f"a{suffix}").frames.shape == (1, 48, 64, 3)
    assert video.read_metadata(tmp_path / f"a{suffix}") is None


@pytest.mark.parametrize(
    "comment",
    [
        "[" * 50_000,
        '{"vjax": ' * 9_000,
        '{"vjax": {"seed": ' + "9" * 5_000 + "}}",
        '{"vjax": {"guidance": NaN}}',
        '{"vjax": [1]}',
        json.dumps({"vjax": {"prompt": "x" * 100_000}}),
    ],
)
def test_settings_that_are_no_settings_are_none(tmp_path, comment):
    def tag(out, _):
        out.metadata["comment"] = comment

    encode(tmp_path / "a.mkv", ramp(2), setup=tag)
    assert video.read_metadata(tmp_path / "a.mkv") is None


def test_titles_and_names_are_only_text(tmp_path):
    def tag(out, _):
        out.metadata["title"] = "[error] Stream #0:0: Video: vp9, yuva420p, 1 fps, caf??"
        out.metadata["comment"] = json.dumps({"vjax": {"seed": 1}})

    encode(tmp_path / "a.mp4", ramp(5), setup=tag)
    folder = tmp_path / "[error] Tile Grid: Audio: Stream #0 Duration: 00:59:00.00"
    folder.mkdir()
    path = folder / "-i http:é\udcff.mp4"  # a name that is not UTF-8
    path.write_bytes((tmp_path / "a.mp4").read_bytes().replace(b"caf??", b"caf\xe9\xff"))
    shown = video.read(path)
    assert (numbers(shown.frames), shown.fps, shown.notes) == ([0, 1, 2, 3, 4], 10, ())
    assert video.read_metadata(path) == {"seed": 1}
    video.write(path.with_suffix(".webm"), shown.frames, 10)
    assert len(video.read(path.with_suffix(".webm")).frames) == 5


def test_a_stream_that_changes_its_size_is_cut_not_squeezed(tmp_path):
    tall = ramp(4, 96, 48)
    tall[:, :24] = 0  # cut away where it fills 64x48
    encode(tmp_path / "a.ts", ramp(4), "mpeg2video", b="8M")
    encode(tmp_path / "b.ts", tall, "mpeg2video", b="8M")
    joined = (tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes()
    (tmp_path / "c.ts").write_bytes(joined)
    shown = video.read(tmp_path / "c.ts")
    assert shown.frames.shape[1:] == (48, 64, 3)
    assert ["64x48 to 48x96" in note for note in shown.notes] == [True]
    assert shown.frames[-1, 0].mean() > 40  # squeezed, its first rows would be black


@pytest.mark.parametrize("suffix", [".avif", ".png", ".webp", ".gif", ".jpg", ".tiff", ".bmp"])
def test_pictures_with_wrong_bytes_are_shown_or_told(tmp_path, suffix):
    rng = np.random.default_rng(0)
    path = tmp_path / f"a{suffix}"
    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    data = np.frombuffer(path.read_bytes(), np.uint8)
    refused = 0
    for _ in range(40):
        broken = data.copy()
        broken[rng.integers(0, len(data), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(broken.tobytes())
        try:
            video.read(path)
        except MediaError:
            refused += 1
    assert refused or suffix != ".avif"


def test_what_is_no_name_is_told(tmp_path):
    for name in ("a\0b.mp4", "x" * 300 + ".mp4"):
        with pytest.raises(MediaError):
            video.read(tmp_path / name)
        with pytest.raises(MediaError):
            video.check_writable(tmp_path / name)


def test_an_album_cover_is_not_the_video(tmp_path):
    with av.open(str(tmp_path / "a.m4a"), "w", "mp4") as out:
        sound = out.add_stream("aac", rate=48_000, layout="mono")
        cover = out.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), "fltp", "mono")
        frame.rate = 48_000
        out.mux(cover.encode(av.VideoFrame.from_ndarray(ramp(1)[0], "rgb24")))
        out.mux([*cover.encode(), *sound.encode(frame), *sound.encode()])
    with pytest.raises(MediaError, match="only sound"):
        video.read(tmp_path / "a.m4a")
