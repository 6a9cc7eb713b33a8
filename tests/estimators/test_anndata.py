"""AnnData in and out, as users of scanpy hold their data; skipped where anndata is not installed."""

import logging

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.model_selection import GroupKFold, cross_val_predict, cross_val_score

import aam
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables

anndata = pytest.importorskip("anndata", reason="anndata is not installed: pip install 'aam[anndata]'")

# anndata asks and sets options of pandas that do nothing any more
pytestmark = pytest.mark.filterwarnings("ignore:The '.*' option is deprecated")

TINY = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "epochs": 1, "batch_size": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def read(study_folder):
    return read_tables([study_folder / "table.biom"])


@pytest.fixture(scope="module")
def frame(read):
    """Counts, samples x ASVs, whose ids are sequences."""
    return pd.DataFrame(read.counts.toarray(), index=list(read.sample_ids), columns=list(read.asv_ids))


@pytest.fixture
def adata(study_folder, read):
    """Counts in X, metadata in obs, DNA in var."""
    obs = read_metadata(study_folder / "metadata.tsv").loc[list(read.sample_ids)]
    var = pd.DataFrame({"sequence": list(read.sequences)}, index=[f"asv{i}" for i in range(read.n_asvs)])
    return anndata.AnnData(sparse.csr_matrix(read.counts), obs=obs, var=var)


@pytest.fixture(scope="module")
def encoder(frame, study_folder):
    return aam.SampleEncoder(**TINY, rarefy_depth=160).fit(frame, tree=study_folder / "tree.nwk")


@pytest.mark.parametrize(
    "kind", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array, lambda cells: cells.toarray()]
)
def test_counts_in_x(adata, read, kind):
    adata.X = kind(adata.X)
    table = aam.read(adata)
    np.testing.assert_array_equal(table.counts.toarray(), read.counts.toarray())
    assert table.sample_ids == read.sample_ids
    assert table.asv_ids == tuple(adata.var_names)
    assert table.sequences == read.sequences


def test_counts_in_a_layer(adata, read):
    adata.layers["counts"] = adata.X.copy()
    adata.X = sparse.csr_matrix(adata.X / adata.X.sum(axis=1))
    np.testing.assert_array_equal(aam.read(adata, layer="counts").counts.toarray(), read.counts.toarray())
    with pytest.raises(aam.InputError, match=r"X of the AnnData: sample S0001, .* is not a whole number"):
        aam.read(adata)
    with pytest.raises(aam.InputError, match="no layer 'raw'; its layers: counts"):
        aam.read(adata, layer="raw")


def test_sequences_of_var_of_the_caller_and_of_ids(adata, read, frame):
    own = dict(zip(adata.var_names, read.sequences, strict=True))
    other = own | {"asv0": "ACGT" * 8}
    assert aam.read(adata, sequences=other).sequences[0] == "ACGT" * 8
    adata.var = adata.var.drop(columns="sequence")
    with pytest.raises(aam.InputError, match="without a sequence"):
        aam.read(adata)
    assert aam.read(adata, sequences=own).sequences == read.sequences
    assert aam.read(anndata.AnnData(frame)).sequences == read.sequences
    adata.var["sequence"] = np.arange(read.n_asvs)
    with pytest.raises(aam.InputError, match="var column 'sequence' should hold DNA; no text for asv0"):
        aam.read(adata)


def test_a_table_without_counts(adata):
    with pytest.raises(aam.InputError, match="the AnnData has no X"):
        aam.read(anndata.AnnData(obs=adata.obs, var=adata.var))


def test_a_file_that_stays_on_disk(adata, read, tmp_path):
    adata.obs, adata.var = adata.obs[[]], adata.var.astype(object)
    adata.obs_names, adata.var_names = adata.obs_names.astype(object), adata.var_names.astype(object)
    adata.write_h5ad(tmp_path / "study.h5ad")
    backed = anndata.read_h5ad(tmp_path / "study.h5ad", backed="r")
    try:
        table = aam.read(backed)
    finally:
        backed.file.close()
    np.testing.assert_array_equal(table.counts.toarray(), read.counts.toarray())
    assert table.sequences == read.sequences


def test_embeddings_go_into_obsm(encoder, adata, frame, read):
    assert encoder.embed_into(adata) is None
    assert adata.obsm["X_aam"].dtype == np.float32
    assert np.isfinite(adata.obsm["X_aam"]).all(axis=1).tolist() == (read.depth >= 160).tolist()
    np.testing.assert_array_equal(adata.obsm["X_aam"], encoder.embed(frame).to_numpy(np.float32))
    encoder.embed_into(adata, key_added="again")
    np.testing.assert_array_equal(adata.obsm["again"], adata.obsm["X_aam"])
    some = adata[[3, 1]].copy()
    encoder.embed_into(some, key_added="X_aam")
    np.testing.assert_array_equal(some.obsm["X_aam"], adata.obsm["X_aam"][[3, 1]])
    with pytest.raises(aam.InputError, match="a DataFrame is no AnnData; use embed"):
        encoder.embed_into(frame)


@pytest.mark.parametrize("categories", [False, True])
def test_obs_are_the_metadata(adata, frame, categories):
    """As text, or as the categories that anndata makes of it when it writes a file."""
    metadata = pd.DataFrame(adata.obs)
    options = {"group_column": "subject", "normalize_by": "region"}  # which predictions read as well
    model = aam.SampleRegressor(learner="linear", options=options).fit(frame, metadata["acidity"], metadata=metadata)
    expected = model.predict(frame, metadata=metadata)
    if categories:
        adata.strings_to_categoricals()
    found = clone(model).fit(adata, adata.obs["acidity"])
    np.testing.assert_array_equal(found.predict(adata), expected)
    assert list(found.feature_names_in_) == list(adata.var_names)


def test_folds_take_their_rows_of_obs(adata, frame):
    y, groups = adata.obs["habitat"], adata.obs["subject"]
    model = aam.SampleClassifier(learner="linear", options={"group_column": "subject"})
    expected = cross_val_predict(
        model, frame, y, groups=groups, cv=GroupKFold(2), params={"metadata": pd.DataFrame(adata.obs)}
    )
    np.testing.assert_array_equal(cross_val_predict(model, adata, y, groups=groups, cv=GroupKFold(2)), expected)
    scores = cross_val_score(model, adata, y.to_numpy(), cv=2, error_score="raise")
    assert np.isfinite(scores).all()


def test_an_encoder_is_fitted_to_it(adata, encoder, study_folder, frame, caplog):
    with caplog.at_level(logging.WARNING):
        fitted = aam.SampleEncoder(**TINY, rarefy_depth=160).fit(adata, tree=_renamed(study_folder, adata))
    np.testing.assert_array_equal(fitted.transform(frame), encoder.transform(frame))
    assert fitted.sequences_ == adata.var["sequence"].to_dict()


def _renamed(study_folder, adata) -> str:
    """The tree with the names of the AnnData's ASVs."""
    text = (study_folder / "tree.nwk").read_text()
    for name, dna in adata.var["sequence"].items():
        text = text.replace(dna, name)
    return text
