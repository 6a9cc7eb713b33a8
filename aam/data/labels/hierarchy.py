"""Columns whose values have a parent in another column: a city its region, a region its country.

Columns are lists of text by name, `Texts`, None where missing. ``parents`` maps a child column to its parent column,
``parent_values`` a child column to the parent value of each of its values. A column has at most one parent column, and
there is no cycle, so that going up from any column is a chain.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

from aam.errors import InputError, first_ids, quoted

Texts = dict[str, list[str | None]]
ParentValues = Mapping[str, Mapping[str, str]]


def ancestors(column: str, parents: Mapping[str, str]) -> list[str]:
    """The parent of a column, its parent and so on."""
    chain: list[str] = []
    while column in parents:
        column = parents[column]
        chain.append(column)
    return chain


def cycle(parents: Mapping[str, str]) -> list[str] | None:
    """A chain that comes back to where it began, if there is one: ``["city", "region", "city"]``."""
    for start in parents:
        chain = [start]
        while chain[-1] in parents:
            chain.append(parents[chain[-1]])
            if chain[-1] in chain[:-1]:
                return chain[chain.index(chain[-1]) :]
    return None


def settle(texts: Texts, train: Sequence[int], parents: Mapping[str, str]) -> tuple[Texts, dict[str, dict[str, str]]]:
    """Learn the parent of every value from the training samples, and fill in missing parents.

    A parent that is filled in by one child may tell the parent of the value of another child, so this goes on until
    nothing changes.

    Returns:
        The columns, filled in, and the parent values.

    Raises:
        InputError: a value has two parents among the samples.
    """
    while True:
        _check_one_parent(texts, parents)
        known = {}
        for child, parent in parents.items():
            both = {(texts[child][row], texts[parent][row]) for row in train}
            known[child] = dict(sorted((own, above) for own, above in both if own is not None and above is not None))
        filled = fill(texts, parents, known)
        if filled == texts:
            return filled, known
        texts = filled


def fill(texts: Texts, parents: Mapping[str, str], parent_values: ParentValues) -> Texts:
    """The columns with missing parents filled in from their children, from the lowest column up."""
    filled = dict(texts)
    for child in sorted(parents, key=lambda child: -len(ancestors(child, parents))):
        known, parent = parent_values[child], parents[child]
        own_and_child = zip(filled[parent], filled[child], strict=True)
        filled[parent] = [
            known.get(value) if own is None and value is not None else own for own, value in own_and_child
        ]
    return filled


def _check_one_parent(texts: Texts, parents: Mapping[str, str]) -> None:
    for child, parent in parents.items():
        both = zip(texts[child], texts[parent], strict=True)
        counts = Counter((value, above) for value, above in both if value is not None and above is not None)
        families: dict[str, dict[str, int]] = {}
        for (value, above), count in sorted(counts.items()):
            families.setdefault(value, {})[above] = count
        bad = [value for value, above in families.items() if len(above) > 1]
        if bad:
            family = families[bad[0]]
            shown = " and ".join(
                f"{quoted(name)} ({count} sample{'s' * (count > 1)})" for name, count in family.items()
            )
            others = f"; so are {first_ids(map(repr, bad[1:]))}" if bad[1:] else ""
            raise InputError(
                f"--categorical-hierarchy {child}={parent}: {child} {quoted(bad[0])} is under {len(family)} parents, "
                f"{shown}{others}; correct the metadata, or where these are different things of one name, give each a "
                f"name of its own, such as '{bad[0]} ({next(iter(family))})'"
            )


def check_known(
    texts: Texts, given: Texts, parents: Mapping[str, str], parent_values: ParentValues, ids: Sequence[str]
) -> None:
    """Refuse samples, given and with parents filled in, that contradict the parents that are known of training.

    Raises:
        InputError: a value has another parent than in training.
    """
    for child, parent in parents.items():
        known = parent_values[child]
        bad = [
            (row, value, above)
            for row, (value, above) in enumerate(zip(texts[child], texts[parent], strict=True))
            if value is not None and above is not None and known.get(value, above) != above
        ]
        if bad:
            first, value, above = bad[0]
            alike = [ids[row] for row, *pair in bad if pair == [value, above]]
            source = "" if given[parent][first] is not None else f" (filled in from another child of {parent})"
            more = f"; {len(bad) - len(alike)} more samples contradict training" if len(bad) > len(alike) else ""
            raise InputError(
                f"sample metadata: {child} {quoted(value)} has the {parent} {quoted(above)}{source} in samples "
                f"{first_ids(alike)}, but {quoted(known[value])} in training{more}; correct the metadata, or leave "
                f"{parent} empty there to have it filled in"
            )
