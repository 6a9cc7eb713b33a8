"""Bad input of `aam explain --what importance` and `log-ratio`: exit code 2, one message, nothing half-written."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from aam.cli import main
from aam.config import SimulateConfig
from aam.data.simulation.study import simulate_study, write_study


@dataclass(frozen=True)
class Case:
    """Words of the command line, what the message must match, and how the files get bad."""

    words: str
    says: tuple[str, ...]
    damage: Callable[[], object] = lambda: None


def run(words: list[str]) -> int:
    """Exit code of a command."""
    with pytest.raises(SystemExit) as left:
        main(words)
    return int(left.value.code or 0)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A study with an evaluation of a number, one of three classes, and one without models."""
    folder = tmp_path_factory.mktemp("prepared")
    study = simulate_study(SimulateConfig(directory=folder, samples=40, asvs=40, bp=30, depth=300, subjects=8))
    write_study(study, folder)
    files = "--table table.biom --tree tree.nwk --metadata metadata.tsv --group-column subject"
    small = "--learners linear --trees 5 --folds 2 --repeats 1 --quiet"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, more in {
            "kept": "--metadata-column acidity --keep-models",
            "bare": "--metadata-column acidity",
            "treeless": "--metadata-column acidity --keep-models",
            "regions": "--metadata-column habitat --classifier --keep-models",
        }.items():
            given = files.replace("--tree tree.nwk ", "") if name == "treeless" else files
            assert run(f"evaluate {given} {small} {more} --output-dir {name}".split()) == 0
    return folder


@pytest.fixture
def bench(prepared, tmp_path, monkeypatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(prepared, tmp_path / "bench")
    monkeypatch.chdir(tmp_path / "bench")
    return tmp_path / "bench"


def replace(name: str, old: str, new: str) -> Callable[[], object]:
    def damage() -> None:
        text = Path(name).read_text()
        assert old in text
        Path(name).write_text(text.replace(old, new, 1))

    return damage


def rewrite_table() -> None:
    study = simulate_study(SimulateConfig(directory=Path(), samples=40, asvs=40, bp=30, depth=300, subjects=8, seed=9))
    write_study(study, Path(), overwrite=True)


def no_config() -> None:
    Path("kept/config.json").unlink()


def damaged_fold() -> None:
    Path("kept/folds/main-1.1.json").write_text("{}")


def other_taxonomy() -> None:
    Path("taxonomy.tsv").write_text("Feature ID\tTaxon\nACGT\tk__Bacteria; p__Firmicutes\n")


IMPORTANCE = "--what importance --learner linear --output-dir out"
LOG_RATIO = "--what log-ratio --output-dir out"
CASES = {
    "no evaluation": Case(IMPORTANCE, ("--what importance needs --evaluation",)),
    "no learner": Case("--what importance --evaluation kept --output-dir out", ("--what importance needs --learner",)),
    "no folder for results": Case("--what log-ratio --evaluation kept", ("--what log-ratio needs --output-dir",)),
    "an option of another explanation": Case(
        f"{LOG_RATIO} --evaluation kept --permutations 3",
        ("--permutations 3 only has an effect with --what imp",),
    ),
    "a learner for the log-ratio": Case(
        f"{LOG_RATIO} --evaluation kept --learner linear",
        ("--learner linear only has an effect with --what imp",),
    ),
    "a plot": Case(f"{IMPORTANCE} --evaluation kept --plot p.png", ("--plot p.png only has an effect with",)),
    "folder missing": Case(f"{IMPORTANCE} --evaluation none", ("--evaluation none: no such folder",)),
    "folder of something else": Case(
        f"{IMPORTANCE} --evaluation kept", ("kept is no output folder of aam evaluate", "config.json"), no_config
    ),
    "folder without models": Case(f"{IMPORTANCE} --evaluation bare", ("bare kept no models", "--keep-models")),
    "log-ratio of a folder without models": Case(f"{LOG_RATIO} --evaluation bare", ("bare kept no models",)),
    "learner that was not compared": Case(
        "--what importance --evaluation kept --learner kernel --output-dir out",
        ("--learner kernel, which was not compared", "give one of forest, linear"),
    ),
    "learner that is not kept": Case(
        "--what importance --evaluation kept --learner depth --output-dir out",
        ("--learner depth, of which nothing is kept", "forest, linear"),
    ),
    "models of a fold missing": Case(
        f"{IMPORTANCE} --evaluation kept",
        ("holds no model of linear for folds 1.2", "--resume --keep-models"),
        lambda: shutil.rmtree("kept/models/main-1.2/linear"),
    ),
    "model of a fold damaged": Case(
        f"{IMPORTANCE} --evaluation kept",
        ("main-1.1/linear",),
        lambda: next(Path("kept/models/main-1.1/linear").glob("*.safetensors")).write_bytes(b"damaged"),
    ),
    "a fold that is not done": Case(
        f"{IMPORTANCE} --evaluation kept",
        ("fold 1.2 is not done", "--resume"),
        lambda: Path("kept/folds/main-1.2.json").unlink(),
    ),
    "a fold that is damaged": Case(
        f"{IMPORTANCE} --evaluation kept", ("main-1.1.json is damaged", "--resume"), damaged_fold
    ),
    "another table": Case(
        f"{IMPORTANCE} --evaluation kept", ("kept is of other data", "have changed since"), rewrite_table
    ),
    "another value": Case(
        f"{LOG_RATIO} --evaluation kept", ("kept is of other data",), replace("metadata.tsv", "\t6.", "\t5.")
    ),
    "table moved": Case(
        f"{IMPORTANCE} --evaluation kept",
        ("--table table.biom, which is not there", "say with --table"),
        lambda: Path("table.biom").rename("moved.biom"),
    ),
    "neither tree nor taxonomy": Case(
        f"{IMPORTANCE} --evaluation treeless", ("without a tree", "give --taxonomy", "--tree")
    ),
    "a tree that it was not of": Case(
        f"{IMPORTANCE} --evaluation treeless --tree tree.nwk", ("treeless is of other data",)
    ),
    "taxonomy of other ASVs": Case(
        f"{IMPORTANCE} --evaluation kept --taxonomy taxonomy.tsv", ("the taxonomy names none of the",), other_taxonomy
    ),
    "taxonomy missing": Case(f"{IMPORTANCE} --evaluation kept --taxonomy none.tsv", ("none.tsv",)),
    "many classes": Case(f"{LOG_RATIO} --evaluation regions", ("the column has [3-9]", "--where")),
    "results into the evaluation": Case(
        "--what importance --learner linear --evaluation kept --output-dir kept", ("kept is not empty",)
    ),
    "results over the evaluation": Case(
        "--what importance --learner linear --evaluation kept --output-dir kept --overwrite",
        ("kept holds no run of this command",),
    ),
    "results among the models": Case(
        "--what importance --learner linear --evaluation kept --output-dir kept/models/new",
        ("kept/models/new is a file of the run",),
    ),
    "no permutation": Case(f"{IMPORTANCE} --evaluation kept --permutations 0", ("'--permutations': 0 is not in",)),
    "an error rate of one": Case(f"{IMPORTANCE} --evaluation kept --error-rate 1", ("'--error-rate': 1",)),
    "no taxa": Case(f"{LOG_RATIO} --evaluation kept --taxa 0", ("'--taxa': 0 is not in",)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_told_in_one_message(case, bench, capsys):
    case.damage()
    assert run(["explain", *case.words.split()]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    flat = re.sub(r"[│╭╮╰╯─\s]+", " ", said)
    for part in case.says:
        assert re.search(part, flat), said
    assert not Path("out").exists() or not any(Path("out").glob("[!.]*"))


def test_what_is_well_is_explained(bench):
    """The cases fail for what is wrong in them, not for what they share."""
    assert run(["explain", *IMPORTANCE.split(), "--evaluation", "kept", "--permutations", "1", "--quiet"]) == 0
    assert json.loads(Path("out/explanation.json").read_text())["learner"] == "linear"
    Path("table.biom").rename("moved.biom")
    moved = ["--evaluation", "kept", "--table", "moved.biom", "--overwrite", "--quiet"]
    assert run(["explain", *LOG_RATIO.split(), *moved]) == 0
    assert np.isfinite(float(Path("out/log_ratio.tsv").read_text().splitlines()[1].split("\t")[1]))
