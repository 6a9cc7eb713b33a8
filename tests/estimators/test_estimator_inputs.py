"""Tables, trees, metadata and targets as Python users hold them."""

import numpy as np
import pandas as pd
import pytest
from skbio import TreeNode

from aam.data.distances.phylogeny import LengthChoices, parse_newick
from aam.errors import InputError
from aam.estimators.inputs import as_metadata, as_phylogeny, as_target, as_taxonomy, with_target
from aam.estimators.predictors import label_array

NEWICK = "((a_1:1,'b 2':2.5)90:0.25,('it''s':3,d:1e-3,'(e)':0):1);"
NAMES = ("a_1", "b 2", "it's", "d", "(e)")


def _arrays(tree):
    return [tree.length.tolist(), tree.start.tolist(), tree.stop.tolist(), tree.tip_names]


def test_a_tree_is_the_same_as_text_file_and_object(tmp_path):
    path = tmp_path / "tree.nwk"
    path.write_text(NEWICK)
    expected = _arrays(parse_newick(NEWICK))
    assert expected[3] == NAMES
    node = TreeNode.read([NEWICK], convert_underscores=False)
    for tree in (NEWICK, "\n " + NEWICK + "\n", path, str(path), node):
        assert _arrays(as_phylogeny(tree)) == expected


def test_a_deep_tree_object_is_read_without_recursion():
    tree = TreeNode(name="tip0", length=1.0)
    for i in range(1, 5000):
        tree = TreeNode(children=[tree, TreeNode(name=f"tip{i}", length=1.0)], length=1.0)
    read = as_phylogeny(tree)
    assert read.tip_names == tuple(f"tip{i}" for i in range(5000))
    assert len(read.length) == 9999


def test_a_tree_object_without_lengths():
    tree = TreeNode.read(["((a,b),c);"])
    with pytest.raises(InputError, match="the TreeNode: 4 of 5 branches have no length"):
        as_phylogeny(tree)
    assert as_phylogeny(tree, LengthChoices(missing="zero")).length.tolist() == [0] * 5


@pytest.mark.parametrize("kind", ["file", "text", "object"])
def test_a_tree_without_a_root_needs_the_choice(kind, tmp_path):
    text = "(a:1,(b:1,c:5):1,d:2);"
    (tmp_path / "tree.nwk").write_text(text)
    tree = {"file": tmp_path / "tree.nwk", "text": text, "object": TreeNode.read([text])}[kind]
    source = {"file": r"tree\.nwk", "text": "the Newick string", "object": "the TreeNode"}[kind]
    with pytest.raises(InputError, match=source + r": not rooted, its root has 3 children.*with root midpoint"):
        as_phylogeny(tree)
    assert as_phylogeny(tree, root="as-is").tip_names == ("a", "b", "c", "d")
    assert as_phylogeny(tree, root="midpoint").tip_names == ("c", "b", "a", "d")


def test_broken_newick_text_is_not_taken_for_a_path():
    with pytest.raises(InputError, match="the Newick string"):
        as_phylogeny("((a:1,b:2):1" * 100)


def test_a_path_that_is_not_there():
    with pytest.raises(InputError, match=r"nowhere\.nwk"):
        as_phylogeny("nowhere.nwk")


def test_metadata_of_a_file_and_of_a_frame(tmp_path):
    path = tmp_path / "metadata.tsv"
    path.write_text("sample-id\tage\n007\t3\n")
    assert as_metadata(path).index.tolist() == ["007"]
    frame = pd.DataFrame({"age": [3.0]}, index=["007"])
    assert as_metadata(frame) is frame
    assert as_metadata(None) is None


@pytest.mark.parametrize("given", [["t", "r", "e", "e"], 3, b"tree", pd.Series(dtype=str)])
@pytest.mark.parametrize("take", [as_phylogeny, as_metadata, as_taxonomy])
def test_what_is_no_path(take, given):
    with pytest.raises(
        InputError, match=rf"(tree|metadata|taxonomy): a {type(given).__name__}; give a .* pathlib\.Path"
    ):
        take(given)


@pytest.mark.parametrize("index", [[1, 2], ["a", "a"], ["a", None]])
def test_indexes_that_are_no_sample_ids(index):
    with pytest.raises(InputError, match="index of metadata"):
        as_metadata(pd.DataFrame({"age": [1, 2]}, index=index))
    with pytest.raises(InputError, match="index of y"):
        as_target(pd.Series([1, 2], index=index), pd.DataFrame(index=["a", "b"]))


TABLE = pd.DataFrame({"ACGT" * 5: [1, 2]}, index=["s1", "s2"])


@pytest.mark.parametrize("y", [[3.0, 4.0], (3.0, 4.0), np.array([3.0, 4.0])])
def test_plain_values_belong_to_the_rows_of_a_frame(y):
    target = as_target(y, TABLE)
    assert target.to_dict() == {"target": {"s1": 3.0, "s2": 4.0}}


def test_a_series_keeps_its_ids_and_its_name():
    y = pd.Series([4.0, 3.0], index=["s2", "s1"], name="age")
    assert as_target(y, TABLE).equals(y.to_frame())
    assert list(as_target(y, "table.biom")) == ["age"]
    assert list(as_target(y.rename(None), TABLE)) == ["target"]
    assert list(as_target(y.rename(7), TABLE)) == ["7"]


def test_a_frame_keeps_its_ids_its_columns_and_its_missing_values():
    y = pd.DataFrame({"age": [4.0, None], 7: [1, 2]}, index=["s2", "s1"])
    target = as_target(y, "table.biom")
    assert list(target) == ["age", "7"]
    assert target.equals(y.set_axis(["age", "7"], axis=1))
    with pytest.raises(InputError, match="index of y must hold sample ids"):
        as_target(y.reset_index(drop=True), TABLE)


@pytest.mark.parametrize("y", [None, "age", 3, [[1.0], [2.0]], np.zeros((2, 2))])
def test_what_is_no_target(y):
    with pytest.raises(InputError, match="y must be a pandas Series"):
        as_target(y, TABLE)


def test_plain_values_need_a_frame_of_their_length():
    with pytest.raises(InputError, match="y must be a pandas Series"):
        as_target([1.0, 2.0], "table.biom")
    with pytest.raises(InputError, match="y has 3 values and the table 2 samples"):
        as_target([1.0, 2.0, 3.0], TABLE)
    with pytest.raises(InputError, match="the index of the table must hold sample ids as text"):
        as_target([1.0, 2.0], TABLE.reset_index(drop=True))


def test_target_and_metadata_are_joined_by_id():
    metadata = pd.DataFrame({"age": [1, 2, 3], "subject": ["a", "b", "c"]}, index=["s1", "s2", "s3"])
    joined = with_target(metadata, pd.DataFrame({"age": [30, 20, 40]}, index=["s3", "s2", "s4"]))
    assert joined.to_dict("index") == {"s2": {"subject": "b", "age": 20}, "s3": {"subject": "c", "age": 30}}


def test_messages_name_parameters_in_python_and_options_on_the_command_line(monkeypatch):
    error = InputError("--rarefy-depth 5 keeps nothing: use a lower --rarefy-depth, or see `aam train --help` -- there")
    assert str(error) == "rarefy_depth 5 keeps nothing: use a lower rarefy_depth, or see `aam train --help` -- there"
    monkeypatch.setattr(InputError, "names_options", True)
    assert str(error).startswith("--rarefy-depth 5 keeps nothing")


@pytest.mark.parametrize(
    ("option", "parameter"),
    [
        ("--rep-seqs", "sequences"),
        ("--metadata-column", "y"),
        ("--pretrained-encoder", "encoder"),
        ("--interval", "level"),
        ("--drop-missing-sequences", 'options={"drop_missing_sequences": True}'),
        ("--drop-missing-tips", 'options={"drop_missing_tips": True}'),
        ("--overwrite", 'options={"overwrite": True}'),
        ("--weight-decay", "weight_decay"),
    ],
)
def test_options_that_the_estimators_call_otherwise(option, parameter):
    assert str(InputError(f"wrong: give {option}, or see `aam train {option}`")) == (
        f"wrong: give {parameter}, or see `aam train {option}`"
    )


@pytest.mark.parametrize(
    "labels", [[2**53, 2**53 + 1, 0.5], [-1, 2**63, 2**63 + 1], [2**64, 2**64 + 1], [1, 2], [0.5, 1.5], ["a", "b"]]
)
def test_labels_of_classes_do_not_merge_as_numbers(labels):
    array = label_array(labels)
    assert array.tolist() == labels
    assert len(np.unique(array)) == len(labels)
