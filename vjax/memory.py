"""How much memory of a device a request takes, reckoned before anything is read or compiled.

Parameters are exact. What programs hold beside them is by rules of thumb, from what the TPU's
compiler needs for Wan 2.1 1.3B at 480p (3.1 GB for the steps, 12.6 GB for a latent's frames);
`python -m vjax.plan` asks the compiler itself.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vjax import coding, models
from vjax.config import MeshConfig, ModelConfig
from vjax.int8 import quantized
from vjax.parallel import mesh as meshes
from vjax.planning import Plan
from vjax.tiles import Tiles
from vjax.timeline import RequestError

GB = 2**30
SAID_FROM = 1.0  # GB; less is nobody's concern
SPARE = 1.15  # what is reckoned may be too much by this factor, so more is refused


@dataclasses.dataclass(frozen=True)
class Need:
    """GB of one device while texts are read, steps are made and frames are decoded.

    Args:
        has: what the device has.
        tiles: in which frames are decoded.
    """

    texts: float
    steps: float
    frames: float
    has: float
    tiles: Tiles

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
            raise RequestError(
                f"{name} needs about {self.most:.3g} GB of a device's memory for this{tiles}, and "
                f"there are {self.has:.3g} GB: make it smaller or shorter, use bfloat16, or share "
                "it among more devices."
            )


def held(
    model: ModelConfig, dtype: str, mesh: MeshConfig | None = None, int8: bool = False
) -> dict[str, float]:
    """Bytes of each network's parameters on a device; arguments are those of `Stages`."""
    holders = 1 if mesh is None else mesh.fsdp * mesh.tensor
    found = {}
    for name, config in model.networks.items():
        params, size = models.abstract(config), jnp.dtype(dtype).itemsize
        if name in ("vae", "image"):
            size = 4
        elif int8:
            params = jax.eval_shape(quantized, params)
        leaves = jax.tree.leaves(params)
        found[name] = sum(leaf.size * min(size, leaf.dtype.itemsize) for leaf in leaves) / holders
    return found


def resident(held: Mapping[str, float], memory: float) -> float:
    """Bytes that lie on a device beside what steps are made and frames decoded with."""
    dits = [held[name] for name in ("dit", "low") if name in held]
    apart = meshes.turns(held, memory).get("dit")
    rest = sum(held.values()) - held["text"] - sum(dits)
    return rest + (max(dits) if apart else sum(dits))


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
    size = jnp.dtype(dtype).itemsize
    mesh = mesh or MeshConfig(data=1)
    data = mesh.data or max(1, jax.device_count() // (mesh.fsdp * mesh.context * mesh.tensor))
    devices = data * mesh.fsdp * mesh.context * mesh.tensor
    has, networks = meshes.memory_of_device(), held(model, dtype, mesh, int8)
    beside = resident(networks, has)
    dits = sum(networks.get(name, 0) for name in ("dit", "low"))
    makes_room = meshes.turns(networks, has)["text"]
    texts = sum(networks.values()) - (dits if makes_room else 0)

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
    steps = tokens * size * (11 * dit.width + dit.ffn)
    height, width = (length // side for length in plan.size[::-1])
    each = coding.decoding(model.vae)
    tiles = coding.tiles_of(each, height, width, has - beside, devices)
    frames = each * tiles.height * tiles.width / devices
    return Need(texts / GB, (beside + steps) / GB, (beside + frames) / GB, has / GB, tiles)
