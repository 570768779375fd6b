"""How much memory of a device a request takes, reckoned before anything is read or compiled.

Parameters are exact. What programs hold beside them is by rules of thumb, from what the TPU's
compiler needs for Wan 2.1 1.3B at 480p (3.1 GB for the steps, 12.6 GB for a latent's frames);
`python -m vjax.plan` asks the compiler itself.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from vjax import coding, precision
from vjax.config import MeshConfig, ModelConfig
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.parallel.slices import GIGABYTE
from vjax.planning import Plan
from vjax.tiles import Tiles
from vjax.timeline import RequestError

SAID_FROM = 1.0  # GB; less is nobody's concern
SPARE = 1.15  # what is reckoned may be too much by this factor, so more is refused


@dataclasses.dataclass(frozen=True)
class Need:
    """GB of one device while texts are read, steps are made and frames are decoded.

    Args:
        has: what the device has.
        tiles: in which frames are decoded.
        dtype, int8: what was asked for, which the advice depends on.
    """

    texts: float
    steps: float
    frames: float
    has: float
    tiles: Tiles
    dtype: str
    int8: bool

    @property
    def most(self) -> float:
        return max(self.texts, self.steps, self.frames)

    def said(self) -> list[str]:
        """What the user should know of it: nothing where it is little."""
        if self.most < SAID_FROM:
            return []
        return [
            f"It takes about {self.most:.3g} of {self.has:.3g} GB of a device's memory: "
            f"{self.texts:.3g} GB for texts, {self.steps:.3g} GB for steps, {self.frames:.3g} GB "
            f"for frames{self.tiles.said()}."
        ]

    def check(self, name: str) -> None:
        """Raises RequestError where it cannot be enough."""
        if self.most > SPARE * self.has:
            tiles = self.tiles.said() if self.most == self.frames else ""
            ways = {
                "make it smaller or shorter": self.most > self.texts,
                "use bfloat16": self.dtype != "bfloat16",
                "keep weights in 8 bits (--int8)": not self.int8,
                "share it among more devices": True,
            }
            helps = ", or ".join(way for way, is_one in ways.items() if is_one)
            raise RequestError(
                f"{name} needs about {self.most:.3g} GB of a device's memory for this{tiles}, and "
                f"there are {self.has:.3g} GB: {helps}."
            )


@functools.lru_cache(maxsize=64)
def held(
    model: ModelConfig, dtype: str, mesh: MeshConfig | None = None, int8: bool = False
) -> Mapping[str, int]:
    """Bytes of each network's parameters on a device.

    Arguments are those of `Stages`, as is the error where there is no such dtype.
    """
    mesh = mesh or MeshConfig()
    over = AbstractMesh((mesh.data or 1, mesh.fsdp, mesh.context, mesh.tensor), meshes.AXES)
    tree = rules.laid_out(precision.abstract(model, dtype, int8), over)
    return {name: rules.held(params) for name, params in tree.items()}


def resident(held: Mapping[str, int], memory: float, texts: bool = False) -> dict[str, int]:
    """Those of the networks that lie on a device while steps and frames are made, in bytes.

    Args:
        held: bytes of each on a device.
        memory: bytes of the device.
        texts: while texts are read, instead.
    """
    turns = meshes.turns(held, memory)
    away = turns["text"] if texts else ("text", "low") if turns.get("dit") else ("text",)
    return {name: size for name, size in held.items() if name not in away}


def needed(
    model: ModelConfig,
    plan: Plan,
    dtype: str,
    guided: bool,
    mesh: MeshConfig | None = None,
    int8: bool = False,
) -> Need:
    """What a plan takes of each device that shares it.

    Args:
        guided: whether the network is asked for two texts at once.
        mesh: None: one device does it all.
        int8: as in `Stages`.
    """
    mesh = mesh or MeshConfig(data=1)
    data = mesh.data or max(1, jax.device_count() // (mesh.fsdp * mesh.context * mesh.tensor))
    devices = data * mesh.fsdp * mesh.context * mesh.tensor
    has, networks = meshes.memory_of_device(), held(model, dtype, mesh, int8)
    texts, beside = (sum(resident(networks, has, each).values()) for each in (True, False))

    dit, side = model.dit, model.vae.spatial_ratio
    width, height = plan.size
    if plan.tiles is not None:
        width, height = side * plan.tiles.width, side * plan.tiles.height
    windows = [window for segment in plan.segments for window in segment.windows]
    latents = max(
        (window.stop - window.start + len(window.anchors) for window in windows), default=0
    )
    latents += len(plan.references)
    tokens = (2 if guided else 1) * latents * (width // side) * (height // side)
    tokens /= dit.patch[1] * dit.patch[2] * devices
    steps = tokens * jnp.dtype(dtype).itemsize * (11 * dit.width + dit.ffn)
    height, width = (length // side for length in plan.size[::-1])
    each = coding.decoding(model.vae)
    tiles = coding.tiles_of(each, height, width, has - beside, devices)
    frames = each * tiles.height * tiles.width / devices
    return Need(
        texts / GIGABYTE,
        (beside + steps) / GIGABYTE,
        (beside + frames) / GIGABYTE,
        has / GIGABYTE,
        tiles,
        dtype,
        int8,
    )
