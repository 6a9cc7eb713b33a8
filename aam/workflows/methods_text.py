"""Sentences that every methods section has: what the samples are, and which software was used."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from aam.config import RunConfig
from aam.training.provenance import Provenance
from aam.workflows.citations import WORKS
from aam.workflows.folder import input_paths
from aam.workflows.summary import ALL, Summary, Values

PACKAGES: Final = {
    "torch": ("PyTorch", "ansel2024"),
    "scikit-learn": ("scikit-learn", "pedregosa2011"),
    "scikit-bio": ("scikit-bio", "aton2026"),
    "numpy": ("NumPy", "harris2020"),
    "scipy": ("SciPy", "virtanen2020"),
}
"""Names and works of libraries."""
CLASSES_NAMED: Final = 8


class Text:
    """A paragraph in the making, and what it cites."""

    def __init__(self) -> None:
        self.sentences: list[str] = []
        self.cited: list[str] = []

    def say(self, sentence: str) -> None:
        """Add a sentence, without its full stop."""
        self.sentences.append(f"{sentence[0].upper()}{sentence[1:]}.")

    def cite(self, key: str, brackets: bool = True) -> str:
        """Cite a work of `WORKS`."""
        if key not in self.cited:
            self.cited.append(key)
        return f"({WORKS[key].shown})" if brackets else WORKS[key].shown

    def __str__(self) -> str:
        return " ".join(self.sentences)


def listed(parts: Iterable[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last


def say_data(summary: Summary, text: Text) -> None:
    """Say what the samples are, and what was left out."""
    used, (few, middle, many) = summary.sides[ALL], summary.reads
    groups = ""
    if summary.group_column is not None:
        groups = f" of {used.groups:,} groups (metadata column {summary.group_column})"
    text.say(
        f"the data were {used.samples:,} samples{groups} with {summary.asvs:,} amplicon sequence variants (ASVs) and "
        f"{few:,} to {many:,} reads a sample (median {middle:,})"
    )
    for name, values in used.targets.items():
        text.say(f"to be predicted was {name}, {_values(values)}")
    if summary.left_out:
        reasons = listed(f"{count:,} ({reason})" for reason, count in summary.left_out.items())
        text.say(f"samples left out before: {reasons}")


def _values(values: Values) -> str:
    if values.classes is None:
        return f"a number from {values.low:.4g} to {values.high:.4g} (mean {values.mean:.4g})"
    frequent = sorted(values.classes, key=lambda name: (-values.classes[name], name))  # type: ignore[index]
    named = [f"{name} {values.classes[name]:,}" for name in frequent[:CLASSES_NAMED]]
    more = len(frequent) - len(named)
    return f"one of {len(frequent)} classes ({', '.join(named)}{f' and {more} more' if more else ''} samples)"


def say_rarefaction(depth: int | str | None, how: str, text: Text) -> None:
    """Say which reads were used."""
    if depth is None:
        text.say("counts were not rarefied")
    else:
        text.say(f"counts were rarefied to {_number(depth)} reads of every sample, {how}; shallower ones were left out")


def _number(depth: int | str) -> str:
    return f"{depth:,}" if isinstance(depth, int) else "as many as 95 % of the samples have"


def say_software(
    config: RunConfig, provenance: Provenance | None, libraries: Sequence[str], seed: int, text: Text
) -> dict[str, str]:
    """Say with which software that was done.

    Returns:
        Versions of software that is cited, by key.
    """
    files = [path for _, path in input_paths(config)]
    _say_formats(files, text)
    sessions = () if provenance is None else provenance.sessions
    seeded = f"all that is drawn was seeded with {seed}"
    if not sessions:
        text.say(f"the analysis used aam {text.cite('aam')}, of which version was not recorded; {seeded}")
        return {}
    aam = _versions(session.software.aam or "not installed" for session in sessions)
    used = [f"Python {_versions(session.software.python for session in sessions)}"]
    for package in libraries:
        name, key = PACKAGES[package]
        version = _versions(session.software.libraries.get(package, "unknown") for session in sessions)
        used.append(f"{name} {version} {text.cite(key)}")
    text.cite("aam")
    text.say(f"the analysis used aam {aam} with {listed(used)}; {seeded}")
    return {"aam": aam}


def _say_formats(files: Sequence[Path], text: Text) -> None:
    endings = {path.suffix for path in files}
    if ".qza" in endings:
        text.say(f"files were artifacts of QIIME 2 {text.cite('bolyen2019')}")
    elif ".biom" in endings:
        text.say(f"the feature table was in the BIOM format {text.cite('mcdonald2012')}")


def _versions(versions: Iterable[str]) -> str:
    return listed(dict.fromkeys(version.partition("+")[0] for version in versions))
