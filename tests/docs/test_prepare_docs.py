"""What is done to pages before mkdocs reads them."""

import pytest

prepare_docs = pytest.importorskip("prepare_docs", reason="no latex2mathml: pip install 'aam[docs]'")
PAGES = {"evaluate.md", "options/train.md", "overview.md", "a.png"}


@pytest.mark.parametrize(
    ("page", "text", "moved"),
    [
        ("faq.md", "[one](evaluate.md#files)", "[one](evaluate.md#files)"),
        ("overview.md", "[one](docs/evaluate.md)", "[one](evaluate.md)"),
        ("faq.md", "[many](../README.md#many-gpus)", "[many](overview.md#many-gpus)"),
        ("options/train.md", "[up](../evaluate.md)", "[up](../evaluate.md)"),
        ("faq.md", "[`code`](evaluate.md)", "[`code`](evaluate.md)"),
        ("faq.md", "see [CITATION.cff](../CITATION.cff) for it", "see CITATION.cff for it"),
        ("faq.md", "[out](https://example.org/a.md)", "[out](https://example.org/a.md)"),
        ("faq.md", "```\n[one](nowhere.md)\n```", "```\n[one](nowhere.md)\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(page, text, moved):
    assert prepare_docs.links(text, page, PAGES) == moved


def test_a_link_to_nothing_ends_the_build():
    with pytest.raises(FileNotFoundError, match=r"faq\.md links to nowhere\.md"):
        prepare_docs.links("[one](nowhere.md)", "faq.md", PAGES)


@pytest.mark.parametrize("text", ["costs $5 and $6", "`$x$`", "```\n$x$\n```", "$PATH and $HOME"])
def test_what_is_no_formula_stays(text):
    assert prepare_docs.formulas(text) == text


def test_formulas_become_mathml():
    assert "<mi>x</mi>" in prepare_docs.formulas("the $x$ of")
    assert 'display="block"' in prepare_docs.formulas("$$ x^2 $$")


def test_the_notebook_becomes_a_page_with_its_outputs(tmp_path):
    cells = [
        {"cell_type": "markdown", "source": "# Title\ntext"},
        {
            "cell_type": "code",
            "source": ["1 + 1\n", "plot()"],
            "outputs": [{"data": {"text/plain": "2"}}, {"data": {"image/png": "AAAA"}}, {"name": "stderr"}],
        },
    ]
    page = prepare_docs.notebook_page({"cells": cells}, tmp_path)
    assert page.startswith("# Title\n")
    assert "```python\n1 + 1\nplot()\n```\n\n```text\n2\n```\n\n![" in page
    assert (tmp_path / "notebook_1.png").read_bytes() == b"\0\0\0"
