"""`aam publish`: a folder for others, of a trained network and its model card."""

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aam.config import PretrainConfig, PublishConfig, TrainConfig
from aam.config.publish import PublishSection
from aam.data.files.whole_files import check_parent
from aam.errors import InputError
from aam.training.checkpoints import training_samples
from aam.training.checkpoints.hub import check_library, send
from aam.training.checkpoints.store import Checkpoint, read_checkpoint, write_checkpoint
from aam.training.provenance import DOCUMENT, read_provenance
from aam.training.run_folder import RunFolder
from aam.workflows.folder import check_spares_run
from aam.workflows.inspect_run import scores_of
from aam.workflows.model_card import Known, model_card
from aam.workflows.restore import checkpoint_of, restored
from aam.workflows.summary import Summary

logger = logging.getLogger(__name__)

CARD = "README.md"


def publish(config: PublishConfig) -> None:
    """Write the folder, and send it to the hub if asked.

    Raises:
        InputError: there is no network to publish, the folder cannot be written, or the hub refuses it; the folder
            appears whole or not at all, and stays where sending fails.
    """
    asked, hub = config.published, config.hub
    if hub.push:
        check_library("--push")
    check_place(config)
    trained = read_checkpoint(asked.run)
    if trained.kind == "learner":
        raise InputError(
            f"{asked.run} holds a learner of the kind {trained.config.get('learner')}, which keeps reads and targets "
            "of its training samples: only encoders and networks are published (aam pretrain; aam train --learner "
            "neural)"
        )
    shared = without_samples(trained, asked)
    card = model_card(shared, known(asked.run), config.card, hub.name)
    write_checkpoint(shared, asked.output_dir, {CARD: card.encode()})
    logger.info("wrote %s; read %s before others do", asked.output_dir, asked.output_dir / CARD)
    if hub.push:
        assert hub.name is not None
        logger.info("sent it to %s", send(asked.output_dir, hub.name, hub.public))


def check_place(config: PublishConfig) -> None:
    """Refuse a folder that cannot be written, before any work is done.

    Raises:
        InputError: so it is.
    """
    place = config.published.output_dir
    check_spares_run("output_dir", place, config)
    if place.exists() or place.is_symlink():
        raise InputError(f"--output-dir {place} exists already: give a new folder, or delete it first")
    check_parent(place, f"--output-dir {place}")


def known(run: Path) -> Known:
    """What the folder of a run says besides its checkpoint; nothing where `run` is a checkpoint by itself.

    Raises:
        InputError: a file is damaged.
    """
    folder = RunFolder(run)
    if not (folder.config.exists() and folder.checkpoints.is_dir()):
        return Known(None, {})
    provenance = read_provenance(folder)
    data = None if provenance is None or provenance.data is None else Summary.model_validate(provenance.data)
    return Known(data, scores_of(folder))


def without_samples(trained: Checkpoint, asked: PublishSection) -> Checkpoint:
    """The weights and what reading them takes: no state of the run, no ids, no names of folders.

    Raises:
        InputError: the options are those of another version of aam, or the checkpoint is damaged.
    """
    network = restored(trained)
    own = checkpoint_of(network)
    documents = dict(own.documents)
    if training_samples.DOCUMENT in documents:
        salt = training_samples.salt_of(own.model)
        given = documents[training_samples.DOCUMENT]
        documents[training_samples.DOCUMENT] = training_samples.concealed(given, asked.sample_ids, salt)
    if DOCUMENT in documents:
        documents[DOCUMENT] = _without_folders(documents[DOCUMENT])
    options = _names_alone(network.config).model_dump(mode="json")
    return Checkpoint(own.kind, options, documents, own.model)


def _names_alone(config: PretrainConfig | TrainConfig) -> PretrainConfig | TrainConfig:
    """Options in which every path is the name of a file."""
    sections = {name: getattr(config, name) for name in type(config).sections()}
    return config.model_copy(
        update={
            name: section.model_copy(update={option: _name(value) for option, value in section})
            for name, section in sections.items()
        }
    )


def _name(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_name, value))
    return Path(value.name) if isinstance(value, Path) else value


def _without_folders(document: Mapping[str, Any]) -> dict[str, Any]:
    """Provenance whose commands name files without their folders."""
    sessions = [session | {"command": _command(session["command"])} for session in document["sessions"]]
    return {**document, "sessions": sessions}


def _command(command: str | None) -> str | None:
    if command is None:
        return None
    return shlex.join(re.sub(r"[^=,]*/(?=[^/])", "", word.rstrip("/")) for word in shlex.split(command))
