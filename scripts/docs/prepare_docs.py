"""Writes the pages of which mkdocs makes the site: `python scripts/docs/prepare_docs.py build/docs`.

With `--execute` the notebook is run first, so that its page shows what the cells give.

- Pages and pictures of docs/ are copied; README.md, ARCHITECTURE.md and CHANGELOG.md of the repository become pages.
- The options of every command are written from the configs (`docs_options`), the notebook from its cells.
- Links to files of the repository that are no page become plain text.
- Formulas become MathML, which browsers draw by themselves: no script, and nothing from the network.

No hook of mkdocs does this, so that another program may make the site from the same folder.
"""

import base64
import posixpath
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docs_options
import latex2mathml.converter
import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
FROM_ROOT = {"README.md": "overview.md", "ARCHITECTURE.md": "architecture.md", "CHANGELOG.md": "changelog.md"}
"""Files beside docs/ that are pages of the site, and their places there: README.md would be taken for a front page."""
NOTEBOOK = "tutorial.ipynb"
NOTEBOOK_PAGE = "tutorial_notebook.md"
WIDGET = "application/vnd.jupyter.widget-view+json"
"""Bars of progress, which say nothing on a page."""

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(rf"{_FENCE.pattern}|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]\n]*(?:\n[^\]\n]*)?)\]\((?!https?://|mailto:|#)([^)\s#]*)(#[^)\s]*)?\)")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\w$])\$([^\s$](?:[^$\n]*[^\s$])?)\$(?!\w)", re.DOTALL)


def prepare(folder: Path, execute: bool = False) -> None:
    """Fill a folder with the pages; what it held is replaced.

    Args:
        folder: where they go.
        execute: whether the notebook is run, so that its page has outputs.

    Raises:
        FileNotFoundError: a page links to a file that the repository lacks.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    for name, place in FROM_ROOT.items():
        shutil.copy(ROOT / name, folder / place)
    _write(folder / NOTEBOOK_PAGE, notebook_page(read_notebook(execute), folder))
    for name in docs_options.COMMANDS:
        _write(folder / docs_options.place(name), docs_options.page(name))
    _write(folder / docs_options.INDEX, docs_options.index())
    pages = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    for path in sorted(folder.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(folder).as_posix()
        path.write_text(formulas(links(text, name, pages)), encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")


def outside(code_like: re.Pattern[str], change: Callable[[str], str], text: str) -> str:
    """Change a page but for what looks like code."""
    pieces, end = [], 0
    for code in code_like.finditer(text):
        pieces += [change(text[end : code.start()]), code[0]]
        end = code.end()
    return "".join(pieces) + change(text[end:])


def links(text: str, page: str, pages: set[str]) -> str:
    """Bring the links of a page to where pages are on the site.

    Args:
        text: the page.
        page: its place on the site.
        pages: every place on the site.
    """
    folder = "." if page in FROM_ROOT.values() else posixpath.join("docs", posixpath.dirname(page))

    def moved(found: re.Match[str]) -> str:
        title, target, anchor = found[1], found[2], found[3] or ""
        of_repository = posixpath.normpath(posixpath.join(folder, target))
        place = FROM_ROOT.get(of_repository) or of_repository.removeprefix("docs/")
        if place in pages and place != of_repository:
            return f"[{title}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"
        if not (ROOT / of_repository).exists():
            raise FileNotFoundError(f"{page} links to {target}, which is not in the repository")
        return title

    return outside(_FENCE, lambda part: _LINK.sub(moved, part), text)


def formulas(text: str) -> str:
    """Turn $formulas$ into MathML, those between $$ into blocks of their own."""

    def drawn(found: re.Match[str]) -> str:
        if found[1] is None:
            return f'<span class="formula">{latex2mathml.converter.convert(found[2])}</span>'
        return f'<div class="formula">{latex2mathml.converter.convert(found[1].strip(), display="block")}</div>'

    return outside(_CODE, lambda part: _FORMULA.sub(drawn, part), text)


def notebook_page(notebook: dict[str, Any], folder: Path) -> str:
    """The cells of a notebook, and what they gave, as a page; pictures go to files of the folder."""
    parts: list[str] = []
    for number, cell in enumerate(notebook["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        shown = [each["data"] for each in cell.get("outputs", []) if "data" in each]
        parts += [_output(data, folder / f"notebook_{number}.png") for data in shown if WIDGET not in data]
    title, rest = parts[0].split("\n", 1)
    about = f'!!! note "This page is a notebook"\n    [Download it]({NOTEBOOK}) to run it.'
    return "\n\n".join([title, about, rest, *parts[1:]]) + "\n"


def _output(data: dict[str, Any], picture: Path) -> str:
    if "image/png" in data:
        picture.write_bytes(base64.b64decode(data["image/png"]))
        return f"![What the code above draws]({picture.name})"
    text = "".join(data["text/plain"])
    return f"```text\n{text}\n```"


def read_notebook(execute: bool) -> dict[str, Any]:
    """The notebook of docs/, as it is or with the outputs of running it, which takes about a minute."""
    notebook = nbformat.read(ROOT / "docs" / NOTEBOOK, as_version=4)
    if execute:
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    return dict(notebook)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), execute="--execute" in sys.argv[2:])
