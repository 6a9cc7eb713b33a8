"""`aam.read`: one table for the estimators, whatever holds the counts."""

from collections.abc import Iterable

from aam.data.files.table_objects import ArrayLike, from_anndata, is_anndata, is_array, own_sequences, raw_of_array
from aam.data.files.tables import FeatureTable, feature_table, with_sequences
from aam.errors import InputError
from aam.estimators.inputs import Sequences, TableLike, as_sequences


def read(
    source: "TableLike | ArrayLike",
    *,
    sequences: Sequences | None = None,
    layer: str | None = None,
    sample_ids: Iterable[str] | None = None,
    asv_ids: Iterable[str] | None = None,
    drop_missing_sequences: bool = False,
) -> FeatureTable:
    """Read a feature table with the sequence of every ASV; estimators take it, and so does `cross_val_score`.

    Args:
        source: an AnnData (counts in `X` or in a layer, sample ids in `obs_names`, ASV ids in `var_names`, DNA in the
            column ``sequence`` of `var` where the ids are not sequences), a `biom.Table`, a DataFrame of samples x
            ASVs, a path, or an array or SciPy matrix of samples x ASVs.
        sequences: DNA by ASV id, or the path of a FASTA file; goes before what an AnnData holds.
        layer: the layer of an AnnData that holds the counts; None: `X`.
        sample_ids: ids of the rows of an array.
        asv_ids: ids of the columns of an array.
        drop_missing_sequences: drop ASVs without a sequence and log the loss, instead of raising.

    Returns:
        Counts (`counts`, sparse, [samples, ASVs]), `sample_ids`, `asv_ids` and `sequences`. ASVs of the same sequence
        are one, with the sum of their counts. ``table[rows]`` chooses samples.

    Raises:
        InputError: ids or sequences are missing, or there are some where the table has its own; a cell is no count.
    """
    array, counts_of = is_array(source), is_anndata(source)
    if array != (sample_ids is not None) or array != (asv_ids is not None):
        raise InputError("sample_ids and asv_ids belong to an array, which needs both; other tables have their own")
    if layer is not None and not counts_of:
        raise InputError(f"layer {layer!r}: only an AnnData has layers")
    dna = as_sequences(sequences)
    if is_array(source) and sample_ids is not None and asv_ids is not None:
        return with_sequences(raw_of_array(source, sample_ids, asv_ids), dna, drop_missing_sequences)
    if is_anndata(source):
        return with_sequences(from_anndata(source, layer), own_sequences(source) | dna, drop_missing_sequences)
    return feature_table(source, dna, drop_missing_sequences)
