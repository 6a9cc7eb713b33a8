"""Pages of the options of every command, written from the configs, where each option is declared."""

import html
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic.fields import FieldInfo

from aam.config import (
    COMMAS,
    EmbedConfig,
    EstimatePretrainConfig,
    EstimateTrainConfig,
    EvaluateConfig,
    ExplainConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    PretrainConfig,
    PretrainFindLrConfig,
    PublishConfig,
    RunConfig,
    SimulateCommandConfig,
    TrainConfig,
    TuneConfig,
    UnifracCommandConfig,
    flag,
)
from aam.config.provenance import MethodsConfig
from aam.config.report import ReportConfig

COMMANDS: dict[str, type[RunConfig]] = {
    "pretrain": PretrainConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "find-lr": PretrainFindLrConfig,
    "estimate pretrain": EstimatePretrainConfig,
    "estimate train": EstimateTrainConfig,
    "predict": PredictConfig,
    "embed": EmbedConfig,
    "export": ExportConfig,
    "evaluate": EvaluateConfig,
    "explain": ExplainConfig,
    "report": ReportConfig,
    "inspect": InspectConfig,
    "methods": MethodsConfig,
    "publish": PublishConfig,
    "simulate": SimulateCommandConfig,
    "unifrac": UnifracCommandConfig,
}
POSITIONAL = {
    "report": "runs",
    "inspect": "checkpoint",
    "methods": "run",
    "export": "run",
    "publish": "run",
    "simulate": "directory",
}
"""What a command takes without a flag."""
INDEX = "options/index.md"
GUARD = 1000
"""Limits from it on guard the machine, and are not shown."""


def place(command: str) -> str:
    """File of a command's page."""
    return f"options/{command.replace(' ', '_').replace('-', '_')}.md"


def page(command: str) -> str:
    """Options of a command, by their groups."""
    lines = [f"# Options of `aam {command}`", ""]
    for section in COMMANDS[command].sections().values():
        lines += [f"## {section.panel}", "", '<dl class="options">']
        lines += [_entry(command, name, field) for name, field in section.model_fields.items()]
        lines += ["</dl>", ""]
    return "\n".join(lines)


def index() -> str:
    """Every option, with the commands that have it."""
    having: dict[str, list[str]] = {}
    for command, config in COMMANDS.items():
        for name in config.options():
            having.setdefault(spelled(command, name), []).append(command)
    rows = [
        f"| [`{shown}`]({Path(place(of[0])).name}#{anchor(shown)}) | {', '.join(of)} |"
        for shown, of in sorted(having.items(), key=lambda each: each[0].lstrip("-").lower())
    ]
    return "\n".join([_ABOUT, "| option | commands |", "| --- | --- |", *rows, ""])


_ABOUT = """# All options

Made from the code when these pages were built. `--config run.toml` takes the same options from a file, without the
dashes (`epochs = 20`); what the command line gives wins. In Python the names have underscores:
`options={"rarefy_depth": 2000}`. Every command also has `--quiet` and `--help`.
"""


def spelled(command: str, name: str) -> str:
    """An option as it is written on the command line."""
    return name.removesuffix("s").upper() if POSITIONAL.get(command) == name else flag(name)


def anchor(shown: str) -> str:
    """Place of an option on the page of its command."""
    return shown.strip("-").lower()


def takes(annotation: Any, metadata: Any = ()) -> str:
    """What an option is given, in a word: a number, a path, one of several names."""
    if COMMAS in metadata:
        return "names, with commas"
    inner = get_args(annotation)
    match get_origin(annotation):
        case origin if origin is Annotated:
            return takes(inner[0], inner[1:])
        case origin if origin in (Union, UnionType):
            return " or ".join(takes(each) for each in inner if each is not NoneType)
        case origin if origin is tuple:
            return f"{takes(inner[0])}; may be repeated"
        case origin if origin is Literal:
            return ", ".join(map(str, inner)) if len(inner) == 1 else "one of " + ", ".join(map(str, inner))
    return {bool: "switch", int: "whole number", float: "number", Path: "path", str: "text"}[annotation]


def limits(metadata: Any) -> str:
    """Bounds of a number, those that tell a reader something."""
    signs = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
    flat = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else (item,))]
    return ", ".join(
        f"{word} {getattr(limit, sign)}"
        for limit in flat
        if isinstance(limit, annotated_types.BaseMetadata)
        for sign, word in signs.items()
        if hasattr(limit, sign) and abs(getattr(limit, sign)) < GUARD
    )


def default(field: FieldInfo) -> str:
    """What holds where an option is not given; nothing where that is nothing."""
    if field.is_required():
        return "needed"
    value = field.default
    if value in (None, (), False):
        return ""
    shown = ",".join(map(str, value)) if isinstance(value, tuple) else "on" if value is True else str(value)
    return f"default {shown}"


def _entry(command: str, name: str, field: FieldInfo) -> str:
    shown = spelled(command, name)
    about = [takes(field.annotation, field.metadata), limits(_all_limits(field)), default(field)]
    facts = html.escape("; ".join(filter(None, about)))
    text = re.sub(
        r"`([^`]+)`", r"<code>\1</code>", html.escape(" ".join((field.description or "").split()), quote=False)
    )
    return (
        f'<dt id="{anchor(shown)}"><a href="#{anchor(shown)}"><code>{shown}</code></a> <span>{facts}</span></dt>\n'
        f"<dd>{text}</dd>"
    )


def _all_limits(field: FieldInfo) -> list[Any]:
    """Limits of a field, those within ``Annotated[...] | None`` too."""
    found = list(field.metadata)
    for inner in get_args(field.annotation):
        if get_origin(inner) is Annotated:
            found += get_args(inner)[1:]
    return found
