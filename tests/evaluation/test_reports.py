"""Reports of a run that is resumed: what is there stays whole until the new one is."""

import numpy as np
import pandas as pd
import pytest

from aam.config import TargetConfig
from aam.data.labels.target_table import Targets
from aam.evaluation import predictions
from aam.evaluation.figures import figure
from aam.training.run_folder import RunFolder

NAMES = ["a", "b", "c"]
TRUE = pd.DataFrame({"age": [1.0, 2.0, 4.0]}, index=pd.Index(NAMES, name="sample_id"))
TARGETS = Targets.fit(TRUE, TRUE, np.arange(3), TargetConfig(metadata_column="age"))
PREDICTED = TARGETS.decode(np.array([[0.1], [0.2], [0.3]]), TRUE)


def test_a_report_that_fails_leaves_the_files_of_the_last_one(tmp_path, monkeypatch):
    predictions.write_prediction_report(TARGETS, PREDICTED, TRUE, RunFolder(tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {"val_predictions.tsv", "val_metrics.json", "val_predictions.png"}

    def write_half(table, path, **_):
        path.write_text("sample_id\ttrue\n")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", write_half)
    with pytest.raises(OSError, match="No space"):
        predictions.write_prediction_report(TARGETS, PREDICTED * 2, TRUE, RunFolder(tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_metrics_that_are_no_numbers_are_a_defect_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(predictions, "score", lambda *_: {"r2": float("nan")})
    with pytest.raises(ValueError, match="Out of range float"):
        predictions.write_prediction_report(TARGETS, PREDICTED, TRUE, RunFolder(tmp_path))
    assert not (tmp_path / "val_metrics.json").exists()


def test_a_figure_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), figure(tmp_path / "plots/a.png") as axes:  # noqa: PT012
        axes.plot([0, 1])
        raise ZeroDivisionError
    assert not list(tmp_path.rglob("*.png"))
