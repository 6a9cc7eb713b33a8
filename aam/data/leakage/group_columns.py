"""Columns of the metadata that look like subjects, sites, studies, runs or places, by their names and values alone."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

from aam.data.arrays import Ints
from aam.data.files.metadata import categorical_column

Role = Literal["subject", "site", "study", "run", "other"]
Codes = Ints


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_WORDS: Final[Mapping[Role, frozenset[str]]] = {
    "subject": _words(
        "subject patient participant individual donor recipient animal mouse rat person volunteer proband infant baby "
        "child mother twin host fish family litter case pid"
    ),
    "site": _words(
        "site station location house household home farm plot field cage tank hospital ward reactor well building"
    ),
    "study": _words("study project experiment dataset cohort trial bioproject"),
    "run": _words(
        "run plate batch primer lane sequencing sequencer flowcell extraction library prep kit instrument center centre"
    ),
}
_ROLE_OF: Final[Mapping[str, Role]] = {word: role for role, words in _WORDS.items() for word in words}
_PLACES: Final = _words("city town village municipality district county province region country zone loc school")
_IDS: Final = _words("id ids identifier number nr num no code accession")
_GENERIC: Final = _IDS | _words("name label prefix key index alias anonymized anonymised")
_NEEDS_AN_ID: Final = _words("host child case fish well field family mother infant baby")
"""Words that name a subject or site only where the column says that it holds their ids."""
_WEAK_SITES: Final = _words("site location station")
"""Words that may mean a part of the body too."""
_NOT_A_PLACE: Final = _words("body sample specimen tissue type swab anatomical")
_QUANTITIES: Final = _words(
    "count counts total years days weeks months hours age sex gender weight height mass length temp temperature time "
    "per in inside outside of since distance depth amount concentration size type status group category"
)
_BODY: Final = _words(
    "gut stool feces fecal faeces faecal skin oral saliva tongue palm nasal nose vaginal vagina rectal ileum colon "
    "cecum gill mucus blood urine ear mouth throat lung plaque gingival"
)
_MISSING: Final = _words(
    "na n_a nan none null unknown missing unspecified not_available not_applicable not_collected not_provided "
    "not_recorded"
) | {""}
LEAST_WEAK_SITES: Final = 6
LEAST_UNNAMED: Final = 8
MOST_IN_UNNAMED: Final = 12
"""Samples of a group, on average, up to which a column of unknown name may hold subjects."""
MOST_VALUES: Final = 1 / 1.5
"""Values for each sample, above which a column without a subject's name tells samples rather than groups."""
LEAST_REPEATED: Final = 0.05
"""Fraction of the samples that must share their subject with another."""


@dataclass(frozen=True, eq=False)
class Grouping:
    """The groups that a column puts samples into."""

    column: str
    role: Role
    codes: Codes
    """Group of each sample [n], numbered by first appearance; -1 where the column is empty."""
    spellings: tuple[str, str] | None = None
    """Two values that differ in blanks, case or punctuation alone, and count as one."""
    copies: tuple[str, ...] = ()
    """Columns that make the same groups."""

    @property
    def sizes(self) -> Codes:
        """Samples of each group."""
        return np.bincount(self.codes[self.codes >= 0])

    @property
    def repeated(self) -> int:
        """Samples that are not the only one of their group."""
        return int(self.sizes[self.sizes > 1].sum())


def tokens(name: str) -> list[str]:
    """Words of a column's name, in lower case and singular: ``HostSubject.IDs`` as host, subject, id."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = [word for word in re.split(r"[^A-Za-z]+", apart.lower()) if word]
    singular = {"mice": "mouse", "children": "child", "people": "person", "cities": "city", "studies": "study"}
    plural = r"(?<=..[^s])s$"
    return [singular.get(word, word if word in _QUANTITIES else re.sub(plural, "", word)) for word in words]


def fold(value: str) -> str:
    """A value without what spellings differ in: blanks, case and the kind of punctuation; numbers stay as they are."""
    try:
        number = float(value)
    except ValueError:
        number = math.inf
    if abs(number) < 2**53:  # from there on ids that differ may be one number
        return repr(number)
    return re.sub(r"[\s_.:;,/\\-]+", "_", value.strip().casefold())


def role_of(name: str) -> Role | None:
    """What a column's name says that it holds, if that is a subject, site, study or run."""
    words = tokens(name)
    meant = [word for word in words if word not in _GENERIC]
    if not meant or set(words) & _QUANTITIES or words[0] in ("number", "num", "no", "n"):
        return None
    if any(_ROLE_OF.get(word) == "run" for word in meant):
        return "run"
    head = meant[-1]
    if head in _NEEDS_AN_ID and not _IDS & set(words):
        return None
    if head in _WEAK_SITES and set(meant) & _NOT_A_PLACE:
        return None
    return _ROLE_OF.get(head)


def is_place(name: str) -> bool:
    """Whether a column is named for a town, a region or the like."""
    meant = [word for word in tokens(name) if word not in _GENERIC]
    return bool(meant) and meant[-1] in _PLACES and not set(meant) & (_QUANTITIES | _NOT_A_PLACE)


def codes_of(values: Sequence[str | None]) -> tuple[Codes, tuple[str, str] | None]:
    """Number values by first appearance, spelled loosely; also two spellings of one value, if there are."""
    folded = {value: fold(value) for value in set(values) if value is not None}
    texts = [None if value is None or folded[value] in _MISSING else folded[value] for value in values]
    codes, _ = pd.factorize(np.array(texts, dtype=object), use_na_sentinel=True)
    spelled: dict[str, list[str]] = {}
    for value in sorted(folded):
        spelled.setdefault(folded[value], []).append(value)
    twice = sorted((names[0], names[1]) for key, names in spelled.items() if len(names) > 1 and key not in _MISSING)
    return codes.astype(np.int64), twice[0] if twice else None


def raw_codes(values: Sequence[str | None]) -> Codes:
    """Number values as they are spelled, -1 where missing."""
    return pd.factorize(np.array(values, dtype=object), use_na_sentinel=True)[0].astype(np.int64)


def determines(fine: Codes, coarse: Codes) -> bool:
    """Whether samples of one group of `fine` are of one group of `coarse`, wherever both are known.

    A sample without a group in `fine` is alone in its own.
    """
    known = (fine >= 0) & (coarse >= 0)
    pairs = np.unique(np.stack([fine[known], coarse[known]]), axis=1)
    return bool(len(np.unique(pairs[0])) == pairs.shape[1])


def groupings(metadata: pd.DataFrame, targets: pd.DataFrame) -> list[Grouping]:
    """Columns that may hold subjects, sites, studies or runs, one of each set of copies, subjects first.

    Columns of unknown name are looked at only where none is named for a subject, site or study. Targets (numbers, or
    text where they are classes) and what is named or coded for them are no groups.
    """
    classes = [raw_codes(list(targets[name])) for name in targets if not pd.api.types.is_numeric_dtype(targets[name])]
    names = sorted(str(name) for name in metadata if not any(_of_target(str(name), str(of)) for of in targets))
    named = [_named(metadata, name, role) for name in names if (role := role_of(name)) is not None]
    found = [group for group in named if group is not None]
    if all(group.role == "run" for group in found):
        found += [group for name in names if (group := _unnamed(metadata, name)) is not None]
    found = [group for group in found if not any(_same(group.codes, codes) for codes in classes)]
    return _without_copies(sorted(found, key=_rank))


def place_columns(metadata: pd.DataFrame, targets: pd.DataFrame) -> list[Grouping]:
    """Towns, regions and the like, with two values at least."""
    names = [str(name) for name in metadata if not any(_of_target(str(name), str(of)) for of in targets)]
    coded = [Grouping(name, "other", *_coded(metadata, name)) for name in sorted(names) if is_place(name)]
    return [group for group in coded if len(group.sizes) > 1]


def _rank(group: Grouping) -> tuple[int, bool, bool, int, str]:
    """Best named first: by role, then a word that stands for itself, then a name that says id, then the shorter."""
    words = set(tokens(group.column))
    order: list[Role] = ["subject", "site", "study", "run", "other"]
    stands = any(_ROLE_OF.get(word) == group.role for word in words - _NEEDS_AN_ID)
    return order.index(group.role), not stands, not words & _IDS, len(group.column), group.column


def _of_target(name: str, target: str) -> bool:
    """Whether a column is the target, or named as one made from it, such as ``ph_bin`` from ``ph``."""
    words, of = Counter(tokens(name)), Counter(tokens(target))
    return name == target or (bool(of) and words >= of and not any(word in _ROLE_OF for word in words - of))


def _coded(metadata: pd.DataFrame, name: str) -> tuple[Codes, tuple[str, str] | None]:
    return codes_of(list(categorical_column(metadata, name)))


def _is_measured(column: "pd.Series[Any]") -> bool:
    """Whether values are numbers with decimals, which no id has."""
    numbers = pd.to_numeric(column, errors="coerce").dropna().to_numpy(np.float64)
    return len(numbers) > 0.5 * column.notna().sum() and bool((numbers != np.round(numbers)).any())


def _named(metadata: pd.DataFrame, name: str, role: Role) -> Grouping | None:
    """The groups of a column with a telling name, if several samples share some."""
    if _is_measured(metadata[name]):
        return None
    group = Grouping(name, role, *_coded(metadata, name))
    values, known = len(group.sizes), int(group.sizes.sum())
    if values < 2 or group.repeated < LEAST_REPEATED * known or (role != "subject" and values > MOST_VALUES * known):
        return None
    words = set(tokens(name))
    if role == "site" and words & _WEAK_SITES:
        of_body = any(not _BODY.isdisjoint(tokens(str(value))) for value in metadata[name].dropna().unique())
        return None if values < LEAST_WEAK_SITES or of_body else group
    return group


def _unnamed(metadata: pd.DataFrame, name: str) -> Grouping | None:
    """The groups of a column of text whose name says nothing: many, of few samples each, and not dates or numbers."""
    column = metadata[name]
    if role_of(name) is not None or is_place(name) or pd.api.types.is_numeric_dtype(column):
        return None
    if column.dropna().astype(str).str.fullmatch(r"[\d\s.:/TZ+-]*").mean() > 0.5:
        return None
    group = Grouping(name, "other", *_coded(metadata, name))
    values, known = len(group.sizes), int(group.sizes.sum())
    few_each = LEAST_UNNAMED <= values <= MOST_VALUES * known and known <= MOST_IN_UNNAMED * values
    return group if few_each and 2 * group.repeated >= known else None


def _same(one: Codes, other: Codes) -> bool:
    """Whether two columns make the same groups of the same samples."""
    return bool(((one >= 0) == (other >= 0)).all()) and determines(one, other) and determines(other, one)


def _without_copies(groups: Sequence[Grouping]) -> list[Grouping]:
    """The first of each set of columns that make the same groups, with the names of the others."""
    kept: list[list[Grouping]] = []
    for group in groups:
        alike = next((others for others in kept if _same(others[0].codes, group.codes)), None)
        if alike is None:
            kept.append([group])
        else:
            alike.append(group)
    return [
        Grouping(best.column, best.role, best.codes, best.spellings, tuple(other.column for other in others))
        for best, *others in kept
    ]
