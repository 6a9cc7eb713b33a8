"""A scale for each combination of categories, and what happens to those that have none."""

import json
import logging

import numpy as np
import pandas as pd
import pytest

from aam.data.labels.group_scales import LEAST_SAMPLES, GroupScales
from aam.data.labels.targets import TargetScaler
from aam.errors import InputError

RNG = np.random.default_rng(5)


def study(**counts: int) -> pd.DataFrame:
    """Samples of sites in two seasons; of each site and season the number given."""
    rows = [(site, season) for site, count in counts.items() for season in ("dry", "wet") for _ in range(count)]
    table = pd.DataFrame(rows, columns=["site", "season"], dtype=object)
    level = table["site"].map({site: 10.0 * number for number, site in enumerate(counts)}) + 3.0 * (
        table["season"] == "wet"
    )
    return table.assign(ph=level + RNG.normal(size=len(table))).set_axis([f"s{i}" for i in range(len(table))])


def fit(metadata: pd.DataFrame, *columns: str, kind: str = "zscore") -> GroupScales:
    whole = TargetScaler.fit(metadata["ph"].to_numpy(), kind)
    return GroupScales.fit(metadata["ph"], metadata, columns, whole)


@pytest.mark.parametrize("columns", [("site",), ("site", "season")])
def test_scales_are_the_mean_and_spread_of_each_combination(columns):
    metadata = study(gut=6, skin=9, soil=5)
    fitted = fit(metadata, *columns)
    scale = fitted.of(metadata)
    groups = metadata.groupby(list(columns))["ph"]
    assert len(fitted.groups) == groups.ngroups
    assert scale.offset == pytest.approx(groups.transform("mean").to_numpy())
    assert scale.scale == pytest.approx(groups.transform(lambda own: own.std(ddof=0)).to_numpy())
    values = metadata["ph"].to_numpy()
    assert scale.inverse(scale.transform(values)) == pytest.approx(values)


def test_logarithms_are_scaled_by_category_too():
    metadata = study(gut=6, skin=6)
    metadata["ph"] = metadata["ph"].abs()
    scale = fit(metadata, "site", kind="log-zscore").of(metadata)
    logs = np.log1p(metadata["ph"])
    assert scale.offset == pytest.approx(logs.groupby(metadata["site"]).transform("mean").to_numpy())
    assert scale.inverse(np.zeros(len(metadata))) == pytest.approx(np.expm1(scale.offset))


def test_small_constant_missing_and_unseen_categories_have_the_scale_of_all(caplog):
    metadata = study(gut=6, skin=6, rare=1, flat=4)
    metadata.loc[metadata["site"] == "flat", "ph"] = 4.0
    metadata.loc["s0", "site"] = None
    fitted = fit(metadata, "site")
    assert 2 < LEAST_SAMPLES <= 8
    assert set(fitted.groups) == {"gut", "skin"}
    assert fitted.groups["gut"].offset == pytest.approx(metadata["ph"][metadata["site"] == "gut"].mean())
    other = pd.DataFrame({"site": ["gut", "rare", "flat", None, "moon", "moon"]}, index=list("abcdef"), dtype=object)
    scale = fitted.of(other)
    assert scale.offset[1:].tolist() == [metadata["ph"].mean()] * 5
    assert scale.scale[1:] == pytest.approx([metadata["ph"].std(ddof=0)] * 5)
    assert scale.offset[0] == fitted.groups["gut"].offset
    with caplog.at_level(logging.WARNING):
        fitted.warn_of_others(other, "ph")
    (message,) = caplog.messages
    assert message.startswith("--normalize-by: for ph, 5 samples are of categories with fewer than 5 training samples")
    assert "moon: 2, rare: 1, flat: 1, missing: 1" in message
    assert "the scale of all training samples" in message


def test_nothing_is_said_where_every_category_has_a_scale(caplog):
    metadata = study(gut=6, skin=6)
    fit(metadata, "site").warn_of_others(metadata, "ph")
    assert not caplog.messages


def test_names_with_commas_are_not_mistaken_for_combinations():
    """The columns say ``a, b`` and ``c``, or ``a`` and ``b, c``: two combinations."""
    pairs = [("a, b", "c"), ("a", "b, c")]
    rows = [(*pair, value) for pair in pairs for value in range(LEAST_SAMPLES)]
    metadata = pd.DataFrame(rows, columns=["one", "two", "ph"], index=[f"s{i}" for i in range(len(rows))])
    metadata["ph"] += 100.0 * (metadata["one"] == "a")
    fitted = fit(metadata, "one", "two")
    assert sorted(scaler.offset for scaler in fitted.groups.values()) == [2.0, 102.0]


def test_json_and_back():
    fitted = fit(study(gut=6, skin=9), "site", "season")
    again = GroupScales.from_json(json.loads(json.dumps(fitted.to_json())))
    assert again == fitted


def test_an_absent_column_is_refused():
    metadata = study(gut=6)
    with pytest.raises(InputError, match="'siet'"):
        fit(metadata, "siet")
    with pytest.raises(InputError, match="'site'"):
        fit(metadata, "site").of(metadata[["season"]])


def test_a_category_of_next_to_no_spread_has_the_scale_of_all():
    metadata = study(gut=6, skin=6, soil=6)
    flat = metadata["site"] == "soil"
    metadata.loc[flat, "ph"] = 7.0 + 1e-7 * np.arange(flat.sum())
    fitted = fit(metadata, "site")
    assert set(fitted.groups) == {"gut", "skin"}
    assert set(fitted.of(metadata[flat]).scale) == {fitted.whole.scale}
