"""What would flatter a model on a random split: subjects, sites or studies sampled several times, runs, near copies."""

from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

import numpy as np
import pandas as pd

from aam.data.arrays import Ints
from aam.data.files.metadata import categorical_column
from aam.data.leakage import text as sentences
from aam.data.leakage.group_columns import (
    Grouping,
    Role,
    codes_of,
    determines,
    groupings,
    place_columns,
    raw_codes,
    role_of,
)
from aam.data.leakage.group_evidence import (
    bray_curtis,
    explained,
    likeness,
    rows_to_compare,
    target_differences,
    unifrac_or,
)
from aam.data.leakage.near_copies import near_copies
from aam.data.study import Study

Codes = Ints

LEAST_SAMPLES: Final = 8
"""Samples below which nothing is looked for."""
LEAST_REFUSED: Final = 3
"""Sites or studies that there must be for a random split to be refused: of two, one alone would be left to train on."""
GIVEN_AWAY: Final = 0.5
"""How far a column must explain the target to be said to give it away."""
SURE_UNNAMED: Final = 5.0
"""Standard deviations by which samples must be more alike within the groups of a column whose name says nothing."""
DIFFERENCE_UNNAMED: Final = 0.1
"""Fraction of the difference between groups by which they must be closer there."""


@dataclass(frozen=True)
class Finding:
    """One thing that makes a split of the study flatter a model."""

    kind: Literal["group", "batch", "determined", "near-copies"]
    """Samples of one subject, site or study; of one run or the like; a column that gives the target away; almost equal
    samples."""
    column: str | None
    """Column of the metadata; None for near copies."""
    role: Role | None
    """What the column holds; None for near copies."""
    text: str
    """A sentence: what, where, how many, and what to do."""
    refuses: bool
    """Whether a random split over it is to be refused."""


@dataclass(frozen=True, eq=False)
class _View:
    """The samples that are looked at, in the order of their ids, so that no finding depends on the order of files."""

    study: Study
    metadata: pd.DataFrame
    targets: pd.DataFrame
    chosen: Codes | None
    """Group of each sample by the user's choice, as it is spelled."""
    chosen_column: str | None
    sides: Codes | None
    seed: int

    @classmethod
    def of(
        cls, study: Study, values: pd.DataFrame, group_column: str | None, sides: "pd.Series[Any] | None", seed: int
    ) -> Self:
        ids = pd.Index(study.table.sample_ids, dtype=object)
        known = values.reindex(ids).notna().any(axis=1).to_numpy() | (values.shape[1] == 0)
        if sides is not None:
            known &= sides.reindex(ids).notna().to_numpy()
        rows = sorted(np.flatnonzero(known).tolist(), key=study.table.sample_ids.__getitem__)
        table = study.table.select_samples(np.array(rows, dtype=np.int64))
        names = list(table.sample_ids)
        metadata = pd.DataFrame(index=names) if study.metadata is None else study.metadata.loc[names]
        chosen = None if group_column is None else raw_codes(list(categorical_column(metadata, group_column)))
        sided = None if sides is None else raw_codes([str(side) for side in sides.loc[names]])
        targets = values.reindex(names)
        return cls(replace(study, table=table, metadata=None), metadata, targets, chosen, group_column, sided, seed)

    def numeric(self, target: str) -> bool:
        """Whether a target is a number, not a class."""
        return pd.api.types.is_numeric_dtype(self.targets[target])

    def divides(self, codes: Codes) -> bool:
        """Whether the split may put samples of one group on different sides."""
        if self.sides is not None:
            return not determines(codes, self.sides)
        return self.chosen is None or not determines(codes, self.chosen)

    def divided(self, codes: Codes) -> int | None:
        """Groups on several sides; None where the sides are unknown."""
        if self.sides is None:
            return None
        pairs = np.unique(np.stack([codes, self.sides])[:, codes >= 0], axis=1)
        return int((np.bincount(pairs[0]) > 1).sum())

    def split_over(self, group: Grouping) -> str:
        """What kind of split divides such groups, as `text.what_to_do` names it."""
        if self._divides_by_choice(group):
            return "finer"
        return "random" if self.sides is None and self.chosen is None else "known"

    def _divides_by_choice(self, group: Grouping) -> bool:
        """Whether the user keeps smaller groups together: subjects within studies, children of one mother.

        Groups of one sample are no choice, nor are the same groups spelled in two ways.
        """
        if self.chosen is None or self.chosen_column is None or not determines(self.chosen, group.codes):
            return False
        spelled_alike, _ = codes_of(list(categorical_column(self.metadata, self.chosen_column)))
        if determines(group.codes, spelled_alike) or len(np.unique(self.chosen)) == len(self.chosen):
            return False
        return group.role != "subject" or role_of(self.chosen_column) == "subject"


def find_leakage(
    study: Study,
    values: pd.DataFrame,
    group_column: str | None = None,
    sides: "pd.Series[Any] | None" = None,
    seed: int = 0,
) -> list[Finding]:
    """Look for what makes a split of a study flatter a model.

    Args:
        study: the samples; columns are judged by UniFrac where there is a tree, else by Bray-Curtis distances.
        values: what is predicted, a column for each target, by sample id: numbers, or text where it is a class. Samples
            without any value are not looked at. Without columns all samples are, and nothing is said of targets.
        group_column: column by which the split keeps samples together. What it keeps together is no finding, and groups
            that it divides by choice (the studies of subjects, say) are not refused.
        sides: side or fold of each sample, by sample id, if the split is known: findings are then what lies on several
            sides. Samples without one are not looked at.
        seed: of the draws of samples for comparison.

    Returns:
        Groups, those that are refused first; batches; columns that give a target away; near copies. The order of
        samples, ASVs and columns does not matter.

    Raises:
        InputError: there is no such group column.
    """
    view = _View.of(study, values, group_column, sides, seed)
    if view.study.table.n_samples < LEAST_SAMPLES:
        return []
    groups = groupings(view.metadata, view.targets)
    divided = [group for group in groups if view.divides(group.codes)]
    finer = next((group for group in groups if group.role == "subject"), None)
    found = [finding for group in divided if (finding := _of_group(view, group, finer)) is not None]
    return [
        *sorted(found, key=lambda finding: (not finding.refuses, finding.kind == "batch")),
        *_given_away(view, [group for group in divided if group.role in ("site", "study", "run")]),
        *_near_copies(view),
    ]


def _of_group(view: _View, group: Grouping, subjects: Grouping | None) -> Finding | None:
    """The finding of a column that looks like subjects, sites, studies or runs; None where nothing speaks for it.

    Subjects are believed by their name. Sites and studies must show in the samples beyond their subjects.
    """
    rows = rows_to_compare(view.study, group.codes, view.seed)
    codes = group.codes[rows]
    apart = None if subjects is None or subjects is group else subjects.codes[rows]
    community = likeness(unifrac_or(bray_curtis, view.study, rows), codes, apart, view.seed)
    compared = {name: target_differences(view.targets[name].iloc[rows]) for name in view.targets}
    judged = {name: likeness(compared[name], codes, apart, view.seed) for name in compared}
    targets = {str(name): found for name, found in judged.items() if found is not None}
    alike = community is not None and community.is_alike
    if group.role in ("site", "study") and not alike and not any(found.is_alike for found in targets.values()):
        return None
    if group.role == "other" and (community is None or not community.is_alike_by(SURE_UNNAMED, DIFFERENCE_UNNAMED)):
        return None
    split = view.split_over(group)
    many = len(group.sizes) >= LEAST_REFUSED
    refuses = split != "finer" and (group.role == "subject" or (group.role in ("site", "study") and alike and many))
    numeric = {name: view.numeric(name) for name in targets}
    distance = "Bray-Curtis" if view.study.tree is None else "UniFrac"
    what = sentences.what_it_is(group, view.divided(group.codes))
    evidence = sentences.how_alike(group.role, community, targets, numeric, distance)
    text = f"{what}: {evidence}; {sentences.what_to_do(group, refuses, alike, split)}."
    return Finding("batch" if group.role == "run" else "group", group.column, group.role, text, refuses)


def _given_away(view: _View, groups: list[Grouping]) -> list[Finding]:
    """Batches, sites, studies and places that give a target away; of nested columns the one that says most."""
    places = [place for place in place_columns(view.metadata, view.targets) if view.divides(place.codes)]
    columns = groups + [place for place in places if all(place.column != group.column for group in groups)]
    found: list[Finding] = []
    for name in view.targets:
        values = view.targets[name]
        told = [(fraction, column) for column in columns if (fraction := explained(values, column.codes)) is not None]
        kept: list[Grouping] = []
        for fraction, column in sorted(told, key=lambda pair: (-round(pair[0], 6), pair[1].column)):
            if fraction >= GIVEN_AWAY and not any(determines(finer.codes, column.codes) for finer in kept):
                kept.append(column)
                known = values.notna().to_numpy()
                text = sentences.given_away(str(name), view.numeric(str(name)), column, known, fraction)
                found.append(Finding("determined", column.column, column.role, text, refuses=False))
    return found


def _near_copies(view: _View) -> list[Finding]:
    """Pairs of samples that are almost the same and may come to lie on two sides."""
    apart = view.sides if view.sides is not None else view.chosen
    none = np.full(view.study.table.n_samples, -1)
    copies = near_copies(view.study, none if apart is None else apart, view.seed)
    if not len(copies.pairs):
        return []
    presence = "Jaccard" if view.study.tree is None else "UniFrac"
    text = sentences.copied(copies, view.study.table.sample_ids, view.sides is not None, presence)
    return [Finding("near-copies", None, None, text, refuses=False)]
