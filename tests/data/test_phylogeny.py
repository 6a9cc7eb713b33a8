"""Newick into preorder arrays, against scikit-bio's reader, and every way a file can be no tree."""

import gzip
import zipfile
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skbio import TreeNode

from aam.data.distances.phylogeny import LengthChoices, Phylogeny, parse_newick, read_phylogeny
from aam.errors import InputError


def branches(tree: Phylogeny) -> list[tuple[float, frozenset[str]]]:
    """Every branch as its length and the names below it, in preorder."""
    rows = zip(tree.length, tree.start, tree.stop, strict=True)
    return [(length, frozenset(tree.tip_names[start:stop])) for length, start, stop in rows]


def reference_branches(text: str) -> list[tuple[float, frozenset[str]]]:
    root = TreeNode.read(StringIO(text), convert_underscores=False)
    nodes = root.preorder(include_self=True)
    return [(node.length or 0.0, frozenset(tip.name for tip in node.tips(include_self=True))) for node in nodes]


@st.composite
def newick_texts(draw: st.DrawFn) -> str:
    """Trees with polytomies, unary chains, comments, quoted names and numbers in all spellings."""
    names = iter(range(1000))
    lengths = st.sampled_from(["0", "1", "0.5", ".25", "2.", "1e-3", "1.5E+1", "+3"])

    def subtree(depth: int) -> str:
        length = ":" + draw(lengths)
        if depth == 0 or draw(st.integers(0, 2)) == 0:
            name = f"t_{next(names)}"
            return draw(st.sampled_from([name, f"'{name}'", f"[note, (x]{name}", f"'{name} it''s (odd);'"])) + length
        children = [subtree(depth - 1) for _ in range(draw(st.integers(1, 4)))]
        return (
            "("
            + draw(st.sampled_from([",", " , ", ",\n"])).join(children)
            + ")"
            + draw(st.sampled_from(["", "95", "'k__X; p__Y'"]))
            + length
        )

    inside = ",".join(subtree(4) for _ in range(draw(st.integers(1, 4))))
    return f"({inside}){draw(st.sampled_from(['', ':2', 'root', 'root:1.5']))};"


@given(newick_texts())
@settings(max_examples=60, deadline=None)
def test_agrees_with_scikit_bio(text: str) -> None:
    assert branches(parse_newick(text, root="as-is")) == reference_branches(text)


def test_preorder_arrays_of_a_small_tree() -> None:
    tree = parse_newick("((a:1,b:2)x:3,(c:4):5,d:6):7;", root="as-is")
    assert tree.tip_names == ("a", "b", "c", "d")
    np.testing.assert_array_equal(tree.length, [7, 3, 1, 2, 5, 4, 6])
    np.testing.assert_array_equal(tree.start, [0, 0, 0, 1, 2, 2, 3])
    np.testing.assert_array_equal(tree.stop, [4, 2, 1, 2, 3, 3, 4])


def test_names_stay_as_written() -> None:
    tree = parse_newick("(a_b:1,'it''s here':1,'[x]':1,GCA_000.1|z:1,'(;':1);", root="as-is")
    assert tree.tip_names == ("a_b", "it's here", "[x]", "GCA_000.1|z", "(;")


def test_comments_are_skipped_and_may_be_nested() -> None:
    tree = parse_newick("[made by [me]](a[don't]:1[&x={1,2}],b:2)[;];[end]\n")
    assert tree.tip_names == ("a", "b")
    np.testing.assert_array_equal(tree.length, [0, 1, 2])


def test_missing_lengths_are_zero_on_request() -> None:
    tree = parse_newick("((a,b:):1,c:2);", LengthChoices(missing="zero"))
    np.testing.assert_array_equal(tree.length, [0, 1, 0, 0, 2])


@pytest.mark.parametrize("text", ["(it''s:1,b:2);", "(a''''b:1,'c''d'[x]:2)e''f:1;", "(a''[it's]:1,b:2);"])
def test_two_quotes_in_an_unquoted_label_are_one(text: str) -> None:
    assert branches(parse_newick(text)) == reference_branches(text)


def test_one_quote_in_an_unquoted_label_is_refused() -> None:
    with pytest.raises(InputError, match=r"line 1, column 2.*a name"):
        parse_newick("(it's:1,b:2);")


def test_negative_lengths_are_zero_on_request(caplog: pytest.LogCaptureFixture) -> None:
    text = "((a:-1e-3,b:2):-0.25,c:2,d:0);"
    with pytest.raises(InputError, match=r"2 of 6 branches.*tips a to b: -0.25.*negative.branch.lengths zero"):
        parse_newick(text, root="as-is")
    tree = parse_newick(text, LengthChoices(negative="zero"), "tree t.nwk", "as-is")
    np.testing.assert_array_equal(tree.length, [0, 0, 0, 2, 2, 0])
    assert "tree t.nwk: 2 of 6 branches have a negative length, -0.251 in all, and count as zero" in caplog.text
    with pytest.raises(InputError, match="1 of 3 branches have a negative or infinite length"):
        parse_newick("(a:-1e999,b:-1);", LengthChoices(negative="zero"))


def test_a_very_deep_tree_needs_no_recursion() -> None:
    depth = 50_000
    tree = parse_newick("(" * depth + "a:1" + "):1" * (depth - 1) + ");")
    assert len(tree.length) == depth + 1
    assert (tree.stop - tree.start == 1).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("(a:1,b:2)", "line 1, column 9.*ends without a semicolon"),
        ("(a:1,b:2)root:0.5", "line 1, column 10.*ends without a semicolon"),
        ("((a:1,b:2):1,\n(c:1,d:1):1", "ends without a semicolon"),
        ("((a:1,b:2);", "line 1, column 11.*1 parentheses are not closed"),
        ("(a:1,\nb:2));", r"line 2, column 5.*closing parenthesis has no opening one"),
        ("(a:1,b:2),(c:1,d:1);", "column 10.*comma stands outside"),
        ("(a:1,b:2);(c:1,d:1);", "column 11.*more follows after the first tree"),
        ("a:1;", "there are no parentheses"),
        (";", "a tip has no name"),
        ("(a:1,,b:2);", "line 1, column 6.*a tip has no name"),
        ("();", "a tip has no name"),
        ("('':1,b:2);", "a tip has no name"),
        ("(a:1(b:1,c:1));", "opening parenthesis cannot stand here"),
        ("(a:1,x(b:1,c:1):1);", "column 7.*opening parenthesis cannot stand here"),
        ("(a:1)(b:1);", "opening parenthesis cannot stand here"),
        ("(a b:1,c:1);", "line 1, column 2.*is expected"),
        ("(a:1,b:long);", "line 1, column 6.*is expected"),
        ("(a:1,b:1_0);", "is expected"),
        ("(a:nan,b:1);", "is expected"),
        ("('a:1,b:1);", "is expected"),
        (">seq1\nACGT(,);\n", "line 1, column 1.*is expected"),
        ('{"a": [1, 2]}', "ends without a semicolon"),
        ("(a:1,b[oops:1);", "comment .* is not closed"),
        ("(a:1,b:1,a:2);", "tips share the names a;"),
        ("((a:1,b:-0.5):1,c:1);", "1 of 5 branches.*first tip b: -0.5"),
        ("((a:1,b:1):-2,c:1);", "first the branch above tips a to b: -2"),
        ("((a:1,b:1e999):2,c:1);", "infinite length, first tip b"),
        ("((a,b:1):1,c);", "2 of 5 branches have no length, first tip a; .*--missing-branch-lengths zero"),
        ("((a:1,b:1),c:1);", "1 of 5 branches have no length, first the branch above tips a to b"),
    ],
)
def test_refuses(text: str, message: str) -> None:
    with pytest.raises(InputError, match="(?s)" + message):
        parse_newick(text)


def test_a_large_file_of_another_kind_is_refused() -> None:
    with pytest.raises(InputError, match="not a Newick tree"):
        parse_newick("A" * 5_000_000 + "\n" + "(," * 10)


def test_200_000_tips_load() -> None:
    quarter = "(({0}a:0.01,{0}b:0.02):0.01,({0}c:0.5,{0}d:1e-4):0.3):0.25"
    text = "(" + ",".join(quarter.format(f"{i:0150d}") for i in range(50_000)) + ");"
    tree = parse_newick(text, root="as-is")
    assert len(tree.tip_names) == 200_000


TEXT = "((a:1,b:2):3,c:4);\n"


def artifact(path: Path, kind: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("5178/VERSION", "QIIME 2\narchive: 5\n")
        archive.writestr("5178/metadata.yaml", f"uuid: 5178\ntype: {kind}\nformat: NewickDirectoryFormat\n")
        archive.writestr("5178/data/tree.nwk", TEXT)
    return path


def test_reads_plain_gzipped_and_artifact(tmp_path: Path) -> None:
    plain, packed = tmp_path / "tree.nwk", tmp_path / "packed.nwk"
    plain.write_text(TEXT)
    packed.write_bytes(gzip.compress(TEXT.encode()))
    for path in (plain, packed, artifact(tmp_path / "tree.qza", "Phylogeny[Rooted]")):
        assert branches(read_phylogeny(path)) == branches(parse_newick(TEXT))


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.nwk"):
        read_phylogeny(tmp_path / "absent.nwk")
    broken = tmp_path / "broken.nwk"
    broken.write_text("((a:1,b:2);")
    with pytest.raises(InputError, match=r"broken\.nwk, line 1, column 11"):
        read_phylogeny(broken)


def test_a_real_artifact(real_data: Path) -> None:
    tree = read_phylogeny(real_data / "qiime2/moving_pictures_tutorial/rooted-tree.qza")
    assert len(tree.tip_names) == len(set(tree.tip_names)) > 700
    assert {len(name) for name in tree.tip_names} == {32}


def test_a_real_tree_agrees_with_scikit_bio(real_data: Path) -> None:
    path = real_data / "ecam/tree.nwk"
    assert branches(read_phylogeny(path)) == reference_branches(path.read_text())
