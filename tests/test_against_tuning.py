"""What tuning makes, loaded by diffusers: a LoRA file, and a whole model that was exported."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_wan
from test_against_lora import fused, same
from test_against_pipelines import channels_first, theirs

import vjax
from vjax import weights
from vjax.config import LoraConfig, RunConfig
from vjax.convert import exporting
from vjax.training import lora, tuning

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def moved(tree, seed: int = 0):
    """Parameters as they are after some updates, and rounded as a bundle rounds them."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: np.float32(jnp.bfloat16(np.asarray(x) + rng.normal(size=x.shape, scale=0.05))),
        tree,
    )


@pytest.mark.parametrize("family", ["t2v", "vace"])
def test_a_trained_lora(tmp_path, family):
    directory = tiny_wan.write(tmp_path / family, family)
    config, low = weights.read_config(directory).dit, LoraConfig(rank=3, alpha=6.0)
    lora.save(tmp_path / "lora", config, low, moved(lora.init(config, low, jax.random.key(0))))
    kind = {"t2v": "WanPipeline", "vace": "WanVACEPipeline"}[family]
    pipe = theirs(directory, getattr(diffusers, kind))
    pipe.load_lora_weights(str(tmp_path / "lora"))
    same(directory, str(tmp_path / "lora"), fused(pipe), least=10 if family == "t2v" else 20)


def test_a_tuned_model(tmp_path):
    base = tiny_wan.write(tmp_path / "t2v", "t2v")
    loaded = weights.load(base)
    run = RunConfig("run", "dit", loaded.config, (), init=base)
    params = {**loaded.params, "dit": moved(loaded.params["dit"])}
    tuning.TuneTask(run).save(tmp_path / "bundle", params, loaded.tokenizer, "so")
    exporting.export(str(tmp_path / "bundle"), tmp_path / "out", base)
    pipe = diffusers.WanPipeline.from_pretrained(tmp_path / "out", tokenizer=None)
    rng = np.random.default_rng(0)
    z = jnp.asarray(rng.standard_normal((1, 2, 4, 6, tiny_wan.Z), np.float32))
    text = jnp.asarray(rng.standard_normal((1, 8, 16), np.float32))
    t = jnp.full((1,), 0.5)
    with torch.no_grad():
        wanted = pipe.transformer(
            channels_first(z), torch.tensor([500.0]), torch.tensor(np.asarray(text))
        ).sample.numpy()
    for name in ("bundle", "out"):
        ours = vjax.load(str(tmp_path / name), dtype="float32")
        found = ours.velocity(z, t, text)
        np.testing.assert_allclose(found, np.moveaxis(wanted, 1, -1), atol=1e-4)
    before = vjax.load(base, dtype="float32").velocity(z, t, text)
    assert np.abs(before - found).max() > 0.01
