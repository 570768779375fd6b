"""What is known as a `Condition` for the sampler, in each way that a model takes it.

- "anchors" (ours): a prefix is encoded in place, which a causal VAE does exactly. Whatever is known
  later is encoded as its own short clip and appended as extra tokens with their true positions, and
  so is what guides without being shown. References have no time: they lie before all of a window.
- "first_frame" (Wan 2.2 TI2V): a prefix in place, whose tokens have time 0.
- "per_frame" (SkyReels-V2 DF): any frames in place, those later on as clips of their own.
- "renoise" (any text-to-video model, which has one time for all tokens): the same, and at each step
  they have the noise of that time.
- "channels" (Wan I2V, FLF2V): the whole clip, gray where nothing is known, is encoded and lies
  behind the noisy latents, after a mask.
- "control" (VACE): a second branch sees what is known, encoded in the same way, what is to change,
  and a mask; references are frames before all others.

Which latents count as known is decided here for sampling and training alike: see `per_patch`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from einops import pack, rearrange, reduce, repeat
from jaxtyping import Array, Float, Int

from vjax.canvas import Canvas
from vjax.config import DiTConfig, ModelConfig
from vjax.reel import Reel
from vjax.sampler import Condition, Origin
from vjax.segments import Segment

REFERENCE = 32.0  # native latent frames from the first of a window back to the first reference
REFERENCES_APART = 4.0


def per_patch(
    strength: Float[Array | np.ndarray, "*B t h w 1"], patch: tuple[int, int, int]
) -> Any:
    """The strength of latents, in the same shape, where each counts as the weakest of its patch.

    The network sees a patch as one token, and a token has one time.
    """
    if strength.shape[-3:-1] == (1, 1):
        return strength
    _, ph, pw = patch
    weakest = reduce(strength, "... t (h p) (w q) c -> ... t h w c", "min", p=ph, q=pw)
    return repeat(weakest, "... t h w c -> ... t (h p) (w q) c", p=ph, q=pw)


def of_pixels(
    strength: Float[np.ndarray, "T #H #W 1"], model: ModelConfig
) -> Float[np.ndarray, "1 #h #w 1"]:
    """The strength of the latent of some frames: that of their weakest pixel in each place."""
    if strength.shape[1:3] != (1, 1):
        side = model.vae.spatial_ratio
        strength = reduce(strength, "t (h p) (w q) c -> t h w c", "min", p=side, q=side)
    return per_patch(strength.min(axis=0, keepdims=True), model.dit.patch)


def condition(
    source: Float[np.ndarray, "t h w C"],
    strength: Float[np.ndarray, "t #h #w 1"],
    later: Sequence[tuple[float, Float[np.ndarray, "h w C"]]],
    text: Any,
    negative: Any,
    *,
    references: Sequence[Float[np.ndarray, "h w C"]] = (),
    start: int = 0,
    stretch: float = 1.0,
    ring: bool = False,
    text_bias: Float[np.ndarray, "F S"] | None = None,
    origin: tuple[Any, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
) -> Condition:
    """What a window knows, for a batch of one.

    Args:
        source: known latents in place; `strength`, how much of each is kept.
        later: latents that are anchors, and the latent position of each.
        text: embedding of the prompt, [S D]; `negative`, of what to steer away from.
        references: latents that have no time.
        start: the position of the first latent.
        stretch: native latent frames to a latent frame: more than 1 below the native frame rate.
        ring: the end meets the start.
        origin: latents [t h w C] as they were given, and the embedding of what they show.
        text_bias: of the latents in place, then of those that are later, then of references.
        inputs: what the network takes beside, by the name of its argument.
    """
    seen = [*(latent for _, latent in later), *references]
    nowhere = start * stretch + reference_positions(len(references))
    fields = {
        "source": np.where(strength > 0, source, 0),
        "strength": strength,
        "anchors": np.reshape(seen, (-1, *source.shape[1:])),
        "positions": (start + np.arange(len(source))) * stretch,
        "anchor_positions": [*(stretch * np.array([at for at, _ in later])), *nowhere],
        "text": text,
        "negative": negative,
    }
    if text_bias is not None:
        fields["text_bias"] = text_bias
    arrays = {name: jnp.asarray(x, jnp.float32)[None] for name, x in fields.items()}
    came = None
    if origin is not None:
        given, shown = (jnp.asarray(x, jnp.float32)[None] for x in origin)
        came = Origin(given, shown, references=len(references))
    beside = {name: jnp.asarray(x)[None] for name, x in (inputs or {}).items()}
    return Condition(**arrays, ring=ring, origin=came, inputs=beside)


def reference_positions(count: int) -> Float[np.ndarray, " {count}"]:
    """Where references lie on the time axis, next to the first latent of a window.

    Rotary positions only tell differences: these are the same in every window, whatever its rate,
    and further away than anything that has a time there.
    """
    return -REFERENCE - REFERENCES_APART * np.arange(count, dtype=np.float32)


def in_a_row(texts: Sequence[Float[np.ndarray, "s D"]], count: int) -> Float[np.ndarray, "S D"]:
    """Texts one after another, with room for so many: zeros where there are fewer."""
    row = np.concatenate(texts)
    return np.pad(row, ((0, count * len(texts[0]) - len(row)), (0, 0)))


def known_latents(
    canvas: Canvas,
    segment: Segment,
    model: ModelConfig,
    encode: Callable[[np.ndarray | Reel], np.ndarray],
) -> tuple[Float[np.ndarray, "t h w C"], Float[np.ndarray, "t #h #w 1"]]:
    """What is known in place of a segment, and how strongly.

    Args:
        encode: uint8 frames [T H W 3] to normalised latents [t h w C].
    """
    start, latents = segment.start, segment.latents
    ratio, side = model.vae.temporal_ratio, model.vae.spatial_ratio
    shape = (latents, canvas.height // side, canvas.width // side, model.vae.z_dim)
    stop = start + 1 + ratio * (latents - 1)
    if canvas.partly_known(start, stop) and not (beside(model) and not canvas.departs):
        # Something is known in part: encode the whole, and let each token keep its weakest pixel.
        # The last latent may reach beyond the end or a cut, where the last frame stands still.
        end = segment.end(canvas.frames)
        source, each = encode(canvas.between(start, stop, end)), []
        for n in range(latents):
            first = min(max(start + 1 + ratio * (n - 1), start), end - 1)
            last = max(min(start + 1 + ratio * n, end), first + 1)
            each.append(of_pixels(canvas.strength(first, last), model))
        sides = np.broadcast_shapes(*(strength.shape for strength in each))
        kept = np.concatenate([np.broadcast_to(strength, sides) for strength in each])
        if beside(model):  # the network is told what is known
            kept = np.where(kept < 1, kept, 0)
        np.copyto(source, 0, where=kept == 0)
        return source, kept
    source = np.zeros(shape, np.float32)
    kept = np.zeros((latents, 1, 1, 1), np.float32)
    if segment.prefix and not beside(model):
        known = start + 1 + ratio * (segment.prefix - 1)
        source[: segment.prefix] = encode(canvas.between(start, known, known))
        kept[: segment.prefix] = 1
    return source, kept


def beside(model: ModelConfig) -> bool:
    """Whether a model takes what is known beside its latents."""
    return model.conditioning in ("channels", "control")


def one_time(model: ModelConfig) -> bool:
    """Whether a model has one time for all tokens."""
    return beside(model) or model.conditioning == "renoise"


def looked_at(dit: DiTConfig, last: int) -> list[int]:
    """The frames that a model's image encoder looks at, where the last one has this number."""
    return [0, last] if dit.image_tokens else [0]


def nearest_rate(dit: DiTConfig, fps: float) -> np.int32:
    """Of the frame rates that a network is told apart, the index of the nearest."""
    return np.int32(np.abs(np.array(dit.frame_rates) - fps).argmin())


def in_channels(
    whole: Float[Array | np.ndarray, " T"],
    latents: Float[Array | np.ndarray, "t h w z"],
    model: ModelConfig,
) -> Any:
    """What lies behind noisy latents, [t h w C]: a mask of each one's frames, and what is known.

    Args:
        whole: 1 for each frame that is known, else 0.
        latents: those of the known frames, with gray between.
    """
    ratio = model.vae.temporal_ratio
    whole, _ = pack([repeat(whole[:1], "1 -> n", n=ratio - 1), whole], "*")
    _, h, w, _ = latents.shape
    mask = repeat(whole, "(t r) -> t h w r", r=ratio, h=h, w=w)
    return pack([mask, latents], "t h w *")[0]


def for_control(
    latents: Float[Array | np.ndarray, "t h w z"],
    changes: Float[Array | np.ndarray, "t h w z"],
    made: Float[Array | np.ndarray, "t H W 1"],
) -> Any:
    """What a control branch sees, [t h w C]: what is known, what is to change, a mask of pixels.

    Args:
        latents: those of the known pixels, on gray; `changes`, of those that are to change.
        made: 1 for each pixel that is made, else 0, of the frames of `middles`.
    """
    side = made.shape[1] // latents.shape[1]
    mask = rearrange(made, "t (h p) (w q) 1 -> t h w (p q)", p=side, q=side)
    return pack([latents, changes, mask], "t h w *")[0]


def middles(latents: int, frames: int) -> Int[np.ndarray, " {latents}"]:
    """The frame in the middle of those that each latent stands for."""
    return ((np.arange(latents) + 0.5) * frames / latents).astype(int)


def put_in_place(
    later: Sequence[tuple[float, Float[np.ndarray, "h w C"]]],
    source: Float[np.ndarray, "t h w C"],
    strength: Float[np.ndarray, "t #h #w 1"],
    start: int,
) -> None:
    """Puts latents that are known later on where they are nearest, for models without anchors."""
    for position, latent in later:
        at = round(position) - start
        if 0 <= at < len(source) and not (strength[at] >= 1).all():
            source[at], strength[at] = latent, 1


def given_beside(
    canvas: Canvas,
    segment: Segment,
    model: ModelConfig,
    encode: Callable[[Reel], np.ndarray],
) -> dict[str, Float[np.ndarray, "t h w C"]]:
    """What the network takes of a segment beside its latents, by the name of its argument."""
    if not beside(model):
        return {}
    frames = 1 + model.vae.temporal_ratio * (segment.latents - 1)
    end = segment.end(canvas.frames)

    def strength(low: int, high: int) -> Float[np.ndarray, "t #H #W 1"]:
        kept = canvas.strength(min(low, end - 1), min(high, end))
        return kept[np.minimum(np.arange(high - low), len(kept) - 1)]

    def encoded(shown: Callable[[np.ndarray], np.ndarray]) -> Float[np.ndarray, "t h w z"]:
        """Of the frames where pixels of some strength are shown on gray.

        From the end on the last one stands still.
        """

        def read(numbers: np.ndarray) -> np.ndarray:
            low, high = (segment.start + int(n) for n in (numbers.min(), numbers.max() + 1))
            pixels = canvas.cut(min(low, end - 1), min(high, end))[0].astype(np.float32) / 127.5 - 1
            pixels = pixels[np.minimum(np.arange(high - low), len(pixels) - 1)]
            gray = np.where(shown(strength(low, high)), pixels, np.float32(0))
            return gray[numbers - numbers.min()]

        return encode(Reel((frames, canvas.height, canvas.width, 3), np.float32, read))

    latents = encoded(lambda known: known >= 1)
    if model.conditioning == "channels":
        kept = strength(segment.start, segment.start + frames)
        whole = (kept.min(axis=(1, 2, 3)) >= 1).astype(np.float32)
        return {"channels": in_channels(whole, latents, model)}
    made = np.empty((segment.latents, canvas.height, canvas.width, 1), np.float32)
    for where, frame in zip(made, middles(segment.latents, frames).tolist(), strict=True):
        frame += segment.start
        where[...] = strength(frame, frame + 1)[0] < 1
    changes = encoded(lambda known: (known > 0) & (known < 1))
    return {"control": for_control(latents, changes, made)}


def carried_beside(
    name: str,
    given: Float[np.ndarray, "t h w C"],
    carried: Sequence[int] | np.ndarray,
    latents: Float[np.ndarray, "t h w z"],
) -> Float[np.ndarray, "t h w C"]:
    """The same where earlier windows have made some of the latents."""
    given, z = given.copy(), latents.shape[-1]
    made = latents[carried]
    if name == "channels":
        given[carried] = np.concatenate([np.ones_like(given[carried][..., :-z]), made], axis=-1)
    else:
        given[carried, ..., :z] = made
        given[carried, ..., 2 * z :] = 0
    return given


def references_before(
    given: Float[Array | np.ndarray, "t h w C"],
    references: Sequence[Float[Array | np.ndarray, "h w z"]],
) -> Any:
    """What a control branch sees, with references as frames before it, the first one last."""
    if not references:
        return given
    latents = rearrange([*references[::-1]], "n h w z -> n h w z")
    nothing = np.zeros((*latents.shape[:-1], given.shape[-1] - latents.shape[-1]), np.float32)
    latents, _ = pack([latents, nothing], "n h w *")
    return pack([latents, given], "* h w C")[0]
