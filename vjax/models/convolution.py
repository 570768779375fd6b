"""Convolutions over video, causal in time, with a history that makes streaming exact.

A causal layer maps `(x, past)` to `(y, past)`. `past` holds the frames that came before the chunk
`x` and that the layer still looks at; `None` means that `x` starts the video, so that what came
before is zero. Feeding a video chunk by chunk therefore gives what feeding it at once gives.
"""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

Video = Float[Array, "B T H W C"]


def kernel_init(rngs: nnx.Rngs, shape: tuple[int, ...], scale: float = 1.0) -> nnx.Param:
    """A kernel [*window, C, O] that keeps the variance times `scale`: normal, std sqrt(scale/fan in)."""
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    return nnx.Param((scale / fan_in) ** 0.5 * jax.random.normal(rngs.params(), shape))


def _over_frames(x: Video, kernel: Float[Array, "h w C O"], pad: int) -> Video:
    frames = rearrange(x, "B T H W C -> (B T) H W C")
    y = lax.conv_general_dilated(
        frames,
        kernel,
        window_strides=(1, 1),
        padding=[(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return rearrange(y, "(B T) H W O -> B T H W O", B=x.shape[0])


def _conv3d(x, kernel):
    pad = kernel.shape[1] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(1, 1, 1),
        padding=[(0, 0), (pad, pad), (pad, pad)],
        dimension_numbers=("NDHWC", "DHWIO", "NDHWC"),
    )


def _sum_of_conv2d(x, kernel):
    # XLA on CPU runs a 3-D convolution at about a third of the speed of this sum.
    frames = x.shape[1] - kernel.shape[0] + 1
    taps = [_over_frames(x[:, k : k + frames], w, w.shape[0] // 2) for k, w in enumerate(kernel)]
    return sum(taps[1:], taps[0])


def _kernel_gradient(x, dy, window):
    # XLA on CPU is slow at convolutions with image-sized kernels, which the kernel gradient is.
    # Gathering each pixel's neighbourhood makes it a matrix product; a scan over a few frames at a
    # time keeps the gathered pixels in cache.
    kt, kh, kw = window
    _, T, H, W, C = x.shape
    later = [jnp.pad(dy, [(0, 0), (k, kt - 1 - k), (0, 0), (0, 0), (0, 0)]) for k in range(kt)]
    dy = rearrange(jnp.concatenate(later, axis=-1), "B T H W O -> (B T) H W O")
    x = rearrange(x, "B T H W C -> (B T) H W C")
    cached = max(1, 2**19 // (H * W * kh * kw * C))
    together = max(n for n in range(1, len(x) + 1) if len(x) % n == 0 and n <= cached)

    def step(total, frames):
        x, dy = frames
        x = jnp.pad(x, [(0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)])
        near = [x[:, i : i + H, j : j + W] for i in range(kh) for j in range(kw)]
        near = rearrange(jnp.concatenate(near, axis=-1), "B H W N -> (B H W) N")
        return total + rearrange(dy, "B H W O -> O (B H W)") @ near, None

    total = jnp.zeros((dy.shape[-1], kh * kw * C), x.dtype)
    chunks = [rearrange(a, "(n B) H W C -> n B H W C", B=together) for a in (x, dy)]
    total, _ = lax.scan(step, total, chunks)
    return rearrange(total, "(t O) (h w C) -> t h w C O", t=kt, h=kh, w=kw)


@jax.custom_vjp
def conv3d(x: Video, kernel: Float[Array, "t h w C O"]) -> Float[Array, "B U H W O"]:
    """Convolution with zero padding in space and none in time: U = T - t + 1 frames come out."""
    return lax.platform_dependent(x, kernel, cpu=_sum_of_conv2d, default=_conv3d)


def _conv3d_forward(x, kernel):
    return conv3d(x, kernel), (x, kernel)


def _conv3d_backward(residuals, dy):
    def cpu(x, kernel, dy):
        frames = kernel.shape[0] - 1
        padded = jnp.pad(dy, [(0, 0), (frames, frames), (0, 0), (0, 0), (0, 0)])
        mirrored = rearrange(jnp.flip(kernel, (0, 1, 2)), "t h w C O -> t h w O C")
        dx = _sum_of_conv2d(padded, mirrored)
        return dx, _kernel_gradient(x, dy, kernel.shape[:3])

    def default(x, kernel, dy):
        return jax.vjp(_conv3d, x, kernel)[1](dy)

    return lax.platform_dependent(*residuals, dy, cpu=cpu, default=default)


conv3d.defvjp(_conv3d_forward, _conv3d_backward)


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
        self.kernel = kernel_init(rngs, (*window, channels, out_channels), scale)
        self.bias = nnx.Param(jnp.zeros(out_channels))

    def weights(self, dtype: jnp.dtype) -> tuple[Array, Array]:
        return self.kernel[...].astype(dtype), self.bias[...].astype(dtype)

    def __call__(self, x: Video, past: Video | None = None) -> tuple[Video, Video]:
        kernel, bias = self.weights(x.dtype)
        seen = kernel.shape[0] - 1
        if past is None:
            past = jnp.zeros_like(x, shape=(x.shape[0], seen, *x.shape[2:]))
        x = jnp.concatenate([past, x], axis=1)
        if kernel.shape[1:3] == (1, 1):
            # Pointwise in space: one matrix product over the temporal taps.
            frames = x.shape[1] - seen
            taps = jnp.concatenate([x[:, k : k + frames] for k in range(seen + 1)], axis=-1)
            y = taps @ rearrange(kernel, "t 1 1 C O -> (t C) O")
        else:
            y = conv3d(x, kernel)
        return y + bias[None, None, None, None], x[:, x.shape[1] - seen :]


class Downsample(nnx.Module):
    """Half the height and width, and half the frame rate if `temporal`; frame 0 stays alone."""

    def __init__(self, channels: int, temporal: bool, *, rngs: nnx.Rngs):
        self.resample = CausalConv(channels, channels, (1, 3, 3), rngs=rngs)
        self.temporal = temporal
        if temporal:
            self.time_conv = CausalConv(channels, channels, (3, 1, 1), rngs=rngs)

    def __call__(self, x: Video, past: Video | None = None) -> tuple[Video, Video | None]:
        kernel, bias = self.resample.weights(x.dtype)
        # Stride 2 with a row and a column of zeros after the last: output i sees 2i, 2i+1, 2i+2.
        # Folding 2 x 2 pixels into channels makes that a stride of 1, with nothing thrown away.
        x = rearrange(x, "B T (H p) (W q) C -> p q B T H W C", p=2, q=2)
        below = jnp.pad(x[0], [(0, 0), (0, 0), (0, 0), (0, 1), (0, 0), (0, 0)])[:, :, :, 1:]
        right = jnp.pad(x[:, 0], [(0, 0), (0, 0), (0, 0), (0, 0), (0, 1), (0, 0)])[..., 1:, :]
        corner = jnp.pad(below[0], [(0, 0), (0, 0), (0, 0), (0, 1), (0, 0)])[..., 1:, :]
        near = [
            *(x[0, 0], x[0, 1], right[0]),
            *(x[1, 0], x[1, 1], right[1]),
            *(below[0], below[1], corner),
        ]
        y = jnp.concatenate(near, axis=-1) @ rearrange(kernel, "1 h w C O -> (h w C) O")
        y = y + bias[None, None, None, None]
        if not self.temporal:
            return y, None
        # Frame 0 passes as it is; each later output sees two new frames and the one before.
        last = y[:, -1:]
        if past is None:
            first, y = y[:, :1], self.halve_rate(y)
            return jnp.concatenate([first, y], axis=1), last
        return self.halve_rate(jnp.concatenate([past, y], axis=1)), last

    def halve_rate(self, x: Video) -> Video:
        kernel, bias = self.time_conv.weights(x.dtype)
        pairs = rearrange(x[:, 1:], "B (T r) H W C -> B T r H W C", r=2)
        before = jnp.concatenate([x[:, :1], pairs[:, :-1, 1]], axis=1)[:, : pairs.shape[1]]
        near = jnp.concatenate([before, pairs[:, :, 0], pairs[:, :, 1]], axis=-1)
        y = near @ rearrange(kernel, "t 1 1 C O -> (t C) O")
        return y + bias[None, None, None, None]


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
        # Nearest-neighbour doubling and then a 3 x 3 convolution, without the doubled video: each
        # of the 2 x 2 output phases is a convolution of the small one with some taps added up.
        kernel, bias = self.resample.kernel[...], self.resample.bias[...].astype(x.dtype)
        phases = jnp.array([[[1, 0, 0], [0, 1, 1], [0, 0, 0]], [[0, 0, 0], [1, 1, 0], [0, 0, 1]]])
        kernel = jnp.einsum("pih,qjw,thwco->tijcpqo", phases, phases, kernel).astype(x.dtype)
        y = conv3d(x, rearrange(kernel, "t h w C p q O -> t h w C (p q O)"))
        y = rearrange(y, "B T H W (p q O) -> B T (H p) (W q) O", p=2, q=2)
        return y + bias[None, None, None, None]
