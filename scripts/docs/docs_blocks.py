"""The code blocks of the pages in docs/: what each is, and running those that are executed.

A comment on the line before a block says what it is:

    <!-- executed -->            run by tests/docs/test_pages.py, the blocks of a page in order, in one empty folder
    <!-- output -->              what the block before it printed; `...` stands for any words
    <!-- not executed: why -->   neither

`python scripts/docs/docs_blocks.py docs/PAGE.md` runs a page and writes outputs that have changed into it.
"""

import contextlib
import io
import math
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aam.cli import main as aam

EXECUTED, OUTPUT = "executed", "output"
NOT_EXECUTED = "not executed: "
RELATIVE, ABSOLUTE = 0.15, 0.1
"""How much a number of an output may differ from that of the page: other processors round otherwise."""

CLOSED_PIPE = 141
"""Exit code of a program that wrote more than `head` read."""

_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*?) -->\n+)?^```(?P<language>\S*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_NUMBER = re.compile(r"(?<![\w.])[-+\u2212]?(?:\d[\d,]*)?\.?\d+(?:e[-+]?\d+)?(?![\w])")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    text: str
    mark: str | None
    span: tuple[int, int]
    """Where its text begins and ends in the page."""


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page."""
    return [
        Block(
            page.count("\n", 0, found.start("language")) + 1,
            *found.group("language", "text", "mark"),
            found.span("text"),
        )
        for found in _BLOCK.finditer(page)
    ]


def is_marked(block: Block) -> bool:
    """Whether a block says what it is, and where it is not executed, why."""
    mark = block.mark or ""
    return mark in (EXECUTED, OUTPUT) or (mark.startswith(NOT_EXECUTED) and len(mark) > len(NOT_EXECUTED))


def run_page(page: str) -> Iterator[tuple[Block, str]]:
    """Run the executed blocks of a page in the working directory; gives each output with what was printed.

    Raises:
        RuntimeError: a command failed.
    """
    names: dict[str, Any] = {}
    printed = ""
    for block in blocks(page):
        if block.mark == EXECUTED:
            printed = _python(block.text, names) if block.language == "python" else _shell(block)
        elif block.mark == OUTPUT:
            yield block, printed


def _python(text: str, names: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(text, "<page>", "exec"), names)
    return out.getvalue()


def _shell(block: Block) -> str:
    """Run the commands of a block; those of aam within this process, which saves importing PyTorch for each."""
    printed = []
    for command in re.sub(r"\\\n\s*", "", block.text).splitlines():
        words = shlex.split(command, comments=True)
        if not words:
            continue
        alone = words[0] == "aam" and not set(words) & {"|", ">", "&&"}
        code, said = _aam(words[1:]) if alone else _bash(command)
        if code:
            raise RuntimeError(f"line {block.line}: `{command}` ended with {code}:\n{said}")
        printed.append(said)
    return "".join(printed)


def _aam(words: list[str]) -> tuple[int, str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            aam(words)
        except SystemExit as left:
            return int(left.code or 0), said.getvalue()
    return 0, said.getvalue()


def _bash(command: str) -> tuple[int, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=os.environ | {"PATH": path},
    )
    return 0 if done.returncode == CLOSED_PIPE else done.returncode, done.stdout


def agrees(shown: str, printed: str) -> bool:
    """Whether an output of a page is what was printed, whatever the breaks of lines.

    ``...`` on the page stands for any words, or none; numbers may differ a little.
    """
    parts = [part.split() for part in re.split(r"(?<!\S)\.\.\.(?!\S)", shown)]
    words = printed.split()
    if len(parts) == 1:
        return _same(parts[0], words)
    first, *between, last = parts
    if len(first) + len(last) > len(words) or not _same(first, words[: len(first)]):
        return False
    at, end = len(first), len(words) - len(last)
    for part in between:
        places = (start for start in range(at, end - len(part) + 1) if _same(part, words[start : start + len(part)]))
        start = next(places, None)
        if start is None:
            return False
        at = start + len(part)
    return _same(last, words[end:])


def _same(shown: list[str], printed: list[str]) -> bool:
    one, other = " ".join(shown), " ".join(printed)
    if _NUMBER.sub("#", one) != _NUMBER.sub("#", other):
        return False
    numbers = zip(_NUMBER.findall(one), _NUMBER.findall(other), strict=True)
    return all(math.isclose(_value(a), _value(b), rel_tol=RELATIVE, abs_tol=ABSOLUTE) for a, b in numbers)


def _value(number: str) -> float:
    return float(number.replace(",", "").replace("\N{MINUS SIGN}", "-"))


def update(path: Path) -> None:
    """Write outputs that no longer agree into a page."""
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        ran = list(run_page(page))
    for block, printed in reversed(ran):
        if not agrees(block.text, printed):
            text = "\n".join(line.rstrip() for line in printed.splitlines()) + "\n"
            page = page[: block.span[0]] + text + page[block.span[1] :]
    path.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        update(Path(name).resolve())
