"""Models from configs and from checkpoints, with nothing else at hand."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import torch
from pydantic import ValidationError

from aam.config import PretrainConfig, RunConfig, TrainConfig
from aam.data.categorical import CategoryEncoder
from aam.data.labels.target_table import Targets
from aam.errors import InputError, first_ids, shown
from aam.models.distance_link import LINK_OF_CLADES, LinkName
from aam.models.heads import TargetSpec
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import CategorySpec
from aam.training.checkpoints import training_samples
from aam.training.checkpoints.store import Checkpoint, CheckpointStore, Kind, read_checkpoint
from aam.training.distributed.sharding import load_weights
from aam.training.run_folder import RunFolder
from aam.training.tasks.table import heads_of
from aam.workflows.old_configs import in_todays_names, in_todays_options

AnyConfig = TypeVar("AnyConfig", PretrainConfig, TrainConfig)

logger = logging.getLogger(__name__)

_KINDS: Final[Mapping[type[RunConfig], Kind]] = {PretrainConfig: "pretrain", TrainConfig: "train"}


@dataclass(frozen=True, eq=False)
class Restored:
    """A trained model and what it was trained with."""

    config: PretrainConfig | TrainConfig
    encoder: SequenceEncoder
    predictor: SequencePredictor | None
    targets: Targets | None
    categories: CategoryEncoder | None
    documents: dict[str, Any]
    """What its checkpoint holds besides config and weights."""

    @property
    def model(self) -> SequenceEncoder | SequencePredictor:
        """The whole model."""
        return self.encoder if self.predictor is None else self.predictor

    def require_predictor(self) -> SequencePredictor:
        """The network that predicts columns, where a caller cannot do without.

        Raises:
            ValueError: the model is an encoder.
        """
        if self.predictor is None:
            raise ValueError("a pretrained encoder predicts no column")
        return self.predictor

    def require_targets(self) -> Targets:
        """What is predicted, where a caller cannot do without.

        Raises:
            ValueError: the model is an encoder.
        """
        if self.targets is None:
            raise ValueError("a pretrained encoder predicts no column")
        return self.targets


def build_encoder(config: PretrainConfig, documents: Mapping[str, Any]) -> SequenceEncoder:
    """Build the pretraining model of a config on meta, without weights, with heads as of `learn_documents`."""
    with torch.device("meta"):
        return SequenceEncoder(config.model, _link(config), heads_of(config.losses, config.model, documents))


def _link(config: PretrainConfig) -> LinkName:
    if config.model.sample_level == "clades":
        return LINK_OF_CLADES[config.unifrac.unifrac_metric]
    # weighted UniFrac that is not normalized may exceed 1, which the other links do not reach
    unbounded = config.unifrac.unifrac_metric == "weighted_unifrac"
    return "euclidean" if unbounded else config.unifrac.distance_link


def build_predictor(
    config: TrainConfig, targets: Targets, categories: CategoryEncoder | None = None
) -> SequencePredictor:
    """Build the fine-tuning model of a config on meta, without weights."""
    columns = targets.columns
    spec = TargetSpec(
        tuple(column.outputs for column in columns),
        tuple(column.quantiles for column in columns),
        tuple(column.start for column in columns),
    )
    columns_of_categories = None
    if categories is not None:
        columns_of_categories = CategorySpec(
            categories.sizes, categories.parent_index, categories.fused, categories.scaled_index
        )
    with torch.device("meta"):
        return SequencePredictor(
            SequenceEncoder(config.model), spec, config.target, config.categories, columns_of_categories
        )


def load_pretrained(predictor: SequencePredictor, checkpoint: Checkpoint) -> None:
    """Copy the weights of a pretrained encoder; the heads of its tasks are left behind."""
    own = predictor.encoder.state_dict().keys()
    weights = {name: value for name, value in in_todays_names(checkpoint.model).items() if name in own}
    load_weights(predictor.encoder, weights)


def seen_by(encoder: Checkpoint, samples: Sequence[str], side: str = "held-out") -> str | None:
    """A sentence on held-out samples that an encoder was trained on, without labels; None where there are none."""
    seen = training_samples.among(encoder.documents[training_samples.DOCUMENT], samples)
    if seen is None:
        return (
            f"the pretrained encoder does not tell which samples it has seen: if any of the {len(samples)} {side} "
            "samples are among them, what learns from it may look better than it is for new samples"
        )
    if not seen:
        return None
    return (
        f"the pretrained encoder has seen, without labels, {len(seen)} of the {len(samples)} {side} samples "
        f"({first_ids(seen)}): what learns from it may look better than it is for new samples"
    )


def resumed_config(asked: AnyConfig) -> AnyConfig | None:
    """The options that a run to resume has in its last checkpoint; None where there is none.

    The shape of the model and its weights come from there too, so that the run does not depend on what its pretrained
    encoder is by now.

    Raises:
        InputError: the checkpoint is damaged.
    """
    output, kind = asked.output, type(asked)
    last = CheckpointStore(RunFolder(output.output_dir).checkpoints).last() if output.resume else None
    return None if last is None else config_of(kind, read_checkpoint(last, kind=_KINDS[kind], with_weights=False))


def restore(path: Path) -> Restored:
    """Rebuild a trained model from its checkpoint alone, in evaluation mode.

    Raises:
        InputError: no whole checkpoint is there.
    """
    return restored(read_checkpoint(path))


def restored(checkpoint: Checkpoint) -> Restored:
    """Rebuild a trained model from a checkpoint with its weights, in evaluation mode.

    Raises:
        InputError: its options are those of another version of aam, or it is no network's.
    """
    trained = outline(checkpoint)
    # copies, as the file may be replaced; taken over as they are: to give a model on meta its memory loads SymPy
    weights = {name: tensor.clone() for name, tensor in in_todays_names(checkpoint.model).items()}
    expected = {name: tensor.shape for name, tensor in trained.model.state_dict().items()}
    if {name: tensor.shape for name, tensor in weights.items()} != expected:
        raise InputError("the checkpoint holds other weights than its options ask for; use another checkpoint")
    trained.model.load_state_dict(weights, assign=True)
    trained.model.eval()
    return trained


def outline(checkpoint: Checkpoint) -> Restored:
    """Rebuild a trained model from the documents of its checkpoint alone: on meta, without weights.

    Raises:
        InputError: its options are those of another version of aam, or it is no network's.
    """
    if checkpoint.kind == "learner":
        raise InputError(
            f"the model is a learner of the kind {checkpoint.config.get('learner')}, which has no embeddings: only the "
            "network has; use `aam predict`"
        )
    if checkpoint.kind == "pretrain":
        pretraining, documents = config_of(PretrainConfig, checkpoint), checkpoint.documents
        return Restored(pretraining, build_encoder(pretraining, documents), None, None, None, documents)
    config = config_of(TrainConfig, checkpoint)
    document = checkpoint.documents.get("categories")  # there where the prediction depends on any
    with _read_as_written():
        targets = Targets.from_json(checkpoint.documents["targets"])
        categories = None if document is None else CategoryEncoder.from_json(document)
    predictor = build_predictor(config, targets, categories)
    return Restored(config, predictor.encoder, predictor, targets, categories, checkpoint.documents)


@contextmanager
def _read_as_written() -> Iterator[None]:
    """Turn what documents raise that have the right hash and yet were written by no aam into one error."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the checkpoint says of its columns what no aam writes ({shown(error)}); use another checkpoint"
        ) from None


def config_of(kind: type[AnyConfig], checkpoint: Checkpoint) -> AnyConfig:
    """Read the config of a checkpoint, whose options are those of the aam that wrote it, or of an earlier one."""
    if not isinstance(checkpoint.config, dict) or not all(
        isinstance(part, dict) for part in checkpoint.config.values()
    ):
        raise InputError("the checkpoint holds no options, as aam writes them; use another checkpoint")
    try:
        return kind.model_validate(in_todays_options(checkpoint.config))
    except ValidationError as error:
        names = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise InputError(
            f"the checkpoint of `aam {checkpoint.kind}` has options that this aam does not know ({names}): read it "
            "with the version of aam that wrote it"
        ) from None


def checkpoint_of(trained: Restored) -> Checkpoint:
    """Make the checkpoint from which `restore` rebuilds an equal model; it holds no state to resume from."""
    kind: Kind = "pretrain" if trained.targets is None else "train"
    return Checkpoint(kind, trained.config.model_dump(mode="json"), trained.documents, trained.model.state_dict())
