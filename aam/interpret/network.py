"""Contributions of ASVs to the predictions of the network: integrated gradients on their embeddings and abundances.

The baseline of a sample has as many ASVs and reads, but all its ASVs are alike: each has the embedding of the average
read of the samples that it is compared with, and the same abundance. What the number of ASVs and the depth do is thus
part of the baseline, and everything that tells ASVs apart is divided among them (Sundararajan, Taly and Yan 2017;
captum's implementation, by Gauss-Legendre quadrature). Computed in double precision.

Shapes: S ASVs of the sample, D width, Q points of the quadrature, A ASVs of the study, C explained numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from aam.data.sampling.samples import Samples
from aam.interpret.contributions import Contributions
from aam.interpret.tree_shap import require
from aam.learners.base import Floats, Rows
from aam.models.sequence_predictor import SequencePredictor

POINTS: Final = 32
MOST_POINTS: Final = 512
TOLERANCE: Final = 1e-5
"""Of the sum, as a fraction of the unit that is given: points are doubled until it is met, up to `MOST_POINTS`."""
_POSITIONS: Final = 8192
"""ASVs of all points of the quadrature that are computed together."""


@dataclass(frozen=True, eq=False)
class ReadSample:
    """One sample as the network reads it."""

    asvs: Rows
    """Columns of the table [S]."""
    reads: Rows
    """[S]."""
    depth: int
    """Reads of the sample, also of ASVs that are not read."""
    categories: Tensor | None
    """int64 [C], where the prediction depends on some."""


@dataclass(frozen=True, eq=False)
class ExplainedNetwork:
    """A network and the embeddings of ASVs, on one device and in double precision."""

    predictor: SequencePredictor
    """In evaluation mode."""
    embeddings: Callable[[Rows], Tensor]
    """Of ASVs, columns of the table: [S] -> [S, D]."""
    average: Tensor
    """Embedding of the average read of the samples that are compared with [D]."""
    outputs: Callable[[Tensor], Tensor]
    """Makes what is explained of what the network gives: [Q, K] -> [Q, C]."""
    unit: float
    """Standard deviation of the target on the scale of `outputs`, or 1 for probabilities."""

    def contributions(self, sample: ReadSample, asvs: int) -> Contributions:
        """Divide what sets a sample apart from its baseline.

        Args:
            sample: the sample.
            asvs: columns of the table, A.

        Raises:
            InputError: captum is not installed.
        """
        inputs, baseline = self._ends(sample)
        forward = self._forward(sample)
        with torch.no_grad():
            explained, start = forward(*inputs)[0], forward(*baseline)[0]
        value = np.zeros((1, asvs, len(explained)))
        for number in range(len(explained)):
            wanted = float(explained[number] - start[number])
            value[0, sample.asvs, number] = self._integrated(forward, inputs, baseline, number, wanted)
        return Contributions(value, explained.cpu().numpy(), start.cpu().numpy()[None])

    def _ends(self, sample: ReadSample) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Embeddings [1, S, D] and reads [1, S] of the sample, and of its baseline."""
        embedded = self.embeddings(sample.asvs)[None]
        reads = torch.from_numpy(sample.reads).to(embedded)[None]
        alike = reads.mean().expand_as(reads)
        return (embedded, reads), (self.average.expand_as(embedded), alike)

    def _forward(self, sample: ReadSample) -> Callable[[Tensor, Tensor], Tensor]:
        def forward(embedded: Tensor, reads: Tensor) -> Tensor:
            rows, size = reads.shape
            index = torch.arange(rows * size, device=reads.device).view(rows, size)
            categories = None if sample.categories is None else sample.categories.expand(rows, -1)
            samples = Samples(
                embedded.flatten(0, 1),
                index,
                reads,
                reads.new_full((rows,), sample.depth),
                torch.zeros_like(index, dtype=torch.bool),
                categories=categories,
            )
            # a network may not read abundances: they are part of the graph nevertheless
            return self.outputs(self.predictor(samples).prediction) + 0 * reads.sum(dim=1, keepdim=True)

        return forward

    def _integrated(
        self,
        forward: Callable[[Tensor, Tensor], Tensor],
        inputs: tuple[Tensor, Tensor],
        baseline: tuple[Tensor, Tensor],
        number: int,
        wanted: float,
    ) -> Floats:
        """Contributions to one of the numbers, which add up to what is wanted [S]."""
        require("captum")
        from captum.attr import IntegratedGradients  # noqa: PLC0415  # optional

        method = IntegratedGradients(forward)
        together = max(1, _POSITIONS // inputs[1].shape[1])
        points = POINTS
        while True:
            embedded, reads = method.attribute(
                inputs, baseline, target=number, n_steps=points, internal_batch_size=together
            )
            found: Floats = (embedded.sum(dim=-1) + reads)[0].detach().cpu().numpy()
            if abs(found.sum() - wanted) <= TOLERANCE * self.unit or points >= MOST_POINTS:
                return found
            points *= 2
