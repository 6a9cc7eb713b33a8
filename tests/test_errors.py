"""What messages quote."""

from aam.errors import InputError, quoted, shown


def test_control_characters_are_escaped_in_every_message():
    assert str(InputError("a\x1b[31m\r\x07\u202eb\nc\td é")) == "a\\x1b[31m\\r\\x07\\u202eb\nc\td é"


def test_long_words_are_cut_and_what_follows_stays():
    assert shown("x" * 5000 + "\n at 3") == "x" * 197 + "... at 3"
    assert shown("x" * 200) == "x" * 200
    assert len(shown("word " * 5000)) == 1000


def test_long_cells_are_cut():
    assert quoted("a\x1b") == "'a\\x1b'"
    assert len(quoted("y" * 5000)) == 200
