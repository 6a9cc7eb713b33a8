"""The page of `aam report`: what it says of each kind of run, and that it needs nothing else."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from aam.config import EvaluateConfig, PretrainConfig, TrainConfig
from aam.config.report import ReportConfig
from aam.data.files.metadata import read_metadata
from aam.errors import InputError
from aam.evaluation.scores import score_numbers
from aam.report.blocks import shown
from aam.workflows.evaluate import evaluate
from aam.workflows.pretrain import pretrain
from aam.workflows.report import report
from aam.workflows.train import train


class Page(HTMLParser):
    """What a test asks of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids, self.links, self.sources, self.alts, self.titles, self.tables = [], [], [], [], [], []
        self.text, self._open = "", []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self._open.append(tag)
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs["href"]] if tag == "a" else []
        self.sources += [attrs[name] for name in ("src", "srcset", "data") if name in attrs]
        if tag in ("svg", "img"):
            self.alts.append(attrs.get("aria-label") or attrs.get("alt") or "")
        if tag == "h2":
            self.titles.append("")
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if "style" in self._open or "script" in self._open:
            return
        self.text += data
        if "h2" in self._open:
            self.titles[-1] += data
        if self._open and self._open[-1] in ("td", "th"):
            self.tables[-1][-1][-1] += data

    def section(self, anchor: str) -> str:
        """Source of a section."""
        return re.search(rf'<section id="{anchor}".*?</section>', self.source, re.DOTALL)[0]


def read(path: Path) -> pd.DataFrame:
    """A table of a run; one of the learners is called null."""
    return pd.read_csv(path, sep="\t", keep_default_na=False, na_values=[""])


def page_of(*runs: Path, output: Path, **more) -> Page:
    report(ReportConfig.from_flat({"runs": runs, "output": output, **more}))
    return Page(output)


ORDER = [
    "Result", "Data", "Learning curves", "Scores", "Tuning", "Predicted against true",
    "Errors by group, depth and category", "Classes", "Worst samples", "Ordination", "Importance", "Confounders",
    "Coverage of intervals", "Warnings", "Provenance",
]  # fmt: skip


def _evaluate(study_folder: Path, folder: Path, **more) -> Path:
    files = {
        "table": (study_folder / "table.biom",),
        "metadata": study_folder / "metadata.tsv",
        "tree": study_folder / "tree.nwk",
    }
    small = {"group_column": "subject", "learners": "linear,kernel", "trees": 5, "folds": 2, "repeats": 2}
    evaluate(EvaluateConfig.from_flat({**files, **small, **more, "output_dir": folder}))
    return folder


@pytest.fixture(scope="module")
def numbers(tmp_path_factory, study_folder) -> Path:
    """An evaluation of numbers."""
    return _evaluate(study_folder, tmp_path_factory.mktemp("runs") / "numbers", metadata_column="acidity")


@pytest.fixture(scope="module")
def named(tmp_path_factory, study_folder) -> Path:
    """An evaluation of classes, with a column of batches."""
    more = {"metadata_column": "habitat", "classifier": True, "batch_column": "site"}
    return _evaluate(study_folder, tmp_path_factory.mktemp("runs") / "named", **more)


@pytest.fixture
def explained(tmp_path) -> Path:
    """A folder as explanations are left in."""
    folder = tmp_path / "explained"
    (folder / "plots").mkdir(parents=True)
    table = pd.DataFrame(
        {
            "level": ["asv"] * 20 + ["clade"] * 2,
            "id": [f"{'ACGT' * 30}{n}" for n in range(22)],
            "name": ["g__Blautia; s__obeum", None] * 11,
            "importance": np.linspace(0.5, 0, 22),
            "low": np.linspace(0.4, -0.1, 22),
            "high": np.linspace(0.6, 0.1, 22),
            "stable": ["yes", "no"] * 11,
            "direction": "rises",
        }
    )
    table.to_csv(folder / "importance.tsv", sep="\t", index=False)
    document = {
        "what": "importance",
        "column": "acidity",
        "sentence": "one clade carries it",
        "notes": ["of the model"],
    }
    (folder / "explanation.json").write_text(json.dumps(document))
    return folder


def check_whole(page: Page) -> None:
    """A page by itself: no other file, links that lead somewhere, texts for all figures, sections in their order."""
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)
    assert all(link.startswith("#") for link in page.links)
    assert all(source.startswith("data:") for source in page.sources)
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]+"', "", page.source)
    assert page.alts
    assert all(len(alt) > 10 for alt in page.alts)
    assert len(page.source.encode()) < 5_000_000
    assert [ORDER.index(title) for title in page.titles] == sorted(ORDER.index(title) for title in page.titles)
    assert "figure-number-" not in page.source


def test_an_evaluation_of_numbers(numbers, study_folder, tmp_path):
    page = page_of(numbers, output=tmp_path / "page.html")
    check_whole(page)
    document = json.loads((numbers / "evaluation.json").read_text())
    assert document["verdict"].partition("; to train it")[0] in page.text
    depth = read_metadata(study_folder / "metadata.tsv")
    assert f"{len(depth)} samples with" in page.text
    predictions = read(numbers / "predictions.tsv")
    mean = predictions[predictions["learner"] == "kernel"].groupby("sample_id")[["true", "prediction"]].mean()
    scores = score_numbers(mean["true"].to_numpy(), mean["prediction"].to_numpy())
    assert f"kernel: R2 {scores['r2']:.2f}, MAE {shown(scores['mae'])}" in page.text
    (table,) = (each for each in page.tables if each[0][:3] == ["learner", "R2", "MAE"])
    written = read(numbers / "scores.tsv").set_index(["learner", "metric"])["value"]
    assert [row[0] for row in table[1:]] == list(written.unstack()["r2"].sort_values(ascending=False).index)
    for row in table[1:]:
        assert row[1].startswith(shown(written[row[0], "r2"]))


def test_the_worst_samples_stand_with_their_nearest(numbers, study_folder, tmp_path):
    page = page_of(numbers, output=tmp_path / "page.html")
    best = re.search(r"The worst predictions of (\w+),", page.text)[1]
    scores = read(numbers / "scores.tsv")
    models = scores[(scores["metric"] == "r2") & ~scores["learner"].isin(["null", "depth"])]
    assert best == models.loc[models["value"].idxmax(), "learner"]
    predictions = read(numbers / "predictions.tsv")
    mean = predictions[predictions["learner"] == best].groupby("sample_id")[["true", "prediction"]].mean()
    errors = (mean["prediction"] - mean["true"]).abs().sort_values(ascending=False)
    (table,) = (each for each in page.tables if each[0][-1].startswith("nearest samples"))
    assert [row[0] for row in table[1:]] == list(errors.index[:10])
    acidity = read_metadata(study_folder / "metadata.tsv")["acidity"]
    for row in table[1:]:
        near = re.findall(r"(\S+): (\S+) \(([\d.]+)\)", row[-1])
        assert len(near) == 3
        assert [shown(acidity[name]) for name, _, _ in near] == [value for _, value, _ in near]
        assert row[0] not in [name for name, _, _ in near]
        assert [float(distance) for *_, distance in near] == sorted(float(distance) for *_, distance in near)


def test_an_evaluation_of_classes(named, tmp_path):
    page = page_of(named, output=tmp_path / "page.html")
    check_whole(page)
    classes = page.section("classes")
    for word in ("Confusion matrix", "ROC curves", "Precision-recall curves", "Calibration of the probabilities"):
        assert word in classes
    assert "habitat by site" in page.section("confounders")
    (table,) = (each for each in page.tables if each[0][:3] == ["habitat", "samples", "predicted"])
    assert sum(int(row[1]) for row in table[1:]) == sum(int(row[2]) for row in table[1:]) == 40


def test_errors_by_columns_that_are_named(numbers, tmp_path):
    page = page_of(numbers, output=tmp_path / "page.html", errors_by="health,day")
    captions = [each[0][0] for each in page.tables]
    assert {"health", "day"} <= set(captions)
    assert "searched for those" not in page.text


def test_runs_of_several_kinds_on_one_page(numbers, pretrained, regressor, explained, tmp_path):
    runs = (pretrained, regressor, numbers, explained)
    page = page_of(*runs, output=tmp_path / "page.html")
    check_whole(page)
    assert page.titles == [title for title in ORDER if title not in ("Tuning", "Classes")]
    result = page.section("verdict")
    assert "An encoder was pretrained" in result
    assert "The network was trained to predict acidity" in result
    assert "one clade carries it." in result
    for name in ("pretraining pretrained", "training acidity", "evaluation numbers", "explanation explained"):
        assert f"<h3>{name}</h3>" in result
    assert "Mantel test" in page.section("ordination")
    assert "g__Blautia; s__obeum" in page.section("importance")


def test_a_tuning_says_that_its_score_is_optimistic(tmp_path):
    folder = tmp_path / "tuned"
    folder.mkdir()
    (folder / "tuning.json").write_text(json.dumps({"learner": "ensemble", "best": 0.71, "nested": 0.66}))
    (folder / "trials.tsv").write_text("trial\tvalue\n0\t0.7\n1\t0.71\n")
    page = page_of(folder, output=tmp_path / "page.html")
    assert "optimistic" in page.section("tuning")
    assert "0.66" in page.section("tuning")
    assert "All 2 trials" in page.section("tuning")


def test_coverage_and_provenance_are_shown_where_they_are_there(numbers, tmp_path):
    folder = tmp_path / "numbers"
    shutil.copytree(numbers, folder)
    (folder / "coverage.tsv").write_text(
        "learner\tlevel\tcoverage\tlow\thigh\twidth\nkernel\t0.9\t0.87\t0.8\t0.95\t2.5\n"
    )
    (folder / "provenance.json").write_text(
        json.dumps({"sessions": [{"software": {"aam": "9.9.9"}, "command": ["aam", "evaluate"]}]})
    )
    page = page_of(folder, output=tmp_path / "page.html")
    assert "0.87 (0.80 to 0.95)" in page.section("coverage")
    assert "sessions: software: aam" in page.section("provenance")
    assert "9.9.9" in page.section("provenance")
    assert "aam, evaluate" in page.section("provenance")


@pytest.mark.parametrize("change", ["gone", "other", "fewer"])
def test_files_that_are_gone_or_changed_are_said_so(numbers, study_folder, tmp_path, change):
    files = tmp_path / "study"
    shutil.copytree(study_folder, files)
    folder = tmp_path / "numbers"
    shutil.copytree(numbers, folder)
    config = json.loads((folder / "config.json").read_text())
    config["inputs"] |= {
        "table": [str(files / "table.biom")], "metadata": str(files / "metadata.tsv"), "tree": str(files / "tree.nwk"),
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    metadata = (files / "metadata.tsv").read_text().splitlines(keepends=True)
    if change == "gone":
        (files / "tree.nwk").unlink()
        said = "these files are not where the run found them"
    elif change == "fewer":
        (files / "metadata.tsv").write_text("".join(metadata[:-1]))
        said = "1 of its 40 samples are not there"
    else:
        (files / "metadata.tsv").write_text("".join(line.replace("S00", "T00") for line in metadata))
        said = "the files have changed"
    page = page_of(folder, output=tmp_path / "page.html")
    check_whole(page)
    for section in ("data", "residuals", "worst", "ordination", "confounders"):
        assert "What needs the table, the tree and the metadata is not shown" in page.section(section)
        assert said in page.section(section)
    assert "Predicted against true" in page.titles


def test_other_values_than_the_run_saw_are_said_so(numbers, study_folder, tmp_path):
    files = tmp_path / "study"
    shutil.copytree(study_folder, files)
    folder = tmp_path / "numbers"
    shutil.copytree(numbers, folder)
    metadata = read_metadata(files / "metadata.tsv")
    config = json.loads((folder / "config.json").read_text())
    config["inputs"]["metadata"] = str(files / "metadata.tsv")
    (folder / "config.json").write_text(json.dumps(config))
    metadata.assign(acidity=metadata["acidity"] + 1).to_csv(files / "metadata.tsv", sep="\t")
    page = page_of(folder, output=tmp_path / "page.html")
    assert "the files have changed: acidity of 40 of 40 samples" in page.section("data")


def test_warnings_are_those_of_the_folder_and_of_the_predictions(numbers, tmp_path):
    folder = tmp_path / "numbers"
    shutil.copytree(numbers, folder)
    document = json.loads((folder / "evaluation.json").read_text())
    document |= {"leakage": ["a pair is nearly the same"], "notes": ["no intervals here"]}
    (folder / "evaluation.json").write_text(json.dumps(document))
    table = read(folder / "predictions.tsv")
    table["prediction"] = table["true"].mean() + 0.05 * (table["prediction"] - table["prediction"].mean())
    table.to_csv(folder / "predictions.tsv", sep="\t", index=False)
    warnings = page_of(folder, output=tmp_path / "page.html").section("warnings")
    for text in ("a pair is nearly the same", "no intervals here", "few samples", "few groups", "spread lost"):
        assert text in warnings


def test_the_same_runs_give_the_same_bytes(numbers, pretrained, tmp_path):
    one, other = (page_of(numbers, pretrained, output=tmp_path / f"{name}.html") for name in "ab")
    assert one.source == other.source


@pytest.mark.parametrize("run", ["pretrained", "regressor", "classifier", "numbers", "named"])
def test_a_run_leaves_its_page(run, request):
    page = Page(request.getfixturevalue(run) / "report.html")
    check_whole(page)
    assert page.titles[0] == "Result"


def test_a_run_leaves_no_page_where_none_is_wanted(pretrain_options, train_options, study_folder, tmp_path):
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "p", epochs=1)))
    train(TrainConfig.from_flat(train_options(tmp_path / "t", epochs=1, baselines=False)))
    _evaluate(study_folder, tmp_path / "e", metadata_column="acidity", learners="linear", repeats=1, report=False)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["e", "p", "t"]
    assert list(tmp_path.rglob("report.html")) == []


def test_markup_in_names_stays_text(numbers, tmp_path):
    folder = tmp_path / "numbers"
    shutil.copytree(numbers, folder)
    document = json.loads((folder / "evaluation.json").read_text())
    (folder / "evaluation.json").write_text(json.dumps(document | {"notes": ["<script>alert(1)</script>"]}))
    page = page_of(folder, output=tmp_path / "page.html")
    assert "<script>alert" not in page.source
    assert "&lt;script&gt;alert(1)" in page.source


def test_a_training_of_several_columns_and_one_without_held_out_samples(train_options, study_folder, tmp_path):
    several = train_options(tmp_path / "two", metadata_column="acidity,day", epochs=1, report=True)
    train(TrainConfig.from_flat(several))
    page = Page(tmp_path / "two" / "report.html")
    check_whole(page)
    assert "acidity, validation samples" in page.text
    assert "day, validation samples" in page.text
    names = ("table", "metadata", "metadata_column")
    options = {name: value for name, value in train_options(tmp_path / "all").items() if name in names}
    train(
        TrainConfig.from_flat(
            {**options, "learner": "forest", "trees": 5, "val_fraction": 0.0, "output_dir": tmp_path / "all"}
        )
    )
    assert "no samples were held out" in Page(tmp_path / "all" / "report.html").text


@pytest.mark.slow
def test_a_page_about_a_real_study_is_made_in_seconds(real_data, tmp_path):
    """The children of ecam: 699 samples."""
    files = {"table": (real_data / "ecam/table.biom",), "metadata": real_data / "ecam/metadata.tsv"}
    options = {"metadata_column": "month_of_life", "where": ("mom_child=C",), "group_column": "host_subject_id"}
    small = {"learners": "linear", "trees": 10, "folds": 2, "repeats": 1, "tree": real_data / "ecam/tree.nwk"}
    evaluate(EvaluateConfig.from_flat({**files, **options, **small, "output_dir": tmp_path / "run"}))
    page = Page(tmp_path / "run" / "report.html")
    check_whole(page)
    assert "699 samples with" in page.text
    assert "42 groups (host_subject_id)" in page.text


def test_a_damaged_file_is_named(numbers, tmp_path):
    folder = tmp_path / "numbers"
    shutil.copytree(numbers, folder)
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(InputError, match=r"evaluation.json is damaged"):
        page_of(folder, output=tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
