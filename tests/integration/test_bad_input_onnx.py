"""Wrong uses of `aam export` and `aam predict --onnx`: one message, exit code 2, nothing written."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

ABSENT = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
FILES = ["--table", "table.biom", "--metadata", "metadata.tsv", "--metadata-column", "acidity"]
PREDICT = ["predict", "--table", "table.biom", "--output", "p.tsv"]


class Case(NamedTuple):
    words: list[str]
    says: str
    damage: Callable[[], object] = lambda: None


def _property(key: str, text: str | None) -> Callable[[], object]:
    """Change what a file says of itself."""

    def damage() -> None:
        import onnx  # noqa: PLC0415

        model = onnx.load("linear.onnx")
        kept = {entry.key: entry.value for entry in model.metadata_props}
        assert key in kept
        del model.metadata_props[:]
        changed = {name: value for name, value in kept.items() if name != key} | ({} if text is None else {key: text})
        onnx.helper.set_model_props(model, changed)
        onnx.save(model, "linear.onnx")

    return damage


def _cut(path: str, size: int) -> Callable[[], object]:
    return lambda: Path(path).write_bytes(Path(path).read_bytes()[:size])


BY_LINEAR = [*PREDICT, "--onnx", "linear.onnx"]
DAMAGED = r"linear\.onnx is damaged"
CASES = {
    "no run": Case(["export", "--output", "m.onnx"], "RUN"),
    "no output": Case(["export", "linear"], "Missing option '--output'"),
    "no such run": Case(["export", "typo", "--output", "m.onnx"], "typo: no such folder"),
    "a folder without a run": Case(["export", "empty", "--output", "m.onnx"], "empty holds no checkpoint"),
    "another format": Case(["export", "linear", "--output", "m", "--format", "tflite"], "'tflite' is not 'onnx'"),
    "a file that is there": Case(
        ["export", "linear", "--output", "linear.onnx"], "exists; replace it with --overwrite"
    ),
    "a file in no folder": Case(["export", "linear", "--output", "no/m.onnx"], "there is no folder"),
    "a folder as output": Case(["export", "linear", "--output", "empty"], "empty is a folder"),
    "a device as output": Case(["export", "linear", "--output", "/dev/null", "--overwrite"], "is a device"),
    "a file of the run": Case(
        ["export", "linear", "--output", "linear/config.json", "--overwrite"], "is a file of the run"
    ),
    "a file among checkpoints": Case(["export", "linear", "--output", "linear/checkpoints/best/m.onnx"], "a file of"),
    "a kernel of metadata": Case(["export", "described", "--output", "m.onnx"], "reads more than ASVs"),
    "no model": Case(PREDICT, "give --checkpoint or --onnx"),
    "two models": Case([*BY_LINEAR, "--checkpoint", "linear"], "both name a model"),
    "no such file": Case([*PREDICT, "--onnx", "typo.onnx"], r"typo\.onnx: no such file"),
    "a folder as model": Case([*PREDICT, "--onnx", "linear"], "--onnx linear: no such file"),
    "a table as model": Case([*PREDICT, "--onnx", "table.biom"], "--onnx table.biom"),
    "an empty file": Case(BY_LINEAR, "linear.onnx", _cut("linear.onnx", 0)),
    "a file cut short": Case(BY_LINEAR, "cannot read it", _cut("linear.onnx", 3000)),
    "a model of another program": Case(BY_LINEAR, "a model of another program", _property("aam", None)),
    "a model of a newer aam": Case(BY_LINEAR, "update aam, or export it again", _property("aam", "2")),
    "no documents": Case(BY_LINEAR, DAMAGED, _property("aam.documents", None)),
    "documents that are no JSON": Case(BY_LINEAR, DAMAGED, _property("aam.documents", "{")),
    "documents of another kind": Case(BY_LINEAR, DAMAGED, _property("aam.documents", "[]")),
    "documents without targets": Case(BY_LINEAR, DAMAGED, _property("aam.documents", "{}")),
    "another kind": Case(BY_LINEAR, DAMAGED, _property("aam.kind", "pickle")),
    "a kind that it is not": Case(BY_LINEAR, "linear.onnx", _property("aam.kind", "train")),
    "arrays that are no base64": Case(BY_LINEAR, DAMAGED, _property("aam.arrays", "?")),
    "arrays that are no safetensors": Case(BY_LINEAR, DAMAGED, _property("aam.arrays", "AAAA")),
    "options of a learner that is unknown": Case(BY_LINEAR, "update aam", _property("aam.config", "{}")),
    "a tree": Case([*BY_LINEAR, "--tree", "tree.nwk"], "--tree tree.nwk only has an effect with --checkpoint"),
    "a device": Case([*BY_LINEAR, "--device", "cpu"], "--device cpu only has an effect with --checkpoint"),
    "precision": Case([*BY_LINEAR, "--mixed-precision", "bf16"], "only has an effect with --checkpoint"),
    "a cache": Case([*BY_LINEAR, "--embedding-cache", "cache"], "only has an effect with --checkpoint"),
    "an output that is the model": Case(
        [*BY_LINEAR, "--output", "linear.onnx", "--overwrite"], "is the file of --onnx|no table is written as"
    ),
}


@pytest.fixture(scope="module")
def study(tmp_path_factory, write_small_study, leave) -> Path:
    if ABSENT:
        pytest.skip(f"needs {', '.join(ABSENT)}: pip install 'aam[onnx]'")
    folder = tmp_path_factory.mktemp("bad-input-onnx")
    write_small_study(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert leave(["train", *FILES, "--learner", "linear", "--no-report", "--output-dir", "linear"]) == 0
        described = ["--learner", "kernel", "--numeric-columns", "day", "--no-report", "--output-dir", "described"]
        assert leave(["train", *FILES, *described]) == 0
        assert leave(["export", "linear", "--output", "linear.onnx"]) == 0
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(case, study, refuse):
    refuse(study, case.words, case.says, case.damage)


@pytest.mark.parametrize(
    ("absent", "words"),
    [("onnx", ["export", "linear", "--output", "m.onnx"]), ("onnxruntime", BY_LINEAR)],
    ids=["export", "predict"],
)
def test_a_library_that_is_absent_is_named(absent, words, study, leave, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(study)
    monkeypatch.setattr(
        "aam.workflows.onnx.model_file.find_spec", lambda name: None if name == absent else find_spec(name)
    )
    assert leave([*words, "--output", str(tmp_path / "out.tsv")]) == 2
    assert f"files of ONNX need {absent}: pip install 'aam[onnx]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
