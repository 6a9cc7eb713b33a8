"""What Python users hold - tables, trees, metadata and targets, in memory or in files - as the library reads it."""

from __future__ import annotations  # what annotations alone name is not imported

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import biom
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.config import RootChoice
from aam.data.distances.phylogeny import AS_WRITTEN, LengthChoices, Phylogeny, parse_newick, read_phylogeny
from aam.data.files.fasta import read_fasta
from aam.data.files.metadata import read_metadata
from aam.data.files.table_objects import is_anndata, sample_ids_of
from aam.data.files.tables import FeatureTable
from aam.data.labels.taxonomy import read_taxonomy, taxonomy_of_frame
from aam.errors import InputError, first_ids

if TYPE_CHECKING:
    from anndata import AnnData
    from skbio import TreeNode

TableLike: TypeAlias = "biom.Table | pd.DataFrame | AnnData | FeatureTable | Path | str"
"""A `biom.Table`, a DataFrame of counts (samples x ASVs, ids in index and columns), an AnnData, what `aam.read` gives,
or a path."""
Sequences: TypeAlias = Mapping[str, str] | Path | str
"""DNA by ASV id, or the path of a FASTA file."""
TreeLike: TypeAlias = "TreeNode | Path | str"
"""A `skbio.TreeNode`, a path, or a Newick string."""
MetadataLike: TypeAlias = pd.DataFrame | Path | str
"""A DataFrame by sample id, or a path."""
TaxonomyLike: TypeAlias = pd.DataFrame | Path | str
"""A DataFrame by ASV id with a column ``Taxon``, or a path."""
TargetLike: TypeAlias = pd.Series | pd.DataFrame | Sequence[Any] | NDArray[Any]
"""A Series by sample id, a DataFrame of several numbers; or values in the order of the rows of a table in memory."""

UNNAMED = "target"


def as_phylogeny(tree: TreeLike, lengths: LengthChoices = AS_WRITTEN, root: RootChoice = "error") -> Phylogeny:
    """Read a tree; arguments as for `parse_newick`.

    Raises:
        InputError: the file or the text holds no such tree.
    """
    if not isinstance(tree, Path | str):
        from skbio import TreeNode

        if isinstance(tree, TreeNode):
            return parse_newick(_newick(tree), lengths, "the TreeNode", root)
    _check_path(tree, "tree", "a skbio.TreeNode, a path, or a Newick text")
    if isinstance(tree, str) and (tree.lstrip().startswith("(") or tree.rstrip().endswith(";")):
        return parse_newick(tree, lengths, "the Newick string", root)
    return read_phylogeny(tree, lengths, root)


def _newick(tree: TreeNode) -> str:
    """Write a tree with all tip names quoted: scikit-bio's own writer turns blanks in names into underscores."""
    pieces: list[str] = []
    ahead: list[TreeNode | str] = [tree]
    while ahead:
        item = ahead.pop()
        if isinstance(item, str):
            pieces.append(item)
            continue
        length = "" if item.length is None else f":{float(item.length)!r}"
        if not item.children:
            name = (item.name or "").replace("'", "''")
            pieces.append(f"'{name}'{length}")
            continue
        pieces.append("(")
        ahead.append(")" + length)
        for i, child in enumerate(reversed(item.children)):
            ahead += [",", child] if i else [child]
    return "".join(pieces) + ";"


def as_metadata(metadata: MetadataLike | None) -> pd.DataFrame | None:
    """Take a DataFrame as it is, or read a file by the rules of QIIME 2.

    Raises:
        InputError: the file is wrong, or the index does not hold one text id for each sample.
    """
    if metadata is None:
        return None
    if not isinstance(metadata, pd.DataFrame):
        _check_path(metadata, "metadata", "a DataFrame by sample id, or a path")
        return read_metadata(metadata)
    _check_sample_ids(metadata.index, "metadata")
    return metadata


def metadata_of(metadata: MetadataLike | None, table: TableLike) -> pd.DataFrame | None:
    """The metadata that goes with a table: what is given, else the `obs` of an AnnData.

    Raises:
        InputError: as `as_metadata`.
    """
    return as_metadata(table.obs if metadata is None and is_anndata(table) else metadata)


def as_sequences(sequences: Sequences | None) -> dict[str, str]:
    """DNA by ASV id, of a mapping or a file.

    Raises:
        InputError: it is neither, or an id or a sequence is no text, or the file is wrong.
    """
    if sequences is None:
        return {}
    if not isinstance(sequences, Mapping | pd.Series):
        _check_path(sequences, "sequences", "a dict of DNA by ASV id, or the path of a FASTA file")
        return read_fasta(sequences)
    wrong = [name for name, dna in sequences.items() if not (isinstance(name, str) and isinstance(dna, str))]
    if wrong:
        raise InputError(f"sequences must be DNA by ASV id, both text; not so: {first_ids(wrong)}")
    return dict(sequences.items())


def as_taxonomy(taxonomy: TaxonomyLike) -> dict[str, str]:
    """Take lineages by ASV id from a DataFrame, or read a file.

    Raises:
        InputError: the file or the DataFrame is not as QIIME 2 has it.
    """
    if isinstance(taxonomy, pd.DataFrame):
        return taxonomy_of_frame(taxonomy)
    _check_path(taxonomy, "taxonomy", "a DataFrame by ASV id, or a path")
    return read_taxonomy(taxonomy)


def as_target(y: TargetLike, table: TableLike) -> pd.DataFrame:
    """Give every target its sample id.

    Args:
        y: a Series by sample id, in any order; a DataFrame with a column for each of several numbers; or values in the
            order of the rows of a table in memory.
        table: what `y` belongs to.

    Returns:
        Values by sample id; a column for each target, named as in `y`, or ``target``.

    Raises:
        InputError: there are no sample ids, or they are repeated or not text, or the lengths differ.
    """
    if isinstance(y, pd.Series):
        _check_sample_ids(y.index, "y")
        return y.to_frame(UNNAMED if y.name is None else str(y.name))
    if isinstance(y, pd.DataFrame):
        _check_sample_ids(y.index, "y")
        return y.set_axis([str(name) for name in y.columns], axis=1)
    names = table.sample_ids if isinstance(table, FeatureTable) else sample_ids_of(table)
    if names is None or np.ndim(y) != 1:
        raise InputError(
            "y must be a pandas Series whose index holds sample ids; plain values are taken only with a table in "
            "memory, one for each of its rows"
        )
    if len(y) != len(names):
        raise InputError(f"y has {len(y)} values and the table {len(names)} samples; give a pandas Series by sample id")
    index: pd.Index[Any] = pd.Index(tuple(names), dtype=object)
    _check_sample_ids(index, "the table")
    return pd.DataFrame({UNNAMED: list(y)}, index=index)


def with_target(metadata: pd.DataFrame | None, target: pd.DataFrame) -> pd.DataFrame:
    """Join the targets to the metadata by sample id; samples stay that have both."""
    if metadata is None:
        return target
    return metadata.drop(columns=target.columns, errors="ignore").join(target, how="inner")


def _check_path(given: object, name: str, wanted: str) -> None:
    """Refuse what is no path, such as the letters of one that scikit-learn takes for a value of each sample."""
    if not isinstance(given, Path | str):
        raise InputError(
            f"{name}: a {type(given).__name__}; give {wanted} (in params of cross-validation as a pathlib.Path)"
        )


def _check_sample_ids(index: pd.Index[Any], what: str) -> None:
    wrong = [name for name in index if not isinstance(name, str)]
    if wrong:
        raise InputError(
            f"the index of {what} must hold sample ids as text; these are not: {first_ids(wrong)}. Set the index to "
            "the sample ids (and read them with dtype=str, so that 007 stays 007)"
        )
    if not index.is_unique:
        raise InputError(f"the index of {what} repeats samples {first_ids(index[index.duplicated()].unique())}")
