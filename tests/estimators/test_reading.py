"""`aam.read`: tables in memory, by their ids."""

import biom
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import aam

IDS = ["a1", "a2", "a3"]
DNA = {"a1": "ACGT" * 6, "a2": "CCGT" * 6, "a3": "GCGT" * 6}
COUNTS = np.array([[1, 0, 2], [0, 3, 0], [4, 5, 6], [0, 0, 7]])
SAMPLES = ["s1", "s2", "s3", "s4"]


def _read(counts=COUNTS, **more):
    return aam.read(counts, **{"sample_ids": SAMPLES, "asv_ids": IDS, "sequences": DNA, **more})


@pytest.mark.parametrize(
    "kind", [np.array, sparse.csr_matrix, sparse.csc_array, sparse.coo_array, lambda counts: counts.astype(np.float32)]
)
def test_arrays_with_ids(kind):
    table = _read(kind(COUNTS))
    np.testing.assert_array_equal(table.counts.toarray(), COUNTS)
    assert (table.sample_ids, table.asv_ids, table.sequences) == (tuple(SAMPLES), tuple(IDS), tuple(DNA.values()))


def test_tables_with_ids_of_their_own(tmp_path):
    frame = pd.DataFrame(COUNTS, index=SAMPLES, columns=IDS)
    frame.T.rename_axis("#OTU ID").to_csv(tmp_path / "table.tsv", sep="\t")
    fasta = tmp_path / "rep-seqs.fasta"
    fasta.write_text("".join(f">{name}\n{dna}\n" for name, dna in DNA.items()))
    for source in (frame, biom.Table(COUNTS.T, IDS, SAMPLES), tmp_path / "table.tsv"):
        for sequences in (DNA, pd.Series(DNA), fasta, str(fasta)):
            table = aam.read(source, sequences=sequences)
            np.testing.assert_array_equal(table.counts.toarray(), COUNTS)
            assert (table.sample_ids, table.sequences) == (tuple(SAMPLES), tuple(DNA.values()))
    assert aam.read(table) is table


def test_rows_as_scikit_learn_takes_them():
    table = _read()
    mask = np.array([False, True, True, False])
    for rows in ([1, 2], np.array([1, 2]), mask, slice(1, 3), (np.array([1, 2]), ...), (mask, slice(None))):
        some = table[rows]
        assert some.sample_ids == ("s2", "s3")
        assert some.shape == (2, 3)
        np.testing.assert_array_equal(some.counts.toarray(), COUNTS[1:3])
    assert table[0].sample_ids == ("s1",)


WRONG = [
    (lambda: _read(sample_ids=None), "sample_ids and asv_ids belong to an array, which needs both"),
    (lambda: _read(asv_ids=None), "sample_ids and asv_ids belong to an array, which needs both"),
    (lambda: aam.read(pd.DataFrame(COUNTS), sample_ids=SAMPLES), "other tables have their own"),
    (lambda: _read(layer="counts"), "only an AnnData has layers"),
    (lambda: _read(sample_ids=SAMPLES[1:]), "4 x 3 cells, but 3 sample ids and 3 ASV ids"),
    (lambda: _read(COUNTS.T), "3 x 4 cells, but 4 sample ids and 3 ASV ids"),
    (lambda: _read(sample_ids=[1, 2, 3, 4]), "sample ids must be text; these are not: 1, 2, 3, 4"),
    (lambda: _read(asv_ids="abc"), "ASV ids: one text, 'abc'; give a list of ids"),
    (lambda: _read(sample_ids=["s1", "s1", "s2", "s3"]), "sample ids given more than once: s1"),
    (lambda: _read(COUNTS[0]), "1 dimensions; counts are samples x ASVs"),
    (lambda: _read(COUNTS * 1j), "values of the type complex128; give counts"),
    (lambda: _read(COUNTS.astype(str)), "give counts of reads"),
    (lambda: _read(COUNTS.astype(object)), "values of the type object; give counts"),
    (lambda: _read(COUNTS / 3), "not a whole number"),
    (lambda: _read(-COUNTS), "negative"),
    (lambda: _read(np.where(COUNTS == 0, np.nan, COUNTS)), "nan is not a number of reads"),
    (
        lambda: _read(sequences=None),
        "without a sequence: .* give the FASTA file that belongs to this table with sequences",
    ),
    (
        lambda: _read(sequences={"a1": DNA["a1"]}),
        r'with sequences, or drop them with options=\{"drop_missing_sequences"',
    ),
    (lambda: _read(sequences=list(DNA.values())), "sequences: a list; give a dict of DNA by ASV id, or the path"),
    (lambda: _read(sequences={"a1": 3}), "sequences must be DNA by ASV id, both text; not so: a1"),
    (lambda: _read(sequences="nowhere.fasta"), r"nowhere\.fasta"),
    (lambda: aam.read(3), "a int is no feature table; give a biom.Table, a DataFrame"),
    (lambda: aam.read(None), "a NoneType is no feature table"),
    (lambda: aam.read([[1, 2]]), "a list is no feature table"),
    (lambda: aam.read(pd.DataFrame(COUNTS * 1j, SAMPLES, IDS)), "not numeric: a1, a2, a3"),
    (lambda: aam.SampleRegressor().fit(COUNTS, [1, 2, 3, 4]), "y must be a pandas Series"),
    (lambda: aam.SampleRegressor().fit(COUNTS, pd.Series([1.0], ["s1"])), r"a ndarray has no ids.*aam\.read\(counts, "),
    (lambda: aam.SampleEncoder(encoder_type="taxonomy").fit(COUNTS, taxonomy="t"), r"a ndarray has no ids"),
    (
        lambda: aam.SampleRegressor(learner="linear").fit(sparse.csr_matrix(COUNTS), pd.Series([1.0], ["s1"])),
        r"a csr_matrix has no ids.*aam\.read\(counts, sample_ids=",
    ),
]


@pytest.mark.parametrize(("use", "said"), WRONG)
def test_wrong_tables_are_one_message(use, said):
    with pytest.raises(aam.InputError, match=said) as caught:
        use()
    assert "--" not in str(caught.value)
