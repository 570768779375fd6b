"""LoRA files: one change however it is written, applied as it was trained, or refused by name."""

import json
import pathlib
import shutil

import jax
import ml_dtypes
import numpy as np
import pytest
import tiny
import tiny_lora
import tiny_wan
from safetensors.numpy import load_file, save_file
from tiny_lora import LAYERS, RANK, kohya, matrices, styled, written

import vjax
from vjax import loras, sample, stored, weights
from vjax import video as media
from vjax.config import MeshConfig
from vjax.convert import lora
from vjax.loras import Lora
from vjax.parallel import mesh as meshes
from vjax.timeline import RequestError
from vjax.weights import BundleError


@pytest.fixture
def t2v(tmp_path):
    tiny_wan.write(tmp_path / "t2v", "t2v")
    return str(tmp_path / "t2v")


def dit(name: str, *given) -> dict[str, np.ndarray]:
    return weights.flatten(weights.load(name, ("dit",), loras.of(given)).params["dit"])


def published(name: str, folder: str = "transformer") -> dict[str, np.ndarray]:
    return load_file(pathlib.Path(name) / folder / "diffusion_pytorch_model.safetensors")


def changed(name: str, changes, folder: str = "transformer") -> dict[str, np.ndarray]:
    """Our parameters once the published tensors have changed so."""
    file = pathlib.Path(name) / folder / "diffusion_pytorch_model.safetensors"
    before = load_file(file)
    try:
        save_file({k: np.ascontiguousarray(x + changes.get(k, 0)) for k, x in before.items()}, file)
        network = "dit" if folder == "transformer" else "low"
        return weights.flatten(weights.load(name).params[network])
    finally:
        save_file(before, file)


def products(made, scale: float = 1.0) -> dict[str, np.ndarray]:
    return {
        f"{layer}.weight": np.float32(scale) * (up @ down) for layer, (down, up) in made.items()
    }


def same(found, wanted) -> None:
    assert found.keys() == wanted.keys()
    for name, x in wanted.items():
        np.testing.assert_allclose(found[name], x, rtol=1e-5, atol=1e-6, err_msg=name)


STYLES = {
    "diffusers": lambda made: styled(made, "transformer.{diffusers}"),
    "peft": lambda made: styled(made, "base_model.model.{diffusers}"),
    "an adapter's name": lambda made: styled(made, "{original}", leaf=".default.weight"),
    "inside a pipeline": lambda made: styled(made, "pipe.dit.{original}", leaf=".default.weight"),
    "original": lambda made: styled(made, "diffusion_model.{original}"),
    "down and up": lambda made: styled(
        made, "diffusion_model.{original}", parts=("lora_down", "lora_up")
    ),
    "lora.down": lambda made: styled(
        made, "transformer.{diffusers}", parts=("lora.down", "lora.up")
    ),
    "kohya": kohya,
    "kohya of diffusers": lambda made: kohya(made, {layer: layer for layer in made}),
}


@pytest.mark.parametrize("style", STYLES)
def test_each_style_is_the_same_change(t2v, tmp_path, style):
    made = matrices(weights.read_config(t2v).dit)
    file = written(tmp_path / "lora.safetensors", STYLES[style](made))
    same(dit(t2v, (file, 0.5)), changed(t2v, products(made, 0.5)))


@pytest.mark.parametrize(
    "alpha",
    [
        np.float32(1),
        np.float32([1]),
        np.asarray(1, ml_dtypes.bfloat16),
        np.float64(1),
        np.int64(1),
    ],
    ids=str,
)
def test_alpha_is_over_the_rank_of_its_layer(t2v, tmp_path, alpha):
    config = weights.read_config(t2v).dit
    made = matrices(config, ["blocks.0.attn1.to_q"], rank=8)
    other = matrices(config, ["blocks.1.attn1.to_q"], rank=2)
    tensors = styled({**made, **other}, "diffusion_model.{diffusers}", {k: k for k in made | other})
    tensors["diffusion_model.blocks.0.attn1.to_q.alpha"] = alpha
    tensors["diffusion_model.blocks.1.attn1.to_q.alpha"] = np.float32(6)
    file = written(tmp_path / "lora.safetensors", tensors)
    same(dit(t2v, file), changed(t2v, products(made, 1 / 8) | products(other, 3)))


def test_peft_says_alpha_beside_its_file_or_in_it(t2v, tmp_path):
    made = matrices(weights.read_config(t2v).dit)
    said = {"r": RANK, "lora_alpha": 6, "alpha_pattern": {"blocks.0.attn1.to_q": 12}}
    wanted = products(made, 2)
    wanted["blocks.0.attn1.to_q.weight"] *= 2
    wanted = changed(t2v, wanted)
    (tmp_path / "peft").mkdir()
    tensors = styled(made, "base_model.model.{diffusers}")
    written(tmp_path / "peft" / "adapter_model.safetensors", tensors)
    (tmp_path / "peft" / "adapter_config.json").write_text(json.dumps(said))
    same(dit(t2v, str(tmp_path / "peft")), wanted)
    said = json.dumps({f"transformer.{key}": value for key, value in said.items()})
    tensors = styled(made, "transformer.{diffusers}")
    file = written(tmp_path / "lora.safetensors", tensors, {"lora_adapter_metadata": said})
    same(dit(t2v, file), wanted)


def test_side_tensors_are_applied_with_the_strength(t2v, tmp_path):
    config, rng = weights.read_config(t2v).dit, np.random.default_rng(1)
    sizes = tiny_lora.shapes(config)
    wanted = {
        "blocks.0.ffn.0.diff_b": "blocks.0.ffn.net.0.proj.bias",
        "blocks.1.self_attn.norm_q.diff": "blocks.1.attn1.norm_q.weight",
        "blocks.1.norm3.diff": "blocks.1.norm2.weight",
        "blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
        "blocks.0.diff_m": "blocks.0.scale_shift_table",
        "blocks.1.modulation.diff": "blocks.1.scale_shift_table",
        "head.diff_m": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "head.head.diff_b": "proj_out.bias",
        "patch_embedding.diff": "patch_embedding.weight",
        "time_embedding.2.diff_b": "condition_embedder.time_embedder.linear_2.bias",
    }
    changes = {
        theirs: rng.normal(size=sizes[name]).astype(np.float32) for theirs, name in wanted.items()
    }
    tensors = {f"diffusion_model.{name}": x for name, x in changes.items()}
    made = matrices(config, ["blocks.0.attn1.to_q"])
    place = "diffusion_model.blocks.0.self_attn.q"
    tensors |= styled(made, place)
    tensors[f"{place}.alpha"] = np.float32(RANK / 4)
    bias = tensors[f"{place}.lora_B.bias"] = rng.normal(size=24).astype(np.float32)
    file = written(tmp_path / "lora.safetensors", tensors)
    expected = {wanted[theirs]: 0.5 * x for theirs, x in changes.items()} | products(made, 0.125)
    expected["blocks.0.attn1.to_q.bias"] = 0.125 * bias
    same(dit(t2v, (file, 0.5)), changed(t2v, expected))


def test_several_add_up_and_none_is_rounded_before_the_sum(tmp_path):
    name = tiny_wan.write(tmp_path / "t2v", "t2v", "bfloat16")
    config = weights.read_config(name).dit
    first, second = matrices(config), matrices(config, seed=1)
    files = [
        written(tmp_path / "a.safetensors", styled(first, "transformer.{diffusers}")),
        written(tmp_path / "b.safetensors", kohya(second)),
    ]
    expected = {k: x.astype(np.float32) for k, x in published(name).items()}
    for key, x in products(first, 2).items():
        expected[key] = expected[key] + x - products(second, 0.5)[key]
    with pytest.warns(UserWarning, match="changes 9 of the 9 modules"):
        pipe = vjax.load(name, lora=[(files[0], 2.0), f"{files[1]}:-0.5"])
    q = np.asarray(pipe.params["dit"]["blocks"]["self_attention"]["q"]["kernel"][0])
    wanted = expected["blocks.0.attn1.to_q.weight"].T.astype(ml_dtypes.bfloat16)
    assert (q == wanted).mean() > 0.99  # the order of a sum may turn a last digit
    np.testing.assert_allclose(q.astype(np.float32), wanted.astype(np.float32), rtol=2**-7)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_a_bundle_of_ours_takes_them_too(tmp_path, dtype):
    weights.save(tmp_path / "bundle", tiny.bundle(), dtype=dtype)
    name = str(tmp_path / "bundle")
    before = dit(name)
    made = matrices(tiny.MODEL.dit, {**LAYERS, "patch_embedding": "patch_embedding"})
    names = LAYERS | {"patch_embedding": "patch_embedding"}
    file = written(tmp_path / "a.safetensors", styled(made, "diffusion_model.{original}", names))
    after = dit(name, file)
    product = products(made)
    difference = {
        key: after[key] - before[key] for key in after if (after[key] != before[key]).any()
    }
    assert len(difference) == len(made)
    q = difference["blocks.self_attention.q.kernel"]
    np.testing.assert_allclose(q[0], product["blocks.0.attn1.to_q.weight"].T, atol=1e-5)
    assert not q[1].any()
    head = product["proj_out.weight"].T
    np.testing.assert_allclose(difference["head.kernel"], head, atol=1e-5)


@pytest.mark.parametrize("kind", ["published", "ours"])
def test_devices_that_share_a_model_add_their_own_rows(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(stored, "_PIECE", 64)  # a row or two
    name = str(tmp_path / "model")
    if kind == "ours":
        weights.save(name, tiny.bundle(), dtype="int8")
    else:
        tiny_wan.write(tmp_path / "model", "t2v")
    file = written(tmp_path / "a.safetensors", kohya(matrices(weights.read_config(name).dit)))
    mesh = meshes.make_mesh(MeshConfig(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    opened = weights.open(name, ("dit",), [Lora(file)]).params
    for piece in opened["dit"]["head"]["kernel"].pieces():  # as hosts that share it read it
        some, whole = piece.read(slice(1, 3)), piece.read(slice(None))
        np.testing.assert_allclose(some, whole[1:3], rtol=1e-6)
    found = stored.put(opened, mesh)["dit"]
    same({key: np.asarray(x) for key, x in weights.flatten(found).items()}, dit(name, file))


def test_each_expert_takes_its_own(tmp_path):
    name = tiny_wan.write(tmp_path / "a14b", "a14b")
    made = matrices(weights.read_config(name).dit)
    file = written(tmp_path / "a.safetensors", kohya(made))
    before = weights.load(name).params

    def changes(*given) -> list[bool]:
        bundle = weights.load(name, loras=loras.of(given))
        pairs = [
            (weights.flatten(bundle.params[e]), weights.flatten(before[e])) for e in ("dit", "low")
        ]
        notes.extend(bundle.notes)
        return [any((new[k] != old[k]).any() for k in old) for new, old in pairs]

    notes: list[str] = []
    assert changes(file) == [True, True]
    assert "in both experts" in notes[-1]
    assert changes(f"{file}@high:0.5") == [True, False]
    assert changes((f"{file}@low", 0.5)) == [False, True]
    same(
        weights.flatten(weights.load(name, loras=loras.of((f"{file}@low", 0.5))).params["low"]),
        changed(name, products(made, 0.5), "transformer_2"),
    )
    tensors = styled(made, "transformer_2.{diffusers}")
    said = written(tmp_path / "d.safetensors", kohya(made), {"vjax.expert": "low"})
    assert changes(said) == [False, True]
    assert changes(f"{said}@high") == [True, False]
    low = written(tmp_path / "b.safetensors", tensors)
    assert changes(low) == [False, True]
    both = written(
        tmp_path / "c.safetensors", {**tensors, **styled(made, "transformer.{diffusers}")}
    )
    assert changes(both) == [True, True]
    assert changes(f"{both}@high") == [True, False]
    assert "c.safetensors@high:1 changes 9 of the 9 modules" in notes[-1]
    assert changes(f"{both}@low") == [False, True]
    with pytest.raises(BundleError, match=r"b\.safetensors has nothing for this expert"):
        weights.open(name, loras=loras.of(f"{low}@high"))


@pytest.mark.parametrize("order", [1, -1])
def test_each_expert_has_its_own_alpha(tmp_path, order):
    name = tiny_wan.write(tmp_path / "a14b", "a14b")
    made = matrices(weights.read_config(name).dit)
    settings = {"transformer.lora_alpha": RANK / 2, "transformer_2.lora_alpha": 4 * RANK}
    said = json.dumps(dict([*settings.items()][::order]))
    tensors = styled(made, "transformer.{diffusers}") | styled(made, "transformer_2.{diffusers}")
    file = written(tmp_path / "a.safetensors", tensors, {"lora_adapter_metadata": said})
    params = weights.load(name, loras=loras.of(file)).params
    same(weights.flatten(params["dit"]), changed(name, products(made, 0.5)))
    same(weights.flatten(params["low"]), changed(name, products(made, 4), "transformer_2"))


def test_settings_that_cannot_be_read_are_named(t2v, tmp_path):
    for said in ("{", "[1]", "[" * 10**5):
        file = written(tmp_path / "a.safetensors", PAIR, {"lora_adapter_metadata": said})
        with pytest.raises(BundleError, match=r"metadata of .*a\.safetensors cannot be read"):
            weights.open(t2v, loras=[Lora(file)])
        written(tmp_path / "adapter_model.safetensors", PAIR)
        (tmp_path / "adapter_config.json").write_text(said)
        with pytest.raises(BundleError, match=r"adapter_config\.json cannot be read"):
            weights.open(t2v, loras=[Lora(str(tmp_path / "adapter_model.safetensors"))])


def test_what_is_not_applied_is_said(t2v, tmp_path):
    config = weights.read_config(t2v).dit
    i2v = tiny_wan.write(tmp_path / "i2v", "i2v")
    more = LAYERS | tiny_lora.IMAGES
    file = written(
        tmp_path / "i2v.safetensors", kohya(matrices(weights.read_config(i2v).dit, more), more)
    )
    (note,) = weights.load(t2v, loras=[Lora(file)]).notes
    assert "i2v.safetensors:1 changes 9 of the 13 modules that it names" in note
    assert "left out" in note
    assert "k_img" in note
    (note,) = weights.load(i2v, loras=[Lora(file)]).notes
    assert "13 of the 13" in note
    assert "left out" not in note
    names = LAYERS | {"patch_embedding": "patch_embedding", "text_encoder.layer": "x"}
    made = matrices(config, [*LAYERS, "patch_embedding"])
    made["text_encoder.layer"] = made["proj_out"]
    file = written(tmp_path / "t2v.safetensors", styled(made, "{diffusers}", names))
    (note,) = weights.load(i2v, loras=[Lora(file)]).notes
    assert "9 of the 11" in note  # the patch embedding of I2V has more channels
    assert "patch_embedding" in note
    assert "how it sees images stays" in note
    deeper = {f"blocks.{i}.attn1.to_q": (np.ones((2, 24)), np.ones((24, 2))) for i in range(5)}
    file = written(
        tmp_path / "d.safetensors", styled(deeper, "{diffusers}", {k: k for k in deeper})
    )
    (note,) = weights.load(t2v, loras=[Lora(file)]).notes
    assert "2 of the 5" in note
    assert "blocks.*.attn1.to_q (3 times)" in note


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


Q, OURS = "blocks.0.self_attn.q", "blocks.0.attn1.to_q"


def pair(layer: str, inputs: int = 24, outputs: int = 24, ranks=(2, 2)) -> dict[str, np.ndarray]:
    down, up = ones(ranks[0], inputs), ones(outputs, ranks[1])
    return {f"{layer}.lora_A.weight": down, f"{layer}.lora_B.weight": up}


PAIR = pair(OURS)


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (pair(Q, 48, 48), "its width is 48, this model's 24"),
        (pair(Q, 24, 25), "its width is 25, this model's 24"),
        ({"blocks.0.ffn.0.diff_b": ones(64)}, r"proj\.bias is \(64,\), the tensor \(32,\)"),
        (pair("double_blocks.0.img_attn"), r"another model: it changes double_blocks\.0\.img_attn"),
        ({f"{Q}.lora_A.weight": ones(2, 24)}, r"lora_A\.weight, and no lora_B"),
        (pair(Q, ranks=(2, 3)), "no rank in common"),
        ({**PAIR, f"{Q}.alpha": ones(1)}, "no matrices"),
        ({**PAIR, f"{OURS}.lora_down.weight": ones(2, 24)}, "say the same"),
        ({**PAIR, f"{OURS}.alpha": ones(2)}, "must be one number"),
        ({**PAIR, f"{OURS}.alpha": ones(1) * np.nan}, "which is none"),
        ({**PAIR, f"{OURS}.dora_scale": ones(24)}, "dora_scale is of DoRA"),
        ({**PAIR, "blocks.0.attn1.to_k.hada_w1_a": ones(24)}, "hada_w1_a is of LoHa"),
        ({**PAIR, f"{OURS}.lora_A.weight": ones(2, 24).astype(np.int8)}, "is of type I8"),
        ({**PAIR, f"{OURS}.set_weight": ones(24, 24)}, "not known what .*set_weight means"),
        ({f"{OURS}.weight": ones(24, 24)}, "is no LoRA file"),
        ({**PAIR, **pair(Q)}, "both change"),
    ],
)
def test_what_cannot_be_applied_is_refused_by_name(t2v, tmp_path, tensors, said):
    file = written(tmp_path / "bad.safetensors", tensors)
    with pytest.raises(BundleError, match=said) as caught:
        weights.open(t2v, loras=[Lora(file)])
    assert "bad.safetensors" in str(caught.value)


def test_files_that_are_none(t2v, tmp_path):
    (tmp_path / "a.pt").write_bytes(b"x")
    (tmp_path / "b.safetensors").write_bytes(b"x" * 100)
    for file, said in (("a.pt", "is a pickle"), ("b.safetensors", "damaged"), ("c", "is missing")):
        with pytest.raises(BundleError, match=said):
            weights.open(t2v, loras=[Lora(str(tmp_path / file))])
    bad = {name: x * np.inf for name, x in PAIR.items()}
    file = written(tmp_path / "inf.safetensors", bad)
    with pytest.raises(BundleError, match=r"inf\.safetensors: .* holds NaN or infinite"):
        weights.load(t2v, loras=[Lora(file)])
    with pytest.raises(BundleError, match="has one expert"):
        weights.open(t2v, loras=[Lora(file, expert="high")])


def test_what_users_write():
    assert loras.parse("a.safetensors") == Lora("a.safetensors")
    assert loras.parse("a.safetensors:0.5") == Lora("a.safetensors", 0.5)
    assert loras.parse("x@y/a.safetensors@low:-1e-1") == Lora("x@y/a.safetensors", -0.1, "low")
    assert loras.parse("C:\\a.safetensors") == Lora("C:\\a.safetensors")
    for text in ("a.safetensors:x", "a.safetensors:nan", "a.safetensors:", ""):
        with pytest.raises(RequestError):
            loras.parse(text)
    assert loras.of(["a", ("b", 2)]) == (Lora("a"), Lora("b", 2))
    assert loras.of("a:2") == (Lora("a", 2.0),)
    for given in (3, [3], [("a", "b")], [("a", float("nan"))], [("a", 1, 2)]):
        with pytest.raises(RequestError):
            loras.of(given)


def test_what_a_file_says_of_its_use_is_said(t2v, tmp_path):
    file = written(tmp_path / "a.safetensors", PAIR, {"modelspec.trigger_phrase": "in claymation"})
    _, note = weights.open(t2v, loras=[Lora(file)]).notes
    assert "trigger_phrase in claymation" in note
    assert lora.located(str(tmp_path)) == tmp_path / "a.safetensors"


def run(capsys, *arguments) -> tuple[int, str, str]:
    code = sample.main([str(argument) for argument in arguments])
    return code, *capsys.readouterr()


def test_a_file_carries_its_loras_and_is_made_again_with_them(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights.save("tiny", tiny.bundle(), dtype="float32")
    (tmp_path / "other").mkdir()
    for place, seed in (("a", 0), ("b", 1), ("other/a", 2)):
        made = matrices(tiny.MODEL.dit, seed=seed)
        written(tmp_path / f"{place}.safetensors", kohya(made))
    asked = ["--prompt", "a red circle", "--frames", 1, "--model", "tiny", "--quality", 90]
    both = ["--lora", "a.safetensors:0.5", "--lora=b.safetensors"]
    code, _, err = run(capsys, *asked, *both, "--out", "a.png")
    assert code == 0
    assert "note: a.safetensors:0.5 changes 9 of the 9 modules that it names." in err
    assert err.count("b.safetensors:1 changes") == 1
    used = media.read_metadata("a.png")["loras"]
    assert [(each["name"], each["scale"]) for each in used] == [
        ("a.safetensors", 0.5),
        ("b.safetensors", 1),
    ]
    again = ["--like", "a.png", "--model", "tiny", "--out"]
    assert run(capsys, *again, "again.png")[0] == 0
    assert pathlib.Path("again.png").read_bytes() == pathlib.Path("a.png").read_bytes()
    assert run(capsys, *asked, "--out", "without.png")[0] == 0
    pictures = [media.read(name).frames for name in ("a.png", "without.png")]
    assert (pictures[0] != pictures[1]).any()
    assert run(capsys, *again, "none.png", "--lora", "none")[0] == 0
    np.testing.assert_array_equal(media.read("none.png").frames, pictures[1])
    shutil.copy("other/a.safetensors", "a.safetensors")
    code, out, err = run(capsys, *again, "c.png")
    assert (code, out) == (2, "")
    assert "made from another a.safetensors than the one that is here" in err
    code, out, err = run(capsys, *asked, "--lora", "b.safetensors", "--out", "b.safetensors")
    assert code == 2


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
def test_bad_loras_are_one_line_before_anything_is_made(tmp_path, monkeypatch, capsys, more):
    monkeypatch.chdir(tmp_path)
    wide = pair("blocks.0.self_attn.q", 48, 48)
    written(tmp_path / "wide.safetensors", wide)
    (tmp_path / "a.ckpt").write_bytes(b"x")
    for given, said in (
        ("wide.safetensors", "its width is 48, this model's 256"),
        ("a.ckpt", "a.ckpt is a pickle"),
        ("gone.safetensors:0.5", "gone.safetensors is missing"),
        ("wide.safetensors:much", "'much' is no scale"),
        ("wide.safetensors:1e3", "from -100 to 100"),
        ("wide.safetensors@low", "wide.safetensors"),
    ):
        code, out, err = run(capsys, "--prompt", "a red circle", "--lora", given, *more)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert said in err


@pytest.mark.parametrize("scale", ["0.8", True, None, float("nan"), 101, -101])
def test_a_pair_has_a_number_as_its_scale(scale):
    with pytest.raises(RequestError, match=r"is no scale of a\.safetensors"):
        loras.of([("a.safetensors", scale)])
    assert loras.of([("a.safetensors", -100)]) == (Lora("a.safetensors", -100.0),)


def test_four_steps_of_a_distilled_lora_are_at_its_times(t2v):
    pipe = vjax.load(t2v)
    asked = vjax.text("a red circle", size=(64, 64), frames=5)
    _, method = pipe.check(asked, steps=4, guidance=1, solver="euler", shift=5)
    np.testing.assert_allclose(1000 * method.times, [1000, 937.5, 833.3333, 625, 0], rtol=1e-6)
    assert method.told is None  # the network sees them as they are
