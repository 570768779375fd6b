"""vjax beside diffusers on the same random weights: each network, and a whole video.

Both have what a loaded pipeline has, and are called as its users call it. Ways take turns.
"""

import copy
import functools
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import vjax
from vjax import stages
from vjax.benchmarks import published, rounds
from vjax.benchmarks.rounds import Way
from vjax.config import ConfigError, DiTConfig, ModelConfig, SamplerConfig, TextConfig, VAEConfig
from vjax.models.flops import decode_flops, dit_flops, encode_flops, text_flops

PROMPT = "a red ball rolls down a long green hill while the sun sets behind the trees"
NEGATIVE = "blurred"
GUIDANCE = 5.0
FIGURES = ("seconds", "ratio", "gflops_per_second", "peak_gigabytes", "difference")
PARTS = ("step", "encode", "decode", "text", "video")

Clip = tuple[int, int, int]  # frames, height, width


class Sizes(NamedTuple):
    """What is compared: a model, and clips whose latents its DiT takes a step on, and so on."""

    model: ModelConfig
    step: tuple[Clip, ...]
    vae: tuple[Clip, ...]
    video: Clip


# The published VAE and a DiT that two cores run in seconds, at 2,048 and 8,192 tokens.
CPU = Sizes(
    ModelConfig(
        "small",
        DiTConfig(width=512, depth=8, heads=8, head_dim=64, ffn=2048, text_width=512),
        VAEConfig(),
        TextConfig(vocab=4096, width=512, depth=8, heads=8, head_dim=64, ffn=1024),
        conditioning="renoise",
        sampler=SamplerConfig(shift=3.0),
    ),
    step=((13, 256, 512), (29, 512, 512)),
    vae=((5, 96, 96), (9, 160, 160)),
    video=(9, 160, 160),
)
# Wan 2.1 1.3B as it is published.
WHOLE = (81, 480, 832)
GPU = Sizes(
    ModelConfig("Wan 2.1 1.3B", DiTConfig(), VAEConfig(), TextConfig(), conditioning="renoise"),
    step=(WHOLE,),
    vae=(WHOLE,),
    video=WHOLE,
)


def prepare() -> dict[str, str]:
    """The versions of what there is to compare with; called before JAX has a device.

    Raises:
        ConfigError: there is nothing.
    """
    try:
        import diffusers
        import torch
        import transformers
    except ImportError as error:
        raise ConfigError(
            f"The peers are not all here ({error}): pip install 'vjax[peers]'."
        ) from error
    # Else JAX takes most of a GPU's memory at once, and leaves torch none.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return {each.__name__: each.__version__ for each in (torch, diffusers, transformers)}


def sizes() -> Sizes:
    """Those for the device that is here.

    Raises:
        ConfigError: torch cannot use it.
    """
    import torch

    backend = jax.default_backend()
    if backend == "cpu":
        return CPU
    if backend != "gpu":
        raise ConfigError(f"diffusers does not run on {backend}: set JAX_PLATFORMS=cpu.")
    if not torch.cuda.is_available():
        raise ConfigError(
            "This torch has no CUDA, JAX has: install another build of torch (pytorch.org), or set "
            "JAX_PLATFORMS=cpu."
        )
    return GPU


class Peers:
    """A pipeline of diffusers and ours, with the same weights; the parts measure them.

    Args:
        compiled: whether diffusers is measured under `torch.compile`, too.
    """

    def __init__(self, sizes: Sizes, runs: int, compiled: bool = True):
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        self.sizes, self.runs, self.torch = sizes, runs, torch
        self.on_gpu = jax.default_backend() == "gpu"
        self.device, dtype = ("cuda", "bfloat16") if self.on_gpu else ("cpu", "float32")
        self.dtype = getattr(torch, dtype)
        self.without = None if compiled else "left out"  # why diffusers is not compiled
        self.eager = published.wan_pipeline(sizes.model, self.device, dtype)
        # Ours reads its text encoder there whenever it is needed, and keeps it no longer.
        self.directory = tempfile.TemporaryDirectory()
        self.eager.save_pretrained(self.directory.name)
        self.ours = vjax.load(self.directory.name, dtype=dtype)

    @functools.cached_property
    def compiled(self) -> Any:
        """The same pipeline of diffusers, each network under `torch.compile`."""
        compile, vae = self.torch.compile, copy.copy(self.eager.vae)
        networks = {name: compile(getattr(vae, name)) for name in ("encoder", "decoder")}
        vae.__dict__["_modules"] = {**vae._modules, **networks}
        parts = self.eager.components
        networks = {name: compile(parts[name]) for name in ("transformer", "text_encoder")}
        pipe = type(self.eager)(**{**parts, **networks, "vae": vae})
        pipe.set_progress_bar_config(disable=True)
        return pipe

    # --- The parts: each gives figures by the name of what was measured --------------------------

    def step(self) -> dict[str, dict]:
        """The velocity of a clip without guidance."""
        found = {}
        for clip in self.sizes.step:
            z, dit = self._noise(self._latent(clip)), self.sizes.model.dit
            text = self._noise((1, self.sizes.model.text.max_length, dit.text_width))
            t = jnp.array([0.5])
            theirs = self._torch(z), self.torch.tensor([500.0]).to(self.device), self._torch(text)

            def run(pipe, theirs=theirs):
                return pipe.transformer(*theirs, return_dict=False)[0]

            tokens = z.size // z.shape[-1] // (dit.patch[1] * dit.patch[2])
            found[f"step {tokens} tokens"] = self._compare(
                functools.partial(self.ours.velocity, z, t, text),
                run,
                dit_flops(dit, tokens, text.shape[1]),
            )
        return found

    def encode(self) -> dict[str, dict]:
        """A clip to normalised latents."""
        found = {}
        for clip in self.sizes.vae:
            video = jnp.tanh(self._noise((1, *clip, 3)))
            theirs = self._torch(video, self.torch.float32)

            def run(pipe, theirs=theirs):
                mean, std = self._statistics(pipe)
                return (pipe.vae.encode(theirs).latent_dist.mode() - mean) / std

            found[f"encode {_said(clip)}"] = self._compare(
                functools.partial(self.ours.encode, video),
                run,
                encode_flops(self.sizes.model.vae, *clip),
            )
        return found

    def decode(self) -> dict[str, dict]:
        """Normalised latents to a clip."""
        found = {}
        for clip in self.sizes.vae:
            z = self._noise(self._latent(clip))
            theirs = self._torch(z, self.torch.float32)

            def run(pipe, theirs=theirs):
                mean, std = self._statistics(pipe)
                return pipe.vae.decode(theirs * std + mean, return_dict=False)[0]

            found[f"decode {_said(clip)}"] = self._compare(
                functools.partial(self.ours.decode, z),
                run,
                decode_flops(self.sizes.model.vae, *clip),
                lambda x: np.clip(x, -1, 1),
            )
        return found

    def text(self) -> dict[str, dict]:
        """A text to what the DiT reads, with an encoder that is on the device already."""
        text = self.ours.config.text
        length = text.max_length

        def run(pipe):
            given = {"do_classifier_free_guidance": False, "max_sequence_length": length}
            return pipe.encode_prompt(PROMPT, **given)[0]

        flops = text_flops(text, length)
        encoder = self.ours._use("text")

        def ours():
            return stages._embed(text, encoder, *self.ours.tokenizer([PROMPT]))

        name = f"text {length} tokens"
        return {name: self._compare(ours, run, flops, channels_first=False)}

    def video(self, steps: int) -> dict[str, dict]:
        """A whole video from two texts, with guidance."""
        clip, model = self.sizes.video, self.sizes.model
        (frames, height, width), z = clip, self._noise(self._latent(self.sizes.video))
        asked = vjax.text(PROMPT, negative=NEGATIVE, frames=frames, size=(width, height))
        theirs = self._torch(z, self.torch.float32)

        def run(pipe):
            return pipe(
                PROMPT,
                NEGATIVE,
                height=height,
                width=width,
                num_frames=frames,
                num_inference_steps=steps,
                guidance_scale=GUIDANCE,
                latents=theirs,
                max_sequence_length=model.text.max_length,
                output_type="pt",
                return_dict=False,
            )[0]

        ours = functools.partial(
            self.ours, asked, steps=steps, guidance=GUIDANCE, shift=model.sampler.shift, noise=z
        )
        tokens = z.size // z.shape[-1] // (model.dit.patch[1] * model.dit.patch[2])
        flops = decode_flops(model.vae, *clip) + 2 * (
            text_flops(model.text, model.text.max_length)
            + steps * dit_flops(model.dit, tokens, model.text.max_length)
        )
        name = f"video {_said(clip)} {steps} steps"
        return {name: self._compare(ours, run, flops, lambda x: x / 255, video=True)}

    # --- What they share -------------------------------------------------------------------------

    def _compare(
        self,
        ours: Callable[[], Any],
        theirs: Callable[[Any], Any],
        flops: int,
        result: Callable[[np.ndarray], np.ndarray] = lambda x: x,
        channels_first: bool = True,
        video: bool = False,
    ) -> dict[str, Any]:
        def finished(pipe):
            with self.torch.inference_mode():
                found = theirs(pipe)
            if self.on_gpu:
                self.torch.cuda.synchronize()
            return found

        def array(x) -> np.ndarray:
            x = x.float().cpu().numpy()
            if video:  # frames before channels
                return np.moveaxis(x[0], 1, -1)
            return np.moveaxis(x, 1, -1) if channels_first else x

        ways = {
            "vjax": Way(
                lambda: jax.block_until_ready(ours()), lambda x: result(np.asarray(x, np.float32))
            ),
            "diffusers": Way(functools.partial(finished, self.eager), array),
        }
        note = self.without
        if note is None:
            try:
                finished(self.compiled)
                ways["compiled"] = Way(functools.partial(finished, self.compiled), array)
            except Exception as error:  # no compiler, or one that fails on this network
                note = str(error).strip().splitlines()[0][:200] or type(error).__name__
        memory = rounds.device_memory if self.on_gpu else rounds.host_memory
        found: dict[str, Any] = rounds.compare(ways, flops, self.runs, memory)
        return found if note is None else found | {"compiled": f"not measured: {note}"}

    def _latent(self, clip: Clip) -> tuple[int, ...]:
        vae = self.sizes.model.vae
        frames, height, width = clip
        side = vae.spatial_ratio
        return (1, 1 + (frames - 1) // vae.temporal_ratio, height // side, width // side, vae.z_dim)

    def _noise(self, shape: tuple[int, ...]) -> jax.Array:
        return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)

    def _torch(self, x: jax.Array, dtype: Any = None) -> Any:
        x = np.asarray(x) if x.ndim < 4 else np.moveaxis(np.asarray(x), -1, 1)
        return self.torch.tensor(np.ascontiguousarray(x)).to(self.device, dtype or self.dtype)

    def _statistics(self, pipe: Any) -> tuple[Any, Any]:
        config = self.eager.vae.config
        mean, std = (
            self.torch.tensor(x, device=self.device)[None, :, None, None, None]
            for x in (config.latents_mean, config.latents_std)
        )
        return mean, std


def table(name: str, ways: Mapping[str, Any]) -> Iterator[str]:
    """What was measured of a part, for people: a row for each way."""
    heads = ("seconds", "by vjax's", "GFLOP/s", "peak GB", "difference")
    yield f"{name:32}" + "".join(f"{head:>12}" for head in heads)
    for way, figures in ways.items():
        if isinstance(figures, str):
            yield f"    {way:28}  {figures}"
            continue
        cells = [format(figures[key], ".4g") if key in figures else "" for key in FIGURES]
        yield f"    {way:28}" + "".join(f"{cell:>12}" for cell in cells)


def _said(clip: Clip) -> str:
    frames, height, width = clip
    return f"{frames}x{height}x{width}"
