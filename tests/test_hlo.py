"""What compiled programs do, counted from their text against numbers by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vjax.parallel import hlo


def compiled(function, *arguments, mesh=None, specs=(), out=None):
    shardings = [NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs] or None
    options = {"in_shardings": tuple(shardings)} if shardings else {}
    if out is not None:
        options["out_shardings"] = NamedSharding(mesh, PartitionSpec(*out))
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in arguments]
    return jax.jit(function, **options).lower(*shapes).compile()


@pytest.fixture(scope="module")
def mesh():
    return Mesh(np.array(jax.devices()).reshape(2, 4), ("data", "fsdp"))


def layers(kernels, x):
    return jax.lax.scan(lambda x, kernel: (jnp.tanh(x @ kernel), None), x, kernels)[0]


def test_a_loop_counts_as_often_as_it_runs():
    found = hlo.read(compiled(layers, (50, 32, 32), (16, 32)))
    assert found.flops == 50 * 2 * 16 * 32 * 32
    assert found.moved == found.counts == {}
    # A trip reads its slice of the kernels, not all of them.
    kernels = 50 * 32 * 32 * 4
    assert kernels <= found.memory <= 8 * kernels


def test_gradients_and_gathers_of_divided_kernels(mesh):
    def loss(kernels, x):
        return layers(kernels, x).sum()

    kernels, clips = (None, "fsdp", None), (("data", "fsdp"), None)
    program = compiled(
        jax.grad(loss), (5, 64, 64), (16, 64), mesh=mesh, specs=(kernels, clips), out=kernels
    )
    found = hlo.read(program, slice_size=4)
    assert found.flops == 3 * 5 * 2 * (16 // 8) * 64 * 64
    # Forward and backward, each device sends its quarter to the three others.
    assert found.counts["all-gather"] >= 10
    assert found.moved["all-gather"] == found.counts["all-gather"] * 3 * 64 * 64 * 4 / 4
    # What data sums goes between the slices, on one program alone it stays within.
    assert found.between > 0
    alone = hlo.read(program)
    assert alone.between == 0
    assert sum(alone.moved.values()) == pytest.approx(sum(found.moved.values()) + found.between)


def test_a_convolution_counts_its_window_within_the_frame_and_channels():
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    found = hlo.read(compiled(convolve, (2, 8, 8, 16), (3, 3, 16, 32)))
    assert found.flops == 2 * (2 * 32 * 16) * (3 * 8 - 2) ** 2


def test_a_ring_sends_what_it_passes_on(mesh):
    def turn(x):
        def pass_on(x):
            return jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)])

        spec = PartitionSpec("fsdp")
        return jax.shard_map(pass_on, mesh=mesh, in_specs=spec, out_specs=spec)(x)

    program = compiled(turn, (8, 32), mesh=mesh, specs=(("fsdp",),))
    found = hlo.read(program, dict(mesh.shape))
    assert found.moved == {"collective-permute": 2 * 32 * 4}
    assert found.over == {"collective-permute over fsdp": 2 * 32 * 4}


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("all-reduce(%x), replica_groups={{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("all-reduce(%x), replica_groups=[2,2]<=[4]", [[0, 1], [2, 3]]),
        ("all-reduce(%x), replica_groups=[2,2]<=[2,2]T(1,0)", [[0, 2], [1, 3]]),
        ("all-reduce(%x), replica_groups=mesh['a'=2,'b'=2] {'a'}, x=1", [[0, 2], [1, 3]]),
        (
            "all-gather(%x), replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'a'}",
            [[0, 1], [2, 3]],
        ),
        ("all-reduce(%x), replica_groups=mesh['a'=2,'b'=2] {'a','b'}", [[0, 1, 2, 3]]),
    ],
)
def test_groups_of_devices_are_read_in_every_form(text, groups):
    np.testing.assert_array_equal(hlo._groups(text), groups)


def test_of_a_condition_the_costliest_branch_counts():
    def one(take, x):
        return jax.lax.cond(take[0] > 0, lambda x: x @ x @ x, lambda x: x @ x, x)

    assert hlo.read(compiled(one, (1,), (16, 16))).flops == 2 * 2 * 16**3


# As the compiler for TPUs writes them.
TPU = """HloModule jit_f, is_scheduled=true

%fused_computation.1 (param_0: bf16[8,128,256], param_1: bf16[8,256,64]) -> bf16[8,128,64] {
  %param_0 = bf16[8,128,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %param_1 = bf16[8,256,64]{2,1,0:T(8,128)(2,1)} parameter(1)
  ROOT %convolution.3 = bf16[8,128,64]{2,1,0:T(8,128)(2,1)} convolution(%param_0, %param_1), \
window={size=8 stride=7 pad=0_0 lhs_dilate=8}, dim_labels=0bf_0io->0bf
}

%fused_computation.2 (param_0.1: bf16[8,128,1,256], param_1.1: bf16[16,4,256]) -> bf16[8,128,4,16] {
  %param_0.1 = bf16[8,128,1,256]{3,2,1,0} parameter(0)
  %param_1.1 = bf16[1,4,256,16]{3,2,1,0} parameter(1)
  ROOT %convolution.4 = bf16[8,128,4,16]{1,3,2,0} convolution(%param_0.1, %param_1.1), \
window={size=1x4 pad=0_0x3_3 rhs_reversal=0x1}, dim_labels=0b1f_01io->0b1f
}

%all-reduce-scatter.1 (input: bf16[8,128,64]) -> bf16[4,128,64] {
  %input = bf16[8,128,64]{2,1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.5 = bf16[8,128,64]{2,1,0:T(8,128)(2,1)} all-reduce(%input), \
replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %dynamic-slice.2 = bf16[4,128,64]{2,1,0:T(8,128)(2,1)} dynamic-slice(%all-reduce.5, %c)
}

%body (p: (s32[], bf16[8,128,256], bf16[8,256,64])) -> (s32[], bf16[8,128,256]) {
  %p = (s32[]{:T(128)}, bf16[8,128,256]{2,1,0:T(8,128)}, bf16[8,256,64]{2,1,0}) parameter(0)
  %a = bf16[8,128,256]{2,1,0:T(8,128)(2,1)} get-tuple-element(%p), index=1
  %b = bf16[8,256,64]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%p), index=2
  %fusion.1 = bf16[8,128,64]{2,1,0:T(8,128)(2,1)S(1)} fusion(%a, %b), kind=kOutput, \
calls=%fused_computation.1
  %fusion.2 = bf16[4,128,64]{2,1,0:T(8,128)(2,1)S(1)} fusion(%fusion.1), kind=kCustom, \
calls=%all-reduce-scatter.1
  ROOT %t = (s32[]{:T(128)}, bf16[8,128,256]{2,1,0}) tuple(%i, %a)
}

%condition (p: (s32[], bf16[8,128,256])) -> pred[] {
  %constant.1 = s32[]{:T(128)} constant(12)
  ROOT %lt = pred[]{:T(512)} compare(%i, %constant.1), direction=LT
}

ENTRY %main (x: bf16[8,128,256], w: bf16[8,256,64]) -> bf16[8,128,256] {
  %x = bf16[8,128,256]{2,1,0:T(8,128)(2,1)} parameter(0)
  %tuple.1 = (s32[]{:T(128)}, bf16[8,128,256]{2,1,0}) tuple(%zero, %x)
  %while.1 = (s32[]{:T(128)}, bf16[8,128,256]{2,1,0}) while(%tuple.1), condition=%condition, \
body=%body
  %heads = bf16[8,128,4,16]{1,3,2,0:T(8,128)S(1)} fusion(%y, %z), kind=kOutput, \
calls=%fused_computation.2
  %kernel = bf16[8,128]{1,0} custom-call(%x), custom_call_target="tpu_custom_call"
  ROOT %r = bf16[8,128,256]{2,1,0} get-tuple-element(%while.1), index=1
}
"""


def test_a_program_for_tpus_is_read():
    found = hlo.parse(TPU)
    # A batch of products is a convolution there, and so is one whose results are split into heads.
    assert found.flops == 12 * 8 * 2 * 128 * 256 * 64 + 2 * 8 * 128 * 256 * 16 * 4
    assert found.counts == {"reduce-scatter": 12}
    assert found.moved == {"reduce-scatter": 12 * 8 * 128 * 64 * 2 / 2}
    assert found.kernels == {"tpu_custom_call": 1}
    read = 8 * 128 * 256 * 2  # the rest of the loop stays on the chip
    assert found.memory == 12 * read + read + 8 * 128 * 2
