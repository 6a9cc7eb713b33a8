"""`aam methods`: the paragraph says what the run did, and cites that alone."""

import json
import re
import shutil
from pathlib import Path

import pytest

from aam.cli import main
from aam.config import EvaluateConfig, TrainConfig
from aam.config.provenance import MethodsConfig
from aam.training.provenance import read_provenance
from aam.training.run_folder import RunFolder
from aam.workflows.citations import WORKS, bibtex
from aam.workflows.evaluate import evaluate
from aam.workflows.methods import describe_run, methods
from aam.workflows.methods_text import listed
from aam.workflows.train import train


def paragraph(folder: Path) -> str:
    return methods(MethodsConfig.from_flat({"run": folder}))


@pytest.fixture(scope="module")
def compared(tmp_path_factory, study_folder) -> Path:
    """An evaluation of kernel and ensemble, by group."""
    folder = tmp_path_factory.mktemp("runs") / "compared"
    files = {
        "table": (study_folder / "table.biom",),
        "metadata": study_folder / "metadata.tsv",
        "tree": study_folder / "tree.nwk",
    }
    small = {"learners": "kernel,ensemble", "trees": 7, "folds": 2, "repeats": 2, "ensemble_members": "linear,clades"}
    target = {"metadata_column": "acidity", "group_column": "subject", "rarefy_depth": 160, "seed": 5}
    evaluate(EvaluateConfig.from_flat({**files, **small, **target, "output_dir": folder}))
    return folder


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory, train_options) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ensemble"
    small = ("table", "metadata")
    options = {name: value for name, value in train_options(folder).items() if name in small}
    options |= {"learner": "ensemble", "ensemble_members": "linear,forest", "trees": 5, "linear_penalty": "l1"}
    train(TrainConfig.from_flat({**options, "metadata_column": "habitat", "classifier": True, "output_dir": folder}))
    return folder


EXPECTED = {
    "compared": [
        r"The data were \d+ samples of \d+ groups \(metadata column subject\) with \d+ amplicon sequence variants",
        r"To be predicted was acidity, a number from [\d.]+ to [\d.]+ \(mean [\d.]+\)\.",
        r"Samples left out before: \d+ \(fewer reads than the sampling depth 160\)\.",
        r"Counts were rarefied to 160 reads of every sample, in 3 draws over which predictions were averaged",
        r"null, a guess that looks at no sample \(the median in training\);",
        r"forest, a random forest \(Breiman 2001\) of 7 trees on centred log-ratios of ASVs in at least 2 % of the",
        r"kernel, a Gaussian process \(Rasmussen and Williams 2006\) on a weighted sum of kernels \(unweighted UniFrac",
        r"an ensemble of linear and clades, .* \(a super learner, van der Laan et al\. 2007\)",
        r"Groups were held out as a whole in 2 folds; this was done 2 times with other folds",
        r"The main score was the R2 of the held-out samples\.",
        r"seeded with 5\.$",
    ],
    "ensemble": [
        r"To be predicted was habitat, one of 3 classes \(\w+ \d+, \w+ \d+, \w+ \d+ samples\)\.",
        r"Counts were not rarefied\.",
        r"The model was an ensemble of linear and forest,",
        r"linear, logistic regression with an l1 penalty \(Tibshirani 1996\)",
        r"forest, a random forest \(Breiman 2001\) of 5 trees",
        r"Of the samples, \d+ trained the model and \d+ validated it\.",
        r"scikit-learn [\d.]+ \(Pedregosa et al\. 2011\)",
    ],
    "regressor": [
        r"Counts were rarefied to 160 reads of every sample, drawn anew in every epoch; shallower ones were left out\.",
        r"transformer \(Vaswani et al\. 2017\) .* width 8, 1 layer and 2 attention heads each",
        r"AdamW \(Loshchilov and Hutter 2019\) with a learning rate of at most 0\.01 for up to 2 epochs of batches of",
        r"Its encoder began with a pretrained encoder and was trained too\.",
        r"Groups \(metadata column subject\) were never on several sides\.",
        r"PyTorch [\d.]+ \(Ansel et al\. 2024\)",
    ],
    "pretrained": [
        r"Counts were rarefied to 150 reads",
        r"Without labels it learned to predict .*the unweighted UniFrac distances \(Lozupone and Knight 2005\) between "
        r"samples \(weight 1\)",
        r"masked nucleotides of ASVs \(weight 0\.1\)",
    ],
}
ABSENT = {
    "compared": ["PyTorch", "transformer", "Breiman 2002", "QIIME", "logistic"],
    "ensemble": ["Gaussian", "PyTorch", "UniFrac", "groups (metadata", "ridge"],
    "regressor": ["Breiman", "scikit-learn", "UniFrac", "random cosine"],
    "pretrained": ["scikit-learn", "Faith", "Lozupone et al. 2007", "to be predicted"],
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_the_paragraph_says_what_was_done(kind, request):
    text = paragraph(request.getfixturevalue(kind))
    for pattern in EXPECTED[kind]:
        assert re.search(pattern, text), pattern
    for absent in ABSENT[kind]:
        assert absent not in text
    assert "None" not in text
    assert "  " not in text


@pytest.mark.parametrize("kind", EXPECTED)
def test_what_is_cited_is_in_the_bibliography_and_nothing_else(kind, request, tmp_path):
    folder = request.getfixturevalue(kind)
    file = tmp_path / "a.bib"
    text = methods(MethodsConfig.from_flat({"run": folder, "bibtex": file}))
    keys = re.findall(r"^@\w+\{(\w+),$", file.read_text(), re.MULTILINE)
    assert len(set(keys)) == len(keys)
    for key, work in WORKS.items():
        assert (work.shown in text) == (key in keys), key
    assert "aam" in keys
    version = read_provenance(RunFolder(folder)).sessions[0].software.aam
    assert f"  version = {{{version}}}," in file.read_text()


def test_numbers_are_those_of_the_run(compared):
    found, text = json.loads((compared / "evaluation.json").read_text()), paragraph(compared)
    assert text.startswith(f"The data were {found['samples']} samples of {found['groups']} groups (")
    software = read_provenance(RunFolder(compared)).sessions[0].software
    assert f"aam {software.aam} with Python {software.python}" in text
    for name in ("scikit-learn", "scikit-bio"):
        assert f"{name} {software.libraries[name]} (" in text
    assert ("no intervals are given" in text.lower()) == (found["interval"] is None)


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_folder_of_an_earlier_aam_is_described_without_what_it_lacks(kind, request, tmp_path):
    shutil.copytree(request.getfixturevalue(kind), tmp_path / "old", symlinks=True)
    (tmp_path / "old/provenance.json").unlink()
    text = paragraph(tmp_path / "old")
    assert "used aam (aam), of which version was not recorded" in text
    assert "amplicon sequence variants (ASVs) and" not in text


def test_versions_of_a_run_that_was_resumed_with_another_aam(compared, tmp_path):
    shutil.copytree(compared, tmp_path / "run", symlinks=True)
    path = tmp_path / "run/provenance.json"
    document = json.loads(path.read_text())
    later = json.loads(json.dumps(document["sessions"][0]))
    later["software"]["aam"] = "9.1"
    path.write_text(json.dumps(document | {"sessions": [*document["sessions"], later]}))
    first = document["sessions"][0]["software"]["aam"]
    text, versions = describe_run(tmp_path / "run")
    assert f"used aam {first} and 9.1 with" in str(text)
    assert versions == {"aam": f"{first} and 9.1"}


@pytest.mark.parametrize("key", WORKS)
def test_entries_are_whole(key):
    work, text = WORKS[key], bibtex([key], {})
    assert text.count("{") == text.count("}")
    assert {"author", "title", "year"} <= work.fields.keys()
    assert "," not in key
    if "doi" in work.fields:
        assert re.fullmatch(r"10\.\d{4,5}/[\w.:()/-]+", work.fields["doi"])
    if key != "aam":
        assert work.fields["year"] in work.shown
        first = work.fields["author"].split(" and ")[0].split(",")[0]
        assert work.shown.startswith(first.split()[0])
        assert key.endswith(work.fields["year"])


def test_lists_are_sentences():
    assert listed(["a"]) == "a"
    assert listed(["a", "b", "c"]) == "a, b and c"


def test_the_command_prints_it(compared, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["methods", str(compared), "--bibtex", str(tmp_path / "c.bib"), "--quiet"])
    assert left.value.code == 0
    assert capsys.readouterr() == (f"{paragraph(compared)}\n", "")
    with pytest.raises(SystemExit) as left:
        main(["methods", str(compared), "--bibtex", str(tmp_path / "c.bib"), "--overwrite", "--quiet"])
    assert left.value.code == 0
