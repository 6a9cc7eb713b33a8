"""Bad input, case by case: exit code 2, one message that says what, where and what to do, and nothing half-written."""

import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from aam.cli import main
from aam.config import SimulateConfig, flag
from aam.config.evaluate import OUTSIDE
from aam.data.distances.phylogeny import parse_newick
from aam.data.sampling.seeded import derived_seed
from aam.data.simulation.study import simulate_study, write_study

SMALL = {"epochs": 1, "batch_size": 8, "embedding_dim": 8, "attention_heads": 2, "attention_layers": 1}
SEQUENCES = ("ACGTTGCA" * 4, "GGATTACA" * 4)

Damage = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A command line, what the message must match (regular expressions, all of them), and how the files get bad."""

    words: list[str]
    says: tuple[str, ...]
    damages: tuple[Damage, ...] = ()


def _command(name: str, positional: tuple[str, ...] = (), **options: object) -> list[str]:
    """Words of a command line; an option that is None is left out, one that is True is a switch."""
    words = [name, *positional]
    for option, value in options.items():
        for each in value if isinstance(value, tuple) else (value,):
            words += [] if each is None else [flag(option)] if each is True else [flag(option), str(each)]
    return words


def pretrain(**changes: object) -> list[str]:
    return _command("pretrain", **{"table": "table.biom", "tree": "tree.nwk", "output_dir": "out", **SMALL, **changes})


TARGET_FILES = {"table": "table.biom", "metadata": "metadata.tsv", "metadata_column": "acidity"}


def train(**changes: object) -> list[str]:
    return _command("train", **{**TARGET_FILES, "output_dir": "out", **SMALL, **changes})


def learn(**changes: object) -> list[str]:
    """Train a learner besides the network."""
    return _command(
        "train", **{**TARGET_FILES, "output_dir": "out", "learner": "clades", "tree": "tree.nwk", **changes}
    )


def predict(**changes: object) -> list[str]:
    return _command("predict", **{"checkpoint": "trained", "table": "table.biom", "output": "p.tsv", **changes})


def explain(**changes: object) -> list[str]:
    files = {"checkpoint": "attentive", "table": "table.biom", "metadata": "metadata.tsv", "output": "w.tsv"}
    return _command("explain", **{**files, "what": "category-attention", **changes})


def embed(**changes: object) -> list[str]:
    return _command("embed", **{"checkpoint": "trained", "table": "table.biom", "output": "e.tsv", **changes})


def unifrac(**changes: object) -> list[str]:
    options = {"table": "table.biom", "tree": "tree.nwk", "output": "d.tsv", "backend": "scikit-bio"}
    return _command("unifrac", **{**options, **changes})


def evaluate(**changes: object) -> list[str]:
    small = {"learners": "clades", "trees": 3, "folds": 2, "repeats": 1, "group_column": "subject"}
    return _command("evaluate", **{**TARGET_FILES, "tree": "tree.nwk", "output_dir": "out", **small, **changes})


def evaluate_classes(**changes: object) -> list[str]:
    return evaluate(metadata_column="habitat", classifier=True, **changes)


def write(name: str, content: str | bytes) -> Damage:
    path = Path(name)
    return partial(path.write_text, content) if isinstance(content, str) else partial(path.write_bytes, content)


def table(*rows: str, header: str = "#OTU ID s1 s2 s3") -> Damage:
    """Write t.tsv; cells are parted by spaces here."""
    lines = [header.replace("#OTU ID ", "#OTU ID\t").replace(" ", "\t").replace("#OTU\tID", "#OTU ID")]
    return write("t.tsv", "\n".join([*lines, *(row.replace(" ", "\t") for row in rows)]) + "\n")


def link(name: str, target: str) -> Damage:
    return partial(Path(name).symlink_to, target)


def cut(name: str) -> Damage:
    """Keep the first half of a file."""

    def damage() -> None:
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[: len(content) // 2])

    return damage


def replace(name: str, old: str, new: str, times: int = -1) -> Damage:
    def damage() -> None:
        text = Path(name).read_text()
        assert old in text
        Path(name).write_text(text.replace(old, new, times))

    return damage


def column(name: str, values: Callable[[int], str]) -> Damage:
    """Add a column to the metadata; values by the number of the sample."""

    def damage() -> None:
        header, types, *rows = Path("metadata.tsv").read_text().splitlines()
        kind = "numeric" if values(0).replace(".", "").isdigit() else "categorical"
        lines = [f"{header}\t{name}", f"{types}\t{kind}"]
        lines += [f"{row}\t{values(number)}" for number, row in enumerate(rows)]
        Path("metadata.tsv").write_text("\n".join(lines) + "\n")

    return damage


def _copy_column(name: str, into: str) -> Damage:
    """Give a column of the metadata the values of another, in capitals."""

    def damage() -> None:
        header, types, *rows = (line.split("\t") for line in Path("metadata.tsv").read_text().splitlines())
        for row in rows:
            row[header.index(into)] = row[header.index(name)].upper()
        Path("metadata.tsv").write_text("\n".join("\t".join(row) for row in (header, types, *rows)) + "\n")

    return damage


def artifact(name: str, kind: str, payload: str = "data/tree.nwk") -> Damage:
    def damage() -> None:
        with zipfile.ZipFile(name, "w") as archive:
            archive.writestr("5f0a/metadata.yaml", f"uuid: 5f0a\ntype: {kind}\nformat: F\n")
            archive.writestr(f"5f0a/{payload}", "(a:1,b:1);")

    return damage


def hdf5(name: str) -> Damage:
    def damage() -> None:
        with h5py.File(name, "w") as file:
            file["numbers"] = np.arange(3)

    return damage


def matrix(change: Callable[[np.ndarray], object] = lambda values: None, ids: int | None = None) -> Damage:
    """Write d.npy and its ids, a random matrix over the samples of the study, changed as told."""

    def damage() -> None:
        rows = Path("metadata.tsv").read_text().splitlines()[2:]
        names = [row.split("\t")[0] for row in rows]
        values = np.random.default_rng(0).uniform(0.2, 0.9, (len(names), len(names)))
        values = (values + values.T) / 2
        np.fill_diagonal(values, 0)
        change(values)
        np.save("d.npy", values)
        Path("ids.txt").write_text("\n".join(names[:ids]) + "\n")

    return damage


def star_tree(name: str) -> Damage:
    """Write a tree of all tips of the study's, half of them to either side of the root."""

    def damage() -> None:
        tips = parse_newick(Path("tree.nwk").read_text()).tip_names
        halves = (",".join(f"'{tip}':1" for tip in tips[start::2]) for start in range(2))
        Path(name).write_text(f"({','.join(f'({half}):1' for half in halves)});")

    return damage


def several_processes() -> None:
    """As a launcher of two processes would start the first."""
    os.environ["WORLD_SIZE"] = "2"


CHECKPOINTS_FOLDER = "trained/checkpoints"
WEIGHTS = "trained/checkpoints/best/model.safetensors"
HELD_OUT = min((f"S{number:04d}" for number in range(1, 25)), key=partial(derived_seed, 42, "split"))
"""The first sample that any split of the study holds out."""
WITH_MATRIX = {"tree": None, "unifrac_matrix": "d.npy", "matrix_ids": "ids.txt"}

TABLES = {
    "no table": Case(pretrain(table=None), ("--table is needed",)),
    "table missing": Case(pretrain(table="none.biom"), ("table none.biom: no such file",)),
    "table is a folder": Case(pretrain(table="."), (r"table \.: this is a folder", "name the file")),
    "table empty": Case(pretrain(table="t.biom"), ("table t.biom: the file is empty",), (write("t.biom", b""),)),
    "table is prose": Case(pretrain(table="t.tsv"), ("t.tsv",), (write("t.tsv", "Dear colleague,\nsee below\n"),)),
    "table is binary": Case(
        pretrain(table="t.biom"),
        ("t.biom: neither BIOM .HDF5, JSON. nor tab-separated text",),
        (write("t.biom", bytes(range(128, 256))),),
    ),
    "table cut short": Case(
        pretrain(), ("table.biom: the HDF5 file is damaged or cut short", "copy it again"), (cut("table.biom"),)
    ),
    "HDF5 but not BIOM": Case(pretrain(table="t.biom"), ("t.biom: an HDF5 file, but not BIOM",), (hdf5("t.biom"),)),
    "JSON cut short": Case(pretrain(table="t.biom"), ("t.biom: not a BIOM JSON",), (write("t.biom", '{"id": nu'),)),
    "JSON but not BIOM": Case(
        pretrain(table="t.biom"), ("t.biom: not a BIOM JSON table",), (write("t.biom", '{"rows": 3}'),)
    ),
    "gzip cut short": Case(
        pretrain(table="t.tsv.gz"),
        ("t.tsv.gz: the gzip file is damaged or cut short",),
        (write("t.tsv.gz", b"\x1f\x8b\x08\x00\x00"),),
    ),
    "artifact of another type": Case(
        pretrain(table="t.qza"),
        (r"t.qza: QIIME 2 artifact Phylogeny", "FeatureTable"),
        (artifact("t.qza", "Phylogeny"),),
    ),
    "zip but no artifact": Case(
        pretrain(table="t.qza"),
        ("t.qza: a zip archive, but not a QIIME 2 artifact",),
        (lambda: zipfile.ZipFile("t.qza", "w").writestr("a.txt", "a"),),
    ),
    "sample twice": Case(
        pretrain(table="t.tsv"),
        ("t.tsv: sample ids given more than once: s1", "rename or merge"),
        (table(f"{SEQUENCES[0]} 1 2 3", header="#OTU ID s1 s2 s1"),),
    ),
    "ASV twice": Case(
        pretrain(table="t.tsv"),
        (f"t.tsv: ASV ids given more than once: {SEQUENCES[0]}",),
        (table(f"{SEQUENCES[0]} 1 2 3", f"{SEQUENCES[0]} 1 2 3"),),
    ),
    "negative count": Case(
        pretrain(table="t.tsv"),
        (f"t.tsv: sample s2, ASV {SEQUENCES[0]}: -2 is",),
        (table(f"{SEQUENCES[0]} 1 -2 3"),),
    ),
    "fractional count": Case(
        pretrain(table="t.tsv"), (f"sample s3, ASV {SEQUENCES[0]}: 0.5 is",), (table(f"{SEQUENCES[0]} 1 2 0.5"),)
    ),
    "count is NaN": Case(pretrain(table="t.tsv"), ("sample s2, ASV",), (table(f"{SEQUENCES[0]} 1 nan 3"),)),
    "count is a word": Case(
        pretrain(table="t.tsv"),
        ("t.tsv: line 2, sample s2: 'many' is not a number",),
        (table(f"{SEQUENCES[0]} 1 many 3"),),
    ),
    "ragged row": Case(
        pretrain(table="t.tsv"),
        ("t.tsv: line 3 has 3 cells, the header has 4",),
        (table(f"{SEQUENCES[0]} 1 2 3", f"{SEQUENCES[1]} 1 2"),),
    ),
    "no ASVs": Case(pretrain(table="t.tsv"), ("t.tsv: the table has no ASVs",), (table(),)),
    "transposed": Case(
        pretrain(table="t.tsv"),
        ("t.tsv", "transposed"),
        (table("s1 1 2", header=f"#OTU ID {SEQUENCES[0]} {SEQUENCES[1]}"),),
    ),
    "ids without sequences": Case(
        pretrain(table="t.tsv"),
        ("t.tsv: 1 of 2 ASVs", "asv2", "--rep-seqs", "--drop-missing-sequences"),
        (table(f"{SEQUENCES[0]} 1 2 3", "asv2 1 2 3"),),
    ),
    "rep-seqs of another table": Case(
        pretrain(table="t.tsv", rep_seqs="r.fasta"),
        ("t.tsv", "asv1", "--rep-seqs"),
        (table("asv1 1 2 3"), write("r.fasta", ">other\nACGT\n")),
    ),
    "rep-seqs with protein": Case(
        pretrain(table="t.tsv", rep_seqs="r.fasta"),
        ("asv1",),
        (table("asv1 1 2 3"), write("r.fasta", ">asv1\nMKLE*\n")),
    ),
    "rep-seqs not FASTA": Case(
        pretrain(table="t.tsv", rep_seqs="r.fasta"),
        ("r.fasta",),
        (table("asv1 1 2 3"), write("r.fasta", "ACGT\n")),
    ),
    "rep-seqs twice": Case(
        pretrain(table="t.tsv", rep_seqs="r.fasta"),
        ("r.fasta", "asv1"),
        (table("asv1 1 2 3"), write("r.fasta", ">asv1\nACGT\n>asv1\nACGA\n")),
    ),
    "all samples without reads": Case(
        pretrain(table="t.tsv"),
        ("no sample is left: no reads for all of s1, s2, s3",),
        (table(f"{SEQUENCES[0]} 0 0 0"),),
    ),
    "depth above every sample": Case(
        pretrain(rarefy_depth=1_000_000), ("no sample is left: fewer reads than the sampling depth 1000000", "S0001")
    ),
}

UNROOTED = "(a:1,b:1,c:1,(d:1,e:1):1);"
NOT_ROOTED = ("tree tree.nwk: not rooted, its root has 4 children", "--root midpoint", "--root as-is")

TREES = {
    "no tree": Case(pretrain(tree=None), ("--tree", "--unifrac-matrix")),
    "tree missing": Case(pretrain(tree="none.nwk"), ("tree none.nwk: no such file",)),
    "tree empty": Case(pretrain(), ("tree tree.nwk: the file is empty",), (write("tree.nwk", ""),)),
    "tree is prose": Case(pretrain(), ("tree tree.nwk", "not a Newick tree"), (write("tree.nwk", "no tree"),)),
    "tree cut short": Case(pretrain(), ("tree tree.nwk", "not a Newick tree"), (cut("tree.nwk"),)),
    "two closing brackets": Case(
        pretrain(), ("tree.nwk, line 1", "not a Newick tree"), (write("tree.nwk", "((a:1,b:1)):1);"),)
    ),
    "tree of another table": Case(
        pretrain(),
        ("the tree has no tip for", "tips are named like a, b", "Give the tree made for this table"),
        (write("tree.nwk", "(a:1,b:1);"),),
    ),
    "some tips missing": Case(
        pretrain(table=("table.biom", "t.tsv")),
        (f"no tip for 1 of .* ASVs .*{SEQUENCES[0]}", "--drop-missing-tips"),
        (table(f"{SEQUENCES[0]} 1 2 3"),),
    ),
    "negative branch length": Case(pretrain(), ("tree.nwk", "negative|-0.5"), (write("tree.nwk", "(a:1,b:-0.5);"),)),
    "branch length missing": Case(
        pretrain(), ("tree.nwk", "tip b", "--missing-branch-lengths zero"), (write("tree.nwk", "(a:1,b);"),)
    ),
    "branch length is a word": Case(pretrain(), ("tree.nwk",), (write("tree.nwk", "(a:1,b:long);"),)),
    "tip twice": Case(pretrain(), ("tree.nwk", "a"), (write("tree.nwk", "(a:1,a:1);"),)),
    "unrooted artifact": Case(
        pretrain(tree="t.qza"),
        ("t.qza", r"Phylogeny\[Unrooted\]", "--root midpoint", "--root as-is"),
        (artifact("t.qza", "Phylogeny[Unrooted]"),),
    ),
    "tree without a root": Case(pretrain(), NOT_ROOTED, (write("tree.nwk", UNROOTED),)),
    "distances of a tree without a root": Case(unifrac(), NOT_ROOTED, (write("tree.nwk", UNROOTED),)),
    "estimate of a tree without a root": Case(
        _command("estimate", ("pretrain",), table="table.biom", tree="tree.nwk"),
        NOT_ROOTED,
        (write("tree.nwk", UNROOTED),),
    ),
    "learning rate of a tree without a root": Case(
        _command("find-lr", table="table.biom", tree="tree.nwk", output_dir="out"),
        NOT_ROOTED,
        (write("tree.nwk", UNROOTED),),
    ),
    "root unknown": Case(pretrain(root="outgroup"), ("'outgroup' is not one of 'error', 'midpoint', 'as-is'",)),
    "artifact is a table": Case(
        pretrain(tree="t.qza"),
        ("t.qza", r"FeatureTable\[Frequency\]", r"Phylogeny\[Rooted\]"),
        (artifact("t.qza", "FeatureTable[Frequency]"),),
    ),
}

TAXA = "Feature ID\tTaxon\n"

TAXONOMY = {
    "no taxonomy": Case(pretrain(encoder_type="taxonomy"), ("--encoder-type taxonomy .*give --taxonomy",)),
    "no taxonomy for its weight": Case(
        pretrain(taxonomy_weight=0.5), ("--taxonomy-weight 0.5 learns the ranks", "give --taxonomy")
    ),
    "taxonomy that nothing learns": Case(
        pretrain(taxonomy="taxonomy.tsv"), ("--taxonomy: nothing is learned", "--encoder-type unifrac", "combined")
    ),
    "Faith's PD without a tree": Case(
        pretrain(encoder_type="faith_pd", tree=None), ("--encoder-type faith_pd", "computed from --tree")
    ),
    "all without a tree": Case(pretrain(encoder_type="combined", taxonomy="taxonomy.tsv", tree=None), ("give --tree",)),
    "encoder type unknown": Case(pretrain(encoder_type="phylum"), ("'phylum' is not one of 'unifrac', 'faith_pd'",)),
    "all weights zero": Case(
        pretrain(encoder_type="taxonomy", taxonomy="taxonomy.tsv", taxonomy_weight=0, nucleotide_weight=0),
        ("--taxonomy-weight, --abundance-weight are all 0 with --encoder-type taxonomy: nothing to learn",),
    ),
    "taxonomy missing": Case(
        pretrain(encoder_type="taxonomy", taxonomy="none.tsv"), ("taxonomy none.tsv: no such file",)
    ),
    "taxonomy empty": Case(
        pretrain(encoder_type="taxonomy", taxonomy="t.tsv"),
        ("taxonomy t.tsv: the file is empty",),
        (write("t.tsv", ""),),
    ),
    "taxonomy header unknown": Case(
        pretrain(encoder_type="taxonomy", taxonomy="taxonomy.tsv"),
        ("taxonomy.tsv: the first line should name the columns 'Feature ID' and 'Taxon'",),
        (replace("taxonomy.tsv", "Feature ID", "OTU"),),
    ),
    "taxonomy without tabs": Case(
        pretrain(encoder_type="taxonomy", taxonomy="t.tsv"),
        ("t.tsv: line 2 should hold an ASV id",),
        (write("t.tsv", TAXA + "asv1 d__Bacteria\n"),),
    ),
    "taxonomy twice": Case(
        pretrain(encoder_type="taxonomy", taxonomy="t.tsv"),
        ("t.tsv: ASV ids given more than once: asv1",),
        (write("t.tsv", TAXA + "asv1\td__Bacteria\nasv1\td__Bacteria\n"),),
    ),
    "taxonomy of another table": Case(
        pretrain(encoder_type="taxonomy", taxonomy="t.tsv"),
        ("names none of the .* ASVs of the table: its ids are like asv1, asv2", "made for this table"),
        (write("t.tsv", TAXA + "asv1\td__Bacteria\nasv2\td__Archaea\n"),),
    ),
    "taxonomy without classes": Case(
        pretrain(encoder_type="taxonomy", taxonomy="taxonomy.tsv"),
        ("no rank has two classes", "d__Bacteria"),
        (replace("taxonomy.tsv", "; p__", "\t; p__"),),
    ),
    "artifact is no taxonomy": Case(
        pretrain(encoder_type="taxonomy", taxonomy="t.qza"),
        ("t.qza", r"QIIME 2 artifact FeatureData\[Sequence\], but FeatureData\[Taxonomy\] is wanted"),
        (artifact("t.qza", "FeatureData[Sequence]"),),
    ),
    "accuracy of a rank without classes": Case(
        pretrain(encoder_type="taxonomy", taxonomy="taxonomy.tsv", best_metric="val/taxonomy_accuracy_species"),
        ("val/taxonomy_accuracy_species is not a metric", "val/taxonomy_accuracy_phylum"),
    ),
}

METADATA = {
    "no metadata": Case(train(metadata=None), ("--metadata is needed",)),
    "metadata missing": Case(train(metadata="none.tsv"), ("metadata none.tsv: no such file",)),
    "metadata empty": Case(train(), ("metadata metadata.tsv: the file is empty",), (write("metadata.tsv", ""),)),
    "metadata header unknown": Case(
        train(), ("metadata.tsv", "sample"), (replace("metadata.tsv", "sample-id", "who"),)
    ),
    "metadata sample twice": Case(train(), ("metadata.tsv", "S0001"), (replace("metadata.tsv", "S0002\t", "S0001\t"),)),
    "metadata column twice": Case(train(), ("metadata.tsv", "site"), (replace("metadata.tsv", "region", "site", 1),)),
    "metadata type unknown": Case(
        train(), ("metadata.tsv", "numbers"), (replace("metadata.tsv", "numeric", "numbers", 1),)
    ),
    "metadata of other samples": Case(
        train(), ("no sample is left: no row in the metadata", "S0001"), (replace("metadata.tsv", "\nS0", "\nX0"),)
    ),
    "metadata not text": Case(
        train(), ("metadata.tsv", "UTF-8"), (write("metadata.tsv", b"sample-id\tx\ns1\t\xff\xfe\n"),)
    ),
    "--where without a value": Case(train(where="habitat"), ("--where habitat: write COLUMN=VALUE",)),
    "--where of no column": Case(train(where="habitt=gut"), ("no column 'habitt'", "habitat")),
    "--where of no value": Case(train(where="habitat=moon"), ("--where habitat=moon", "'moon'", "gut")),
    "--where of no sample": Case(
        train(where=("habitat=gut", "habitat=skin")), ("no sample .*--where habitat=gut and --where habitat=skin",)
    ),
    "--where without metadata": Case(pretrain(where="habitat=gut"), ("--where", "give --metadata")),
}

TARGETS = {
    "column absent": Case(train(metadata_column="acidty"), ("no column 'acidty'", "acidity")),
    "column is text": Case(train(metadata_column="habitat"), ("column 'habitat' is not numeric", "--classifier")),
    "column constant": Case(
        train(metadata_column="same"),
        ("the target is 3.0 in all .* training samples", "choose another column"),
        (column("same", lambda _: "3"),),
    ),
    "column without values": Case(
        train(metadata_column="nothing"),
        ("nothing: no value for any", "choose another column"),
        (column("nothing", lambda _: ""),),
    ),
    "one class only": Case(
        train(metadata_column="same", classifier=True),
        ("at least two classes", "yes"),
        (column("same", lambda _: "yes"),),
    ),
    "logarithm of a negative number": Case(
        train(metadata_column="signed", target_transform="log-zscore"),
        ("log-zscore", "S0006 .-5"),
        (column("signed", str), replace("metadata.tsv", "\t5\n", "\t-5\n")),
    ),
    "class weights of numbers": Case(train(class_weights="balanced"), ("--class-weights .*--classifier",)),
}

SPLITS = {
    "group column absent": Case(train(group_column="person"), ("no column 'person'",)),
    "one group": Case(
        train(group_column="same"), ("--group-column 'same' has one group",), (column("same", lambda _: "yes"),)
    ),
    "group without metadata": Case(pretrain(group_column="subject"), ("--group-column subject", "give --metadata")),
    "split column of other words": Case(
        train(split_column="habitat"), ("'habitat' should say train, val or test", "gut")
    ),
    "groups beside the sides of pretraining": Case(
        pretrain(split_column="fold", group_column="subject"), ("--split-column fixes the split: drop --group-column",)
    ),
    "groups with a gap beside given sides": Case(
        learn(split_column="fold", group_column="who"),
        ("--group-column 'who' is empty for samples S0001: fill in or leave out",),
        (
            column("fold", lambda n: ("train", "val")[n % 2]),
            column("who", lambda number: f"w{number % 8}" if number else ""),
        ),
    ),
    "one group beside given sides": Case(
        train(split_column="fold", group_column="same"),
        ("--group-column 'same' has one group",),
        (column("fold", lambda n: ("train", "val")[n % 2]), column("same", lambda _: "yes")),
    ),
    "split column without validation": Case(
        train(split_column="fold"), ("no sample to 'val'",), (column("fold", lambda _: "train"),)
    ),
    "stratified numbers": Case(train(stratify=True), ("--stratify",)),
    "class of one sample": Case(
        train(metadata_column="rare", classifier=True, stratify=True),
        ("--stratify needs every class", "odd"),
        (column("rare", lambda number: "odd" if number == 0 else "even"),),
    ),
    "class of one sample that is held out": Case(
        train(metadata_column="rare", classifier=True, no_stratify=True),
        ("without a training sample: odd", rf"samples {HELD_OUT}\b", "--where COLUMN=even,uneven"),
        (column("rare", lambda n: "odd" if f"S{n + 1:04d}" == HELD_OUT else ("even", "uneven")[n % 2]),),
    ),
    "stratified pretraining": Case(pretrain(stratify=True), ("No such option '--stratify'",)),
    "test of pretraining": Case(pretrain(test_fraction=0.2), ("No such option '--test-fraction'",)),
    "test size of before": Case(train(test_size=0.3), ("--test-size is now called --val-fraction",)),
    "test size of pretraining": Case(pretrain(test_size=0.3), ("--test-size is now called --val-fraction",)),
    "test size in a file": Case(
        train(config="o.toml"), ("--test-size is now called --val-fraction",), (write("o.toml", "test-size = 0.3\n"),)
    ),
    "test of all": Case(train(test_fraction=0.999), ("--test-fraction 0.999 of",)),
    "test of nothing": Case(train(test_fraction=-0.1), ("--test-fraction",)),
    "test beside a column": Case(
        train(split_column="fold", test_fraction=0.2), ("--test-fraction 0.2 only has an effect with a drawn split",)
    ),
    "classes too few for a test": Case(
        train(metadata_column="rare", classifier=True, stratify=True, test_fraction=0.2),
        ("--stratify needs every class in at least three", "odd"),
        (column("rare", lambda number: "odd" if number < 2 else "even"),),
    ),
    "negative steps": Case(train(min_steps=-1), ("--min-steps",)),
    "encoder that does not learn": Case(train(encoder_lr_ratio=0), ("--encoder-lr-ratio",)),
    "rate of a frozen encoder": Case(
        train(encoder_lr_ratio=0.5, freeze_base=True, pretrained_encoder="pretrained"),
        ("--encoder-lr-ratio 0.5 only has an effect with an encoder that learns: drop --freeze-base",),
    ),
    "steps of pretraining": Case(pretrain(min_steps=5), ("No such option '--min-steps'",)),
    "everything held out": Case(train(val_fraction=0.999), ("--val-fraction 0.999",)),
}

MATRICES = {
    "matrix missing": Case(
        pretrain(**{**WITH_MATRIX, "matrix_ids": None, "unifrac_matrix": "d.tsv"}), ("d.tsv: no such file",)
    ),
    "matrix and tree": Case(
        pretrain(unifrac_matrix="d.npy", matrix_ids="ids.txt"),
        ("--unifrac-matrix or from --tree: give one",),
        (matrix(),),
    ),
    "matrix ids missing": Case(
        pretrain(**WITH_MATRIX), ("ids.txt: no such file",), (matrix(), lambda: Path("ids.txt").unlink())
    ),
    "matrix without ids": Case(pretrain(**{**WITH_MATRIX, "matrix_ids": None}), ("d.npy", "--matrix-ids"), (matrix(),)),
    "too few ids": Case(pretrain(**WITH_MATRIX), ("ids.txt|d.npy", "23", "24"), (matrix(ids=23),)),
    "matrix not symmetric": Case(
        pretrain(**WITH_MATRIX),
        ("d.npy", "S0001, column S0002 is not the same in both directions"),
        (matrix(lambda d: d.__setitem__((0, 1), 0.1)),),
    ),
    "diagonal not zero": Case(
        pretrain(**WITH_MATRIX), ("d.npy", "diagonal|itself", "S0001"), (matrix(lambda d: np.fill_diagonal(d, 0.1)),)
    ),
    "distance negative": Case(pretrain(**WITH_MATRIX), ("d.npy", "-0"), (matrix(lambda d: np.negative(d, out=d)),)),
    "distance NaN": Case(
        pretrain(**WITH_MATRIX), ("d.npy", "nan|NaN|not a number"), (matrix(lambda d: d.fill(np.nan)),)
    ),
    "distance above one": Case(pretrain(**WITH_MATRIX), ("d.npy", "1"), (matrix(lambda d: np.multiply(d, 9, out=d)),)),
    "matrix of unknown kind": Case(
        pretrain(**{**WITH_MATRIX, "unifrac_matrix": "d.doc"}), ("d.doc", ".npy"), (write("d.doc", "0 1\n1 0\n"),)
    ),
}

CHECKPOINTS = {
    "checkpoint missing": Case(predict(checkpoint="none"), ("none: no such folder",)),
    "folder without checkpoint": Case(predict(checkpoint="empty"), ("empty holds no checkpoint",)),
    "checkpoint of pretraining": Case(predict(checkpoint="pretrained"), ("pretrained", "aam train")),
    "encoder is a fine-tuned model": Case(train(pretrained_encoder="trained"), ("trained", "aam pretrain")),
    "weights cut short": Case(
        predict(), ("model.safetensors is truncated",), (cut("trained/checkpoints/best/model.safetensors"),)
    ),
    "weights altered": Case(
        predict(),
        ("model.safetensors was altered|truncated",),
        (write("trained/checkpoints/best/model.safetensors", b"\x00" * 100_000),),
    ),
    "manifest missing": Case(
        predict(),
        ("no checkpoint|manifest.*is missing",),
        (lambda: [path.unlink() for path in Path("trained").rglob("manifest.json")],),
    ),
    "another shape than the encoder's": Case(
        train(pretrained_encoder="pretrained", embedding_dim=16), ("--embedding-dim 16", "pretrained with 8")
    ),
}

OUTPUTS = {
    "output folder is a file": Case(pretrain(output_dir="table.biom"), ("--output-dir table.biom is a file",)),
    "output folder in a file": Case(pretrain(output_dir="table.biom/out"), ("--output-dir table.biom/out", "cannot")),
    "output folder holds another run": Case(pretrain(output_dir="pretrained"), ("pretrained is not empty", "--resume")),
    "nothing to resume": Case(pretrain(output_dir="empty", resume=True), ("--resume: empty holds no run",)),
    "resumed with other options": Case(
        pretrain(output_dir="pretrained", resume=True, lr=0.5), ("--resume: pretrained", r"--lr \(was .*, now 0.5\)")
    ),
    "resumed as another command": Case(train(output_dir="pretrained", resume=True), ("--resume: pretrained",)),
    "--overwrite of a strange folder": Case(pretrain(output_dir="photos", overwrite=True), ("photos", "no run of aam")),
    "predictions into no folder": Case(predict(output="none/p.tsv"), ("none",)),
    "predictions onto a folder": Case(predict(output="photos"), ("photos",)),
    "predictions onto the table": Case(
        predict(output="./table.biom", overwrite=True), ("--output table.biom is the file of --table",)
    ),
    "predictions onto another file": Case(predict(output="tree.nwk"), ("--output tree.nwk exists", "--overwrite")),
    "distances onto the tree": Case(
        unifrac(tree="t.tsv", output="t.tsv", overwrite=True), ("is the file of --tree",), (write("t.tsv", "(a:1);"),)
    ),
    "distances onto another file": Case(
        unifrac(output="metadata.tsv"), ("--output metadata.tsv exists", "--overwrite")
    ),
    "predictions onto a file of the run": Case(
        predict(output="trained/metrics.jsonl", overwrite=True),
        ("--output trained/metrics.jsonl is a file of the run that --checkpoint trained reads", "trained/new.jsonl"),
    ),
    "predictions onto a file that the run may get": Case(
        predict(output="trained/find_lr.tsv"), ("--output trained/find_lr.tsv is a file of the run",)
    ),
    "predictions onto the log of a rank": Case(
        predict(output="trained/training-rank3.log"), ("training-rank3.log is a file of the run",)
    ),
    "predictions onto the weights": Case(
        predict(output="trained/checkpoints/best/model.safetensors", overwrite=True),
        ("model.safetensors is a file of the run .*or lies among its checkpoints",),
    ),
    "predictions into the checkpoint": Case(
        predict(checkpoint="trained/checkpoints/last", output="trained/checkpoints/last/p.tsv"),
        ("--output .*p.tsv lies in the checkpoint that --checkpoint trained/checkpoints/last reads", "outside"),
    ),
    "predictions onto the run of the checkpoint": Case(
        predict(checkpoint="trained/checkpoints/last", output="trained/config.json", overwrite=True),
        ("--output trained/config.json is a file of the run",),
    ),
    "predictions through a link to the checkpoints": Case(
        predict(output="link/last/p.tsv"),
        ("--output link/last/p.tsv .*checkpoints",),
        (link("link", CHECKPOINTS_FOLDER),),
    ),
    "predictions onto a link to the weights": Case(
        predict(output="p.tsv", overwrite=True), ("--output p.tsv is a file of the run",), (link("p.tsv", WEIGHTS),)
    ),
    "predictions by a linked run": Case(
        predict(checkpoint="link", output="trained/training.log", overwrite=True),
        ("--output trained/training.log is a file of the run that --checkpoint link reads",),
        (link("link", "trained"),),
    ),
    "predictions into a saved model": Case(
        predict(checkpoint="saved", output="saved/manifest.json", overwrite=True),
        ("--output saved/manifest.json lies in the checkpoint that --checkpoint saved reads",),
        (lambda: shutil.copytree("trained/checkpoints/last", "saved"),),
    ),
    "ASVs onto the weights": Case(
        embed(asv=WEIGHTS, overwrite=True), ("--asv .*model.safetensors is a file of the run",)
    ),
    "embeddings onto the metrics": Case(
        embed(output="trained/metrics.jsonl", overwrite=True), ("--output .* is a file of the run",)
    ),
    "embeddings onto the metadata": Case(
        embed(metadata="metadata.tsv", output="metadata.tsv", overwrite=True), ("is the file of --metadata",)
    ),
    "embeddings onto the sequences": Case(
        embed(rep_seqs="r.fasta", output="r.fasta", overwrite=True),
        ("is the file of --rep-seqs",),
        (write("r.fasta", ">a\nACGT\n"),),
    ),
    "embeddings into a pipe": Case(
        embed(output="e.tsv", overwrite=True),
        ("--output e.tsv is a device, a pipe or a socket", "name a file"),
        (partial(os.mkfifo, "e.tsv"),),
    ),
    "ASVs into a pipe": Case(
        embed(asv="a.tsv", overwrite=True), ("--asv a.tsv is a device",), (partial(os.mkfifo, "a.tsv"),)
    ),
    "predictions into nothing by a link": Case(
        predict(output="p.tsv", overwrite=True), ("--output p.tsv is a device",), (link("p.tsv", "/dev/null"),)
    ),
    "distances into a pipe": Case(
        unifrac(output="d.tsv", overwrite=True), ("--output d.tsv is a device",), (partial(os.mkfifo, "d.tsv"),)
    ),
    "run among the checkpoints of its encoder": Case(
        train(output_dir="pretrained/checkpoints/new", pretrained_encoder="pretrained"),
        ("--output-dir pretrained/checkpoints/new .* --pretrained-encoder pretrained reads",),
    ),
    "generalized UniFrac of scikit-bio": Case(
        unifrac(unifrac_metric="generalized_unifrac", table="none.biom"), ("scikit-bio has no generalized UniFrac",)
    ),
    "--overwrite of another command's run": Case(
        pretrain(output_dir="trained", overwrite=True), ("trained holds no run of this command",)
    ),
    "--overwrite of its own input": Case(
        pretrain(output_dir="pretrained", overwrite=True, table="pretrained/table.biom"),
        ("--table pretrained/table.biom lies in pretrained", "move it"),
        (lambda: shutil.copy("table.biom", "pretrained"),),
    ),
    "--overwrite of its own encoder": Case(
        train(output_dir="trained", overwrite=True, pretrained_encoder="trained"),
        ("--pretrained-encoder trained lies",),
    ),
    "distances of unknown kind": Case(unifrac(output="d.doc"), ("d.doc", ".tsv")),
    "distances without tree": Case(unifrac(tree=None), ("--tree",)),
    "simulation over another": Case(_command("simulate", (".",)), (r"\. already holds table.biom", "--overwrite")),
    "simulation into a file": Case(_command("simulate", ("table.biom/a",), samples=8, asvs=16), ("table.biom/a",)),
}

OPTIONS = {
    "unknown option in the file": Case(
        pretrain(config="o.toml"),
        ("o.toml: unknown option 'epoch'; did you mean epochs",),
        (write("o.toml", "epoch = 3"),),
    ),
    "value of another type in the file": Case(
        pretrain(config="o.toml"), ("o.toml: lr = 'high': .*number",), (write("o.toml", 'lr = "high"'),)
    ),
    "file is not TOML": Case(pretrain(config="o.toml"), ("o.toml is not TOML",), (write("o.toml", "lr: 3"),)),
    "value out of range": Case(pretrain(lr=-1), ("'--lr': -1.0 is not in the range x>0",)),
    "heads do not divide the width": Case(pretrain(attention_heads=3), ("8 is not a multiple of --attention-heads 3",)),
    "no nucleotide hidden": Case(pretrain(nuc_mask_ratio=0), ("'--nuc-mask-ratio': 0.0 is not in the range",)),
    "points without their attention": Case(
        pretrain(induced_points=8), ("--induced-points 8 .*--sample-attention induced",)
    ),
    "span without its strategy": Case(pretrain(nuc_mask_span=3), ("--nuc-mask-span 3 .*--nuc-mask-strategy span",)),
    "alpha without its metric": Case(
        unifrac(generalized_alpha=0.3), ("--generalized-alpha 0.3 .*--unifrac-metric generalized_unifrac",)
    ),
    "link of distances without bound": Case(
        pretrain(unifrac_metric="weighted_unifrac", distance_link="cosine"), ("--distance-link cosine only",)
    ),
    "fp16 on a CPU": Case(pretrain(device="cpu", mixed_precision="fp16"), ("fp16", "bf16")),
    "metric unknown": Case(pretrain(best_metric="val/nothing"), ("val/nothing", "val/loss")),
    "no sample for a side": Case(
        pretrain(where="subject=subject01", metadata="metadata.tsv"), ("too few|--val-fraction",)
    ),
}

if not torch.cuda.is_available():
    OPTIONS["no GPU"] = Case(pretrain(device="cuda"), ("--device cuda",))

EXPLAIN = {
    "nothing to explain": Case(explain(what=None), ("Missing option '--what'",)),
    "explanation unknown": Case(
        explain(what="shap"), ("'--what': 'shap' is not one of 'category-attention', 'importance'",)
    ),
    "attention of an encoder": Case(
        explain(checkpoint="pretrained"),
        ("--checkpoint pretrained is a pretrained encoder", "--categorical-fusion cross_attention"),
    ),
    "attention without categories": Case(
        explain(checkpoint="trained"),
        ("--checkpoint trained was trained without --categorical-columns", "--categorical-fusion cross_attention"),
    ),
    "attention without metadata": Case(explain(metadata=None), (r"columns of the metadata \(site, habitat\)", "give")),
    "attention to an absent column": Case(
        explain(),
        ("sample metadata: no column 'site'", "needs site, habitat of new samples too"),
        (replace("metadata.tsv", "\tsite\t", "\tplace\t"),),
    ),
    "attention without a table": Case(explain(table=None), ("--table is needed",)),
    "weights onto the metadata": Case(
        explain(output="metadata.tsv", overwrite=True), ("--output metadata.tsv is the file of --metadata",)
    ),
    "weights onto another file": Case(explain(output="tree.nwk"), ("--output tree.nwk exists", "--overwrite")),
    "weights onto the weights of the model": Case(
        explain(output="attentive/checkpoints/best/model.safetensors", overwrite=True), ("is a file of the run",)
    ),
    "plot onto the plot of the run": Case(
        explain(plot="attentive/plots/val_predictions.png", overwrite=True),
        ("--plot attentive/plots/val_predictions.png is a file of the run", "attentive/new.png"),
    ),
    "plot of another kind": Case(explain(plot="w.pdf"), ("--plot w.pdf: .*png",)),
    "plot into no folder": Case(explain(plot="none/w.png"), ("--plot none/w.png: there is no folder",)),
    "inspected folder missing": Case(_command("inspect", ("none",)), ("none: no such folder",)),
    "inspected folder without checkpoint": Case(_command("inspect", ("photos",)), ("photos holds no checkpoint",)),
    "inspected checkpoint altered": Case(
        _command("inspect", ("trained",)),
        ("targets.json is truncated|targets.json was altered",),
        (cut("trained/checkpoints/best/targets.json"),),
    ),
}

SITES = {"categorical_columns": "site,habitat"}
BY_REGION = {**SITES, "categorical_hierarchy": "site=region"}
CATEGORIES = {
    "category absent": Case(train(categorical_columns="sitee"), ("no column 'sitee'", "did you mean site")),
    "category twice": Case(train(categorical_columns="site,site"), ("--categorical-columns names site twice",)),
    "category is the target": Case(
        train(categorical_columns="site,acidity"), ("--categorical-columns acidity: that is the column to predict",)
    ),
    "target told by a child": Case(
        train(metadata_column="region", classifier=True, **BY_REGION),
        ("--categorical-hierarchy site=region: region is the column to predict", "site would tell it"),
    ),
    "scale by the target": Case(
        train(conditional_output_scaling="acidity"), ("--conditional-output-scaling acidity: that is the column",)
    ),
    "scale of classes": Case(
        train(metadata_column="health", classifier=True, conditional_output_scaling="site"),
        ("--conditional-output-scaling scales numbers", "drop one"),
    ),
    "scale by no column": Case(train(conditional_output_scaling="town"), ("no column 'town'",)),
    "fusion without columns": Case(
        train(categorical_fusion="add"), ("--categorical-fusion add only has an effect with --categorical-columns",)
    ),
    "unknown fusion": Case(train(**SITES, categorical_fusion="magic"), ("'magic' is not one of 'concat', 'add'",)),
    "heads of no attention": Case(
        train(**SITES, cross_attn_heads=2), ("--cross-attn-heads 2 only has an effect with --categorical-fusion",)
    ),
    "heads that do not divide": Case(
        train(**SITES, categorical_fusion="cross_attention", cross_attn_heads=3),
        ("--embedding-dim 8 is not a multiple of --cross-attn-heads 3",),
    ),
    "rate of nothing": Case(train(categorical_lr=0.1), ("--categorical-lr 0.1 only has an effect with",)),
    "hierarchy without columns": Case(
        train(categorical_hierarchy="site=region"), ("--categorical-hierarchy .*--categorical-columns",)
    ),
    "hierarchy of one word": Case(train(**SITES, categorical_hierarchy="site"), ("site: write CHILD=PARENT",)),
    "hierarchy in a circle": Case(
        train(**SITES, categorical_hierarchy="site=region,region=site"),
        ("goes in a circle: ", "leave one of these out"),
    ),
    "two parents of a column": Case(
        train(**SITES, categorical_hierarchy="site=region,site=habitat"), ("site two parents, region and habitat",)
    ),
    "hierarchy of other columns": Case(
        train(categorical_columns="habitat", categorical_hierarchy="site=region"),
        ("site is neither one of --categorical-columns", "add it"),
    ),
    "parent absent": Case(train(**SITES, categorical_hierarchy="site=county"), ("no column 'county'",)),
    "hierarchy file missing": Case(
        train(**SITES, categorical_hierarchy="h.json"), ("--categorical-hierarchy h.json: no such file",)
    ),
    "hierarchy file is a list": Case(
        train(**SITES, categorical_hierarchy="h.json"), ("h.json",), (write("h.json", '["site", "region"]'),)
    ),
    "hierarchy of numbers": Case(
        train(**SITES, categorical_hierarchy="h.json"),
        ("h.json: 'site' has the parent 3", '"child": "parent"'),
        (write("h.json", '{"site": 3}'),),
    ),
    "value under two parents": Case(
        train(categorical_columns="subject", categorical_hierarchy="subject=habitat"),
        ("subject .subject01. is under 3 parents", r"gut. \(1 sample\)", "correct the metadata"),
    ),
    "gate of no hierarchy": Case(
        train(**SITES, hierarchy_combine="gated"), ("--hierarchy-combine gated only has an effect with",)
    ),
    "categories but no metadata": Case(
        predict(checkpoint="attentive"), (r"the model reads columns of the metadata \(site, habitat\)", "--metadata")
    ),
    "categories of a new table absent": Case(
        predict(checkpoint="attentive", metadata="metadata.tsv"),
        ("no column 'site'", "needs site, habitat of new samples too"),
        (replace("metadata.tsv", "\tsite\t", "\tplace\t", 1),),
    ),
}

AUGMENTATION = {
    "all ASVs left out": Case(pretrain(asv_dropout=1), ("'--asv-dropout': 1.0 is not in the range 0<=x<1",)),
    "depth jitter below zero": Case(
        _command("find-lr", table="table.biom", tree="tree.nwk", output_dir="out", depth_jitter=-0.1),
        ("'--depth-jitter': -0.1 is not in the range 0<=x<1",),
    ),
    "noise as a percentage": Case(train(sequence_noise=5), ("'--sequence-noise': 5.0 is not in the range 0<=x<1",)),
    "noise of what is embedded once": Case(
        train(sequence_noise=0.01, pretrained_encoder="pretrained", freeze_base=True),
        ("--sequence-noise 0.01 has no effect with --freeze-base", "drop one"),
    ),
    "embeddings kept of an encoder that learns": Case(
        train(embedding_cache="kept", pretrained_encoder="pretrained"),
        ("--embedding-cache kept only has an effect with --freeze-base",),
    ),
    "steps cut by number and by memory": Case(
        pretrain(batch_size="auto", accumulation_steps=2),
        ("--accumulation-steps 2 and --batch-size auto", "give --target-effective-batch-size"),
    ),
    "samples of a step twice": Case(
        pretrain(target_effective_batch_size=64),
        ("--target-effective-batch-size 64 only has an effect with --batch-s",),
    ),
    "fraction of the memory without choosing by it": Case(
        train(max_memory_fraction=0.5), ("--max-memory-fraction 0.5 only has an effect with --batch-size auto",)
    ),
    "fraction of the memory and a budget": Case(
        pretrain(batch_size="auto", max_memory_fraction=0.5, max_memory_gb=1),
        ("--max-memory-fraction 0.5 only has an effect with --batch-size auto and without --max-memory-gb",),
    ),
    "more than the whole memory": Case(
        pretrain(batch_size="auto", max_memory_fraction=1.5),
        ("'--max-memory-fraction': 1.5 is not in the range 0<x<=1",),
    ),
    "no memory": Case(pretrain(max_memory_gb=0), ("'--max-memory-gb': 0.0 is not in the range x>0",)),
    "too little memory for a sample": Case(
        pretrain(max_memory_gb=1e-5),
        ("training samples take more memory than the 0.00 GB", "each by itself: S00", "a larger --max-memory-gb"),
    ),
    "too little memory to estimate within": Case(
        [
            *_command("estimate", ("train",), table="table.biom", metadata="metadata.tsv", metadata_column="acidity"),
            "--no-freeze-base",
            "--max-memory-gb",
            "1e-5",
        ],
        ("training samples take more memory than the 0.00 GB", "--max-asvs or --rarefy-depth"),
    ),
    "batch size in words": Case(pretrain(batch_size="many"), ("--batch-size", "many")),
    "batch of nothing": Case(train(batch_size=0), ("--batch-size", "0")),
    "a learning rate for batches of the free memory": Case(
        _command("find-lr", table="table.biom", tree="tree.nwk", output_dir="out", batch_size="auto"),
        ("--batch-size auto: find-lr measures no memory", "give their number"),
    ),
    "a memory profile of threads": Case(
        pretrain(memory_profile=True, data_parallel=True),
        ("--memory-profile follows one pass at a time", "--distributed"),
    ),
    "embeddings kept of layers in half precision": Case(
        train(
            embedding_cache="kept", pretrained_encoder="encoder", freeze_base=True, fsdp=True, fsdp_mixed_precision=True
        ),
        ("--embedding-cache", "--fsdp-mixed-precision would round", "--mixed-precision bf16"),
    ),
    "embeddings kept in a file": Case(
        train(embedding_cache="table.biom", pretrained_encoder="pretrained", freeze_base=True),
        ("--embedding-cache table.biom is a file; name a folder",),
    ),
    "embeddings of a prediction kept in a file": Case(
        predict(embedding_cache="table.biom"), ("--embedding-cache table.biom is a file; name a folder",)
    ),
    "mixing of samples without classes": Case(
        train(mix_samples=0.5), ("--mix-samples 0.5 mixes samples of equal label", "--classifier")
    ),
    "mixing oftener than always": Case(
        train(mix_samples=1.5, metadata_column="habitat", classifier=True),
        ("'--mix-samples': 1.5 is not in the range 0<=x<=1",),
    ),
    "mixing in pretraining": Case(pretrain(mix_samples=0.5), ("No such option.*--mix-samples",)),
    "dropout of other kind in the file": Case(
        pretrain(config="o.toml"),
        ("o.toml: asv-dropout = 'half': .*number",),
        (write("o.toml", "asv-dropout = 'half'"),),
    ),
}

SEVERAL = "acidity,day"
QUANTILES = {"target_loss": "quantile"}
BY_CLASS = {"metadata_column": "habitat", "classifier": True, "class_weights": "w.json"}
BY_CATEGORY = {"categorical_loss_weights": "w.json"}

TARGETS_OF_EVERY_KIND = {
    "one of several columns absent": Case(train(metadata_column="acidity,dya"), ("no column 'dya'", "acidity")),
    "one of several columns is text": Case(
        train(metadata_column="acidity,habitat"), ("column 'habitat' is not numeric: '.*' .sample S00",)
    ),
    "one of several columns constant": Case(
        train(metadata_column="acidity,same"),
        ("--metadata-column same: the target is 3.0 in all .* training samples", "choose another column"),
        (column("same", lambda _: "3"),),
    ),
    "column to predict twice": Case(train(metadata_column="day,day"), ("--metadata-column names day twice",)),
    "classes of several columns": Case(
        train(metadata_column="habitat,health", classifier=True),
        ("--classifier predicts one column, and --metadata-column names habitat, health: train a model for each",),
    ),
    "loss unknown": Case(train(target_loss="l2"), ("--target-loss l2: no loss is named 'l2'; known are huber, mse",)),
    "loss of another column": Case(
        train(metadata_column=SEVERAL, target_loss="acidity=mse,ph=mae"), ("ph=mae: ph is not a --metadata-column",)
    ),
    "two losses": Case(
        train(metadata_column=SEVERAL, target_loss=("day=mse", "day=mae")), ("--target-loss gives two losses for day",)
    ),
    "quantiles of another loss": Case(
        train(metadata_column=SEVERAL, target_loss="day=mse", quantiles="0.1,0.5"),
        ("--quantiles .* only has an effect with --target-loss quantile",),
    ),
    "quantiles without the median": Case(
        train(**QUANTILES, quantiles="0.1,0.9"), ("--quantiles 0.1,0.9: give rising levels .*0.5 .*among them",)
    ),
    "quantiles that fall": Case(train(**QUANTILES, quantiles="0.9,0.5"), ("--quantiles 0.9,0.5: give rising levels",)),
    "quantile of all": Case(train(**QUANTILES, quantiles="0.5,1"), ("--quantiles 1: .*less than 1",)),
    "quantile is a word": Case(train(**QUANTILES, quantiles="half"), ("--quantiles half: .*valid number",)),
    "quantile is a word in the file": Case(
        train(**QUANTILES, config="o.toml"),
        ("o.toml: quantiles = .*number.*--quantiles: What the quantile loss predicts",),
        (write("o.toml", 'quantiles = "0.1,half"'),),
    ),
    "penalty of another loss": Case(
        train(over_penalty=2), ("--over-penalty 2.0 only has an effect with --target-loss asymmetric",)
    ),
    "penalty of nothing": Case(
        train(target_loss="asymmetric", under_penalty=0), ("'--under-penalty': 0.0 is not in the range x>0",)
    ),
    "bounded and activated": Case(
        train(bounded_targets=True, output_activation="relu"),
        ("--bounded-targets and --output-activation relu exclude each other", "are never negative anyway"),
    ),
    "activated classes": Case(
        train(metadata_column="habitat", classifier=True, output_activation="exp"),
        ("--output-activation exp .*--classifier predicts classes: drop one",),
    ),
    "bounded classes": Case(
        train(metadata_column="habitat", classifier=True, bounded_targets=True),
        ("--bounded-targets True .*--classifier predicts classes: drop one",),
    ),
    "scaled classes": Case(
        train(metadata_column="habitat", classifier=True, learnable_output_scale=True),
        ("--learnable-output-scale True .*--classifier predicts classes: drop one",),
    ),
    "classes scaled by category": Case(
        train(metadata_column="habitat", classifier=True, conditional_output_scaling="site"),
        ("--conditional-output-scaling scales numbers, and --classifier predicts classes: drop one",),
    ),
    "activation unknown": Case(train(output_activation="tanh"), ("'tanh' is not one of 'none', 'relu', 'softplus'",)),
    "activation of negative numbers": Case(
        train(metadata_column="acidity,signed", output_activation="softplus"),
        ("--output-activation softplus predicts nothing negative", "'signed'", "S0006 .-5", "leave the option out"),
        (column("signed", str), replace("metadata.tsv", "\t5\n", "\t-5\n")),
    ),
    "bounds that the target leaves": Case(
        train(bounded_targets=True),
        ("--bounded-targets predicts between 0 and 1, and column 'acidity' has other values: samples S0001", "divide"),
    ),
    "bounded and transformed": Case(
        train(bounded_targets=True, target_transform="zscore"),
        ("--bounded-targets .*--target-transform zscore would move these ends: drop one",),
    ),
    "normalized by no column": Case(
        train(normalize_by="reigon"), ("no column 'reigon'; did you mean region", "columns: subject")
    ),
    "normalized by the target": Case(
        train(normalize_by="region,acidity"), ("--normalize-by acidity: that is the column to predict",)
    ),
    "normalized on another scale": Case(
        train(normalize_by="region", target_transform="minmax"),
        ("--normalize-by .*--target-transform is minmax: use zscore or log-zscore",),
    ),
    "normalized and activated": Case(
        train(normalize_by="region", output_activation="relu"),
        ("--normalize-by shifts .*--output-activation relu needs zero to be the same for all: drop one",),
    ),
    "smoothed numbers": Case(train(label_smoothing=0.1), ("--label-smoothing 0.1 only has an effect with --classif",)),
    "smoothed away": Case(
        train(metadata_column="habitat", classifier=True, label_smoothing=1), ("'--label-smoothing': 1.0 is not in",)
    ),
    "metric of another target": Case(
        train(metadata_column=SEVERAL, best_metric="val/r2_ph"), ("val/r2_ph", "val/r2_day")
    ),
    "class weights missing": Case(train(**BY_CLASS), ("--class-weights w.json", "no such file")),
    "class weights of another class": Case(
        train(**BY_CLASS), ("--class-weights w.json", "gutt"), (write("w.json", '{"gutt": 2}'),)
    ),
    "class weight negative": Case(
        train(**BY_CLASS),
        ("--class-weights w.json: the weight of 'gut' is -1; weights are finite, 0 or more",),
        (write("w.json", '{"gut": -1}'),),
    ),
    "class weights are no JSON": Case(
        train(**BY_CLASS), ("--class-weights", "w.json", "JSON"), (write("w.json", "gut: 2"),)
    ),
    "weights of no category": Case(
        train(categorical_loss_weights="auto"), ("--categorical-loss-weights auto needs --categorical-loss-weight-col",)
    ),
    "weights of a column that is absent": Case(
        train(categorical_loss_weights="auto", categorical_loss_weight_column="siet"), ("no column 'siet'",)
    ),
    "weights of a column given twice": Case(
        train(categorical_loss_weights="auto", categorical_loss_weight_column="site,site"), ("site twice",)
    ),
    "column of no weights": Case(
        train(categorical_loss_weight_column="site"), ("only has an effect with --categorical-loss-weights",)
    ),
    "weights of an unknown category": Case(
        train(**BY_CATEGORY), ("w.json", "moor"), (write("w.json", '{"region": {"moor": 2}}'),)
    ),
    "weights of an unknown column": Case(
        train(**BY_CATEGORY), ("no column 'reigon'",), (write("w.json", '{"reigon": {"coast": 2}}'),)
    ),
    "weight is a word": Case(
        train(**BY_CATEGORY),
        ("w.json.*region.*the weight of 'coast' is 'two'; a number is wanted",),
        (write("w.json", '{"region": {"coast": "two"}}'),),
    ),
    "weights without columns": Case(train(**BY_CATEGORY), ("no column 'coast'",), (write("w.json", '{"coast": 2}'),)),
    "weights without categories": Case(
        train(**BY_CATEGORY),
        ('w.json.*region.*."category": weight. is wanted, not 2',),
        (write("w.json", '{"region": 2}'),),
    ),
    "weights that leave nothing": Case(
        train(**BY_CATEGORY),
        ("w.json.*region.*all weights are 0; some samples must count",),
        (write("w.json", '{"region": {"coast": 0, "hills": 0, "plain": 0}}'),),
    ),
    "beta without its weights": Case(train(effective_beta=0.9), ("--effective-beta 0.9 only has an effect with",)),
    "beta of 1": Case(
        train(categorical_loss_weights="effective", categorical_loss_weight_column="site", effective_beta=1),
        ("'--effective-beta': 1.0 is not in the range 0<=x<1",),
    ),
}

UNDIVIDED = {"folds": None, "repeats": None}
"""Where folds are given, not drawn."""

EVALUATIONS = {
    "learner unknown": Case(evaluate(learners="clade"), ("no learner 'clade'", "clades")),
    "learner twice": Case(evaluate(learners="clades,clades"), ("--learners names clades twice",)),
    "one file of options": Case(evaluate(configs="a.toml"), ("--configs a.toml leaves no choice: give --config",)),
    "file of options missing": Case(evaluate(configs="a.toml,b.toml"), ("--configs a.toml: cannot be read",)),
    "options of no learner": Case(
        evaluate(configs="a.toml,b.toml"),
        ("--configs b.toml: epochs is no option of learners; known are trees",),
        (write("a.toml", "trees = 3"), write("b.toml", "epochs = 3")),
    ),
    "option of a learner out of range": Case(
        evaluate(configs="a.toml,b.toml"),
        ("--trees 0: .*greater than 0",),
        (write("a.toml", "trees = 3"), write("b.toml", "trees = 0")),
    ),
    "learner of no known package": Case(evaluate(with_="catboost"), ("--with catboost: known are lightgbm, xgboost",)),
    "learner of a package twice": Case(evaluate(with_="lightgbm,lightgbm"), ("--with names lightgbm twice",)),
    **{
        f"{name}, which is not installed": Case(
            evaluate(with_=name), (f"--with {name}: it is not installed here: pip install {name}",)
        )
        for name in OUTSIDE
        if find_spec(name) is None
    },
    "training of a learner of a package": Case(learn(learner="lightgbm"), ("--learner", "lightgbm")),
    "no learner": Case(evaluate(learners=","), ("--learners is empty",)),
    "clades without a tree": Case(evaluate(tree=None), ("clades", "give --tree")),
    "tree without the tips of the evaluation": Case(
        evaluate(tree="t.nwk"), ("the tree has no tip for",), (write("t.nwk", "(a:1,b:1);"),)
    ),
    "evaluation without metadata": Case(evaluate(metadata=None), ("--metadata is needed",)),
    "evaluation of an absent column": Case(evaluate(metadata_column="acid"), ("no column 'acid'", "acidity")),
    "evaluation of several columns": Case(
        evaluate(metadata_column="acidity,day"), ("acidity,day: an evaluation is of one column; run one for each",)
    ),
    "evaluation of text": Case(evaluate(metadata_column="habitat"), ("'habitat' is not numeric", "--classifier")),
    "one fold": Case(evaluate(folds=1), ("'--folds': 1 is not in the range x>=2",)),
    "more folds than groups": Case(evaluate(folds=9), ("--folds 9: there are 8 groups to divide; give --folds 8 or",)),
    "more folds than samples": Case(
        evaluate(folds=25, cv="kfold", allow_random_split=True), ("--folds 25: there are 24 samples to divide",)
    ),
    "class in too few groups": Case(
        evaluate(metadata_column="rare", classifier=True),
        ("--folds 2: every class .* groups.* in fewer: odd .1.; leave them out with --where",),
        (column("rare", lambda number: "odd" if number == 0 else "even"),),
    ),
    "class of one group left out": Case(
        evaluate(metadata_column="rare", classifier=True, cv="leave-one-group-out", **UNDIVIDED),
        (r"fold 1\.\d holds out all samples of class odd", "--where"),
        (column("rare", lambda number: "odd" if number == 0 else "even"),),
    ),
    "target constant in an evaluation": Case(
        evaluate(metadata_column="same"),
        ("--metadata-column same: the target is 3.0 in all 24", "choose another column"),
        (column("same", lambda _: "3"),),
    ),
    "target constant in one training": Case(
        evaluate(metadata_column="nearly", test_column="side", group_column=None, **UNDIVIDED),
        (r"fold 1\.1 cannot be learned from its training samples", "the target is 3.0 in all 12"),
        (
            column("nearly", lambda n: "3" if n < 12 else str(n)),
            column("side", lambda n: "train" if n < 12 else "test"),
        ),
    ),
    "folds of an absent column": Case(evaluate(fold_column="part", **UNDIVIDED), ("no column 'part'",)),
    "fold missing": Case(
        evaluate(fold_column="part", group_column=None, **UNDIVIDED),
        ("--fold-column 'part' is empty for samples S0001: fill in",),
        (column("part", lambda number: str(number % 3) if number else ""),),
    ),
    "folds of one value": Case(
        evaluate(fold_column="part", **UNDIVIDED),
        ("--fold-column 'part' has one value, 'a'",),
        (column("part", lambda _: "a"),),
    ),
    "folds that divide groups": Case(
        evaluate(fold_column="part", **UNDIVIDED),
        ("--fold-column 'part' puts groups on several sides: subject0", "drop --group-column"),
        (column("part", lambda number: f"p{number % 3}"),),
    ),
    "folds given and drawn": Case(
        evaluate(fold_column="habitat", repeats=None), ("--folds 2 only has an effect with folds that are drawn",)
    ),
    "folds given twice": Case(
        evaluate(fold_column="habitat", test_column="site", **UNDIVIDED),
        ("--fold-column and --test-column exclude each other",),
    ),
    "test of one side": Case(
        evaluate(test_column="side", **UNDIVIDED),
        ("--test-column 'side' says test for no sample",),
        (column("side", lambda _: "train"),),
    ),
    "test of other words": Case(
        evaluate(test_column="habitat", **UNDIVIDED), ("'habitat' should say train or test .*it says gut",)
    ),
    "groups of an absent column": Case(evaluate(group_column="person"), ("no column 'person'",)),
    "group missing": Case(
        evaluate(group_column="who"),
        ("--group-column 'who' is empty for samples S0001: fill in or leave out",),
        (column("who", lambda number: f"w{number % 8}" if number else ""),),
    ),
    "group that is the target": Case(
        evaluate_classes(group_column="habitat"), ("--group-column habitat: that is the column to predict",)
    ),
    "scheme of groups without groups": Case(evaluate(cv="group", group_column=None), ("--cv group .*--group-column",)),
    "gap without groups": Case(evaluate(gap=True, group_column=None), ("--gap compares .*: give --group-column",)),
    "gap of a random split": Case(evaluate(gap=True, cv="kfold"), ("--gap .*--cv kfold is random: drop one",)),
    "random split of groups": Case(
        evaluate(cv="kfold"), ("--cv kfold would divide groups of several samples .subject", "--allow-random-split")
    ),
    "random split of subjects": Case(
        evaluate(group_column=None), ("subject looks like a column of subjects", "--allow-random-split")
    ),
    "fold out of range": Case(evaluate(only_fold="3"), (r"--only-fold 3: folds are 1\.1 to 1\.2, or 1 to 2",)),
    "fold of no repeat": Case(evaluate(only_fold="2.1"), (r"--only-fold 2\.1: folds are 1\.1 to 1\.2",)),
    "fold in words": Case(evaluate(only_fold="first"), (r"--only-fold first: give REPEAT\.FOLD",)),
    "nothing to collect": Case(evaluate(collect=True), ("out holds no run",)),
    "evaluation not there to resume": Case(evaluate(resume=True), ("--resume: out holds no run",)),
    "evaluation resumed with other options": Case(
        evaluate(resume=True, output_dir="evaluated", folds=3), ("--resume: evaluated", r"--folds \(was 2, now 3\)")
    ),
    "evaluation resumed with other data": Case(
        evaluate(resume=True, output_dir="evaluated", tree="tree.nwk"),
        ("--resume: .*main-1.1.json is of other data", "--overwrite"),
        (replace("metadata.tsv", "subject01", "subject09"),),
    ),
    "evaluation in the folder of a training": Case(
        evaluate(output_dir="trained", overwrite=True), ("--overwrite: trained holds no run of this command",)
    ),
    "a fold in the folder of a training": Case(
        evaluate(output_dir="trained", only_fold="1"), ("trained holds no run of this command",)
    ),
    "evaluation resumed and overwritten": Case(evaluate(resume=True, overwrite=True), ("--resume .*--overwrite",)),
    "batch that is the target": Case(
        evaluate(batch_column="acidity"), ("--batch-column acidity: that is the column to predict",)
    ),
    "batch that is the target by another name": Case(
        evaluate_classes(batch_column="place"),
        ("--batch-column place is habitat by another name",),
        (column("place", lambda _: "x"), _copy_column("habitat", "place")),
    ),
    "batch of one value": Case(
        evaluate(batch_column="run"), ("--batch-column run has one value, 'a'",), (column("run", lambda _: "a"),)
    ),
    "batch of an absent column": Case(evaluate(batch_column="plate"), ("no column 'plate'",)),
    "deeper than any sample": Case(
        evaluate(rarefy_depth=10**6), ("--rarefy-depth 1000000: 0 of 24 samples have so many reads", "or auto")
    ),
    "depth in words": Case(evaluate(rarefy_depth="deep"), ("--rarefy-depth", "deep")),
    "no draw": Case(evaluate(rarefy_draws=0), ("'--rarefy-draws': 0 is not in the range x>0",)),
}

ENSEMBLE = {"learner": "ensemble", "trees": 3}

LEARNERS = {
    "learner that there is not": Case(learn(learner="clade"), ("--learner", "clade")),
    "learner without its tree": Case(learn(tree=None), ("the learner clades reads clades .*: give --tree",)),
    "ensemble without its tree": Case(
        learn(**ENSEMBLE, tree=None, ensemble_members="clades"), ("all members of the ensemble .clades.*give --tree",)
    ),
    "epochs of a learner": Case(learn(epochs=3), ("--epochs 3 only has an effect with another --learner than clades",)),
    "kernel options of clades": Case(learn(kernel_steps=3), ("--kernel-steps 3 only has an effect with another",)),
    "trees of the network": Case(train(trees=3), ("--trees 3 only has an effect with another --learner than neural",)),
    "draws of the network": Case(train(rarefy_draws=5), ("--rarefy-draws 5 only has an effect with another",)),
    "encoder of a learner": Case(
        learn(pretrained_encoder="pretrained"), ("--pretrained-encoder pretrained only has an effect",)
    ),
    "epochs of an ensemble without the network": Case(
        learn(**ENSEMBLE, epochs=3), ("--epochs 3 only .* --learner neural, or neural among --ensemble-members",)
    ),
    "encoder of an ensemble that is none": Case(
        learn(**ENSEMBLE, ensemble_members="linear,neural", pretrained_encoder="trained"), ("trained", "aam pretrain")
    ),
    "encoder that is a learner": Case(
        train(pretrained_encoder="forest"), ("was written by `aam train --learner`", "`aam pretrain`")
    ),
    "learner resumed": Case(learn(resume=True), ("--resume True only has an effect with another --learner",)),
    "learner without baselines": Case(
        [*learn(), "--no-baselines"], ("--no-baselines is for the network: `aam evaluate`",)
    ),
    "learner of several processes": Case(
        learn(), ("--learner clades is fitted by one process: start it without torchrun",), (several_processes,)
    ),
    "no members": Case(learn(**ENSEMBLE, ensemble_members=","), ("--ensemble-members: no learner is named",)),
    "member that there is not": Case(
        learn(**ENSEMBLE, ensemble_members="clades,trees"), ("--ensemble-members: trees is no learner; known are null",)
    ),
    "ensemble of ensembles": Case(
        learn(**ENSEMBLE, ensemble_members="clades,ensemble"), ("--ensemble-members: ensemble is no learner",)
    ),
    "member twice": Case(
        learn(**ENSEMBLE, ensemble_members="clades,clades"), ("--ensemble-members clades,clades names a learner twice",)
    ),
    "no trees": Case(learn(trees=0), ("'--trees': 0 is not in the range x>0",)),
    "prevalence above one": Case(learn(min_prevalence=2), ("'--min-prevalence': 2.0 is not in the range",)),
    "learner of a constant": Case(learn(metadata_column="one"), ("the target is 1",), (column("one", lambda _: "1"),)),
    "deeper than any sample of a learner": Case(learn(rarefy_depth=10**6), ("no sample is left: fewer reads",)),
    "cache of a learner": Case(
        predict(checkpoint="forest", embedding_cache="cache"), ("--embedding-cache is for the network", "forest")
    ),
    "embeddings of a learner": Case(
        embed(checkpoint="forest"), ("the model is a learner of the kind forest, which has no embeddings",)
    ),
    "explanation of a learner": Case(explain(checkpoint="forest"), ("the model is a learner of the kind forest",)),
    "only unknown ASVs": Case(
        predict(checkpoint="forest", table="t.tsv"),
        ("none of the 1 ASVs of the table is known to the model, which was fitted to", "same region"),
        (table(f"{SEQUENCES[0]} 1 2 3"),),
    ),
    "automatic depth of the network": Case(
        train(rarefy_depth="auto"), ("--rarefy-depth auto is of other learners: give the network a number",)
    ),
    "automatic depth of pretraining": Case(pretrain(rarefy_depth="auto"), ("'--rarefy-depth': 'auto' is not a valid",)),
    "depth of a learner in words": Case(learn(rarefy_depth="deep"), ("--rarefy-depth", "deep")),
    "automatic depth without a target": Case(
        learn(metadata_column="nothing", rarefy_depth="auto"), ("nothing",), (column("nothing", lambda _: ""),)
    ),
    "tree of a model that reads ASVs alone": Case(
        predict(checkpoint="forest", tree="tree.nwk"), ("--tree puts new ASVs on branches .*forest. reads ASVs alone",)
    ),
    "tree of the network": Case(
        predict(tree="tree.nwk"), ("--tree .*the network reads their sequences: leave it out",)
    ),
    "root of no tree": Case(predict(checkpoint="clades", root="midpoint"), ("--root midpoint only .* with --tree",)),
    "tree without the ASVs of training": Case(
        predict(checkpoint="clades", tree="t.nwk"),
        ("--tree has no tip for .* ASVs that the model was fitted to: .*tips are named like a, b", "both studies"),
        (write("t.nwk", "(a:1,b:1);"),),
    ),
    "tree of training without a root": Case(
        predict(checkpoint="clades", tree="t.nwk"), ("t.nwk: not rooted",), (write("t.nwk", UNROOTED),)
    ),
    "tree that joins the ASVs of training otherwise": Case(
        predict(checkpoint="clades", tree="t.nwk"),
        ("--tree joins the ASVs of the training study in another way", "such as the one above", "root in the same"),
        (star_tree("t.nwk"),),
    ),
    "tree of embeddings": Case(embed(tree="tree.nwk"), ("No such option '--tree'",)),
    "options of the network without it": Case(
        evaluate(epochs=3), ("--epochs 3 only has an effect with neural among --learners or --ensemble-members",)
    ),
    "encoder of another shape in an evaluation": Case(
        evaluate(learners="neural", pretrained_encoder="pretrained", embedding_dim=16),
        ("--embedding-dim 16 .pretrained with 8.",),
    ),
    "encoder of an evaluation that is a learner": Case(
        evaluate(learners="neural", pretrained_encoder="forest"), ("was written by `aam train --learner`",)
    ),
}

KERNEL = {"learner": "kernel", "numeric_columns": "day"}
SOURCES = {
    "number absent": Case(learn(learner="kernel", numeric_columns="dya"), ("no column 'dya'", "did you mean day")),
    "number twice": Case(learn(learner="kernel", numeric_columns="day,day"), ("--numeric-columns names day twice",)),
    "number that is text": Case(
        learn(learner="kernel", numeric_columns="site"), ("column 'site' is not numeric", "--categorical-columns")
    ),
    "number that is the target": Case(
        learn(learner="kernel", numeric_columns="acidity"),
        ("--numeric-columns acidity: that is the column to predict",),
    ),
    "number without values": Case(
        learn(learner="kernel", numeric_columns="none"),
        ("--numeric-columns none: it has no value in any of the", "leave it out"),
        (column("none", lambda _: ""),),
    ),
    "numbers for the network": Case(
        train(numeric_columns="day"),
        ("--numeric-columns day only has an effect with --learner kernel", "the network takes categories alone"),
    ),
    "numbers for clades": Case(
        learn(numeric_columns="day"), ("--numeric-columns day only has an effect with --learner kernel",)
    ),
    "numbers for an ensemble without the kernel": Case(
        learn(learner="ensemble", ensemble_members="clades,linear", numeric_columns="day"),
        ("--numeric-columns day only .* ensemble with kernel among --ensemble-members",),
    ),
    "categories for clades": Case(
        learn(categorical_columns="site"), ("--categorical-columns site only .* --learner kernel.*--learner neural",)
    ),
    "fusion of the kernel": Case(
        learn(**KERNEL, categorical_columns="site", categorical_fusion="add"),
        ("--categorical-fusion add only has an effect with another --learner than kernel",),
    ),
    "category absent for the kernel": Case(learn(**KERNEL, categorical_columns="sitee"), ("no column 'sitee'",)),
    "category that is the target of the kernel": Case(
        learn(learner="kernel", metadata_column="health", classifier=True, categorical_columns="health"),
        ("--categorical-columns health: that is the column to predict",),
    ),
    "target told to the kernel by a child": Case(
        learn(learner="kernel", metadata_column="region", classifier=True, **BY_REGION),
        ("--categorical-hierarchy site=region: region is the column to predict",),
    ),
    "hierarchy of the kernel under two parents": Case(
        learn(learner="kernel", categorical_columns="subject", categorical_hierarchy="subject=habitat"),
        ("subject .subject01. is under 3 parents",),
    ),
    "encoder of the kernel that is none": Case(
        learn(**KERNEL, pretrained_encoder="trained"), ("trained", "aam pretrain")
    ),
    "frozen encoder of the kernel": Case(
        [*learn(**KERNEL, pretrained_encoder="pretrained"), "--freeze-base"], ("--freeze-base",)
    ),
    "kernel without its metadata": Case(
        predict(checkpoint="kernel"), (r"the model reads columns of the metadata \(site, day\)", "give --metadata")
    ),
    "kernel without a column": Case(
        predict(checkpoint="kernel", metadata="metadata.tsv"),
        ("no column 'day'",),
        (replace("metadata.tsv", "\tday\t", "\tnight\t", 1),),
    ),
    "kernel with words for numbers": Case(
        predict(checkpoint="kernel", metadata="m.tsv"),
        ("column 'day' is not numeric: 'monday'",),
        (write("m.tsv", "sample-id\tsite\tday\nS0001\tcoast1\tmonday\n"),),
    ),
    "evaluation told its target": Case(
        evaluate(learners="kernel", numeric_columns="acidity"), ("--numeric-columns acidity: that is the column to pr",)
    ),
    "evaluation told its target by a child": Case(
        evaluate(learners="kernel", metadata_column="region", classifier=True, **BY_REGION),
        ("make kernel read region: that is the column to predict",),
    ),
    "evaluation with an absent column": Case(
        evaluate(learners="kernel", categorical_columns="sitee"), ("no column 'sitee'",)
    ),
    "columns of an evaluation without the kernel": Case(
        evaluate(numeric_columns="day"),
        ("--numeric-columns day only has an effect with kernel among --learners or --ensemble-members",),
    ),
    "encoder of an evaluation without reader": Case(
        evaluate(pretrained_encoder="pretrained"), ("--pretrained-encoder .* kernel or neural among --learners",)
    ),
}

CASES = {
    **LEARNERS,
    **SOURCES,
    **AUGMENTATION,
    **EVALUATIONS,
    **TABLES,
    **TREES,
    **TAXONOMY,
    **METADATA,
    **CATEGORIES,
    **TARGETS,
    **TARGETS_OF_EVERY_KIND,
    **SPLITS,
    **MATRICES,
    **CHECKPOINTS,
    **OUTPUTS,
    **OPTIONS,
    **EXPLAIN,
}


def _leave(words: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(words)
    return left.value.code


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """A study of 24 samples, an encoder pretrained and a regressor trained on it, and two more folders."""
    folder = tmp_path_factory.mktemp("bad-input")
    config = SimulateConfig(directory=folder, samples=24, asvs=40, bp=30, depth=300, subjects=8)
    write_study(simulate_study(config), folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _leave(pretrain(output_dir="pretrained")) == 0
        assert _leave(train(output_dir="trained")) == 0
        categories = {"categorical_columns": "site,habitat", "categorical_fusion": "cross_attention"}
        assert _leave(train(output_dir="attentive", **categories)) == 0
        assert _leave(evaluate(output_dir="evaluated")) == 0
        assert _leave(learn(output_dir="forest", learner="forest", trees=3)) == 0
        assert _leave(learn(output_dir="kernel", **KERNEL, categorical_columns="site")) == 0
        assert _leave(learn(output_dir="clades", trees=3)) == 0
        assert _leave(predict()) == 0
        Path("p.tsv").unlink()
        Path("empty").mkdir()
        Path("photos").mkdir()
        Path("photos/cat.jpg").write_bytes(b"cat")
    return folder


def _contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_refused_with_one_message(case, study, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "study"
    shutil.copytree(study, folder, symlinks=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.delenv("WORLD_SIZE")  # what a case sets is forgotten after it
    for damage in case.damages:
        damage()
    before = _contents(folder)
    assert _leave(case.words) == 2
    shown = capsys.readouterr()
    errors = [line for line in shown.err.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1, shown.err
    assert "Traceback" not in shown.err
    assert len(errors[0]) < 700
    for pattern in case.says:
        assert re.search(pattern, errors[0]), f"{pattern!r} is not in {errors[0]!r}"
    assert _contents(folder) == before


def test_a_sample_without_reads_is_left_out_and_named(study, tmp_path, monkeypatch, capsys):
    """Real tables hold such blanks: they are no error, but neither are they dropped silently."""
    folder = tmp_path / "study"
    shutil.copytree(study, folder, symlinks=True)
    monkeypatch.chdir(folder)
    table(f"{SEQUENCES[0]} 0 5", header="#OTU ID blank s2")()
    assert _leave(pretrain(table=("table.biom", "t.tsv"), tree=None, unifrac_weight=0)) == 0
    assert "left out 1 of 26 samples, no reads: blank" in capsys.readouterr().err


def test_there_are_enough_cases():
    assert len(CASES) >= 45
