"""The page of a report in a headless Chromium: no error, no broken picture, nothing cut, on telephones and on paper.

Skipped, saying so, where playwright or a Chromium (Debian's: ``apt-get install chromium``) is not installed.
"""

import shutil
from pathlib import Path

import pytest

from aam.config.report import ReportConfig
from aam.workflows.report import report

playwright = pytest.importorskip("playwright.sync_api", reason="no browser: install playwright")
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BACKGROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 23, 27)"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: install chromium"),
    # playwright leaves the pipes of its driver to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory, pretrained, regressor, classifier) -> Path:
    """A page about a pretraining, numbers and classes."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    report(ReportConfig.from_flat({"runs": (pretrained, regressor, classifier), "output": path}))
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.fixture(params=[(390, "light"), (390, "dark"), (1280, "light"), (1280, "dark")], ids=lambda p: f"{p[0]}-{p[1]}")
def opened(request, browser, page_file):
    """The page at a width and in a scheme, with all that the console and the network said."""
    width, scheme = request.param
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    page.said, page.asked, page.scheme = [], [], scheme
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(page_file.as_uri())
    yield page
    context.close()


def test_nothing_is_wrong_with_the_page(opened, page_file, tmp_path):
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert opened.evaluate("[...document.images].filter((one) => !one.naturalWidth).length") == 0
    picture = tmp_path / "page.png"
    opened.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 20_000


def test_the_page_is_as_wide_as_the_screen_and_no_figure_leaves_it(opened):
    width = opened.evaluate("document.documentElement.clientWidth")
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    boxes = opened.evaluate(
        "[...document.querySelectorAll('svg')].map((one) => { const b = one.getBoundingClientRect();"
        " return [b.left, b.right, b.width, b.height]; })"
    )
    assert len(boxes) > 10
    assert all(left >= 0 and right <= width + 1 and min(w, h) > 40 for left, right, w, h in boxes)


def test_nothing_that_is_drawn_is_cut(opened):
    """The boxes of all shapes and letters lie within their figure, but for points that a line is clipped at."""
    outside = opened.evaluate(
        """[...document.querySelectorAll('svg')].flatMap((svg) => {
          const frame = svg.getBoundingClientRect();
          return [...svg.querySelectorAll('g > use, g > g > use')].filter((one) => !one.closest('[clip-path]'))
            .map((one) => one.getBoundingClientRect())
            .filter((box) => box.left < frame.left - 1 || box.right > frame.right + 1
              || box.top < frame.top - 1 || box.bottom > frame.bottom + 1);
        }).length"""
    )
    assert outside == 0


def test_figures_do_not_lie_over_each_other(opened):
    boxes = opened.evaluate(
        "[...document.querySelectorAll('figure')].map((one) => { const b = one.getBoundingClientRect();"
        " return [b.left, b.top, b.right, b.bottom]; })"
    )
    for number, one in enumerate(boxes):
        for other in boxes[number + 1 :]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            assert apart, (one, other)


def test_the_scheme_of_the_reader_is_followed(opened):
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == BACKGROUNDS[opened.scheme]
    ink = opened.evaluate(
        "getComputedStyle(document.querySelector('svg g[style*=currentcolor], svg g[style*=currentColor]')).fill"
    )
    light = [int(part) for part in ink.removeprefix("rgb(").removesuffix(")").split(",")]
    assert (sum(light) / 3 > 128) is (opened.scheme == "dark")


def test_links_lead_to_their_section(opened):
    for link in opened.query_selector_all("nav a"):
        anchor = link.get_attribute("href")
        assert opened.query_selector(anchor) is not None
        opened.evaluate(
            "(place) => { document.documentElement.style.scrollBehavior = 'auto'; location.hash = place; }", anchor
        )
        top = opened.evaluate("(place) => document.querySelector(place).getBoundingClientRect().top", anchor)
        at_end = opened.evaluate("innerHeight + scrollY >= document.documentElement.scrollHeight - 2")
        assert abs(top) < 2 or at_end


def test_a_heading_sorts_its_table(opened):
    table = opened.query_selector("#worst table")
    read = "(one) => [...one.tBodies[0].rows].map((row) => Number(row.cells[1].dataset.order))"
    before = table.evaluate(read)
    button = table.query_selector_all("th button")[1]
    button.click()
    assert table.evaluate(read) == sorted(before)
    button.click()
    assert table.evaluate(read) == sorted(before, reverse=True)


def test_the_page_can_be_read_without_scripts(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert page.locator("#worst table td").first.is_visible()
    assert page.locator("th button").count() == 0
    context.close()


def test_the_page_prints_on_a4_in_light(opened, tmp_path):
    opened.emulate_media(media="print")
    assert opened.evaluate("getComputedStyle(document.body).backgroundColor") == BACKGROUNDS["light"]
    opened.set_viewport_size({"width": 688, "height": 1000})  # 182 mm between the margins
    assert opened.evaluate("document.documentElement.scrollWidth") <= 688
    file = tmp_path / "page.pdf"
    opened.pdf(path=file, format="A4", print_background=True)
    assert file.read_bytes().startswith(b"%PDF")
    assert file.stat().st_size > 20_000
