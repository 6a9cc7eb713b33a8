"""What the inputs and outputs of exported models are called.

Shapes: m samples, A ASVs of a learner's model; B samples of a batch, S ASVs in a sample, U unique ASVs, L nucleotides,
D width, K outputs of the network, C columns of categories, or classes.
"""

from typing import Final

COUNTS: Final = "counts"
"""Input of a learner: reads, double [m, A]."""
VALUE: Final = "value{}"
"""Output of a learner by the place of the column: numbers on the learned scale [m], or probabilities [m, C]."""
SPREAD: Final = "spread{}"
"""Standard deviations of the numbers [m], where the learner has some."""
INPUTS: Final = ("nucleotides", "asv_index", "counts", "depth", "padding", "categories")
"""Of the network: uint8 [U, L], int64 [B, S], int64 [B, S], int64 [B], bool [B, S]; int64 [B, C] where predictions
depend on categories. See `aam.data.sampling.samples.Samples`."""
PREDICTION: Final = "prediction"
"""Output of the network: what `Targets.decode` takes [B, K]."""
EMBEDDING: Final = "sample_embedding"
"""Output of an encoder: samples as of `aam embed` [B, D]."""
SCALED: Final = "sample_z"
"""Output of an encoder: what its distances compare [B, D]."""
