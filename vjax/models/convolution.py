"""Convolutions over video, causal in time, with a history that makes streaming exact.

A causal layer maps `(x, past)` to `(y, past)`. `past` holds the frames that came before the chunk
`x` and that the layer still looks at; `None` means that `x` starts the video, so that blank frames
came before. Feeding a video chunk by chunk therefore gives what feeding it at once gives.
"""

import functools

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from vjax.models.layers import platform

# Pixels or features; a layer may change all sizes but the batch.
Video = Float[Array, "B _T _H _W _C"]
Kernel = Float[Array, "t h w _C _O"]


def conv3d(x: Video, kernel: Kernel, blank: int) -> Video:
    """A convolution over `x` after `blank` frames of zeros, with zeros around each frame too.

    No zeros follow the last frame. An odd window keeps the height and width, an even one makes
    them larger by one.
    """
    if platform() == "cpu":
        return _conv3d_on_cpu(x, kernel, blank)
    pad = [(size // 2, size // 2) for size in kernel.shape[1:3]]
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1, 1),
        padding=[(blank, 0), *pad],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv3d_on_cpu(x, kernel, blank):
    # XLA on CPU runs a 3-D convolution at a third of the speed of this 2-D one over stacked frames.
    taps, h, w = kernel.shape[:3]
    x = _stack_taps(x, taps, blank)
    return _conv2d(x, rearrange(kernel, "t h w C O -> h w (t C) O"), (h // 2, w // 2))


def _forward(x, kernel, blank):
    return _conv3d_on_cpu(x, kernel, blank), (x, kernel)


def _backward(blank, residuals, dy):
    x, kernel = residuals
    taps, h, w = kernel.shape[:3]
    # Line up with each frame of x the output gradients that it had a part in, one per tap.
    zero = jnp.zeros((), dy.dtype)
    dy = [
        lax.pad(dy, zero, [(0, 0, 0), (k - blank, taps - 1 - k, 0), *[(0, 0, 0)] * 3])
        for k in range(taps)
    ]
    dy = jnp.concatenate(dy, axis=-1)
    mirrored = rearrange(jnp.flip(kernel, (1, 2)), "t h w C O -> h w (t O) C")
    dx = _conv2d(dy, mirrored, (h - 1 - h // 2, w - 1 - w // 2))
    dkernel = _kernel_gradient(x, dy, (h, w))
    return dx, rearrange(dkernel, "(t O) (h w C) -> t h w C O", t=taps, h=h, w=w)


_conv3d_on_cpu.defvjp(_forward, _backward)


def _kernel_gradient(x, dy, window):
    # As a convolution, with windows as large as the image, this would be the slowest part by far.
    # Gathering each pixel's neighbours makes it a matrix product; going through the video a few
    # frames at a time keeps what was gathered in cache.
    (h, w), (H, W) = window, dy.shape[2:4]
    x, dy = (rearrange(a, "B T H W C -> (B T) H W C") for a in (x, dy))
    x = jnp.pad(x, [(0, 0), (h // 2, h // 2), (w // 2, w // 2), (0, 0)])
    fit = max(1, 2**18 // (H * W * h * w * x.shape[-1]))
    together = max(n for n in range(1, len(x) + 1) if len(x) % n == 0 and n <= fit)

    def step(total, frames):
        x, dy = frames
        near = [x[:, i : i + H, j : j + W] for i in range(h) for j in range(w)]
        near = rearrange(jnp.concatenate(near, axis=-1), "B H W N -> (B H W) N")
        return total + rearrange(dy, "B H W O -> O (B H W)") @ near, None

    total = jnp.zeros((dy.shape[-1], h * w * x.shape[-1]), x.dtype)
    chunks = [rearrange(a, "(n B) H W C -> n B H W C", B=together) for a in (x, dy)]
    return lax.scan(step, total, chunks)[0]


def _conv2d(x, kernel, pad):
    y = lax.conv_general_dilated(
        rearrange(x, "B T H W C -> (B T) H W C"),
        kernel,
        window_strides=(1, 1),
        padding=[(p, p) for p in pad],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return rearrange(y, "(B T) H W O -> B T H W O", B=x.shape[0])


def _pointwise(x, kernel, bias):
    # One flat axis of pixels: with several, XLA on CPU transposes both sides of the gradient.
    sizes = dict(zip("BTHW", x.shape[:-1], strict=True))
    kernel = rearrange(kernel, "t h w C O -> (t h w C) O")
    y = rearrange(x, "B T H W C -> (B T H W) C") @ kernel + bias[None]
    return rearrange(y, "(B T H W) O -> B T H W O", **sizes)


def _pad_start(x, frames):
    return jnp.pad(x, [(0, 0), (frames, 0), (0, 0), (0, 0), (0, 0)])


def _stack_taps(x, taps, blank):
    x = _pad_start(x, blank)
    frames = x.shape[1] - taps + 1
    return jnp.concatenate([x[:, k : k + frames] for k in range(taps)], axis=-1)


class CausalConv(nnx.Module):
    """Convolution over `window` = (time, height, width) that sees no later frame."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        window: tuple[int, int, int] = (3, 3, 3),
        *,
        scale: float = 1.0,
        rngs: nnx.Rngs,
    ):
        # LeCun's initialisation: outputs have `scale` times the variance of inputs. The numbers are
        # drawn in a row, since XLA on CPU takes seconds to compile a draw of five axes.
        t, h, w = window
        std = (scale / (t * h * w * channels)) ** 0.5
        kernel = std * jax.random.normal(rngs.params(), (t * h * w * channels * out_channels,))
        kernel = rearrange(kernel, "(t h w C O) -> t h w C O", t=t, h=h, w=w, C=channels)
        self.kernel = nnx.Param(kernel)
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def weights(self, dtype: jax.typing.DTypeLike) -> tuple[Array, Array]:
        return self.kernel[...].astype(dtype), self.bias[...].astype(dtype)

    def __call__(self, x: Video, past: Video | None = None) -> tuple[Video, Video]:
        kernel, bias = self.weights(x.dtype)
        taps, *window = kernel.shape[:3]
        seen = taps - 1  # earlier frames
        blank = seen if past is None else 0
        x = x if past is None else jnp.concatenate([past, x], axis=1)
        # Taps that would meet nothing but blank frames are left out: an image takes one of three.
        idle = max(0, taps - max(1, x.shape[1]))
        kernel = kernel[idle:]
        if window == [1, 1]:
            near = _stack_taps(x, taps - idle, blank - idle)
            y = _pointwise(near, kernel, bias)
        else:
            y = conv3d(x, kernel, blank - idle) + bias[None, None, None, None]
        x = x[:, max(0, x.shape[1] - seen) :]
        return y, _pad_start(x, seen - x.shape[1])


class Downsample(nnx.Module):
    """Half the height and width, and half the frame rate if `temporal`; frame 0 stays alone."""

    def __init__(self, channels: int, temporal: bool, *, rngs: nnx.Rngs):
        self.resample = CausalConv(channels, channels, (1, 3, 3), rngs=rngs)
        self.temporal = temporal
        if temporal:
            self.time_conv = CausalConv(channels, channels, (3, 1, 1), rngs=rngs)

    def __call__(self, x: Video, past: Video | None = None) -> tuple[Video, Video | None]:
        x = self.halve_size(x)
        if not self.temporal:
            return x, None
        last = x[:, -1:]
        if past is None:
            # Frame 0 passes as it is.
            return jnp.concatenate([x[:, :1], self.halve_rate(x)], axis=1), last
        return self.halve_rate(jnp.concatenate([past, x], axis=1)), last

    def halve_size(self, x: Video) -> Video:
        """A convolution of stride 2 after a row and a column of zeros at the far ends."""
        kernel, bias = self.resample.weights(x.dtype)
        if platform() == "cpu":
            # Folding 2 x 2 pixels into channels leaves a stride of 1 and a matrix product.
            x = jnp.pad(x, [(0, 0), (0, 0), (0, 2), (0, 2), (0, 0)])
            x = rearrange(x, "B T (H p) (W q) C -> p q B T H W C", p=2, q=2)
            H, W = x.shape[4] - 1, x.shape[5] - 1
            near = [
                x[i % 2, j % 2, :, :, i // 2 : i // 2 + H, j // 2 : j // 2 + W]
                for i in range(3)
                for j in range(3)
            ]
            near = jnp.concatenate(near, axis=-1)
            return _pointwise(near, kernel, bias)
        y = lax.conv_general_dilated(
            x,
            kernel,
            window_strides=(1, 2, 2),
            padding=[(0, 0), (0, 1), (0, 1)],
            dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
        )
        return y + bias[None, None, None, None]

    def halve_rate(self, x: Video) -> Video:
        """Each output sees two new frames and the one before them."""
        kernel, bias = self.time_conv.weights(x.dtype)
        near = jnp.concatenate([x[:, :-2:2], x[:, 1:-1:2], x[:, 2::2]], axis=-1)
        return _pointwise(near, kernel, bias)


class Upsample(nnx.Module):
    """Twice the height and width, and twice the frame rate if `temporal`; frame 0 stays alone."""

    def __init__(self, channels: int, out_channels: int, temporal: bool, *, rngs: nnx.Rngs):
        self.resample = CausalConv(channels, out_channels, (1, 3, 3), rngs=rngs)
        self.temporal = temporal
        if temporal:
            self.time_conv = CausalConv(channels, 2 * channels, (3, 1, 1), rngs=rngs)

    def __call__(self, x: Video, past: Video | None = None) -> tuple[Video, Video | None]:
        if self.temporal and past is None:
            # Frame 0 passes as it is, and the later frames do not see it.
            y, past = self.double_rate(x[:, 1:])
            x = jnp.concatenate([x[:, :1], y], axis=1)
        elif self.temporal:
            x, past = self.double_rate(x, past)
        return self.double_size(x), past

    def double_rate(self, x: Video, past: Video | None = None) -> tuple[Video, Video]:
        y, past = self.time_conv(x, past)
        return rearrange(y, "B T H W (r C) -> B (T r) H W C", r=2), past

    def double_size(self, x: Video) -> Video:
        """Nearest-neighbour doubling and then a 3 x 3 convolution, without the doubled video.

        Each of the 2 x 2 output phases sees only 2 x 2 small pixels, with some taps added up. In
        each direction the even phase has the taps (0, 1 + 2), the odd one, a pixel later,
        (0 + 1, 2). That is 4/9 of the arithmetic.
        """
        kernel, bias = self.resample.kernel[...], self.resample.bias[...].astype(x.dtype)
        phases = jnp.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], kernel.dtype)
        kernel = jnp.einsum("pih,qjw,thwCO->tijCpqO", phases, phases, kernel).astype(x.dtype)
        y = conv3d(x, rearrange(kernel, "t h w C p q O -> t h w C (p q O)"), 0)
        y = rearrange(y, "B T H W (p q O) -> p q B T H W O", p=2, q=2)
        H, W = x.shape[2:4]
        y = [y[p, q, :, :, p : p + H, q : q + W] for p in range(2) for q in range(2)]
        y = rearrange(y, "(p q) B T H W O -> B T (H p) (W q) O", p=2)
        return y + bias[None, None, None, None]
