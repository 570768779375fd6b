"""The layers that the three networks share: parameters in any dtype, computed in the input's dtype.

Parameters are cast to the dtype of what flows through (float32 on CPU, bfloat16 on accelerators);
normalisation statistics are always float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Initializer = Callable[..., Array]

xavier = nnx.initializers.xavier_uniform()
zeros = nnx.initializers.zeros_init()


def platform() -> str:
    """What this trace will run on: "cpu", "gpu" or "tpu".

    The default device decides, so that `jax.default_device` also serves a compilation for a TPU
    that is not there.
    """
    device = jax.config.jax_default_device or jax.devices()[0]
    return device if isinstance(device, str) else device.platform


def gelu(x: Array) -> Array:
    """GELU with the tanh approximation, which is what Wan and T5 were trained with."""
    return jax.nn.gelu(x, approximate=True)


class Linear(nnx.Module):
    """`x @ kernel + bias` over the last axis."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        rngs: nnx.Rngs,
        use_bias: bool = True,
        kernel_init: Initializer = xavier,
    ):
        self.kernel = nnx.Param(kernel_init(rngs.params(), (inputs, outputs), jnp.float32))
        self.bias = nnx.Param(jnp.zeros(outputs)) if use_bias else None

    def __call__(self, x: Float[Array, "*N inputs"]) -> Float[Array, "*N outputs"]:
        return linear(x, self.kernel[...], None if self.bias is None else self.bias[...])


def linear(
    x: Float[Array, "*N inputs"],
    kernel: Float[Array, "inputs outputs"],
    bias: Float[Array, " outputs"] | None = None,
) -> Float[Array, "*N outputs"]:
    """`x @ kernel + bias` in the dtype of `x`."""
    axes = x.shape[:-1]
    if platform() == "cpu":
        # With several axes of tokens XLA transposes both sides of the kernel's gradient on CPU.
        x = x.reshape(-1, x.shape[-1])
    y = x @ kernel.astype(x.dtype)
    if bias is not None:
        y = y + jnp.broadcast_to(bias.astype(x.dtype), y.shape)
    return y.reshape(*axes, -1)


class MLP(nnx.Module):
    """Two linear layers with an activation between them."""

    def __init__(
        self,
        inputs: int,
        hidden: int,
        outputs: int,
        activation: Callable[[Array], Array],
        *,
        rngs: nnx.Rngs,
        kernel_init: Initializer = xavier,
    ):
        self.activation = activation
        self.up = Linear(inputs, hidden, rngs=rngs, kernel_init=kernel_init)
        self.down = Linear(hidden, outputs, rngs=rngs, kernel_init=kernel_init)

    def __call__(self, x: Float[Array, "*N inputs"]) -> Float[Array, "*N outputs"]:
        return self.down(self.activation(self.up(x)))


class RMSNorm(nnx.Module):
    """Root-mean-square norm over the last axis with a learned scale."""

    def __init__(self, width: int, *, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        return rms_norm(x, self.scale[...], eps=self.eps)


def rms_norm(
    x: Float[Array, "*N D"], scale: Float[Array, " D"], *, eps: float
) -> Float[Array, "*N D"]:
    """Root mean square of 1 over the last axis, then `scale`; computed in float32."""
    y = x.astype(jnp.float32)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)
    return (y * jnp.broadcast_to(scale.astype(jnp.float32), y.shape)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Layer norm over the last axis with a learned scale and bias."""

    def __init__(self, width: int, *, eps: float):
        self.eps = eps
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: Float[Array, "*N D"]) -> Float[Array, "*N D"]:
        y = normalize(x, eps=self.eps)
        y = y * jnp.broadcast_to(self.scale[...].astype(jnp.float32), y.shape)
        y = y + jnp.broadcast_to(self.bias[...].astype(jnp.float32), y.shape)
        return y.astype(x.dtype)


def normalize(x: Float[Array, "*N D"], *, eps: float) -> Float[Array, "*N D"]:
    """Zero mean and unit variance over the last axis, in float32 whatever comes in."""
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    return y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + eps)


def sinusoid(x: Float[Array, "*N"], dim: int, *, max_period: float = 10_000.0) -> Array:
    """Sinusoidal features `[*N dim]` of a scalar: the cosines first, then the sines."""
    frequencies = max_period ** (-jnp.arange(dim // 2, dtype=jnp.float32) / (dim // 2))
    angles = jnp.einsum("...,f->...f", x.astype(jnp.float32), frequencies)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def rotary_angles(x: Float[Array, "*N"], dim: int, *, theta: float) -> Float[Array, "*N {dim}//2"]:
    """Angles by which the `dim // 2` pairs of channels turn at position `x` (RoFormer)."""
    frequencies = theta ** (-jnp.arange(0, dim, 2, dtype=jnp.float32) / dim)
    return jnp.einsum("...,f->...f", x.astype(jnp.float32), frequencies)


def rotate(
    x: Float[Array, "B N K D"], rotary: Float[Array, "2 b N half"]
) -> Float[Array, "B N K D"]:
    """Turn channel i of each head's first half with channel i of its second half.

    `rotary` holds the cosines and sines of the angles; `b` is 1 or B.
    """
    cos, sin = rotary[:, :, :, None, :]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)
