"""The simulated study: what was put in is there, and the files say the same."""

import io
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import skbio
from skbio.diversity import beta_diversity
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import RidgeCV
from sklearn.metrics import balanced_accuracy_score, r2_score
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict

from aam.config import SamplingConfig, SimulateConfig, SplitConfig
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.sampling.splits import Split, split_samples
from aam.data.simulation.study import FILES, SimulatedStudy, simulate_study, write_study
from aam.data.study import digest
from aam.errors import InputError

SEEDS = (42, 43, 44)


def config(**options):
    return SimulateConfig.model_validate({"directory": "unused", **options})


@pytest.fixture(scope="module")
def study():
    return simulate_study(config())


@pytest.fixture(scope="module")
def counts(study):
    return study.table.counts.toarray()


def relative(study):
    counts = study.table.counts.toarray()
    return counts / counts.sum(axis=1, keepdims=True)


def test_the_table_is_sound(study, counts):
    assert counts.shape == (200, study.table.n_asvs)
    assert counts.dtype == np.int64
    assert counts.sum(axis=0).min() > 0
    assert study.table.asv_ids == study.table.sequences
    assert len(set(study.table.sequences)) == study.table.n_asvs <= 400
    assert counts.sum(axis=1).mean() == pytest.approx(2000, rel=0.1)


def test_a_sample_holds_about_a_quarter_of_its_habitats_asvs(study, counts):
    habitats = study.metadata["habitat"].to_numpy()
    pools = {habitat: (counts[habitats == habitat].sum(axis=0) > 0).sum() for habitat in set(habitats)}
    shares = [(row > 0).sum() / pools[habitat] for row, habitat in zip(counts, habitats, strict=True)]
    assert 0.18 < np.mean(shares) < 0.28


def test_columns_are_nested(study):
    metadata = study.metadata
    for child, parent, children in (("subject", "site", 20), ("site", "region", 6)):
        assert (metadata.groupby(child)[parent].nunique() == 1).all()
        assert metadata[child].nunique() == children
    assert metadata["region"].nunique() == metadata["habitat"].nunique() == 3
    assert (metadata.groupby("subject")["day"].apply(lambda day: (day.diff().dropna() > 0).all())).all()
    assert metadata["health"].value_counts().to_dict() == {"healthy": 120, "sick": 80}


def test_unifrac_grows_from_host_to_habitat_to_between(study, counts):
    tree = skbio.TreeNode.read(io.StringIO(study.newick))
    distance = beta_diversity("unweighted_unifrac", counts, tree=tree, taxa=list(study.table.asv_ids)).data
    first, second = np.triu_indices(len(counts), 1)
    same = {name: (codes := study.metadata[name].to_numpy())[first] == codes[second] for name in study.metadata}
    pairs = distance[first, second]
    host = pairs[same["subject"] & same["habitat"]].mean()
    habitat = pairs[same["habitat"] & ~same["subject"]].mean()
    between = pairs[~same["habitat"]].mean()
    assert host + 0.1 < habitat < between - 0.05
    assert between < 0.9


def test_communities_drift_with_time(study):
    share = np.sqrt(relative(study))
    metadata = study.metadata.reset_index(drop=True)
    near, far = [], []
    for _, host in metadata.groupby(["subject", "habitat"]):
        for first, second in zip(*np.triu_indices(len(host), 1), strict=True):
            rows = host.index[[first, second]]
            gap = abs(metadata["day"][rows[0]] - metadata["day"][rows[1]])
            (near if gap <= 14 else far).append(np.square(share[rows[0]] - share[rows[1]]).sum())
    assert np.mean(near) < 0.9 * np.mean(far)


class Held(NamedTuple):
    """A study whose held-out samples judge a model of scikit-learn."""

    study: SimulatedStudy
    split: Split

    @classmethod
    def of(cls, seed: int) -> "Held":
        study = simulate_study(config(seed=seed))
        return cls(study, split_samples(study.table.sample_ids, study.metadata, SplitConfig(val_fraction=0.3), seed))

    def score(self, metric, model, features, column: str) -> float:
        values, train, val = self.study.metadata[column], self.split.train, self.split.val
        model.fit(features[train], values.iloc[train])
        return metric(values.iloc[val], model.predict(features[val]))


@pytest.mark.parametrize("seed", SEEDS)
def test_target_and_class_are_learnable(seed):
    held = Held.of(seed)
    share = relative(held.study)
    forest = RandomForestRegressor(100, max_features=0.3, random_state=0)
    assert held.score(r2_score, forest, share, "acidity") > 0.3
    assert held.score(balanced_accuracy_score, RandomForestClassifier(200, random_state=0), share, "health") > 0.7


def test_the_site_helps():
    gains = []
    for held in map(Held.of, SEEDS):
        ridge = RidgeCV(np.logspace(-1, 4, 20))
        community = np.log(relative(held.study) + 1e-3)
        site = pd.get_dummies(held.study.metadata[["site", "region"]]).to_numpy(np.float64)
        without = held.score(r2_score, ridge, community, "acidity")
        gains.append(held.score(r2_score, ridge, np.hstack([community, 3 * site]), "acidity") - without)
    assert np.mean(gains) > 0.1


def test_equal_seeds_agree_and_others_differ(study):
    again, other = simulate_study(config()), simulate_study(config(seed=43))
    pd.testing.assert_frame_equal(again.metadata, study.metadata)
    assert again.newick == study.newick
    assert (again.table.counts != study.table.counts).nnz == 0
    assert not set(other.table.sequences) & set(study.table.sequences)
    assert not other.metadata["acidity"].equals(study.metadata["acidity"])


@pytest.mark.parametrize(
    "options",
    [
        {"samples": 8, "asvs": 16, "bp": 20, "depth": 50, "subjects": 2},
        {"samples": 8, "subjects": 100, "asvs": 60},
        {"samples": 30, "subjects": 3, "asvs": 17},
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_the_smallest_studies_work(options, seed):
    study = simulate_study(config(seed=seed, **options))
    assert study.table.n_samples == options["samples"]
    assert study.table.depth.min() >= 10
    assert study.metadata["health"].nunique() == 2
    assert study.metadata["acidity"].notna().all()


def test_files_read_back(study, tmp_path):
    write_study(study, tmp_path / "new" / "study")
    folder = tmp_path / "new" / "study"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    table = read_tables([folder / "table.biom"])
    assert (table.sample_ids, table.asv_ids) == (study.table.sample_ids, study.table.asv_ids)
    assert (table.counts != study.table.counts).nnz == 0
    pd.testing.assert_frame_equal(read_metadata(folder / "metadata.tsv"), study.metadata)
    tips = {tip.name for tip in skbio.TreeNode.read(folder / "tree.nwk").tips()}
    assert tips > set(table.asv_ids)
    taxonomy = pd.read_csv(folder / "taxonomy.tsv", sep="\t")
    assert list(taxonomy.columns) == ["Feature ID", "Taxon", "Confidence"]
    assert tuple(taxonomy["Feature ID"]) == table.asv_ids


def test_files_of_one_seed_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_study(simulate_study(config(samples=20, asvs=40)), tmp_path / name)
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_existing_files_are_kept_unless_overwrite(tmp_path):
    small = simulate_study(config(samples=8, asvs=16))
    (tmp_path / "metadata.tsv").write_text("mine")
    (tmp_path / "notes.txt").write_text("mine too")
    with pytest.raises(InputError, match=r"already holds metadata\.tsv.*--overwrite"):
        write_study(small, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metadata.tsv", "notes.txt"]
    write_study(small, tmp_path, overwrite=True)
    assert (tmp_path / "metadata.tsv").read_text().startswith("sample-id\t")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*FILES, "notes.txt"])


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(InputError, match="cannot write there"):
            write_study(simulate_study(config(samples=8, asvs=16)), folder)


def test_files_without_the_trap_stay_as_they_were(tmp_path):
    """Digests of what was written before there was --depth-confounded; the table by its content, not HDF5's bytes."""
    write_study(simulate_study(config(samples=20, asvs=40, seed=7)), tmp_path)
    texts = [(tmp_path / name).read_text() for name in FILES[1:4]]
    counts = read_tables([tmp_path / "table.biom"]).counts
    table = [counts.indptr.astype(np.int64), counts.indices.astype(np.int64), counts.data.astype(np.int64)]
    assert digest(texts) == "08fdfe7083c84454a7ea6847327462c5"
    assert digest(table) == "b872c69c693dc5b80442e692b81d5413"


@pytest.fixture(scope="module")
def trap():
    return simulate_study(config(depth_confounded=True, samples=300, subjects=50))


def test_the_trap_is_a_column_of_subjects_and_their_depth_alone(trap):
    plain = simulate_study(config(samples=300, subjects=50))
    pd.testing.assert_frame_equal(trap.metadata.drop(columns="group"), plain.metadata)
    assert trap.newick == plain.newick
    group, depth = trap.metadata["group"], trap.table.depth
    assert (group.groupby(trap.metadata["subject"]).nunique() == 1).all()
    assert group.value_counts().to_dict() == {"a": 150, "b": 150}
    assert depth[group == "b"].mean() / depth[group == "a"].mean() == pytest.approx(0.2, rel=0.1)


def _tells_the_groups_apart(trap, counts):
    """Balanced accuracy of a forest on centred log-ratios, no subject on both sides."""
    logs = np.log(counts.toarray() + 0.5)
    forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=0)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=0)
    group, subject = trap.metadata["group"], trap.metadata["subject"]
    told = cross_val_predict(forest, logs - logs.mean(axis=1, keepdims=True), group, groups=subject, cv=folds)
    return balanced_accuracy_score(group, told)


@pytest.mark.slow
def test_the_trap_closes_on_all_reads_and_not_on_rarefied_ones(trap):
    draws = SampleDraws(trap.table, SamplingConfig(rarefy_depth=int(trap.table.depth.min())), seed=0)
    assert _tells_the_groups_apart(trap, trap.table.counts) > 0.75
    assert 0.35 < _tells_the_groups_apart(trap, draws.rows(np.arange(300), FIXED)) < 0.65


def test_the_truth_names_what_drives_the_columns(study, tmp_path):
    write_study(study, tmp_path)
    truth = pd.read_csv(tmp_path / "truth.tsv", sep="\t")
    pd.testing.assert_frame_equal(truth, study.truth, atol=1e-6)
    clades, asvs = (truth[truth["level"] == level] for level in ("clade", "asv"))
    assert dict(zip(clades["id"], clades["column"], strict=True)) == {
        "clade1": "acidity",
        "clade2": "acidity",
        "clade3": "health",
        "clade4": "health",
    }
    assert clades["effect"].tolist() == [0.7, -0.7, 1.0, -1.0]
    assert set(asvs["id"]) <= set(study.table.asv_ids)
    assert not asvs["id"].duplicated().any()
    # ASVs of a clade that no sample holds have hardly a part of it
    assert (asvs.groupby("clade")["effect"].sum().to_numpy() / clades["effect"].to_numpy()) == pytest.approx(
        1, abs=0.02
    )


@pytest.mark.parametrize("column", ["acidity", "health"])
def test_reads_of_the_true_clades_explain_the_column(study, column):
    share = pd.DataFrame(relative(study), columns=study.table.asv_ids)
    rows = study.truth[(study.truth["column"] == column) & (study.truth["level"] == "asv")]
    up, down = (share[rows["id"][sign * rows["effect"] > 0]].sum(axis=1) for sign in (1, -1))
    ratio = np.log(up + 1e-3) - np.log(down + 1e-3)
    truth = study.metadata[column].to_numpy()
    truth = (truth == "sick").astype(float) if column == "health" else truth.astype(float)
    assert np.corrcoef(ratio, truth)[0, 1] > 0.6
