"""What a command line asks for; nothing heavy is imported for it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

from vjax.config import MeshConfig
from vjax.loras import Lora
from vjax.verbs import Request

if TYPE_CHECKING:
    from vjax.recipe import Recipe
    from vjax.rewriting import Rewritten


class Sampling(TypedDict, total=False):
    """How to sample, where it is not as the model prefers: fields of a `SamplerConfig`, or None."""

    steps: int | None
    guidance: float | None
    low_guidance: float | None
    solver: str | None
    shift: float | None


SAMPLING = tuple(Sampling.__annotations__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
    """Files to make.

    Args:
        requests: one or more that differ in their prompts alone.
        sampling: what is not as the model prefers, by the names of `SAMPLING`.
        variations: so many files of each request, with seeds `seed`, `seed` + 1, ….
        mesh: how devices share the work; None: as fits them and what is made.
        model: None: that of the recipe, or the default.
        lora: files that the model is used with.
        int8: whether the matrices of its blocks are kept in 8 bits.
        out: None: a name that says what was made. Where there are several, they are numbered.
        overwrite: whether an existing file may be replaced.
        upsample: how prompts are rewritten: `template`, or the URL of a chat endpoint.
        upsample_model, upsample_seconds: which of its models, and how long it may take.
        caption: the URL of a chat endpoint that writes the prompt of what is given.
        rewritten: of what each prompt was made; nothing where the user wrote it.
        like, recipe: the file to make again, and what it says of itself.
        dry_run: nothing is made: what would be is said.
        reads: files that are read beside those of the requests.
    """

    requests: Sequence[Request]
    sampling: Mapping[str, Any]
    seed: int = 0
    variations: int = 1
    mesh: MeshConfig | None = None
    model: str | None = None
    lora: Sequence[Lora] = ()
    dtype: str | None = None
    int8: bool = False
    out: str | None = None
    quality: int | None = None
    overwrite: bool = False
    upsample: str | None = None
    upsample_model: str | None = None
    upsample_seconds: float | None = None
    caption: str | None = None
    rewritten: "Sequence[Rewritten | Mapping[str, Any] | None]" = ()
    like: str = ""
    recipe: "Recipe | None" = None
    reads: Sequence[str] = ()
    dry_run: bool = False
