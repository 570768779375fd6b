"""How a file was made: the settings that it carries, and how they are found and used again.

Whoever makes a file writes what he likes into it. So these settings are checked like any other
input, and they name files without their place: those are looked for beside the file and in the
working directory, and have to have the content that they had.
"""

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from vjax import characters, hub, validation, verbs, weights
from vjax.config import Bounds, ConfigError
from vjax.convert import alphas, lora
from vjax.loras import Lora
from vjax.timeline import RequestError
from vjax.verbs import Request


@dataclasses.dataclass(frozen=True)
class Model:
    """Which model: its name (`weights.called`) and what it holds (`weights.fingerprint`)."""

    name: str
    weights: str


@dataclasses.dataclass(frozen=True)
class Applied:
    """A LoRA file that a model was used with: its name and content, its scale and its expert."""

    name: str
    sha256: str
    scale: float
    expert: Literal["high", "low"] | None = None


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides the content of a file: the same recipe, the same bytes (on one machine).

    Args:
        vjax: the version that made it.
        request: as `verbs.to_json` has it, each file in it as `named`.
        jax: its version; `platform` is that which it ran on.
        rewritten: of what the prompt was made, by whom, and why not (`vjax.rewriting.Rewritten`).
        int8: whether the matrices of the model's blocks were kept in 8 bits.
        low_guidance: of a second expert; None: as of the first, or there is none.
    """

    vjax: str
    request: dict
    model: Model
    seed: Annotated[int, Bounds(0, 2**32 - 1)]
    solver: str
    steps: int
    guidance: float
    shift: float
    dtype: str
    quality: int | None
    platform: str
    jax: str
    rewritten: dict | None = None
    loras: tuple[Applied, ...] = ()
    int8: bool = False
    low_guidance: float | None = None

    def stored(self) -> dict[str, Any]:
        """As plain JSON types."""
        return dataclasses.asdict(self)


def read(path: str) -> Recipe:
    """The recipe of a file.

    Raises:
        RequestError: it has none, or one that cannot be used.
        MediaError: it cannot be read.
    """
    from vjax import video

    stored = video.read_metadata(path)
    if not stored:
        raise RequestError(f"{path} holds no vjax settings, so it cannot be made again.")
    try:
        recipe = validation.from_dict(Recipe, stored)
        for each in recipe.loras:
            _checked_name({"name": each.name, "sha256": each.sha256})
        verbs.from_json(recipe.request, lambda value: pathlib.PurePath(_checked_name(value)))
    except (ConfigError, RequestError) as error:
        raise RequestError(f"The settings in {path} cannot be used: {error}") from error
    return recipe


def carried(recipe: Recipe, kind: type[Request], given: Mapping[str, Any], file: str) -> dict:
    """The values of a recipe that go on to hold in a request of a kind, but for what is given.

    Another verb takes over what it asks for in the same way. Files are searched for `file`, which
    has the recipe.
    """
    old = verbs.request_type(recipe.request["verb"])
    before, now = verbs.options(old), verbs.options(kind)
    values = {
        name: value
        for name, value in recipe.request.items()
        if name in now and before.get(name) == now[name] and name not in given
    }
    if "frames" in given or "seconds" in given:
        values = {k: v for k, v in values.items() if k not in ("frames", "seconds")}
    return {
        name: verbs.mapped(kind, name, value, lambda stored: find(stored, file))
        for name, value in values.items()
    }


def named(path: str | os.PathLike) -> dict[str, str]:
    """What stands for a file or a folder of pictures: its name alone, and its content's SHA-256."""
    return {"name": pathlib.Path(os.path.abspath(path)).name, "sha256": sha256(path)}


def sha256(path: str | os.PathLike) -> str:
    """Of a file; of a folder, of what its numbered pictures have."""
    from vjax.video import reading

    path = pathlib.Path(path)
    if path.is_dir():
        pictures = [sha256(picture) for picture in reading.numbered(path)]
        return hashlib.sha256("\n".join(pictures).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def applied(given: Lora) -> Applied:
    """What stands for a LoRA file. Raises BundleError."""
    file = lora.located(given.file)
    try:
        return Applied(file.name, _content(file), given.scale, given.expert)
    except OSError as error:
        raise weights.BundleError(f"{file} cannot be read: {error.strerror}.") from error


def _content(path: pathlib.Path) -> str:
    """The SHA-256 of a LoRA file, and of the settings beside it where it has those."""
    settings = alphas.beside(path)
    digests = [sha256(each) for each in (path, settings) if each is not None]
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def find_loras(recipe: Recipe, file: str) -> tuple[Lora, ...]:
    """The LoRA files of a recipe: beside `file`, which has it, or where we are.

    Raises:
        RequestError: there is none of that name and content.
    """
    found = []
    for each in recipe.loras:
        path = find({"name": each.name, "sha256": each.sha256}, file, _content)
        found.append(Lora(str(path), each.scale, each.expert))
    return tuple(found)


def find(value: Any, file: str, content: Callable[[pathlib.Path], str] = sha256) -> pathlib.Path:
    """The file that a recipe names: beside `file`, which has the recipe, or where we are.

    A character's picture may be in the library too.

    Raises:
        RequestError: there is none of that name and content.
    """
    name, there = _checked_name(value), False
    for path in _places(name, file):
        if path.is_file() or path.is_dir():
            there = True
            if content(path) == value["sha256"]:
                return path
    if there:
        raise RequestError(
            f"{file} was made from another {name} than the one that is here (its SHA-256 differs): "
            f"put the right one beside it, or name the file to use instead."
        )
    raise RequestError(
        f"{file} was made from {name}, which is neither beside it nor in the working directory: "
        "put it there, or name the file to use instead."
    )


def find_model(model: Model, file: str) -> str:
    """What to load for the model of a recipe: one that ships, is beside `file`, or is here.

    Raises:
        RequestError: there is none of that name and with these weights.
    """
    name, there = model.name, False
    if hub.is_id(name):  # a file that anyone made has nothing fetched
        places = [place] if (place := hub.kept(name)) else []
    elif _is_plain(name):
        places = [weights.ASSETS / name, *_places(name, file)]
    else:
        raise RequestError(f"The settings in {file} cannot be used: {name!r} is no model's name.")
    for path in places:
        if weights.holds_model(path):
            there = True
            if weights.fingerprint(str(path)) == model.weights:
                by_name = path.parent == weights.ASSETS or hub.is_id(name)
                return name if by_name else str(path)
    what = "other weights than the one that is here" if there else "which is not here"
    raise RequestError(
        f"{file} was made by the model {name}, {what}: say which to use with --model."
    )


def differences(recipe: Recipe, made: Recipe, file: str) -> list[str]:
    """What the user should know where a file is made again elsewhere: one sentence each."""
    found = []
    for name in ("vjax", "jax", "platform", "dtype"):
        old, new = getattr(recipe, name), getattr(made, name)
        if old != new:
            found.append(f"{name} {old} instead of {new}")
    if recipe.int8 != made.int8:
        found.append(f"{'' if recipe.int8 else 'no '}weights in int8")
    if recipe.model.weights != made.model.weights:
        found.append(f"the model {recipe.model.name} with other weights")
    if not found:
        return []
    return [f"{file} was made with {', '.join(found)}: the result may differ from it."]


@functools.cache
def version() -> str:
    """Of this package."""
    try:
        return importlib.metadata.version("vjax")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        return "not installed"


def _places(name: str, file: str) -> list[pathlib.Path]:
    kept = characters.library() / pathlib.PurePath(name).stem / name
    return [pathlib.Path(file).parent / name, pathlib.Path(name), kept]


def _checked_name(value: Any) -> str:
    """The name in what `named` returned: of something in a folder, never of another folder."""
    if isinstance(value, Mapping) and value.keys() == {"name", "sha256"}:
        name, digest = value["name"], value["sha256"]
        if isinstance(name, str) and isinstance(digest, str) and _is_plain(name):
            return name
    raise RequestError("a file in it is not given by its name and SHA-256.")


def _is_plain(name: str) -> bool:
    """Whether a name is that of something in a folder."""
    try:
        if len(os.fsencode(name)) > 255:
            return False
    except UnicodeEncodeError:
        return False
    return name not in ("", ".", "..") and "\0" not in name and pathlib.PurePath(name).name == name
