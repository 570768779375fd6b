"""Made frames beside given ones: what the VAE loses goes step by step, nothing else changes."""

import numpy as np
import pytest
from scipy import ndimage

from vjax import seams
from vjax.canvas import Canvas, Given
from vjax.reel import Reel
from vjax.timeline import Piece

SIDE, FRAMES = 4, 24
LOST = 9  # grey levels: what goes over 8 frames in steps of one


def canvas(*known: int, level: int = 100) -> Canvas:
    frames = np.full((1, SIDE, SIDE, 3), level, np.uint8)
    strength = np.ones((1, 1, 1, 1), np.float32)
    parts = (Reel.of(frames), Reel.of(strength))
    given = tuple(Given(Piece(frames), at, *parts) for at in known)
    return Canvas(FRAMES, SIDE, SIDE, 16.0, given)


def decoded(level: int = 100 - LOST) -> np.ndarray:
    return np.full((1, FRAMES, SIDE, SIDE, 3), level, np.uint8)


def joined(made, *canvases, first=0, cuts=(), pieces=1) -> np.ndarray:
    chunks = np.array_split(made[:, first:], pieces, axis=1)
    found = list(seams.joined(chunks, canvases, first, cuts))
    return np.concatenate(found, axis=1)


def grays(video) -> list[int]:
    assert (video == video[:, :, :1, :1, :1]).all()
    return video[0, :, 0, 0, 0].tolist()


def test_what_is_lost_goes_in_steps_after_what_is_given_and_before_it():
    found = grays(joined(decoded(), canvas(0, 23)))
    after = [99, 98, 97, 96, 95, 94, 93, 92]
    assert found[1:23] == [*after, *[91] * 6, *after[::-1]]


def test_between_two_that_are_near_it_goes_from_one_to_the_other():
    made = joined(decoded(), canvas(0, 4))
    assert grays(made)[1:4] == [100, 100, 100]
    assert grays(joined(decoded(), canvas(0, 2)))[1] == 100


@pytest.mark.parametrize("pieces", [2, 5, FRAMES])
def test_pieces_of_any_length_are_the_same_frames(pieces):
    made = np.random.default_rng(0).integers(90, 110, decoded().shape).astype(np.uint8)
    known = canvas(0, 11, 12, 17, 23)
    whole = joined(made, known)
    assert whole.shape == made.shape
    assert (whole != made)[:, 1:11].any()
    np.testing.assert_array_equal(joined(made, known, pieces=pieces), whole)
    np.testing.assert_array_equal(joined(made, known, first=12, pieces=pieces), whole[:, 12:])


def test_what_has_moved_is_left_as_it_was_made():
    made = decoded()
    made[:, :, 0, 0] = 60  # another thing is here,
    made[:, 3:, 0, 1] = 50  # it comes here later
    found = joined(made, canvas(0, 23))
    np.testing.assert_array_equal(found[:, :, 0, 0], made[:, :, 0, 0])
    np.testing.assert_array_equal(found[:, 3:20, 0, 1], made[:, 3:20, 0, 1])
    assert found[0, 1, 0, 1, 0] == 99
    assert found[0, 1, 1, 1, 0] == 99


def test_nothing_leads_over_a_cut_or_where_nothing_is_given():
    np.testing.assert_array_equal(joined(decoded(), canvas()), decoded())
    found = grays(joined(decoded(), canvas(0, 23), cuts=(1, 23)))
    assert found[1:23] == [91] * 22
    middle = grays(joined(decoded(), canvas(0, 23), cuts=(4,)))
    assert middle[1:5] == [98, 96, 93, 91]
    assert middle[22] == 99


def test_each_video_is_led_to_its_own():
    made = np.concatenate([decoded(), decoded(49)])
    found = joined(made, canvas(0), canvas(0, level=40))
    assert found[:, 1, 0, 0, 0].tolist() == [99, 41]


def test_where_a_part_is_given_the_pixels_around_it_are_led_to_it():
    row, column = np.mgrid[:48, :48]
    given = np.stack([100 + row, 60 + column, 0 * row + 90], axis=-1).astype(np.uint8)
    known = np.ones((48, 48, 1), bool)
    known[8:40, 8:40] = False
    thing = (abs(row - 24) < 6) & (abs(column - 24) < 6)
    made = given - LOST
    made[thing] = 255
    found = seams.around(made, given, known)
    beside = ~known[..., 0] & ndimage.binary_dilation(known[..., 0])
    assert np.abs(found[beside].astype(int) - given[beside]).max() <= 2
    far = ndimage.distance_transform_edt(~known[..., 0]) > seams.REACH
    np.testing.assert_array_equal(found[far], made[far])
    other = 255 - given  # what differs by more is something else
    np.testing.assert_array_equal(seams.around(other, given, known), other)
    np.testing.assert_array_equal(seams.around(given, given, known), given)
    for whole in (True, False):
        np.testing.assert_array_equal(seams.around(made, given, np.full((1, 1, 1), whole)), made)
