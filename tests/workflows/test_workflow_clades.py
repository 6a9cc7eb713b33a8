"""The whole way with --sample-level clades: pretraining, embedding, fine-tuning, prediction."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

from aam.config import InspectConfig, PretrainConfig, TrainConfig
from aam.errors import InputError
from aam.workflows.inspect import inspect
from aam.workflows.pretrain import pretrain
from aam.workflows.restore import restore
from aam.workflows.train import train

CLADES = {"sample_level": "clades", "learned_clades": 16}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, pretrain_options):
    folder = tmp_path_factory.mktemp("clades") / "encoder"
    options = pretrain_options(folder, rarefy_depth=150, report=True, **CLADES)
    pretrain(PretrainConfig.from_flat({**options, "epochs": 6, "attention_layers": 0}))
    return folder


def test_pretraining_learns_distances_and_its_report_shows_them(encoder):
    rows = [json.loads(line) for line in (encoder / "metrics.jsonl").read_text().splitlines()]
    pearson = [row["val/unifrac_pearson"] for row in rows if "val/unifrac_pearson" in row]
    assert max(pearson) > 0.4
    assert "Mantel" in (encoder / "report.html").read_text()
    membership = restore(encoder).encoder.sample_encoder.membership
    assert float(membership.shift.abs().max()) > 0
    assert float((membership.scale - 1).abs().max()) > 0


def test_samples_are_embedded_as_their_clades(encoder, aam, study_folder, tmp_path):
    output = tmp_path / "s.tsv"
    assert aam("embed", checkpoint=encoder, table=study_folder / "table.biom", output=output, device="cpu") == 0
    rows = pd.read_csv(output, sep="\t", index_col="sample_id").drop(columns="note").to_numpy(np.float64)
    assert rows.shape == (40, 32)
    assert ((rows >= 0) & (rows <= 1)).all()
    assert "16 learned clades" in inspect(InspectConfig.from_flat({"checkpoint": encoder}))


@pytest.mark.parametrize("freeze", [True, False])
def test_fine_tuning_begins_from_it_and_predicts(freeze, encoder, train_options, aam, study_folder, tmp_path):
    run = tmp_path / "run"
    options = train_options(run, pretrained_encoder=encoder, freeze_base=freeze, rarefy_depth=150, attention_layers=0)
    train(TrainConfig.from_flat({**options, "categorical_columns": ("habitat",), "categorical_fusion": "perceiver"}))
    mine, theirs = (restore(folder).encoder.state_dict() for folder in (run, encoder))
    equal = [torch.equal(mine[name], theirs[name]) for name in mine]
    assert all(equal) if freeze else not all(equal)
    output = tmp_path / "p.tsv"
    files = {"table": study_folder / "table.biom", "metadata": study_folder / "metadata.tsv"}
    assert aam("predict", checkpoint=run, **files, output=output, device="cpu") == 0
    assert pd.read_csv(output, sep="\t")["prediction"].notna().all()


def test_a_new_encoder_of_clades_trains_too(train_options, tmp_path):
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **CLADES)))
    membership = restore(tmp_path / "run").encoder.sample_encoder.membership
    assert float(membership.shift.abs().max()) > 0


def test_fusions_that_pool_anew_are_refused(encoder, train_options, tmp_path):
    fusion = {"categorical_columns": ("habitat",), "categorical_fusion": "cross_attention"}
    options = train_options(tmp_path / "run", pretrained_encoder=encoder, attention_layers=0, **fusion)
    with pytest.raises(InputError, match="pools the ASVs of a sample anew"):
        train(TrainConfig.from_flat(options))
    assert not (tmp_path / "run").exists()
