"""QIIME 2 artifacts as users have them, in one command."""

from pathlib import Path

import pandas as pd
import pytest

from aam.cli import main

FILES = {
    "--table": "table.qza",
    "--rep-seqs": "rep-seqs.fasta",
    "--tree": "rooted-tree.qza",
    "--metadata": "sample-metadata.tsv",
}
LEARN = {
    "--metadata-column": "BodySite",
    "--embedding-dim": "16",
    "--attention-layers": "1",
    "--epochs": "1",
}


def train(study: Path, folder: Path, *more: str) -> int:
    options = {option: str(study / name) for option, name in FILES.items()} | LEARN
    words = [word for pair in options.items() for word in pair]
    with pytest.raises(SystemExit) as stop:
        main(["train", *words, "--classifier", "--stratify", "--output-dir", str(folder), *more])
    return int(stop.value.code or 0)


def test_artifacts_train_a_classifier_in_one_command(real_data: Path, tmp_path: Path, capfd) -> None:
    study, folder = real_data / "qiime2" / "moving_pictures_tutorial", tmp_path / "run"
    assert train(study, folder) == 2
    message = capfd.readouterr().err
    assert "18 of 759 ASVs (90 of 157,298 reads) without a sequence" in message
    assert "--drop-missing-sequences" in message
    assert not folder.exists()

    assert train(study, folder, "--drop-missing-sequences") == 0
    assert "dropped 18 of 759 ASVs (90 of 157,298 reads)" in capfd.readouterr().err
    predictions = pd.read_csv(folder / "val_predictions.tsv", sep="\t", index_col="sample_id")
    sites = ["gut", "left palm", "right palm", "tongue"]
    assert list(predictions.columns) == ["true", "prediction", *(f"probability_{site}" for site in sites)]
    assert set(predictions["true"]) == set(sites)
