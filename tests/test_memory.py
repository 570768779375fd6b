"""What a request takes of a device's memory: reckoned, refused, and shared in turns."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

import vjax
from vjax import memory, planning
from vjax.config import (
    DiTConfig,
    ImageConfig,
    MeshConfig,
    ModelConfig,
    TextConfig,
    VAEConfig,
)
from vjax.parallel import mesh as meshes
from vjax.pipeline import Pipeline
from vjax.stages import Stages
from vjax.timeline import RequestError

WAN = ModelConfig("wan", DiTConfig(), VAEConfig(), TextConfig(), conditioning="renoise")


def need(
    monkeypatch,
    gigabytes: float,
    model: ModelConfig = WAN,
    guided: bool = True,
    int8=False,
    dtype="bfloat16",
    **asked,
):
    monkeypatch.setattr(meshes, "memory_of_device", lambda: gigabytes * 2**30)
    plan = planning.plan(vjax.text("a", **asked), model)
    return memory.needed(model, plan, dtype, guided, int8=int8)


def test_a_small_wan_model_is_reckoned_as_its_compiler_does(monkeypatch):
    # 10.8, 6.3 and 15.7 GB by `python -m vjax.plan configs/wan_1_3b.py --slice v5e:1x1 --sample`,
    # which has the text encoder alone on the device.
    found = need(monkeypatch, 15.75)
    assert found.texts == pytest.approx(11.1, rel=0.05)
    assert found.steps == pytest.approx(6.3, rel=0.05)
    assert found.frames == pytest.approx(15.7, rel=0.05)
    found.check("wan")
    assert "about 15.7 of 15.8 GB of a device's memory" in found.said()[0]
    assert "tiles" not in found.said()[0]
    smaller = need(monkeypatch, 15.75, guided=False, size=(416, 240), frames=17)
    assert smaller.frames < 0.4 * found.frames
    assert smaller.steps - 3.1 < 0.1 * (found.steps - 3.1)


def test_weights_in_8_bits_take_half(monkeypatch):
    half, eight = (need(monkeypatch, 15.75, int8=each) for each in (False, True))
    assert eight.texts == pytest.approx(8.1, rel=0.02)  # with the DiT, for which there is room now
    assert half.steps - eight.steps == pytest.approx(1.392e9 / 2**30, rel=0.01)


def test_frames_that_have_no_room_are_decoded_in_tiles(monkeypatch):
    found = need(monkeypatch, 15.75, size=(1280, 720))
    assert found.tiles.said() == " in 1x3 tiles"
    # 12.9 GB by `python -m vjax.plan configs/wan_1_3b.py --sample --size 1280x720
    # --model.max_side=1280 --slice v5e:1x1`, whose tiles are a little cheaper than whole frames.
    assert found.frames == pytest.approx(14.7, rel=0.05)
    assert re.search(r"1\d\.\d GB for frames in 1x3 tiles\.$", found.said()[0])
    found.check("wan")
    assert len(need(monkeypatch, 40, size=(1280, 720)).tiles) == 1


def test_where_all_has_room_the_text_encoder_is_beside_the_others(monkeypatch):
    assert need(monkeypatch, 95).texts == pytest.approx(13.7, rel=0.05)


def test_two_experts_take_turns_where_they_must(monkeypatch):
    a14b = dataclasses.replace(
        WAN, dit=DiTConfig(5120, 40, 40, 128, 13_824, text_width=4096), boundary=0.875
    )
    beside, apart = (need(monkeypatch, has, a14b).steps for has in (200, 64))
    assert beside - apart == pytest.approx(28.6e9 / 2**30, rel=0.02)


@pytest.mark.parametrize(
    ("has", "texts", "steps"),
    [
        (100, "dit low vae text", "dit low vae"),
        (70, "vae text", "dit low vae"),
        (60, "vae text", "dit vae"),
    ],
)
def test_what_lies_on_a_device_is_what_has_room(has, texts, steps):
    held = {"dit": 20, "low": 20, "vae": 1, "text": 10}
    assert [" ".join(memory.resident(held, has, each)) for each in (True, False)] == [texts, steps]


def test_what_cannot_fit_is_refused_before_anything_is_read(monkeypatch):
    with pytest.raises(RequestError, match=r"wan needs about 11\.\d GB .* there are 8 GB: keep w"):
        need(monkeypatch, 8).check("wan")
    small = dataclasses.replace(WAN, dit=DiTConfig(depth=1), text=TextConfig(vocab=9, depth=1))
    with pytest.raises(RequestError, match=r"wan needs about 2.\d\d GB .* in 4x9 tiles, and"):
        need(monkeypatch, 2, small, size=(1280, 720), frames=1).check("wan")
    monkeypatch.setattr(meshes, "memory_of_device", lambda: 2.0**16)
    pipe = Pipeline(tiny.bundle())
    with pytest.raises(RequestError, match="tiny needs about"):
        pipe(vjax.text("a"))


@pytest.mark.parametrize(
    ("dtype", "int8", "size", "advice"),
    [
        (
            "float32",
            False,
            (832, 480),
            "use bfloat16, or keep weights in 8 bits (--int8), or share it",
        ),
        ("bfloat16", False, (832, 480), "keep weights in 8 bits (--int8), or share it"),
        ("bfloat16", True, (832, 480), "share it"),
        ("bfloat16", True, (1280, 1280), "make it smaller or shorter, or share it"),
    ],
)
def test_a_refusal_names_what_would_help(monkeypatch, dtype, int8, size, advice):
    found = need(monkeypatch, 4, size=size, dtype=dtype, int8=int8)
    with pytest.raises(RequestError, match=re.escape(f"there are 4 GB: {advice} among more")):
        found.check("wan")


def test_parameters_are_reckoned_to_the_byte():
    image = ImageConfig(width=32, depth=3, heads=2, ffn=48, patch=8, side=16)
    model, layout = tiny.model(image=image, boundary=0.6), MeshConfig(data=2, fsdp=2, tensor=2)
    bundle = tiny.bundle(model)
    bundle = dataclasses.replace(bundle, params={**bundle.params, "low": bundle.params["dit"]})
    for dtype, int8 in (("bfloat16", True), ("bfloat16", False), ("float32", False)):
        stages = Stages(bundle, dtype, layout, int8)
        for name, held in memory.held(model, dtype, layout, int8).items():
            leaves = jax.tree.leaves(stages._use(name))
            assert held == sum(x.addressable_shards[0].data.nbytes for x in leaves), name
            exact = {x.dtype for x in leaves} == {jnp.dtype(jnp.float32)}
            assert exact == (dtype == "float32" or name in ("vae", "image")), name


def test_networks_that_take_turns_make_the_same_video(monkeypatch):
    model = tiny.model(boundary=0.6)
    params = tiny.params(model)
    params = {**params, "low": params["dit"]}
    bundle = dataclasses.replace(tiny.bundle(model), params=params)
    ask = vjax.text("a", frames=5)
    whole = Pipeline(bundle)(ask, steps=3)
    monkeypatch.setattr(meshes, "crowded", lambda held, memory: True)
    pipe, seen = Pipeline(bundle), []
    use = pipe._use

    def noted(name):
        found = use(name)
        seen.append(set(pipe.params))
        return found

    pipe._use = noted
    assert set(pipe.params) == {"vae"}
    for _ in range(2):
        np.testing.assert_array_equal(pipe(ask, steps=3), whole)
    assert {"vae", "text"} in seen
    assert {"vae", "dit"} in seen
    assert {"vae", "low"} in seen
    assert all(len(resident) == 2 for resident in seen)
