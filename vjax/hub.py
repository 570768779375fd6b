"""Models of the Hugging Face hub, by their ids: `owner/name`, or `owner/name@revision`."""

import functools
import pathlib
import re

from vjax.convert.directory import FOLDERS
from vjax.tensors import BundleError

_ID = re.compile(r"(?!\.)[\w.-]+/(?!\.)[\w.-]+(@[\w./-]+)?")
_DESCRIBED = ("*.json", "tokenizer/*", "README.md")
_WEIGHTS = tuple(
    pattern
    for network, folder in FOLDERS.items()
    for pattern in (f"{folder}/*.safetensors", f"{network}.safetensors")
)


def is_id(name: str) -> bool:
    """Whether it could be that of a model of the hub."""
    return re.fullmatch(_ID, name) is not None


def id_of(directory: pathlib.Path) -> str | None:
    """That of a model in the hub's cache; None: the directory is elsewhere."""
    found = re.fullmatch(r"models--(.+?)--(.+)", directory.parent.parent.name)
    cached = found is not None and directory.parent.name == "snapshots"
    return f"{found[1]}/{found[2]}" if cached else None


@functools.cache
def fetch(name: str, weights: bool = False) -> pathlib.Path:
    """The directory of a model of the hub, on this machine; what is not there yet is fetched.

    Args:
        weights: whether they are needed too, which can take long.

    Raises:
        BundleError: there is none of that id, its terms must be accepted first, or there is no
            connection; says what to do.
    """
    return _snapshot(name, _DESCRIBED + (_WEIGHTS if weights else ()), False)


def kept(name: str) -> pathlib.Path | None:
    """The directory of a model of the hub that was fetched before; None: it was not."""
    try:
        return _snapshot(name, _DESCRIBED + _WEIGHTS, True)
    except BundleError:
        return None


def _snapshot(name: str, patterns: tuple[str, ...], local: bool) -> pathlib.Path:
    import huggingface_hub
    from huggingface_hub import errors

    repository, _, revision = name.partition("@")
    try:
        place = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(patterns),
            local_files_only=local,
        )
    except errors.GatedRepoError:
        said = (
            f"the hub gives it to those alone who have accepted its terms: do that at "
            f"https://huggingface.co/{repository}, then log in here with `hf auth login`"
        )
    except errors.RepositoryNotFoundError:
        said = (
            f"there is no directory {name} here, and no such model on the Hugging Face hub that "
            "you may read: check the name; for a private one, log in with `hf auth login`"
        )
    except errors.RevisionNotFoundError:
        said = f"the hub has no revision {revision!r} of it"
    except errors.LocalEntryNotFoundError:
        said = (
            f"there is no directory {name} here, it was not fetched before, and the Hugging Face "
            "hub cannot be reached: connect, or give the path of the model"
        )
    except Exception as error:  # of the network, the disk, or an id that cannot be one
        said = " ".join(str(error).split()).rstrip(".")[:300]
    else:
        return pathlib.Path(place)
    raise BundleError(f"The model {name} cannot be fetched: {said}.")
