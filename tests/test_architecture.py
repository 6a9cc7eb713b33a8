"""The floors of the package and the habits that it keeps, read from the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import aam

PACKAGE = Path(aam.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    *("cli", "estimators", "workflows", "report", "interpret", "evaluation"),
    *("learners", "training", "models", "data", "config", "errors"),
]
"""From the top down; a module imports from its own floor and from those below."""

FORBIDDEN = {
    "data": ["torch.nn"],
    "models": ["logging", "torch.distributed", "pathlib", "os", "tqdm"],
    "config": ["torch", "click", "numpy", "pandas"],
    "errors": ["torch", "click", "numpy", "pandas"],
}


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _floor(module: str) -> str | None:
    """Floor of a module by its dotted name; None for the package itself and its ``__main__``, which face the user."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] != "__main__" else None


def _imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in a file, and every name taken from it as a submodule may be."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def _parsed() -> list[tuple[Path, ast.Module]]:
    return [(path, ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCES]


PARSED = _parsed()


def _climbs(module: str, imported: str) -> bool:
    """Whether an import goes up, against the order of the floors."""
    here, there = _floor(module), _floor(imported)
    if here is None or there is None or not _within(imported, "aam"):
        return here is not None and imported == "aam"
    return FLOORS.index(there) < FLOORS.index(here)


def test_every_module_lies_on_a_known_floor():
    floors = {_floor(_module(path)) for path in SOURCES} - {None}
    assert floors <= set(FLOORS)


def test_imports_go_down_only():
    up = [
        f"{_module(path)} imports {name}"
        for path, tree in PARSED
        for name in _imports(tree)
        if _within(name, "aam") and _climbs(_module(path), name)
    ]
    assert up == []


@pytest.mark.parametrize(
    ("module", "imported", "climbs"),
    [
        ("aam.data.files.tables", "aam.models.heads", True),
        ("aam.models.heads", "aam.training", True),
        ("aam.errors", "aam.config", True),
        ("aam.models.heads", "aam.data.files.sequences", False),
        ("aam.models.heads", "aam.models.types", False),
        ("aam.cli.app", "aam.workflows.train", False),
        ("aam.__main__", "aam.cli", False),
        ("aam.data.files.tables", "aam", True),
        ("aam", "aam.estimators", False),
    ],
)
def test_climbing_is_seen(module, imported, climbs):
    assert _climbs(module, imported) is climbs


@pytest.mark.parametrize("floor", FORBIDDEN)
def test_a_floor_does_without_what_is_not_its_business(floor):
    taken = [
        f"{_module(path)} imports {name}"
        for path, tree in PARSED
        if _floor(_module(path)) == floor
        for name in _imports(tree)
        if any(_within(name, forbidden) for forbidden in FORBIDDEN[floor])
    ]
    assert taken == []


def test_processes_are_the_business_of_training():
    """Other floors share the work by `World`, which has a twin for one process."""
    taken = {
        _floor(_module(path))
        for path, tree in PARSED
        if any(_within(name, "torch.distributed") for name in _imports(tree))
    }
    assert taken == {"training"}


def _calls(tree: ast.AST, names: set[str]) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in names:
            yield node


def test_no_print_and_no_hasattr():
    """Libraries log, and the command line writes by click.echo; a type says what an object has."""
    found = [f"{path.name}:{call.lineno}" for path, tree in PARSED for call in _calls(tree, {"print", "hasattr"})]
    assert found == []


def _is_broad(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in {"Exception", "BaseException"} for kind in kinds)


def test_no_broad_except():
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in PARSED
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and _is_broad(node)
    ]
    assert found == []


def test_nan_is_not_turned_into_a_number():
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in PARSED
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "nan_to_num"
    ]
    assert found == []


def test_no_pickle_is_read_or_written():
    """Checkpoints are safetensors and JSON."""
    pickles = {"torch.save", "torch.load", "pickle.load", "pickle.loads", "pickle.dump", "pickle.dumps"}
    found = [
        f"{path.name}:{node.lineno}"
        for path, tree in PARSED
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and f"{node.value.id}.{node.attr}" in pickles
    ]
    assert found == []


def test_functions_and_files_stay_short():
    functions = [
        (node.end_lineno - node.lineno + 1, f"{path.name}:{node.name}")
        for path, tree in PARSED
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = sorted(length for length, _ in functions)
    assert lengths[len(lengths) // 2] <= 14
    assert [name for length, name in functions if length > 60] == []
    lines = {str(path.relative_to(PACKAGE)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > 400} == {}
