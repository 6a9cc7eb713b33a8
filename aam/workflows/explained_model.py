"""The model and the samples that `aam explain` is about: a learner of a checkpoint, or the network.

Shapes: m samples, A ASVs of the study, S of a sample, D width, C explained numbers, K outputs of the network.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from aam.config import ExplainConfig, SamplingConfig, UnifracConfig
from aam.data.distances.phylogeny import LengthChoices, read_phylogeny
from aam.data.files.tables import FeatureTable
from aam.data.labels.target_column import TargetColumn
from aam.data.labels.target_table import Targets
from aam.data.labels.taxonomy import read_taxonomy
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.study import Study, load_study, with_taxonomy
from aam.errors import InputError, first_ids
from aam.interpret import kernel_paths, tree_shap  # noqa: F401  # how solutions of kernel and trees are explained
from aam.interpret.contributions import Contributions, contributions, total
from aam.interpret.explained import ExplainedModel, without
from aam.interpret.network import ExplainedNetwork, ReadSample
from aam.learners.base import Floats, Rows
from aam.learners.storage import TrainedLearner
from aam.training.checkpoints.store import read_checkpoint
from aam.training.distributed import World
from aam.training.inference.asv_embeddings import AsvEmbeddings, embed_asvs, held
from aam.training.inference.samples import predict_outputs
from aam.training.machine.compute import Compute
from aam.training.machine.hardware import device_for
from aam.workflows.makers import read_learner
from aam.workflows.neural_solution import NeuralSolution
from aam.workflows.predict_network import categories_of, metadata_of, study_batches
from aam.workflows.restore import Restored, restored

BATCH = 32
"""Samples that the network predicts together."""


@dataclass(frozen=True, eq=False)
class LearnerModel(ExplainedModel):
    """A learner that reads the whole table."""

    learner: str
    column: TargetColumn
    study: Study
    place: int
    """Of the column among those that are predicted."""
    trained: TrainedLearner
    draws: tuple[Study, ...]

    def predict(self, rows: Rows, removed: Sequence[Rows]) -> Floats:
        """See `ExplainedModel`: the mean over draws."""
        solution, every = self.trained.fitted.solutions[self.place], np.arange(len(rows))
        parts = [solution.predict(without(draw, rows, removed), every).value for draw in self.draws]
        return self.values_in_units(np.mean(parts, axis=0).reshape(len(rows), -1), rows)

    def contributions(self, row: int, background: Rows) -> Contributions:
        """See `ExplainedModel`: the mean over draws."""
        solution = self.trained.fitted.solutions[self.place]
        parts = [
            contributions(solution, draw, row, background).mean().scaled(1 / len(self.draws)) for draw in self.draws
        ]
        return self.to_units(total(parts), row)


@dataclass(frozen=True, eq=False)
class NetworkModel(ExplainedModel):
    """The network; ASVs are embedded once."""

    learner: str
    column: TargetColumn
    study: Study
    outputs: slice
    """Of the column, among all that the network gives."""
    trained: Restored
    """With the sampling of the study as it is."""
    compute: Compute
    embeddings: AsvEmbeddings

    @classmethod
    def of(cls, trained: Restored, study: Study, column: TargetColumn, compute: Compute) -> "NetworkModel":
        """Draw the reads of the samples, and embed their ASVs.

        Raises:
            InputError: the network reads columns of the metadata that are not there.
        """
        metadata_of(study, trained)
        predictor, targets = trained.require_predictor().to(compute.device).eval(), trained.require_targets()
        trained, study = settled(trained, study)
        _, nucleotides = study_batches(trained, study, BATCH, compute)
        every = np.flatnonzero(study.table.asv_reads)
        rows = embed_asvs(predictor, nucleotides, every, compute)
        columns = targets.columns
        start = sum(one.outputs for one in columns[: columns.index(column)])
        outputs = slice(start, start + column.outputs)
        return cls("network", column, study, outputs, trained, compute, held(rows, every, study.table.n_asvs))

    def predict(self, rows: Rows, removed: Sequence[Rows]) -> Floats:
        """See `ExplainedModel`."""
        changed, predictor = without(self.study, rows, removed), self.trained.require_predictor()
        categories = categories_of(metadata_of(changed, self.trained), self.trained, self.compute)
        batches, _ = study_batches(self.trained, changed, BATCH, self.compute)
        raw = predict_outputs(predictor, self.embeddings, batches, self.compute, 0, categories)
        explained = self._explained(torch.from_numpy(raw)).numpy()
        return self.values_in_units(explained, rows)

    def _explained(self, raw: Tensor) -> Tensor:
        """A number, or probabilities: [m, K] -> [m, C]."""
        own = raw[:, self.outputs]
        if self.column.classes is not None:
            return own.softmax(dim=1)
        return own[:, self.column.point : self.column.point + 1]

    def contributions(self, row: int, background: Rows) -> Contributions:
        """See `ExplainedModel`; the baseline is one of the network's own (`aam.interpret.network`)."""
        network = _double(self, tuple(background.tolist()))
        return self.to_units(network.contributions(self.read(row), self.study.table.n_asvs), row)

    def read(self, row: int) -> ReadSample:
        """A sample as the network reads it."""
        draws = SampleDraws(self.study.table, self.trained.config.sampling, self.trained.config.runtime.seed)
        batch = FixedBatches(draws, np.array([row]), 1)[0]
        categories = None
        if self.trained.categories is not None:
            metadata = metadata_of(self.study, self.trained).iloc[[row]]
            categories = torch.from_numpy(self.trained.categories.encode(metadata))[0].to(self.compute.device)
        asvs = batch.asv[batch.asv_index[0]].numpy()
        return ReadSample(asvs, batch.counts[0].numpy(), int(batch.depth[0]), categories)

    def embedded(self, asvs: Rows) -> Tensor:
        """Embeddings of ASVs [S, D], in single precision."""
        return self.embeddings.of(torch.from_numpy(asvs).to(self.compute.device))


def settled(trained: Restored, study: Study) -> tuple[Restored, Study]:
    """Draw the reads of every sample once; what predicts from the result draws no more."""
    config = trained.config
    draws = SampleDraws(study.table, config.sampling, config.runtime.seed)
    counts = draws.rows(np.arange(study.table.n_samples), FIXED)
    table = study.table
    every = config.sampling.model_copy(update={"rarefy_depth": None, "keep_shallow": False})
    changed = config.model_copy(update={"sampling": every})
    drawn = FeatureTable(counts, table.sample_ids, table.asv_ids, table.sequences)
    return replace(trained, config=changed), replace(study, table=drawn)


@lru_cache(maxsize=4)
def _double(model: NetworkModel, background: tuple[int, ...]) -> ExplainedNetwork:
    """The network in double precision, with the average read of some samples as baseline."""
    rows = np.array(background)
    proportions = model.study.asv_proportions[rows].mean(axis=0)
    asvs = np.flatnonzero(proportions)
    average = torch.from_numpy(proportions[asvs]).to(model.compute.device) @ model.embedded(asvs).double()
    predictor = deepcopy(model.trained.require_predictor())
    every = np.arange(model.study.table.n_samples)
    spread = model.predict(every, [np.empty(0, np.int64)] * len(every)).std(axis=0).min()
    factor = np.min(model.scale_of(every)[0]) if model.in_units else 1.0
    unit = max(float(spread / factor), 1e-9)
    return ExplainedNetwork(
        predictor.double().requires_grad_(False),
        lambda columns: model.embedded(columns).double(),
        average,
        model._explained,
        unit,
    )


@contributions.register
def _(solution: NeuralSolution, study: Study, row: int, background: Rows) -> Contributions:
    """The network as a learner among others, in the unit of that learner; its baseline is its own."""
    model = _of_solution(solution, study)
    found = model.contributions(row, background)
    if not solution.classes:
        return found
    places = solution.places
    value = np.zeros((1, study.table.n_asvs, solution.classes))
    explained, baseline = np.zeros(solution.classes), np.zeros((1, solution.classes))
    value[:, :, places], explained[places], baseline[:, places] = found.value, found.explained, found.baseline
    return Contributions(value, explained, baseline)


@lru_cache(maxsize=4)
def _of_solution(solution: NeuralSolution, study: Study) -> NetworkModel:
    trained = solution.trained
    world = World(device_for(trained.config.runtime.device))
    return NetworkModel.of(trained, Study(study.table), trained.require_targets().only, Compute(world))


def open_model(config: ExplainConfig, world: World) -> ExplainedModel:
    """Read the model and the samples.

    Raises:
        InputError: a file or an option is wrong, or the model predicts no column.
    """
    path = config.trained.checkpoint
    assert path is not None
    checkpoint = read_checkpoint(path)
    name = _named(config)
    if checkpoint.kind == "learner":
        return _open_learner(read_learner(checkpoint), config, name)
    trained = restored(checkpoint)
    if trained.targets is None:
        raise InputError(
            f"--checkpoint {path} is a pretrained encoder and predicts no column: fine-tune it with `aam train`"
        )
    study = name(load_study(config.inputs, trained.config.sampling, UnifracConfig()))
    column = _column(trained.targets, config)
    return NetworkModel.of(trained, study, column, Compute.of(world, config.runtime))


def _named(config: ExplainConfig) -> Callable[[Study], Study]:
    """Give a study the taxonomy that is named, if one is."""
    path = config.importance.taxonomy
    if path is None:
        return lambda study: study
    taxonomy = read_taxonomy(path)
    return lambda study: with_taxonomy(study, taxonomy)


def _open_learner(trained: TrainedLearner, config: ExplainConfig, name: Callable[[Study], Study]) -> LearnerModel:
    inputs, phylogeny = config.inputs, None
    if inputs.tree is not None:
        trained.check_reads_branches()
        phylogeny = read_phylogeny(inputs.tree, LengthChoices.of(inputs), inputs.root)
    study = load_study(inputs, SamplingConfig())
    column = _column(trained.fitted.targets, config)
    draws = tuple(name(draw) for draw in trained.draws(study, phylogeny).studies)
    place = trained.fitted.targets.columns.index(column)
    return LearnerModel(trained.name, column, draws[0], place, trained, draws)


def _column(targets: Targets, config: ExplainConfig) -> TargetColumn:
    """The column to explain.

    Raises:
        InputError: the model predicts several and none of them is named, or it does not predict the one that is.
    """
    asked, names = config.explained.column, [column.name for column in targets.columns]
    if asked is None and len(names) > 1:
        raise InputError(f"the model predicts {first_ids(names)}: say which to explain with --column")
    if asked is not None and asked not in names:
        raise InputError(f"--column {asked}: the model predicts {first_ids(names)}")
    return targets.columns[names.index(asked or names[0])]
