"""`aam explain`: attention to categories, by sample, ASV and column."""

import gzip
import logging
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam.config import ExplainConfig, SamplingConfig, TrainConfig, flag
from aam.data.files.metadata import read_metadata
from aam.data.files.sequences import encode_sequences
from aam.data.files.tables import read_tables
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.study import assemble_study
from aam.errors import InputError
from aam.workflows.explain import explain
from aam.workflows.explain_categories import attended_columns
from aam.workflows.restore import restore
from aam.workflows.train import train

COLUMNS = ["site", "habitat"]


def read(path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", dtype={"sample_id": str, "asv_id": str, "column": str})


@pytest.fixture(scope="module")
def options(attentive, study_folder) -> dict:
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    return {"checkpoint": attentive, **files, "what": "category-attention", "device": "cpu"}


@pytest.fixture(scope="module")
def weights(options, tmp_path_factory) -> pd.DataFrame:
    path = tmp_path_factory.mktemp("explained") / "weights.tsv"
    explain(ExplainConfig.from_flat({**options, "output": path, "batch_size": 7}))
    return read(path)


@pytest.fixture(scope="module")
def drawn(attentive, study_folder):
    """The table, and what is drawn of each sample."""
    trained = restore(attentive)
    table = assemble_study(read_tables([study_folder / "table.biom"]), SamplingConfig()).table
    return table, SampleDraws(table, trained.config.sampling, trained.config.runtime.seed)


def test_weights_are_shares_of_the_columns(weights):
    assert list(weights.columns) == ["sample_id", "asv_id", "column", "weight", "head_1", "head_2"]
    numbers = weights[["weight", "head_1", "head_2"]]
    sums = numbers.groupby([weights["sample_id"], weights["asv_id"]]).sum()
    assert sums.to_numpy() == pytest.approx(1.0, abs=1e-5)
    assert (numbers.to_numpy() > 0).all()
    assert weights["weight"].to_numpy() == pytest.approx(
        weights[["head_1", "head_2"]].mean(axis=1).to_numpy(), abs=1e-5
    )
    assert weights["weight"].std() > 1e-3


def test_rows_are_those_of_the_asvs_that_a_sample_holds_in_the_order_of_the_table(weights, drawn):
    table, draws = drawn
    expected = [
        (name, table.asv_ids[asv], column)
        for row, name in enumerate(table.sample_ids)
        for asv in draws.counts(row, FIXED)[0]
        for column in COLUMNS
    ]
    assert list(weights[["sample_id", "asv_id", "column"]].itertuples(index=False, name=None)) == expected


@pytest.mark.parametrize("row", [0, 17, 39])
def test_weights_are_those_of_the_model(row, weights, attentive, study_folder, drawn, one_sample):
    table, draws = drawn
    trained = restore(attentive)
    asv, count = draws.counts(row, FIXED)
    metadata = read_metadata(study_folder / "metadata.tsv").loc[list(table.sample_ids)]
    categories = torch.from_numpy(trained.categories.encode(metadata.iloc[[row]]))
    with torch.no_grad():
        tokens = torch.from_numpy(encode_sequences(table.sequences)[asv])
        alone = trained.predictor.category_attention(one_sample(tokens, count, categories=categories))[0]
    own = weights[weights["sample_id"] == table.sample_ids[row]]
    heads = own[["head_1", "head_2"]].to_numpy().reshape(len(asv), 2, 2)  # ASV, column, head
    assert heads == pytest.approx(alone.permute(1, 2, 0).numpy(), abs=1e-5)


def test_weights_depend_on_the_categories_of_the_sample(weights, options, tmp_path, study_folder):
    text = (study_folder / "metadata.tsv").read_text()
    (tmp_path / "m.tsv").write_text(text.replace("\tgut\t", "\toral\t"))
    explain(ExplainConfig.from_flat({**options, "metadata": tmp_path / "m.tsv", "output": tmp_path / "w.tsv"}))
    changed = (read(tmp_path / "w.tsv")["weight"] - weights["weight"]).abs() > 1e-5
    by_sample = changed.groupby(weights["sample_id"]).any()
    was_gut = read_metadata(study_folder / "metadata.tsv").loc[list(by_sample.index), "habitat"] == "gut"
    assert 0 < was_gut.sum() < 40
    assert list(by_sample) == list(was_gut)


def test_batches_workers_and_compression_change_nothing(weights, options, tmp_path):
    output = tmp_path / "w.tsv.gz"
    explain(ExplainConfig.from_flat({**options, "output": output, "batch_size": 40, "num_workers": 1}))
    with gzip.open(output, "rt") as file:
        assert file.readline().startswith("sample_id\tasv_id\tcolumn\tweight\t")
    pd.testing.assert_frame_equal(read(output), weights, rtol=1e-4, atol=1e-5)


def test_a_city_that_is_new_and_a_missing_category_are_explained_too(options, tmp_path, study_folder):
    text = (study_folder / "metadata.tsv").read_text()
    (tmp_path / "m.tsv").write_text(text.replace("\tcoast1\t", "\tcoast9\t").replace("\tgut\t", "\t\t"))
    explain(ExplainConfig.from_flat({**options, "metadata": tmp_path / "m.tsv", "output": tmp_path / "w.tsv"}))
    sums = read(tmp_path / "w.tsv").groupby(["sample_id", "asv_id"])["weight"].sum()
    assert sums.index.get_level_values(0).nunique() == 40
    assert sums.to_numpy() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("where", "samples"),
    [(["habitat=gut,oral,skin"], 40), (["subject=subject01", "habitat=gut"], 2)],
)
def test_the_number_of_processes_changes_nothing(where, samples, options, weights, tmp_path):
    """Also where they do not divide the samples, or are more than these."""
    named = {name: options[name] for name in ("checkpoint", "metadata", "what", "device")}
    given = [*named.items(), ("table", options["table"][0]), *(("where", part) for part in where)]
    given += [("output", tmp_path / "w.tsv"), ("batch_size", 3)]
    words = [word for name, value in given for word in (flag(name), str(value))]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3", "-m", "aam.cli"]
    done = subprocess.run([*launch, "explain", *words], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found = read(tmp_path / "w.tsv")
    expected = weights[weights["sample_id"].isin(set(found["sample_id"]))].reset_index(drop=True)
    assert found["sample_id"].nunique() == samples
    pd.testing.assert_frame_equal(found, expected, rtol=1e-4, atol=1e-5)


def test_the_picture_and_the_means_are_those_of_the_weights(weights, options, tmp_path, caplog):
    with caplog.at_level(logging.INFO, logger="aam"):
        config = {**options, "output": tmp_path / "w.tsv", "plot": tmp_path / "w.png"}
        explain(ExplainConfig.from_flat(config))
    assert (tmp_path / "w.png").read_bytes().startswith(b"\x89PNG")
    of_samples = weights.groupby(["sample_id", "column"])["weight"].mean().unstack()
    mean = {name: f"{name} {np.mean(of_samples[name]):.3f} " for name in COLUMNS}
    assert all(text in caplog.text for text in mean.values())


def test_one_column_is_warned_of(train_options, options, tmp_path, caplog):
    fusion = {"categorical_columns": "site", "categorical_fusion": "cross_attention", "cross_attn_heads": 2}
    train(TrainConfig.from_flat(train_options(tmp_path / "run", **fusion, epochs=1)))
    explain(ExplainConfig.from_flat({**options, "checkpoint": tmp_path / "run", "output": tmp_path / "w.tsv"}))
    assert "the one categorical column site: every weight is 1" in caplog.text
    assert (read(tmp_path / "w.tsv")["weight"] == 1).all()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("pretrained", "is a pretrained encoder, which reads no categories: .*--categorical-fusion cross_attention"),
        ("regressor", "was trained without --categorical-columns: .*--categorical-fusion cross_attention"),
    ],
)
def test_models_without_such_attention_are_refused(kind, message, request, options, tmp_path):
    changed = {**options, "checkpoint": request.getfixturevalue(kind), "output": tmp_path / "w.tsv"}
    with pytest.raises(InputError, match=message):
        explain(ExplainConfig.from_flat(changed))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("fusion", ["concat", "add", "gmu", "perceiver"])
def test_other_fusions_are_refused(fusion, attentive):
    trained = restore(attentive)
    categories = trained.config.categories.model_copy(update={"categorical_fusion": fusion})
    other = replace(trained, config=trained.config.model_copy(update={"categories": categories}))
    assert attended_columns(trained, attentive) == ("site", "habitat")
    with pytest.raises(InputError, match=f"was trained with --categorical-fusion {fusion}: .* cross_attention"):
        attended_columns(other, attentive)


def test_metadata_are_needed(options, tmp_path):
    with pytest.raises(InputError, match=r"reads columns of the metadata \(site, habitat\): give --metadata"):
        explain(ExplainConfig.from_flat({**options, "metadata": None, "output": tmp_path / "w.tsv"}))
    assert not list(tmp_path.iterdir())
