"""Published checkpoints as parameters of our networks, by tables of names.

A module here has the tables of one network. A name is that of a layer, whose `weight` and `bias`
are our `kernel` or `scale` and `bias`, or that of a parameter; `*` stands for the number of a layer
whose parameters we stack.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
from einops import rearrange

from vjax import models
from vjax.config import ConfigError, DiTConfig, ImageConfig, TextConfig, VAEConfig
from vjax.convert import image, text, vae, wan

Network = Any  # the config of one

_LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "gamma": "gamma"}


class Table(NamedTuple):
    """How the tensors of a network are published.

    Args:
        names: of a config, the published name of each layer and parameter, and ours.
        turns: for parameters whose names have a pattern, how a published array becomes ours, as
            `einops.rearrange` has it; the first that is found counts. A kernel turns its two axes,
            the rest stay.
        lengths: of a config, those of axes that are folded into one of ours.
        aliases: other names of a tensor, which serve where the right one is not there.
        prefix: that all names may have.
        unused: of a config, patterns of tensors that we have no use for.
    """

    names: Callable[[Any], Mapping[str, str]]
    turns: Mapping[str, str] = {}
    lengths: Callable[[Any], Mapping[str, int]] = lambda config: {}
    aliases: Mapping[str, str] = {}
    prefix: str = ""
    unused: Callable[[Any], tuple[str, ...]] = lambda config: ()


TABLES: dict[type, Table] = {
    DiTConfig: Table(
        lambda config: wan.NAMES, wan.TURNS, wan.lengths, unused=lambda config: wan.UNUSED
    ),
    VAEConfig: Table(vae.names, vae.TURNS),
    TextConfig: Table(text.names, aliases=text.ALIASES),
    ImageConfig: Table(
        lambda config: image.NAMES,
        image.TURNS,
        image.lengths,
        prefix=image.PREFIX,
        unused=image.unused,
    ),
}


@dataclasses.dataclass(frozen=True)
class Way:
    """How a published array becomes ours.

    Args:
        turn: for `einops.rearrange`; None: it stays as it is.
        lengths: of axes that `turn` folds into one.
    """

    turn: str | None = None
    lengths: tuple[tuple[str, int], ...] = ()

    def ours(self, x: Any) -> Any:
        """A published array as we have it."""
        return x if self.turn is None else rearrange(x, self.turn, **dict(self.lengths))

    def theirs(self, x: Any) -> Any:
        """An array of ours, of one layer, as it is published."""
        return x if self.turn is None else rearrange(x, _inverse(self.turn), **dict(self.lengths))


@dataclasses.dataclass(frozen=True)
class Source:
    """What one of our parameters is made of.

    Args:
        names: of the published tensors: one, or one for each layer that is stacked.
        shape: of each of them.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    way: Way = Way()
    stacked: bool = False


def _inverse(turn: str) -> str:
    return " -> ".join(reversed(turn.split(" -> ")))


@functools.lru_cache(maxsize=32)
def sources(config: Network, own: bool = False) -> dict[str, Source]:
    """For each parameter of a network, by its dotted name, what it is made of.

    Args:
        own: whether it may have parts that no published network has; they are left out.

    Raises:
        ConfigError: the network has a part that no published one has.
    """
    table = TABLES[type(config)]
    published = {ours: theirs for theirs, ours in table.names(config).items()}
    found = {}
    for path, leaf in jax.tree.leaves_with_path(models.abstract(config)):
        name = ".".join(str(key.key) for key in path)
        layer, _, kind = name.rpartition(".")
        theirs = published.get(name)
        if theirs is None and layer in published and kind in _LEAVES:
            theirs = f"{published[layer]}.{_LEAVES[kind]}"
        if theirs is None and own:
            continue
        if theirs is None:
            raise ConfigError(f"No published network has {name}.")
        stacked = "*" in theirs
        names, shape = (theirs,), leaf.shape
        if stacked:
            names = tuple(theirs.replace("*", str(i)) for i in range(leaf.shape[0]))
            shape = shape[1:]
        turn = next(
            (turn for pattern, turn in table.turns.items() if re.search(pattern, name)), None
        )
        if turn is None and kind == "kernel":
            turn = "o i -> i o"
        lengths = tuple(table.lengths(config).items()) if turn and "(" in turn else ()
        way = Way(turn, lengths)
        shape = jax.eval_shape(way.theirs, jax.ShapeDtypeStruct(shape, leaf.dtype)).shape
        found[name] = Source(names, shape, way, stacked)
    return found


def known_as(config: Network, found: Collection[str]) -> dict[str, str]:
    """The names in a checkpoint that matter, each by the name that our table has for it."""
    table = TABLES[type(config)]
    names = {name.removeprefix(table.prefix): name for name in found}
    for alias, name in table.aliases.items():
        other = names.pop(alias, None)
        if other is not None:
            names.setdefault(name, other)
    return {
        name: actual
        for name, actual in names.items()
        if not any(re.search(pattern, name) for pattern in table.unused(config))
    }
