"""FLOPs counted by hand, against other ways to count them."""

import jax
import jax.numpy as jnp
import pytest

from vjax import models
from vjax.config import DiTConfig, VAEConfig
from vjax.models import flops

# Nothing changes its size within, so that every kernel is applied at every place.
EVEN = VAEConfig(
    base_dim=8,
    z_dim=4,
    dim_mult=(1,),
    num_res_blocks=2,
    temporal_downsample=(),
    patch_size=2,
    mid_attention=False,
)


@pytest.mark.parametrize(
    ("count", "networks"),
    [
        (flops.encode_flops, ("encoder", "quant_conv")),
        (flops.decode_flops, ("decoder", "post_quant_conv")),
    ],
)
def test_flops_of_a_vae_are_its_kernels_at_every_place(count, networks):
    params = models.abstract(EVEN)
    leaves = jax.tree.leaves_with_path({name: params[name] for name in networks})
    kernels = [leaf for path, leaf in leaves if path[-1].key == "kernel"]
    for frames, height, width in ((5, 16, 24), (1, 32, 8)):
        # Of a picture, only the last of three taps in time meets more than blank frames.
        each = sum(k.size * min(k.shape[0], frames) // k.shape[0] for k in kernels)
        places = frames * (height // 2) * (width // 2)
        assert count(EVEN, frames, height, width) == 2 * places * each


@pytest.mark.parametrize("control", [{}, {"control_channels": 24, "control_blocks": (0, 2)}])
def test_flops_of_a_dit_are_its_products(control):
    config = DiTConfig(width=64, depth=3, heads=2, head_dim=32, ffn=128, text_width=32, **control)

    def run(params, latents, t, text, **given):
        positions = jnp.arange(3.0)
        return models.bind(config, params)(latents, t, text, positions=positions, **given)

    shapes = (1, 3, 32, 32, 16), (1,), (1, 40, 32)
    given = {"control": jnp.ones((1, 3, 32, 32, 24))} if control else {}
    params = models.abstract(config)
    traced = flops.traced(jax.make_jaxpr(run)(params, *map(jnp.ones, shapes), **given))
    assert flops.dit_flops(config, 3 * 16 * 16, 40) == pytest.approx(traced, rel=0.001)


def test_a_loop_counts_as_often_as_it_runs_and_a_branch_once():
    def run(x, yes):
        def body(x, _):
            return jax.lax.cond(yes, lambda x: x @ x, lambda x: x, x), None

        return jax.lax.scan(body, x, length=7)[0]

    assert flops.traced(jax.make_jaxpr(run)(jax.numpy.ones((4, 4)), True)) == 7 * 2 * 4**3
