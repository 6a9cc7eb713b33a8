"""The page: sections in their order, on one file of HTML that needs nothing else."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from aam.report.blocks import Part, Section, Text
from aam.report.drawing import TOKEN
from aam.report.runs import TITLES, Run
from aam.report.sections.cautions import cautions
from aam.report.sections.classes import classes
from aam.report.sections.confounders import confounders
from aam.report.sections.coverage import coverage
from aam.report.sections.curves import curves
from aam.report.sections.data import data
from aam.report.sections.importance import importance
from aam.report.sections.numbers import against_true
from aam.report.sections.ordinations import ordinations
from aam.report.sections.provenance import provenance
from aam.report.sections.residuals import residuals
from aam.report.sections.samples import worst
from aam.report.sections.scores import scores
from aam.report.sections.verdict import tuning, verdict

TEMPLATES: Final = Path(__file__).parent / "templates"
SECTIONS: Final[Sequence[tuple[str, str, Callable[[Run], list[Part]]]]] = (
    ("verdict", "Result", verdict),
    ("data", "Data", data),
    ("curves", "Learning curves", curves),
    ("scores", "Scores", scores),
    ("tuning", "Tuning", tuning),
    ("against-true", "Predicted against true", against_true),
    ("residuals", "Errors by group, depth and category", residuals),
    ("classes", "Classes", classes),
    ("worst", "Worst samples", worst),
    ("ordination", "Ordination", ordinations),
    ("importance", "Importance", importance),
    ("confounders", "Confounders", confounders),
    ("coverage", "Coverage of intervals", coverage),
    ("warnings", "Warnings", cautions),
    ("provenance", "Provenance", provenance),
)
"""Anchor, title, and what makes the parts of a run, in the order of the page."""


def page(runs: Sequence[Run]) -> str:
    """A page of HTML about one run or several.

    Raises:
        InputError: a file of a run is damaged, or the metadata lack a column that errors are wanted by.
    """
    sections = [Section(anchor, title, _parts(make, runs)) for anchor, title, make in SECTIONS]
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    numbers = count(1)
    environment.filters["numbered"] = lambda svg: Markup(svg.replace(TOKEN, f"f{next(numbers)}-"))
    return environment.get_template("report.html.j2").render(
        title=_title(runs),
        sections=[section for section in sections if section.parts],
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
        script=(TEMPLATES / "report.js").read_text(encoding="utf-8"),
    )


def _parts(make: Callable[[Run], list[Part]], runs: Sequence[Run]) -> list[Part]:
    """What all runs have to say; with the run's name above it where there are several."""
    if len(runs) == 1:
        return make(runs[0])
    found, said = [], {run: make(run) for run in runs}
    for run, parts in said.items():
        same = next(other for other, its in said.items() if its == parts)
        told = parts if same is run or not parts else [Part([Text(f"As of {same.name}.")])]
        for number, part in enumerate(told):
            title = f"{run.name}: {part.title}" if part.title else run.name if number == 0 else ""
            found.append(replace(part, title=title))
    return found


def _title(runs: Sequence[Run]) -> str:
    columns = ", ".join(dict.fromkeys(column for run in runs for column in run.columns))
    kinds = " and ".join(dict.fromkeys(TITLES[run.kind] for run in runs))
    return f"{kinds[0].upper()}{kinds[1:]}{f' of {columns}' if columns else ''}"
