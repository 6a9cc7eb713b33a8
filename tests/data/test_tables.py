"""Feature tables: formats, checks, sequences of ASVs, merging."""

import gzip
import hashlib
import json
import logging
import zipfile

import biom
import h5py
import numpy as np
import pandas as pd
import pytest
from biom.util import biom_open
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from aam.data.files.counts import canonical
from aam.data.files.fasta import read_fasta
from aam.data.files.tables import FeatureTable, feature_table, read_tables
from aam.errors import InputError

SEQUENCES = tuple("ACGT"[base] * 4 + "ACGTACGTACGTACGTACGT" + "TGCA"[base] * base for base in range(4))
COUNTS = np.array([[3, 0, 1, 0], [0, 0, 0, 0], [0, 7, 2, 5]])
SAMPLES = ("007", "empty", "S3")
FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)


def make_biom(counts=COUNTS, samples=SAMPLES, asvs=SEQUENCES, metadata=None):
    return biom.Table(np.asarray(counts, dtype=float).T, list(asvs), list(samples), observation_metadata=metadata)


def write_hdf5(path, table):
    with biom_open(str(path), "w") as file:
        table.to_hdf5(file, "test")


def write_hdf5_20(path, table):
    """BIOM 2.0: the arrays lie beside the ids."""
    write_hdf5(path, table)
    with h5py.File(path, "r+") as file:
        for axis in ("sample", "observation"):
            for name in ("data", "indices", "indptr"):
                file.move(f"{axis}/matrix/{name}", f"{axis}/{name}")
            del file[f"{axis}/matrix"]


def write_json(path, table):
    path.write_text(table.to_json("test"))


def write_dense_json(path, table):
    axes = {"rows": table.ids("observation"), "columns": table.ids("sample")}
    document = {name: [{"id": text, "metadata": None} for text in ids] for name, ids in axes.items()}
    document |= {"matrix_type": "dense", "shape": list(table.shape), "data": table.matrix_data.toarray().tolist()}
    path.write_text(json.dumps(document, indent=1))


def write_tsv(path, table):
    path.write_text(table.to_tsv())


def write_tsv_gz(path, table):
    path.write_bytes(gzip.compress(table.to_tsv().encode()))


def write_qza(path, table, artifact_type="FeatureTable[Frequency]"):
    write_hdf5(path, table)
    content = path.read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("u/metadata.yaml", f"uuid: u\ntype: {artifact_type}\nformat: BIOMV210DirFmt\n")
        archive.writestr("u/data/feature-table.biom", content)


WRITERS = [write_hdf5, write_hdf5_20, write_json, write_dense_json, write_tsv, write_tsv_gz, write_qza]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "table.any"


def tsv(path, rows, header="#OTU ID\tS1\tS2"):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def assert_canonical(counts):
    assert counts.dtype == np.int64
    assert counts.has_sorted_indices
    assert (counts.data != 0).all()
    for row in range(counts.shape[0]):
        places = counts.indices[counts.indptr[row] : counts.indptr[row + 1]]
        assert (np.diff(places) > 0).all()


# ---- formats


@pytest.mark.parametrize("write", WRITERS)
def test_every_format_gives_the_same_table(path, write):
    write(path, make_biom())
    table = read_tables([path])
    assert (table.sample_ids, table.asv_ids, table.sequences) == (SAMPLES, SEQUENCES, SEQUENCES)
    np.testing.assert_array_equal(table.counts.toarray(), COUNTS)
    assert_canonical(table.counts)


@pytest.mark.parametrize("write", WRITERS)
@FIXTURES
@given(data=st.data())
def test_any_counts_come_back_as_they_were(path, write, data):
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    flat = data.draw(st.lists(st.integers(0, 3) | st.integers(0, 2**31), min_size=shape[0] * shape[1]))
    counts = np.array(flat[: shape[0] * shape[1]]).reshape(shape)
    write(path, make_biom(counts, [f"1.{row}0" for row in range(shape[0])], SEQUENCES[: shape[1]]))
    table = read_tables([path])
    np.testing.assert_array_equal(table.counts.toarray(), counts)
    assert table.sample_ids == tuple(f"1.{row}0" for row in range(shape[0]))
    np.testing.assert_array_equal(table.depth, counts.sum(1))
    assert_canonical(table.counts)


def test_objects_give_the_same_table_as_files(path):
    write_hdf5(path, make_biom())
    frame = pd.DataFrame(COUNTS, index=list(SAMPLES), columns=list(SEQUENCES))
    for source in (path, str(path), make_biom(), frame, frame.astype(float), frame.astype("Sparse[int]")):
        table = feature_table(source)
        assert (table.sample_ids, table.asv_ids) == (SAMPLES, SEQUENCES)
        np.testing.assert_array_equal(table.counts.toarray(), COUNTS)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# Constructed from biom file\n" + text,
        lambda text: "\ufeff" + text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text + "\n\n",
        lambda text: text.replace("#OTU ID", "feature-id"),
        lambda text: text.replace("\t2", "\t2.0").replace("\t0", "\t 0"),
        lambda text: (
            text.replace("S2", "S2\ttaxonomy").replace("2\n", "2\tk__Bacteria; p__x\n").replace("4\n", "4\t\n")
        ),
        lambda text: text.replace("S2", "S2\tConsensus Lineage").replace("2\n", "2\t1\n").replace("4\n", "4\t2\n"),
    ],
)
def test_spellings_of_a_tab_separated_table(path, change):
    path.write_bytes(change(f"#OTU ID\tS1\tS2\n{SEQUENCES[0]}\t0\t2\n{SEQUENCES[1]}\t3\t4\n").encode())
    table = read_tables([path])
    assert (table.sample_ids, table.asv_ids) == (("S1", "S2"), SEQUENCES[:2])
    assert table.counts.toarray().tolist() == [[0, 3], [2, 4]]


def test_json_cells_given_twice_are_summed(path):
    document = json.loads(make_biom().to_json("test"))
    document["data"].append([0, 0, 4])
    path.write_text(json.dumps(document))
    assert read_tables([path]).counts[0, 0] == COUNTS[0, 0] + 4


# ---- bad files


def broken_json(**changes):
    return json.dumps(json.loads(make_biom().to_json("test")) | changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"((a:1,b:2):3,c:4);", "neither BIOM"),
        (bytes(range(128, 256)), "neither BIOM .HDF5, JSON. nor tab-separated text in UTF-8"),
        (broken_json()[:200].encode(), "not a BIOM JSON table"),
        (b'{"a": 1}', "not a BIOM JSON table: rows"),
        (broken_json(matrix_type="full").encode(), "matrix_type"),
        (broken_json(shape=[3, 3]).encode(), "shape is 3 x 3, ids are 4 x 3"),
        (broken_json(data=[[0, 0]]).encode(), "not \\[ASV, sample, value\\]"),
        (broken_json(data=[[9, 0, 1]]).encode(), "outside the 4 x 3 cells"),
        (broken_json(data=[[0, -1, 1]]).encode(), "outside the 4 x 3 cells"),
        (broken_json(matrix_type="dense", data=[[1, 2, 3]]).encode(), "not 4 rows of 3"),
        (f"#OTU ID\tS1\tS2\n{SEQUENCES[0]}\t1\n".encode(), "line 2 has 2 cells, the header has 3"),
        (f"# x\n#OTU ID\tS1\tS2\n{SEQUENCES[0]}\t1\tmany\n".encode(), "line 3, sample S2: 'many' is not a number"),
        (f"#OTU ID\tS1\tS2\n{SEQUENCES[0]}\t\t1\n".encode(), "line 2, sample S1: '' is not a number"),
        (b"#OTU ID\tS1\tS2\n", "the table has no ASVs"),
        (f"#OTU ID\ttaxonomy\n{SEQUENCES[0]}\tk__Bacteria\n".encode(), "the table has no samples"),
    ],
)
def test_files_that_are_no_table(path, content, message):
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"table\.any.*{message}"):
        read_tables([path])


def test_no_file(path):
    with pytest.raises(InputError, match="no such file"):
        read_tables([path])
    with pytest.raises(InputError, match="--table"):
        read_tables([])


@pytest.mark.parametrize("write", [write_hdf5, write_qza])
def test_truncated_files(path, write):
    write(path, make_biom())
    whole = path.read_bytes()
    for size in range(9, len(whole) - 10, len(whole) // 20):
        path.write_bytes(whole[:size])
        with pytest.raises(InputError, match="damaged or cut short"):
            read_tables([path])


def test_hdf5_of_another_kind(path):
    with h5py.File(path, "w") as file:
        file["matrix"] = np.zeros((2, 2))
    with pytest.raises(InputError, match="an HDF5 file, but not BIOM"):
        read_tables([path])


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sample/matrix/indptr", [0, 2, 2]),
        ("sample/matrix/indptr", [0, 4, 2, 5]),
        ("sample/matrix/indptr", [0, 2, 2, 9]),
        ("sample/matrix/indices", [0, 2, 1, 2, 99]),
        ("sample/matrix/indices", [0, 2, 1, 2, -1]),
        ("sample/matrix/data", [1.0, 2.0]),
        ("observation/ids", [1, 2, 3, 4]),
        ("sample/ids", [b"a", b"b", b"\xff"]),
    ],
)
def test_hdf5_that_contradicts_itself(path, name, values):
    write_hdf5(path, make_biom())
    with h5py.File(path, "r+") as file:
        del file[name]
        file[name] = values
    with pytest.raises(InputError, match=r"does not fit its 3 sample and 4 ASV ids|not text|not UTF-8"):
        read_tables([path])


def test_artifact_of_another_type(path):
    write_qza(path, make_biom(), "FeatureTable[RelativeFrequency]")
    with pytest.raises(InputError, match=r"FeatureTable\[RelativeFrequency\], but FeatureTable\[Frequency\] is wanted"):
        read_tables([path])


# ---- bad cells and ids


@pytest.mark.parametrize("write", [write_hdf5, write_tsv, write_dense_json])
@pytest.mark.parametrize(
    ("value", "message"),
    [(-1, "-1 is negative"), (0.25, "0.25 is not a whole"), (np.nan, "nan"), (np.inf, "inf"), (1e17, "large")],
)
def test_cells_that_are_no_counts_are_named(path, write, value, message):
    counts = COUNTS.astype(float)
    counts[2, 1] = value
    write(path, make_biom(counts))
    with pytest.raises(InputError, match=rf"sample S3, ASV {SEQUENCES[1]}: .*{message}"):
        read_tables([path])


def test_the_first_wrong_cell_is_named_also_with_empty_samples():
    counts = np.array([[0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 2.5, 0.5]])
    with pytest.raises(InputError, match=rf"sample S3, ASV {SEQUENCES[2]}: 2.5"):
        feature_table(make_biom(counts))


def test_repeated_and_empty_ids(path):
    with pytest.raises(InputError, match="sample ids given more than once: S1;"):
        read_tables([tsv(path, [f"{SEQUENCES[0]}\t1\t2"], "#OTU ID\tS1\tS1")])
    with pytest.raises(InputError, match=rf"ASV ids given more than once: {SEQUENCES[0]};"):
        read_tables([tsv(path, [f"{SEQUENCES[0]}\t1\t2"] * 2)])
    with pytest.raises(InputError, match="ASV 1 of 1 has an empty id"):
        read_tables([tsv(path, ["\t1\t2"])])


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame([[1]], columns=[SEQUENCES[0]]), "index .sample ids. must be text"),
        (pd.DataFrame([[1]], index=["S1"]), "columns .ASV ids. must be text"),
        (pd.DataFrame([["many"]], index=["S1"], columns=[SEQUENCES[0]]), "not numeric"),
        (pd.DataFrame([[None], [1]], index=["S1", "S2"], columns=[SEQUENCES[0]], dtype="Int64"), "sample S1.*nan"),
        (pd.DataFrame([[1, 1]], index=["S1"], columns=[SEQUENCES[0]] * 2), "more than once"),
        (pd.DataFrame(index=["S1"]), "no ASVs"),
    ],
)
def test_frames_that_are_no_table(frame, message):
    with pytest.raises(InputError, match=message):
        feature_table(frame)


# ---- sequences of ASVs


def test_all_zero_samples_stay():
    table = feature_table(make_biom())
    assert table.depth.tolist() == [4, 0, 14]
    assert table.depth.dtype == np.int64


def test_lower_case_and_rna_are_the_same_sequence(caplog):
    names = [SEQUENCES[0].lower(), SEQUENCES[0].replace("T", "U"), SEQUENCES[0], SEQUENCES[1]]
    with caplog.at_level(logging.INFO):
        table = feature_table(make_biom(asvs=names))
    assert table.asv_ids == (names[0], names[3])
    assert table.sequences == SEQUENCES[:2]
    assert table.counts.toarray().tolist() == [[4, 0], [0, 0], [9, 5]]
    assert "repeat the sequence of another in their table: 2 " in caplog.text


def test_rep_seqs_go_before_ids_and_ids_fill_in():
    names = ["a", SEQUENCES[1], SEQUENCES[2], "d"]
    given_sequences = {"a": "acgt", SEQUENCES[1]: "TTTT", "d": "GGGG", "other": "CCCC"}
    table = feature_table(make_biom(asvs=names), given_sequences)
    assert table.asv_ids == tuple(names)
    assert table.sequences == ("ACGT", "TTTT", SEQUENCES[2], "GGGG")


@pytest.mark.parametrize("name", ["TACG", "A", "ACGTACGTACGTACGTACG", hashlib.md5(b"ACGT").hexdigest()])
def test_names_are_not_taken_for_sequences(name):
    with pytest.raises(InputError, match=rf"1 of 4 ASVs \(5 of 18 reads\) without a sequence: {name}; .*--rep-seqs"):
        feature_table(make_biom(asvs=[*SEQUENCES[:3], name]))


def test_missing_sequences_stop_or_are_dropped_with_what_it_loses(path, tmp_path, caplog):
    write_tsv(path, make_biom(asvs="abcd"))
    fasta = tmp_path / "seqs.fasta"
    fasta.write_text(">b\nACGT\n>d\nTTTT\n>unused\nNOT-DNA\n")
    with pytest.raises(InputError, match=r"2 of 4 ASVs \(6 of 18 reads\) .*: a, c; .*--drop-missing-sequences"):
        read_tables([path], fasta)
    table = read_tables([path], fasta, drop_missing_sequences=True)
    assert "2 of 4 ASVs (6 of 18 reads)" in caplog.text
    assert (table.asv_ids, table.sequences) == (("b", "d"), ("ACGT", "TTTT"))
    assert table.counts.toarray().tolist() == [[0, 0], [0, 0], [7, 5]]
    assert table.sample_ids == SAMPLES


@pytest.mark.parametrize("drop", [False, True])
def test_no_sequence_at_all_is_an_error_also_when_dropping(drop):
    with pytest.raises(InputError, match=r"4 of 4 ASVs .* --rep-seqs"):
        feature_table(make_biom(asvs="abcd"), drop_missing_sequences=drop)
    with pytest.raises(InputError, match=r"4 of 4 ASVs .* --rep-seqs"):
        feature_table(make_biom(asvs="abcd"), {"e": "ACGT"}, drop_missing_sequences=drop)


def test_transposed_table_is_recognized():
    with pytest.raises(InputError, match="transposed"):
        feature_table(pd.DataFrame(COUNTS.T, index=list(SEQUENCES), columns=list(SAMPLES)))


@pytest.mark.parametrize("drop", [False, True])
@pytest.mark.parametrize("letter", ["X", "-", "."])
def test_wrong_letters_name_the_asv(drop, letter):
    wrong = SEQUENCES[3][:10] + letter + SEQUENCES[3][11:]
    with pytest.raises(InputError, match=rf"ASV {wrong} has '{letter}' at position 11"):
        feature_table(make_biom(asvs=[*SEQUENCES[:3], wrong]), drop_missing_sequences=drop)
    with pytest.raises(InputError, match=rf"ASV d has '{letter}' at position 11"):
        feature_table(make_biom(asvs=[*SEQUENCES[:3], "d"]), {"d": wrong}, drop_missing_sequences=drop)


# ---- merging


def reference_merge(parts):
    """Sums by (sample, sequence) in plain dictionaries."""
    cells = {}
    for counts, samples, asvs in parts:
        for row, sample in enumerate(samples):
            for column, asv in enumerate(asvs):
                key = sample, asv.upper()
                cells[key] = cells.get(key, 0) + int(counts[row, column])
    return cells


parts = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["S1", "S2", "S3", "S4"]), min_size=1, unique=True),
        st.lists(st.sampled_from([*SEQUENCES, *map(str.lower, SEQUENCES)]), min_size=1, unique=True),
        st.integers(0, 2**32),
    ),
    min_size=1,
    max_size=3,
)


@FIXTURES
@given(parts)
def test_merging_sums_by_sample_and_sequence(tmp_path, drawn):
    made = [(np.random.default_rng(s).integers(0, 3, (len(rows), len(cols))), rows, cols) for rows, cols, s in drawn]
    paths = [tmp_path / f"{number}.biom" for number in range(len(made))]
    for path, part in zip(paths, made, strict=True):
        write_hdf5(path, make_biom(*part))
    table = read_tables(paths)
    dense = table.counts.toarray()
    expected = reference_merge(made)
    rows, columns = dict.fromkeys(s for s, _ in expected), dict.fromkeys(a for _, a in expected)
    assert (table.sample_ids, table.sequences) == (tuple(rows), tuple(columns))
    assert dense.tolist() == [[expected.get((row, column), 0) for column in columns] for row in rows]
    assert_canonical(table.counts)
    first_id = {asv.upper(): asv for _, _, asvs in reversed(made) for asv in reversed(asvs)}
    assert table.asv_ids == tuple(first_id[column] for column in columns)


def test_merging_logs_shared_samples(tmp_path, caplog):
    first = tsv(tmp_path / "1.tsv", [f"{SEQUENCES[0]}\t1\t2"])
    second = tsv(tmp_path / "2.tsv", [f"{SEQUENCES[1]}A\t1\t2"], "#OTU ID\tS2\tS3")
    with caplog.at_level(logging.INFO):
        table = read_tables([first, second])
    assert table.counts.toarray().tolist() == [[1, 0], [2, 1], [0, 2]]
    assert "merged 2 tables: 3 samples, 2 ASVs; samples that repeat the id of an earlier table: 1 " in caplog.text


# ---- FeatureTable


@given(st.permutations(range(3)), st.permutations(range(4)), st.integers(1, 3), st.integers(1, 4))
def test_selections_keep_the_order_given(rows, columns, n_rows, n_columns):
    table = feature_table(make_biom())
    rows, columns = np.array(rows[:n_rows]), np.array(columns[:n_columns])
    chosen = table.select_samples(rows).select_asvs(columns)
    np.testing.assert_array_equal(chosen.counts.toarray(), COUNTS[rows][:, columns])
    assert chosen.sample_ids == tuple(SAMPLES[row] for row in rows)
    assert chosen.asv_ids == chosen.sequences == tuple(SEQUENCES[column] for column in columns)
    assert (chosen.n_samples, chosen.n_asvs) == (len(rows), len(columns))
    assert_canonical(chosen.counts)


def test_canonical_leaves_its_input_alone():
    raw = sparse.csr_array((np.array([1.0, 2.0, 0.0]), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 2))
    assert canonical(raw).toarray().tolist() == [[0, 3]]
    assert_canonical(canonical(raw))
    assert raw.nnz == 3


def test_ids_must_fit_the_counts():
    with pytest.raises(ValueError, match="do not fit"):
        FeatureTable(canonical(sparse.csr_array(COUNTS)), SAMPLES, SEQUENCES[:3], SEQUENCES[:3])


# ---- real data


def test_real_tables_agree_with_the_biom_package(real_data):
    for name in ("tiny_moving_pictures", "ecam"):
        path = real_data / name / "table.biom"
        table, reference = read_tables([path]), biom.load_table(str(path))
        assert table.sample_ids == tuple(reference.ids("sample"))
        assert table.asv_ids == tuple(reference.ids("observation"))
        assert abs(table.counts - reference.matrix_data.T).sum() == 0


def test_large_real_table_loads_in_seconds(real_data):
    table = read_tables([real_data / "corpus_v4_90" / "table.biom"])
    assert (table.n_samples, table.n_asvs, table.counts.nnz) == (7535, 26934, 1295959)


def test_tutorial_with_missing_sequences(real_data, caplog):
    folder = real_data / "qiime2/moving_pictures_tutorial"
    with pytest.raises(InputError, match=r"18 of 759 ASVs \(90 of 157,298 reads\) .*a6e9c3caf38d8be5744751bea41aa62f"):
        read_tables([folder / "table.qza"], folder / "rep-seqs.fasta")
    table = read_tables([folder / "table.qza"], folder / "rep-seqs.fasta", drop_missing_sequences=True)
    assert "18 of 759 ASVs (90 of 157,298 reads)" in caplog.text
    assert (table.n_samples, table.n_asvs, int(table.depth.sum())) == (34, 741, 157_208)
    sequences = read_fasta(folder / "rep-seqs.fasta")
    assert all(hashlib.md5(s.encode()).hexdigest() == i for i, s in zip(table.asv_ids, table.sequences, strict=True))
    assert set(table.asv_ids) <= set(sequences)


def test_one_table_in_two_halves_merges_to_itself(real_data, tmp_path):
    whole = read_tables([real_data / "tiny_moving_pictures" / "table.biom"])
    halves = []
    for start in (0, 17):
        half = whole.select_samples(np.arange(start, start + 17))
        present = half.select_asvs(np.flatnonzero(half.counts.sum(axis=0))[::-1])
        halves.append(tmp_path / f"{start}.biom")
        write_hdf5(halves[-1], make_biom(present.counts.toarray(), present.sample_ids, present.asv_ids))
    merged = read_tables(halves)
    column_of = {sequence: column for column, sequence in enumerate(merged.sequences)}
    again = merged.select_asvs(np.array([column_of[sequence] for sequence in whole.sequences]))
    assert again.sample_ids == whole.sample_ids
    assert abs(again.counts - whole.counts).sum() == 0
