"""Files are new, whole or not there; what a kind of file cannot hold is known beforehand."""

import os
import subprocess
import sys

import numpy as np
import pytest
from clips import numbers, ramp

from vjax import video
from vjax.video import MediaError, Writer

KINDS = [".mp4", ".webm", ".mkv", ".gif", ".webp", ""]


@pytest.mark.parametrize("suffix", KINDS)
def test_frames_are_written_as_they_are_made(tmp_path, suffix):
    frames = ramp(12)
    with Writer(tmp_path / f"a{suffix}", 10, (64, 48), metadata={"seed": 1}) as writer:
        for part in (frames[:5], frames[5:5], frames[5:6], frames[6:][:, ::-1][:, ::-1]):
            writer.add(part)
            assert not (tmp_path / f"a{suffix}").exists()
    at_once = tmp_path / f"b{suffix}"
    video.write(at_once, frames, 10, metadata={"seed": 1})
    one, other = (video.read(tmp_path / f"{name}{suffix}") for name in "ab")
    assert (one.fps, numbers(one.frames)) == (10, list(range(12)))
    np.testing.assert_array_equal(one.frames, other.frames)
    assert video.read_metadata(tmp_path / f"a{suffix}") == {"seed": 1}
    assert sorted(os.listdir(tmp_path)) == [f"a{suffix}", f"b{suffix}"]


@pytest.mark.parametrize("suffix", KINDS)
def test_the_same_frames_and_sound_are_the_same_bytes(tmp_path, suffix):
    sound = video.Sound(np.linspace(-9000, 9000, 96_000).astype(np.int16).reshape(-1, 2), 48_000)
    for name in "ab":
        video.write(tmp_path / f"{name}{suffix}", ramp(10), 10, metadata={"seed": 1}, sound=sound)
    one, other = (tmp_path / f"{name}{suffix}" for name in "ab")
    files = [
        [p.read_bytes() for p in sorted(x.iterdir())] if x.is_dir() else x.read_bytes()
        for x in (one, other)
    ]
    assert files[0] == files[1]


@pytest.mark.parametrize("suffix", [*KINDS, ".png"])
def test_what_ends_in_an_error_leaves_nothing(tmp_path, suffix):
    def fill(*parts, failure=None):
        with Writer(tmp_path / f"a{suffix}", 10) as writer:
            for part in parts:
                writer.add(part)
            if failure:
                raise failure

    for failure in (KeyboardInterrupt, ValueError):
        with pytest.raises(failure):
            fill(ramp(1), failure=failure)
    with pytest.raises(MediaError, match="no frames"):
        fill()
    with pytest.raises(MediaError, match="64x48"):
        fill(ramp(1), ramp(1, 32, 32))
    with pytest.raises(MediaError, match="uint8"):
        fill(ramp(1).astype(np.float32))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [*KINDS, ".png"])
def test_what_exists_is_kept_unless_asked(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    video.write(path, ramp(1), 10)
    before = video.read(path).frames
    with pytest.raises(MediaError, match="exists"):
        video.write(path, ramp(1)[:, ::-1], 10)
    with pytest.raises(MediaError, match="exists"):
        video.check_writable(path)
    np.testing.assert_array_equal(video.read(path).frames, before)
    video.check_writable(path, overwrite=True)
    video.write(path, ramp(1)[:, ::-1], 10, overwrite=True)
    assert not np.array_equal(video.read(path).frames, before)
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("suffix", [*KINDS, ".png"])
def test_what_comes_to_exist_meanwhile_is_kept_and_so_is_the_work(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    other = path if suffix else path / "kept.txt"

    def fill():
        with Writer(path, 10) as writer:
            writer.add(ramp(1))
            other.parent.mkdir(exist_ok=True)
            other.write_bytes(b"another's")
        return writer.path

    assert fill() == path.with_name(f"a-2{suffix}")
    assert other.read_bytes() == b"another's"
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, f"a-2{suffix}"])
    assert video.read(path.with_name(f"a-2{suffix}")).frames.shape == ramp(1).shape


def test_a_free_path_has_a_number_where_there_is_something(tmp_path):
    path = tmp_path / "a.mp4"
    assert video.free_path(path) == path
    path.symlink_to("nowhere")
    (tmp_path / "a-2.mp4").mkdir()
    assert video.free_path(path, {tmp_path / "a-3.mp4"}) == tmp_path / "a-4.mp4"


def test_an_input_is_never_replaced(tmp_path):
    video.write(tmp_path / "a.mp4", ramp(2), 10)
    os.link(tmp_path / "a.mp4", tmp_path / "same.mp4")
    (tmp_path / "link.mp4").symlink_to("a.mp4")
    for name in ("a.mp4", "./a.mp4", "same.mp4", "link.mp4"):
        with pytest.raises(MediaError, match="is an input"):
            video.check_writable(
                str(tmp_path / name), overwrite=True, inputs=["missing", tmp_path / "a.mp4"]
            )
    video.write(tmp_path / "folder", ramp(2), 10)
    with pytest.raises(MediaError, match="holds one"):
        video.check_writable(
            tmp_path / "folder", overwrite=True, inputs=[tmp_path / "folder" / "000001.png"]
        )


def test_a_folder_that_holds_other_things_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    video.write(tmp_path / "a", ramp(2), 10)  # an empty one is filled
    (tmp_path / "a" / "notes.txt").write_text("mine")
    with pytest.raises(MediaError, match=r"notes\.txt"):
        video.check_writable(tmp_path / "a", overwrite=True)
    (tmp_path / "a" / "notes.txt").unlink()
    video.write(tmp_path / "a", ramp(1), 10, overwrite=True)
    assert os.listdir(tmp_path / "a") == ["000000.png"]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.gif", {"fps": 60}, "50 frames a second"),
        ("a.webp", {"fps": 120}, "90 frames a second"),
        ("a.mp4", {"fps": float("inf")}, "frame rate"),
        ("a.png", {"frames": 2}, "one frame"),
        ("a.mp4", {"frames": 0}, "no frames"),
        ("a.webp", {"size": (20_000, 10)}, "16383"),
        ("a.mp4", {"quality": 101}, "1 to 100"),
    ],
)
def test_what_a_kind_of_file_cannot_hold_is_refused(tmp_path, name, content, words):
    with pytest.raises(MediaError, match=words):
        video.check_writable(tmp_path / name, **content)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.mp4", {"size": (63, 48)}, "64x48"),
        ("a.gif", {"fps": 24000 / 1001}, "hundredths"),
        ("a.webp", {"fps": 24000 / 1001}, "thousandths"),
        ("a.gif", {"quality": 50}, "changes nothing"),
        ("a.mkv", {"quality": 50}, "every pixel"),
        ("a", {"sound": True}, "no sound"),
        ("a.mp4", {"size": (64, 48), "fps": 23.976, "quality": 50, "sound": True}, None),
        ("a.webm", {"size": (63, 47), "fps": 23.976}, None),
        ("a.gif", {"fps": 24, "size": (63, 47)}, None),
    ],
)
def test_what_is_not_held_as_given_is_noted(tmp_path, name, content, words):
    notes = video.check_writable(tmp_path / name, **content)
    assert [words in note for note in notes] == [True] if words else notes == []


def test_which_files_are_exact(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (3, 31, 33, 3), np.uint8)
    for name in ("a.mp4", "a.webm", "a.mkv", "a.gif", "a.webp", "a"):
        video.write(tmp_path / name, noise, 10)
        back = video.read(tmp_path / name).frames
        assert video.is_exact(name) == np.array_equal(back, noise), name
    assert video.is_exact("a.webp") > video.is_exact("a.webp", quality=100)


@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".webp"])
def test_quality_costs_bytes(tmp_path, suffix):
    y, x = np.mgrid[:64, :64]
    frames = np.stack([np.sin((x + y + 3 * t) ** 2 / 99) for t in range(5)])[..., None]
    frames = (127 + 120 * frames).astype(np.uint8).repeat(3, axis=-1)
    sizes = []
    for quality in (5, 50, 100):
        video.write(tmp_path / f"{quality}{suffix}", frames, 10, quality=quality)
        sizes.append((tmp_path / f"{quality}{suffix}").stat().st_size)
    assert sizes == sorted(set(sizes))


def test_pictures_in_a_folder_are_a_clip_in_the_order_of_their_numbers(tmp_path):
    from PIL import Image

    frames = ramp(12)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"shot-{number + 7}.png")
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / ".hidden-3.png").write_text("no picture")
    shown = video.read(tmp_path)
    np.testing.assert_array_equal(shown.frames, frames)
    assert shown.fps is None
    assert numbers(video.read(tmp_path, frames=3, size=(32, 24)).frames) == [0, 1, 2]
    mask = np.asarray(video.read_mask(tmp_path, size=(32, 24)).white)
    assert mask.shape == (12, 24, 32)
    assert mask.any()
    assert not mask.all()
    Image.fromarray(frames[0]).save(tmp_path / "other-007.jpg")
    with pytest.raises(MediaError, match="two pictures of one number"):
        video.read(tmp_path)


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_long_clip_is_written_in_flat_memory(tmp_path, suffix):
    program = f"""
import numpy as np
from vjax.video import Writer
block = np.zeros((8, 320, 320, 3), np.uint8)
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024
with Writer({str(tmp_path / f"a{suffix}")!r}, 16) as writer:
    for count in range(24):
        writer.add(block + np.uint8(count))
        if count == 7:
            before = peak()
print(peak() - before)
"""
    grown = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout
    assert float(grown) < 20  # MB, of 39 for all frames that followed


def test_nothing_is_imported_before_it_is_needed():
    program = (
        "import sys, vjax.video; print([m for m in ('av', 'PIL', 'imageio') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert done.stdout.strip() == "[]"
