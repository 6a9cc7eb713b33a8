"""Where a run comes from: versions, command, inputs, options."""

from aam.report.blocks import Block, Cell, Folded, Part, Table, Text, flattened
from aam.report.runs import Run


def provenance(run: Run) -> list[Part]:
    """What the run wrote of itself, and its options."""
    document = run.document(run.folder.provenance)
    blocks: list[Block] = [Text(f"Folder: {run.folder}")]
    if document is None:
        blocks.append(Text("The run was made by a version of aam that kept no provenance.", "note"))
    else:
        told = {name: value for name, value in document.items() if name != "data"}  # a section of its own
        rows = [(Cell(name), Cell(value)) for name, value in flattened(told)]
        blocks.append(Table(["what", "value"], rows, "Provenance"))
    options = [(Cell(name), Cell(value)) for name, value in flattened(run.config)]
    if options:
        blocks.append(Folded("All options", Table(["option", "value"], options, "Options")))
    return [Part(blocks)]
