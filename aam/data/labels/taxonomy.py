"""Taxonomy of ASVs: lineages as QIIME 2 writes them, and the classes of every rank that training samples hold.

Shapes: A ASVs, R ranks that have two classes or more.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import pandas as pd

from aam.data.arrays import Bools, Ints
from aam.data.files.artifacts import read_text
from aam.errors import InputError, first_ids, quoted

RANKS: Final = ("domain", "phylum", "class", "order", "family", "genus", "species")
UNKNOWN: Final = -1
"""In the place of a class, where the rank of an ASV is not known, or no training sample holds its lineage."""
HEADER: Final = ("Feature ID", "Taxon")

_KIND = "taxonomy"
_PREFIX = re.compile(r"(d_\d+|[a-z]{1,2})__(.*)", re.IGNORECASE | re.DOTALL)
_PLACES = {"d": 0, "k": 0, "sk": 0, "p": 1, "c": 2, "o": 3, "f": 4, "g": 5, "s": 6}
_NO_NAME = re.compile(
    r"""(un(assigned|classified|cultured|cultivated|identified|known|described)|ambiguous|no[_ ]?rank)([_ ].*)?
    |(.*[_ ])?(incertae[_ ]sedis|metagenome|unclassified|environmental[_ ]samples?)
    |n/?a|nan|none|null|[-_.?]*""",
    re.IGNORECASE | re.VERBOSE,
)


def read_taxonomy(path: Path | str) -> dict[str, str]:
    """Read the taxon of every ASV.

    Args:
        path: tab-separated text, plain or gzipped, whose first columns are ``Feature ID`` and ``Taxon``, or a QIIME 2
            artifact of type ``FeatureData[Taxonomy]``. Other columns, such as ``Confidence``, are not read.

    Returns:
        Lineage as written by ASV id, in the order of the file.

    Raises:
        InputError: the file cannot be read or has another header; an id is missing or repeated.
    """
    lines = read_text(path, _KIND, ("FeatureData[Taxonomy]",)).splitlines()
    cells = [(number, [cell.strip() for cell in line.split("\t")]) for number, line in enumerate(lines, start=1)]
    filled = [(number, row) for number, row in cells if any(row)]
    if not filled or tuple(filled[0][1][:2]) != HEADER:
        raise InputError(
            f"{_KIND} {path}: the first line should name the columns 'Feature ID' and 'Taxon', parted by a tab; "
            + (f"it is {quoted(lines[filled[0][0] - 1], 60)}" if filled else "the file is empty")
        )
    rows = [(number, row) for number, row in filled[1:] if not row[0].startswith("#q2:")]
    short = [number for number, row in rows if len(row) < 2 or not row[0]]
    if short:
        raise InputError(f"{_KIND} {path}: line {short[0]} should hold an ASV id and, after a tab, its lineage")
    return _by_id([(row[0], row[1]) for _, row in rows], f"{_KIND} {path}")


def taxonomy_of_frame(frame: pd.DataFrame) -> dict[str, str]:
    """Take the taxon of every ASV from a table with a column ``Taxon``, by ASV id; missing ones are not known.

    Raises:
        InputError: there is no such column, or an id is repeated or is no text.
    """
    if HEADER[0] in frame.columns:
        frame = frame.set_index(HEADER[0])
    if HEADER[1] not in frame.columns:
        names = first_ids(frame.columns, limit=30)
        raise InputError(f"{_KIND}: the DataFrame has no column 'Taxon'; its columns: {names or 'none'}")
    wrong = [name for name in frame.index if not isinstance(name, str)]
    if wrong:
        raise InputError(f"{_KIND}: the index of the DataFrame must hold ASV ids as text; not so: {first_ids(wrong)}")
    return _by_id(list(frame[HEADER[1]].fillna("").astype(str).items()), f"{_KIND} (a DataFrame)")


def _by_id(rows: Sequence[tuple[Any, str]], source: str) -> dict[str, str]:
    if not rows:
        raise InputError(f"{source}: there is no ASV in it")
    taxa = dict(rows)
    if len(taxa) < len(rows):
        repeated = [name for name, times in Counter(name for name, _ in rows).items() if times > 1]
        raise InputError(f"{source}: ASV ids given more than once: {first_ids(repeated)}; keep one row of each")
    return taxa


def parse_lineage(taxon: str) -> tuple[str, ...]:
    """Split a lineage into the names of `RANKS`; a rank without a name is an empty text.

    A prefix tells the rank (``k__``, ``d__`` or ``D_0__`` for the domain, to ``s__`` or ``D_6__``), and the place among
    the others where a name has none. What is below the species is left out. Words that only say that the name is
    missing (``uncultured``, ``Unassigned``, ``metagenome``, ...) are none.
    """
    names: dict[int, str] = {}
    place = -1
    for part in taxon.split(";"):
        prefix = _PREFIX.fullmatch(part.strip())
        place = place + 1 if prefix is None else _place(prefix[1].lower())
        name = part.strip() if prefix is None else prefix[2].strip()
        names.setdefault(place, "" if _NO_NAME.fullmatch(name) else name)
    return tuple(names.get(place, "") for place in range(len(RANKS)))


def _place(prefix: str) -> int:
    """Place of a rank by its prefix; beyond the last for ranks that are not among `RANKS`, such as strains."""
    return int(prefix[2:]) if prefix.startswith("d_") else _PLACES.get(prefix, len(RANKS))


@dataclass(frozen=True)
class TaxonomyClasses:
    """The classes of each rank. A class is a whole lineage down to the rank, since names recur in other lineages."""

    lineages: Mapping[str, tuple[str, ...]]
    """Sorted lineages, such as ``Bacteria; Firmicutes``, by rank; ranks that have fewer than two are left out."""

    @classmethod
    def fit(cls, taxa: Sequence[str]) -> Self:
        """Find the classes among the lineages of the ASVs that training samples hold.

        Raises:
            InputError: no rank has two classes.
        """
        parsed = [parse_lineage(taxon) for taxon in taxa]
        found = {
            rank: tuple(sorted({_down_to(names, place) for names in parsed if names[place]}))
            for place, rank in enumerate(RANKS)
        }
        lineages = {rank: classes for rank, classes in found.items() if len(classes) > 1}
        if not lineages:
            raise InputError(
                f"{_KIND}: no rank has two classes among the {len(parsed)} ASVs of training samples that it names "
                f"({first_ids(sorted(set(taxa)), 2)}): nothing to learn; give a finer one, or leave it out"
            )
        return cls(lineages)

    @property
    def sizes(self) -> dict[str, int]:
        """Number of classes by rank, in the order of `RANKS`."""
        return {rank: len(classes) for rank, classes in self.lineages.items()}

    def encode(self, taxa: Sequence[str]) -> Ints:
        """Give the class of every ASV at every rank, or `UNKNOWN`: int64 [A, R]."""
        parsed = [parse_lineage(taxon) for taxon in taxa]
        encoded = np.full((len(parsed), len(self.lineages)), UNKNOWN, dtype=np.int64)
        for column, (rank, classes) in enumerate(self.lineages.items()):
            number = {lineage: i for i, lineage in enumerate(classes)}
            place = RANKS.index(rank)
            for row, names in enumerate(parsed):
                if names[place]:
                    encoded[row, column] = number.get(_down_to(names, place), UNKNOWN)
        return encoded

    def to_json(self) -> dict[str, list[str]]:
        """JSON document for the checkpoint."""
        return {rank: list(classes) for rank, classes in self.lineages.items()}

    @classmethod
    def from_json(cls, document: Mapping[str, Sequence[str]]) -> Self:
        """Rebuild from `to_json`."""
        return cls({rank: tuple(classes) for rank, classes in document.items()})


def _down_to(names: Sequence[str], place: int) -> str:
    return "; ".join(names[: place + 1])


@dataclass(frozen=True, eq=False)
class TaxonomyLabels:
    """What the ASVs of a study are called, as classes."""

    classes: TaxonomyClasses
    code: Ints
    """[A, R], the class at each rank, or `UNKNOWN`."""
    trained: Bools
    """[A], whether a training sample holds the ASV."""

    @classmethod
    def of(cls, taxa: Sequence[str], trained: Bools) -> Self:
        """Encode the lineages of all ASVs, empty where not known, by the classes of those that training samples hold.

        Raises:
            InputError: no rank has two classes.
        """
        known = [taxon for taxon, is_trained in zip(taxa, trained, strict=True) if is_trained and taxon]
        classes = TaxonomyClasses.fit(known)
        return cls(classes, classes.encode(taxa), trained)
