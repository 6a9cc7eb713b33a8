"""Names and places that no file can have: exit code 2, one message, nothing written."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from aam.cli import main as entry

LONG, LOOP, BYTES = "x" * 300, "loop", "b\udcffd"
SYSTEM = [place for place in ("/proc", "/sys") if Path(place).is_dir() and os.access(place, os.W_OK)]
"""Folders that say that they can be written, to root at least, and cannot."""
COMMANDS = {
    "table": ["train", "--metadata", "m.tsv", "--metadata-column", "ph", "--output-dir", "out", "--table"],
    "rep-seqs": ["embed", "--checkpoint", "run", "--table", "t.biom", "--output", "e.tsv", "--rep-seqs"],
    "metadata": ["train", "--table", "t.biom", "--metadata-column", "ph", "--output-dir", "out", "--metadata"],
    "tree": ["pretrain", "--table", "t.biom", "--output-dir", "out", "--tree"],
    "matrix": ["pretrain", "--table", "t.biom", "--output-dir", "out", "--unifrac-matrix"],
    "encoder": [
        *("train", "--table", "t.biom", "--metadata", "m.tsv", "--metadata-column", "ph", "--output-dir", "out"),
        "--pretrained-encoder",
    ],
    "checkpoint": ["predict", "--table", "t.biom", "--output", "p.tsv", "--checkpoint"],
    "inspect": ["inspect"],
    "methods": ["methods"],
    "report": ["report", "--output", "r.html"],
    "evaluation": ["explain", "--what", "importance", "--learner", "kernel", "--output-dir", "out", "--evaluation"],
    "config": ["inspect", "run", "--config"],
}
OUTPUTS = {
    "pretrain": ["pretrain", "--table", "t.biom", "--tree", "t.nwk", "--output-dir"],
    "train": ["train", "--table", "t.biom", "--metadata", "m.tsv", "--metadata-column", "ph", "--output-dir"],
    "find-lr": ["find-lr", "--table", "t.biom", "--tree", "t.nwk", "--output-dir"],
    "evaluate": ["evaluate", "--table", "t.biom", "--metadata", "m.tsv", "--metadata-column", "ph", "--output-dir"],
    "tune": ["tune", "--table", "t.biom", "--metadata", "m.tsv", "--metadata-column", "ph", "--output-dir"],
    "simulate": ["simulate", "--samples", "10", "--asvs", "20"],
}
FILES = {
    "predict": ["predict", "--checkpoint", "run", "--table", "t.biom", "--output"],
    "embed": ["embed", "--checkpoint", "run", "--table", "t.biom", "--output"],
    "unifrac": ["unifrac", "--table", "t.biom", "--tree", "t.nwk", "--output"],
}


@dataclass(frozen=True)
class Case:
    words: list[str]
    says: str


def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for name, words in {**COMMANDS, **OUTPUTS, **FILES}.items():
        ending = ".tsv" if name in FILES else ""
        found[f"{name}, long"] = Case([*words, LONG + ending], "File name too long")
        found[f"{name}, a long folder"] = Case([*words, f"{LONG}/f{ending}"], "File name too long")
        found[f"{name}, a loop above"] = Case([*words, f"{LOOP}/f{ending}"], "symbolic links")
        found[f"{name}, bytes"] = Case([*words, BYTES + ending], r"b\udcffd")
    for name, words in {**COMMANDS, **OUTPUTS}.items():
        found[f"{name}, a loop"] = Case([*words, LOOP], "symbolic links")
    for place in SYSTEM:
        found |= {f"{name}, {place}": Case([*words, f"{place}/new"], place) for name, words in OUTPUTS.items()}
        found |= {f"{name}, {place}": Case([*words, f"{place}/f.tsv"], place) for name, words in FILES.items()}
    found["a column"] = Case([*COMMANDS["metadata"][:-1], "--metadata", "m.tsv", "--where", f"{BYTES}=1"], "UTF-8")
    return found


CASES = cases()


@pytest.mark.parametrize("name", CASES)
def test_places(name: str, study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    for short, file in (("t.biom", "table.biom"), ("t.nwk", "tree.nwk"), ("m.tsv", "metadata.tsv")):
        Path(short).symlink_to(study_folder / file)
    Path("loop").symlink_to("pool")
    Path("pool").symlink_to("loop")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as caught:
        entry([*CASES[name].words, "--quiet"])
    said = capsys.readouterr().err
    assert (caught.value.code, said.count("Error: "), said.count("\n")) == (2, 1, 1), said
    assert CASES[name].says in said
    assert sorted(tmp_path.iterdir()) == before


def test_a_name_has_room_for_a_draft_of_it(study_folder: Path, tmp_path: Path) -> None:
    """Drafts, which have longer names, are written first."""
    output = tmp_path / f"{'y' * 251}.tsv"
    files = ["--table", study_folder / "table.biom", "--tree", study_folder / "tree.nwk", "--output", output]
    with pytest.raises(SystemExit) as caught:
        entry(["unifrac", *map(str, files), "--backend", "scikit-bio", "--quiet"])
    assert caught.value.code == 0
    assert list(tmp_path.iterdir()) == [output]
