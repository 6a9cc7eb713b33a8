"""DNA sequences of ASVs from FASTA."""

from collections import Counter
from pathlib import Path

from aam.data.files.artifacts import read_text
from aam.errors import InputError, first_ids

_KIND = "representative sequences"


def read_fasta(path: Path | str) -> dict[str, str]:
    """Read the sequence of every ASV, letters unchecked, by id (the first word after ``>``), in the file's order.

    The file is FASTA, plain or gzipped, or a QIIME 2 artifact of type ``FeatureData[Sequence]``.

    Raises:
        InputError: the file cannot be read or is not FASTA; an id is missing or repeated; a sequence is empty, or has a
            blank line in it.
    """
    text = read_text(path, _KIND, ("FeatureData[Sequence]",))
    if not text.lstrip().startswith(">"):
        raise InputError(f"{_KIND} {path}: not FASTA, whose first line starts with '>'")
    records = [_record(block, path) for block in ("\n" + text.lstrip()).split("\n>")[1:]]
    sequences = dict(records)
    if len(sequences) < len(records):
        repeated = [name for name, times in Counter(name for name, _ in records).items() if times > 1]
        raise InputError(f"{_KIND} {path}: id given more than once: {first_ids(repeated)}; keep one of each")
    empty = [name for name, sequence in records if not sequence]
    if empty:
        raise InputError(f"{_KIND} {path}: no sequence under {first_ids(empty)}")
    return sequences


def _record(block: str, path: Path | str) -> tuple[str, str]:
    header, _, body = block.partition("\n")
    if not header.strip() or header[0].isspace():
        raise InputError(f"{_KIND} {path}: a '>' line has no id right after the '>'")
    name, lines = header.split()[0], body.rstrip().split("\n")
    if len(lines) > 1 and not all(map(str.strip, lines)):
        raise InputError(
            f"{_KIND} {path}: a blank line within the sequence of {first_ids([name])}; the file may lack something "
            "there, else remove the line"
        )
    return name, "".join(body.split())
