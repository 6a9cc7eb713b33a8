"""Samples made worse than they are, in the ways in which new samples often are.

Every change is drawn for (seed, way, level, sample id). Shapes: S ASVs of a sample.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aam.data.files.counts import Counts
from aam.data.sampling.reads import draw_reads
from aam.data.sampling.seeded import generator
from aam.data.study import Study

Reads = NDArray[np.int64]


class Damage(NamedTuple):
    """One way in which samples are worse."""

    label: str
    """What the level is, for the axis of a plot."""
    levels: tuple[float, ...]
    """From none to much."""


DAMAGES: Final[dict[str, Damage]] = {
    "depth": Damage("fraction of the reads kept", (1.0, 0.5, 0.2, 0.1, 0.05, 0.02)),
    "zeros": Damage("fraction of a sample's ASVs lost", (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)),
    "spurious": Damage("fraction of reads of ASVs that are not there", (0.0, 0.01, 0.05, 0.1, 0.2, 0.4)),
    "length": Damage("fraction of the sequences' length kept", (1.0, 0.9, 0.8, 0.6, 0.4)),
}


def damaged(study: Study, way: str, level: float, seed: int) -> Study:
    """Change the reads of every sample, or the sequences of all ASVs; rows and columns stay.

    - depth: reads are drawn without replacement; one at least is left.
    - zeros: each ASV of a sample is lost with this probability, but for its most abundant one.
    - spurious: reads of ASVs that the sample lacks are added, in the proportions that these have in the study, as reads
      that were assigned to the wrong sample would be (index hopping).
    - length: sequences are cut at their end. ASVs that are alike then are one, counted at the most abundant of them,
      where a tree of such reads would place it; learners that know ASVs by name see that alone, the network the
      sequence.

    Args:
        study: the samples.
        way: a name of `DAMAGES`.
        level: as its label says.
        seed: of all draws.
    """
    if way == "length":
        return _shortened(study, level)
    table = study.table
    common = np.asarray(table.asv_reads, np.float64)
    change = _CHANGES[way]
    rows = []
    for row, sample in enumerate(table.sample_ids):
        asvs, reads = _row(table.counts, row)
        rows.append(change(asvs, reads, level, generator(seed, "damage", way, repr(level), sample), common))
    return _with_counts(study, rows)


def _row(counts: Counts, row: int) -> tuple[Reads, Reads]:
    at = slice(counts.indptr[row], counts.indptr[row + 1])
    return np.array(counts.indices[at], np.int64), np.array(counts.data[at], np.int64)


Change = Callable[[Reads, Reads, float, np.random.Generator, NDArray[np.float64]], tuple[Reads, Reads]]
"""ASVs of a sample and their reads [S], level, source of draws, reads of every ASV in the study -> ASVs and reads."""


def _fewer_reads(
    asvs: Reads, reads: Reads, level: float, source: np.random.Generator, _: NDArray[np.float64]
) -> tuple[Reads, Reads]:
    left = max(1, round(level * int(reads.sum())))
    return asvs, draw_reads(source, reads, left)


def _fewer_asvs(
    asvs: Reads, reads: Reads, level: float, source: np.random.Generator, _: NDArray[np.float64]
) -> tuple[Reads, Reads]:
    kept = source.random(len(asvs)) >= level
    kept[reads.argmax()] = True
    return asvs[kept], reads[kept]


def _more_asvs(
    asvs: Reads, reads: Reads, level: float, source: np.random.Generator, common: NDArray[np.float64]
) -> tuple[Reads, Reads]:
    others = common.copy()
    others[asvs] = 0
    added = round(level / (1 - level) * int(reads.sum()))
    if not added or not others.any():
        return asvs, reads
    drawn = source.multinomial(added, others / others.sum())
    new = np.flatnonzero(drawn)
    return np.concatenate([asvs, new]), np.concatenate([reads, drawn[new]])


_CHANGES: Final[dict[str, Change]] = {"depth": _fewer_reads, "zeros": _fewer_asvs, "spurious": _more_asvs}


def _shortened(study: Study, level: float) -> Study:
    table = study.table
    cut = [sequence[: max(1, round(level * len(sequence)))] for sequence in table.sequences]
    order = np.argsort(-table.asv_reads, kind="stable")
    first: dict[str, int] = {}
    for asv in order:
        first.setdefault(cut[asv], int(asv))
    place = np.array([first[sequence] for sequence in cut])
    rows = [(place[asvs], reads) for asvs, reads in (_row(table.counts, row) for row in range(table.n_samples))]
    changed = _with_counts(study, rows)
    return replace(changed, table=replace(changed.table, sequences=tuple(cut)))


def _with_counts(study: Study, rows: list[tuple[Reads, Reads]]) -> Study:
    """The study with other reads, of ASVs and their reads by sample; reads of one ASV are added up."""
    table = study.table
    sample = np.repeat(np.arange(len(rows)), [len(asvs) for asvs, _ in rows])
    asvs, reads = (np.concatenate(part) for part in zip(*rows, strict=True))
    counts: Counts = type(table.counts)((reads, (sample, asvs)), shape=table.counts.shape)
    counts.sum_duplicates()
    counts.eliminate_zeros()
    counts.sort_indices()
    return Study(replace(table, counts=counts), study.metadata, tree=study.tree)
