"""ASVs that training lacks: what `aam evaluate --unseen-asvs` judges is what `aam predict` does."""

import numpy as np
import pandas as pd
import pytest

from aam.config import EvaluateConfig, PredictConfig, TrainConfig
from aam.data.files.tables import read_tables
from aam.workflows.evaluate import evaluate
from aam.workflows.predict import predict
from aam.workflows.train import train

SMALL = {"trees": 20}


@pytest.fixture(scope="module")
def files(study_folder, tmp_path_factory):
    """The study with a side of every subject, where a third of the ASVs are of the test alone; and each side."""
    folder = tmp_path_factory.mktemp("unseen")
    read = read_tables([study_folder / "table.biom"])
    counts = pd.DataFrame(read.counts.toarray(), index=list(read.sample_ids), columns=list(read.asv_ids)).sort_index()
    metadata = pd.read_csv(study_folder / "metadata.tsv", sep="\t", dtype=str, keep_default_na=False)
    subjects = sorted(set(metadata["subject"][1:]))
    metadata["side"] = ["categorical", *("train" if s in subjects[:5] else "test" for s in metadata["subject"][1:])]
    of_training = set(metadata["sample-id"][metadata["side"] == "train"])
    is_training = counts.index.isin(of_training)
    unseen = np.random.default_rng(2).choice(counts.columns, len(counts.columns) // 3, replace=False)
    counts.loc[is_training, unseen] = 0
    metadata.to_csv(folder / "metadata.tsv", sep="\t", index=False)
    for name, part in {"all": counts, "train": counts[is_training], "test": counts[~is_training]}.items():
        part.loc[:, part.sum() > 0].T.rename_axis("#OTU ID").to_csv(folder / f"{name}.tsv", sep="\t")
    return folder


def out_of_fold(files, study_folder, output, unseen) -> pd.DataFrame:
    asked = {
        "metadata_column": "acidity",
        "test_column": "side",
        "group_column": "subject",
        "learners": "clades,linear",
    }
    asked |= {"table": (files / "all.tsv",), "metadata": files / "metadata.tsv", "tree": study_folder / "tree.nwk"}
    evaluate(EvaluateConfig.from_flat({**asked, **SMALL, "unseen_asvs": unseen, "seed": 7, "output_dir": output}))
    table = pd.read_csv(output / "predictions.tsv", sep="\t", keep_default_na=False)
    return table.pivot_table(index="sample_id", columns="learner", values="prediction")


@pytest.mark.parametrize("learner", ["clades", "linear"])
def test_dropped_asvs_are_those_that_a_trained_model_does_not_know(learner, files, study_folder, tmp_path):
    judged = out_of_fold(files, study_folder, tmp_path / "drop", "drop")[learner]
    kept = out_of_fold(files, study_folder, tmp_path / "keep", "keep")[learner]
    asked = {"learner": learner, "metadata_column": "acidity", "group_column": "subject", "val_fraction": 0.0}
    asked |= {"table": (files / "train.tsv",), "metadata": files / "metadata.tsv", "tree": study_folder / "tree.nwk"}
    more = SMALL if learner == "clades" else {}
    train(TrainConfig.from_flat({**asked, **more, "seed": 8, "output_dir": tmp_path / "run"}))  # seed and repeat
    given = {"checkpoint": tmp_path / "run", "table": (files / "test.tsv",)}
    predict(PredictConfig.from_flat({**given, "output": tmp_path / "p.tsv"}))
    plain = pd.read_csv(tmp_path / "p.tsv", sep="\t", index_col=0)
    np.testing.assert_allclose(plain.loc[judged.index, "prediction"], judged, rtol=1e-5)
    assert plain["reads_lost"].max() > 0.1
    assert not np.allclose(kept, judged)
    if learner == "linear":
        return
    predict(PredictConfig.from_flat({**given, "tree": study_folder / "tree.nwk", "output": tmp_path / "t.tsv"}))
    placed = pd.read_csv(tmp_path / "t.tsv", sep="\t", index_col=0).loc[judged.index, "prediction"]
    assert np.abs(placed - kept).mean() < np.abs(judged - kept).mean()
