"""Key tables against the classes of diffusers and transformers, tiny and at published sizes.

`python tests/test_against_convert.py` records the names and shapes of published tensors.
"""

import json
import pathlib
import tempfile

import networks
import numpy as np
import published
import pytest
import tiny_wan

import vjax
from vjax import weights
from vjax.convert import directory as described

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


def network(folder: str, config: dict):
    """A network as its library makes it, with random weights."""
    if folder == "text_encoder":
        return transformers.UMT5EncoderModel(transformers.UMT5Config(**config))
    if folder == "image_encoder":
        return transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**config))
    kind = getattr(diffusers, config["_class_name"])
    return kind(**{name: value for name, value in config.items() if name != "_class_name"})


def shapes(folder: str, config: dict) -> published.Shapes:
    with torch.device("meta"):
        made = network(folder, config)
    return {name: tuple(x.shape) for name, x in made.state_dict().items()}


def all_shapes(directory) -> dict[str, published.Shapes]:
    found = {}
    for model in published.MODELS:
        for folder, config in published.write(directory / model, model).items():
            name = published.name_of(model, folder)
            if name not in found:
                found[name] = shapes(folder, config)
    return found


def test_what_is_recorded_is_what_the_libraries_have(tmp_path):
    found, recorded = all_shapes(tmp_path), published.recorded()
    assert found.keys() == recorded.keys()
    for name, tensors in found.items():
        assert recorded[name] == tensors


@pytest.mark.parametrize("family", tiny_wan.FAMILIES)
def test_what_the_libraries_save_is_loaded(tmp_path, family):
    directory = tmp_path / family
    tiny_wan.write(directory, family)
    _, changes, vae, _ = tiny_wan.FAMILIES[family]
    dit = {**tiny_wan.TRANSFORMER, **changes}
    configs = tiny_wan.write_configs(directory, family, dit, vae, tiny_wan.TEXT, tiny_wan.IMAGE)
    made = {}
    for folder, config in configs.items():
        for file in (directory / folder).iterdir():
            file.unlink()
        made[folder] = network(folder, config)
        made[folder].save_pretrained(directory / folder, max_shard_size="20KB")
    assert len(list((directory / "transformer").glob("*.safetensors"))) > 1
    loaded = weights.load(str(directory)).params
    assert {described.FOLDERS[network] for network in loaded} == set(made)
    q = made["transformer"].blocks[1].attn1.to_q.weight.detach().numpy()
    kernel = loaded["dit"]["blocks"]["self_attention"]["q"]["kernel"]
    np.testing.assert_array_equal(kernel[1], q.T)
    pipe = vjax.load(str(directory), dtype="float32")
    case = networks.case_of(pipe.config.dit)
    inputs = dict(case.inputs)
    z, t, text = (inputs.pop(name) for name in ("latents", "t", "text"))
    for expert, folder in (("dit", "transformer"), ("low", "transformer_2")):
        if folder in made:
            given = {name: torch.from_numpy(np.array(x)) for name, x in case.inputs.items()}
            with torch.no_grad():
                theirs = networks.run_dit(made[folder].eval(), case, given).numpy()
            ours = pipe.velocity(z, t, text, expert=expert, **inputs)
            assert np.abs(ours - theirs).max() <= 1e-4 * np.abs(theirs).max()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        found = all_shapes(pathlib.Path(place))
    lines = (
        f"{json.dumps(name)}: {json.dumps(published.together(tensors), indent=0)}"
        for name, tensors in found.items()
    )
    published.KEYS.write_text("{" + ",\n".join(lines).replace("\n", "") + "}\n")
