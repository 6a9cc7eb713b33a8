"""Encoder of categories and its hierarchies."""

import json
import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.config import CategoryConfig
from aam.data.categorical import MISSING, UNSEEN, CategoryEncoder, parse_hierarchy
from aam.data.files.metadata import read_metadata
from aam.errors import InputError

CITIES = {"Torrox": "Andalucia", "Malaga": "Andalucia", "Vigo": "Galicia", "Porto": "Norte"}
COUNTRIES = {"Andalucia": "Spain", "Galicia": "Spain", "Norte": "Portugal"}
CHAIN = {"categorical_columns": "city", "categorical_hierarchy": "city=region,region=country"}


def frame(**columns):
    rows = len(next(iter(columns.values())))
    ids = pd.Index([f"S{row}" for row in range(rows)], name="sample_id", dtype=object)
    return pd.DataFrame({name: pd.Series(values, index=ids, dtype=object) for name, values in columns.items()})


def study(cities=("Torrox", "Malaga", "Vigo", "Porto", "Vigo", "Torrox"), **others):
    regions = [CITIES[city] for city in cities]
    countries = [COUNTRIES[region] for region in regions]
    return frame(city=list(cities), region=regions, country=countries, **others)


def fit(metadata, train=None, targets=(), **options):
    rows = np.arange(len(metadata)) if train is None else np.array(train, dtype=np.int64)
    return CategoryEncoder.fit(metadata, rows, CategoryConfig(**options), targets)


def decode(encoder, codes):
    names = [("missing", "unseen", *values) for values in encoder.values]
    return [[names[place][code] for place, code in enumerate(row)] for row in codes]


def hierarchy(text, columns="city"):
    return parse_hierarchy(CategoryConfig(categorical_columns=columns, categorical_hierarchy=text))


def test_without_columns_there_is_no_encoder():
    assert fit(study()) is None


def test_columns_are_fused_ones_then_ancestors_then_the_scaled_one():
    metadata = study(season=list("abcabc"), batch=[1.0, 2.0, 1.0, 2.0, 1.0, 2.0])
    encoder = fit(
        metadata,
        categorical_columns="season,city",
        categorical_hierarchy="city=region,region=country",
        conditional_output_scaling="batch",
    )
    assert encoder.columns == ("season", "city", "region", "country", "batch")
    assert encoder.fused == 2
    assert encoder.sizes == (5, 6, 5, 4, 4)
    assert encoder.parent_index == (None, 2, 3, None, None)
    assert encoder.scaled_index == 4
    assert encoder.values[-1] == ("1", "2")


@pytest.mark.parametrize(("scaled", "place"), [("city", 0), ("country", 2)])
def test_a_scaled_column_that_is_there_already_is_no_new_one(scaled, place):
    encoder = fit(study(), conditional_output_scaling=scaled, **CHAIN)
    assert encoder.columns == ("city", "region", "country")
    assert encoder.scaled_index == place


def test_only_scaling_fuses_nothing():
    encoder = fit(study(), conditional_output_scaling="region")
    assert (encoder.columns, encoder.fused, encoder.scaled_index) == (("region",), 0, 0)


def test_indices_of_values_begin_after_missing_and_unseen(caplog):
    metadata = study(season=["summer", None, "winter", "autumn", "winter", "autumn"])
    encoder = fit(metadata, train=[0, 1, 2], categorical_columns="season")
    assert encoder.values == (("summer", "winter"),)
    np.testing.assert_array_equal(encoder.encode(metadata)[:, 0], [2, MISSING, 3, UNSEEN, 3, UNSEEN])
    assert "season: no training sample has 'autumn'; 2 of 6 samples are taken as unseen: S3, S5" in caplog.text


def test_a_city_that_was_held_out_is_known_by_its_region(caplog):
    encoder = fit(study(), train=[1, 2, 3, 4], **CHAIN)
    codes = encoder.encode(study())
    assert decode(encoder, codes)[0] == ["unseen", "Andalucia", "Spain"]
    assert "2 of 6 samples are taken as unseen, known by their region alone: S0, S5" in caplog.text


def test_numbers_are_categories_however_they_are_written():
    encoder = fit(frame(site=[1.0, 2.5, None, 1.0]), categorical_columns="site")
    assert encoder.values == (("1", "2.5"),)
    np.testing.assert_array_equal(encoder.encode(frame(site=["1", "2.5", "3"]))[:, 0], [2, 3, UNSEEN])


# --- hierarchies ---


def test_hierarchy_of_parts_and_of_a_file_are_the_same(tmp_path):
    path = tmp_path / "parents.json"
    path.write_text('{"city": "region", "region": "country"}')
    assert hierarchy("city=region, region = country") == hierarchy(str(path)) == {"city": "region", "region": "country"}


def test_independent_chains_and_a_column_with_two_children():
    parsed = hierarchy("city=region,clinic=region,region=country,month=season", "city,clinic,month")
    assert parsed == {"city": "region", "clinic": "region", "region": "country", "month": "season"}
    metadata = study(clinic=list("abcdca"), month=list("123123"), season=list("wswwsw"))
    encoder = fit(
        metadata,
        categorical_columns="city,clinic,month",
        categorical_hierarchy="city=region,clinic=region,region=country,month=season",
    )
    assert encoder.columns == ("city", "clinic", "month", "region", "country", "season")
    assert encoder.parent_index == (3, 3, 5, 4, None, None)


def test_a_fused_column_may_be_a_parent():
    encoder = fit(study(), categorical_columns="region,city", categorical_hierarchy="city=region")
    assert (encoder.columns, encoder.fused, encoder.parent_index) == (("region", "city"), 2, (None, 0))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("city", "--categorical-hierarchy city: write CHILD=PARENT, such as city=region,region=country"),
        ("city=", "--categorical-hierarchy city=: write CHILD=PARENT"),
        ("=region", "--categorical-hierarchy =region: write CHILD=PARENT"),
        ("city=region=country", "--categorical-hierarchy city=region=country: write CHILD=PARENT"),
        ("one.json,city=region", "--categorical-hierarchy one.json: write CHILD=PARENT"),
        ("city=region,city=district", "gives city two parents, region and district: keep one"),
        ("city=city", "goes in a circle: city -> city"),
        ("city=region,region=country,country=region", "goes in a circle: region -> country -> region"),
        ("city=region,town=city2", "town=city2: town is neither one of --categorical-columns (city) nor above"),
    ],
)
def test_a_wrong_hierarchy_is_refused(text, message):
    with pytest.raises(InputError) as error:
        hierarchy(text)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["city"]', '{"name": value} is wanted, not list'),
        ('{"city": ["region"]}', "'city' has the parent ['region']; name columns as {\"child\": \"parent\"}"),
        ('{"city": ""}', "'city' has the parent ''"),
        ("{}", "it is empty; name columns"),
        ('{"city": "region"', "not JSON (Expecting ',' delimiter"),
        ('{"city": "region", "city": "district"}', "'city' is given twice; keep one of them"),
    ],
)
def test_a_wrong_file_of_parents_is_refused(content, message, tmp_path):
    path = tmp_path / "parents.json"
    path.write_text(content)
    with pytest.raises(InputError) as error:
        hierarchy(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--categorical-hierarchy .*parents\.json: no such file"):
        hierarchy(str(tmp_path / "parents.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categorical_columns": "cities"}, "no column 'cities'; did you mean city? columns: city, region, country"),
        ({"categorical_columns": "city", "categorical_hierarchy": "city=regions"}, "no column 'regions'"),
        ({"conditional_output_scaling": "batch"}, "no column 'batch'"),
    ],
)
def test_a_column_that_is_not_there_is_refused(options, message):
    with pytest.raises(InputError) as error:
        fit(study(), **options)
    assert message in str(error.value)


def test_a_value_under_two_parents_is_refused_also_outside_of_training():
    metadata = study()
    metadata.loc["S0", "region"] = "Galicia"
    for train in ([0, 1, 2, 3, 4, 5], [1, 2, 3, 4]):
        with pytest.raises(InputError) as error:
            fit(metadata, train=train, categorical_columns="city", categorical_hierarchy="city=region")
        assert str(error.value) == (
            "--categorical-hierarchy city=region: city 'Torrox' is under 2 parents, 'Andalucia' (1 sample) and "
            "'Galicia' (1 sample); correct the metadata, or where these are different things of one name, give each a "
            "name of its own, such as 'Torrox (Andalucia)'"
        )


def test_all_values_under_two_parents_are_named():
    metadata = study(["Torrox", "Torrox", "Torrox", "Vigo", "Vigo"])
    metadata["region"] = ["Andalucia", "Andalucia", "Norte", "Galicia", "Norte"]
    with pytest.raises(InputError, match=r"'Andalucia' \(2 samples\) and 'Norte' \(1 sample\); so are 'Vigo'; correct"):
        fit(metadata, categorical_columns="city", categorical_hierarchy="city=region")


def test_a_parent_filled_in_by_one_child_may_contradict_another():
    metadata = frame(city=["Torrox", "Vigo", "Torrox"], clinic=["a", "b", "b"], region=["Andalucia", "Galicia", None])
    with pytest.raises(InputError, match="clinic 'b' is under 2 parents"):
        fit(metadata, categorical_columns="city,clinic", categorical_hierarchy="city=region,clinic=region")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (CHAIN, "--categorical-hierarchy region=country: country is the column to predict, and region would tell it"),
        ({"categorical_columns": "country"}, "country is the column to predict, and unknown of new samples"),
        ({"conditional_output_scaling": "country"}, "country is the column to predict, and unknown of new samples"),
    ],
)
def test_the_target_is_no_input(options, message):
    with pytest.raises(InputError) as error:
        fit(study(), targets=["ph", "country"], **options)
    assert message in str(error.value)


# --- filling in ---


def test_missing_parents_are_filled_in_through_the_chain():
    metadata = study()
    metadata.loc["S0", ["region", "country"]] = None
    metadata.loc[["S1", "S5"], "country"] = None
    metadata.loc["S2", "country"] = None
    encoder = fit(metadata, **CHAIN)
    assert encoder.parent_values["city"] == CITIES
    # No training sample tells the country of Andalucia.
    assert encoder.parent_values["region"] == {"Galicia": "Spain", "Norte": "Portugal"}
    assert decode(encoder, encoder.encode(metadata)) == [
        ["Torrox", "Andalucia", "missing"],
        ["Malaga", "Andalucia", "missing"],
        ["Vigo", "Galicia", "Spain"],
        ["Porto", "Norte", "Portugal"],
        ["Vigo", "Galicia", "Spain"],
        ["Torrox", "Andalucia", "missing"],
    ]


def test_what_one_child_tells_of_a_parent_is_learned_for_another():
    metadata = frame(city=["Torrox", "Torrox", "Vigo"], clinic=["a", None, "b"], region=[None, None, "Galicia"])
    more = frame(city=[None, *metadata.city], clinic=["a", *metadata.clinic], region=["Andalucia", *metadata.region])
    encoder = fit(more, categorical_columns="city,clinic", categorical_hierarchy="city=region,clinic=region")
    assert encoder.parent_values["city"] == {"Torrox": "Andalucia", "Vigo": "Galicia"}
    assert [row[2] for row in decode(encoder, encoder.encode(more))] == ["Andalucia"] * 3 + ["Galicia"]


def test_only_training_samples_tell_a_parent():
    metadata = study()
    metadata.loc["S5", "region"] = None
    encoder = fit(metadata, train=[1, 2, 3, 5], categorical_columns="city", categorical_hierarchy="city=region")
    assert encoder.parent_values["city"] == {"Malaga": "Andalucia", "Vigo": "Galicia", "Porto": "Norte"}
    assert decode(encoder, encoder.encode(metadata))[5] == ["Torrox", "missing"]


def test_absent_parents_of_new_samples_are_filled_in(caplog):
    encoder = fit(study(), **CHAIN)
    codes = encoder.encode(frame(city=["Vigo", None, "Lugo"]))
    assert decode(encoder, codes) == [
        ["Vigo", "Galicia", "Spain"],
        ["missing", "missing", "missing"],
        ["unseen", "missing", "missing"],
    ]
    assert "no column region: it is filled in from city where training tells it" in caplog.text
    assert "no column country: it is filled in from region" in caplog.text


def test_an_absent_column_that_is_no_parent_is_refused():
    encoder = fit(study(season=list("ababab")), **{**CHAIN, "categorical_columns": "city,season"})
    with pytest.raises(InputError) as error:
        encoder.encode(study().drop(columns="city"))
    assert str(error.value) == (
        "sample metadata: no column 'city', 'season'; the model was trained with categories and needs city, season of "
        "new samples too (a value that is not known stays empty); columns: region, country"
    )


def test_an_absent_parent_is_filled_in_where_it_is_a_fused_column():
    encoder = fit(study(), categorical_columns="region,city", categorical_hierarchy="city=region")
    assert decode(encoder, encoder.encode(frame(city=["Porto"]))) == [["Norte", "Porto"]]


def test_new_samples_may_not_contradict_training():
    encoder = fit(study(), **CHAIN)
    new = study()
    new.loc[["S2", "S4"], "region"] = "Norte"
    new.loc[["S2", "S4"], "country"] = None
    new.loc["S0", "region"] = "Galicia"
    new = new.iloc[::-1]
    with pytest.raises(InputError) as error:
        encoder.encode(new)
    assert str(error.value) == (
        "sample metadata: city 'Vigo' has the region 'Norte' in samples S4, S2, but 'Galicia' in training; 1 more "
        "samples contradict training; correct the metadata, or leave region empty there to have it filled in"
    )


def test_two_children_of_a_new_sample_may_not_contradict_one_another():
    metadata = study(clinic=list("abcdca"))
    options = {"categorical_columns": "city,clinic", "categorical_hierarchy": "city=region,clinic=region"}
    encoder = fit(metadata, **options)
    with pytest.raises(InputError, match=r"clinic 'd' has the region 'Galicia' \(filled in from another child of regi"):
        encoder.encode(frame(city=["Vigo"], clinic=["d"], region=[None]))


def test_an_unseen_parent_of_an_unseen_child_is_unseen():
    encoder = fit(study(), **CHAIN)
    new = frame(city=["Lyon"], region=["Rhone"], country=["Spain"])
    assert decode(encoder, encoder.encode(new)) == [["unseen", "unseen", "Spain"]]


# --- columns that carry nothing ---


def test_a_column_without_a_training_value_is_refused():
    metadata = study(season=[None, None, None, "a", "b", None])
    with pytest.raises(InputError, match="season has no value in any of the 3 training samples: there is no category"):
        fit(metadata, train=[0, 1, 2], categorical_columns="season")


def test_a_parent_that_no_training_sample_has_is_refused():
    metadata = study()
    metadata["country"] = None
    with pytest.raises(InputError, match="country has no value in any of the 6 training samples"):
        fit(metadata, **CHAIN)


def test_a_constant_column_is_warned_of(caplog):
    fit(study(season=["a"] * 6, other=["a", None] * 3), categorical_columns="season,other")
    assert [record.getMessage() for record in caplog.records] == [
        "season is 'a' in all 6 training samples: it tells nothing"
    ]


# --- what is kept and shown ---


def test_schema_is_readable():
    metadata = study(batch=[1.0, 2.0] * 3)
    metadata.loc["S3", "region"] = None
    encoder = fit(
        metadata, categorical_columns="city", categorical_hierarchy="city=region", conditional_output_scaling="batch"
    )
    assert encoder.describe().splitlines() == [
        "categories:",
        "  city (4 values): Malaga, Porto, Torrox, Vigo",
        "  region (2 values; parent): Andalucia, Galicia",
        "  batch (2 values; scales predictions): 1, 2",
        "hierarchy city -> region:",
        "  Andalucia: Malaga, Torrox",
        "  Galicia: Vigo",
        "  (parent not known): Porto",
    ]


def test_a_long_schema_is_shortened():
    children = [f"c{number:03d}" for number in range(600)]
    metadata = frame(child=children, parent=[f"p{number // 20:02d}" for number in range(600)])
    lines = fit(metadata, categorical_columns="child", categorical_hierarchy="child=parent").describe().splitlines()
    assert len(lines) == 4 + 20 + 1
    assert lines[1].endswith("c009, ... (600 in all)")
    assert lines[-1] == "  ... (30 in all)"


NAMES = st.sampled_from(["a", "b", "c", "Ü", "1", "-1.5", "x=y", 'q"', None])
SHOWN = st.tuples(st.booleans(), st.booleans(), st.booleans())
LINKED = st.lists(st.tuples(st.integers(0, 7), SHOWN, NAMES), min_size=2, max_size=25)
OPTIONS = {
    "categorical_columns": "flat,child",
    "categorical_hierarchy": "child=parent,parent=grand",
    "conditional_output_scaling": "grand",
}


def linked(rows):
    """Metadata whose child determines parent and grandparent, each concealed in some samples, but for the first."""
    rows = [(0, (True, True, True), "a"), *rows]
    chains = [(f"c{child}", f"p{child % 3}", f"g{child % 3 % 2}") for child, *_ in rows]
    shown = [
        [name if keep else None for name, keep in zip(chain, row[1], strict=True)]
        for chain, row in zip(chains, rows, strict=True)
    ]
    child, parent, grand = zip(*shown, strict=True)
    return frame(child=child, parent=parent, grand=grand, flat=[row[2] for row in rows])


@settings(max_examples=60)
@given(rows=LINKED, held_out=st.integers(0, 2))
def test_what_the_checkpoint_keeps_encodes_alike(rows, held_out):
    metadata = linked(rows)
    encoder = fit(metadata, range(len(metadata) - held_out), **OPTIONS)
    again = CategoryEncoder.from_json(json.loads(json.dumps(encoder.to_json(), sort_keys=True)))
    assert again == encoder
    np.testing.assert_array_equal(again.encode(metadata), encoder.encode(metadata))


@settings(max_examples=60)
@given(rows=LINKED, seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(rows, seed):
    metadata = linked(rows)
    train = range(len(metadata) - 1)
    order = np.random.default_rng(seed).permutation(len(metadata))
    encoder = fit(metadata, train, **OPTIONS)
    assert fit(metadata.iloc[order], np.flatnonzero(np.isin(order, train)), **OPTIONS) == encoder
    np.testing.assert_array_equal(encoder.encode(metadata)[order], encoder.encode(metadata.iloc[order]))


@settings(max_examples=60)
@given(rows=LINKED)
def test_training_samples_have_indices_and_parents_that_training_tells(rows):
    metadata = linked(rows)
    encoder = fit(metadata, **OPTIONS)
    codes = encoder.encode(metadata)
    assert codes.shape == (len(metadata), 4)
    assert (codes != UNSEEN).all()
    assert (codes < np.array(encoder.sizes)).all()
    present = metadata[list(encoder.columns)].notna().to_numpy()
    assert (codes[present] != MISSING).all()
    child, parent = encoder.columns.index("child"), encoder.columns.index("parent")
    told = np.isin(metadata["child"].to_numpy(dtype=object), list(encoder.parent_values["child"]))
    np.testing.assert_array_equal(codes[:, parent] != MISSING, told | metadata["parent"].notna())
    assert encoder.parent_index[child] == parent


def test_a_real_study(real_data, caplog):
    metadata = read_metadata(real_data / "spain_oral" / "metadata.tsv")
    train = np.flatnonzero(metadata["city"] != metadata["city"].iloc[0])
    options = {"categorical_columns": "city,host_sex,braces", "categorical_hierarchy": "city=region"}
    with caplog.at_level(logging.WARNING):
        encoder = fit(metadata, train, **options)
        codes = encoder.encode(metadata)
    held_out = np.setdiff1d(np.arange(len(metadata)), train)
    assert (codes[held_out, 0] == UNSEEN).all()
    assert (codes[held_out, 3] != MISSING).all()


def test_codes_that_are_read_as_numbers_are_refused_where_zeros_are_lost():
    trained = fit(study(code=["01", "02", "A3", "01", "02", "A3"]), categorical_columns=("code",))
    with pytest.raises(InputError, match=r"code holds text such as '01' in training, and is read as numbers here"):
        trained.encode(pd.DataFrame({"code": [1.0, 2.0]}, index=["a", "b"]))
    assert trained.encode(pd.DataFrame({"code": ["01", "9"]}, index=["a", "b"]))[:, 0].tolist() == [2, UNSEEN]


def test_a_column_that_tells_samples_apart_is_warned_of(caplog):
    many = pd.DataFrame({"name": [f"n{i}" for i in range(12)], "half": list("abcdef") * 2})
    fit(many.set_axis([f"s{i}" for i in range(12)]), categorical_columns=("name", "half"))
    said = [record.getMessage() for record in caplog.records]
    assert said == ["name has 12 values in 12 training samples: it tells samples apart more than groups of them"]


def test_a_mapping_is_taken_from_python():
    config = CategoryConfig(categorical_columns=("city",), categorical_hierarchy={"city": "region"})
    assert parse_hierarchy(config) == {"city": "region"}
