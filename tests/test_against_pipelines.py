"""Whole videos against diffusers' pipelines: the same weights, noise and schedule."""

import json
import pathlib

import numpy as np
import pytest
import tiny
import tiny_wan

import vjax

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

HEIGHT, WIDTH, FRAMES, STEPS = 64, 96, 9, 4
PROMPT, NEGATIVE = "a red circle", "blurry"


def theirs(directory: str, kind: type, **parts):
    """The networks of a directory as their pipeline."""
    path, index = pathlib.Path(directory), tiny_wan.FAMILIES[pathlib.Path(directory).name][3]

    def transformer(folder: str):
        config = json.loads((path / folder / "config.json").read_text())
        return getattr(diffusers, config["_class_name"]).from_pretrained(path / folder)

    parts["transformer"] = transformer("transformer")
    if (path / "transformer_2").is_dir():
        parts["transformer_2"] = transformer("transformer_2")
    if (path / "image_encoder").is_dir():
        parts["image_encoder"] = transformers.CLIPVisionModel.from_pretrained(
            path / "image_encoder"
        )
        parts["image_processor"] = transformers.CLIPImageProcessor(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        )
    pipe = kind(
        tokenizer=None,
        text_encoder=None,
        vae=diffusers.AutoencoderKLWan.from_pretrained(path / "vae"),
        scheduler=diffusers.UniPCMultistepScheduler.from_pretrained(path / "scheduler"),
        **parts,
        **index,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def texts(pipe, directory: str) -> dict:
    """Both texts, by their text encoder."""
    encoder = transformers.UMT5EncoderModel.from_pretrained(
        pathlib.Path(directory) / "text_encoder"
    )
    ids, mask = (torch.tensor(np.asarray(x)).long() for x in pipe.tokenizer([PROMPT, NEGATIVE]))
    with torch.no_grad():
        embeds = encoder.eval()(ids, mask).last_hidden_state * mask[..., None]
    return {"prompt_embeds": embeds[:1], "negative_prompt_embeds": embeds[1:]}


def drawn(pipe, latents: int) -> np.ndarray:
    side, z = pipe.config.vae.spatial_ratio, pipe.config.vae.z_dim
    rng = np.random.default_rng(0)
    return rng.standard_normal((1, latents, HEIGHT // side, WIDTH // side, z), np.float32)


def channels_first(x: np.ndarray):
    return torch.tensor(np.moveaxis(x, -1, 1))


def close(ours: np.ndarray, frames, given=()) -> None:
    """Within two levels; frames that are given are those of the user with us."""
    made = [frame for frame in range(len(ours)) if frame not in given]
    difference = np.abs(ours.astype(np.float32) - 255 * np.asarray(frames))[made]
    assert difference.max() <= 2
    assert ours[made].std() > 5  # there is something to see


@pytest.fixture
def load(tmp_path):
    def load(family: str, **changes):
        directory = tiny_wan.write(tmp_path / family, family, **changes)
        return vjax.load(directory, dtype="float32"), directory

    return load


SIZE = {"size": (WIDTH, HEIGHT), "frames": FRAMES, "negative": NEGATIVE}
ASKED = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "num_inference_steps": STEPS}
ASKED |= {"output_type": "np"}
PICTURES = tiny.clip(2, HEIGHT, WIDTH)


def image(pixels: np.ndarray):
    from PIL import Image

    return Image.fromarray(pixels)


@pytest.mark.parametrize("family", ["t2v", "ti2v", "a14b"])
def test_text_to_video(load, family):
    pipe, directory = load(family)
    noise = drawn(pipe, 3)
    guidance = {"guidance_scale": pipe.config.sampler.guidance}
    if family == "a14b":
        guidance["guidance_scale_2"] = pipe.config.sampler.low_guidance
    frames = theirs(directory, diffusers.WanPipeline)(
        latents=channels_first(noise), **texts(pipe, directory), **ASKED, **guidance
    ).frames[0]
    close(pipe(vjax.text(PROMPT, **SIZE), steps=STEPS, noise=noise), frames)


@pytest.mark.parametrize(
    ("family", "both"),
    [("i2v", False), ("flf2v", True), ("ti2v", False), ("i2v_a14b", False), ("i2v_a14b", True)],
)
def test_given_frames(load, family, both):
    pipe, directory = load(family)
    noise, (first, last) = drawn(pipe, 3), PICTURES
    frames = theirs(directory, diffusers.WanImageToVideoPipeline)(
        image(first),
        last_image=image(last) if both else None,
        latents=channels_first(noise),
        guidance_scale=pipe.config.sampler.guidance,
        **texts(pipe, directory),
        **ASKED,
    ).frames[0]
    asked = (
        vjax.bridge(first, last, PROMPT, **SIZE) if both else vjax.animate(first, PROMPT, **SIZE)
    )
    ours = pipe(asked, steps=STEPS, noise=noise)
    np.testing.assert_array_equal(ours[0], first)
    close(ours, frames, given=(0, FRAMES - 1) if both else (0,))


@pytest.mark.parametrize("ask", ["text", "references", "region", "both ends"])
def test_a_control_branch(load, ask):
    pipe, directory = load("vace")
    video, mask, pictures = tiny.clip(FRAMES, HEIGHT, WIDTH), np.zeros((HEIGHT, WIDTH), bool), []
    asked, known = vjax.text(PROMPT, **SIZE), np.zeros((FRAMES, HEIGHT, WIDTH), bool)
    size = {"size": SIZE["size"], "negative": NEGATIVE}
    if ask == "references":
        pictures = list(tiny.clip(2, HEIGHT, WIDTH, seed=3))
        asked = vjax.text(PROMPT, character=pictures, **SIZE)
    elif ask == "region":
        mask[:24, 8:50] = True
        known[:] = ~mask
        asked = vjax.inpaint(video, PROMPT, mask=mask, **size)
    elif ask == "both ends":
        known[[0, 1, 2, 8]] = True
        asked = vjax.infill(video, PROMPT, keep=[(0, 3), (8, 9)], **size)
    noise = drawn(pipe, 3 + len(pictures))
    gray = np.where(known[..., None], video / 255, 0.5)
    shown, made = (
        torch.tensor(np.moveaxis(np.broadcast_to(x, (1, *video.shape)), -1, 2), dtype=torch.float32)
        for x in (gray, ~known[..., None])
    )
    frames = theirs(directory, diffusers.WanVACEPipeline)(
        video=shown if known.any() else None,
        mask=made if known.any() else None,
        reference_images=[image(picture) for picture in pictures] or None,
        latents=channels_first(noise),
        guidance_scale=pipe.config.sampler.guidance,
        **texts(pipe, directory),
        **ASKED,
    ).frames[0]
    ours = pipe(asked, steps=STEPS, noise=noise)
    np.testing.assert_array_equal(ours[known], video[known])
    close(np.where(known[..., None], 255 * frames, ours), frames)


@pytest.mark.parametrize("given", [0, 1])
def test_diffusion_forcing(load, given):
    pipe, directory = load("skyreels")
    kind = diffusers.SkyReelsV2DiffusionForcingPipeline
    if given:
        kind = diffusers.SkyReelsV2DiffusionForcingImageToVideoPipeline
    seed = torch.Generator().manual_seed(0)
    more = {"image": image(PICTURES[0])} if given else {}
    frames = theirs(directory, kind)(
        prompt=None,
        generator=seed,
        guidance_scale=pipe.config.sampler.guidance,
        fps=24,
        ar_step=0,
        overlap_history=None,
        **more,
        **texts(pipe, directory),
        **ASKED,
    ).frames[0]
    again = torch.Generator().manual_seed(0)
    noise = torch.randn((1, 4, 3, HEIGHT // 8, WIDTH // 8), generator=again)
    asked = vjax.animate(PICTURES[0], PROMPT, **SIZE) if given else vjax.text(PROMPT, **SIZE)
    ours = pipe(asked, steps=STEPS, noise=np.moveaxis(noise.numpy(), 1, -1))
    close(ours, frames, given=range(given))
