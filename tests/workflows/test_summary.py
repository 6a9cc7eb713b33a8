"""The table of a study at the start of a run."""

import logging
import re

import numpy as np
import pandas as pd
import pytest

from aam.config import SamplingConfig, TableConfig, TargetConfig, TrainConfig
from aam.data.study import load_study, select_samples
from aam.workflows.summary import Summary, Values
from aam.workflows.text_table import WIDTH, text_table
from aam.workflows.train import train


@pytest.fixture(scope="module")
def study(study_folder):
    inputs = TableConfig(table=(study_folder / "table.biom",), metadata=study_folder / "metadata.tsv")
    return load_study(inputs, SamplingConfig())


def test_sides_groups_and_values_are_counted(study):
    rows = {"training": np.arange(30), "validation": np.arange(30, 40), "test": np.arange(0)}
    summary = Summary.of(study, rows, TargetConfig(metadata_column=("acidity",)), "subject")
    metadata, depth = study.metadata, study.table.depth
    assert list(summary.sides) == ["all", "training", "validation"]
    validation = summary.sides["validation"]
    assert (validation.samples, validation.groups) == (10, metadata["subject"].iloc[30:].nunique())
    acidity = metadata["acidity"].iloc[30:]
    found = validation.targets["acidity"]
    assert (found.low, found.high) == (acidity.min(), acidity.max())
    assert found.mean == pytest.approx(acidity.mean())
    assert summary.reads == (depth.min(), int(np.median(depth)), depth.max())
    text = summary.table()
    assert re.search(r"samples +40 +30 +10\n", text)
    assert f"{acidity.min():.4g} to {acidity.max():.4g}" in text


def test_what_is_left_out_is_told_with_the_reason(study):
    less = select_samples(study, np.arange(5, 40), "no value of x")
    assert Summary.of(less, {}).left_out == {"no value of x": 5}
    assert Summary.of(less, {}).table().endswith("\nleft out: 5 samples, no value of x")


def test_many_classes_are_counted_together():
    labels = pd.Series([f"c{number}" for number in range(15) for _ in range(number + 1)], dtype=object)
    values = Values.of(labels)
    assert values.classes["c14"] == 15
    assert values.known == 120


def test_classes_have_a_row_each(study):
    target = TargetConfig(metadata_column=("habitat",), classifier=True)
    text = Summary.of(study, {}, target).table()
    for name, count in study.metadata["habitat"].value_counts().items():
        assert re.search(rf"\n  {name} +{count}\n", text)


def test_a_missing_group_column_is_no_row(study):
    bare = select_samples(study, np.arange(40), "")
    assert Summary.of(bare, {}).group_column is None


def test_a_table_is_plain_text_of_100_columns():
    text = text_table(["", "a" * 60, "[red]b[/red]"], [["name", "x" * 90, ":smile: 1"]])
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text
    assert "[red]b[/red]" in text.replace("\n", "")


def test_a_run_shows_data_first_and_scores_last(train_options, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="aam"):
        train(TrainConfig.from_flat(train_options(tmp_path / "run", test_fraction=0.2, baselines=False)))
    lines = caplog.text.splitlines()
    data = next(place for place, line in enumerate(lines) if line.startswith("samples  "))
    epochs = [place for place, line in enumerate(lines) if re.search(r"epoch \d, step", line)]
    scores = next(place for place, line in enumerate(lines) if line.startswith("r2  "))
    assert data < epochs[0] < epochs[-1] < scores
    assert all(len(message) <= 100 for message in caplog.messages if message.startswith("epoch"))
    assert "\x1b" not in caplog.text


def test_quiet_silences_it(study_folder, tmp_path, aam, capfd):
    """But for warnings."""
    files = {"table": study_folder / "table.biom", "metadata": study_folder / "metadata.tsv"}
    for quiet in (False, True):
        out = tmp_path / str(quiet)
        assert aam("train", **files, metadata_column="acidity", learner="null", output_dir=out, quiet=quiet) == 0
        shown = capfd.readouterr()
        assert shown.out == ""
        assert ("reads of a sample" in shown.err, "score " in shown.err) == (not quiet, not quiet)
