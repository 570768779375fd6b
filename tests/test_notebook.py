"""The notebook runs from top to bottom as it is, without a TPU and without a network."""

import base64
import pathlib
import re
import sys

import av
import jax
import nbformat
import pytest
import tiny
from nbclient import NotebookClient

from vjax import weights

PATH = pathlib.Path(__file__).parents[1] / "tpu_scripts" / "vjax.ipynb"
CODE = ["install", "device", "load", "text", "animate", "pictures", "extend", "infill", "recut"]
CODE += ["remix", "blend", "board", "finer", "subject", "devices", "train", "trained", "plan"]
# After the first cell that makes videos, a small model takes the place of the default one.
SMALLER = """
import jax
import vjax
from vjax import weights
jax.config.update("jax_disable_most_optimizations", True)
weights.ASSETS = pathlib.Path("small").absolute()
pipe = vjax.load("default")
"""


@pytest.fixture
def notebook():
    return nbformat.read(PATH, as_version=4)


def test_its_file_holds_cells_in_order_and_nothing_of_a_run(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.id for cell in cells] == CODE
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)
    text = PATH.read_text()
    assert not re.search(r"/(home|root|tmp|Users|content)/", text)
    # Nothing that pip brings is imported before pip ran.
    install, *rest = (cell.source for cell in cells)
    found = set(re.findall(r"^(?:import|from) (\w+)", install, re.M))
    assert found == {"glob", "importlib", "pathlib"}
    assert "%pip install" in install
    assert not any(re.search(r"^\s*[%!]", source, re.M) for source in rest)


def test_it_runs_as_it_is(notebook, tmp_path, monkeypatch):
    for name in ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS"):  # of the other tests
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(PATH.parents[1]))
    small = tiny.bundle(tiny.of_default_shape())
    weights.save(tmp_path / "small" / "default", small)
    after = next(n for n, cell in enumerate(notebook.cells) if cell.id == "text") + 1
    notebook.cells.insert(after, nbformat.v4.new_code_cell(SMALLER))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}})
    client.execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    said = {
        name: "".join(output.text for output in cell if output.output_type == "stream")
        for name, cell in outputs.items()
    }
    assert said["install"] == "vjax is installed.\n"
    assert said["device"].startswith("There is no TPU here that JAX can use, and no GPU")
    assert said["devices"] == "There is one device here, and nobody to share with.\n"
    trained = sum(x.size for name in ("dit", "text") for x in jax.tree.leaves(small.params[name]))
    assert f"further: {trained:,} parameters" in said["train"]
    assert "step 6  loss" in said["train"]
    assert re.search("compiler is not here|v5e:2x4", said["plan"])
    lengths = {"text": [33, 33], "animate": [33], "extend": [49, 49], "infill": [33, 33]}
    lengths |= {"pictures": [33, 33], "recut": [58, 32], "remix": [33, 33, 33], "blend": [33, 33]}
    lengths |= {"board": [32], "finer": [34, 9], "subject": [33]}
    for name, frames in {**lengths, "trained": [33, 33]}.items():
        *_, shown = (output for output in outputs[name] if output.output_type != "stream")
        clips = re.findall('src="data:video/mp4;base64,([^"]*)"', shown.data["text/html"])
        for clip, count in zip(clips, frames, strict=True):
            (tmp_path / "clip.mp4").write_bytes(base64.b64decode(clip))
            with av.open(tmp_path / "clip.mp4") as container:
                assert container.streams.video[0].frames == count
    assert (tmp_path / "runs" / "further" / "bundle" / "model.json").is_file()


@pytest.mark.parametrize("address", ["", "https://example.org/vjax"])
def test_what_is_not_installed_is_fetched_from_where_the_user_says(
    notebook, address, tmp_path, monkeypatch
):
    """The cell in a Python that has no vjax, with a stand-in for pip."""
    (source,) = (cell.source for cell in notebook.cells if cell.id == "install")
    source = source.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"')
    source = re.sub(r"%pip (.*)", r"pip(f'\1')", source)
    asked, namespace = [], {}

    def pip(line):
        asked.append(line)
        (tmp_path / "vjax").mkdir()
        (tmp_path / "vjax" / "__init__.py").touch()

    namespace["pip"] = pip
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "vjax", raising=False)
    if address:
        exec(source, namespace)
        assert asked == [f'install --quiet "vjax @ git+{address}"']
    else:
        with pytest.raises(ValueError, match="address of vjax's repository into REPOSITORY"):
            exec(source, namespace)
        assert asked == []
