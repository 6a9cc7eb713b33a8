"""Section about categorical metadata that the prediction is conditioned on."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aam.config.base import MAIN, Names, Section

CategoricalFusion = Literal["concat", "add", "gmu", "cross_attention", "perceiver"]
HierarchyCombine = Literal["sum", "gated"]


class CategoryColumnsConfig(Section):
    """Which categorical metadata a prediction depends on: known of a new sample, and no target."""

    panel: ClassVar[str] = "Categorical metadata"

    categorical_columns: Annotated[Names, MAIN] = ()
    """Columns such as site,season that the prediction may depend on; new samples need them too (empty: missing). The
    network and the learner kernel read them."""
    categorical_hierarchy: Names = ()
    """Parents of columns: city=region,region=country, or a JSON file; a new city is then taken for its region."""

    @model_validator(mode="after")
    def _columns_are_named_once(self) -> Self:
        twice = [name for name in self.categorical_columns if self.categorical_columns.count(name) > 1]
        if twice:
            raise ValueError(f"--categorical-columns names {twice[0]} twice")
        if not self.categorical_columns:
            self._refuse_unused("categorical_hierarchy", "--categorical-columns")
        return self

    @property
    def hierarchy_file(self) -> Path | None:
        """The JSON file that gives the hierarchy, if it is one."""
        one = self.categorical_hierarchy[0] if len(self.categorical_hierarchy) == 1 else ""
        return Path(one) if one.endswith(".json") else None


class CategoryConfig(CategoryColumnsConfig):
    """Categorical metadata beside the community, and how the network reads it."""

    categorical_fusion: CategoricalFusion = "concat"
    """How categories meet the sample: beside its embedding, added, gated, or attended to by each ASV."""
    categorical_dim: Annotated[int, Field(gt=0, le=65_536)] = 16
    """Width of the vector of a category."""
    cross_attn_heads: Annotated[int, Field(gt=0, le=65_536)] = 4
    """Attention heads of --categorical-fusion cross_attention and perceiver; divides --embedding-dim."""
    hierarchy_combine: HierarchyCombine = "sum"
    """A category's vector and its parent's: their sum, or weighed by a learned gate."""
    categorical_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability that a category is made unknown in a training step, so that new ones are met too."""
    conditional_output_scaling: str | None = None
    """Column whose every category gets a learned scale and offset of the predictions; identity at the start."""
    categorical_lr: Annotated[float, Field(gt=0)] | None = None
    """Highest learning rate of all that depends on categories. Default: --lr."""

    @model_validator(mode="after")
    def _options_need_columns(self) -> Self:
        if not self.categorical_columns:
            for option in ("categorical_fusion", "categorical_dim", "categorical_dropout"):
                self._refuse_unused(option, "--categorical-columns")
        if self.categorical_fusion not in ("cross_attention", "perceiver"):
            self._refuse_unused("cross_attn_heads", "--categorical-fusion cross_attention or perceiver")
        if not self.categorical_hierarchy:
            self._refuse_unused("hierarchy_combine", "--categorical-hierarchy")
        if not self.categorical_columns and self.conditional_output_scaling is None:
            self._refuse_unused("categorical_lr", "--categorical-columns or --conditional-output-scaling")
        return self
