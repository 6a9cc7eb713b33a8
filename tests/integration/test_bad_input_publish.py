"""Wrong uses of `aam publish`, and of models of the hub: one message, exit code 2, nothing written."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
from huggingface_hub import constants

from aam.training.checkpoints import hub

FILES = ["--table", "table.biom", "--metadata", "metadata.tsv", "--metadata-column", "acidity"]
SMALL = ["--epochs", "1", "--embedding-dim", "8", "--attention-heads", "2", "--attention-layers", "1", "--no-report"]
PUBLISH = ["publish", "encoder", "--output-dir", "out"]
EMBED = ["embed", "--table", "table.biom", "--output", "e.tsv", "--checkpoint"]
MISSING = object()
"""In place of the address of the hub: the client is not installed."""
NOBODY = "http://127.0.0.1:9"


class Case(NamedTuple):
    words: list[str]
    says: str
    damage: Callable[[], object] = lambda: None
    hub: object = None
    """Where the client looks; None for a hub that has no model."""
    wrote: tuple[str, ...] = ()


def _flip(name: str) -> Callable[[], object]:
    def damage() -> None:
        path = next(Path("encoder/checkpoints/best").resolve().glob(name))
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    return damage


CASES = {
    "no run": Case(["publish", "--output-dir", "out"], "RUN"),
    "no folder to write": Case(["publish", "encoder"], "--output-dir"),
    "a run that is not there": Case(["publish", "typo", "--output-dir", "out"], "typo: no such folder"),
    "an empty folder": Case(["publish", "empty", "--output-dir", "out"], "empty holds no checkpoint"),
    "a learner": Case(
        ["publish", "null", "--output-dir", "out"], "a learner of the kind null, which keeps reads and targets"
    ),
    "an evaluation": Case(["publish", "table.biom", "--output-dir", "out"], "table.biom: no such folder"),
    "a folder that is there": Case(["publish", "encoder", "--output-dir", "empty"], "empty exists already"),
    "a file that is there": Case(["publish", "encoder", "--output-dir", "tree.nwk"], "tree.nwk exists already"),
    "no parent": Case(["publish", "encoder", "--output-dir", "no/out"], "there is no folder .*no; make it first"),
    "a parent that is no place to write": Case(
        ["publish", "encoder", "--output-dir", "/proc/out"], "cannot be written"
    ),
    "within the run": Case(
        ["publish", "encoder", "--output-dir", "encoder/checkpoints/mine"], "lies among its checkpoints"
    ),
    "damaged weights": Case(PUBLISH, "was altered after it was written", _flip("model.safetensors")),
    "damaged options": Case(PUBLISH, "was altered after it was written", _flip("config.json")),
    "damaged provenance": Case(
        PUBLISH, r"provenance\.json is damaged", lambda: Path("encoder/provenance.json").write_text("{")
    ),
    "damaged scores": Case(
        PUBLISH, r"val_distances\.json is damaged", lambda: Path("encoder/val_distances.json").write_text("{")
    ),
    "no such way to keep ids": Case([*PUBLISH, "--sample-ids", "salted"], "hashed.*plain.*none"),
    "a name of one part": Case([*PUBLISH, "--name", "microbes"], "--name microbes: models are called owner/name"),
    "a name of three parts": Case([*PUBLISH, "--name", "a/b/c"], "--name a/b/c: models are called owner/name"),
    "a name with a space": Case([*PUBLISH, "--name", "ann/my microbes"], "models are called owner/name"),
    "an empty name": Case([*PUBLISH, "--name", ""], "--name"),
    "to push without a name": Case([*PUBLISH, "--push"], "--push needs --name"),
    "public without pushing": Case([*PUBLISH, "--public"], "--public .*only has an effect with --push"),
    "to push without the library": Case(
        [*PUBLISH, "--push", "--name", "ann/microbes"], r"--push needs a library: pip install 'aam\[hub\]'", hub=MISSING
    ),
    "to push to nobody": Case(
        [*PUBLISH, "--push", "--name", "ann/microbes"],
        "--push: ann/microbes was not sent .*hf upload ann/microbes out",
        hub=NOBODY,
        wrote=("out",),
    ),
    "no such model": Case([*EMBED, "ann/typo"], "ann/typo is neither a folder here nor a model that the Hugging Face"),
    "no such encoder": Case(
        ["train", *FILES, *SMALL, "--pretrained-encoder", "ann/typo", "--output-dir", "out"],
        "ann/typo is neither a folder here nor a model",
    ),
    "no such encoder to compare by": Case(
        ["train", *FILES, "--learner", "kernel", "--pretrained-encoder", "ann/typo", "--output-dir", "out"],
        "ann/typo is neither a folder here nor a model",
    ),
    "a hub that is not there": Case([*EMBED, "ann/typo"], "ann/typo is neither a folder here", hub=NOBODY),
    "a model without the library": Case(
        [*EMBED, "ann/typo"],
        r"ann/typo: no such folder here; .* needs a library: pip install 'aam\[hub\]'",
        hub=MISSING,
    ),
    "a path that is no name": Case([*EMBED, "no/such/folder"], "no/such/folder: no such folder", hub=NOBODY),
    "a path in a folder that is there": Case([*EMBED, "empty/typo"], "empty/typo: no such folder", hub=NOBODY),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_small_study, leave) -> Path:
    folder = tmp_path_factory.mktemp("bad-input-publish")
    write_small_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert leave(["train", *FILES, "--learner", "null", "--output-dir", "null", "--no-report"]) == 0
        pretrain = ["pretrain", "--table", "table.biom", "--tree", "tree.nwk", "--output-dir", "encoder", *SMALL]
        assert leave(pretrain) == 0
    (folder / "empty").mkdir()
    return folder


@pytest.fixture(scope="module")
def empty_hub() -> Iterator[str]:
    """Address of a hub that has no model."""

    class Nothing(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = HTTPServer(("127.0.0.1", 0), Nothing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(case, study, empty_hub, tmp_path, monkeypatch, refuse):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    if case.hub is MISSING:
        monkeypatch.setattr(hub, "find_spec", lambda name: None)
    else:
        monkeypatch.setattr(constants, "ENDPOINT", case.hub or empty_hub)
    refuse(study, case.words, case.says, case.damage, case.wrote)


def test_there_are_enough_cases():
    assert len(CASES) >= 6
