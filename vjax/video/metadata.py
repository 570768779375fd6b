"""The settings that a file carries, as JSON in the comment that its kind of file has."""

import json
import os
import pathlib

from vjax.video import clip as clips
from vjax.video.clip import MediaError

MAX_BYTES = 60_000  # what the EXIF block of a webp holds
DESCRIPTION = 0x010E  # EXIF ImageDescription


def read_metadata(path: str | os.PathLike) -> dict | None:
    """The settings that `write` stored in this file, None where there are none.

    They are whatever JSON object the file has under our key: anybody can have written it.

    Raises:
        MediaError: the file is not there, or is no video or picture.
    """
    from vjax.video import reading

    path = clips.existing(path)
    if path.is_dir():
        path = reading.numbered(path)[0]
    settings = stored(path).get("vjax")
    return settings if isinstance(settings, dict) else None


def comment_of(metadata: dict | None, **more) -> str:
    """The comment to write, empty where there is nothing to say.

    Raises:
        MediaError: settings that JSON cannot hold, or too many of them.
    """
    content = {**({} if metadata is None else {"vjax": metadata}), **more}
    # ASCII, because that is what the comment of a gif and EXIF can hold; \u carries the rest.
    try:
        text = json.dumps(content, allow_nan=False) if content else ""
    except (TypeError, ValueError, RecursionError) as error:
        raise MediaError(f"These settings cannot be stored in a file: {error}.") from error
    if len(text) > MAX_BYTES:
        raise MediaError(f"Settings to store in a file are over {MAX_BYTES} bytes; shorten them.")
    return text


def stored(path: pathlib.Path) -> dict:
    """The JSON object in a file's comment, empty where there is none."""
    text = _comment(path)
    if isinstance(text, bytes):
        text = text.decode("ascii", "replace")
    if not isinstance(text, str) or len(text) > MAX_BYTES:
        return {}
    try:
        content = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # another program's comment may be any text at all
        return {}
    return content if isinstance(content, dict) else {}


def _refuse(name: str):
    raise ValueError(f"{name} is no JSON")


def _comment(path: pathlib.Path):
    from vjax.video import pictures, streams

    picture = pictures.open_picture(path)
    if picture is not None:
        with picture:
            if picture.image.format == "WEBP":
                return pictures.exif(picture.image).get(DESCRIPTION)
            info = picture.image.info
            return info.get("Comment", info.get("comment"))
    with streams.opened(path) as container:
        streams.Video(path, container)  # that it is one
        tags = {name.lower(): text for name, text in container.metadata.items()}
        return tags.get("comment")
