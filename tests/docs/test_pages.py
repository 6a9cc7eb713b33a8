"""Pages of docs/: every block of code says whether it is executed, those that are run as they stand, options are those
of the commands, and the glossary names every file.

That the site builds, and that its links lead somewhere, is held by `make docs`.
"""

import contextlib
import re
from pathlib import Path

import docs_blocks
import docs_options
import numpy as np
import pytest
import rich_click
import yaml

from aam.cli.app import app
from aam.evaluation.scores import score_classes, score_numbers
from aam.training.metrics import ClassificationMetrics, QuantileMetrics, RegressionMetrics
from aam.training.run_folder import KNOWN
from aam.training.tasks.distances import UnifracTask
from aam.training.tasks.faith_pd import FaithPdTask
from aam.training.tasks.nucleotides import NucleotideTask

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CONFIGS = docs_options.COMMANDS
OF_OTHERS = re.findall(
    r"\S+",
    """
    --account --constraint --format --gpus-per-node --gpus-per-task --nodes --time
    --log-dir --logdir --max-restarts --redirects --backend-store-uri --directory --to-tsv
    --input-path --m-input-file --o-visualization --output-path --type --p-estimator --p-n-jobs
    --p-optimize-feature-selection --p-parameter-tuning --p-random-state --p-test-size
    """,
)
"""Options of pip, conda, Slurm, torchrun, trackers, ssu, biom, Python and QIIME 2."""
WITHOUT_OPTIONS = {"completion"}
EXECUTED = [path for path in PAGES if f"<!-- {docs_blocks.EXECUTED} -->" in path.read_text(encoding="utf-8")]


def text_of(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_block_says_whether_it_is_executed(path):
    unmarked = [block.line for block in docs_blocks.blocks(path.read_text("utf-8")) if not docs_blocks.is_marked(block)]
    assert unmarked == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_no_fence_escapes_the_test(path):
    """Fences of another form (indented, or of tildes) would be shown and not be looked at."""
    text = path.read_text(encoding="utf-8")
    fences = re.findall(r"^\s*(?:```|~~~)", text, re.MULTILINE)
    assert len(fences) == 2 * len(docs_blocks.blocks(text))


@pytest.mark.slow
@pytest.mark.parametrize("path", EXECUTED, ids=lambda path: path.name)
def test_a_page_runs_as_it_stands(path, tmp_path):
    with contextlib.chdir(tmp_path):
        for block, printed in docs_blocks.run_page(path.read_text(encoding="utf-8")):
            assert docs_blocks.agrees(block.text, printed), f"line {block.line}, printed was:\n{printed}"


@pytest.mark.parametrize(
    ("shown", "printed", "agree"),
    [
        ("R2 0.71 over 42 groups\n", "R2  0.70 over 42 groups\n", True),
        ("R2 0.71 over 42 groups\n", "R2 0.31 over 42 groups\n", False),
        ("R2 0.71\n", "R2 0.71\nmore\n", False),
        ("R2 0.71\n...\n", "R2 0.71\nmore\n", True),
        ("...\nlast\n", "a\nb\nlast\n", True),
        ("...\nlast\n", "a\nlast\nb\n", False),
        ("kernel 0.5\n", "forest 0.5\n", False),
        ("S0012 1,899 reads\n", "S0013 1,899 reads\n", False),
    ],
)
def test_outputs_are_compared(shown, printed, agree):
    assert docs_blocks.agrees(shown, printed) == agree


def commands() -> dict[str, rich_click.Command]:
    found = {}
    for name, command in app.commands.items():
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": of for each, of in inner.items()} if inner else {name: command}
    return found


def test_every_command_has_a_page_of_options():
    assert set(docs_options.COMMANDS) == set(commands()) - WITHOUT_OPTIONS


@pytest.mark.parametrize("name", docs_options.COMMANDS)
def test_the_options_of_a_page_are_those_of_the_command(name):
    """Flags, what is needed, switches and defaults, as click has them."""
    config = docs_options.COMMANDS[name]
    shown = dict(
        re.findall(
            r'<dt id="[^"]+"><a href="[^"]+"><code>([^<]+)</code></a> <span>(.*)</span></dt>', docs_options.page(name)
        )
    )
    taken = {each.name: each for each in commands()[name].params if each.name in config.options()}
    spelled = {each: docs_options.spelled(name, each) for each in taken}
    assert set(shown) == set(spelled.values())
    for option, parameter in taken.items():
        facts = shown[spelled[option]]
        if parameter.param_type_name == "option":
            assert spelled[option] in parameter.opts
            assert ("needed" in facts.split("; ")) == parameter.required
            assert facts.startswith("switch") == parameter.is_flag
            given = config.options()[option][1].default
            assert ("; default " in facts) == (not parameter.required and given not in (None, (), False))
            assert [choice for choice in getattr(parameter.type, "choices", ()) if choice not in facts] == []
            bounds = [getattr(parameter.type, side, None) for side in ("min", "max")]
            assert [bound for bound in bounds if bound is not None and f" {bound}" not in facts] == []


def test_the_glossary_names_every_file_of_a_run_folder():
    glossary = text_of("glossary.md")
    names = {name for each in KNOWN for name in each.names}
    assert [name for name in sorted(names) if f"`{name}`" not in glossary] == []


def test_the_glossary_names_every_metric():
    glossary = text_of("glossary.md")
    names = {*RegressionMetrics.better, *QuantileMetrics.better, *ClassificationMetrics.better}
    names |= set(score_numbers(np.arange(3.0), np.arange(3.0)))
    names |= {name for name in score_classes(np.array([0, 1]), np.eye(2), "ab") if not name.startswith("recall_")}
    names |= {*UnifracTask.metrics, *NucleotideTask.metrics, *FaithPdTask.metrics}
    assert [name for name in sorted(names) if f"`{name}`" not in glossary] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_options_that_a_page_names_exist(path):
    """Those of aam, of its benchmarks, and of other programs that the pages name."""
    known = {docs_options.spelled(command, name) for command, config in CONFIGS.items() for name in config.options()}
    known |= {f"--no-{option.removeprefix('--')}" for option in known}
    known |= {option for command in commands().values() for each in command.params for option in each.opts}
    known |= {"--help", "--version", *OF_OTHERS}
    named = re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", re.sub(r"<!--.*?-->", "", path.read_text(encoding="utf-8")))
    assert set(named) <= known | options_of_benchmarks()


def options_of_benchmarks() -> set[str]:
    texts = "".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "benchmarks").rglob("*.py"))
    return set(re.findall(r"[\"'](--[a-z-]+)[\"']", texts))


def test_the_navigation_has_every_page():
    settings = yaml.safe_load((DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8"))

    def places(entry) -> set[str]:
        if isinstance(entry, str):
            return {entry}
        inner = entry.values() if isinstance(entry, dict) else entry
        return set().union(*(places(each) for each in inner))

    written = {path.name for path in PAGES} | {"overview.md", "architecture.md", "changelog.md", docs_options.INDEX}
    written |= {"tutorial_notebook.md"} | {docs_options.place(name) for name in docs_options.COMMANDS}
    assert places(settings["nav"]) == written


def test_a_failing_command_ends_the_page():
    with pytest.raises(RuntimeError, match=r"line 2: `false \| cat` ended with 1"):
        list(docs_blocks.run_page(f"<!-- {docs_blocks.EXECUTED} -->\n```bash\nfalse | cat\n```\n"))


def test_a_reader_may_stop_early():
    page = f"<!-- {docs_blocks.EXECUTED} -->\n```bash\nseq 100000 | head -n 1\n```\n<!-- output -->\n```text\n1\n```\n"
    assert [printed for _, printed in docs_blocks.run_page(page)] == ["1\n"]
