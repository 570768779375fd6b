"""The tones of an enlarged video: those of what it is made from, wherever that shows them.

What is made anew goes its own way in all that is rough too, in the shade of a sky or the place of
an edge, of which a smaller picture says enough. So only what is finer is taken from what was made
(the colour correction of StableSR, arXiv:2305.07015, with one blur in place of its wavelets).
"""

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

BLUR = 2.0  # standard deviation of the blur, in pixels of what is enlarged


def toned(
    made: UInt8[np.ndarray, "H W 3"], given: UInt8[np.ndarray, "H W 3"], blur: float
) -> UInt8[np.ndarray, "H W 3"]:
    """A frame as it was made, but for what is left of it and of the given one by a blur."""
    lost = given.astype(np.float32) - made
    rough = ndimage.gaussian_filter(lost, (blur, blur, 0), mode="nearest")
    return np.clip(np.rint(made + rough), 0, 255).astype(np.uint8)
