"""Where a run comes from: versions, command, inputs, options."""

from collections.abc import Iterator, Mapping
from typing import Any

from aam.report.blocks import Block, Cell, Folded, Part, Table, Text
from aam.report.runs import Run


def provenance(run: Run) -> list[Part]:
    """What the run wrote of itself, and its options."""
    document = run.document(run.beside("provenance", "json"))
    blocks: list[Block] = [Text(f"Folder: {run.folder}")]
    if document is None:
        blocks.append(Text("The run was made by a version of aam that kept no provenance.", "note"))
    else:
        rows = [(Cell(name), Cell(value)) for name, value in _flat(document)]
        blocks.append(Table(["what", "value"], rows, "Provenance"))
    options = [(Cell(name), Cell(value)) for name, value in _flat(run.config)]
    if options:
        blocks.append(Folded("All options", Table(["option", "value"], options, "Options")))
    return [Part(blocks)]


def _flat(document: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Names and values, those of nested documents with the names above them."""
    for name, value in document.items():
        spelled = f"{before}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{spelled}: ")
        elif isinstance(value, list):
            yield spelled, ", ".join(map(str, value))
        elif value is not None:
            yield spelled, str(value)
