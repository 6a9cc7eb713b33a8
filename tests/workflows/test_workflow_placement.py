"""`aam predict --tree`: new ASVs on the branches of a model."""

import numpy as np
import pandas as pd
import pytest
from skbio import TreeNode

import aam
from aam.config import PredictConfig, SamplingConfig, TableConfig, TrainConfig
from aam.data.distances.phylogeny import read_phylogeny
from aam.data.files.tables import read_tables
from aam.data.study import load_study
from aam.errors import InputError
from aam.learners.kernel_features import FEATURES, Samples
from aam.learners.kernels import KERNELS
from aam.learners.storage import load_learner
from aam.training.checkpoints.store import read_checkpoint
from aam.workflows.makers import read_learner
from aam.workflows.predict import predict
from aam.workflows.train import train

TREES = {"clades": {"trees": 20}, "kernel": {}, "ensemble": {"trees": 20}}
HELD = 12
"""ASVs that training lacks."""


@pytest.fixture(scope="module")
def counts(study_folder) -> pd.DataFrame:
    read = read_tables([study_folder / "table.biom"])
    return pd.DataFrame(read.counts.toarray(), index=list(read.sample_ids), columns=list(read.asv_ids)).sort_index()


@pytest.fixture(scope="module")
def new(counts) -> list[str]:
    """ASVs that training lacks; a third of the samples of a prediction holds none of them."""
    return sorted(np.random.default_rng(3).choice(counts.columns, HELD, replace=False).tolist())


@pytest.fixture(scope="module")
def known(counts, new, tmp_path_factory):
    """The table of the training study."""
    path = tmp_path_factory.mktemp("known") / "table.tsv"
    return written(counts.drop(columns=new), path)


@pytest.fixture(scope="module")
def mixed(counts, new, tmp_path_factory):
    """A table whose first samples hold none of the new ASVs."""
    table = counts.copy()
    table.loc[table.index[:15], new] = 0
    return written(table, tmp_path_factory.mktemp("mixed") / "table.tsv")


def written(counts: pd.DataFrame, path):
    counts.T.rename_axis("#OTU ID").to_csv(path, sep="\t")
    return path


@pytest.fixture(scope="module")
def models(known, study_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    files = {"table": (known,), "metadata": study_folder / "metadata.tsv", "tree": study_folder / "tree.nwk"}
    for learner, more in {**TREES, "linear": {}}.items():
        asked = {"learner": learner, "metadata_column": "acidity", "group_column": "subject", "val_fraction": 0.0}
        train(TrainConfig.from_flat({**files, **asked, **more, "output_dir": folder / learner}))
    return folder


def predicted(model, table, output, **more) -> pd.DataFrame:
    predict(PredictConfig.from_flat({"checkpoint": model, "table": (table,), "output": output, **more}))
    return pd.read_csv(output, sep="\t", index_col="sample_id", keep_default_na=False)


@pytest.mark.parametrize("learner", TREES)
def test_new_asvs_count_and_samples_without_them_stay(learner, models, mixed, counts, new, study_folder):
    study = load_study(TableConfig(table=(mixed,)), SamplingConfig())
    trained = load_learner(models / learner)
    plain, _ = trained.predict(study)
    tree = read_phylogeny(study_folder / "tree.nwk")
    table, used = trained.predict(study, tree)
    without = table.index[(table["reads_placed"] == 0) & (table["reads_lost"] == 0)]
    assert 15 <= len(without) < 40
    np.testing.assert_array_equal(table.loc[without, "prediction"], plain.loc[without, "prediction"])
    given = counts.loc[table.index]
    share = given[new].sum(axis=1) / given.sum(axis=1)
    share[table.index.isin(counts.index[:15])] = 0
    np.testing.assert_allclose(table["reads_lost"] + table["reads_placed"], share)
    np.testing.assert_allclose(plain["reads_lost"], share)
    assert table["reads_placed"].max() > 0.1
    changed = table.index[table["reads_placed"] > 0]
    assert (table.loc[changed, "prediction"] != plain.loc[changed, "prediction"]).mean() > 0.9
    assert used.table.n_asvs > len(trained.reference.asv_ids)


def test_a_new_sister_reads_as_the_asv_beside_it_in_all_that_branches_tell(models, study_folder, counts, new, tmp_path):
    """Reads of an ASV that splits off along the branch of a known tip are, for clades, reads of that tip."""
    tree = TreeNode.read(str(study_folder / "tree.nwk"), convert_underscores=False)
    trained = load_learner(models / "clades")
    known = next(name for name in trained.reference.asv_ids if counts[name].gt(0).sum() > 5)
    tip = tree.find(known)
    parent, sister = tip.parent, "ACGT" * 7
    parent.remove(tip)
    joint = TreeNode(length=tip.length / 2, children=[TreeNode(known, tip.length / 2), TreeNode(sister, 0.01)])
    parent.append(joint)
    table = counts.drop(columns=new)
    moved = table.rename(columns={known: sister})
    moved[known] = 0
    moved.loc[moved.index[0], known] = 1  # so that the ASV is not dropped as one without reads
    model = aam.SampleRegressor.load(models / "clades")
    whole = model.predictions(table)
    given = model.predictions(moved, tree=tree)
    same = [name for name in table.index if name != table.index[0]]
    np.testing.assert_array_equal(given.loc[same, "prediction"], whole.loc[same, "prediction"])
    assert (given["reads_lost"] == 0).all()


def test_proportions_of_asvs_are_of_all_reads_that_are_not_lost(models, mixed, study_folder):
    """As in `aam evaluate --unseen-asvs keep`; the new ASVs are no features."""
    study = load_study(TableConfig(table=(mixed,)), SamplingConfig())
    trained = load_learner(models / "ensemble")
    reference = trained.reference.extended(study.table, read_phylogeny(study_folder / "tree.nwk"))
    aligned, old = reference.align(study), trained.reference.align(study)
    asvs = len(trained.reference.asv_ids)
    np.testing.assert_array_equal(aligned.table.counts[:, :asvs].toarray(), old.table.counts.toarray())
    depth = aligned.table.depth[:, None]
    assert (depth.ravel() > old.table.depth).any()
    np.testing.assert_allclose(aligned.asv_proportions.toarray()[:, :asvs], old.table.counts.toarray() / depth)
    kernel = trained.fitted.solutions[0].members["kernel"]
    rows = np.arange(study.table.n_samples)
    basis = kernel.basis_in(aligned.tree)
    for name in basis.names:
        kind = KERNELS[name][0]
        if FEATURES[kind].level == "asvs":
            assert basis.sides[kind].values(Samples.of(aligned, rows)).rows.shape[1] == asvs


def test_the_command_and_python_agree(models, mixed, study_folder, tmp_path):
    written = predicted(models / "ensemble", mixed, tmp_path / "p.tsv", tree=study_folder / "tree.nwk")
    model = aam.SampleRegressor.load(models / "ensemble")
    given = model.predictions(mixed, tree=study_folder / "tree.nwk").loc[written.index]
    for column in ("prediction", "reads_lost", "reads_placed"):
        np.testing.assert_allclose(written[column].astype(float), given[column], rtol=1e-5)
    y = pd.Series(np.arange(len(given), dtype=float), index=given.index)
    assert model.score(mixed, y, tree=study_folder / "tree.nwk") != model.score(mixed, y)
    np.testing.assert_array_equal(model.predict(mixed, tree=study_folder / "tree.nwk")[0], model.predict(mixed)[0])


def test_the_root_is_chosen_as_elsewhere(models, mixed, study_folder, tmp_path):
    text = (study_folder / "tree.nwk").read_text().strip()
    tree = TreeNode.read([text], convert_underscores=False)
    first, second = tree.children
    unrooted = tmp_path / "unrooted.nwk"
    inner = first if first.children else second
    tree.remove(inner)
    tree.extend(list(inner.children))
    tree.write(str(unrooted))
    with pytest.raises(InputError, match="not rooted"):
        predicted(models / "clades", mixed, tmp_path / "p.tsv", tree=unrooted)
    with pytest.raises(InputError, match="joins the ASVs of the training study in another way"):
        predicted(models / "clades", mixed, tmp_path / "p.tsv", tree=unrooted, root="as-is")


def test_an_id_that_means_another_sequence_is_refused(models, study_folder, counts, new):
    trained = load_learner(models / "clades")
    model = aam.SampleRegressor.load(models / "clades")
    table = counts.drop(columns=new)
    names = list(table.columns)
    other = "TTTT" * 7
    sequences = {name: name for name in names} | {names[0]: other}
    assert names[0] in trained.reference.asv_ids
    with pytest.raises(InputError, match=f"other sequences, are the same tip: {names[0]}"):
        model.predictions(table, sequences=sequences, tree=study_folder / "tree.nwk")


def test_a_network_in_an_ensemble_reads_the_new_sequences(known, mixed, study_folder, tmp_path):
    small = {"embedding_dim": 8, "attention_layers": 1, "attention_heads": 1, "epochs": 1, "min_steps": 1, "trees": 5}
    asked = {"table": (known,), "metadata": study_folder / "metadata.tsv", "tree": study_folder / "tree.nwk"}
    asked |= {"learner": "ensemble", "ensemble_members": "clades,neural", "metadata_column": "acidity"}
    train(TrainConfig.from_flat({**asked, **small, "group_column": "subject", "output_dir": tmp_path / "run"}))
    trained = read_learner(read_checkpoint(tmp_path / "run"))
    study = load_study(TableConfig(table=(mixed,)), SamplingConfig())
    reference = trained.reference.extended(study.table, read_phylogeny(study_folder / "tree.nwk"))
    network = trained.fitted.solutions[0].members["neural"]
    rows = np.arange(study.table.n_samples)
    plain, extended = (network.predict(one.align(study), rows).value for one in (trained.reference, reference))
    new = reference.fraction_of_new(study, trained.reference).to_numpy() > 0
    assert new.any()
    np.testing.assert_allclose(extended[~new], plain[~new], rtol=1e-4, atol=1e-6)
    assert (np.abs(extended - plain)[new] > 1e-6).mean() > 0.9
    assert "reads_placed" in trained.predict(study, read_phylogeny(study_folder / "tree.nwk"))[0]
