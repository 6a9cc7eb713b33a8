"""Models of the Hugging Face Hub: the real client against a small server that answers as the hub does."""

import base64
import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
from huggingface_hub import ModelCard, constants

import aam as library
from aam.config import EmbedConfig, PublishConfig, TrainConfig
from aam.errors import InputError
from aam.training.checkpoints import hub as client
from aam.workflows.embed import embed
from aam.workflows.publish import publish
from aam.workflows.train import train

NAME = "ann/microbes"


class Hub:
    """What the server holds: files of each commit of each model, and what was asked."""

    def __init__(self) -> None:
        self.commits: dict[str, list[dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[str] = []
        self.url = ""

    def files(self, name: str, revision: str) -> tuple[str, dict[str, bytes]] | None:
        """A commit and its files."""
        commits = self.commits.get(name, [])
        names = [f"{number:040x}" for number in range(len(commits))]
        if not commits or revision not in (*names, "main"):
            return None
        place = len(commits) - 1 if revision == "main" else names.index(revision)
        return names[place], commits[place]


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, content: object, code: int = 200, **headers: str) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def read(self) -> bytes:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0].strip("/")
            hub.asked.append(f"{self.command} {path}")
            parts = path.split("/")
            if path.startswith("api/models/"):
                name, what, revision = "/".join(parts[2:4]), *(parts[4:6] or ["revision", "main"])
            else:
                name, what, revision = "/".join(parts[:2]), *parts[2:4]
            if name not in hub.commits:
                return self.answer({"error": "Repository not found"}, 404, X_Error_Code="RepoNotFound")
            found = hub.files(name, revision)
            if found is None:
                return self.answer({"error": "Invalid rev id"}, 404, X_Error_Code="RevisionNotFound")
            commit, files = found
            if what == "revision":
                return self.answer({"id": name, "sha": commit, "siblings": [{"rfilename": each} for each in files]})
            if what == "tree":
                rows = [
                    {"type": "file", "path": each, "size": len(body), "oid": hashlib.sha1(body).hexdigest()}
                    for each, body in files.items()
                ]
                return self.answer(rows)
            body = files["/".join(parts[4:])]
            return self.answer(body, ETag=f'"{hashlib.sha1(body).hexdigest()}"', X_Repo_Commit=commit)

        def do_POST(self) -> None:
            path, body = self.path.split("?")[0].strip("/"), self.read()
            hub.asked.append(f"POST {path}")
            if self.headers.get("authorization") != "Bearer hf_test":
                return self.answer({"error": "Invalid username or password."}, 401)
            if path == "api/repos/create":
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                code = 409 if name in hub.commits else 200
                if code == 200:
                    hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
                    hub.commits[name] = []
                return self.answer({"url": f"{hub.url}/{name}"}, code)
            if path == "api/validate-yaml":
                return self.answer({"errors": [], "warnings": []})
            name = "/".join(path.split("/")[2:4])
            if "/preupload/" in path:
                files = [
                    {"path": each["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for each in json.loads(body)["files"]
                ]
                return self.answer({"files": files})
            lines = [json.loads(line) for line in body.splitlines()]
            sent = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            hub.commits[name].append(({} if not hub.commits[name] else hub.commits[name][-1]) | sent)
            commit = f"{len(hub.commits[name]) - 1:040x}"
            return self.answer({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})

    return Handler


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[Hub]:
    """A hub at which the client looks, and an empty cache."""
    holds = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(holds))
    server.daemon_threads = True
    holds.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", holds.url)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", holds.url + "/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.chdir(tmp_path)
    client._FETCHED.clear()
    yield holds
    client._FETCHED.clear()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def published(pretrained, tmp_path_factory) -> Path:
    """The folder of a published encoder."""
    folder = tmp_path_factory.mktemp("published") / "encoder"
    flat = {"run": pretrained, "output_dir": folder, "name": NAME, "licence": "cc-by-4.0", "region": "16S V4"}
    publish(PublishConfig.from_flat(flat))
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_model_that_was_pushed_is_read_by_its_name(hub, pretrained, study_folder, tmp_path):
    flat = {"run": pretrained, "output_dir": tmp_path / "encoder", "name": NAME, "push": True}
    publish(PublishConfig.from_flat(flat))
    assert hub.commits[NAME] == [_files(tmp_path / "encoder")]
    assert hub.private[NAME] is True

    from_hub = library.SampleEncoder.from_pretrained(NAME).embed(study_folder / "table.biom")
    of_run = library.SampleEncoder.load(pretrained).embed(study_folder / "table.biom")
    pd.testing.assert_frame_equal(from_hub, of_run)


def test_a_second_publication_is_a_second_commit_and_leaves_who_may_see_it(hub, pretrained, tmp_path):
    for number, more in enumerate([{}, {"public": True, "licence": "mit"}]):
        flat = {"run": pretrained, "output_dir": tmp_path / str(number), "name": NAME, "push": True}
        publish(PublishConfig.from_flat(flat | more))
    first, second = hub.commits[NAME]
    assert [name for name in second if first[name] != second[name]] == ["README.md"]
    assert hub.private[NAME] is True


def test_a_public_model_is_made_public(hub, pretrained, tmp_path):
    flat = {"run": pretrained, "output_dir": tmp_path / "encoder", "name": NAME, "push": True, "public": True}
    publish(PublishConfig.from_flat(flat))
    assert hub.private[NAME] is False


def test_training_begins_with_an_encoder_of_the_hub_and_is_warned_of_samples_that_it_saw(
    hub, published, train_options, tmp_path, caplog
):
    hub.commits[NAME] = [_files(published)]
    options = {"pretrained_encoder": NAME, "rarefy_depth": 150, "epochs": 1}
    train(TrainConfig.from_flat(train_options(tmp_path / "age", **options)))
    assert any("has seen, without labels" in line for line in caplog.messages)
    provenance = json.loads((tmp_path / "age" / "provenance.json").read_text())
    (read,) = provenance["sessions"][0]["inputs"]["pretrained_encoder"]
    assert read["sha256"] == hashlib.sha256((published / "manifest.json").read_bytes()).hexdigest()


def test_a_revision_is_read_and_what_was_fetched_needs_no_hub(hub, published, study_folder, tmp_path, monkeypatch):
    hub.commits[NAME] = [_files(published), {"README.md": b"emptied"}]
    first = f"{NAME}@{0:040x}"

    def embedded(output: str) -> bytes:
        flat = {"checkpoint": first, "table": (study_folder / "table.biom",), "output": tmp_path / output}
        embed(EmbedConfig.from_flat(flat))
        return (tmp_path / output).read_bytes()

    online = embedded("online.tsv")
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    client._FETCHED.clear()
    assert embedded("offline.tsv") == online
    assert len(hub.asked) == asked


def test_no_file_that_could_hold_code_is_fetched(hub, published):
    hub.commits[NAME] = [_files(published) | {"pytorch_model.bin": b"pickled", "setup.py": b"import os"}]
    library.SampleEncoder.from_pretrained(NAME)
    assert not [line for line in hub.asked if line.endswith((".bin", ".py"))]


def test_a_file_that_was_altered_on_the_hub_is_refused(hub, published):
    files = _files(published)
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    hub.commits[NAME] = [files | {"model.safetensors": bytes(weights)}]
    with pytest.raises(InputError, match="was altered after it was written"):
        library.SampleEncoder.from_pretrained(NAME)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("bob/typo", "neither a folder here nor a model that the Hugging Face Hub gives"),
        (f"{NAME}@v9", "neither a folder here nor a model .*Revision Not Found"),
        ("ann/other", "holds no checkpoint"),
    ],
)
def test_a_wrong_name_is_one_error(hub, published, name, says):
    hub.commits |= {NAME: [_files(published)], "ann/other": [{"config.json": b"{}"}]}
    with pytest.raises(InputError, match=says):
        library.SampleEncoder.from_pretrained(name)


def test_a_path_whose_folder_is_there_is_never_asked_for(hub, tmp_path):
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="runs/typo: no such folder"):
        library.SampleEncoder.from_pretrained("runs/typo")
    assert hub.asked == []


def test_without_an_account_the_folder_is_written_and_the_error_says_how_to_send_it(
    hub, pretrained, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    flat = {"run": pretrained, "output_dir": tmp_path / "encoder", "name": NAME, "push": True}
    with pytest.raises(InputError, match=r"--push: .*hf auth login.*hf upload ann/microbes"):
        publish(PublishConfig.from_flat(flat))
    library.SampleEncoder.from_pretrained(tmp_path / "encoder")


def test_the_address_of_the_hub_is_taken_from_the_environment(hub, published, tmp_path):
    hub.commits[NAME] = [_files(published)]
    place = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    words = [sys.executable, "-m", "aam.cli", "inspect", NAME]
    done = subprocess.run(words, env=os.environ | place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "a checkpoint of `aam pretrain`" in done.stdout


def test_the_hub_reads_the_front_matter(published):
    card = ModelCard.load(published / "README.md")
    assert card.data.license == "cc-by-4.0"
    assert card.data.library_name == "aam"
    assert card.data.pipeline_tag == "feature-extraction"
