"""What no machine can do, or no program reads: exit code 2 at once, one message, and nothing half-written."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from aam.cli import main as entry
from aam.config import SimulateConfig, flag
from aam.data.simulation.study import simulate_study, write_study

FILES = {"table": "table.biom", "tree": "tree.nwk", "metadata": "metadata.tsv", "metadata_column": "acidity"}


@dataclass(frozen=True)
class Case:
    words: list[str]
    says: tuple[str, ...]
    options: str = ""
    """Content of o.toml."""


def command(name: str, **options: object) -> list[str]:
    words = [name]
    for option, value in options.items():
        words += [] if value is None else [flag(option), str(value)]
    return words


def train(**changes: object) -> list[str]:
    return command("train", **{**FILES, "tree": None, "output_dir": "out", "epochs": 1, **changes})


def pretrain(**changes: object) -> list[str]:
    files = {"table": "table.biom", "tree": "tree.nwk", "output_dir": "out", "epochs": 1}
    return command("pretrain", **{**files, **changes})


def simulate(**changes: object) -> list[str]:
    return ["simulate", "out", *command("", **changes)[1:]]


def evaluate(**changes: object) -> list[str]:
    few = {"learners": "clades", "trees": 3, "folds": 2, "repeats": 1, "output_dir": "out"}
    return command("evaluate", **{**FILES, **few, **changes})


NESTED = "lr = " + "[" * 3000
LONG = "epochs = " + "1" * 5000

CASES = {
    "5,000 workers": Case(train(num_workers=5000), ("--num-workers", "5000", "256")),
    "5,000 jobs": Case(evaluate(jobs=5000), ("--jobs", "5000", "256")),
    "too wide": Case(train(embedding_dim=1_000_000), ("--embedding-dim", "1000000", "65536")),
    "too wide for the memory": Case(
        train(embedding_dim=65_536, attention_layers=100),
        (r"a network of [\d,]+ weights needs about", "GB", "are free"),
    ),
    "an encoder too wide for the memory": Case(
        pretrain(embedding_dim=65_536, attention_layers=100), ("weights needs about", "--embedding-dim")
    ),
    "too many layers": Case(train(attention_layers=10**9), ("--attention-layers", "1000")),
    "ASVs too long": Case(train(max_bp=10**9), ("--max-bp", "100000")),
    "too many epochs": Case(train(epochs=10**20), ("--epochs", "1000000")),
    "too many heads": Case(train(attention_heads=10**20), ("--attention-heads", "65536")),
    "a batch beyond all numbers": Case(train(batch_size=10**30), ("--batch-size", "1000000000")),
    "a hidden layer too wide": Case(train(regressor_hidden_dims=10**9), ("--regressor-hidden-dims", "65536")),
    "depth beyond 2^63": Case(train(rarefy_depth=2**63), ("--rarefy-depth", "9223372036854775808")),
    "depth beyond all samples": Case(train(rarefy_depth=2**63 - 1), ("no sample is left", "fewer reads")),
    "a thousand million samples": Case(simulate(samples=10**9), ("--samples", "10000000")),
    "samples beyond the memory": Case(
        simulate(samples=10**7, asvs=10**6), ("10,000,000 samples and 1,000,000 ASVs needs about", "--samples")
    ),
    "subjects beyond the memory": Case(simulate(subjects=10**7, asvs=10**6), ("needs about", "--subjects")),
    "config nested deep": Case(train(config="o.toml"), ("o.toml", "nested too deep"), NESTED),
    "config of many digits": Case(train(config="o.toml"), ("o.toml is not TOML", "4300 digits"), LONG),
    "configs nested deep": Case(evaluate(configs="o.toml,p.toml"), ("--configs o.toml", "nested too deep"), NESTED),
    "configs of many digits": Case(evaluate(configs="o.toml,p.toml"), ("--configs o.toml", "4300 digits"), LONG),
    "lengths of no tree": Case(
        command("predict", checkpoint="none", table="table.biom", output="p.tsv", negative_branch_lengths="zero"),
        ("--negative-branch-lengths zero only has an effect with --tree",),
    ),
    "unknown choice of lengths": Case(evaluate(negative_branch_lengths="abs"), ("--negative-branch-lengths", "zero")),
}


def main(words: list[str]) -> int:
    """Run a command; gives its exit code."""
    with pytest.raises(SystemExit) as left:
        entry(words)
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("limits")
    config = SimulateConfig(directory=folder, samples=24, asvs=40, bp=30, depth=300, subjects=8)
    write_study(simulate_study(config), folder)
    return folder


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input(
    case: Case, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(study, work)
    monkeypatch.chdir(work)
    if case.options:
        Path("o.toml").write_text(case.options)
    before = {path.name for path in work.iterdir()}
    code = main(case.words)
    told = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    assert code == 2, told
    for words in case.says:
        assert re.search(words, told), told
    assert "Traceback" not in told
    assert len(told) < 3000
    assert {path.name for path in work.iterdir()} == before


def test_negative_branch_lengths_reach_the_commands(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    shutil.copytree(study, work)
    monkeypatch.chdir(work)
    tree = Path("tree.nwk").read_text()
    Path("tree.nwk").write_text(re.sub(r":[\d.e-]+\)", ":-0.125)", tree, count=1))
    words = command("unifrac", table="table.biom", tree="tree.nwk", output="d.tsv", backend="scikit-bio")
    assert main(words) == 2
    assert "take zero with --negative-branch-lengths zero" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "--negative-branch-lengths", "zero"]) == 0
    assert "1 of 79 branches have a negative length, -0.125 in all" in " ".join(capsys.readouterr().err.split())
