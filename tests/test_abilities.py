"""The ways in which published models take known frames: what they see, and what they refuse."""

import dataclasses
import functools

import numpy as np
import pytest
import tiny
from einops import rearrange

import vjax
from vjax.config import ImageConfig
from vjax.pipeline import Pipeline
from vjax.sampler import Condition
from vjax.timeline import RequestError

IMAGE = ImageConfig(width=8, depth=2, heads=2, ffn=16, patch=4, side=8)


@functools.cache
def pipe(kind: str) -> Pipeline:
    changes = {
        "first_frame": {},
        "per_frame": {"frame_rates": (8.0, 24.0)},
        "renoise": {},
        "channels": {"in_channels": 12},
        "first_last": {"in_channels": 12, "image_width": 8, "image_tokens": 2 * IMAGE.tokens},
        "control": {"control_channels": 8 + 64, "control_blocks": (0,)},
    }[kind]
    dit = dataclasses.replace(tiny.MODEL.dit, anchors=False, **changes)
    vae = dataclasses.replace(tiny.MODEL.vae, patch_size=2)
    image = IMAGE if kind == "first_last" else None
    name = "channels" if kind == "first_last" else kind
    if kind == "control":
        dit = dataclasses.replace(dit, control_channels=8 + vae.spatial_ratio**2)
    model = tiny.model(
        name=kind, dit=dit, vae=vae, image=image, conditioning=name, max_frames=33, frames=9
    )
    return Pipeline(tiny.bundle(model))


def seen(kind: str, timeline, **options):
    """What the windows of a request know, in their order."""
    watched, found = Pipeline(tiny.bundle(pipe(kind).config)), []
    start = watched.start

    def note(condition, *rest):
        found.append(condition)
        return start(condition, *rest)

    watched.start = note
    video = watched(timeline, **options)
    return found, video


class Told(Exception):
    """What a window knows."""


def told(kind: str, timeline) -> Condition:
    """What the first window of a request knows; nothing is made."""
    watched = Pipeline(tiny.bundle(pipe(kind).config))

    def note(condition, *rest):
        raise Told(condition)

    watched.start = note
    with pytest.raises(Told) as caught:
        watched(timeline)
    return caught.value.args[0]


def gray(frames: int) -> np.ndarray:
    return np.zeros((frames, 32, 32, 3), np.float32)


def encode(kind: str, frames: np.ndarray) -> np.ndarray:
    frames = frames if frames.dtype == np.float32 else frames.astype(np.float32) / 127.5 - 1
    return np.asarray(pipe(kind).encode(frames[None]))[0]


def test_channels_hold_a_mask_and_the_clip_on_gray():
    image = tiny.clip(1)[0]
    (found,), video = seen("channels", vjax.animate(image, "a", frames=9))
    channels = np.asarray(found.inputs["channels"][0])
    np.testing.assert_array_equal(channels[0, ..., :4], 1)
    np.testing.assert_array_equal(channels[1:, ..., :4], 0)
    shown = gray(9)
    shown[0] = image.astype(np.float32) / 127.5 - 1
    np.testing.assert_allclose(channels[..., 4:], encode("channels", shown), atol=1e-5)
    assert not found.strength.any()
    np.testing.assert_array_equal(video[0], image)


def test_a_first_and_a_last_frame_are_looked_at_and_lie_in_the_channels():
    first, last = tiny.clip(2)
    (found,), video = seen("first_last", vjax.bridge(first, last, "a", frames=9))
    channels = np.asarray(found.inputs["channels"][0])
    assert channels[:, 0, 0, :4].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 1]]
    both = pipe("first_last").look(np.stack([first, last]))
    np.testing.assert_allclose(found.inputs["image"][0], both, atol=1e-6)
    np.testing.assert_array_equal(video[[0, -1]], [first, last])


def test_the_last_frame_stands_still_to_the_end_of_the_grid():
    first, last = tiny.clip(2)
    found = told("first_last", vjax.bridge(first, last, "a", frames=11))
    masks = np.asarray(found.inputs["channels"][0, :, 0, 0, :4])
    assert masks[1:].tolist() == [[0, 0, 0, 0], [0, 0, 0, 0], [0, 1, 1, 1]]
    both = pipe("first_last").look(np.stack([first, last]))
    np.testing.assert_allclose(found.inputs["image"][0], both, atol=1e-6)


def test_what_one_window_made_the_next_is_told_in_its_channels():
    video = tiny.clip(5)
    found, _ = seen("channels", vjax.extend(video, "a", frames=45))
    assert len(found) > 1
    masks = np.asarray(found[1].inputs["channels"][0, :, 0, 0, :4])
    carried = int(masks.all(axis=-1).sum())
    assert carried >= 1
    assert masks[carried:].max() == 0
    assert np.abs(found[1].inputs["channels"][0, :carried, ..., 4:]).min() > 0


def test_a_control_branch_sees_what_is_kept_and_a_mask_of_what_is_made():
    video, mask = tiny.clip(9), np.zeros((32, 32), bool)
    mask[:12] = True  # is made anew
    (found,), made = seen("control", vjax.inpaint(video, "a", mask=mask))
    control = np.asarray(found.inputs["control"][0])
    shown = np.where(mask[:, :, None], 0, video.astype(np.float32) / 127.5 - 1).astype(np.float32)
    np.testing.assert_allclose(control[..., :4], encode("control", shown), atol=1e-5)
    np.testing.assert_allclose(control[..., 4:8], encode("control", gray(9)), atol=1e-5)
    side = pipe("control").config.vae.spatial_ratio
    each = rearrange(mask.astype(np.float32), "(h p) (w q) -> h w (p q)", p=side, q=side)
    np.testing.assert_array_equal(control[..., 8:], np.broadcast_to(each, (3, *each.shape)))
    np.testing.assert_array_equal(made[:, ~mask], video[:, ~mask])


def test_references_are_frames_before_all_others():
    plain = told("control", vjax.text("a", frames=9))
    pictures = tiny.clip(2, seed=3)
    text = vjax.text("a", frames=9, character=list(pictures))
    (found,), video = seen("control", text)
    assert video.shape == (9, 32, 32, 3)
    control = np.asarray(found.inputs["control"][0])
    assert control.shape[0] == 5
    for place, picture in zip((1, 0), pictures, strict=True):
        np.testing.assert_allclose(
            control[place, ..., :4], encode("control", picture[None])[0], atol=1e-5
        )
    assert not control[:2, ..., 4:].any()
    np.testing.assert_allclose(control[2:], plain.inputs["control"][0], atol=1e-6)
    np.testing.assert_array_equal(found.positions[0], [-2, -1, 0, 1, 2])
    wide = vjax.text("a", frames=9, character=[tiny.clip(1, 16, 32)[0]])
    found = told("control", wide)
    whole = np.full((1, 32, 32, 3), 255, np.uint8)  # on white
    whole[0, 8:24] = tiny.clip(1, 16, 32)[0]
    shown = found.inputs["control"][0, 0, ..., :4]
    np.testing.assert_allclose(shown, encode("control", whole)[0], atol=1e-5)


@pytest.mark.parametrize("kind", ["renoise", "per_frame"])
def test_frames_known_later_on_lie_in_place(kind):
    video = tiny.clip(17)
    for begin, known in ((12, 2), (11, 1)):  # a clip of its own begins where a latent ends
        (found,), made = seen(kind, vjax.infill(video, "a", keep=[(0, 5), (begin, 17)]))
        assert found.anchors.shape[1] == 0
        assert found.strength[0, :, 0, 0, 0].tolist() == [1, 1, 0, 1, known - 1]
        clip = encode(kind, video[12 : 13 + 4 * (known - 1)])
        np.testing.assert_allclose(found.source[0, 3 : 3 + known], clip, atol=1e-5)
    assert (found.noise is not None) == (kind == "renoise")
    np.testing.assert_array_equal(made[11:], video[11:])


def test_a_frame_rate_is_told():
    for fps, index in ((8, 0), (24, 1)):
        found = told("per_frame", vjax.text("a", frames=9, fps=fps))
        assert found.inputs["frame_rate"].tolist() == [index]


def test_two_experts_share_the_steps_at_the_boundary():
    model = dataclasses.replace(pipe("renoise").config, boundary=0.6)
    params = tiny.params(model)
    low = {**params["dit"], "head_modulation": params["dit"]["head_modulation"] + 1}
    other = {**params, "low": low}
    bundle = dataclasses.replace(tiny.bundle(model), params=other)
    both, text = Pipeline(bundle), vjax.text("a", frames=5)

    def alone(expert: str) -> np.ndarray:
        single = dataclasses.replace(model, boundary=None)
        chosen = {**params, "dit": other[expert]}
        return Pipeline(dataclasses.replace(bundle, config=single, params=chosen))

    noise = np.random.default_rng(0).normal(size=(1, 2, 4, 4, 4)).astype(np.float32)
    options = {"noise": noise, "solver": "euler", "shift": 1.0, "guidance": 1.0}
    # Times 1, .75, .5, .25: the first two are the high expert's.
    made = both(text, steps=4, **options)
    latents = {}
    for expert, boundary in (("dit", 0.0), ("low", 1.0)):
        changed = dataclasses.replace(model, boundary=boundary)
        one_sided = Pipeline(dataclasses.replace(bundle, config=changed))
        latents[expert] = one_sided(text, steps=4, **options)
        if expert == "dit":
            np.testing.assert_array_equal(latents[expert], alone("dit")(text, steps=4, **options))
    assert (made != latents["dit"]).any()
    assert (made != latents["low"]).any()


CLIP, PICTURE = tiny.clip(9), tiny.clip(1)[0]
REGION = np.tri(32, dtype=bool)


@pytest.mark.parametrize(
    ("kind", "ask", "says"),
    [
        ("channels", lambda: vjax.text("a"), "whose first frame is not given; those that can"),
        ("first_last", lambda: vjax.animate(PICTURE, "a"), "whose last frame is not given"),
        ("channels", lambda: vjax.inpaint(CLIP, "a", mask=REGION), "fill in a part of a frame"),
        ("channels", lambda: vjax.remix(CLIP, "b", strength=0.5), "depart from what is given"),
        ("first_frame", lambda: vjax.bridge(PICTURE, PICTURE, "a"), "come after what it makes"),
        ("first_frame", lambda: vjax.extend(CLIP, "a", seconds=1, before=True), "come after"),
        ("per_frame", lambda: vjax.inpaint(CLIP, "a", mask=REGION), "fill in a part"),
        ("per_frame", lambda: vjax.remix(CLIP, "b", region=REGION), "fill in a part"),
        ("first_last", lambda: vjax.extend(CLIP[:3], "a", seconds=1), "whose last frame"),
        ("renoise", lambda: vjax.text("a", character=[PICTURE]), "what a subject looks like"),
        (
            "control",
            lambda: vjax.remix(CLIP, "b", source_prompt="a", character=[PICTURE]),
            "moves from text to text",
        ),
        ("control", lambda: vjax.loop("a"), "loop from words alone"),
    ],
)
def test_what_a_model_cannot_be_told_it_refuses_and_says_which_can(kind, ask, says):
    with pytest.raises(RequestError, match=f"{kind} cannot .*{says}") as caught:
        pipe(kind).plan(ask())
    assert "those that can" in str(caught.value)


def test_of_fewer_frames_than_a_latent_takes_the_first_is_told():
    for kind in ("first_frame", "per_frame"):
        (segment,) = pipe(kind).plan(vjax.extend(CLIP[:3], "a", seconds=0.5)).segments
        assert (segment.prefix, segment.clips) == (1, ())
