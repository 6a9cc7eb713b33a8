import logging
import re

import numpy as np
import pandas as pd
import pytest
import torch

from aam.config import EmbedConfig, SamplingConfig, TrainConfig
from aam.data.distances.phylogeny import read_phylogeny
from aam.data.files.sequences import encode_sequences
from aam.data.files.tables import read_tables
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.study import assemble_study
from aam.errors import InputError
from aam.workflows.embed import embed
from aam.workflows.restore import restore
from aam.workflows.train import train


def read(path, index: str) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", index_col=index)


@pytest.mark.parametrize("kind", ["pretrained", "classifier"])
def test_embeddings_are_those_of_the_encoder(kind, request, aam, study_folder, one_sample, tmp_path):
    folder = request.getfixturevalue(kind)
    options = {"checkpoint": folder, "table": study_folder / "table.biom", "device": "cpu"}
    assert aam("embed", **options, output=tmp_path / "s.tsv", asv=tmp_path / "a.tsv.gz") == 0
    samples, asvs = read(tmp_path / "s.tsv", "sample_id"), read(tmp_path / "a.tsv.gz", "asv_id")
    table = assemble_study(read_tables([study_folder / "table.biom"]), SamplingConfig()).table
    trained = restore(folder)
    assert list(samples.columns) == [*(f"dim_{i}" for i in range(8)), "note"]
    assert tuple(samples.index) == table.sample_ids
    assert tuple(asvs.index) == table.asv_ids
    with torch.no_grad():
        tokens = torch.from_numpy(encode_sequences(table.sequences))
        expected = trained.encoder.embed_asvs(tokens)
        assert asvs.to_numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
        draws = SampleDraws(table, trained.config.sampling, trained.config.runtime.seed)
        for row in (0, 17, 39):
            asv, count = draws.counts(row, FIXED)
            alone = trained.encoder(one_sample(tokens[asv], count)).sample_embedding[0]
            assert samples.iloc[row, :8].to_numpy(np.float64) == pytest.approx(alone.numpy(), rel=1e-4, abs=1e-5)


def test_the_batch_size_changes_nothing_beyond_rounding(aam, pretrained, study_folder, tmp_path):
    options = {"checkpoint": pretrained, "table": study_folder / "table.biom", "device": "cpu"}
    for size, workers in [(32, 0), (5, 2)]:
        output = tmp_path / f"{size}.tsv"
        assert aam("embed", **options, batch_size=size, num_workers=workers, output=output) == 0
    one, other = (read(tmp_path / f"{size}.tsv", "sample_id").drop(columns="note") for size in (32, 5))
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)


def test_samples_that_cannot_be_embedded_are_reported(aam, pretrained, study_folder, tmp_path):
    known = read_tables([study_folder / "table.biom"]).sequences[0]
    (tmp_path / "more.tsv").write_text(f"#OTU ID\tblank\tshallow\n{known}\t0\t7\n")
    tables = (study_folder / "table.biom", tmp_path / "more.tsv")
    assert aam("embed", checkpoint=pretrained, table=tables, output=tmp_path / "s.tsv", device="cpu") == 0
    table = read(tmp_path / "s.tsv", "sample_id")
    assert table.loc["blank", "note"] == "no reads"
    assert "sampling depth 150" in table.loc["shallow", "note"]
    assert table.loc[["blank", "shallow"], "dim_0"].isna().all()
    assert table["note"].isna().sum() == 40


def test_two_tables_in_one_file_are_refused(aam, pretrained, study_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"checkpoint": pretrained, "table": study_folder / "table.biom", "overwrite": True}
    assert aam("embed", **options, output=tmp_path / "e.tsv", asv="e.tsv") == 2
    assert "--output and --asv both name" in capsys.readouterr().err
    (tmp_path / "a.tsv").write_text("precious")
    assert aam("embed", **{**options, "overwrite": False}, output="e.tsv", asv="a.tsv") == 2
    assert "--asv a.tsv exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.tsv"]


def test_a_place_that_cannot_be_written_is_named_by_its_option(pretrained, study_folder, tmp_path):
    options = {"checkpoint": pretrained, "table": (study_folder / "table.biom",), "output": tmp_path / "s.tsv"}
    with pytest.raises(InputError, match=r"--asv.*none"):
        embed(EmbedConfig.from_flat({**options, "asv": tmp_path / "none/a.tsv"}))
    assert not list(tmp_path.iterdir())


def test_runs_with_one_encoder_share_the_embeddings_of_asvs(
    aam, pretrained, train_options, study_folder, tmp_path, caplog
):
    cache, frozen = tmp_path / "kept", tmp_path / "frozen"
    files = {"table": study_folder / "table.biom", "device": "cpu"}
    assert aam("embed", checkpoint=pretrained, **files, output=tmp_path / "plain.tsv") == 0
    with caplog.at_level(logging.INFO):
        assert aam("embed", checkpoint=pretrained, **files, output=tmp_path / "s.tsv", embedding_cache=cache) == 0
        options = {"pretrained_encoder": pretrained, "freeze_base": True, "embedding_cache": cache}
        train(TrainConfig.from_flat(train_options(frozen, **options)))
        whole = {"checkpoint": frozen, **files, "embedding_cache": cache}
        assert aam("predict", **whole, output=tmp_path / "p.tsv") == 0
        assert aam("embed", **whole, output=tmp_path / "again.tsv", asv=tmp_path / "a.tsv") == 0
    told = re.findall(r"embeddings of (\d+) ASVs: (\d+) are kept in .*, (\d+) are new", caplog.text)
    new = [int(count) for *_, count in told]
    assert len(told) == 4
    assert new[0] > 0
    assert new[2:] == [0, 0]
    assert sum(new) == len(read(tmp_path / "a.tsv", "asv_id"))
    pd.testing.assert_frame_equal(
        read(tmp_path / "s.tsv", "sample_id"), read(tmp_path / "plain.tsv", "sample_id"), rtol=1e-4, atol=1e-5
    )
    assert aam("predict", checkpoint=frozen, **files, output=tmp_path / "q.tsv") == 0
    one, other = (read(tmp_path / f"{name}.tsv", "sample_id") for name in "pq")
    pd.testing.assert_frame_equal(one, other, rtol=1e-4, atol=1e-5)
    assert [path.name for path in cache.iterdir()] == [next(cache.glob("*/*.npy")).parent.name]


def test_a_tree_of_the_asvs_serves_commands_that_need_one(aam, pretrained, study_folder, tmp_path):
    options = {"checkpoint": pretrained, "table": study_folder / "table.biom", "device": "cpu"}
    assert aam("embed", **options, output=tmp_path / "s.tsv", asv_tree=tmp_path / "asvs.nwk") == 0
    table = read_tables([study_folder / "table.biom"])
    assert set(read_phylogeny(tmp_path / "asvs.nwk").tip_names) == set(table.asv_ids)
    files = {
        "table": study_folder / "table.biom",
        "tree": tmp_path / "asvs.nwk",
        "metadata": study_folder / "metadata.tsv",
    }
    small = {"learner": "clades", "metadata_column": "acidity", "trees": 5, "group_column": "subject"}
    assert aam("train", **files, **small, output_dir=tmp_path / "clades") == 0
