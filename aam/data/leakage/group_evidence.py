"""Whether samples of one group are more alike than others, and how far a column gives away the target."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import numpy as np
import pandas as pd
from scipy import sparse

from aam.config import UnifracConfig
from aam.data.arrays import Floats, Ints
from aam.data.distances.branches import asv_proportions
from aam.data.distances.unifrac import distances
from aam.data.files.counts import Counts
from aam.data.sampling.seeded import derived_seed, generator
from aam.data.study import Study

Codes = Ints

COMPARED: Final = 300
"""Samples whose pairs are compared, at most."""
CELLS: Final = 8_000_000
"""Compared samples x their ASVs, at most: reads below all branches are in memory at once, about 80 bytes for each."""
SHUFFLES: Final = 99
SURE: Final = 3.0
"""Standard deviations that the difference must be from what shuffled groups give."""
LEAST_DIFFERENCE: Final = 0.02
"""Fraction of the difference between groups by which samples of one group must be closer."""


@dataclass(frozen=True)
class Likeness:
    """Mean difference of two samples of one group, and of two of different groups."""

    within: float
    between: float
    deviations: float
    """How far `within` is below its mean over shuffled groups, in standard deviations."""

    @property
    def is_alike(self) -> bool:
        """Whether samples of one group are more alike, beyond chance."""
        return self.is_alike_by(SURE, LEAST_DIFFERENCE)

    def is_alike_by(self, deviations: float, fraction: float) -> bool:
        """Whether they are so by some deviations, and by a fraction of the difference between groups."""
        return self.deviations >= deviations and self.within <= (1 - fraction) * self.between


def draw_of_groups(ids: tuple[str, ...], codes: Codes, seed: int, most: int = COMPARED) -> Codes:
    """Draw rows for comparison: groups in the order of a hash of their samples' ids, few samples of each.

    They are rows, ascending, of samples that share their group with another: `codes` are groups [n], -1 for none.
    """
    hashes = np.array([derived_seed(seed, "leakage", name) for name in ids], dtype=np.uint64)
    shared = np.flatnonzero((codes >= 0) & (np.bincount(codes[codes >= 0], minlength=1)[codes] > 1))
    frame = pd.DataFrame({"row": shared, "code": codes[shared], "hash": hashes[shared]}).sort_values("hash")
    frame["turn"] = frame.groupby("code").cumcount()
    frame["first"] = frame.groupby("code")["hash"].transform("min")
    each = max(4, most // max(1, frame["code"].nunique()))
    frame = frame[frame["turn"] < each].sort_values(["first", "turn"])
    return np.sort(frame["row"].to_numpy(np.int64)[:most])


def rows_to_compare(study: Study, codes: Codes, seed: int) -> Codes:
    """Rows that `draw_of_groups` draws, as many as memory allows."""
    most = COMPARED
    while True:
        rows = draw_of_groups(study.table.sample_ids, codes, seed, most)
        if most <= COMPARED // 10 or len(rows) * len(np.unique(study.table.counts[rows].indices)) <= CELLS:
            return rows
        most //= 2


def bray_curtis(counts: Counts) -> Floats:
    """Bray-Curtis distances of relative abundances, [samples, samples] in [0, 1]."""
    dense = asv_proportions(counts)[:, np.unique(counts.indices)].toarray()
    distance = np.empty((len(dense), len(dense)))
    for row in range(len(dense)):
        held = np.flatnonzero(dense[row])
        distance[row] = 1 - np.minimum(dense[row, held], dense[:, held]).sum(axis=1)
    np.fill_diagonal(distance, 0.0)
    return np.clip(distance, 0.0, 1.0)


def jaccard(counts: Counts) -> Floats:
    """Jaccard distances of the sets of ASVs, [samples, samples] in [0, 1]; 0 where neither sample holds any."""
    held = (counts[:, np.unique(counts.indices)].toarray() > 0).astype(np.float64)
    both, each = held @ held.T, held.sum(axis=1)
    either = each[:, None] + each - both
    distance: Floats = np.where(either > 0, 1 - both / np.maximum(either, 1), 0.0)
    return distance


def unifrac_or(otherwise: Callable[[Counts], Floats], study: Study, rows: Codes) -> Floats:
    """Unweighted UniFrac distances where the study has a tree, else others, [rows, rows] in [0, 1]."""
    counts = study.table.counts[rows]
    unifrac: Floats | None = None if study.tree is None else distances(study.tree, counts, UnifracConfig()).numpy()
    return otherwise(counts) if unifrac is None else unifrac


def target_differences(values: "pd.Series[Any]") -> Floats:
    """Difference of every pair: of numbers its size, of classes 0 or 1; NaN where a value is missing [n, n]."""
    if pd.api.types.is_numeric_dtype(values):
        numbers = values.to_numpy(np.float64)
        apart: Floats = np.abs(numbers[:, None] - numbers)
        return apart
    codes = pd.factorize(values.to_numpy(dtype=object))[0]
    different = (codes[:, None] != codes).astype(np.float64)
    different[codes < 0, :] = different[:, codes < 0] = np.nan
    return cast(Floats, different)


def likeness(difference: Floats, codes: Codes, apart: Codes | None, seed: int) -> Likeness | None:
    """Compare pairs within and between groups; None where there are none of either.

    Args:
        difference: of every pair [n, n]; NaN where it is unknown.
        codes: group of each sample [n], -1 for none.
        apart: finer groups, -1 for none: their own pairs are left out, and they are shuffled as a whole where each lies
            in one group of `codes`.
        seed: of the shuffling.
    """
    units = np.arange(len(codes)) if apart is None else _units(apart, codes)
    pairs = np.isfinite(difference) & np.triu(np.ones(difference.shape, dtype=bool), 1)
    if apart is not None:
        pairs &= (apart[:, None] != apart) | (apart < 0)
    first, second = np.nonzero(pairs & (codes >= 0) & (codes >= 0)[:, None])
    found, size = codes[first] == codes[second], difference[first, second]
    if not found.any() or found.all():
        return None
    within = float(size[found].mean())
    draws = (drawn[first] == drawn[second] for drawn in _shuffles(codes, units, seed))
    shuffled = [float(size[same].mean()) for same in draws if same.any()]
    spread = float(np.std(shuffled)) if shuffled else 0.0
    deviations = (float(np.mean(shuffled)) - within) / spread if spread > 0 else 0.0
    return Likeness(within, float(size[~found].mean()), deviations)


def _units(apart: Codes, codes: Codes) -> Codes:
    """What is shuffled: finer groups where each is within one group, else samples [n]."""
    alone = np.where(apart >= 0, apart, len(codes) + np.arange(len(codes)))
    units = np.unique(alone, return_inverse=True)[1].astype(np.int64)
    of_unit = np.stack([units, codes])
    return units if np.unique(of_unit, axis=1).shape[1] == units.max(initial=-1) + 1 else np.arange(len(codes))


def _shuffles(codes: Codes, units: Codes, seed: int) -> Iterator[Codes]:
    """Groups of the samples after the units exchanged theirs."""
    first = np.unique(units, return_index=True)[1]
    random = generator(seed, "leakage", "shuffles")
    for _ in range(SHUFFLES):
        yield codes[first][random.permutation(len(first))][units]


def explained(values: "pd.Series[Any]", codes: Codes) -> float | None:
    """How far the other samples of its group give away a sample's target, adjusted for the number of groups.

    Numbers: the fraction of the variance that the mean of the group's other samples explains, compared with the mean of
    all other samples. Classes: (accuracy - chance) / (1 - chance) of the most frequent class of the group's others,
    where chance is the fraction of the most frequent class. A sample that is alone is given the whole study's answer.

    So it is 1 where the groups [n], -1 for none, determine the target, 0 or less where they say nothing; None where the
    target does not vary.
    """
    known = (codes >= 0) & values.notna().to_numpy()
    own = np.unique(codes[known], return_inverse=True)[1]
    target = values[known]
    measure: Callable[..., float | None] = _accuracy
    if pd.api.types.is_numeric_dtype(values):
        measure, answers = _variance, target.to_numpy(np.float64)
    else:
        answers = np.unique(target.to_numpy(dtype=object).astype(str), return_inverse=True)[1]
    return measure(answers, own) if len(np.unique(answers)) > 1 else None


def _variance(numbers: Floats, codes: Codes) -> float:
    size, total = np.bincount(codes)[codes], np.bincount(codes, numbers)[codes]
    of_all = (numbers.sum() - numbers) / (len(numbers) - 1)
    of_group = np.where(size > 1, (total - numbers) / np.maximum(size - 1, 1), of_all)
    return 1 - float(np.square(numbers - of_group).sum() / np.square(numbers - of_all).sum())


def _accuracy(classes: Codes, codes: Codes) -> float:
    times = np.bincount(classes)
    kinds = len(times)
    table = sparse.csr_array((np.ones(len(codes)), (codes, classes)), shape=(codes.max() + 1, kinds))
    right = 0
    for group in range(table.shape[0]):
        held = table[[group]].toarray()[0]
        for kind in np.flatnonzero(held):
            others = held - (np.arange(kinds) == kind)
            # where the group's others are tied or none, the more frequent class of the study decides
            answer = np.lexsort((times, others))[-1]
            right += int(held[kind]) * int(answer == kind)
    chance = float(times.max() / len(classes))
    return (right / len(classes) - chance) / (1 - chance)
