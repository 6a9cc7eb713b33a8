"""Bad input to explanations of samples: exit code 2, one message that says what to do, and nothing half-written."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aam.cli import main
from aam.config import SimulateConfig, flag
from aam.data.simulation.study import simulate_study, write_study
from aam.interpret import tree_shap

SMALL = {"epochs": 1, "batch_size": 8, "embedding_dim": 8, "attention_heads": 2, "attention_layers": 1}
FILES = {"table": "table.biom", "metadata": "metadata.tsv"}
TARGET = {**FILES, "metadata_column": "acidity"}


def command(name: str, **options: object) -> int:
    """Run a command line; an option that is None is left out, one that is True is a switch."""
    words = [name]
    for option, value in options.items():
        words += [] if value is None else [flag(option)] if value is True else [flag(option), str(value)]
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A study of 24 samples with a forest, a kernel on a category, networks of one and two columns and an encoder."""
    folder = tmp_path_factory.mktemp("bad-attribution")
    write_study(simulate_study(SimulateConfig(directory=folder, samples=24, asvs=40, bp=30, depth=300)), folder)
    other = SimulateConfig(directory=folder / "other", samples=8, asvs=40, bp=30, depth=300, seed=7)
    write_study(simulate_study(other), folder / "other")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        kernel = {"learner": "kernel", "categorical_columns": "site", "tree": "tree.nwk"}
        assert command("train", **TARGET, learner="forest", trees=3, output_dir="forest") == 0
        assert command("train", **TARGET, **kernel, output_dir="kernel") == 0
        two = {**TARGET, "metadata_column": "acidity,day"}
        assert command("train", **two, **SMALL, output_dir="network") == 0
        assert command("pretrain", table="table.biom", tree="tree.nwk", **SMALL, output_dir="encoder") == 0
    (folder / "importance.tsv").write_text("level\tid\timportance\nasv\tACGT\t0.5\n")
    (folder / "words.tsv").write_text("level\tid\timportance\nasv\tACGT\thigh\n")
    (folder / "columns.tsv").write_text("name\tvalue\na\t1\n")
    (folder / "taken").mkdir()
    (folder / "taken/notes.txt").write_text("mine")
    return folder


def explain(**changes: object) -> dict[str, object]:
    return {"what": "attribution", "checkpoint": "forest", **FILES, "output_dir": "out", **changes}


def delete(**changes: object) -> dict[str, object]:
    return explain(what="deletion", **changes)


CASES: dict[str, tuple[dict[str, object], str]] = {
    "no model": (explain(checkpoint=None), "--what attribution needs --checkpoint"),
    "no folder": (explain(output_dir=None), "--what attribution needs --output-dir"),
    "a file and no folder": (explain(output="w.tsv"), "--output"),
    "an evaluation": (explain(evaluation="e"), "--evaluation"),
    "no such model": (explain(checkpoint="nothing"), "--checkpoint|nothing"),
    "no table": (explain(table=None), "--table is needed"),
    "an unknown sample": (explain(samples="S0001,S9999"), "--samples: S9999 is not among the samples"),
    "no sample": (explain(samples="0"), "--samples 0: nothing would be explained"),
    "compared with none": (explain(background=0), "--background"),
    "another column": (explain(column="day"), "--column day: the model predicts acidity"),
    "one of several columns": (explain(checkpoint="network"), "--column"),
    "an encoder": (explain(checkpoint="encoder"), "is a pretrained encoder and predicts no column"),
    "importance of attribution": (explain(importance="importance.tsv"), "--importance"),
    "a tree for a forest": (explain(tree="tree.nwk"), "--tree puts new ASVs on branches .* leave it out"),
    "a kernel without its metadata": (explain(checkpoint="kernel", metadata=None), "site.*give --metadata"),
    "other ASVs": (explain(table="other/table.biom", metadata=None), "none of the .* ASVs of the table is known"),
    "a folder that is not empty": (explain(output_dir="taken"), "is not empty"),
    "a folder of another command": (explain(output_dir="forest", overwrite=True), "--output-dir|--overwrite"),
    "within the checkpoint": (explain(output_dir="forest/checkpoints/new"), "is a file of the run|lies among"),
    "a folder that is a file": (explain(output_dir="table.biom"), "is a file; name a folder"),
    "a taxonomy of others": (explain(taxonomy="other/taxonomy.tsv"), "the taxonomy names none"),
    "attention of a forest": (explain(what="attention"), "a learner of the kind forest, which has no attention"),
    "attention compared with": (explain(what="attention", checkpoint="network", background=3), "--background"),
    "no such importance": (delete(importance="none.tsv"), "--importance none.tsv cannot be read"),
    "a table of something else": (delete(importance="columns.tsv"), "has no column level, id"),
    "importance in words": (delete(importance="words.tsv"), "row 2 has no number as importance"),
    "importance of other ASVs": (delete(importance="importance.tsv"), "lists none of the .* ASVs"),
    "importance that is no text": (delete(importance="table.biom"), "--importance table.biom cannot be read"),
}


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink() and path.name != ".lock"
    }


@pytest.fixture
def refused(study, tmp_path, monkeypatch, capsys) -> Callable[..., str]:
    """Run what must be refused in a copy of the study, and give the message."""

    def run(options: dict[str, object]) -> str:
        folder = tmp_path / "study"
        shutil.copytree(study, folder, symlinks=True)
        monkeypatch.chdir(folder)
        before = contents(folder)
        assert command("explain", **options) == 2
        shown = capsys.readouterr()
        errors = [line for line in shown.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1, shown.err
        assert "Traceback" not in shown.err
        assert contents(folder) == before
        return errors[0]

    return run


@pytest.mark.parametrize(("options", "says"), CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(options, says, refused):
    message = refused(options)
    assert re.search(says, message), message


def test_packages_that_are_absent_are_named(refused, monkeypatch):
    tree_shap._explainers.cache_clear()
    monkeypatch.setattr(tree_shap, "find_spec", lambda _: None)
    assert "pip install 'aam[explain]'" in refused(explain())
