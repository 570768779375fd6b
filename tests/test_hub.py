"""Models of the hub: only what is needed is fetched, and what hinders it is said in a line."""

import hashlib
import http.server
import json
import pathlib
import threading

import pytest
import tiny_wan

from vjax import hub, recipe, weights
from vjax.recipe import Model
from vjax.timeline import RequestError
from vjax.weights import BundleError

SHA = "0123456789" * 4


@pytest.fixture
def served(tmp_path, monkeypatch):
    """A hub with one model, `wan/tiny`, and what was asked of it."""
    directory = pathlib.Path(tiny_wan.write(tmp_path / "served", "t2v"))
    (directory / "original.pth").write_bytes(b"pickle")
    (directory / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    asked = []

    class Hub(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.answer(True)

        def do_HEAD(self):
            self.answer(False)

        def log_message(self, *_):
            pass

        def answer(self, body: bool):
            path = self.path.partition("?")[0]
            if "/secret" in path:
                return self.send(403, {"X-Error-Code": "GatedRepo"})
            if "wan/tiny" not in path:
                return self.send(404, {"X-Error-Code": "RepoNotFound"})
            if "/nowhere" in path:
                return self.send(404, {"X-Error-Code": "RevisionNotFound"})
            files = [file for file in sorted(directory.rglob("*")) if file.is_file()]
            if "/tree/" in path:
                listed = [
                    {
                        "type": "file",
                        "path": str(file.relative_to(directory)),
                        "size": file.stat().st_size,
                        "oid": hashlib.sha1(str(file).encode()).hexdigest(),
                    }
                    for file in files
                ]
                return self.send(200, {}, json.dumps(listed).encode())
            if path.startswith("/api/"):
                about = {"id": "wan/tiny", "sha": SHA, "siblings": []}
                return self.send(200, {}, json.dumps(about).encode())
            name = path.partition(f"/resolve/{SHA}/")[2]
            asked.append(name)
            etag = {"ETag": f'"{hashlib.sha1(name.encode()).hexdigest()}"', "X-Repo-Commit": SHA}
            return self.send(200, etag, (directory / name).read_bytes(), body)

        def send(self, status, headers, content=b"", body=True):
            self.send_response(status)
            for key, value in {**headers, "Content-Length": len(content)}.items():
                self.send_header(key, str(value))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    use(monkeypatch, f"http://127.0.0.1:{server.server_port}", tmp_path)
    yield asked
    server.shutdown()


def use(monkeypatch, endpoint, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "fetch", getattr(hub.fetch, "__wrapped__", hub.fetch))
    monkeypatch.chdir(tmp_path)


def test_a_config_is_fetched_without_weights_and_weights_without_pickles(served):
    model = weights.read_config("wan/tiny")
    assert (model.name, model.conditioning, model.licence) == ("tiny", "renoise", "apache-2.0")
    assert not [name for name in served if name.endswith("safetensors")]
    assert len(weights.load("wan/tiny").params) == 3
    assert len([name for name in set(served) if name.endswith("safetensors")]) == 3
    assert "original.pth" not in served


def test_a_file_names_the_model_but_has_nothing_fetched(served):
    with pytest.raises(RequestError, match=r"wan/tiny, which is not here: say which .* --model"):
        recipe.find_model(Model("wan/tiny", "0" * 16), "out.mp4")
    assert not served
    assert weights.called("wan/tiny") == "wan/tiny"
    model = Model("wan/tiny", weights.fingerprint("wan/tiny"))
    assert recipe.find_model(model, "out.mp4") == "wan/tiny"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wan/secret", r"have accepted its terms: do that at https://hugg.*/wan/secret, then log"),
        ("wan/absent", r"no directory wan/absent here, and no such model on the Hugging Face hub"),
        ("wan/tiny@nowhere", r"the hub has no revision 'nowhere' of it"),
        ("wan/ti..ny--x", r"The model wan/ti\.\.ny--x cannot be fetched"),
    ],
)
def test_what_hinders_it_is_said_in_a_line(served, name, said):
    with pytest.raises(BundleError, match=said) as caught:
        weights.open(name)
    assert "\n" not in str(caught.value)


def test_without_a_connection_what_was_fetched_serves(served, monkeypatch):
    weights.load("wan/tiny")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert weights.load("wan/tiny").config.name == "tiny"
    with pytest.raises(BundleError, match=r"it was not fetched before, and .* cannot be reached"):
        weights.load("wan/other")


def test_paths_are_no_ids():
    assert not any(map(hub.is_id, ("default", "./a", "../a/b", "/a/b", "a/b/c", "a b/c")))
    assert hub.is_id("Wan-AI/Wan2.1-T2V-1.3B-Diffusers")
    assert hub.is_id("a/b@refs/pr/1")


def test_a_directory_of_the_cache_is_called_by_its_id(tmp_path):
    place = tmp_path / "models--Wan-AI--A-720P" / "snapshots" / "0123"
    tiny_wan.write(place, "i2v")
    assert weights.called(str(place)) == "Wan-AI/A-720P"
    assert weights.read_config(str(place)).width == 1280
