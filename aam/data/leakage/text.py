"""The sentences of `aam.data.leakage.guard`: what was found, where, how many, and what to do."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from aam.data.arrays import Bools
from aam.data.leakage.group_columns import Grouping, Role
from aam.data.leakage.group_evidence import Likeness
from aam.data.leakage.near_copies import NearCopies
from aam.errors import first_ids

_NAMES: Final[Mapping[Role, tuple[str, str]]] = {
    "subject": ("subject", "subjects"),
    "site": ("site", "sites"),
    "study": ("study", "studies"),
    "run": ("batch", "batches"),
    "other": ("group", "groups"),
}
SHOWN_PAIRS: Final = 3


def what_it_is(group: Grouping, divided: int | None) -> str:
    """What a column holds, how many of them, how many on several sides of a known split, and how they are spelled."""
    sizes = group.sizes
    counts = f"{len(sizes)} in {sizes.sum()} samples, up to {sizes.max()} each"
    if divided is not None:
        counts += f", {divided} of them on more than one side"
    if group.copies:
        counts += f", the same groups as {first_ids(group.copies)}"
    if group.spellings is not None:
        one, other = group.spellings
        counts += f", where {one!r} and {other!r} count as one although a split by this column tells them apart"
    return f"{group.column} looks like a column of {_NAMES[group.role][1]} ({counts})"


def how_alike(
    role: Role, community: Likeness | None, targets: Mapping[str, Likeness], numeric: Mapping[str, bool], distance: str
) -> str:
    """How much more alike samples of one group are, in community and in the target that says it most.

    Targets are by name, and `numeric` says which are numbers; the community has a distance, if there are pairs.
    """
    if community is None:
        return "no two samples of which can be compared"
    one = _NAMES[role][0]
    more = "are more alike" if community.is_alike else "are not clearly more alike"
    text = (
        f"samples of one {one} {more} (mean {distance} distance {community.within:.2f}, of different ones "
        f"{community.between:.2f})"
    )
    if not targets:
        return text
    name = max(targets, key=lambda name: (targets[name].deviations, name))
    within, between = targets[name].within, targets[name].between
    if numeric[name]:
        return f"{text} and differ by {within:.3g} in {name} on average, against {between:.3g}"
    return f"{text} and agree in {name} in {1 - within:.0%} of pairs, against {1 - between:.0%}"


def what_to_do(group: Grouping, refuses: bool, alike: bool, split: str) -> str:
    """What follows for the split: for a random one whether it is refused, for samples found to be alike or not.

    The split is ``random``; ``known`` where sides or other groups are given; ``finer`` where the user chose smaller
    groups to keep together.
    """
    (one, many), column = _NAMES[group.role], group.column
    if group.role == "other":
        return f"if these are subjects, sites or studies, keep each on one side by --group-column {column}"
    if split == "finer":
        return f"the chosen groups are smaller, so the results hold for these {many} and not for new ones"
    if group.role == "run" or not refuses:
        return f"compare it with the target, and see by --group-column {column} how well a model does on a new {one}"
    flatters = "flatters" if alike else "may flatter"
    which = "this split" if split == "known" else "a random split"
    return f"{which} has the same {one} on both sides and {flatters} the model: split by --group-column {column}"


def given_away(target: str, numeric: bool, column: Grouping, known: Bools, fraction: float) -> str:
    """That a column tells the target, a number or a class, of the samples that are known, by a fraction up to 1."""
    name, codes = column.column, column.codes[known & (column.codes >= 0)]
    how = f"the mean of the other samples of the same {name} explains {fraction:.0%} of its variance"
    if not numeric:
        how = f"the other samples of the same {name} lead {fraction:.0%} of the way from chance to always right"
    return (
        f"{name} gives {target} away: {how} ({len(np.unique(codes))} values in {len(codes)} samples), so a model may "
        f"recognise the {name} instead of learning {target}; see by --group-column {name} how it does on a new one."
    )


def copied(copies: NearCopies, ids: Sequence[str], known_sides: bool, presence: str) -> str:
    """That pairs of samples, one at least, are almost the same, by abundances and by a distance of presence."""
    count = len(copies.pairs)
    pairs = f"{'at least ' if copies.is_cut else ''}{count} {'pair' if count == 1 else 'pairs'} of samples"
    shown = ", ".join(f"{ids[first]} and {ids[second]}" for first, second in copies.pairs[:SHOWN_PAIRS].tolist())
    limits = f"Bray-Curtis distance up to {copies.bray_curtis:.2f}, {presence} up to {copies.presence:.2f}"
    where = " on different sides of the split" if known_sides else ""
    text = (
        f"{pairs}{where} {'is' if count == 1 else 'are'} almost the same ({limits}): {shown}"
        f"{', ...' if count > SHOWN_PAIRS else ''}; if they are replicates, leave out all but one, or keep them on one "
        "side by a --group-column."
    )
    return text[0].upper() + text[1:]
