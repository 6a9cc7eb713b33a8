"""Figures: colours that the page defines, no name that another figure has, a text for each point."""

import re
from xml.etree import ElementTree as Xml

import numpy as np
import pytest

from aam.report.blocks import cell, ranged, shown
from aam.report.drawing import FAINT, INK, MOST_POINTS, SERIES, TOKEN, canvas, log_axis, scatter, shortened, thinned

SVG = "{http://www.w3.org/2000/svg}"


def _drawn(alt='A & B <c> "d"', **more):
    with canvas(alt, "caption", **more) as drawn:
        drawn.axes.plot([1, 10], [0, 1], color=SERIES[2])
        scatter(drawn, np.array([1, 5, 10]), np.array([0, 1, 2]), SERIES[0], ["one", "two <b>", "three"])
        log_axis(drawn.axes, "x")
        drawn.axes.set(xlabel="cost in $ and 5 % of $", ylabel="a very long label of an axis")
    return drawn.picture


def test_a_figure_has_colours_of_the_page_alone():
    svg = _drawn().svg
    assert "currentColor" in svg
    assert {"var(--series0)", "var(--series2)", "var(--faint)"} <= set(re.findall(r"var\(--\w+\)", svg))
    assert re.findall(r"#[0-9a-fA-F]{6}", svg) == []
    assert not any(colour in svg for colour in (INK, FAINT))


def test_a_figure_is_xml_with_a_text_alternative_and_texts_of_points():
    picture = _drawn()
    root = Xml.fromstring(picture.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == picture.alt == 'A & B <c> "d"'
    assert [title.text for title in root.iter(f"{SVG}title")] == ["one", "two <b>", "three"]
    assert root.find(f"{SVG}metadata") is None


def test_what_is_referred_to_is_there_under_a_name_of_this_figure():
    root = Xml.fromstring(_drawn().svg)
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    used = [element.get("href").removeprefix("#") for element in root.iter() if element.get("href")]
    used += [
        name
        for element in root.iter()
        for value in element.attrib.values()
        for name in re.findall(r"url\(#(.*?)\)", value)
    ]
    assert len(ids) == len(set(ids))
    assert used
    assert set(used) <= set(ids)
    assert all(name.startswith(TOKEN) for name in ids)


def test_the_same_figure_has_the_same_bytes():
    assert _drawn().svg == _drawn().svg


def test_all_that_is_drawn_lies_within_the_figure():
    """Labels grow the figure: a long one makes it wider, and none is cut."""
    narrow = Xml.fromstring(_drawn(width=1.0, height=1.0).svg)
    with canvas("", "", width=1.0, height=1.0) as drawn:
        drawn.axes.set_yticks([0], ["a label of a class that is rather long"])
    wide = Xml.fromstring(drawn.picture.svg)
    assert float(wide.get("viewBox").split()[2]) > 1.5 * float(narrow.get("viewBox").split()[2])


def test_of_many_points_a_seeded_sample_is_shown():
    assert thinned(10).tolist() == list(range(10))
    rows = thinned(100_000)
    assert len(rows) == len(set(rows.tolist())) == MOST_POINTS
    assert (np.diff(rows) > 0).all()
    assert rows.tolist() == thinned(100_000).tolist()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (4.0, "4"), (0.7129, "0.71"), (9.996, "10.0"), (24.31, "24.3"), (1234.5, "1,234"), (0.00054, "0.00054"),
     (-0.126, "-0.13"), (np.nan, ""), (np.inf, "")],
)  # fmt: skip
def test_numbers_are_shown_with_about_three_digits(value, text):
    assert shown(value) == text


def test_cells_are_sorted_by_the_number():
    assert cell(0.71294) == cell(np.float64(0.71294))
    assert (cell(0.71294).text, cell(0.71294).order, cell(0.71294).number) == ("0.71", "0.71294", True)
    assert (cell(12345).text, cell(12345).order) == ("12,345", "12345")
    assert (cell(None).text, cell("a").text, cell(True).text) == ("", "a", "yes")
    assert ranged(0.5, 0.4, 0.6).text == "0.50 (0.40 to 0.60)"
    assert ranged(0.5, np.nan, np.nan).text == "0.50"


def test_long_names_lose_their_middle():
    assert shortened("short") == "short"
    assert shortened("ACGT" * 40, 11) == "ACGTA…TACGT"
