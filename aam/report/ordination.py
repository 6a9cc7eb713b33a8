"""Samples as points: principal coordinates of their UniFrac distances, and how well two sets of distances agree.

Shape: n samples.
"""

import warnings
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import procrustes
from scipy.spatial.distance import pdist, squareform
from skbio.stats.distance import mantel
from skbio.stats.ordination import pcoa

from aam.config import UnifracConfig
from aam.data.distances.unifrac import StudyTree, cross_distances, distances
from aam.data.files.counts import Counts
from aam.data.leakage.group_evidence import bray_curtis
from aam.data.sampling.seeded import derived_seed, generator
from aam.data.study import Study
from aam.evaluation.intervals import Floats

MOST_SAMPLES: Final = 1000
"""Samples of an ordination, or beside which neighbours are looked for; of more, a seeded sample."""
PERMUTATIONS: Final = 999
BLOCK: Final = 250
"""Samples whose branches are in memory at a time."""


@dataclass(frozen=True, eq=False)
class Ordination:
    """Samples on their first two principal coordinates."""

    points: Floats
    """[n, 2]."""
    explained: tuple[float, float]
    """Fraction of the variation along each."""


def ordinate(matrix: Floats) -> Ordination | None:
    """Principal coordinates (Gower 1966) by scikit-bio; None where the samples do not differ in two ways.

    Args:
        matrix: distances [n, n].
    """
    if len(matrix) < 3 or not matrix.any():
        return None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"The result contains negative eigenvalues")  # UniFrac is no Euclid
        found = pcoa(matrix, dimensions=2, warn_neg_eigval=False, output_format="numpy")
    points = np.asarray(found.samples, np.float64)
    explained = np.asarray(found.proportion_explained, np.float64)
    if points.shape[1] < 2 or not np.isfinite(points).all():
        return None
    return Ordination(points[:, :2], (float(explained[0]), float(explained[1])))


@dataclass(frozen=True)
class Agreement:
    """How well predicted distances are the true ones."""

    mantel: float
    """Pearson's r of the distances (Mantel 1967)."""
    mantel_p: float
    procrustes: float
    """Correlation of the first two coordinates after turning and scaling (Peres-Neto & Jackson 2001)."""
    procrustes_p: float


def agreement(true: Floats, predicted: Floats, one: Ordination, other: Ordination, seed: int) -> Agreement | None:
    """Compare distances [n, n] and their ordinations; None where all distances are the same.

    p values come of 999 permutations of the samples.
    """
    if min(np.ptp(squareform(true, checks=False)), np.ptp(squareform(predicted, checks=False))) == 0:
        return None
    r, p, _ = mantel(true, predicted, permutations=PERMUTATIONS, seed=derived_seed(seed, "mantel", bits=32))
    if min(pdist(one.points).max(), pdist(other.points).max()) == 0:
        return None
    value = _correlation(one.points, other.points)
    source = generator(seed, "procrustes")
    drawn = [_correlation(one.points, other.points[source.permutation(len(true))]) for _ in range(PERMUTATIONS)]
    times = sum(each >= value for each in drawn)
    return Agreement(float(r), float(p), value, (times + 1) / (PERMUTATIONS + 1))


def _correlation(one: Floats, other: Floats) -> float:
    return float(np.sqrt(max(0.0, 1 - procrustes(one, other)[2])))


@dataclass(frozen=True, eq=False)
class Compared:
    """Distances between samples of a study, and of which kind they are."""

    name: str
    rows: NDArray[np.int64]
    """Samples, rows of the study's table."""
    of: int
    """Samples that there are."""
    matrix: Floats
    """[n, n]."""

    @property
    def told(self) -> str:
        """Which samples these are, where they are not all; else nothing."""
        return "" if len(self.rows) == self.of else f"a seeded sample of {len(self.rows):,} of {self.of:,} samples"


def compare(study: Study, config: UnifracConfig, must: NDArray[np.int64] | None = None) -> Compared:
    """Distances between samples: UniFrac where the study has a tree, else of a given matrix, else Bray-Curtis.

    Args:
        study: the samples.
        config: which UniFrac.
        must: rows that are to be among them, where they are too many.
    """
    total = study.table.n_samples
    rows = np.arange(total)
    if total > MOST_SAMPLES:
        first = np.zeros(0, np.int64) if must is None else np.unique(must)
        others = np.setdiff1d(rows, first)
        drawn = generator(total, "ordination").choice(others, MOST_SAMPLES - len(first), replace=False)
        rows = np.sort(np.concatenate([first, drawn]))
    name, matrix = distances_between(study, rows, config)
    return Compared(name, rows, total, matrix)


def distances_between(study: Study, rows: NDArray[np.int64], config: UnifracConfig) -> tuple[str, Floats]:
    """Distances of some samples, with their name: see `compare`."""
    if study.matrix is not None:
        places = study.matrix.index([study.table.sample_ids[row] for row in rows])
        return f"{spelled_metric(config)} of the given matrix", study.matrix.block(places, places).numpy()
    if study.tree is not None:
        return spelled_metric(config), _unifrac(study.tree, study.table.counts[rows], config)
    return "Bray-Curtis distance (without a tree)", bray_curtis(study.table.counts[rows])


def _unifrac(tree: StudyTree, counts: Counts, config: UnifracConfig) -> Floats:
    """UniFrac [n, n], some pairs at a time: memory does not grow with all the branches above all the samples."""
    count = counts.shape[0]
    matrix = np.zeros((count, count))
    starts = range(0, count, BLOCK)
    for first in starts:
        rows = slice(first, first + BLOCK)
        matrix[rows, rows] = distances(tree, counts[rows], config).numpy()
        for second in range(first + BLOCK, count, BLOCK):
            columns = slice(second, second + BLOCK)
            matrix[rows, columns] = cross_distances(tree, counts[rows], counts[columns], config).numpy()
            matrix[columns, rows] = matrix[rows, columns].T
    return matrix


def spelled_metric(config: UnifracConfig) -> str:
    """Name of a UniFrac for readers."""
    return config.unifrac_metric.replace("_", " ").replace("unifrac", "UniFrac")
