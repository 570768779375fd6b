"""What is enlarged keeps its tones, and what is finer than they are is what was made."""

import numpy as np
import tiny

from vjax import planning, rollout
from vjax.timeline import Timeline
from vjax.tones import toned


def test_a_shade_is_that_of_what_is_given_and_a_detail_that_of_what_is_made():
    row, column = np.mgrid[:64, :48]
    shade = np.stack([40 + 2 * row, 60 + column, 100 + 0 * row], axis=-1).astype(np.uint8)
    detail = np.where((row + column) % 2, 20, -20)[..., None]
    made = (150 + detail + np.zeros(3)).astype(np.uint8)
    found = toned(made, shade, 4.0).astype(np.int16) - shade
    inner = found[12:-12, 12:-12]
    np.testing.assert_allclose(inner, np.broadcast_to(detail[12:-12, 12:-12], inner.shape), atol=1)
    np.testing.assert_array_equal(toned(shade, shade, 4.0), shade)


def test_where_nothing_is_given_tones_are_those_of_what_is_made():
    made, given = np.full((2, 8, 8, 3), 130, np.uint8), np.zeros((2, 8, 8, 3), np.uint8)
    given[0] = 100
    rollout._put_back(made, given, np.float32([0.65, 0]).reshape(2, 1, 1, 1), 4.0, True)
    assert made.mean((1, 2, 3)).tolist() == [100, 130]
    words = Timeline("a", enlarges=True, size=(80, 80))
    assert planning.plan(words, tiny.MODEL).blur == 0
