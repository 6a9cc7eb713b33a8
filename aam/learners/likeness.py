"""What training samples look like, by which a new sample that is unlike them is told, and why.

Four things are looked at: the distance to the nearest training sample (generalized UniFrac; without a tree of the same
kind over ASVs, none nearer to another), the fraction of reads of ASVs that no training sample holds, depth, and the
length of sequences. How far the first two may go is learned from the training samples, each of which is compared with
those of other groups, as a sample of a new group is with all: what is beyond `USUAL` of them is unlike.

Generalized UniFrac (Chen et al. 2012, alpha 1/2) tells other body sites apart from a gut better than the unweighted or
the weighted one (docs/intervals.md).

Shapes: n training samples, l landmarks (some of them), m new samples.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy import sparse

from aam.config import UnifracConfig
from aam.data.distances.unifrac import StudyTree, cross_distances
from aam.data.files.counts import Counts
from aam.data.files.tables import FeatureTable
from aam.data.study import Study
from aam.errors import first_ids
from aam.learners.base import Arrays, Floats, Rows
from aam.learners.kernel import balanced_draw, known_groups

logger = logging.getLogger(__name__)

LANDMARKS: Final = 300
"""The most training samples that new ones are compared with, as many of each group as of others."""
USUAL: Final = 0.975
"""Fraction of the left-out training samples, groups counting alike, that are not called unlike the others."""
FEW_READS: Final = 0.05
"""A fraction of reads of unknown ASVs up to which no sample is called unlike."""
TIMES: Final = 2
"""Times as deep as the deepest training sample, or as shallow as the shallowest, that a sample may be."""
METRIC: Final = UnifracConfig(unifrac_metric="generalized_unifrac")
_BLOCK = 256
"""Samples that are compared at a time."""


class Limits(BaseModel):
    """What is usual among training samples."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    distance: float | None = None
    """To the nearest training sample of another group; None where landmarks are not kept."""
    unseen: float
    """Fraction of reads of ASVs that no other group holds."""
    depth: tuple[int, int]
    """Fewest and most reads of a training sample."""
    length: tuple[int, int]
    """Shortest and longest sequence that a training sample holds, in nucleotides."""

    def reasons(self, distance: float, unseen: float, depth: int, other_length: float) -> str:
        """Why a sample is unlike those of the training; nothing where it is not."""
        said = []
        if self.distance is not None and distance > self.distance:
            said.append(f"distance {distance:.2f} to the nearest training sample (up to {self.distance:.2f} is usual)")
        if unseen > self.unseen:
            said.append(f"{unseen:.0%} of the reads of ASVs that no training sample holds (up to {self.unseen:.0%})")
        fewest, most = self.depth
        if depth * TIMES < fewest or depth > TIMES * most:
            said.append(f"{depth} reads (training samples have {fewest} to {most})")
        if other_length > FEW_READS:
            shortest, longest = self.length
            known = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
            said.append(f"{other_length:.0%} of the reads of other lengths than {known} nucleotides")
        return "; ".join(said)


@dataclass(frozen=True, eq=False)
class Likeness:
    """What is kept of the training samples to tell others apart from them."""

    limits: Limits
    seen: NDArray[np.uint64]
    """Hashes of the sequences that training samples hold, rising."""
    landmarks: Counts | None = None
    """Reads of some training samples [l, ASVs of the reference]."""

    @classmethod
    def of(cls, study: Study, rows: Rows, groups: NDArray[np.str_] | None, seed: int, landmarks: bool = True) -> Self:
        """Look at the training samples of a study.

        Args:
            study: the study, with all reads.
            rows: the training samples.
            groups: of the samples of the study; None where each is its own.
            seed: of the draw of landmarks.
            landmarks: whether some samples are kept to be compared with.
        """
        ids = study.table.sample_ids
        rows = np.array(sorted(rows.tolist(), key=ids.__getitem__), dtype=np.int64)
        names = np.arange(len(rows)) if groups is None else np.unique(groups[rows], return_inverse=True)[1]
        group = known_groups(names)
        table = study.table.select_samples(rows)
        held = np.flatnonzero(table.asv_reads)
        lengths = [len(table.sequences[asv]) for asv in held]
        limits = Limits(
            unseen=max(FEW_READS, usual(_of_one_group(table.counts, group) / table.depth, group)),
            depth=(int(table.depth.min()), int(table.depth.max())),
            length=(min(lengths), max(lengths)),
        )
        seen = np.unique(hashes(table.sequences)[held])
        if not landmarks:
            return cls(limits, seen)
        marks = balanced_draw(group, LANDMARKS, seed, "likeness")
        reads = table.counts[marks]
        between = nearest(_tree_of(study), reads, reads, group[marks])
        return cls(limits.model_copy(update={"distance": usual(between, group[marks])}), seen, reads)

    def unlike(self, table: FeatureTable, known: Study | None = None) -> "dict[str, pd.Series[str]]":
        """Say which samples are unlike those of the training, and why; how many is logged.

        Args:
            table: the samples, with all reads.
            known: the same samples with the ASVs and the tree of the training study (and others after these), to be
                compared with landmarks.

        Returns:
            Columns by sample id: ``unlike`` (yes or no) and ``why`` (empty for no).
        """
        depth, limits = table.depth, self.limits
        unseen = _fraction(table, ~np.isin(hashes(table.sequences), self.seen))
        lengths = np.array([len(sequence) for sequence in table.sequences])
        other = _fraction(table, (lengths < limits.length[0]) | (lengths > limits.length[1]))
        distance = np.full(table.n_samples, np.nan)
        if known is not None and self.landmarks is not None:
            some = np.flatnonzero(known.table.depth > 0)
            counts = known.table.counts
            distance[some] = nearest(_tree_of(known), counts[some], _widened(self.landmarks, counts.shape[1]))
        why = [limits.reasons(*found) for found in zip(distance, unseen, depth, other, strict=True)]
        index = pd.Index(list(table.sample_ids), name="sample_id")
        flagged = np.flatnonzero(np.array(why) != "")
        if len(flagged):
            logger.warning(
                "%d of %d samples are unlike those of the training, and nothing vouches for their predictions; columns "
                "unlike and why tell more: %s",
                *(len(flagged), len(why), first_ids(table.sample_ids[row] for row in flagged)),
            )
        unlike = ["yes" if text else "no" for text in why]
        return {"unlike": pd.Series(unlike, index), "why": pd.Series(why, index)}

    def arrays(self) -> Arrays:
        """What `restore` needs, as arrays."""
        arrays: Arrays = {"seen": self.seen.view(np.int64)}
        if self.landmarks is not None:
            names = ("data", "indices", "indptr")
            arrays |= {name: np.asarray(getattr(self.landmarks, name), np.int64) for name in names}
        return arrays

    def to_json(self) -> dict[str, Any]:
        """What `from_json` needs, without landmarks."""
        return {"limits": self.limits.model_dump(mode="json"), "seen": self.seen.tolist()}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Rebuild what has no landmarks."""
        return cls(Limits.model_validate(document["limits"]), np.array(document["seen"], np.uint64))

    @classmethod
    def restore(cls, limits: Mapping[str, Any], arrays: Arrays, asvs: int) -> Self:
        """Rebuild from limits, arrays and the number of ASVs of the reference."""
        landmarks = None
        if "data" in arrays:
            parts = (arrays["data"], arrays["indices"], arrays["indptr"])
            landmarks = sparse.csr_array(parts, shape=(len(parts[2]) - 1, asvs))
        return cls(Limits.model_validate(limits), arrays["seen"].view(np.uint64), landmarks)


def usual(values: Floats, group: Rows) -> float:
    """The value that `USUAL` of the samples do not exceed, groups counting alike [n] -> one."""
    code, size = np.unique(group, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(values, kind="stable")
    reached = np.cumsum((1 / size[code] / len(size))[order])
    return float(values[order][min(int(np.searchsorted(reached, USUAL)), len(order) - 1)])


def nearest(tree: StudyTree, rows: Counts, landmarks: Counts, group: Rows | None = None) -> Floats:
    """Distance of every sample to the nearest landmark [m]; of landmarks themselves, to those of other groups [l]."""
    found = np.empty(rows.shape[0])
    for start in range(0, len(found), _BLOCK):
        part = slice(start, start + _BLOCK)
        distance = cross_distances(tree, rows[part], landmarks, METRIC).numpy()
        if group is not None:
            distance = np.where(group[part, None] == group, np.inf, distance)
        found[part] = distance.min(axis=1)
    return found


def hashes(sequences: Sequence[str]) -> NDArray[np.uint64]:
    """A number for each sequence, by which it is known again [ASVs]."""
    digests = b"".join(blake2b(sequence.encode(), digest_size=8).digest() for sequence in sequences)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def _of_one_group(counts: Counts, group: Rows) -> Floats:
    """Reads of each sample of ASVs that no other group holds [n]."""
    codes = np.unique(group, return_inverse=True)[1]
    sample = np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))
    held = sparse.csr_array(
        (np.ones(len(sample)), (codes[sample], counts.indices)), shape=(codes.max() + 1, counts.shape[1])
    )
    held.sum_duplicates()
    alone = np.bincount(held.indices, minlength=counts.shape[1]) == 1
    return np.asarray(counts[:, np.flatnonzero(alone)].sum(axis=1), np.float64).ravel()


def _fraction(table: FeatureTable, asvs: NDArray[np.bool_]) -> Floats:
    """Fraction of the reads of each sample of some ASVs [m]."""
    reads = np.asarray(table.counts[:, np.flatnonzero(asvs)].sum(axis=1), np.float64).ravel()
    fraction: Floats = reads / table.depth
    return fraction


def _tree_of(study: Study) -> StudyTree:
    """The tree of a study; without one, a branch of length 1 for each ASV."""
    if study.tree is not None:
        return study.tree
    places = np.arange(study.table.n_asvs)
    return StudyTree(np.ones(len(places)), places, places + 1, places, places)


def _widened(counts: Counts, asvs: int) -> Counts:
    """The same reads among more ASVs, which come last."""
    return sparse.csr_array((counts.data, counts.indices, counts.indptr), shape=(counts.shape[0], asvs))
