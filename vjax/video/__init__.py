"""Files to uint8 arrays and back, with every frame shown at its right time.

    reading.py    any video, animation, picture or folder of pictures → `Clip`
    masks.py      the same as a mask: which pixels are white
    streams.py    videos, through PyAV (ffmpeg's libraries)
    pictures.py   pictures and animations, through Pillow
    colour.py     what a video's numbers mean → 8-bit sRGB
    timing.py     times of frames → an even frame rate
    cuts.py       where a film is cut
    fitting.py    one size → another
    sound.py      what is heard, cut and moved along
    formats.py    what each kind of file can hold, checked before any work
    writing.py    frames as they are made → a file that appears whole
    placing.py    names that nothing has yet, and how a file gets one
    encoders.py   mp4, webm, mkv and folders of png
    animations.py gif and webp
    metadata.py   the settings that a file carries
    sheet.py      many clips in one picture

PyAV and Pillow are imported when a file is read or written, not before.
"""

from vjax.video.clip import Clip, MediaError
from vjax.video.cuts import cuts_of
from vjax.video.fitting import fit, fit_inside, fit_levels
from vjax.video.formats import check_writable, holds_sound, is_exact
from vjax.video.masks import Mask, read_mask, share, white
from vjax.video.metadata import read_metadata
from vjax.video.placing import free_path
from vjax.video.reading import read
from vjax.video.sheet import contact_sheet
from vjax.video.sound import Sound, arranged, crossfaded
from vjax.video.timing import exact_rate, resample
from vjax.video.writing import Writer, write

__all__ = [
    "Clip",
    "Mask",
    "MediaError",
    "Sound",
    "Writer",
    "arranged",
    "check_writable",
    "contact_sheet",
    "crossfaded",
    "cuts_of",
    "exact_rate",
    "fit",
    "fit_inside",
    "fit_levels",
    "free_path",
    "holds_sound",
    "is_exact",
    "read",
    "read_mask",
    "read_metadata",
    "resample",
    "share",
    "white",
    "write",
]
