"""What `aam inspect` says of a run: its samples, its scores, and where its results come from."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from aam.errors import InputError
from aam.evaluation.predictions import NAMES
from aam.training.checkpoints.store import Checkpoint
from aam.training.metrics import Metrics
from aam.training.provenance import DOCUMENT, Session, read_provenance
from aam.training.run_folder import SIDES, RunFolder
from aam.training.sinks.training_log import short
from aam.workflows.score_tables import side_scores
from aam.workflows.summary import Summary
from aam.workflows.text_table import text_table

NOT_RECORDED = "not recorded: an earlier version of aam wrote this"


def describe_evaluation(folder: RunFolder) -> str:
    """Describe the output folder of `aam evaluate`.

    Raises:
        InputError: a file is damaged.
    """
    found = _json(folder.evaluation)
    main = "balanced_accuracy" if found["classes"] else "r2"
    scores = [score for score in found["main"]["scores"] if score["metric"] == main]
    scores.sort(key=lambda score: -math.inf if score["value"] is None else score["value"], reverse=True)
    rows = [[score["learner"], short(score["value"]), _interval(score)] for score in scores]
    parts = [*_data(folder), *_paragraph("scores", text_table(["learner", main, "interval"], rows))]
    parts += _paragraph("verdict", found["verdict"])
    return "\n".join([*parts, *_sessions(folder)])


def describe_run(folder: RunFolder) -> str:
    """Describe what the output folder of a training run holds besides its checkpoint.

    Raises:
        InputError: a file is damaged.
    """
    parts = _data(folder)
    for heading, scores in scores_of(folder).items():
        parts += _paragraph(heading, scores)
    return "\n".join([*parts, *_sessions(folder)])


def scores_of(folder: RunFolder) -> dict[str, str]:
    """Tables of the scores that a training run left, by heading.

    Raises:
        InputError: a file is damaged.
    """
    sides: dict[str, Metrics] = {}
    for side in SIDES:
        path = folder.side_metrics(side)
        if path.exists():
            sides[NAMES[side]] = {name: value for name, value in _json(path).items() if name != "warning"}
    found = {"scores": side_scores(sides)} if sides else {}
    if folder.distances.exists():
        found["distances of validation samples"] = side_scores({"score": _json(folder.distances)})
    return found


def describe_document(checkpoint: Checkpoint) -> str:
    """Say what a checkpoint by itself knows of where it comes from."""
    document = checkpoint.documents.get(DOCUMENT)
    if document is None:
        return "\n".join(_paragraph("provenance", NOT_RECORDED))
    lines = [line for session in document["sessions"] for line in _lasting(session)]
    return "\n".join(_paragraph("provenance", "\n".join(lines)))


def _data(folder: RunFolder) -> list[str]:
    found = read_provenance(folder)
    if found is None or found.data is None:
        return _paragraph("data", NOT_RECORDED)
    return _paragraph("data", Summary.model_validate(found.data).table())


def _sessions(folder: RunFolder) -> list[str]:
    found = read_provenance(folder)
    if found is None:
        return _paragraph("provenance", NOT_RECORDED)
    lines = [line for session in found.sessions for line in [*_when(session), *_lasting(session.lasting())]]
    return _paragraph("provenance", "\n".join(lines))


def _when(session: Session) -> Iterable[str]:
    took = "" if session.seconds is None else f", {session.seconds:,.1f} s"
    ended = session.ended or "killed, or still at work"
    machine = session.machine
    gpus = f", {', '.join(machine.gpus)}" if machine.gpus else ", no GPU"
    yield f"{'resumed' if session.resumed else 'started'}: {session.started:%Y-%m-%d %H:%M:%S} UTC{took}, {ended}"
    yield f"machine: {machine.cpu}, {machine.cores} cores{gpus}, {machine.system}; processes: {session.processes}"


def _lasting(session: Mapping[str, Any]) -> Iterable[str]:
    """Lines of what a checkpoint knows too."""
    software, git = session["software"], session["git"]
    libraries = ", ".join(f"{name} {version}" for name, version in software["libraries"].items())
    yield f"command: {session['command'] or 'called from Python'}"
    yield f"software: aam {software['aam'] or 'not installed'}, Python {software['python']}, {libraries}"
    for option, files in session["inputs"].items():
        for file in files:
            known = file["note"] if file["sha256"] is None else f"SHA-256 {file['sha256']}"
            yield f"{option}: {file['name']}, {known}"
    if git is not None:
        state = {True: ", with changes", False: "", None: ", changes unknown"}[git["dirty"]]
        yield f"git: commit {git['commit']}{state}"
    yield f"seed: {session['seed']}"


def _interval(score: Mapping[str, Any]) -> str:
    return "none" if score["low"] is None else f"{score['low']:.4g} to {score['high']:.4g}"


def _json(path: Any) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise InputError(f"{path} is damaged (no JSON document of a run): run the command again") from None
    return found


def _paragraph(heading: str, text: str) -> list[str]:
    """An empty line, a heading, and what is under it."""
    return ["", f"{heading}:", *(f"  {line}" for line in text.splitlines())]
