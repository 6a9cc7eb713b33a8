"""Weights of samples by category, and of classes."""

import json
import logging
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_sample_weight

from aam.config import LossWeightConfig
from aam.data.labels.loss_weights import CategoryWeights, effective_weight, mean_one
from aam.data.labels.targets import ClassEncoder
from aam.errors import InputError

LOCATION = ["urban"] * 6 + ["rural"] * 2 + ["coast", None]
SEASON = ["wet", "dry"] * 5
METADATA = pd.DataFrame(
    {"location": pd.Series(LOCATION, dtype=object), "season": pd.Series(SEASON, dtype=object), "plot": [1.0, 2.0] * 5}
).set_axis([f"S{row}" for row in range(10)])
ALL = np.arange(10)
ENCODER = ClassEncoder(("common", "rare"))
LABELS = ["common"] * 9 + ["rare"]


def fit(kind, columns=(), metadata=METADATA, train=ALL, default=(), **options):
    config = LossWeightConfig(categorical_loss_weights=str(kind), categorical_loss_weight_column=columns, **options)
    return CategoryWeights.fit(metadata, np.asarray(train), config, default)


@pytest.fixture
def weights_file(tmp_path):
    def write(content):
        path = tmp_path / "weights.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


# --- the effective number of samples ---


@given(count=st.integers(1, 10**9), beta=st.floats(0, 1))
def test_effective_weight_lies_between_one_and_inverse_frequency(count, beta):
    weight = float(effective_weight(count, beta))
    assert 1 / count * (1 - 1e-9) <= weight <= 1 + 1e-9


@given(count=st.integers(1, 2000), beta=st.floats(0, 0.9))
def test_effective_weight_is_the_formula_where_that_is_exact(count, beta):
    np.testing.assert_allclose(effective_weight(count, beta), (1 - beta) / (1 - beta**count), rtol=1e-9)


@pytest.mark.parametrize("beta", [1 - 1e-3, 1 - 1e-7, 1 - 1e-10, 1 - 1e-13])
@pytest.mark.parametrize("count", [1, 2, 7, 500])
def test_effective_weight_loses_no_digits_near_one(count, beta):
    effective_number = math.fsum(beta**power for power in range(count))
    np.testing.assert_allclose(effective_weight(count, beta), 1 / effective_number, rtol=1e-12)


@given(fewer=st.integers(1, 10**6), more=st.integers(1, 10**6), beta=st.floats(0, 1))
def test_ratios_of_effective_weights_lie_between_equal_and_inverse_frequency(fewer, more, beta):
    few, many = sorted((fewer, more))
    ratio = float(effective_weight(few, beta) / effective_weight(many, beta))
    assert 1 - 1e-9 <= ratio <= many / few * (1 + 1e-9)


@pytest.mark.parametrize("beta", [1 - 1e-16, np.nextafter(1, 0), 1.0])
def test_effective_weight_near_one_is_inverse_frequency(beta):
    counts = np.array([1, 2, 10, 10**6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(effective_weight(counts, float(beta)), 1 / counts, rtol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 5e-324, 1e-300])
def test_effective_weight_near_zero_is_one(beta):
    np.testing.assert_array_equal(effective_weight([1, 3, 10**9], beta), [1, 1, 1])


@pytest.mark.parametrize(("count", "beta"), [(0, 0.5), (-1, 0.5), (3, 1.1), (3, -0.1), (3, float("nan"))])
def test_effective_weight_of_nothing_is_a_defect(count, beta):
    with pytest.raises(ValueError, match="an effective number needs samples and a beta from 0 to 1"):
        effective_weight(count, beta)


# --- weights of samples ---


def test_none_asked_for_gives_none():
    assert fit("none") is None


def test_auto_is_inverse_frequency():
    fitted = fit("auto", "location")
    np.testing.assert_allclose(
        fitted.of(METADATA), compute_sample_weight("balanced", [str(name) for name in LOCATION]), rtol=1e-12
    )
    assert fitted.counts == {"location": {"(missing)": 1, "coast": 1, "rural": 2, "urban": 6}}


def test_effective_weights_of_samples():
    fitted = fit("effective", "location", effective_beta=0.9)
    raw = np.array([(1 - 0.9) / (1 - 0.9**count) for count in [6] * 6 + [2] * 2 + [1, 1]])
    np.testing.assert_allclose(fitted.of(METADATA), raw / raw.mean(), rtol=1e-12)


def test_columns_multiply_and_the_product_has_mean_one():
    fitted = fit("auto", "location,season")
    product = fit("auto", "location").of(METADATA) * fit("auto", "season").of(METADATA)
    np.testing.assert_allclose(fitted.of(METADATA), product / product.mean(), rtol=1e-12)


def test_the_default_columns_are_weighed_where_none_is_named():
    assert list(fit("auto", default=("season",)).weights) == ["season"]
    assert list(fit("auto", "plot", default=("season",)).weights) == ["plot"]


def test_only_training_samples_count_and_unseen_categories_count_one():
    fitted = fit("auto", "location", train=[0, 1, 2, 6])
    assert fitted.weights["location"] == pytest.approx({"rural": 2.0, "urban": 2 / 3})
    np.testing.assert_allclose(fitted.of(METADATA)[-2:], fitted.scale)


def test_a_file_gives_the_weights(weights_file, caplog):
    path = weights_file({"location": {"urban": 1.0, "rural": 2, "(missing)": 0}, "plot": {"1": 3.0}})
    fitted = fit(path)
    of_location = np.array([1] * 6 + [2, 2, 1, 0])
    expected = of_location * np.array([3.0, 1.0] * 5)
    np.testing.assert_allclose(fitted.of(METADATA), expected / expected.mean(), rtol=1e-12)
    assert fitted.kind == "file"
    warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warned == [
        f"--categorical-loss-weights {path}, column location: no weight for 'coast'; they count 1",
        f"--categorical-loss-weights {path}, column plot: no weight for '2'; they count 1",
    ]


def test_a_file_may_weigh_missing_values_that_there_are_none_of(weights_file):
    fitted = fit(weights_file({"season": {"wet": 1, "dry": 3, "(missing)": 1}}), "season")
    assert fitted.weights == {"season": {"dry": 3.0, "wet": 1.0}}


def test_a_category_outside_of_training_may_have_a_weight(weights_file):
    fitted = fit(weights_file({"location": {"urban": 1, "coast": 4, "rural": 2}}), train=[0, 1, 2, 6])
    assert fitted.of(METADATA)[8] == pytest.approx(4 * fitted.scale)
    assert ("location", "coast", 0, 4.0) in fitted.rows()


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("[1]", (), '{"name": value} is wanted, not list'),
        ("{}", (), 'no column; write {"column": {"category": weight}}'),
        ('{"season": {"wet": 1}', (), "not JSON"),
        ('{"season": {"wet": 1, "wet": 2}}', (), "'wet' is given twice"),
        ({"season": 2}, (), 'column season: {"category": weight} is wanted, not 2'),
        ({"season": {}}, (), 'column season: {"category": weight} is wanted, not {}'),
        ({"season": {"wet": "2"}}, (), "the weight of 'wet' is '2'; a number is wanted"),
        ({"season": {"wet": True}}, (), "the weight of 'wet' is True; a number is wanted"),
        ({"season": {"wet": -1}}, (), "the weight of 'wet' is -1; weights are finite, 0 or more"),
        ('{"season": {"wet": NaN}}', (), "the weight of 'wet' is nan; weights are finite, 0 or more"),
        ('{"season": {"wet": 1e999}}', (), "the weight of 'wet' is inf; weights are finite"),
        ('{"season": {"wet": 1' + "0" * 400 + "}}", (), "weights are finite, 0 or more"),
        ('{"season": {"wet": 1' + "0" * 5000 + "}}", (), "not JSON (Exceeds the limit"),
        ({"season": {"wet": 0, "dry": 0}}, (), "column season: all weights are 0; some samples must count"),
        ({"season": {"wet": 1, "snow": 2}}, (), "column season: the data have no 'snow'; they have dry, wet"),
        ({"climate": {"wet": 1}}, (), "no column 'climate'; columns: location, season, plot"),
        (
            {"season": {"wet": 1}},
            "location",
            "--categorical-loss-weight-column location contradicts --categorical-loss-weights",
        ),
        ({"season": {"wet": 1}}, "season,location", "which has weights for season: leave the column out, or name the"),
        ({"location": {"urban": 0, "rural": 0, "coast": 1}}, (), "the weights of the 7 training samples add up to 0.0"),
        (
            {"location": {"urban": 1e308}, "season": {"wet": 1e308}},
            (),
            "7 training samples add up to inf; give weights",
        ),
    ],
)
def test_a_wrong_file_of_weights_is_refused(content, columns, message, weights_file):
    with pytest.raises(InputError) as error:
        fit(weights_file(content), columns, train=[0, 1, 2, 3, 4, 5, 6])
    assert message in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--categorical-loss-weights .*none\.json: no such file"):
        fit(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("season,season", "--categorical-loss-weight-column names season twice"),
        ((), "--categorical-loss-weights needs --categorical-loss-weight-column: which categories?"),
        ("seasons", "no column 'seasons'; did you mean season?"),
    ],
)
@pytest.mark.parametrize("kind", ["auto", "effective"])
def test_wrong_columns_are_refused(kind, columns, message):
    with pytest.raises(InputError) as error:
        fit(kind, columns)
    assert message in str(error.value)


def test_the_table_is_logged(caplog, weights_file):
    path = weights_file({"location": {"urban": 0.5, "rural": 2.25, "coast": 2, "(missing)": 0.5}})
    with caplog.at_level(logging.INFO):
        fit(path)
    assert caplog.records[-1].getMessage().splitlines() == [
        "weights of samples by category:",
        "column    category   training samples  weight",
        "location  (missing)                 1  0.5",
        "location  coast                     1  2",
        "location  rural                     2  2.25",
        "location  urban                     6  0.5",
        "the weight is multiplied by 1: mean 1 over the training samples",
    ]


def test_a_long_table_is_cut():
    metadata = pd.DataFrame({"site": [f"s{number}" for number in range(150)]})
    lines = fit("auto", "site", metadata, range(150)).table().splitlines()
    assert len(lines) == 1 + 100 + 2
    assert lines[-2] == "... (150 in all)"


TEXTS = st.sampled_from(["a", "b", "c", "d", None])
SAMPLES = st.lists(st.tuples(TEXTS, TEXTS, st.booleans()), min_size=1, max_size=30)
KINDS = st.sampled_from(["auto", "effective"])
BETAS = st.floats(0, 1, exclude_max=True)


def frame(rows):
    first, second, train = zip(*rows, strict=True)
    columns = {"first": pd.Series(first, dtype=object), "second": pd.Series(second, dtype=object)}
    return pd.DataFrame(columns), np.flatnonzero(np.array([True, *train[1:]]))


def fit_rows(metadata, train, kind, beta):
    options = {"effective_beta": beta} if kind == "effective" else {}
    return fit(kind, "first,second", metadata, train, **options)


@settings(max_examples=100)
@given(rows=SAMPLES, kind=KINDS, beta=BETAS)
def test_weights_have_mean_one_over_training(rows, kind, beta):
    metadata, train = frame(rows)
    weights = fit_rows(metadata, train, kind, beta).of(metadata)
    assert weights[train].mean() == pytest.approx(1, rel=1e-9)
    assert (weights > 0).all()


@settings(max_examples=60)
@given(rows=SAMPLES, kind=KINDS, beta=BETAS)
def test_what_the_checkpoint_keeps_weighs_alike(rows, kind, beta):
    metadata, train = frame(rows)
    fitted = fit_rows(metadata, train, kind, beta)
    again = CategoryWeights.from_json(json.loads(json.dumps(fitted.to_json(), sort_keys=True)))
    assert again == fitted
    np.testing.assert_array_equal(again.of(metadata), fitted.of(metadata))


@settings(max_examples=60)
@given(rows=SAMPLES, kind=KINDS, beta=BETAS, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(rows, kind, beta, seed):
    metadata, train = frame(rows)
    order = np.random.default_rng(seed).permutation(len(rows))
    shuffled = fit_rows(metadata.iloc[order], np.flatnonzero(np.isin(order, train)), kind, beta)
    fitted = fit_rows(metadata, train, kind, beta)
    assert [row[:3] for row in shuffled.rows()] == [row[:3] for row in fitted.rows()]
    np.testing.assert_allclose(shuffled.of(metadata), fitted.of(metadata), rtol=1e-12)


@given(counts=st.lists(st.integers(1, 10**6), min_size=1, max_size=8))
def test_beta_goes_from_equal_weights_to_inverse_frequency(counts):
    equal = mean_one(effective_weight(counts, 0.0), counts)
    np.testing.assert_allclose(equal, 1, rtol=1e-12)
    inverse = sum(counts) / (len(counts) * np.array(counts))
    np.testing.assert_allclose(mean_one(effective_weight(counts, 1 - 1e-16), counts), inverse, rtol=1e-6)


# --- weights of classes ---


def test_effective_weights_of_classes_have_mean_one():
    weights = ENCODER.effective_weights(LABELS, 0.9)
    assert (weights * [9, 1]).sum() == pytest.approx(10)
    assert weights[1] / weights[0] == pytest.approx((1 - 0.9**9) / (1 - 0.9))
    np.testing.assert_allclose(ENCODER.effective_weights(LABELS, 0.0), 1)
    np.testing.assert_allclose(ENCODER.effective_weights(LABELS, 1 - 1e-16), ENCODER.balanced_weights(LABELS))


@pytest.mark.parametrize("weigh", [lambda labels: ENCODER.effective_weights(labels, 0.9), ENCODER.balanced_weights])
def test_a_class_without_a_sample_cannot_be_weighed(weigh):
    with pytest.raises(InputError, match="class without a sample to weigh it by: rare"):
        weigh(["common"] * 3)


def test_a_file_gives_weights_of_classes(weights_file, caplog):
    path = weights_file({"rare": 5})
    np.testing.assert_array_equal(ENCODER.given_weights(path), [1, 5])
    assert f"--class-weights {path}: no weight for 'common'; they count 1" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", '{"name": value} is wanted, not list'),
        ("{}", '{"category": weight} is wanted, not {}'),
        ({"rare": {"x": 1}}, "the weight of 'rare' is {'x': 1}; a number is wanted"),
        ({"rare": -2}, "the weight of 'rare' is -2; weights are finite, 0 or more"),
        ({"rare": 0}, "all weights are 0"),
        ({"rare": 1, "odd": 2}, "the data have no 'odd'; they have common, rare"),
    ],
)
def test_a_wrong_file_of_class_weights_is_refused(content, message, weights_file):
    path = weights_file(content)
    with pytest.raises(InputError) as error:
        ENCODER.given_weights(path)
    assert message in str(error.value)
    assert f"--class-weights {path}" in str(error.value)
