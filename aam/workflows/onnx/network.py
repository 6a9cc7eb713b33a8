"""The network as one graph, by PyTorch's exporter: for any number of samples, ASVs in a sample and unique ASVs.

Shapes: B samples, S ASVs in a sample, U unique ASVs, L nucleotides, D width, K outputs, C columns of categories.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import torch
from onnx import ModelProto, checker
from torch import Tensor, nn
from torch.export import Dim

from aam.data.sampling.samples import Samples
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.workflows.onnx.names import EMBEDDING, INPUTS, PREDICTION, SCALED
from aam.workflows.restore import Restored

OPSET: Final = 20


class _Predicting(nn.Module):
    """The network with inputs by name."""

    outputs = (PREDICTION,)

    def __init__(self, predictor: SequencePredictor) -> None:
        super().__init__()
        self.predictor = predictor

    def forward(self, *inputs: Tensor) -> Tensor:
        """Predict: [B, K]."""
        samples = Samples(*inputs[:5])
        if len(inputs) == len(INPUTS):
            samples = samples._replace(categories=inputs[5])
        prediction: Tensor = self.predictor(samples).prediction
        return prediction


class _Encoding(nn.Module):
    """The encoder with inputs by name."""

    outputs = (EMBEDDING, SCALED)

    def __init__(self, encoder: SequenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Embed: [B, D] and [B, D]."""
        embedding = self.encoder.encode(Samples(*inputs))[1].embedding
        return embedding, self.encoder.scale(embedding)


def graph_of(trained: Restored) -> ModelProto:
    """The model as a graph from ASVs and counts to predictions, or of an encoder to embeddings of samples."""
    module = _Encoding(trained.encoder) if trained.predictor is None else _Predicting(trained.predictor)
    columns = 0 if trained.categories is None else len(trained.categories.sizes)
    example = _example(trained.config.model.max_bp or 0, columns)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            dynamic_shapes=(_dynamic()[: len(example)],),
            input_names=INPUTS[: len(example)],
            output_names=module.outputs,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    model.producer_name = "aam"
    checker.check_model(model)
    return model


def _example(nucleotides: int, columns: int) -> tuple[Tensor, ...]:
    """A batch of two samples with three ASVs; no size is 1, which the exporter would take for fixed."""
    asvs = torch.ones(4, nucleotides, dtype=torch.uint8)
    grid = torch.tensor([[0, 1, 2], [3, 1, 0]])
    counts = torch.tensor([[5, 2, 1], [3, 4, 0]])
    parts = (asvs, grid, counts, counts.sum(1), counts == 0)
    return (*parts, torch.ones(2, columns, dtype=torch.int64)) if columns else parts


def _dynamic() -> tuple[dict[int, Any], ...]:
    rows, columns, unique = Dim("samples"), Dim("asvs"), Dim("unique_asvs")
    grid = {0: rows, 1: columns}
    return {0: unique}, grid, grid, {0: rows}, grid, {0: rows}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what PyTorch's exporter says about itself."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
