"""What is enlarged keeps its tones, and what is finer than they are is what was made."""

import numpy as np

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
