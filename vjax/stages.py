"""The three networks of a loaded model, each stage a jitted function that can be called alone."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, Real, UInt8

from vjax import coding, memory, models, sampler, stored, weights
from vjax.config import DiTConfig, MeshConfig, VAEConfig
from vjax.int8 import quantize
from vjax.models.vae import check_video, to_float
from vjax.parallel import mesh as meshes
from vjax.parallel import rules
from vjax.precision import kept_as
from vjax.reel import Reel
from vjax.sampler import Condition
from vjax.stored import Stored
from vjax.tiles import Tiles, tiled
from vjax.timeline import RequestError

# --- One jitted function per job. Configs are static, everything else is an array. ---------------


@functools.partial(jax.jit, static_argnames=("dtype", "int8"))
def _cast(params, dtype, int8):
    def cast(path, x):
        kind = kept_as(path, dtype, int8)
        return quantize(x) if kind == jnp.int8 else x.astype(kind)

    return rules.pinned(jax.tree.map_with_path(cast, params))


@functools.partial(jax.jit, static_argnames="config")
def _embed(config, params, ids, mask):
    return models.bind(config, params)(ids, mask).astype(jnp.float32)


# XLA on CPU would first lay out the kernels of all convolutions and hold them to the end. Others do
# not look at it.
_LEAN = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


@functools.partial(
    jax.jit, static_argnames="config", donate_argnames="past", compiler_options=_LEAN
)
def _encode(config, params, video, past):
    vae = models.bind(config, params)
    video = to_float(video) if video.dtype == jnp.uint8 else video
    latents, past = vae.encode_next(video, past)
    return vae.normalise(latents), past


@functools.partial(
    jax.jit, static_argnames=("config", "dtype"), donate_argnames="past", compiler_options=_LEAN
)
def _decode(config, params, latents, past, dtype):
    vae = models.bind(config, params)
    return vae.decode_next(vae.denormalise(latents), past, dtype)


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _velocity(config, params, z, t, text, inputs, dtype):
    dit = models.velocity(config, params, dtype, unroll=False)
    return dit(z, t, text, **inputs)


@functools.partial(jax.jit, static_argnames="shape")
def _noise(seeds, window, shape):
    # A video's noise depends on its seed and window alone, not on its place in a batch.
    keys = jax.vmap(lambda seed: jax.random.fold_in(jax.random.key(seed), window))(seeds)
    return jax.vmap(lambda key: jax.random.normal(key, shape))(keys), keys


@functools.partial(jax.jit, static_argnames="solver")
def _start(condition, noise, t, keys, solver):
    return sampler.start(condition, noise, t, solver=solver, keys=keys)


@functools.partial(
    jax.jit,
    static_argnames=("config", "solver", "guided", "dtype", "tiles"),
    donate_argnames=("state",),
)
def _advance(
    config: DiTConfig,
    params,
    condition,
    state,
    times,
    begin,
    end,
    solver,
    guidance,
    guided,
    dtype,
    tiles=None,
    told=None,
):
    velocity = models.velocity(config, params, dtype, unroll=False)
    return sampler.advance(
        velocity if tiles is None else tiled(velocity, tiles),
        condition,
        state,
        times,
        begin,
        end,
        solver=solver,
        guidance=guidance if guided else 1,
        told=told,
    )


@functools.partial(jax.jit, static_argnames="config")
def _look(config, params, images):
    return models.bind(config, params)(images.astype(jnp.float32) / 255).astype(jnp.float32)


def _by_latents(vae: VAEConfig, frames: int) -> list[slice]:
    """The frames that each latent stands for."""
    ratio = vae.temporal_ratio
    return [slice(0, 1), *(slice(n, n + ratio) for n in range(1, frames, ratio))]


def _on_mesh(stage: Callable) -> Callable:
    """A stage whose programs are laid out over the mesh of its model, if it has one."""

    @functools.wraps(stage)
    def run(self, *args, **kwargs):
        if self.mesh is None:
            return stage(self, *args, **kwargs)
        with meshes.use(self.mesh, self.mesh_config):
            return stage(self, *args, **kwargs)

    return run


def _as(dtype: np.dtype, int8: bool, path, x: Any) -> Any:
    kind = kept_as(path, dtype, int8)
    if kind == jnp.int8:
        return dataclasses.replace(x, int8=True) if isinstance(x, Stored) else quantize(x)
    if not isinstance(x, Stored):
        return np.asarray(x, kind)
    x = x.astype(kind)
    return x if x.nbytes >= stored.LARGE else x.read()


def usual_dtype() -> str:
    """What a model of ours computes in on this machine."""
    return "float32" if jax.default_backend() == "cpu" else "bfloat16"


class Stages:
    """Texts to embeddings, pixels to latents, noise to latents, latents to pixels.

    Args:
        mesh: how devices share the work: those along `data` and `fsdp` the samples, of which one
            video with guidance is two, those along `context` the tokens, those along `tensor` the
            heads. None: one device does it all. Parameters that lie on its devices already are
            cast there; samples that such a mesh cannot share are then made by all of it alike.
        dtype: in which the DiT and the text encoder compute: "float32" or "bfloat16"; None:
            bfloat16 on accelerators and for published weights, else float32. The VAE, norms, times,
            noise, latents between steps and what stages take and give are float32: a frame has
            more levels than bfloat16 has digits. Within the VAE's products factors are rounded as
            the machine does.
        int8: whether the matrices of the blocks of DiT and text encoder are kept in 8 bits, for
            chips on which the model has no room otherwise (`vjax.int8`).

    Raises:
        BundleError: a part is missing.
        RequestError: there is no such dtype.
        ConfigError: the devices cannot share this model so.
    """

    def __init__(
        self,
        bundle: weights.Bundle,
        dtype: str | None = None,
        mesh: MeshConfig | None = None,
        int8: bool = False,
    ):
        self.config, self.tokenizer = bundle.config, bundle.tokenizer
        needed = [*weights.NETWORKS]
        needed += ["low"] if self.config.boundary is not None else []
        needed += ["image"] if self.config.image is not None else []
        for network in needed:
            if network not in bundle.params:
                raise weights.BundleError(
                    f"{self.config.name} has no {network}, so it cannot make videos on its own."
                )
        dtype = dtype or bundle.dtype or usual_dtype()
        held, has = memory.held(self.config, dtype, mesh, int8), meshes.memory_of_device()
        self.dtype, self.int8 = jnp.dtype(dtype), int8
        self._room = has - sum(memory.resident(held, has).values())  # for what is computed
        self.mesh_config, self.mesh, self.in_place = mesh, None, False
        if mesh is not None:
            self.mesh = meshes.make_mesh(mesh)
            meshes.check(mesh, self.mesh, self.config)
            self.in_place = rules.lies_on(bundle.params, self.mesh)
        if self.in_place:
            with meshes.use(self.mesh, mesh):
                self.params = _cast(bundle.params, self.dtype, int8)
            return
        params = jax.tree.map_with_path(
            functools.partial(_as, self.dtype, int8), dict(bundle.params)
        )
        self._turns = meshes.turns(held, has)  # what makes room for each
        self._waiting = {name: params.pop(name) for name in self._turns}
        self.params = self._placed(params)

    def _placed(self, params: models.Params) -> models.Params:
        return stored.put(params, self.mesh)

    def _use(self, name: str) -> models.Params:
        """The parameters of a network, on the devices."""
        if name not in self.params:
            for other in self._turns[name]:
                self.params.pop(other, None)
            self.params |= self._placed({name: self._waiting[name]})
        return self.params[name]

    @_on_mesh
    def embed(self, prompts: Sequence[str]) -> Float[Array, "B S D"]:
        """Text embeddings, zero after the end of each text."""
        if isinstance(prompts, str):
            raise RequestError("Texts are a list, even where there is one of them: [prompt].")
        ids, mask = self.tokenizer(prompts)
        encoder = self._use("text")
        # Two at a time, as one video needs: any number of them takes no other program.
        parts = [
            _embed(self.config.text, encoder, ids[i : i + 2], mask[i : i + 2])
            for i in range(0, len(ids), 2)
        ]
        if not self.in_place:
            self.params.pop("text")
        return jax.block_until_ready(parts[0] if len(parts) == 1 else jnp.concatenate(parts))

    @_on_mesh
    def look(self, images: UInt8[np.ndarray, "I H W 3"]) -> Float[np.ndarray, "S D"]:
        """The tokens of images, one image after another."""
        from vjax.video import fitting

        squares = fitting.squares(images, self.config.image.side)
        tokens = _look(self.config.image, self.params["image"], squares)
        return np.asarray(meshes.readable(tokens)).reshape(-1, tokens.shape[-1])

    @_on_mesh
    def encode(
        self,
        video: Float[Array | np.ndarray, "B T H W 3"] | UInt8[Array | np.ndarray, "B T H W 3"],
    ) -> Float[Array, "B t h w C"]:
        """Video in [-1, 1], or of pixels in 0..255, to normalised latents, one after another.

        Raises:
            ValueError: it has not 1 + 4 k frames (or as the VAE), or a size that does not divide.
        """
        check_video(self.config.vae, video.shape)
        dtype = jnp.uint8 if video.dtype == jnp.uint8 else jnp.float32
        stream = self._encoding(video.shape)
        parts = _by_latents(self.config.vae, video.shape[1])
        latents = stream.run(lambda some: jnp.asarray(video[:, some], dtype), parts)
        return jnp.concatenate(list(latents), axis=1)

    @_on_mesh
    def decode(self, z: Float[Array | np.ndarray, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Normalised latents to video in [-1, 1], not clipped, one after another."""
        step = functools.partial(_decode, self.config.vae, self.params["vae"], dtype=None)
        stream = self._decoding(z.shape, step)
        frames = stream.run(lambda i: jnp.asarray(z[:, i : i + 1], jnp.float32), range(z.shape[1]))
        return jnp.concatenate(list(frames), axis=1)

    @_on_mesh
    def velocity(
        self,
        z: Float[Array | np.ndarray, "B t h w C"],
        t: Real[Array | np.ndarray, " B"]
        | Real[Array | np.ndarray, "B t"]
        | Real[Array | np.ndarray, "B t h w"],
        text: Float[Array | np.ndarray, "B S D"],
        *,
        expert: Literal["dit", "low"] = "dit",
        **inputs: Any,
    ) -> Float[Array, "B t h w C"]:
        """Velocity (noise minus data) at time `t`: one per clip, latent frame or position.

        Args:
            expert: which of two transformers.
            inputs: what else the network takes, by its name there (`DiT.__call__`): `channels`,
                `control`, `image`, `frame_rate`; and `positions`, if not 0, 1, ….
        """
        positions = jnp.arange(z.shape[1], dtype=jnp.float32)
        inputs = {"positions": positions, **inputs}
        return _velocity(self.config.dit, self._use(expert), z, t, text, inputs, self.dtype)

    @_on_mesh
    def noise(
        self, seeds: Sequence[int], window: int, shape: tuple[int, ...]
    ) -> tuple[Float[Array, "B t h w C"], Key[Array, " B"]]:
        """What a window of videos starts from, and their keys for noise on the way."""
        return _noise(np.asarray(seeds, np.uint32), np.uint32(window), shape)

    @_on_mesh
    def start(self, condition: Condition, noise: Float[Array, "B t h w C"], keys, method) -> Any:
        """The solver's state before the first step, see `sampler.start`."""
        return _start(condition, noise, method.times[0], keys, method.solver)

    @_on_mesh
    def advance(self, condition: Condition, state: Any, begin, end, method) -> Any:
        """The state after steps `begin` to `end` - 1, see `sampler.advance`; donates the state.

        Where there are two experts, each makes its own of these steps.
        """
        for expert, low, high, guidance in method.parts(self.config.boundary, begin, end):
            state = _advance(
                self.config.dit,
                self._use(expert),
                condition,
                state,
                method.times,
                low,
                high,
                method.solver,
                jnp.float32(guidance),
                guidance != 1,
                self.dtype,
                method.tiles,
                method.told,
            )
        return state

    @_on_mesh
    def decode_next(
        self, latents: Float[np.ndarray, "B 1 h w C"], past: Any
    ) -> tuple[UInt8[Array, "B T H W 3"], Any]:
        """The frames of the next latent, and what those after it need; donates the past."""
        return _decode(self.config.vae, self.params["vae"], latents, past, jnp.uint8)

    @_on_mesh
    def encode_pixels(
        self, frames: Real[np.ndarray, "T H W 3"] | Real[Reel, "T H W 3"]
    ) -> Float[np.ndarray, "t h w C"]:
        """Frames to normalised latents on the host, of which a few are in memory at a time.

        They are pixels in 0..255, or float in [-1, 1].
        """
        check_video(self.config.vae, (1, *frames.shape))
        stream = self._encoding((1, *frames.shape))
        parts = _by_latents(self.config.vae, len(frames))
        latents = stream.run(lambda some: frames[some][None], parts)
        return np.concatenate([np.asarray(meshes.readable(z))[0] for z in latents])

    def decoding(self, shape: tuple[int, ...]) -> coding.Stream:
        """Decodes latents [B t h w C] as they come, in tiles where there is no room for whole ones.

        Parts are of one latent each, and become pixels in 0..255.
        """
        return self._decoding(shape, self.decode_next)

    def _decoding(self, shape: tuple[int, ...], step: Callable) -> coding.Stream:
        clips, _, height, width, _ = shape
        tiles = self._tiles(clips * coding.decoding(self.config.vae), height, width)
        return coding.Stream(step, tiles, 1, self.config.vae.spatial_ratio)

    def _encoding(self, shape: tuple[int, ...]) -> coding.Stream:
        """The same for frames [B T H W 3], which become normalised latents."""
        side, clips = self.config.vae.spatial_ratio, shape[0]
        height, width = (length // side for length in shape[2:4])
        tiles = self._tiles(clips * coding.encoding(self.config.vae), height, width)
        step = functools.partial(_encode, self.config.vae, self.params["vae"])
        return coding.Stream(step, tiles, side, 1)

    def _tiles(self, each: float, height: int, width: int) -> Tiles:
        devices = 1 if self.mesh is None else self.mesh.size
        return coding.tiles_of(each, height, width, self._room, devices)

    def everywhere(self, tree: Any) -> Any:
        """What every process of a run has alike, as programs over all of their devices take it."""
        if self.mesh is None or jax.process_count() == 1:
            return tree
        return meshes.replicated(self.mesh, tree)
