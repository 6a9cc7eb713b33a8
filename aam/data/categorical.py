"""Categorical metadata as indices that the model looks up, with hierarchies.

K columns; N samples.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
import pandas as pd

from aam.config import CategoryColumnsConfig, CategoryConfig
from aam.data.arrays import Ints
from aam.data.files.artifacts import read_json_object
from aam.data.files.metadata import categorical_column
from aam.data.labels.hierarchy import Texts, ancestors, check_known, cycle, fill, settle
from aam.errors import InputError, first_ids, quoted

logger = logging.getLogger(__name__)

MISSING, UNSEEN, KNOWN = 0, 1, 2
"""Indices of a missing category and of one without a training sample, and where those of training begin."""

FEW = 10
"""Training samples below which every column tells them apart."""
_SHOWN = 10
_PARENTS_SHOWN = 20


def parse_hierarchy(config: CategoryColumnsConfig) -> dict[str, str]:
    """Read ``--categorical-hierarchy``.

    Returns:
        Parent column by child column, such as ``{"city": "region", "region": "country"}``.

    Raises:
        InputError: a part or the JSON file cannot be read, a child has two parents, there is a cycle, or a child is
            neither a categorical column nor an ancestor of one.
    """
    parents: dict[str, str] = {}
    for child, parent in _links(config):
        if parents.setdefault(child, parent) != parent:
            raise InputError(
                f"--categorical-hierarchy gives {child} two parents, {parents[child]} and {parent}: keep one; a "
                f"column may have two children, but one parent"
            )
    circle = cycle(parents)
    if circle is not None:
        raise InputError(f"--categorical-hierarchy goes in a circle: {' -> '.join(circle)}; leave one of these out")
    reached = {name for column in config.categorical_columns for name in (column, *ancestors(column, parents))}
    apart = [child for child in parents if child not in reached]
    if apart:
        raise InputError(
            f"--categorical-hierarchy {apart[0]}={parents[apart[0]]}: {apart[0]} is neither one of "
            f"--categorical-columns ({', '.join(config.categorical_columns)}) nor above one of them; add it to "
            "--categorical-columns, or leave it out of the hierarchy"
        )
    return parents


def _links(config: CategoryColumnsConfig) -> list[tuple[str, str]]:
    """Pairs of child and parent as they are given."""
    path = config.hierarchy_file
    if path is None:
        return [_link(part) for part in config.categorical_hierarchy]
    content = read_json_object(path, "--categorical-hierarchy")
    bad = [child for child, parent in content.items() if not (child and isinstance(parent, str) and parent)]
    if bad or not content:
        shown = f"{quoted(bad[0])} has the parent {quoted(content[bad[0]])}" if bad else "it is empty"
        raise InputError(
            f'--categorical-hierarchy {path}: {shown}; name columns as {{"child": "parent"}}, such as '
            '{"city": "region", "region": "country"}'
        )
    return list(content.items())


def _link(part: str) -> tuple[str, str]:
    child, _, parent = (piece.strip() for piece in part.partition("="))
    if not child or not parent or "=" in parent:
        raise InputError(
            f"--categorical-hierarchy {part}: write CHILD=PARENT, such as city=region,region=country, or name one JSON "
            "file (.json), which also takes column names with '='"
        )
    return child, parent


@dataclass(frozen=True)
class CategoryEncoder:
    """Which columns the prediction depends on, and the index of each of their values.

    Attributes:
        columns: first those of ``--categorical-columns`` as the user gave them, then ancestors that only serve as
            parents, then the column that scales predictions if it is none of these [K].
        fused: how many of them, from the first on, the sample is fused with.
        values: of each column, those of the training samples, sorted as text; the index of a value is its place here
            plus 2 [K].
        parents: parent column by child column, all among `columns`.
        parent_values: child column -> child value -> parent value, where the training samples tell.
        scaled: the column of ``--conditional-output-scaling``.
    """

    columns: tuple[str, ...]
    fused: int
    values: tuple[tuple[str, ...], ...]
    parents: Mapping[str, str]
    parent_values: Mapping[str, Mapping[str, str]]
    scaled: str | None

    @classmethod
    def fit(cls, metadata: pd.DataFrame, train: Ints, config: CategoryConfig, targets: Sequence[str]) -> Self | None:
        """Collect the categories of the training samples, and learn which parent a value has.

        Args:
            metadata: all samples of the study, as `read_metadata` returns it [N].
            train: rows of the training samples.
            config: which columns.
            targets: columns to predict, which must not become inputs.

        Returns:
            None where the config asks for no categories.

        Raises:
            InputError: the hierarchy is wrong, a column is not there or has no value in training, one is to be
                predicted, or a value is seen under two parents.
        """
        parents = parse_hierarchy(config)
        columns = _columns(config, parents)
        if not columns:
            return None
        _refuse_targets(columns, config, parents, targets)
        texts = {column: list(categorical_column(metadata, column)) for column in columns}
        texts, parent_values = settle(texts, train.tolist(), parents)
        of_train = {column: [texts[column][row] for row in train.tolist()] for column in columns}
        values = tuple(map(_values, of_train.values()))
        for column, known in zip(columns, values, strict=True):
            _judge_values(column, known, of_train[column])
        fused, scaled = len(config.categorical_columns), config.conditional_output_scaling
        return cls(columns, fused, values, parents, parent_values, scaled)

    @classmethod
    def of_levels(cls, metadata: pd.DataFrame, levels: Sequence[str]) -> Self:
        """Collect, saying nothing, the categories in training samples of a column, its parent, and so on.

        Raises:
            InputError: a column is not there, or a value is seen under two parents.
        """
        parents = dict(pairwise(levels))
        texts = {column: list(categorical_column(metadata, column)) for column in levels}
        texts, parent_values = settle(texts, range(len(metadata)), parents)
        return cls(tuple(levels), 1, tuple(_values(texts[column]) for column in levels), parents, parent_values, None)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Rows of the embedding table of each column: its values, missing and unseen [K]."""
        return tuple(len(values) + 2 for values in self.values)

    @property
    def parent_index(self) -> tuple[int | None, ...]:
        """For each column, which one is its parent [K]."""
        parents = (self.parents.get(column) for column in self.columns)
        return tuple(None if parent is None else self.columns.index(parent) for parent in parents)

    @property
    def needed(self) -> tuple[str, ...]:
        """Columns that new samples must have: all but parents, which are filled in from their children."""
        return tuple(column for column in self.columns if column not in self.parents.values())

    @property
    def scaled_index(self) -> int | None:
        """Which column scales predictions."""
        return None if self.scaled is None else self.columns.index(self.scaled)

    def encode(self, metadata: pd.DataFrame) -> Ints:
        """Indices of the categories of samples, 0 where missing, 1 where unseen in training [N, K].

        A parent that is missing, or whose column is, is filled in from the child where training tells it. Says which
        columns are absent and which values unseen.

        Raises:
            InputError: a column is absent that is no parent, or a value has another parent than in training.
        """
        codes, texts = self._encode(metadata)
        ids = [str(name) for name in metadata.index]
        self._warn_of_absent(metadata)
        for place, column in enumerate(self.columns):
            self._warn_of_unseen(column, texts[column], codes[:, place], ids)
        return codes

    def codes(self, metadata: pd.DataFrame) -> Ints:
        """As `encode`, saying nothing."""
        return self._encode(metadata)[0]

    def _encode(self, metadata: pd.DataFrame) -> tuple[Ints, Texts]:
        """Indices, and the texts that they stand for."""
        given = self._read(metadata)
        texts = fill(given, self.parents, self.parent_values)
        ids = [str(name) for name in metadata.index]
        check_known(texts, given, self.parents, self.parent_values, ids)
        codes = np.zeros((len(ids), len(self.columns)), dtype=np.int64)
        for place, (column, values) in enumerate(zip(self.columns, self.values, strict=True)):
            index: dict[str | None, int] = {value: number for number, value in enumerate(values, start=KNOWN)}
            codes[:, place] = [index.get(text, UNSEEN) for text in texts[column]]
            codes[[text is None for text in texts[column]], place] = MISSING
            self._refuse_numbers(column, metadata, unseen=bool((codes[:, place] == UNSEEN).any()))
        return codes, texts

    def _read(self, metadata: pd.DataFrame) -> Texts:
        """The columns as they are given; an absent parent is missing everywhere."""
        absent = [column for column in self.columns if column not in metadata.columns]
        needed = [column for column in absent if column in self.needed]
        if needed:
            raise InputError(
                f"sample metadata: no column {first_ids(map(repr, needed))}; the model was trained with "
                f"categories and needs {', '.join(self.needed)} of new samples too (a value that is not known "
                f"stays empty); columns: {first_ids(metadata.columns, limit=30) or 'none'}"
            )
        rows = len(metadata)
        return {
            column: [None] * rows if column in absent else list(categorical_column(metadata, column))
            for column in self.columns
        }

    def _warn_of_absent(self, metadata: pd.DataFrame) -> None:
        for column in (name for name in self.columns if name not in metadata.columns):
            children = [child for child, parent in self.parents.items() if parent == column]
            logger.warning(
                "the metadata has no column %s: it is filled in from %s where training tells it, and missing elsewhere",
                column,
                " and ".join(children),
            )

    def _refuse_numbers(self, column: str, metadata: pd.DataFrame, unseen: bool) -> None:
        """Refuse a column of codes such as 01 that was text in training and is read as numbers now, 1."""
        values = self.values[self.columns.index(column)]
        coded = [value for value in values if re.fullmatch(r"0\d+|\d+\.\d*0", value)]
        if unseen and coded and column in metadata and pd.api.types.is_numeric_dtype(metadata[column]):
            raise InputError(
                f"{column} holds text such as {quoted(coded[0])} in training, and is read as numbers here, which lose "
                "zeros: give it the type categorical in a row '#q2:types' of the metadata"
            )

    def _warn_of_unseen(self, column: str, texts: Sequence[str | None], codes: Ints, ids: Sequence[str]) -> None:
        rows = np.flatnonzero(codes == UNSEEN).tolist()
        if rows:
            names = sorted({str(texts[row]) for row in rows})
            logger.warning(
                "%s: no training sample has %s; %d of %d samples are taken as unseen%s: %s",
                column,
                first_ids(map(repr, names)),
                len(rows),
                len(ids),
                f", known by their {self.parents[column]} alone" if column in self.parents else "",
                first_ids(ids[row] for row in rows),
            )

    def describe(self) -> str:
        """A readable schema: the columns, their values, and for hierarchies the values under each parent."""
        lines = ["categories:"]
        for place, (column, values) in enumerate(zip(self.columns, self.values, strict=True)):
            roles = ["parent"] if place >= self.fused and column in self.parents.values() else []
            roles += ["scales predictions"] if column == self.scaled else []
            count = "; ".join([f"{len(values)} value{'s' if len(values) > 1 else ''}", *roles])
            lines.append(f"  {column} ({count}): {first_ids(values, limit=_SHOWN)}")
        for child, parent in self.parents.items():
            lines += [f"hierarchy {child} -> {parent}:", *self._families(child)]
        return "\n".join(lines)

    def _families(self, child: str) -> list[str]:
        """A line for each parent value, with the child values under it."""
        known = self.parent_values[child]
        families: dict[str | None, list[str]] = {}
        for value in self.values[self.columns.index(child)]:
            families.setdefault(known.get(value), []).append(value)
        unknown = families.pop(None, [])
        lines = [f"  {parent}: {first_ids(families[parent], limit=_SHOWN)}" for parent in sorted(families, key=str)]
        if len(lines) > _PARENTS_SHOWN:
            lines[_PARENTS_SHOWN:] = [f"  ... ({len(lines)} in all)"]
        return lines + ([f"  (parent not known): {first_ids(unknown, limit=_SHOWN)}"] if unknown else [])

    def to_json(self) -> dict[str, Any]:
        """JSON document for the checkpoint."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Rebuild an equal encoder from `to_json`."""
        columns, values = tuple(document["columns"]), tuple(map(tuple, document["values"]))
        return cls(**{**document, "columns": columns, "values": values})


def _columns(config: CategoryConfig, parents: Mapping[str, str]) -> tuple[str, ...]:
    """Every column once: fused ones, their ancestors, the one that scales."""
    fused, scaled = config.categorical_columns, config.conditional_output_scaling
    above = [name for column in fused for name in ancestors(column, parents)]
    return tuple(dict.fromkeys([*fused, *above, *([] if scaled is None else [scaled])]))


def _refuse_targets(
    columns: Sequence[str], config: CategoryConfig, parents: Mapping[str, str], targets: Sequence[str]
) -> None:
    """Refuse a prediction that reads its own target."""
    for target in (name for name in targets if name in columns):
        children = [child for child, parent in parents.items() if parent == target]
        if target in config.categorical_columns or not children:
            raise InputError(f"{target} is the column to predict, and unknown of new samples: it cannot be a category")
        raise InputError(
            f"--categorical-hierarchy {children[0]}={target}: {target} is the column to predict, and {children[0]} "
            "would tell it; leave it out of the hierarchy"
        )


def _values(texts: Sequence[str | None]) -> tuple[str, ...]:
    """The values of a column in training, sorted."""
    return tuple(sorted({text for text in texts if text is not None}))


def _judge_values(column: str, values: Sequence[str], texts: list[str | None]) -> None:
    """Refuse a column without values in training, and say where values hardly tell anything."""
    if not values:
        raise InputError(
            f"{column} has no value in any of the {len(texts)} training samples: there is no category to learn; choose "
            "another column or split"
        )
    known = len(texts) - texts.count(None)
    if known > FEW and len(values) > known / 2:
        logger.warning(
            "%s has %d values in %d training samples: it tells samples apart more than groups of them",
            column,
            len(values),
            known,
        )
    if len(values) == 1 and None not in texts:
        logger.warning("%s is %s in all %d training samples: it tells nothing", column, repr(values[0]), len(texts))
