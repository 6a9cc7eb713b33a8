"""aam with a fault: what the third step of rank 1 meets.

torchrun ... faulty_aam.py RuntimeError|OSError|NaN pretrain --distributed ...
"""

import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from aam.cli import main
from aam.config.launch import launched_rank
from aam.data.sampling.dataset import StepBatch
from aam.training.objective import Objective, Scale

STEP = 2
"""Counted from 0."""
ERRORS = {"RuntimeError": RuntimeError, "OSError": OSError}


def inject(fault: str) -> None:
    """Let the gradient of a step fail, or a weight be no number before it; all else is aam's."""
    backward = Objective.backward

    def faulty(self: Objective, step: StepBatch, scale: Scale) -> Mapping[str, Tensor]:
        if step.plan.step == STEP:
            if fault in ERRORS:
                raise ERRORS[fault]("an injected fault")
            with torch.no_grad():
                next(self.model.parameters()).mul_(torch.nan)
        return backward(self, step, scale)

    Objective.backward = faulty


if __name__ == "__main__":
    if launched_rank() == 1:
        inject(sys.argv[1])
    main(sys.argv[2:])
