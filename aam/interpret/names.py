"""Names of ASVs, clades and taxa that can be read: lineages where a taxonomy is given, and the beginning of a hash."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from aam.data.files.tables import FeatureTable
from aam.data.labels.taxonomy import parse_lineage

_HASH = re.compile(r"[0-9a-f]{32}")
_LETTERS: Final = 8
_NAMED: Final = 2
"""ASVs that stand for a clade without a lineage."""


@dataclass(frozen=True, eq=False)
class Names:
    """Names of the ASVs of a table [A]."""

    short: Sequence[str]
    """The id, where it is short; else the first letters of the MD5 hash of the sequence, which QIIME 2 has as id."""
    lineages: Sequence[str]
    """As written in the taxonomy; empty where it is not known."""
    reads: NDArray[np.int64]
    """Of each ASV."""

    @classmethod
    def of(cls, table: FeatureTable, taxonomy: Mapping[str, str] | None) -> Self:
        """Name the ASVs of a table."""
        short = [_short(name, sequence) for name, sequence in zip(table.asv_ids, table.sequences, strict=True)]
        lineages = [(taxonomy or {}).get(name, "") for name in table.asv_ids]
        return cls(short, lineages, table.asv_reads)

    def asv(self, column: int) -> str:
        """The lowest known taxon of an ASV, and what tells it from others of the same: ``Blautia 3f2a1b9c``."""
        taxon = _lowest(parse_lineage(self.lineages[column]))
        return f"{taxon} {self.short[column]}".strip()

    def clade(self, columns: NDArray[np.int64]) -> str:
        """The taxon that all ASVs of a clade have in common, or the most abundant ones, and how many they are."""
        if len(columns) == 1:
            return self.asv(int(columns[0]))
        taxon = _lowest(self._common(columns))
        if not taxon:
            largest = columns[np.argsort(-self.reads[columns], kind="stable")][:_NAMED]
            taxon = "clade of " + ", ".join(self.asv(int(column)) for column in largest)
        return f"{taxon} ({len(columns)} ASVs)"

    def taxon(self, lineage: str, columns: NDArray[np.int64], rank: str) -> str:
        """A taxon with its rank: ``genus Blautia (12 ASVs)``."""
        plural = "ASV" if len(columns) == 1 else "ASVs"
        return f"{rank} {lineage.rsplit('; ', 1)[-1]} ({len(columns)} {plural})"

    def _common(self, columns: NDArray[np.int64]) -> tuple[str, ...]:
        """Names that all ASVs share whose lineage is known, from the top down to the first that differs."""
        known = [parse_lineage(self.lineages[column]) for column in columns.tolist() if self.lineages[column]]
        shared: list[str] = []
        for names in zip(*known, strict=True):
            if len(set(names)) > 1:
                break
            shared.append(names[0])
        return tuple(shared)


def _lowest(names: Sequence[str]) -> str:
    """The lowest name of a lineage; with the genus before it, where that is a species' name alone."""
    known = [(place, name) for place, name in enumerate(names) if name]
    if not known:
        return ""
    place, name = known[-1]
    genus = names[place - 1] if place == len(names) - 1 else ""
    return f"{genus} {name}" if genus and place == 6 and not name.startswith(genus) else name


def _short(name: str, sequence: str) -> str:
    if name == sequence or (len(name) > 2 * _LETTERS and not _HASH.fullmatch(name)):
        return md5(sequence.encode(), usedforsecurity=False).hexdigest()[:_LETTERS]
    return name[:_LETTERS] if _HASH.fullmatch(name) else name
