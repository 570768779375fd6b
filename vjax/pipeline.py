"""A loaded model: text encoder, DiT and VAE put together, from `Timeline` to frames."""

import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Unpack

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from vjax import loras, memory, planning, progress, weights
from vjax import method as methods
from vjax.config import MeshConfig
from vjax.method import Method
from vjax.order import SAMPLING, Sampling
from vjax.parallel import mesh as meshes
from vjax.planning import Plan
from vjax.rollout import Rollout, SamplingError
from vjax.timeline import RequestError, Timeline


def load(
    name: str | os.PathLike = "default",
    dtype: str | None = None,
    mesh: MeshConfig | None = None,
    lora: Any = (),
    int8: bool = False,
) -> "Pipeline":
    """A model that is ready to use.

    Its networks come from its files straight onto the devices. The text encoder, which can be the
    largest, does so whenever it is used.

    Args:
        name: of one that ships in the package; or its directory, a bundle or one of diffusers'
            layout; or its id on the Hugging Face hub, owner/name.
        dtype, mesh, int8: as in `Pipeline`.
        lora: LoRA files to change it with, in the order that they are given: "FILE", "FILE:0.8" or
            ("FILE", 0.8), with a scale that is 1 if none is said. Of a model with two experts both
            are changed, or that of "FILE@high" or "FILE@low". A warning says how much of each file
            was applied.

    Raises:
        BundleError: there is no such model, or its files do not fit it.
        ConfigError: the devices cannot share it so.
        RequestError: `lora` is not given so.
    """
    bundle = weights.open(os.fspath(name), loras=loras.of(lora))
    for note in bundle.notes:
        warnings.warn(note, stacklevel=2)
    return Pipeline(bundle, dtype, mesh, int8)


class Pipeline(Rollout):
    """Makes videos from timelines; its stages can be called on their own."""

    def __repr__(self) -> str:
        model = self.config
        shape = f"{model.frames} frames of {model.width}x{model.height} at {model.fps:g} fps"
        made = f", made by {model.origin}" if model.origin else ""
        return f"<Pipeline {model.name}: {shape}, licence {model.licence}{made}>"

    # --- From request to frames ------------------------------------------------------------------

    def plan(self, timeline: Timeline) -> Plan:
        """What will be made of a timeline and what the user should know of it.

        Raises:
            RequestError: the model cannot make it.
        """
        return planning.plan(timeline, self.config, self.tokenizer)

    def __call__(
        self,
        timeline: Timeline | Plan,
        *,
        seed: int = 0,
        noise: Float[Array | np.ndarray, "B t h w C"] | None = None,
        variations: int | None = None,
        on_step: Callable[[int], bool | None] | None = None,
        **sampling: Unpack[Sampling],
    ) -> UInt8[np.ndarray, "T H W 3"] | UInt8[np.ndarray, "B T H W 3"]:
        """The video of a timeline, at `plan(timeline).fps` frames a second.

        Args:
            seed: decides the initial noise; the same request, seed and machine give the same bytes.
            noise: initial latents in place of the seed's, to repeat a run made elsewhere.
            variations: this many videos, with seeds `seed`, `seed` + 1, …, stacked.
            on_step: is told after every step how many are done; True stops, with `Cancelled`.
            **sampling: `steps`, `guidance`, `solver`, `shift`: how to sample; None, or not given:
                as the model prefers. `low_guidance` is that of the second expert of a model with
                two, where it is not `guidance`.

        Raises:
            RequestError: the model cannot make what is asked for. Nothing has been computed then.
            SamplingError, Cancelled: what was made is no video, or `on_step` stopped it; variations
                that were whole by then are the error's `finished`.
        """
        count = 1 if variations is None else variations
        plan, method = self.check(timeline, seed=seed, variations=count, **sampling)
        if noise is not None:
            self._check_noise(noise, plan, count)
        # In turn: each video has the bytes that it has alone, and memory does not grow.
        width, height = plan.size
        videos = np.empty((count, plan.frames, height, width, 3), np.uint8)
        with progress.Steps(count * plan.windows * method.steps, on_step=on_step) as watched:
            for i, video in enumerate(videos):
                given = None if noise is None else noise[i : i + 1]
                made = 0
                try:
                    for chunk in self.frames([plan], [seed + i], method, watched, noise=given):
                        video[made : made + chunk.shape[1]] = chunk[0]
                        made += chunk.shape[1]
                except (progress.Cancelled, SamplingError) as error:
                    error.finished = None if variations is None else videos[:i]
                    raise
        return videos[0] if variations is None else videos

    def stream(
        self,
        timeline: Timeline | Plan,
        *,
        seed: int = 0,
        on_step: Callable[[int], bool | None] | None = None,
        **sampling: Unpack[Sampling],
    ) -> Iterator[UInt8[np.ndarray, "t H W 3"]]:
        """The same video as that of a call, in pieces, as they are made.

        Memory does not grow with its length. Arguments and errors are those of a call; the request
        is checked at once, before the first piece is asked for.
        """
        plan, method = self.check(timeline, seed=seed, **sampling)

        def frames() -> Iterator[np.ndarray]:
            with progress.Steps(plan.windows * method.steps, on_step=on_step) as watched:
                for chunk in self.frames([plan], [seed], method, watched):
                    yield chunk[0]

        return frames()

    def sample_batch(
        self,
        requests: Sequence[Timeline],
        seeds: Sequence[int],
        *,
        start: tuple[UInt8[np.ndarray, "B T H W 3"], float] | None = None,
        on_step: Callable[[int], bool | None] | None = None,
        **sampling: Unpack[Sampling],
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """The videos of several timelines at once; each is made from its own seed and prompts.

        Args:
            requests: of one size and length, with the same frames known.
            start: clips and a time t: sampling starts at t, from the clips noised to it, instead of
                from noise alone. Tells at which noise level a model fails.

        Raises:
            RequestError: the model cannot make one of them, or not all at once.
        """
        checked = [
            self.check(each, seed=seed, at_once=len(requests), **sampling)
            for each, seed in zip(requests, seeds, strict=True)
        ]
        plans, method = [plan for plan, _ in checked], checked[0][1]
        first = plans[0].canvas
        for plan in plans:
            canvas = plan.canvas
            same = (canvas.frames, canvas.width, canvas.height, canvas.fps) == (
                (first.frames, first.width, first.height, first.fps)
            )
            guides = [(guide.at, len(guide.frames)) for guide in canvas.guides]
            alike = guides == [(guide.at, len(guide.frames)) for guide in first.guides]
            alike &= canvas.weakest == first.weakest
            alike &= plan.segments == plans[0].segments
            alike &= bool(plan.timeline.source_prompt) == bool(plans[0].timeline.source_prompt)
            if not same or not alike or (canvas.known != first.known).any():
                raise RequestError(
                    "Videos that are made at once have one size, length and frame rate, the same "
                    "frames known, the same times guided and the same cuts."
                )
        source = None
        if start is not None:
            clips, t = start
            shape = (first.frames, first.height, first.width, 3)
            if len(first.given) or not 0 < t <= 1 or clips.shape[1:] != shape:
                raise RequestError(
                    "Sampling starts from clips of the same shape at a time above 0 and up to 1, "
                    "where no frames are known."
                )
            times = jnp.concatenate([jnp.float32(t)[None], method.times[method.times < t]])
            method = dataclasses.replace(method, times=times, told=None)
            source = [self.on_grid(clips, segment) for segment in plans[0].segments]
        steps = plans[0].windows * method.steps
        with progress.Steps(steps, on_step=on_step, quiet=True) as watched:
            chunks = self.frames(plans, seeds, method, watched, source=source)
            return np.concatenate(list(chunks), axis=1)

    def check(
        self,
        timeline: Timeline | Plan,
        *,
        seed: int = 0,
        variations: int = 1,
        at_once: int = 1,
        **sampling: Unpack[Sampling],
    ) -> tuple[Plan, Method]:
        """Raises RequestError for what this model cannot make, before anything is computed."""
        if not isinstance(timeline, Timeline | Plan):
            raise RequestError(
                "A video is made of what a verb returns, "
                f"such as vjax.text(prompt), got {timeline!r}."
            )
        plan = timeline if isinstance(timeline, Plan) else self.plan(timeline)
        if not _is_whole(variations) or variations < 1:
            raise RequestError(f"At least 1 variation is needed, got {variations}.")
        if not _is_whole(seed) or not 0 <= seed <= 2**32 - variations:
            last = "" if variations == 1 else f", and the last of {variations} variations has one"
            raise RequestError(f"A seed is a whole number from 0 to {2**32 - 1}{last}; got {seed}.")
        if unknown := sampling.keys() - SAMPLING:
            names = ", ".join(sorted(unknown))
            raise TypeError(f"{names} is no option of sampling: choose from {', '.join(SAMPLING)}.")
        if sampling.get("low_guidance") is not None and self.config.boundary is None:
            raise RequestError(f"{self.config.name} has no second expert for low_guidance.")
        method = methods.of(plan, self.config.sampler, sampling)
        self._check_memory(plan, method)
        if self.mesh is not None and not self.in_place:
            try:
                meshes.check_samples(self.mesh, at_once * (1 + method.config.guided))
            except ValueError as error:
                raise RequestError(str(error)) from error
        return plan, method

    def _check_memory(self, plan: Plan, method: Method) -> None:
        guided = method.config.guided
        need = memory.needed(
            self.config, plan, str(self.dtype), guided, self.mesh_config, self.int8
        )
        need.check(self.config.name)

    def _check_noise(self, noise, plan: Plan, count: int) -> None:
        if plan.windows != 1:
            raise RequestError("Initial noise can be given for requests that are made in one go.")
        side = self.config.vae.spatial_ratio
        sides = [length // side for length in plan.size[::-1]]
        (window,) = plan.segments[0].windows
        latents = window.stop - window.start
        latents += len(plan.references) if self.config.conditioning == "control" else 0
        wanted = (count, latents, *sides, self.config.vae.z_dim)
        if noise.shape != wanted:
            raise RequestError(
                f"The given noise has shape {noise.shape}, this request needs {wanted}."
            )


def _is_whole(number: Any) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)
