"""The model card of a published network: README.md with the front matter that the Hugging Face Hub reads.

The form is that of https://huggingface.co/docs/hub/model-cards; the questions that it answers are those of Mitchell et
al. 2019, Model Cards for Model Reporting.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from aam.config.publish import CardConfig
from aam.training.checkpoints import training_samples
from aam.training.checkpoints.store import Checkpoint
from aam.training.provenance import DOCUMENT
from aam.workflows.inspect import describe
from aam.workflows.inspect_run import describe_document
from aam.workflows.methods_text import listed
from aam.workflows.restore import Restored, outline
from aam.workflows.summary import Summary

LICENCES: Final = frozenset(
    [
        *("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
        *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0"),
        *("odc-by", "odbl", "unlicense"),
    ]
)
"""Names that the hub knows; any other licence is ``other`` there, with its name."""
NOT_KNOWN: Final = "not known"


class Known(NamedTuple):
    """What the folder of a run says."""

    data: Summary | None
    """What was learned from."""
    scores: Mapping[str, str]
    """Tables by heading."""


def model_card(checkpoint: Checkpoint, known: Known, card: CardConfig, name: str | None) -> str:
    """Write the card.

    Args:
        checkpoint: as it is published.
        known: of the run.
        card: what the user says.
        name: what the model is called on the hub, if it goes there.
    """
    trained = outline(checkpoint)
    title = name or ("An encoder of ASVs and samples" if trained.targets is None else f"Predicts {_columns(trained)}")
    parts = [
        front_matter(trained, card),
        f"# {title}",
        _what_it_is(trained),
        "## What it has seen",
        *_seen(checkpoint, trained, known, card),
        "## What it is good for",
        *_uses(trained, name),
        "## What it is not good for",
        *_limits(trained, card),
        "## Scores",
        *_scores(known),
        "## Licence",
        card.licence or "None was given: ask the authors before you use it.",
        "## The model, and where it comes from",
        _block(describe(checkpoint)),
        _block(describe_document(checkpoint)),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(trained: Restored, card: CardConfig) -> str:
    """What the hub reads: YAML, each value as JSON, which is YAML too."""
    task = "feature-extraction"
    if trained.targets is not None:
        task = "tabular-classification" if trained.targets.is_classes else "tabular-regression"
    fields: dict[str, Any] = {"library_name": "aam", "pipeline_tag": task, "tags": ["biology", "microbiome", "16S"]}
    if card.licence is not None:
        known = card.licence.lower() in LICENCES
        fields |= {"license": card.licence.lower()} if known else {"license": "other", "license_name": card.licence}
    lines = [f"{field}: {json.dumps(value, ensure_ascii=False)}" for field, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _what_it_is(trained: Restored) -> str:
    if trained.targets is not None:
        return f"A network of aam that predicts {_columns(trained)} of a sample from its table of ASV counts."
    return (
        "An encoder of aam that was pretrained without labels. It turns the sequences of ASVs, and the samples that "
        "hold them, into embeddings. It needs no tree and no reference database to read new ASVs."
    )


def _seen(checkpoint: Checkpoint, trained: Restored, known: Known, card: CardConfig) -> Iterable[str]:
    studies = card.studies or _tables(checkpoint) or [NOT_KNOWN]
    length = trained.config.model.max_bp
    yield "\n".join(
        [
            f"- studies: {listed(studies)}",
            f"- region of the gene: {card.region or NOT_KNOWN}",
            f"- length: the first {length} nucleotides of each ASV are read",
        ]
    )
    if known.data is not None:
        yield _block(known.data.table())
    document = checkpoint.documents.get(training_samples.DOCUMENT)
    if document is not None:
        yield _ids(document)


def _ids(document: Any) -> str:
    number = training_samples.count(document)
    if not isinstance(document, Mapping):
        return f"The ids of its {number:,} training samples are in `training.json`; `aam` warns who judges it on them."
    if "hashes" in document:
        return (
            f"`training.json` has salted hashes of the ids of its {number:,} training samples: `aam` warns who judges "
            "it on one of them. The ids cannot be read from the hashes, but a guess can be tested."
        )
    return f"Which its {number:,} training samples were is not told, so `aam` cannot warn who judges it on them."


def _tables(checkpoint: Checkpoint) -> list[str]:
    """Names of the tables that were read, where they are known."""
    sessions = checkpoint.documents.get(DOCUMENT, {}).get("sessions", [])
    files = [file["name"] for session in sessions for file in session["inputs"].get("table", [])]
    return list(dict.fromkeys(files))


def _uses(trained: Restored, name: str | None) -> Iterable[str]:
    place = name or "FOLDER"
    if trained.targets is not None:
        yield f"Predicting {_columns(trained)} of samples like those that it has seen:"
        yield f"```\naam predict --checkpoint {place} --table table.biom --output predictions.tsv\n```"
        return
    yield "As the start of a network that learns from few labels, and for embeddings of samples and ASVs:"
    yield (
        f"```\naam train --table table.biom --metadata metadata.tsv --metadata-column age --pretrained-encoder {place} "
        f"--output-dir age\naam embed --checkpoint {place} --table table.biom --output embeddings.tsv\n```"
    )
    yield f'```python\nimport aam\n\nencoder = aam.SampleEncoder.from_pretrained("{place}")\n```'


def _limits(trained: Restored, card: CardConfig) -> Iterable[str]:
    region = "another region of the gene" if card.region is None else f"another region of the gene than {card.region}"
    lines = [
        f"- ASVs of {region}, or of other lengths: it has not learned from them.",
        "- Samples of other habitats or hosts, or made by other protocols, than those that it has seen: nobody has "
        "measured what it is worth there. `aam evaluate` compares it with other learners on your study.",
        "- Samples that it has seen: scores on them say nothing of new samples.",
        "- Diagnosis, or decisions on people.",
    ]
    if trained.targets is not None:
        lines.insert(2, "- Causes: it predicts from what goes along with the column in these studies.")
    yield "\n".join(lines)


def _scores(known: Known) -> Iterable[str]:
    if not known.scores:
        yield "None are known."
        return
    yield "Of samples that the weights were not fitted to. Those of the validation chose the checkpoint:"
    for heading, table in known.scores.items():
        yield _block(f"{heading}\n{table}")


def _columns(trained: Restored) -> str:
    return listed(column.name for column in trained.require_targets().columns)


def _block(text: str) -> str:
    return f"```\n{text.strip()}\n```"
