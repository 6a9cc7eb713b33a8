import logging
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import skbio
from scipy.sparse import csr_array

from aam.config import InputConfig, SamplingConfig, UnifracConfig
from aam.data.distances.matrix import DistanceMatrix, write_distance_matrix
from aam.data.distances.phylogeny import parse_newick
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import FeatureTable, read_tables
from aam.data.sampling.dataset import MatrixDistances
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.study import Study, assemble_study, load_study, select_samples, with_phylogeny, with_taxonomy
from aam.errors import InputError

ASVS = ("ACGTACGTACGTACGTACGTACGT", "ACGTACGTACGTACGTACGTACGA", "TTGTACGTACGTACGTACGTACGT", "GGGTACGTACGTACGTACGTACGT")
COUNTS = np.array([[10, 0, 5, 0], [0, 3, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 50]])
TREE = f"(({ASVS[0]}:1,{ASVS[1]}:2):1,({ASVS[2]}:3,{ASVS[3]}:1,extra:5):2);"


def make_table(counts: np.ndarray = COUNTS, names: tuple[str, ...] = ("a", "b", "c", "empty", "e")) -> FeatureTable:
    return FeatureTable(csr_array(counts.astype(np.int64)), names, ASVS, ASVS)


def reasons(study: Study) -> dict[str, str]:
    return dict(zip(study.left_out["sample_id"], study.left_out["reason"], strict=True))


def test_samples_without_reads_are_left_out_with_a_reason():
    study = assemble_study(make_table(), SamplingConfig())
    assert study.table.sample_ids == ("a", "b", "c", "e")
    assert reasons(study) == {"empty": "no reads"}
    assert study.metadata is study.tree is study.matrix is None


def test_samples_below_the_depth_are_left_out_or_kept():
    dropped = assemble_study(make_table(), SamplingConfig(rarefy_depth=10))
    assert dropped.table.sample_ids == ("a", "e")
    # in the order of their sequences; the other one occurs in no sample that is left
    assert dropped.table.asv_ids == (ASVS[0], ASVS[3], ASVS[2])
    assert set(reasons(dropped)) == {"empty", "b", "c"}
    assert "sampling depth 10" in reasons(dropped)["b"]
    kept = assemble_study(make_table(), SamplingConfig(rarefy_depth=10, keep_shallow=True))
    assert kept.table.sample_ids == ("a", "b", "c", "e")


def test_metadata_are_joined_by_id(caplog):
    metadata = pd.DataFrame({"x": [4.0, 1.0, 3.0, 9.0]}, index=["e", "a", "c", "not in the table"])
    with caplog.at_level(logging.INFO, "aam"):
        study = assemble_study(make_table(), SamplingConfig(), metadata=metadata)
    assert study.table.sample_ids == tuple(study.metadata.index) == ("a", "c", "e")
    assert study.metadata["x"].tolist() == [1.0, 3.0, 4.0]
    assert study.table.asv_ids == tuple(sorted(ASVS))
    assert study.table.counts.toarray().tolist() == COUNTS[[0, 2, 4]][:, [1, 0, 3, 2]].tolist()
    assert set(reasons(study)) == {"b", "empty"}
    assert "left out 2 of 5 samples" in caplog.text
    assert "1 rows of the metadata have no sample in the table" in caplog.text


def test_no_sample_in_common_is_an_error():
    metadata = pd.DataFrame({"x": [4.0]}, index=["A"])
    with pytest.raises(InputError, match=r"no sample is left.*metadata.*a, b, c, empty, e"):
        assemble_study(make_table(), SamplingConfig(), metadata=metadata)
    with pytest.raises(InputError, match="sampling depth 1000"):
        assemble_study(make_table(), SamplingConfig(rarefy_depth=1000))


def matrix_of(names: list[str], seed: int = 0) -> DistanceMatrix:
    values = np.random.default_rng(seed).uniform(0.2, 0.9, (len(names), len(names)))
    values = (values + values.T) / 2
    np.fill_diagonal(values, 0)
    return DistanceMatrix(tuple(names), values)


def test_a_matrix_in_any_order_gives_the_same_distances():
    matrix = matrix_of(["x", "e", "c", "b", "a"])
    order = np.array([3, 0, 4, 2, 1])
    shuffled = DistanceMatrix(tuple(matrix.ids[i] for i in order), matrix.values[np.ix_(order, order)])
    studies = [assemble_study(make_table(), SamplingConfig(), matrix=m) for m in (matrix, shuffled)]
    rows = np.array([2, 0, 3])
    one, other = (study.distance_source(UnifracConfig()).distances(rows, None) for study in studies)
    assert np.array_equal(one, other)
    names = [studies[0].table.sample_ids[row] for row in rows]
    assert names == ["c", "a", "e"]
    assert one[0, 1] == matrix.values[2, 4]
    assert one[1, 2] == matrix.values[4, 1]


def test_a_matrix_that_lacks_samples_is_refused():
    with pytest.raises(InputError, match=r"no row for 2 of 4 samples of the table: b, c; .*--where"):
        assemble_study(make_table(), SamplingConfig(), matrix=matrix_of(["a", "e", "zzz"]))


def test_the_order_of_asvs_in_the_table_does_not_change_draws():
    table, config = make_table(), SamplingConfig(rarefy_depth=3, keep_shallow=True)
    turned = table.select_asvs(np.arange(table.n_asvs)[::-1])
    drawn = [
        SampleDraws(assemble_study(each, config).table, config, seed=1).rows(np.arange(4), epoch=0).toarray()
        for each in (table, turned)
    ]
    assert np.array_equal(*drawn)


def test_with_matrix_and_tree_the_matrix_gives_the_distances():
    study = assemble_study(make_table(), SamplingConfig(), matrix=matrix_of(["a", "b", "c", "e"]))
    study = with_phylogeny(study, parse_newick(TREE), SamplingConfig(), UnifracConfig(), False)
    source = study.distance_source(UnifracConfig())
    assert isinstance(source, MatrixDistances)
    assert source.matrix is study.matrix


def test_the_tree_is_joined_by_tip_name():
    study = assemble_study(make_table(), SamplingConfig())
    study = with_phylogeny(study, parse_newick(TREE), SamplingConfig(), UnifracConfig(), False)
    samples = np.arange(4)
    drawn = SampleDraws(study.table, SamplingConfig(), 1).rows(samples, FIXED)
    found = study.distance_source(UnifracConfig()).distances(samples, drawn)
    tree = skbio.TreeNode.read([TREE])
    expected = skbio.diversity.beta_diversity(
        "unweighted_unifrac", COUNTS[[0, 1, 2, 4]], taxa=list(ASVS), tree=tree, validate=False
    )
    assert found.numpy() == pytest.approx(expected.data, abs=1e-12)


def test_asvs_without_a_tip_are_an_error_or_dropped_with_their_reads(caplog):
    tree = parse_newick(TREE.replace(ASVS[3], "other1").replace(ASVS[1], "other2"))
    study = assemble_study(make_table(), SamplingConfig())
    with pytest.raises(
        InputError, match=r"2 of 4 ASVs \(54 of 71 reads\).*ACGTACGTACGTACGTACGTACGA.*--drop-missing-tips"
    ):
        with_phylogeny(study, tree, SamplingConfig(), UnifracConfig(), False)
    with caplog.at_level(logging.WARNING, "aam"):
        dropped = with_phylogeny(study, tree, SamplingConfig(), UnifracConfig(), True)
    assert dropped.table.asv_ids == (ASVS[0], ASVS[2])
    assert dropped.table.sample_ids == ("a", "c")
    assert reasons(dropped) == {"empty": "no reads", "b": "no reads", "e": "no reads"}
    assert "54 of 71 reads" in caplog.text
    assert len(dropped.tree.order) == 2
    deep = SamplingConfig(rarefy_depth=3)
    study = assemble_study(make_table(), deep)
    assert with_phylogeny(study, tree, deep, UnifracConfig(), True).table.sample_ids == ("a",)


def test_a_tree_of_other_asvs_is_an_error_even_where_tips_may_be_dropped():
    study = assemble_study(make_table(), SamplingConfig())
    with pytest.raises(InputError, match=r"4 of 4 ASVs.*named like x, y") as caught:
        with_phylogeny(study, parse_newick("(x:1,y:1);"), SamplingConfig(), UnifracConfig(), True)
    assert "--drop-missing-tips" not in str(caught.value)


def test_asvs_that_only_left_out_samples_hold_need_no_tip():
    study = assemble_study(make_table(), SamplingConfig(), metadata=pd.DataFrame(index=["a", "b", "c"]))
    tree = parse_newick(TREE.replace(ASVS[3], "other"))
    assert with_phylogeny(study, tree, SamplingConfig(), UnifracConfig(), False).table.n_asvs == 3


def test_selected_samples_keep_metadata_and_reasons():
    metadata = pd.DataFrame({"x": [0.0, 1, 2, 3, 4]}, index=["e", "empty", "c", "b", "a"])
    study = assemble_study(make_table(), SamplingConfig(), metadata=metadata)
    selected = select_samples(study, np.array([1, 3]), "no age")
    assert selected.table.sample_ids == tuple(selected.metadata.index) == ("b", "e")
    assert reasons(selected) == {"empty": "no reads", "a": "no age", "c": "no age"}


def test_the_fingerprint_knows_the_study():
    study = assemble_study(make_table(), SamplingConfig())
    changed = COUNTS.copy()
    changed[0, 0] += 1
    others = [
        assemble_study(make_table(changed), SamplingConfig()),
        assemble_study(make_table(names=("a", "b", "x", "empty", "e")), SamplingConfig()),
        select_samples(study, np.array([0, 1, 2]), "none"),
    ]
    prints = [each.fingerprint() for each in (study, *others)]
    assert len({each["table"] for each in prints}) == 4
    assert assemble_study(make_table(), SamplingConfig()).fingerprint() == prints[0]


def test_the_fingerprint_knows_tree_and_matrix():
    study = assemble_study(make_table(), SamplingConfig())
    trees = [TREE, TREE.replace(":", ":1", 1)]
    cut = [
        with_phylogeny(study, parse_newick(t), SamplingConfig(), UnifracConfig(), False).fingerprint() for t in trees
    ]
    assert cut[0]["table"] == cut[1]["table"] == study.fingerprint()["table"]
    assert cut[0]["tree"] != cut[1]["tree"]
    names = ["x", "e", "c", "b", "a"]
    matrix, order = matrix_of(names), np.array([3, 0, 4, 2, 1])
    shuffled = DistanceMatrix(tuple(names[i] for i in order), matrix.values[np.ix_(order, order)])
    changed = matrix_of(names, seed=1)
    of_matrix = [
        assemble_study(make_table(), SamplingConfig(), matrix=m).fingerprint()["matrix"]
        for m in (matrix, shuffled, changed)
    ]
    assert of_matrix[0] == of_matrix[1] != of_matrix[2]


def test_cut_asvs_are_told(caplog):
    study = assemble_study(make_table(), SamplingConfig())
    caplog.clear()
    assert study.nucleotides(None).shape == (4, 24)
    assert not caplog.records
    assert study.nucleotides(20).shape == (4, 20)
    assert "4 ASVs are cut to the 20 nucleotides" in caplog.text


def load(folder: Path, **options) -> Study:
    files = {"table": (folder / "table.biom",), "tree": folder / "tree.nwk", "metadata": folder / "metadata.tsv"}
    return load_study(InputConfig(**{**files, **options}), SamplingConfig(), UnifracConfig())


def test_shuffled_metadata_change_nothing(study_folder, tmp_path):
    header, types, *rows = (study_folder / "metadata.tsv").read_text().splitlines()
    shuffled = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    (tmp_path / "metadata.tsv").write_text("\n".join([header, types, *shuffled]) + "\n")
    one, other = load(study_folder), load(study_folder, metadata=tmp_path / "metadata.tsv")
    pd.testing.assert_frame_equal(one.metadata, other.metadata)
    assert one.table.sample_ids == other.table.sample_ids
    assert one.fingerprint() == other.fingerprint()


def test_a_shuffled_table_gives_every_sample_the_same_reads_and_distances(study_folder, tmp_path):
    table = read_tables([study_folder / "table.biom"])
    rows = np.random.default_rng(0).permutation(table.n_samples)
    frame = pd.DataFrame(table.counts.toarray(), index=table.sample_ids, columns=table.asv_ids).iloc[rows]
    frame.T.to_csv(tmp_path / "table.tsv", sep="\t", index_label="#OTU ID")
    one, other = load(study_folder), load(study_folder, table=(tmp_path / "table.tsv",))
    assert other.table.sample_ids == tuple(frame.index)
    assert other.metadata.index.tolist() == list(frame.index)
    draws = [SampleDraws(study.table, SamplingConfig(rarefy_depth=100), 3) for study in (one, other)]
    here, there = draws[0].rows(rows, 1), draws[1].rows(np.arange(len(rows)), 1)
    assert np.array_equal(here.toarray(), there.toarray())
    near = one.distance_source(UnifracConfig()).distances(rows, here)
    far = other.distance_source(UnifracConfig()).distances(np.arange(len(rows)), there)
    assert np.array_equal(near, far)
    pd.testing.assert_frame_equal(other.metadata, read_metadata(study_folder / "metadata.tsv").loc[frame.index])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"table": ()}, "--table is needed"),
        ({"metadata": None, "where": ("habitat=gut",)}, "--where.*--metadata"),
    ],
)
def test_missing_files_are_named(study_folder, options, says):
    with pytest.raises(InputError, match=says):
        load(study_folder, **options)


def test_what_a_command_needs_is_named(study_folder):
    inputs = InputConfig(table=(study_folder / "table.biom",))
    with pytest.raises(InputError, match="--metadata is needed"):
        load_study(inputs, SamplingConfig(), needs=("metadata",))


def test_where_selects_samples(study_folder):
    study = load(study_folder, where=("habitat=gut,skin", "subject=subject01,subject02"))
    assert set(study.metadata["habitat"]) == {"gut", "skin"}
    assert set(study.metadata["subject"]) == {"subject01", "subject02"}
    assert study.left_out.empty


def test_samples_that_were_not_chosen_are_not_left_out_but_those_without_metadata_are(study_folder, tmp_path, caplog):
    header, types, *rows = (study_folder / "metadata.tsv").read_text().splitlines()
    (tmp_path / "metadata.tsv").write_text("\n".join([header, types, *rows[3:]]) + "\n")
    with caplog.at_level(logging.INFO, "aam"):
        study = load(study_folder, metadata=tmp_path / "metadata.tsv", where=("habitat=gut",))
    without = {row.split("\t")[0] for row in rows[:3]}
    assert reasons(study) == dict.fromkeys(without, "no row in the metadata")
    assert f"--where chooses {study.table.n_samples + 3} of 40 samples" in caplog.text


def test_choosing_none_of_the_tables_samples_is_an_error(study_folder, tmp_path):
    header, types, *rows = (study_folder / "metadata.tsv").read_text().splitlines()
    at = header.split("\t").index("habitat")
    other = rows[0].split("\t")
    other[0], other[at] = "elsewhere", "moon"
    (tmp_path / "metadata.tsv").write_text("\n".join([header, types, *rows, "\t".join(other)]) + "\n")
    with pytest.raises(InputError, match=r"no sample is left: --where habitat=moon"):
        load(study_folder, metadata=tmp_path / "metadata.tsv", where=("habitat=moon",))


def test_distances_above_one_are_refused_but_for_weighted_unifrac(study_folder, tmp_path):
    matrix = matrix_of(list(read_metadata(study_folder / "metadata.tsv").index))
    write_distance_matrix(DistanceMatrix(matrix.ids, matrix.values * 3), tmp_path / "d.npz")
    inputs = InputConfig(table=(study_folder / "table.biom",), unifrac_matrix=tmp_path / "d.npz")
    with pytest.raises(InputError, match=r"above 1.*--unifrac-metric weighted_unifrac"):
        load_study(inputs, SamplingConfig(), UnifracConfig())
    study = load_study(inputs, SamplingConfig(), UnifracConfig(unifrac_metric="weighted_unifrac"))
    assert study.matrix.values.max() > 1


def test_joining_many_samples_is_not_done_pair_by_pair():
    """30,000 ids against 30,000 ids, one by one, would be a billion comparisons of texts: half a minute."""
    count = 30_000
    names = tuple(f"sample{number}" for number in range(count))
    counts = csr_array(np.ones((count, 1), dtype=np.int64))
    table = FeatureTable(counts, names, ASVS[:1], ASVS[:1])
    metadata = pd.DataFrame({"x": np.arange(count)}, index=pd.Index(names[::-1], dtype=object))
    before = time.process_time()
    study = assemble_study(table, SamplingConfig(), metadata=metadata)
    assert time.process_time() - before < 5
    assert study.metadata["x"].tolist() == list(range(count))[::-1]


TAXA = {ASVS[0]: "d__B; p__P1", ASVS[2]: "d__B; p__P2", ASVS[3]: "d__B; p__P3", "elsewhere": "d__A"}


def test_lineages_are_joined_by_id_and_those_that_are_lacking_are_told(caplog):
    study = with_taxonomy(assemble_study(make_table(), SamplingConfig()), TAXA)
    assert "the taxonomy lacks 1 of 4 ASVs (4 of 71 reads)" in caplog.text
    assert ASVS[1][:37] in caplog.text
    labels = study.taxonomy_labels(np.array([0, 1, 2]))
    of_asv = dict(zip(study.table.asv_ids, labels.code[:, 0].tolist(), strict=True))
    # the last sample alone holds the last ASV
    assert of_asv == {ASVS[0]: 0, ASVS[1]: -1, ASVS[2]: 1, ASVS[3]: -1}
    assert dict(zip(study.table.asv_ids, labels.trained.tolist(), strict=True))[ASVS[3]] is False
    assert labels.classes.to_json() == {"phylum": ["B; P1", "B; P2"]}


def test_a_taxonomy_of_another_table_is_refused():
    with pytest.raises(InputError, match=r"names none of the 4 ASVs of the table: its ids are like x, y, the table's"):
        with_taxonomy(assemble_study(make_table(), SamplingConfig()), {"x": "d__B", "y": "d__A"})
