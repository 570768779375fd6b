"""How much memory of a device a request takes, reckoned before anything is read or compiled.

Parameters are exact. What programs hold beside them is by rules of thumb, from what the TPU's
compiler needs for Wan 2.1 1.3B at 480p (3.1 GB for the steps, 12.6 GB for a latent's frames);
`python -m vjax.plan` asks the compiler itself.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import psutil

from vjax import models
from vjax.config import MeshConfig, ModelConfig
from vjax.int8 import quantized
from vjax.parallel import mesh as meshes
from vjax.planning import Plan
from vjax.timeline import RequestError

GB = 2**30
SAID_FROM = 1.0  # GB; less is nobody's concern
SPARE = 1.15  # what is reckoned may be too much by this factor, so more is refused


@dataclasses.dataclass(frozen=True)
class Need:
    """GB of one device while texts are read, steps are made and frames are decoded."""

    texts: float
    steps: float
    frames: float
    has: float  # what the device has; infinite where it does not say

    @property
    def most(self) -> float:
        return max(self.texts, self.steps, self.frames)

    def said(self) -> list[str]:
        """What the user should know of it: nothing where it is little."""
        if self.most < SAID_FROM:
            return []
        has = "" if math.isinf(self.has) else f" of {self.has:.3g} GB"
        return [
            f"It takes about {self.most:.3g} GB{has} of a device's memory: {self.texts:.3g} GB "
            f"for texts, {self.steps:.3g} GB for steps, {self.frames:.3g} GB for frames."
        ]

    def check(self, name: str) -> None:
        """Raises RequestError where it cannot be enough."""
        if self.most > SPARE * self.has:
            raise RequestError(
                f"{name} needs about {self.most:.3g} GB of a device's memory for this, and there "
                f"are {self.has:.3g} GB: make it smaller or shorter, use bfloat16, or share it "
                "among more devices."
            )


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
    holders = mesh.fsdp * mesh.tensor

    def held(network: str, each: int) -> float:
        config = model.networks.get(network)
        if config is None:
            return 0.0
        params = models.abstract(config)
        if int8 and network in ("dit", "low", "text"):
            params = jax.eval_shape(quantized, params)
        leaves = jax.tree.leaves(params)
        return sum(leaf.size * min(each, leaf.dtype.itemsize) for leaf in leaves) / holders

    text, vae = held("text", size), held("vae", 4) + held("image", 4)
    dits = [held(name, size) for name in ("dit", "low")]
    has = meshes.memory_of_device()
    if math.isinf(has):
        has = psutil.virtual_memory().total
    # As `Stages` places them: what does not fit at once takes turns.
    apart = meshes.crowded(text + sum(dits) + vae, has)
    beside = meshes.crowded(sum(dits) + vae, has)
    transformer = max(dits) if beside else sum(dits)

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
    if dit.control_blocks:  # what each adds is held
        steps += tokens * size * dit.width * len(dit.control_blocks)
    base = model.vae.decoder_base_dim or model.vae.base_dim
    pixels = math.prod(plan.size) / model.vae.patch_size**2 * model.vae.temporal_ratio
    frames = 22 * base * pixels * 4 / devices
    return Need(
        (text + vae + (0 if apart else transformer)) / GB,
        (transformer + vae + steps) / GB,
        (transformer + vae + frames) / GB,
        has / GB,
    )
