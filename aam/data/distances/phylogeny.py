"""Phylogenies as arrays: every branch is an interval of tips in preorder; no node objects and no recursion.

Shape letters: N branches (one above every node, the root's included).

Newick (https://phylipweb.github.io/phylip/newicktree.html) is read as it is written: an underscore stays an underscore,
names of internal nodes (support values, taxa) are ignored, comments in square brackets are skipped.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal, NamedTuple, Self

import numpy as np

from aam.config import RootChoice, TreeConfig
from aam.data.arrays import Floats
from aam.data.distances.rooting import Branches, midpoint, root_children
from aam.data.files.artifacts import read_text
from aam.errors import InputError, first_ids, shown

logger = logging.getLogger(__name__)


class LengthChoices(NamedTuple):
    """What is done where the length of a branch cannot be used: the text is refused, or zero is taken."""

    missing: Literal["error", "zero"] = "error"
    negative: Literal["error", "zero"] = "error"

    @classmethod
    def of(cls, inputs: TreeConfig) -> Self:
        """As the options of a command say."""
        return cls(inputs.missing_branch_lengths, inputs.negative_branch_lengths)


AS_WRITTEN: Final = LengthChoices()

# One match for each "(" "," ")" ";" with the name and the length before it. What cannot be read is swallowed whole and
# quantifiers are possessive, so that a large file of another kind is refused at once.
_EVENT = re.compile(
    r"""\s*+('(?:[^']|'')*+'|(?:[^\s()\[\]:;,']++(?:''[^\s()\[\]:;,']*+)*+)?+)\s*+
    (?::\s*+([-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?)?\s*+)?+
    ([(),;])
    |([\s\S]++)""",
    re.VERBOSE,
)
_QUOTED_OR_OPENING = re.compile(r"'[^']*+'|\[")
_BRACKET = re.compile(r"[\[\]]")
_WAYS_TO_ROOT = (
    "UniFrac depends on where the root is. Put it halfway between the two tips farthest apart with --root midpoint, "
    "or keep the one that is written with --root as-is"
)


@dataclass(frozen=True, eq=False)
class Phylogeny(Branches):
    """A rooted tree with names."""

    tip_names: tuple[str, ...]
    """Name of every tip."""


class _Nodes(NamedTuple):
    """What the text says of every node, in preorder; lengths as written, empty where missing."""

    lengths: list[str]
    start: list[int]
    stop: list[int]
    names: list[str]

    def describe(self, node: int) -> str:
        first, last = self.names[self.start[node]], self.names[self.stop[node] - 1]
        if self.stop[node] - self.start[node] == 1:
            return f"tip {first_ids([first])}"
        return f"the branch above tips {first_ids([first])} to {first_ids([last])}"


class _NewickError(Exception):
    """The text breaks the grammar at an event."""

    def __init__(self, event: int, reason: str) -> None:
        super().__init__(reason)
        self.event = event


def read_phylogeny(path: Path | str, lengths: LengthChoices = AS_WRITTEN, root: RootChoice = "error") -> Phylogeny:
    """Read a tree from Newick, gzipped Newick or a QIIME 2 artifact; arguments as for `parse_newick`.

    An artifact of type Phylogeny[Unrooted] is taken where `root` says what its root is.

    Raises:
        InputError: the file cannot be read or holds no such tree; the message says where.
    """
    types = ("Phylogeny[Rooted]", *(() if root == "error" else ("Phylogeny[Unrooted]",)))
    try:
        text = read_text(path, "tree", types)
    except InputError as error:
        if root == "error" and "Phylogeny[Unrooted]" in str(error):
            raise InputError(f"{error}: {_WAYS_TO_ROOT}") from None
        raise
    return parse_newick(text, lengths, f"tree {path}", root)


def parse_newick(
    text: str, lengths: LengthChoices = AS_WRITTEN, source: str = "tree", root: RootChoice = "error"
) -> Phylogeny:
    """Parse one tree in Newick format.

    Args:
        text: the tree; polytomies, nodes with one child, quoted names and comments are allowed.
        lengths: stop where a length is missing or negative, or take zero. The root needs none.
        source: what the text is, for messages.
        root: refuse a tree whose root has three children or more, as tree builders write trees that have no root;
            or compute the root (``midpoint``, whatever the text has); or take the root that is written (``as-is``).

    Raises:
        InputError: the text is not one Newick tree, a length is missing or negative, two tips share a name, or the
            tree is not rooted.
    """
    text = _blank_comments(text, source).rstrip()
    if not text:
        raise InputError(f"{source}: empty; a tree in Newick format is wanted")
    try:
        nodes = _walk(match.groups("") for match in _EVENT.finditer(text))
    except _NewickError as fault:
        where, excerpt = _locate(text, fault.event)
        raise InputError(f"{source}, {where}: not a Newick tree: {fault} (at {excerpt!r})") from None
    _check_names(nodes.names, source)
    length = _branch_lengths(nodes, lengths, source)
    branches, names = Branches(length, np.array(nodes.start), np.array(nodes.stop)), nodes.names
    if root == "midpoint":
        branches, tips = midpoint(branches)
        names = [names[tip] for tip in tips.tolist()]
    elif root == "error" and (children := root_children(branches)) > 2:
        raise InputError(f"{source}: not rooted, its root has {children} children instead of two: {_WAYS_TO_ROOT}")
    return Phylogeny(branches.length, branches.start, branches.stop, tuple(names))


def _walk(events: Iterable[Sequence[str]]) -> _Nodes:
    """Number nodes and tips in preorder in one pass over (name, length, mark, unreadable rest)."""
    nodes = _Nodes([], [], [], [])
    lengths, start, stop, names = nodes
    above: list[int] = []
    closed, event, previous, ended = -1, -1, "", False
    for event, (name, length, mark, rest) in enumerate(events):
        if ended:
            raise _NewickError(event, "more follows after the first tree; give one tree")
        if mark == "(":
            if name or length or previous not in "(,":
                raise _NewickError(event, "an opening parenthesis cannot stand here")
            above.append(len(start))
            start.append(len(names))
            stop.append(-1)
            lengths.append("")
        elif not mark:
            torn = re.search(r"[(),;]", rest) is None
            expected = "a name, a number after a colon, or one of ( ) , ; is expected"
            raise _NewickError(event, "it ends without a semicolon" if torn else expected)
        else:
            if previous == ")":
                lengths[closed] = length
            else:
                start.append(len(names))
                names.append(_tip_name(event, name))
                stop.append(len(names))
                lengths.append(length)
            if mark == ")" and above:
                closed = above.pop()
                stop[closed] = len(names)
            elif mark != "," or not above:
                _check_end(event, len(above), mark, previous)
                ended = True
        previous = mark
    if previous != ";":
        raise _NewickError(event, f"it ends without a semicolon, with {len(above)} parentheses open")
    return nodes


def _tip_name(event: int, written: str) -> str:
    name = (written[1:-1] if written.startswith("'") else written).replace("''", "'")
    if not name:
        raise _NewickError(event, "a tip has no name")
    return name


def _check_end(event: int, still_open: int, mark: str, previous: str) -> None:
    """Refuse a mark that neither continues nor ends the tree."""
    if mark == ")":
        raise _NewickError(event, "a closing parenthesis has no opening one")
    if mark == ",":
        raise _NewickError(event, "a comma stands outside all parentheses")
    if still_open:
        raise _NewickError(event, f"{still_open} parentheses are not closed")
    if previous != ")":
        raise _NewickError(event, "there are no parentheses")


def _locate(text: str, event: int) -> tuple[str, str]:
    """Place of an event for a person, and the text there."""
    match = next(islice(_EVENT.finditer(text), event, None))
    offset = match.start(3 if match[3] else 4)
    offset += len(match[0]) - len(match[0].lstrip()) if match[4] else 0
    line = text.count("\n", 0, offset) + 1
    column = offset - text.rfind("\n", 0, offset)
    return f"line {line}, column {column}", text[offset : offset + 30]


def _blank_comments(text: str, source: str) -> str:
    """Replace comments, which may be nested, by blanks: places in the text stay the same."""
    if "[" not in text:
        return text
    pieces, done = [], 0
    while found := _QUOTED_OR_OPENING.search(text, done):
        pieces.append(text[done : found.end()] if found[0] != "[" else text[done : found.start()])
        done = found.end()
        if found[0] == "[":
            done = _end_of_comment(text, found.start(), source)
            pieces.append(re.sub(r"[^\n]", " ", text[found.start() : done]))
    return "".join(pieces) + text[done:]


def _end_of_comment(text: str, opening: int, source: str) -> int:
    depth = 0
    for bracket in _BRACKET.finditer(text, opening):
        depth += 1 if bracket[0] == "[" else -1
        if depth == 0:
            return bracket.end()
    raise InputError(f"{source}: not a Newick tree: the comment {text[opening : opening + 30]!r} is not closed")


def _check_names(names: Sequence[str], source: str) -> None:
    if len(set(names)) < len(names):
        repeated = [name for name, times in Counter(names).items() if times > 1]
        raise InputError(f"{source}: tips share the names {first_ids(repeated)}; every tip needs its own")


def _branch_lengths(nodes: _Nodes, choices: LengthChoices, source: str) -> Floats:
    lengths = np.array([float(length) if length else np.nan for length in nodes.lengths])
    if np.isnan(lengths[0]):
        lengths[0] = 0.0
    absent = np.flatnonzero(np.isnan(lengths))
    if len(absent) and choices.missing == "error":
        raise InputError(
            f"{source}: {len(absent)} of {len(lengths)} branches have no length, first {nodes.describe(absent[0])}; "
            "give a tree with branch lengths, or take zero with --missing-branch-lengths zero"
        )
    lengths[absent] = 0.0
    negative = (lengths < 0) & np.isfinite(lengths) & (choices.negative == "zero")
    wrong = np.flatnonzero(((lengths < 0) | np.isinf(lengths)) & ~negative)
    if len(wrong):
        hint = "" if np.isinf(lengths[wrong]).any() else ", or take zero with --negative-branch-lengths zero"
        raise InputError(
            f"{source}: {len(wrong)} of {len(lengths)} branches have a negative or infinite length, first "
            f"{nodes.describe(wrong[0])}: {shown(nodes.lengths[wrong[0]])}; correct the tree{hint}"
        )
    if negative.any():
        logger.warning(
            "%s: %d of %d branches have a negative length, %g in all, and count as zero",
            *(source, negative.sum(), len(lengths), lengths[negative].sum()),
        )
    lengths[negative] = 0.0
    return lengths
