"""Features of samples for learners that want dense columns: prevalent ASVs as log-ratios, clades as log proportions.

Which columns are looked at is learned from training samples; the values of a sample are its own.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from aam.data.distances.branches import distinct_branches
from aam.data.study import Study
from aam.learners.base import Floats, Rows

PSEUDO_PROPORTION = 1e-4
"""What is added to a fraction of reads before its logarithm: about a read in ten thousand."""


def prevalent(rows: sparse.csr_array, least: float) -> NDArray[np.int64]:
    """Columns that are above zero in at least this fraction of the rows, ascending."""
    held = np.bincount(rows.indices, minlength=rows.shape[1])
    return np.flatnonzero((held > 0) & (held >= least * rows.shape[0]))


def prevalent_asvs(study: Study, rows: Rows, least: float) -> NDArray[np.int64]:
    """ASVs that at least this fraction of some samples holds; all that they hold, where none is so common."""
    columns = prevalent(study.table.counts[rows], least)
    return columns if len(columns) else prevalent(study.table.counts[rows], 0)


def prevalent_branches(study: Study, rows: Rows, least: float) -> NDArray[np.int64]:
    """Branches that at least this fraction of some samples has reads below; of those above the same ASVs, one."""
    held = np.bincount(study.table.counts[rows].indices, minlength=study.table.n_asvs) > 0
    distinct = distinct_branches(study.require_tree(), held)
    return np.intersect1d(distinct, prevalent(study.branch_proportions[rows], least))


def log_ratios_of_counts(study: Study, rows: Rows, columns: NDArray[np.int64]) -> Floats:
    """Centred log-ratios of ASVs, with one read added to each count (Aitchison 1986): [n, columns]."""
    return centred(np.log1p(study.table.counts[rows][:, columns].toarray().astype(np.float64)))


def log_ratios_of_proportions(study: Study, rows: Rows, columns: NDArray[np.int64]) -> Floats:
    """Centred log-ratios of ASVs, with `PSEUDO_PROPORTION` added to each fraction of the reads: [n, columns]."""
    return centred(np.log(study.asv_proportions[rows][:, columns].toarray() + PSEUDO_PROPORTION))


def log_clades(study: Study, rows: Rows, branches: NDArray[np.int64]) -> Floats:
    """Logarithm of the fraction of reads below branches, `PSEUDO_PROPORTION` added: [n, branches]."""
    logs: Floats = np.log(study.branch_proportions[rows][:, branches].toarray() + PSEUDO_PROPORTION)
    return logs


def centred(logs: Floats) -> Floats:
    """Subtract the mean of each row."""
    ratios: Floats = logs - logs.mean(axis=1, keepdims=True)
    return ratios
