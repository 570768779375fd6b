"""VAE: streamed against whole, and each part against what it must be."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from vjax import models, weights, world
from vjax.config import ConfigError, VAEConfig
from vjax.models import convolution
from vjax.models.vae import to_float, to_uint8

# The quickest to compile that has every part but attention: 8 times smaller, 4 times in time.
SMALL = VAEConfig(
    base_dim=4,
    decoder_base_dim=6,
    z_dim=2,
    dim_mult=(1, 1, 1),
    num_res_blocks=1,
    temporal_downsample=(True, True),
    patch_size=2,
    mid_attention=False,
)


RESIDUAL = dataclasses.replace(SMALL, residual=True)
# A stage that halves the frame rate but not the size.
HALVED = dataclasses.replace(
    SMALL, patch_size=4, spatial_downsample=(True, False), dim_mult=(1, 2, 2)
)


@functools.partial(jax.jit, static_argnums=(0, 1), static_argnames="dtype")
def call(config, method, params, x, **options):
    return getattr(models.bind(config, params), method)(x, **options)


@functools.cache
def small_params(config=SMALL):
    """Random parameters, so that biases and last convolutions do something too."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: jnp.asarray(0.3 * random.standard_normal(p.shape), p.dtype),
        models.abstract(config),
    )


def noise(*shape):
    return jnp.asarray(np.random.default_rng(1).uniform(-1, 1, shape), jnp.float32)


def close(a, b, tolerance=1e-4):
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


def test_published_size():
    # What diffusers' AutoencoderKLWan has with its default configuration.
    sizes = [np.prod(x.shape) for x in jax.tree.leaves(models.abstract(VAEConfig()))]
    assert sum(sizes) == 126_892_531


@pytest.mark.parametrize("config", [SMALL, RESIDUAL, HALVED], ids=["plain", "residual", "halved"])
def test_encode_streams(config):
    video, params = noise(2, 9, 16, 24, 3), small_params(config)
    whole = call(config, "encode", params, video)
    assert whole[0].shape == (2, 3, 2, 3, 2)
    for a, b in zip(call(config, "encode_stream", params, video), whole, strict=True):
        close(a, b)


@pytest.mark.parametrize("config", [SMALL, RESIDUAL, HALVED], ids=["plain", "residual", "halved"])
def test_decode_streams(config):
    z, params = noise(2, 3, 2, 3, 2), small_params(config)
    whole = call(config, "decode", params, z)
    assert whole.shape == (2, 9, 16, 24, 3)
    close(call(config, "decode_stream", params, z), whole)


def test_streams_equal_whole_ones_as_users_run_them(optimized):
    video, params = noise(2, 9, 16, 24, 3), small_params(HALVED)
    whole = call(HALVED, "encode", params, video)[0]
    close(call(HALVED, "encode_stream", params, video)[0], whole, 1e-5)
    decoded = call(HALVED, "decode", params, whole)
    close(call(HALVED, "decode_stream", params, whole), decoded, 1e-5)


def test_chunks_of_any_size_and_two_streams_at_once():
    config, params = RESIDUAL, small_params(RESIDUAL)
    videos, z = noise(2, 13, 16, 24, 3), noise(2, 4, 2, 3, 2)
    mean, decoded = call(config, "encode", params, videos)[0], call(config, "decode", params, z)
    pasts = {}
    for at, size in ((0, 1), (1, 2), (3, 1)):
        frames = slice(4 * at - 3 if at else 0, 4 * (at + size) - 3)
        for i in range(2):
            for method, x, whole, part, expected in (
                ("encode_next", videos, mean, frames, slice(at, at + size)),
                ("decode_next", z, decoded, slice(at, at + size), frames),
            ):
                past = pasts.get((i, method))
                found, past = call(config, method, params, x[i : i + 1, part], past=past)
                pasts[i, method] = past
                close(found, whole[i : i + 1, expected])
    # Nothing of it stays.
    np.testing.assert_array_equal(call(config, "decode", params, z), decoded)


def test_what_cannot_be_built_is_refused():
    with pytest.raises(ConfigError, match="changes size 2 times: spatial_downsample is"):
        dataclasses.replace(HALVED, spatial_downsample=(True,))
    with pytest.raises(ConfigError, match="num_res_blocks must be 1 or more, got 0"):
        dataclasses.replace(HALVED, num_res_blocks=0)


def test_image_is_a_first_frame():
    video = noise(2, 9, 16, 24, 3)
    image = call(SMALL, "encode", small_params(), video[:, :1])[0]
    close(image, call(SMALL, "encode", small_params(), video)[0][:, :1])
    z = noise(2, 3, 2, 3, 2)
    image = call(SMALL, "decode_stream", small_params(), z[:, :1])
    close(image, call(SMALL, "decode", small_params(), z)[:, :1])


def test_pixels_come_back_and_go_to_the_nearest():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    floats = to_float(pixels)
    assert (floats.dtype, floats.min(), floats.max()) == (jnp.float32, -1, 1)
    np.testing.assert_array_equal(to_uint8(floats), pixels)
    np.testing.assert_array_equal(to_uint8(floats + 0.49 / 127.5), pixels)
    np.testing.assert_array_equal(to_uint8(300 * floats), 255 * (pixels > 127))


def test_uint8_from_the_device():
    z = noise(2, 3, 2, 3, 2)[:, :1]
    image = call(SMALL, "decode_stream", small_params(), z)
    assert np.abs(image).max() > 1  # something to clip
    pixels = call(SMALL, "decode_stream", small_params(), z, dtype=jnp.uint8)
    assert pixels.dtype == jnp.uint8
    expected = np.round(127.5 * (np.clip(image, -1, 1) + 1))
    assert np.abs(pixels.astype(np.float32) - expected).max() <= 1
    assert (pixels == expected).mean() > 0.99


@pytest.mark.parametrize(
    ("method", "shape"),
    [("encode_stream", (1, 161, 32, 32, 3)), ("decode_stream", (1, 41, 4, 4, 2))],
)
def test_streaming_holds_no_long_features(method, shape):
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    compiled = call.lower(SMALL, method, models.abstract(SMALL), x).compile()
    # The largest features of the whole video, of which several would be held at a time.
    features = 4 * 161 * 16 * 16 * SMALL.base_dim  # bytes
    assert compiled.memory_analysis().temp_size_in_bytes < features


def test_causal():
    video = noise(2, 9, 16, 24, 3)
    changed = video.at[:, 5:].multiply(-1)
    a, b = (call(SMALL, "encode", small_params(), v)[0] for v in (video, changed))
    np.testing.assert_array_equal(a[:, :2], b[:, :2])
    assert np.abs(a[:, 2] - b[:, 2]).max() > 1e-3
    a, b = (call(SMALL, "decode", small_params(), z) for z in (a, b))
    np.testing.assert_array_equal(a[:, :5], b[:, :5])
    assert np.abs(a[:, 5] - b[:, 5]).max() > 1e-3


def test_bfloat16():
    video = noise(2, 9, 16, 24, 3)
    mean, logvar = call(SMALL, "encode", small_params(), video.astype(jnp.bfloat16))
    assert mean.dtype == logvar.dtype == jnp.bfloat16
    close(mean, call(SMALL, "encode", small_params(), video)[0], 0.05)


def test_nobody_sees_that_factors_of_products_are_rounded(monkeypatch):
    """On TPUs they are, to bfloat16, where features and sums stay float32."""
    vae = weights.load("default", networks=("vae",))
    video = to_float(world.clip(1, frames=5, height=96, width=96)[0][None])

    def round_factors(product):
        def run(x, kernel, *rest, **options):
            x, kernel = (lax.reduce_precision(a, 8, 7) for a in (x, kernel))
            return product(x, kernel, *rest, **options)

        return run

    def there_and_back():
        def run(params, video):
            network = models.bind(vae.config.vae, params)
            return network.decode(network.encode(video)[0])

        return np.asarray(jax.jit(run)(vae.params["vae"], video))

    exact = there_and_back()
    for module, name in ((lax, "conv_general_dilated"), (convolution, "_pointwise")):
        monkeypatch.setattr(module, name, round_factors(getattr(module, name)))
    levels = 127.5 * np.abs(np.clip(there_and_back(), -1, 1) - np.clip(exact, -1, 1))
    assert 0.01 < levels.mean() < 0.15
    assert (levels < 1).mean() > 0.999


def test_normalise():
    config = dataclasses.replace(SMALL, latents_mean=(1.0, -2.0), latents_std=(2.0, 0.5))
    vae = models.bind(config, small_params())
    z = noise(1, 2, 3, 3, 2)
    np.testing.assert_allclose(vae.normalise(z)[..., 1], (z[..., 1] + 2) / 0.5, rtol=1e-5)
    np.testing.assert_allclose(vae.denormalise(vae.normalise(z)), z, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(models.bind(SMALL, small_params()).normalise(z), z)


def test_wrong_sizes_say_what_fits():
    vae = models.bind(SMALL, small_params())
    with pytest.raises(ValueError, match=r"1 \+ 4 k frames, this one 7: give it 5 or 9"):
        vae.encode(noise(1, 7, 16, 16, 3))
    with pytest.raises(ValueError, match="multiples of 8, those of this video are 16 and 20"):
        vae.encode_stream(noise(1, 5, 16, 20, 3))


def value_and_gradients(monkeypatch, function, *args):
    """What `function` gives where it runs on CPU, and where it runs elsewhere."""
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(convolution, "platform", lambda name=platform: name)
        y, gradients = jax.vjp(lambda *args: function(*args), *args)
        yield y, *gradients(jnp.cos(y))


@pytest.mark.parametrize(
    ("window", "blank", "frames"),
    [((3, 3, 3), 2, 4), ((3, 3, 3), 0, 4), ((2, 3, 3), 1, 1), ((1, 2, 2), 0, 2)],
)
def test_convolution_is_the_same_on_cpu(monkeypatch, window, blank, frames):
    def conv3d(x, kernel):
        pad = tuple((size // 2, size // 2) for size in kernel.shape[1:3])
        return convolution.conv3d(x, kernel, pad, blank)

    args = noise(2, frames, 5, 6, 3), noise(*window, 3, 4)
    for a, b in zip(*value_and_gradients(monkeypatch, conv3d, *args), strict=True):
        close(a, b, 1e-5)


def test_downsampling_is_the_same_on_cpu(monkeypatch):
    layer = convolution.Downsample(3, temporal=False, rngs=nnx.Rngs(0))
    results = value_and_gradients(monkeypatch, layer.halve_size, noise(2, 2, 4, 6, 3))
    for a, b in zip(*results, strict=True):
        close(a, b, 1e-5)
