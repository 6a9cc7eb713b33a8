"""Writes the pages of the documentation site, from which mkdocs makes it: `python scripts/docs/prepare_docs.py build/docs`.

- Pages and pictures of docs/ are copied; README.md, ARCHITECTURE.md and CHANGELOG.md of the repository become pages.
- The options of every command are written from the configs (`docs_options`), the notebook from its cells.
- Links to files of the repository that are no page become plain text.
- Formulas become MathML, which browsers draw by themselves: no script, and nothing from the network.

No hook of mkdocs does this, so that another program may make the site from the same folder.
"""

import json
import posixpath
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import docs_options
import latex2mathml.converter

ROOT = Path(__file__).parents[2]
FROM_ROOT = ("README.md", "ARCHITECTURE.md", "CHANGELOG.md")
"""Files beside docs/ that are pages of the site."""
NOTEBOOK = "tutorial.ipynb"
NOTEBOOK_PAGE = "tutorial_notebook.md"

_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(rf"{_FENCE.pattern}|`[^`\n]+`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]\n]*(?:\n[^\]\n]*)?)\]\((?!https?://|mailto:|#)([^)\s#]*)(#[^)\s]*)?\)")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|(?<![\w$])\$([^\s$](?:[^$\n]*[^\s$])?)\$(?!\w)", re.DOTALL)


def prepare(folder: Path) -> None:
    """Fill a folder with the pages; what it held is replaced.

    Raises:
        FileNotFoundError: a page links to a file that the repository lacks.
    """
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder)
    for name in FROM_ROOT:
        shutil.copy(ROOT / name, folder)
    (folder / NOTEBOOK_PAGE).write_text(notebook_page(ROOT / "docs" / NOTEBOOK), encoding="utf-8")
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
    folder = "." if page in FROM_ROOT else posixpath.join("docs", posixpath.dirname(page))

    def moved(found: re.Match[str]) -> str:
        title, target, anchor = found[1], found[2], found[3] or ""
        of_repository = posixpath.normpath(posixpath.join(folder, target))
        place = of_repository.removeprefix("docs/")
        if place in pages and (of_repository.startswith("docs/") or place in FROM_ROOT):
            return f"[{title}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor})"
        if not (ROOT / of_repository).exists():
            raise FileNotFoundError(f"{page} links to {target}, which is not in the repository")
        return title

    return outside(_FENCE, lambda part: _LINK.sub(moved, part), text)


def formulas(text: str) -> str:
    """Turn $formulas$ into MathML, those between $$ into blocks of their own."""

    def drawn(found: re.Match[str]) -> str:
        if found[1] is None:
            return latex2mathml.converter.convert(found[2])
        return f'<div class="formula">{latex2mathml.converter.convert(found[1].strip(), display="block")}</div>'

    return outside(_CODE, lambda part: _FORMULA.sub(drawn, part), text)


def notebook_page(notebook: Path) -> str:
    """The cells of a notebook as a page."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = [
        source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
        for cell in cells
        for source in ["".join(cell["source"])]
    ]
    about = f'!!! note "This page is a notebook"\n    [Download it]({NOTEBOOK}), to run it and see its results.'
    return "\n\n".join([texts[0].split("\n", 1)[0], about, texts[0].split("\n", 1)[1], *texts[1:]]) + "\n"


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
