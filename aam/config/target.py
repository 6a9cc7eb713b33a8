"""Sections about what is predicted: the target, its loss and range, and how samples are weighed."""

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from aam.config.base import COMMAS, MAIN, Fraction, Names, NonNegative, Section, flag

TargetTransform = Literal["none", "minmax", "zscore", "log-minmax", "log-zscore"]
TargetLoss = Literal["huber", "mse", "mae", "quantile", "asymmetric"]
OutputActivation = Literal["none", "relu", "softplus", "exp"]

Penalty = Annotated[float, Field(gt=0)]
Quantiles = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], COMMAS]


class TargetConfig(Section):
    """The metadata columns to predict."""

    panel: ClassVar[str] = "Target"

    metadata_column: Names
    """Column of the metadata to predict; several numbers may be learned at once: ph,temperature."""
    classifier: Annotated[bool, MAIN] = False
    """Predict classes instead of a number."""
    target_transform: TargetTransform | None = None
    """Scale on which a number is learned, fitted on training samples. Default: zscore, with --bounded-targets none."""
    normalize_by: Names = ()
    """Columns such as season,site: the zscore is fitted for each of their combinations by itself."""
    target_loss: Names = ("huber",)
    """Loss of a number: huber, mse, mae, quantile or asymmetric; or one for each column: ph=mse,temperature=huber."""
    quantiles: Quantiles = ()
    """What the quantile loss predicts, with a column each; 0.5 is the prediction itself. Default: 0.1,0.5,0.9."""
    over_penalty: Penalty = 1.0
    """What the asymmetric loss counts for each unit that a prediction is too high."""
    under_penalty: Penalty = 1.0
    """What the asymmetric loss counts for each unit that a prediction is too low."""
    output_activation: OutputActivation = "none"
    """Make predictions that cannot be negative, for concentrations or counts; they are so by construction."""
    bounded_targets: bool = False
    """Make predictions that stay between 0 and 1, for fractions and probabilities."""
    learnable_output_scale: bool = False
    """Learn a scale and an offset of each prediction too, after the last layer."""
    regressor_hidden_dims: tuple[Annotated[int, Field(gt=0, le=65_536)], ...] = ()
    """Widths of hidden layers between the sample embedding and the prediction. Repeat for several."""
    regressor_dropout: Fraction = 0.0
    """Dropout before the prediction."""
    label_smoothing: Fraction = 0.0
    """Fraction of each class label that is spread evenly over all classes."""
    target_weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the target's loss."""
    standardize_samples: bool = True
    """Bring what the head reads to mean 0 and deviation 1 over the training samples, as it is before the first step."""
    asv_features: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    """Random features of ASVs that the head reads of a sample. Default: 1024 of a new encoder that stays as it is."""
    count_weight: NonNegative = 0.0
    """Weight of predicting masked abundances of ASVs, an auxiliary task (0: no such head)."""
    count_mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Fraction of a sample's ASVs whose abundance is masked for that task."""

    @property
    def transform(self) -> TargetTransform:
        """The transform, resolved."""
        return self.target_transform or ("none" if self.bounded_targets else "zscore")

    @property
    def levels(self) -> tuple[float, ...]:
        """The quantiles, resolved."""
        return self.quantiles or (0.1, 0.5, 0.9)

    @property
    def losses(self) -> dict[str, TargetLoss]:
        """The regression loss of every column to predict."""
        named = dict(part.rpartition("=")[::2] for part in self.target_loss if "=" in part)
        plain = [part for part in self.target_loss if "=" not in part]
        return {name: named.get(name, plain[0] if plain else "huber") for name in self.metadata_column}  # type: ignore[misc]

    @model_validator(mode="after")
    def _columns(self) -> Self:
        columns = self.metadata_column
        if not columns:
            raise ValueError("--metadata-column is empty: name the column to predict")
        twice = [name for name in columns if columns.count(name) > 1]
        if twice:
            raise ValueError(f"--metadata-column names {twice[0]} twice")
        if self.classifier and len(columns) > 1:
            raise ValueError(
                f"--classifier predicts one column, and --metadata-column names {', '.join(columns)}: train a model "
                "for each (several numbers can be learned at once)"
            )
        return self

    @model_validator(mode="after")
    def _losses(self) -> Self:
        given: set[str] = set()
        for part in self.target_loss:
            column, _, loss = part.rpartition("=")
            if loss not in get_args(TargetLoss):
                raise ValueError(
                    f"--target-loss {part}: no loss is named {loss!r}; known are {', '.join(get_args(TargetLoss))}"
                )
            if "=" in part and not column:
                raise ValueError(f"--target-loss {part}: name a column before '=', or leave it out")
            if column and column not in self.metadata_column:
                raise ValueError(f"--target-loss {part}: {column} is not a --metadata-column")
            if column in given:
                raise ValueError(f"--target-loss gives two losses {f'for {column}' if column else 'for all columns'}")
            given.add(column)
        if not self.target_loss:
            raise ValueError("--target-loss is empty: name a loss")
        return self

    @model_validator(mode="after")
    def _options_of_losses(self) -> Self:
        used = set() if self.classifier else set(self.losses.values())
        if "quantile" not in used:
            self._refuse_unused("quantiles", "--target-loss quantile")
        elif not _rising(self.levels) or 0.5 not in self.levels:
            raise ValueError(
                f"--quantiles {','.join(map(str, self.quantiles))}: give rising levels that differ in their first six "
                "digits, 0.5 (the prediction) among them"
            )
        if "asymmetric" not in used:
            for option in ("over_penalty", "under_penalty"):
                self._refuse_unused(option, "--target-loss asymmetric")
        return self

    @model_validator(mode="after")
    def _classes_or_numbers(self) -> Self:
        if not self.classifier:
            self._refuse_unused("label_smoothing", "--classifier")
            return self
        for option in (
            "target_transform",
            "target_loss",
            "normalize_by",
            "output_activation",
            "bounded_targets",
            "learnable_output_scale",
        ):
            self._refuse_unused(option, "numbers, and --classifier predicts classes: drop one of them")
        return self

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        activation = self.output_activation
        if self.bounded_targets and activation != "none":
            raise ValueError(
                f"--bounded-targets and --output-activation {activation} exclude each other: predictions between 0 "
                "and 1 are never negative anyway"
            )
        if self.bounded_targets and self.transform != "none":
            raise ValueError(
                f"--bounded-targets learns the target as it is, from 0 to 1, and --target-transform {self.transform} "
                "would move these ends: drop one of them"
            )
        if self.normalize_by and self.transform not in ("zscore", "log-zscore"):
            raise ValueError(
                f"--normalize-by fits a zscore for each category, and --target-transform is {self.transform}: "
                "use zscore or log-zscore"
            )
        if self.normalize_by and activation != "none":
            raise ValueError(
                f"--normalize-by shifts each category by its own mean, and --output-activation {activation} needs zero "
                "to be the same for all: drop one of them"
            )
        return self


def _rising(levels: tuple[float, ...]) -> bool:
    """Whether levels rise, also as they are written in the names of columns."""
    names = [f"{level:g}" for level in levels]
    return list(levels) == sorted(levels) and len(set(names)) == len(names)


class LossWeightConfig(Section):
    """How much each sample counts in the loss."""

    panel: ClassVar[str] = "Weights of samples"

    class_weights: str = "none"
    """Weigh classes: none, balanced (inverse frequency), effective (number), or a JSON file {class: weight}."""
    categorical_loss_weights: str = "none"
    """Weigh samples by category: none, auto (inverse frequency), effective, or JSON {column: {category: weight}}."""
    categorical_loss_weight_column: Names = ()
    """Columns of those categories; weights of several multiply. Default with --classifier: the column to predict."""
    effective_beta: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Of the effective number of samples: 0 weighs all categories alike, close to 1 by inverse frequency."""

    @model_validator(mode="after")
    def _known_or_files(self) -> Self:
        for option, known in (("class_weights", "balanced"), ("categorical_loss_weights", "auto")):
            value = getattr(self, option)
            if value not in ("none", known, "effective") and not value.endswith(".json"):
                raise ValueError(f"{flag(option)} {value}: neither none, {known}, effective, nor a .json file")
        return self

    @model_validator(mode="after")
    def _columns_need_weights(self) -> Self:
        if self.categorical_loss_weights == "none":
            self._refuse_unused("categorical_loss_weight_column", "--categorical-loss-weights")
        if "effective" not in (self.class_weights, self.categorical_loss_weights):
            self._refuse_unused("effective_beta", "--class-weights effective or --categorical-loss-weights effective")
        return self
