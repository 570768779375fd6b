"""A loaded model: text encoder, DiT and VAE put together, from `Timeline` to frames."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from textwrap import shorten

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8
from rich.console import Console

from vjax import conditioning, flow, models, progress, sampler, solvers, weights
from vjax import timeline as timelines
from vjax.config import DiTConfig
from vjax.models.text import words_of
from vjax.models.vae import to_float
from vjax.timeline import Canvas, RequestError, Timeline


def load(name: str | os.PathLike = "default") -> "Pipeline":
    """A model that is ready to use: the name of one that ships in the package, or its directory.

    Raises:
        BundleError: there is no such model, or its files do not fit it.
    """
    return Pipeline(weights.load(os.fspath(name)))


# --- One jitted function per job. Configs are static, everything else is an array. ---------------


@functools.partial(jax.jit, static_argnames="config")
def _embed(config, params, ids, mask):
    return models.bind(config, params)(ids, mask)


@functools.partial(jax.jit, static_argnames="config")
def _encode(config, params, video):
    vae = models.bind(config, params)
    return vae.normalise(vae.encode_stream(video)[0])


@functools.partial(jax.jit, static_argnames=("config", "dtype"))
def _decode(config, params, latents, dtype):
    vae = models.bind(config, params)
    return vae.decode_stream(vae.denormalise(latents), dtype)


@functools.partial(jax.jit, static_argnames="config")
def _velocity(config, params, z, t, text, positions):
    return models.bind(config, params)(z, t, text, positions=positions)


@functools.partial(jax.jit, static_argnames="solver")
def _start(condition, noise, t, keys, solver):
    return sampler.start(condition, noise, t, solver=solver, keys=keys)


@functools.partial(
    jax.jit, static_argnames=("config", "solver", "guided"), donate_argnames=("state",)
)
def _advance(
    config: DiTConfig, params, condition, state, times, begin, end, solver, guidance, guided
):
    dit = models.bind(config, params)

    def velocity(latents, t, text, positions, anchors, anchor_positions):
        return dit(
            latents,
            t,
            text,
            positions=positions,
            anchors=anchors,
            anchor_positions=anchor_positions,
        )

    return sampler.advance(
        velocity,
        condition,
        state,
        times,
        begin,
        end,
        solver=solver,
        guidance=guidance if guided else 1,
    )


class Pipeline:
    """Makes videos from timelines; its stages can be called on their own."""

    def __init__(self, bundle: weights.Bundle):
        self.config, self.tokenizer = bundle.config, bundle.tokenizer
        for network in weights.NETWORKS:
            if network not in bundle.params:
                raise weights.BundleError(
                    f"{self.config.name} has no {network}, so it cannot make videos on its own."
                )
        self.params = jax.device_put(bundle.params)

    # --- From request to frames ------------------------------------------------------------------

    def __call__(
        self,
        timeline: Timeline,
        *,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        shift: float | None = None,
        noise: Float[Array | np.ndarray, "B t h w C"] | None = None,
        variations: int | None = None,
        on_step: Callable[[int], bool | None] | None = None,
    ) -> UInt8[np.ndarray, "T H W 3"] | UInt8[np.ndarray, "B T H W 3"]:
        """The video of a timeline, at `canvas(timeline).fps` frames a second.

        Args:
            seed: decides the initial noise; the same request, seed and machine give the same bytes.
            steps, guidance, solver, shift: how to sample; None: as the model prefers.
            noise: initial latents in place of the seed's, to repeat a run made elsewhere.
            variations: this many videos, with seeds `seed`, `seed` + 1, …, stacked.
            on_step: is told after every step how many are done; True stops, with `Cancelled`.

        Raises:
            RequestError: the model cannot make what is asked for. Nothing has been computed then.
        """
        count = 1 if variations is None else variations
        canvas, method = self.check(
            timeline, seed=seed, steps=steps, solver=solver, variations=count
        )
        defaults = self.config.sampler
        steps = defaults.steps if steps is None else steps
        guidance = defaults.guidance if guidance is None else guidance
        times = flow.schedule(steps, defaults.shift if shift is None else shift)
        window = timelines.next_window(canvas, self.config)
        in_one_go = window is None or _leaves_nothing(canvas, *window)
        if noise is not None:
            self._check_noise(noise, canvas, window if in_one_go else None, count)
        text = self.embed([timeline.prompt, timeline.negative])
        # In turn: each video has the bytes that it has alone, and memory does not grow.
        videos = np.concatenate(
            [
                self._make(
                    [canvas],
                    [text],
                    [seed + i],
                    times,
                    method,
                    guidance,
                    noise=None if noise is None else noise[i : i + 1],
                    on_step=on_step,
                )
                for i in range(count)
            ]
        )
        return videos[0] if variations is None else videos

    def sample_batch(
        self,
        requests: Sequence[Timeline],
        seeds: Sequence[int],
        *,
        steps: int | None = None,
        guidance: float | None = None,
        solver: str | None = None,
        shift: float | None = None,
        start: tuple[UInt8[np.ndarray, "B T H W 3"], float] | None = None,
        on_step: Callable[[int], bool | None] | None = None,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Videos of several timelines at once, each from its own seed and prompts; draws no bar.

        Args:
            requests: of one size and length, with the same frames known.
            start: clips and a time t: sampling starts at t, from the clips noised to it, instead of
                from noise alone. Tells at which noise level a model fails.

        Raises:
            RequestError: the model cannot make one of them, or not all at once.
        """
        checked = [
            self.check(each, seed=seed, steps=steps, solver=solver)
            for each, seed in zip(requests, seeds, strict=True)
        ]
        canvases, method = [canvas for canvas, _ in checked], checked[0][1]
        first = canvases[0]
        if any(
            canvas.pixels.shape != first.pixels.shape
            or canvas.fps != first.fps
            or (canvas.known != first.known).any()
            for canvas in canvases
        ):
            raise RequestError(
                "Videos that are made at once have one size, length and frame rate, and the same "
                "frames known."
            )
        defaults = self.config.sampler
        times = flow.schedule(
            defaults.steps if steps is None else steps, defaults.shift if shift is None else shift
        )
        source = None
        if start is not None:
            clips, t = start
            if first.strength.any() or not 0 < t <= 1 or clips.shape[1:] != first.pixels.shape:
                raise RequestError(
                    "Sampling starts from clips of the same shape at a time above 0 and up to 1, "
                    "where no frames are known."
                )
            times = jnp.concatenate([jnp.float32(t)[None], times[times < t]])
            source = np.stack([self._encode_pixels(clip) for clip in clips])
        return self._make(
            canvases,
            [self.embed([each.prompt, each.negative]) for each in requests],
            seeds,
            times,
            method,
            defaults.guidance if guidance is None else guidance,
            source=source,
            on_step=on_step,
            quiet=True,
        )

    def _make(
        self,
        canvases,
        texts,
        seeds,
        times,
        method,
        guidance,
        *,
        source=None,
        noise=None,
        on_step,
        quiet=False,
    ) -> np.ndarray:
        """The frames [B T H W 3] of canvases that know the same frames, window by window."""
        made = 0
        window = timelines.next_window(canvases[0], self.config)
        while window is not None:
            start, end = window
            conditions = [
                conditioning.anchors(
                    timelines.cut(canvas, start, end), self.config, self._encode_pixels, *text
                )
                for canvas, text in zip(canvases, texts, strict=True)
            ]
            condition = jax.tree.map(lambda *parts: jnp.concatenate(parts), *conditions)
            if source is not None:
                condition = dataclasses.replace(condition, source=jnp.asarray(source))
            shape = condition.source.shape[1:]
            # One video's noise depends on its seed and window alone, not on its place in a batch.
            keys = jnp.stack([jax.random.fold_in(jax.random.key(seed), made) for seed in seeds])
            if noise is None:
                initial = jnp.stack([jax.random.normal(key, shape) for key in keys])
            else:
                initial = jnp.asarray(noise, jnp.float32)
            state = _start(condition, initial, times[0], keys, method)
            latents = self._sample(condition, state, times, method, guidance, on_step, quiet)
            decoded = np.asarray(_decode(self.config.vae, self.params["vae"], latents, jnp.uint8))
            canvases = [
                timelines.paste(canvas, start, video)
                for canvas, video in zip(canvases, decoded, strict=True)
            ]
            made += 1
            window = timelines.next_window(canvases[0], self.config)
        return np.stack([canvas.pixels for canvas in canvases])

    def _sample(self, condition, state, times, method, guidance, on_step, quiet) -> Array:
        def advance(state, begin, end):
            return _advance(
                self.config.dit,
                self.params["dit"],
                condition,
                state,
                times,
                begin,
                end,
                method,
                jnp.float32(guidance),
                guidance != 1,
            )

        console = Console(quiet=True) if quiet else None
        state = progress.run(advance, state, times.size - 1, on_step=on_step, console=console)
        return sampler.finish(condition, state)

    def canvas(self, timeline: Timeline) -> Canvas:
        """The timeline in this model's size, frame rate and length; checks all of it."""
        return timelines.on_canvas(timeline, self.config)

    def check(
        self,
        timeline: Timeline,
        *,
        seed: int = 0,
        steps: int | None = None,
        solver: str | None = None,
        variations: int = 1,
    ) -> tuple[Canvas, solvers.Solver]:
        """Raises RequestError for what this model cannot make, before anything is computed."""
        canvas = self.canvas(timeline)
        if steps is not None and steps < 1:
            raise RequestError(f"Sampling takes at least 1 step, got {steps}.")
        if variations < 1:
            raise RequestError(f"At least 1 variation is needed, got {variations}.")
        if not 0 <= seed <= 2**32 - variations:
            raise RequestError(f"A seed is a whole number from 0 to {2**32 - 1}, got {seed}.")
        try:
            method = solvers.solver(self.config.sampler.solver if solver is None else solver)
            sampler.check(method, canvas.strength)
        except ValueError as error:
            raise RequestError(str(error)) from error
        return canvas, method

    def warnings(self, timeline: Timeline) -> list[str]:
        """What the user should know of a request that can be served: one sentence each."""
        found, prompt = [], timeline.prompt
        known = set(self.config.vocabulary)
        words = words_of(prompt)
        if known and words - known:
            unknown = ", ".join(sorted(words - known))
            found.append(
                f"{self.config.name} was trained on a small world and cannot know: {unknown}."
            )
        for name, text in (("prompt", prompt), ("negative prompt", timeline.negative)):
            if lost := self.tokenizer.lost(text):
                found.append(
                    f"The {name} is longer than the {self.config.text.max_length} tokens that "
                    f"{self.config.name} reads; its end is left out: {shorten(lost, 80)}"
                )
        return found

    # --- Stages ----------------------------------------------------------------------------------

    def embed(self, prompts: Sequence[str]) -> Float[Array, "B S D"]:
        """Text embeddings, zero after the end of each text."""
        ids, mask = self.tokenizer(prompts)
        return _embed(self.config.text, self.params["text"], ids, mask)

    def encode(self, video: Float[Array | np.ndarray, "B T H W 3"]) -> Float[Array, "B t h w C"]:
        """Video in [-1, 1] to normalised latents."""
        return _encode(self.config.vae, self.params["vae"], jnp.asarray(video, jnp.float32))

    def decode(self, z: Float[Array | np.ndarray, "B t h w C"]) -> Float[Array, "B T H W 3"]:
        """Normalised latents to video in [-1, 1], not clipped."""
        return _decode(self.config.vae, self.params["vae"], jnp.asarray(z, jnp.float32), None)

    def velocity(
        self,
        z: Float[Array, "B t h w C"],
        t: Float[Array, " B"] | Float[Array, "B t"] | Float[Array, "B t h w"],
        text: Float[Array, "B S D"],
    ) -> Float[Array, "B t h w C"]:
        """Velocity (noise minus data) at time `t`: one per clip, latent frame or position."""
        positions = jnp.arange(z.shape[1], dtype=jnp.float32)
        return _velocity(self.config.dit, self.params["dit"], z, t, text, positions)

    def _encode_pixels(self, frames: UInt8[np.ndarray, "T H W 3"]) -> np.ndarray:
        return np.asarray(self.encode(to_float(frames[None])))[0]

    def _check_noise(self, noise, canvas: Canvas, window, count: int) -> None:
        if window is None:
            raise RequestError("Initial noise can be given for requests that are made in one go.")
        vae = self.config.vae
        frames = 1 + (window[1] - window[0] - 1) // vae.temporal_ratio
        sides = [side // vae.spatial_ratio for side in canvas.pixels.shape[1:3]]
        wanted = (count, frames, *sides, self.config.dit.in_channels)
        if noise.shape != wanted:
            raise RequestError(
                f"The given noise has shape {noise.shape}, this request needs {wanted}."
            )


def _leaves_nothing(canvas: Canvas, start: int, end: int) -> bool:
    """Whether all is known once the frames from `start` to `end` - 1 are."""
    return bool(canvas.known[: max(start, 0)].all() and canvas.known[end:].all())
