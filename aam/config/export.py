"""The options of `aam export`, and which model `aam predict` applies."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import model_validator

from aam.config.base import MAIN, RunConfig, Section


class ExportedRunConfig(Section):
    """The run."""

    panel: ClassVar[str] = "Run"

    run: Path
    """Output folder of `aam train` or `aam pretrain` (its best checkpoint is used), or one checkpoint folder."""


class ExportOutputConfig(Section):
    """What is written."""

    panel: ClassVar[str] = "Exported model"

    output: Path
    """File to write, such as age.onnx. It holds the model and all that is needed to predict with it."""
    format: Literal["onnx"] = "onnx"
    """Format of the file: ONNX, which onnxruntime applies without PyTorch, also in other languages and in browsers."""
    overwrite: bool = False
    """Replace the file if it is there already."""


class ExportConfig(RunConfig):
    """Options of `aam export`."""

    exported: ExportedRunConfig
    model: ExportOutputConfig


class PredictedByConfig(Section):
    """The trained model: one of the two."""

    panel: ClassVar[str] = "Trained model"

    checkpoint: Annotated[Path | None, MAIN] = None
    """Output folder of a run (its best checkpoint is used) or one checkpoint folder."""
    onnx: Annotated[Path | None, MAIN] = None
    """File of `aam export`, in place of --checkpoint; onnxruntime computes, on the processor."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        if (self.checkpoint is None) == (self.onnx is None):
            which = "name one model" if self.checkpoint is None else "both name a model, and one predicts"
            raise ValueError(f"{which}: give --checkpoint or --onnx")
        return self

    def require_checkpoint(self) -> Path:
        """The checkpoint, where a caller has seen that it is not a file of ONNX.

        Raises:
            ValueError: it is.
        """
        if self.checkpoint is None:
            raise ValueError(f"the model is {self.onnx}, and no checkpoint")
        return self.checkpoint

    def require_onnx(self) -> Path:
        """The file of ONNX, where a caller has seen that it is no checkpoint.

        Raises:
            ValueError: it is one.
        """
        if self.onnx is None:
            raise ValueError(f"the model is the checkpoint {self.checkpoint}")
        return self.onnx
