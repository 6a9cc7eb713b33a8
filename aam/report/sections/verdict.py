"""What came of a run, in a sentence; and what a tuning found."""

from typing import Any, Final

from aam.evaluation.verdict import spelled
from aam.report.blocks import Block, Cell, Command, Folded, Part, Table, Text, count, flattened, shown
from aam.report.predicted import SIDE_NAMES
from aam.report.runs import Run
from aam.training.run_folder import SIDES

TO_TRAIN: Final = "; to train it: "
TRAINS_IT: Final = "; this trains it: "
METRICS: Final = ("r2", "mae", "balanced_accuracy", "accuracy", "auroc")
"""Metrics of a training that the sentence names."""
OPTIMISTIC: Final = (
    "The score of the best trial is optimistic: it was chosen as the best of many on the same samples. The nested "
    "score, where there is one, is of samples that no trial saw."
)


def verdict(run: Run) -> list[Part]:
    """The sentence of a run."""
    blocks = _SENTENCES[run.kind](run)
    return [Part(blocks)] if blocks else []


def _of_evaluation(run: Run) -> list[Block]:
    document = run.document(run.folder.evaluation)
    assert document is not None
    return _with_command(str(document["verdict"]), TO_TRAIN)


def _with_command(sentence: str, before: str) -> list[Block]:
    """A sentence that ends in a command, which is set apart to be copied."""
    told, _, command = sentence.partition(before)
    blocks: list[Block] = [Text(_sentence(told), "lead")]
    return [*blocks, Text("To train it:"), Command(command)] if command else blocks


def _sentence(text: str) -> str:
    """A text as a sentence of its own; a name at its beginning stays as it is written."""
    return text if text.endswith(".") else f"{text}."


def _of_training(run: Run) -> list[Block]:
    learner, column = run.config["choice"].get("learner", "neural"), ", ".join(run.columns)
    name = "The network" if learner == "neural" else f"The learner {learner}"
    told = []
    for side in reversed(SIDES):
        metrics = run.document(run.folder.side_metrics(side))
        if metrics is not None:
            told.append(f"{SIDE_NAMES[side]}: {_metrics(metrics)}")
    sentence = f"{name} was trained to predict {column}"
    blocks: list[Block] = [
        Text(f"{sentence}; {'; '.join(told)}." if told else f"{sentence}; no samples were held out.", "lead")
    ]
    baselines = run.document(run.folder.baselines)
    if baselines is not None:
        first, *rest = _with_command(f"Compared with other learners, {baselines['verdict']}", TRAINS_IT)
        blocks += [Text(first.text) if isinstance(first, Text) else first, *rest]
    return blocks


def _metrics(metrics: dict[str, Any]) -> str:
    known = [(name, value) for name, value in metrics.items() if isinstance(value, float)]
    chosen = [one for one in known if one[0] in METRICS] or known
    return ", ".join(f"{spelled(name)} {shown(value)}" for name, value in chosen[:4])


def _of_pretraining(run: Run) -> list[Block]:
    metrics = run.document(run.folder.distances)
    if metrics is None:
        return [Text("An encoder was pretrained; no distances between samples were learned.", "lead")]
    r2, mae = (metrics[name] for name in ("r2", "mae"))
    further = "" if r2 is None else f" (R2 {shown(r2)}, mean error {shown(mae)})"
    r = metrics["pearson"]
    agree = "cannot be compared with" if r is None else f"correlate by r = {shown(r)}{further} with"
    pairs = f"{count(metrics['samples'], 'validation sample')} ({count(metrics['pairs'], 'pair')})"
    return [
        Text(f"An encoder was pretrained: distances that it predicts between {pairs} {agree} the true ones.", "lead")
    ]


def _of_explanation(run: Run) -> list[Block]:
    document = run.document(run.folder.explanation) or {}
    told = document.get("sentence")
    return [Text(_sentence(str(told)), "lead")] if told else []


def _of_tuning(run: Run) -> list[Block]:
    document = run.document(run.folder.tuning) or {}
    told = next((document[name] for name in ("sentence", "verdict") if document.get(name)), None)
    return [Text(_sentence(str(told)), "lead")] if told else []


_SENTENCES: Final = {
    "evaluate": _of_evaluation,
    "train": _of_training,
    "pretrain": _of_pretraining,
    "explanation": _of_explanation,
    "tuning": _of_tuning,
}


def tuning(run: Run) -> list[Part]:
    """What was tried, what was best, and that its score is optimistic."""
    if run.kind != "tuning":
        return []
    document = run.document(run.folder.tuning) or {}
    blocks: list[Block] = [Text(OPTIMISTIC, "note")]
    rows = [(Cell(name), Cell(value)) for name, value in flattened(document) if name not in ("sentence", "verdict")]
    blocks.append(Table(["what", "value"], rows, "What was tuned"))
    trials = run.table(run.folder.trials)
    if trials is not None and len(trials):
        blocks.append(Folded(f"All {count(len(trials), 'trial')}", Table.of(trials, "Trials")))
    return [Part(blocks)]
