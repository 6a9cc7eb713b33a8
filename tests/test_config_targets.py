"""The declaration of the options about targets and weights of samples: what contradicts, and what goes together."""

import pytest

from aam.config import TargetConfig, TrainConfig, flag
from aam.errors import InputError

MINIMAL = {"output_dir": "o", "metadata_column": "age"}


@pytest.mark.parametrize(
    ("options", "message", "remedy"),
    [
        ({"metadata_column": ""}, "--metadata-column is empty: name the column to predict", {"metadata_column": "ph"}),
        ({"metadata_column": "ph,age,ph"}, "--metadata-column names ph twice", {"metadata_column": "ph,age"}),
        (
            {"metadata_column": "site,season", "classifier": True},
            "--classifier predicts one column, and --metadata-column names site, season: train a model for each",
            {"classifier": False},
        ),
        ({"target_loss": ""}, "--target-loss is empty: name a loss", {"target_loss": "mse"}),
        (
            {"target_loss": "l2"},
            "--target-loss l2: no loss is named 'l2'; known are huber, mse, mae, quantile, asymmetric",
            {"target_loss": "mse"},
        ),
        ({"target_loss": "age="}, "--target-loss age=: no loss is named ''", {"target_loss": "age=mse"}),
        (
            {"target_loss": "ph=mse"},
            "--target-loss ph=mse: ph is not a --metadata-column",
            {"metadata_column": "age,ph"},
        ),
        ({"target_loss": "age=mse,age=mae"}, "--target-loss gives two losses for age", {"target_loss": "age=mae"}),
        ({"target_loss": "mse,mae"}, "--target-loss gives two losses for all columns", {"target_loss": "mae"}),
        (
            {"quantiles": "0.2,0.5"},
            r"--quantiles 0.2,0.5 only has an effect with --target-loss quantile",
            {"target_loss": "quantile"},
        ),
        (
            {"target_loss": "quantile", "quantiles": "0.5,0.1"},
            r"--quantiles 0.5,0.1: give rising levels .*0.5 \(the prediction\) among them",
            {"quantiles": "0.1,0.5"},
        ),
        (
            {"target_loss": "quantile", "quantiles": "0.5,0.5"},
            "--quantiles 0.5,0.5: give rising levels",
            {"quantiles": "0.5"},
        ),
        (
            {"target_loss": "quantile", "quantiles": "0.1,0.9"},
            "--quantiles 0.1,0.9: give rising levels .*0.5",
            {"quantiles": "0.1,0.5,0.9"},
        ),
        (
            {"target_loss": "quantile", "quantiles": "0.5,0.95,0.9500001"},
            "--quantiles 0.5,0.95,0.9500001: give rising levels that differ",
            {"quantiles": "0.5,0.95,0.951"},
        ),
        ({"quantiles": "0.1,0.5,0.9"}, "--quantiles 0.1,0.5,0.9 only has an effect with", {"target_loss": "quantile"}),
        ({"target_loss": "=mse"}, "--target-loss =mse: name a column before", {"target_loss": "mse"}),
        (
            {"classifier": True, "class_weights": "balanced", "categorical_loss_weights": "auto"},
            "would both weigh the classes of age",
            {"class_weights": "none"},
        ),
        (
            {"classifier": True, "class_weights": "balance"},
            "--class-weights balance: neither none, balanced, effective, nor a .json file",
            {"class_weights": "balanced"},
        ),
        (
            {"over_penalty": 2.0},
            "--over-penalty 2.0 only has an effect with --target-loss asymmetric",
            {"target_loss": "asymmetric"},
        ),
        (
            {"under_penalty": 2.0, "target_loss": "quantile"},
            "--under-penalty 2.0 only has an effect with --target-loss asymmetric",
            {"target_loss": "asymmetric"},
        ),
        (
            {"label_smoothing": 0.1},
            "--label-smoothing 0.1 only has an effect with --classifier",
            {"classifier": True},
        ),
        *(
            (
                {"classifier": True, option: value},
                f"{flag(option)} .* only has an effect with numbers, and --classifier predicts classes: drop one",
                {"classifier": False},
            )
            for option, value in {
                "target_transform": "zscore",
                "target_loss": "mse",
                "normalize_by": "site",
                "output_activation": "relu",
                "bounded_targets": True,
                "learnable_output_scale": True,
            }.items()
        ),
        *(
            (
                {"bounded_targets": True, "output_activation": name},
                f"--bounded-targets and --output-activation {name} exclude each other: predictions between 0 and 1",
                {"bounded_targets": False},
            )
            for name in ("relu", "softplus", "exp")
        ),
        *(
            (
                {"bounded_targets": True, "target_transform": name},
                f"--bounded-targets learns the target as it is, from 0 to 1, and --target-transform {name} would move",
                {"target_transform": "none"},
            )
            for name in ("minmax", "zscore", "log-minmax", "log-zscore")
        ),
        *(
            (
                {"normalize_by": "site", "target_transform": name},
                f"--normalize-by fits a zscore for each category, and --target-transform is {name}",
                {"target_transform": "log-zscore"},
            )
            for name in ("none", "minmax", "log-minmax")
        ),
        (
            {"normalize_by": "site", "bounded_targets": True},
            "--normalize-by fits a zscore for each category, and --target-transform is none",
            {"bounded_targets": False},
        ),
        (
            {"normalize_by": "site", "output_activation": "relu"},
            "--normalize-by shifts each category by its own mean, and --output-activation relu needs zero to be the",
            {"output_activation": "none"},
        ),
        (
            {"normalize_by": "site,age"},
            "--normalize-by age: that is the column to predict, unknown of new samples",
            {"normalize_by": "site"},
        ),
        (
            {"categorical_columns": "age"},
            "--categorical-columns age: that is the column to predict, unknown of new samples",
            {"categorical_columns": "site"},
        ),
        (
            {"conditional_output_scaling": "age"},
            "--conditional-output-scaling age: that is the column to predict, unknown of new samples",
            {"conditional_output_scaling": "site"},
        ),
        (
            {"conditional_output_scaling": "site", "classifier": True},
            "--conditional-output-scaling scales numbers, and --classifier predicts classes: drop one",
            {"classifier": False},
        ),
        (
            {"class_weights": "effective"},
            "--class-weights is for classes: give --classifier too",
            {"classifier": True},
        ),
        (
            {"categorical_loss_weight_column": "site"},
            "--categorical-loss-weight-column .*site.* only has an effect with --categorical-loss-weights",
            {"categorical_loss_weights": "auto"},
        ),
        (
            {"categorical_loss_weights": "auto"},
            "--categorical-loss-weights auto needs --categorical-loss-weight-column: which categories?",
            {"categorical_loss_weight_column": "site"},
        ),
        (
            {"categorical_loss_weights": "effective"},
            "--categorical-loss-weights effective needs --categorical-loss-weight-column",
            {"classifier": True},
        ),
        (
            {"effective_beta": 0.9},
            "--effective-beta 0.9 only has an effect with --class-weights effective or --categorical-loss-weights eff",
            {"class_weights": "effective", "classifier": True},
        ),
        (
            {"effective_beta": 0.9, "categorical_loss_weights": "auto", "categorical_loss_weight_column": "site"},
            "--effective-beta 0.9 only has an effect with",
            {"categorical_loss_weights": "effective"},
        ),
    ],
)
def test_targets_and_weights_that_contradict_are_refused_and_their_remedies_accepted(options, message, remedy):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_flat({**MINIMAL, **options})
    assert TrainConfig.from_flat({**MINIMAL, **options, **remedy})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_loss": "quantile", "quantiles": "0,0.5"}, "--quantiles 0: .*greater than 0"),
        ({"target_loss": "quantile", "quantiles": "0.5,1"}, "--quantiles 1: .*less than 1"),
        ({"target_loss": "quantile", "quantiles": "half"}, "--quantiles half: .*number"),
        ({"target_loss": "asymmetric", "over_penalty": 0}, "--over-penalty 0: .*greater than 0"),
        ({"target_loss": "asymmetric", "under_penalty": -1}, "--under-penalty -1: .*greater than 0"),
        ({"classifier": True, "label_smoothing": 1}, "--label-smoothing 1: .*less than 1"),
        ({"output_activation": "tanh"}, "--output-activation tanh: .*'relu'"),
        ({"target_transform": "log"}, "--target-transform log: .*'log-zscore'"),
        ({"effective_beta": 1}, "--effective-beta 1: .*less than 1"),
        ({"effective_beta": -0.1}, "--effective-beta -0.1: .*greater than or equal to 0"),
    ],
)
def test_values_of_targets_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        TrainConfig.from_flat({**MINIMAL, **options})


def test_the_transform_is_chosen_by_the_range_unless_it_is_given():
    assert TargetConfig(metadata_column="a").transform == "zscore"
    assert TargetConfig(metadata_column="a", bounded_targets=True).transform == "none"
    assert TargetConfig(metadata_column="a", target_transform="minmax", output_activation="exp").transform == "minmax"


@pytest.mark.parametrize(
    ("given", "losses"),
    [
        ("mse", {"ph": "mse", "a=b": "mse"}),
        ("ph=mae", {"ph": "mae", "a=b": "huber"}),
        ("mse,ph=mae", {"ph": "mae", "a=b": "mse"}),
        (("a=b=quantile", "asymmetric"), {"ph": "asymmetric", "a=b": "quantile"}),
    ],
)
def test_losses_are_given_by_name_or_for_all(given, losses):
    assert TargetConfig(metadata_column=("ph", "a=b"), target_loss=given).losses == losses
