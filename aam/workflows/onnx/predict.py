"""`aam predict --onnx`: predictions that onnxruntime computes.

Shapes: m samples, C classes, K outputs of the network, L nucleotides.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.config import PredictConfig, SamplingConfig
from aam.data.arrays import Floats, Ints
from aam.data.labels.target_table import Targets
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.sampling.samples import SampleBatch
from aam.data.study import Study, load_study
from aam.errors import InputError, shown
from aam.learners.base import ComparedSolution, Fitted, Output, Rows, below
from aam.learners.conformal import Conformity
from aam.learners.likeness import Likeness
from aam.learners.reference import Reference
from aam.learners.storage import TrainedLearner, no_intervals, spec_of
from aam.workflows.onnx.model_file import OnnxModel, read_model
from aam.workflows.onnx.names import COUNTS, INPUTS, PREDICTION, SPREAD, VALUE
from aam.workflows.predict_network import metadata_of, unlike_columns
from aam.workflows.restore import Restored, outline

Tokens: TypeAlias = NDArray[np.uint8]


def predict_by_onnx(config: PredictConfig) -> tuple[pd.DataFrame, Study]:
    """Predict the samples of a table with an exported model.

    Returns:
        The predictions by sample id, and the study that was left for them, as `TrainedLearner.predict`.

    Raises:
        InputError: a file is wrong, or the model predicts nothing.
    """
    path = config.trained.require_onnx()
    model = read_model(path)
    if model.kind == "pretrain":
        raise InputError(f"--onnx {path} is a pretrained encoder and predicts no column: export a run of `aam train`")
    level = config.intervals.interval
    if model.kind == "learner":
        with _as_exported(path):
            trained = learner_of_model(model, config.inference.batch_size)
        return trained.predict(load_study(config.inputs, SamplingConfig()), None, level)
    if level is not None:
        raise InputError(no_intervals("neural"))
    with _as_exported(path):
        network = outline(model.checkpoint)
    study = load_study(config.inputs, network.config.sampling)
    return _by_network(model, network, study, config.inference.batch_size), study


@contextmanager
def _as_exported(path: Path) -> Iterator[None]:
    """Turn what properties of a file raise that no aam has written into one error."""
    try:
        yield
    except InputError as error:
        raise InputError(f"--onnx {path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"--onnx {path} is damaged ({shown(error)}): export it again") from None


@dataclass(eq=False)
class OnnxSolution(ComparedSolution):
    """One column as a file of ONNX predicts it."""

    model: OnnxModel
    place: int
    classes: int
    """0 where numbers are predicted."""
    batch: int
    """Samples that are predicted together."""

    def predict(self, study: Study, rows: Rows) -> Output:
        """Predict samples, a batch at a time."""
        names = [VALUE.format(self.place), SPREAD.format(self.place)]
        there = {output.name for output in self.model.session.get_outputs()}
        wanted = [name for name in names if name in there]
        counts = study.table.counts[rows]
        parts: list[list[Floats]] = []
        for start in range(0, counts.shape[0], self.batch):
            reads = counts[start : start + self.batch].toarray().astype(np.float64)
            parts.append(self.model.run(wanted, {COUNTS: reads}))
        if not parts:
            return Output(np.zeros((0, self.classes) if self.classes else 0))
        value, *spread = (np.concatenate(part) for part in zip(*parts, strict=True))
        return Output(value, *spread)


def learner_of_model(model: OnnxModel, batch: int) -> TrainedLearner:
    """The learner, with solutions that onnxruntime computes."""
    documents, arrays = model.documents, model.arrays
    spec, targets = spec_of(model.checkpoint), Targets.from_json(documents["targets"])
    reference = Reference.restore(documents["asvs"], below("tree", arrays))
    likeness = None
    if "likeness" in documents:
        likeness = Likeness.restore(documents["likeness"], below("likeness", arrays), len(reference.asv_ids))
    solutions = []
    for place, column in enumerate(targets.columns):
        solution = OnnxSolution(model, place, 0 if column.classes is None else len(column.classes.classes), batch)
        scores = below(f"conformity{place}", arrays)
        solution.conformity = Conformity.restore(scores) if scores else None
        solutions.append(solution)
    return TrainedLearner(spec, Fitted(spec.learner, targets, tuple(solutions)), reference, likeness)


def _by_network(model: OnnxModel, trained: Restored, study: Study, batch_size: int) -> pd.DataFrame:
    """Predict every sample of a study, in its order; as `predict_study`."""
    targets = trained.require_targets()
    metadata = metadata_of(study, trained)
    targets.warn_of_others(metadata)
    categories = None if trained.categories is None else trained.categories.encode(metadata)
    (outputs,) = apply_network(model, [PREDICTION], trained, study, batch_size, categories)
    return targets.decode(outputs.astype(np.float64), metadata).assign(**unlike_columns(trained, study))


def apply_network(
    model: OnnxModel,
    outputs: list[str],
    trained: Restored,
    study: Study,
    batch_size: int,
    categories: Ints | None = None,
) -> list[Floats]:
    """Compute outputs of a network or an encoder for every sample of a study, in its order.

    Args:
        model: the file.
        outputs: names of some of its outputs.
        trained: what the file says of itself; weights are not looked at.
        study: the samples.
        batch_size: samples that are computed together.
        categories: of the samples, where predictions depend on some: int64 [samples, C].

    Returns:
        An array for each output: float32 [samples, ...].
    """
    draws = SampleDraws(study.table, trained.config.sampling, trained.config.runtime.seed)
    every = FixedBatches(draws, np.arange(study.table.n_samples), batch_size)
    nucleotides = _nucleotides(study, trained.config.model.max_bp)
    order = np.argsort(every.sizes, kind="stable")  # samples of similar size share a batch: little padding
    batches = every.take(order)
    inputs = (_inputs(batches[place], nucleotides, categories) for place in range(len(batches)))
    parts = [model.run(outputs, each) for each in inputs]
    return [np.concatenate(part)[np.argsort(order)] for part in zip(*parts, strict=True)]


def _nucleotides(study: Study, length: int | None) -> Tokens:
    """Nucleotides of every ASV, padded to the length that the model reads [ASVs, L]."""
    tokens = study.nucleotides(length)
    return np.pad(tokens, ((0, 0), (0, (length or 0) - tokens.shape[1])))


def _inputs(batch: SampleBatch, nucleotides: Tokens, categories: Ints | None) -> dict[str, NDArray[Any]]:
    """What the network reads of a batch, by name."""
    own = (batch.asv_index, batch.counts, batch.depth, batch.padding)
    parts = [nucleotides[batch.asv.numpy()], *(part.numpy() for part in own)]
    if categories is not None:
        parts.append(categories[batch.sample.numpy()])
    return dict(zip(INPUTS, parts, strict=False))
