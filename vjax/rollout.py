"""From a plan to frames: segment by segment, window by window, decoded as soon as may be."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from vjax import conditioning, sampler, seams, spans
from vjax.anchors import Clip
from vjax.parallel import mesh as meshes
from vjax.planning import Plan
from vjax.segments import Segment, Window, closes
from vjax.stages import Stages
from vjax.tones import toned

Frames = UInt8[np.ndarray, "t H W 3"]
Texts = tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]  # the prompt, the negative, all said


class SamplingError(ValueError):
    """What was made is no video; the message says what may help.

    `finished` are the variations that were whole by then, stacked; None: one video was asked for.
    """

    finished: np.ndarray | None = None


@dataclasses.dataclass
class Known:
    """What a segment knows of one request, and what its windows have made of it so far."""

    plan: Plan
    texts: Texts
    given: Float[np.ndarray, "t h w C"]
    strength: Float[np.ndarray, "t #h #w 1"]
    beside: Mapping[str, np.ndarray]  # what the network takes of each latent
    inputs: Mapping[str, Any]  # and of the whole, by the names of its arguments
    latents: Float[np.ndarray, "t h w C"]
    clips: dict[Clip, np.ndarray] = dataclasses.field(default_factory=dict)  # of the last window


class Rollout(Stages):
    """Makes the frames of plans that know the same frames, a batch of one or more at once."""

    # What the plans before said: variations say the same, and a text encoder's files are large.
    _told: tuple[list[Plan], list[Texts]] = ([], [])

    def frames(
        self, plans, seeds, method, watched, *, source=None, noise=None
    ) -> Iterator[np.ndarray]:
        """The frames [B t H W 3] of plans that know the same frames, piece by piece."""
        if [id(plan) for plan in plans] != [id(plan) for plan in self._told[0]]:
            self._told = list(plans), [self._texts(plan) for plan in plans]
        texts = self._told[1]
        canvases = [plan.canvas for plan in plans]
        done, window = 0, 0  # frames, windows
        for number, segment in enumerate(plans[0].segments):
            yield from _given(canvases, done, segment.first)
            begin = None if source is None else source[number]
            made = self._segment(
                plans, segment, texts, seeds, method, watched, window, begin, noise
            )
            done = segment.first
            # What published models make is left as it is published.
            led = self.config.conditioning == "anchors"
            if led:
                made = seams.joined(made, canvases, done, plans[0].cuts)
            for chunk in made:
                for frames, canvas in zip(chunk, canvases, strict=True):
                    given, strength = canvas.cut(done, done + len(frames))
                    _put_back(frames, given, strength, plans[0].blur, led)
                done += chunk.shape[1]
                yield chunk
            window += len(segment.windows)
        yield from _given(canvases, done, canvases[0].shown)

    def on_grid(self, clips: np.ndarray, segment: Segment) -> np.ndarray:
        """The latents of clips on the grid of a segment; their last frame goes on beyond them."""
        count = 1 + self.config.vae.temporal_ratio * (segment.latents - 1)
        at = np.minimum(segment.start + np.arange(count), clips.shape[1] - 1)
        return np.stack([self.encode_pixels(clip[at]) for clip in clips])

    def _texts(self, plan: Plan) -> Texts:
        """The embeddings [S D] of the prompt, of the negative one and of all that is said."""
        said = [text for line in plan.script.lines for text in (line.text, line.source)]
        said.append(plan.timeline.source_prompt)
        said = list(dict.fromkeys(filter(None, said)))
        spare = [""] * (len(said) % 2)
        texts = self.embed([plan.script.prompt, plan.timeline.negative, *said, *spare])
        prompt, negative, *lines = np.asarray(meshes.readable(texts))
        return prompt, negative, dict(zip(said, lines, strict=False))

    def _segment(
        self, plans, segment: Segment, texts, seeds, method, watched, made, source, noise
    ) -> Iterator[np.ndarray]:
        """The frames `first` to `stop` - 1 of a segment, as soon as their latents are there."""
        ratio = self.config.vae.temporal_ratio
        known = [self._known(*each, segment) for each in zip(plans, texts, strict=True)]
        there = np.zeros(segment.latents, bool)
        there[: segment.prefix] = not conditioning.beside(self.config)
        count = max(plan.texts for plan in plans)
        decoding, decoded = self.decoding((len(known), *known[0].latents.shape)), 0
        for number, window in enumerate(segment.windows):
            conditions = [self._condition(each, segment, window, count, there) for each in known]
            condition = jax.tree.map(lambda *parts: jnp.concatenate(parts), *conditions)
            place = slice(window.start, window.stop)
            if source is not None:  # where nothing is known
                begin = np.where(condition.strength > 0, condition.source, source[:, place])
                condition = dataclasses.replace(condition, source=jnp.asarray(begin))
            fresh = self._sample(condition, seeds, made + number, method, watched, noise)
            fresh = fresh[:, -(window.stop - window.start) :]  # without references
            new = ~there[place]
            there[place] = True
            there |= segment.ring
            for each, latents in zip(known, fresh, strict=True):
                each.latents[place][new] = latents[new]
                if segment.ring:
                    each.latents[: window.start] = each.latents[-window.start :]
            ready = len(there) if there.all() else int(there.argmin())
            parts = decoding.run(
                lambda i: np.stack([each.latents[i : i + 1] for each in known]),
                range(decoded, ready),
                last=ready == len(there),
            )
            for chunk in parts:
                begin = segment.start + (1 + ratio * (decoded - 1) if decoded else 0)
                low, high = (
                    min(max(n - begin, 0), chunk.shape[1]) for n in (segment.first, segment.stop)
                )
                if low < high:
                    yield np.array(meshes.readable(chunk)[:, low:high])
                decoded += 1

    def _known(self, plan: Plan, texts, segment: Segment) -> Known:
        """What a segment knows of a request before anything of it is made."""
        model, encode = self.config, self.encode_pixels
        latents, strength = conditioning.known_latents(plan.canvas, segment, model, encode)
        beside = conditioning.given_beside(plan.canvas, segment, model, encode)
        inputs = self._inputs(plan, segment)
        return Known(plan, texts, latents, strength, beside, inputs, latents.copy())

    def _clips(
        self, plan: Plan, window: Window, encoded: Mapping[Clip, np.ndarray]
    ) -> dict[Clip, np.ndarray]:
        """The latents of all that a window sees out of order; some are encoded already."""
        found = {
            clip: encoded[clip] if clip in encoded else self.encode_pixels(clip.frames(plan.canvas))
            for clip in dict.fromkeys(anchor.clip for anchor in window.anchors)
        }
        for clip in plan.references:
            found[clip] = encoded[clip] if clip in encoded else self._reference(plan, clip)
        return found

    def _reference(self, plan: Plan, clip: Clip) -> np.ndarray:
        """The latents of a reference, of which every tile sees the whole."""
        frames = np.asarray(clip.frames(plan.canvas))
        if (tiles := plan.tiles) is None:
            return self.encode_pixels(frames)
        from vjax import video

        side = self.config.vae.spatial_ratio
        latents = self.encode_pixels(video.fit(frames, side * tiles.width, side * tiles.height))
        width, height = (length // side for length in plan.size)
        beyond = height - tiles.height, width - tiles.width
        return np.pad(latents, [(0, 0), *((0, rest) for rest in beyond), (0, 0)])

    def _condition(
        self, known: Known, segment: Segment, window: Window, count: int, there: np.ndarray
    ) -> sampler.Condition:
        """What one window knows of one request.

        Args:
            count: of the texts that there is room for.
            there: which latents of the segment are known or made.
        """
        model, ratio = self.config, self.config.vae.temporal_ratio
        plan, latents, beside = known.plan, known.latents, known.beside
        known.clips = clips = self._clips(plan, window, known.clips)
        place = slice(window.start, window.stop)
        carried = there[place]
        source, kept = latents[place].copy(), known.strength[place].copy()
        later = [
            ((anchor.at - segment.start) / ratio, clips[anchor.clip][anchor.latent])
            for anchor in window.anchors
        ]
        references = [latent for clip in plan.references for latent in clips[clip]]
        inputs = dict(known.inputs)
        if model.conditioning != "anchors":
            for name, of_segment in beside.items():
                seen = conditioning.carried_beside(name, of_segment[place], carried, source)
                inputs[name] = conditioning.references_before(seen, references)
            if not beside:
                kept[carried] = 1
                conditioning.put_in_place(later, source, kept, window.start)
            ahead = [(len(references), 0), (0, 0), (0, 0), (0, 0)]
            source, kept = np.pad(source, ahead), np.pad(kept, ahead)
            later = []
        elif carried[-1:].any() and not carried.all() and not carried[0]:
            # What is known after what is to be made is an anchor, as known frames are.
            behind = window.start + int(np.argmax(carried))
            later += [(n, latents[n]) for n in range(behind, behind + plan.context)]
        else:
            kept[carried] = 1
        if closes(plan.canvas, segment, window):
            # Its end meets its start, which is made already.
            later += [(plan.frames / ratio + n, latents[n]) for n in range(plan.context)]
        ahead = len(references) if beside else 0
        text, negative, said = known.texts
        bias, origin, sources = None, None, [plan.timeline.source_prompt]
        if count > 1:
            heard = plan.heard(segment, window)
            sources += [line.source or sources[0] for line in heard]
            sources += sources[:1] * (count - len(sources))
            at = [segment.start + ratio * position for position, _ in later]
            frames = [*segment.frames_of(window, ratio), *spans.around(at)]
            nowhere = [spans.NEVER] * len(references)
            frames = [*nowhere, *frames] if beside else [*frames, *nowhere]
            bias = plan.script.bias(heard, frames, count, len(text))
            text = conditioning.in_a_row([text, *(said[line.text] for line in heard)], count)
            # One text in the place of each has the scores of one: what is heard is the same.
            negative = conditioning.in_a_row([negative] * count, count)
        elif line := plan.alone(segment, window):
            text = said[line.text]
            sources = [line.source or sources[0]]
        if sources[0]:
            shown = conditioning.in_a_row([said[source] for source in sources], count)
            origin = known.given[place], shown
        return conditioning.condition(
            source,
            kept,
            later,
            text,
            negative,
            references=() if beside else references,
            start=window.start - ahead,
            stretch=model.fps / plan.fps,
            ring=segment.ring,
            text_bias=bias,
            origin=origin,
            inputs=inputs,
        )

    def _inputs(self, plan: Plan, segment: Segment) -> dict[str, Any]:
        """What the network takes beside of a whole request."""
        dit, inputs = self.config.dit, {}
        if dit.frame_rates:
            inputs["frame_rate"] = conditioning.nearest_rate(dit, plan.fps)
        if dit.image_width:
            last = segment.last(plan.canvas.frames, self.config.vae.temporal_ratio)
            shown = conditioning.looked_at(dit, last - segment.start)
            cuts = [plan.canvas.cut(segment.start + n, segment.start + n + 1) for n in shown]
            images = [frames[0] for frames, _ in cuts]
            inputs["image"] = self.look(np.stack(images))
        return inputs

    def _sample(self, condition, seeds, window: int, method, watched, noise) -> np.ndarray:
        shape = condition.source.shape[1:]
        condition = self.everywhere(condition)
        told = None if method.told is None else self.everywhere(method.told)
        method = dataclasses.replace(method, times=self.everywhere(method.times), told=told)
        drawn, keys = self.noise(seeds, window, shape)
        if condition.origin is not None:
            origin = dataclasses.replace(condition.origin, keys=keys)
            condition = dataclasses.replace(condition, origin=origin)
        noise = drawn if noise is None else self.everywhere(jnp.asarray(noise, jnp.float32))
        if conditioning.one_time(self.config):
            condition = dataclasses.replace(condition, noise=noise)
        state = self.start(condition, noise, keys, method)

        def advance(state, begin, end):
            return self.advance(condition, state, begin, end, method)

        state = watched.run(advance, state, method.steps)
        latents = np.array(meshes.readable(sampler.finish(condition, state)))
        if not np.isfinite(latents).all():
            raise SamplingError(
                f"{self.config.name} computed NaN or infinity, so there is no video: "
                f"try a guidance nearer to {self.config.sampler.guidance:g}, another solver "
                "or dtype float32."
            )
        return latents


def _put_back(
    made: Frames,
    given: Frames,
    strength: Float[np.ndarray, "t #H #W 1"],
    blur: float,
    led: bool,
) -> None:
    """Puts what is given into decoded frames, and its tones, where these are kept.

    Pixels around what is kept are led to it, if they are to be.
    """
    for frame, same, known in zip(made, given, strength, strict=True):
        if blur and known.all():
            frame[:] = toned(frame, same, blur)
        if led:
            frame[:] = seams.around(frame, same, known >= 1)
        np.copyto(frame, same, where=known >= 1)


def _given(canvases, start: int, stop: int) -> Iterator[np.ndarray]:
    """The known frames [B t H W 3] from `start` to `stop` - 1, a few at a time."""
    for first in range(start, stop, 16):
        last = min(first + 16, stop)
        yield np.stack([canvas.cut(first, last)[0] for canvas in canvases])
