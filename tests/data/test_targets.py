"""Target scales and class encoders, against scikit-learn and by round trips."""

from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.class_weight import compute_class_weight

from aam.config import TargetTransform
from aam.data.labels.targets import ClassEncoder, TargetScaler
from aam.errors import InputError

KINDS = get_args(TargetTransform)
TRAIN = np.array([0.0, 1.5, 7.0, 120.0])
OTHERS = np.array([3.0, 0.25, 400.0])


@pytest.mark.parametrize(
    ("kind", "before", "reference"),
    [
        ("minmax", np.asarray, MinMaxScaler()),
        ("zscore", np.asarray, StandardScaler()),
        ("log-minmax", np.log1p, MinMaxScaler()),
        ("log-zscore", np.log1p, StandardScaler()),
    ],
)
def test_scale_agrees_with_scikit_learn(kind, before, reference):
    reference.fit(before(TRAIN)[:, None])
    scaler = TargetScaler.fit(TRAIN, kind)
    np.testing.assert_allclose(scaler.transform(OTHERS), reference.transform(before(OTHERS)[:, None])[:, 0], rtol=1e-12)


def test_none_changes_nothing():
    np.testing.assert_array_equal(TargetScaler.fit(TRAIN, "none").transform(OTHERS), OTHERS)


@pytest.mark.parametrize("kind", KINDS)
@given(values=st.lists(st.floats(-0.9, 1e6), min_size=2, max_size=20))
def test_inverse_undoes_transform(kind, values):
    train = np.array(values)
    assume(np.ptp(train) > 1e-3)
    scaler = TargetScaler.fit(train, kind)
    np.testing.assert_allclose(scaler.inverse(scaler.transform(train)), train, rtol=1e-9, atol=1e-9)


@given(
    kind=st.sampled_from(KINDS),
    offset=st.floats(allow_nan=False, allow_infinity=False),
    scale=st.floats(0, exclude_min=True, allow_infinity=False),
)
def test_json_keeps_every_bit(kind, offset, scale):
    scaler = TargetScaler(kind, offset, scale)
    assert TargetScaler.from_json(scaler.to_json()) == scaler


def test_json_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="unknown target transform 'rank'"):
        TargetScaler.from_json('{"kind": "rank", "offset": 0.0, "scale": 1.0}')


@pytest.mark.parametrize("kind", ["zscore", "log-zscore"])
def test_missing_values_stay_missing_in_transform(kind):
    scaled = TargetScaler.fit(TRAIN, kind).transform(np.array([np.nan, 1.0]))
    assert np.isnan(scaled[0])
    assert np.isfinite(scaled[1])


@pytest.mark.parametrize("kind", KINDS)
def test_constant_target_is_refused(kind):
    # The rounded standard deviation of equal values is not always zero, as here.
    with pytest.raises(InputError, match=r"0\.1 in all 7 training samples"):
        TargetScaler.fit(np.full(7, 0.1), kind)


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([], "zscore", "no training sample"),
        ([1.0, np.nan], "zscore", r"missing or infinite.*b \(nan\)"),
        ([np.inf, 1.0], "none", r"missing or infinite.*a \(inf\)"),
        ([-1.0, 2.0], "log-minmax", r"log-minmax takes log\(1 \+ value\).*above -1.*a \(-1\.0\)"),
        ([-1e308, 1.7e308], "minmax", "beyond float64"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")
def test_unusable_training_values_are_refused(values, kind, message):
    with pytest.raises(InputError, match=message):
        TargetScaler.fit(np.array(values), kind, ["a", "b"])


def test_a_value_below_the_logarithm_is_named_in_transform_too():
    scaler = TargetScaler.fit(TRAIN, "log-zscore")
    with pytest.raises(InputError, match=r"S2 \(-3\.0\)"):
        scaler.transform(np.array([1.0, -3.0]), ["S1", "S2"])
    with pytest.raises(InputError, match=r"row 2 \(-3\.0\)"):
        scaler.transform(np.array([1.0, -3.0]))


@given(st.lists(st.text(max_size=5).filter(lambda text: "\0" not in text), min_size=1))
def test_decode_undoes_encode(labels):
    assume(len(set(labels)) > 1)
    encoder = ClassEncoder.fit(labels)
    assert encoder.decode(encoder.encode(labels)).tolist() == labels
    assert ClassEncoder.from_json(encoder.to_json()) == encoder


def test_classes_are_sorted_as_text():
    encoder = ClassEncoder.fit(["b", "10", "9", "a", "b"])
    assert encoder.classes == ("10", "9", "a", "b")
    np.testing.assert_array_equal(encoder.encode(["a", "10"]), [2, 0])


def test_unseen_class_is_named():
    encoder, labels = ClassEncoder.fit(["a", "b"]), ["d", "a", "c", "c"]
    message = r"without a training sample: c, d \(samples {}\); known are a, b; .* --where COLUMN=a,b"
    with pytest.raises(InputError, match=message.format("row 1, row 3, row 4")):
        encoder.encode(labels)
    with pytest.raises(InputError, match=message.format("S9, S7, S6")):
        encoder.encode(labels, ["S9", "S8", "S7", "S6"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [(["a", "a"], "at least two classes; .* have a$"), ([], "have none"), (["a", None, "b"], r"no class \(rows 2\)")],
)
def test_unusable_labels_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        ClassEncoder.fit(labels)


def test_balanced_weights_agree_with_scikit_learn():
    labels = ["a"] * 7 + ["b"] * 2 + ["c"]
    weights = ClassEncoder.fit(labels).balanced_weights(labels)
    expected = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=np.array(labels))
    np.testing.assert_allclose(weights, expected, rtol=1e-15)
    assert weights.dtype == np.float64


def test_balanced_weights_need_a_sample_of_every_class():
    with pytest.raises(InputError, match="class without a sample to weigh it by: c"):
        ClassEncoder(("a", "b", "c")).balanced_weights(["a", "b"])
