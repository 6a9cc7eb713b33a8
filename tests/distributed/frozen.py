"""aam, saying at its end how many rows of nucleotides each rank has encoded, those read from a cache not among them.

torchrun ... frozen.py train --distributed --embedding-cache FOLDER ...
"""

import sys

from torch import Tensor

from aam.cli import main
from aam.config.launch import launched_rank
from aam.models.asv_encoder import AsvEncoder
from aam.models.types import EncodedAsvs

encoded = [0]
forward = AsvEncoder.forward


def count(encoder: AsvEncoder, tokens: Tensor) -> EncodedAsvs:
    """Count the rows."""
    encoded[0] += len(tokens)
    return forward(encoder, tokens)


if __name__ == "__main__":
    AsvEncoder.forward = count
    try:
        main(sys.argv[1:])
    finally:
        sys.stdout.write(f"rank {launched_rank()} encoded {encoded[0]} ASVs\n")
