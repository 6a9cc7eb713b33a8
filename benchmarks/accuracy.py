"""How well each learner predicts new groups, on real studies: `aam evaluate` for each row, and the table of all.

Every row is one command, which is printed; its folder keeps folds that are done, so that a run can be killed and
started again. The table is made of the folders that are there, also by a run that names no row.

    python benchmarks/accuracy.py results --data STUDIES --rows ecam-month mackerel-site
    python benchmarks/accuracy.py results --data STUDIES --rows all --jobs 2
    python benchmarks/accuracy.py results --data STUDIES --rows amazon-village --networks   # the network
    python benchmarks/accuracy.py results --table docs/accuracy.md

STUDIES has a folder for each study with table.biom, tree.nwk and metadata.tsv (default: AAM_TEST_DATA).
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from aam.data.files.metadata import read_metadata
from aam.data.files.whole_files import write_text
from aam.training.run_folder import RunFolder

LEARNERS = "linear,clades,kernel,ensemble"
SHOWN = ("null", "depth", "linear", "forest", "clades", "kernel", "ensemble")
NETWORKS = {"frozen": [], "fine-tuned": ["--no-freeze-base"]}
"""Options of the network: with a new encoder that stays as it is drawn, or with a pretrained one that learns."""
ENCODER = ["--embedding-dim", "64", "--attention-layers", "1", "--epochs", "40"]
"""Options of the pretraining of an encoder on a study, without labels, held-out samples among its samples."""
FEWEST_STUDIES = 5
"""A class of `emp_2k` must occur in so many studies to be predicted for new ones."""
FIRST_DAYS = 0.8


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    study: str
    column: str
    classifier: bool = False
    group: str | None = None
    where: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    prepare: Callable[[pd.DataFrame], pd.DataFrame] | None = None
    """Adds columns to the metadata, or takes samples away."""

    @property
    def grouped(self) -> bool:
        """Whether whole groups are held out."""
        return self.group is not None and "kfold" not in self.more and "stratified" not in self.more


def in_several_studies(metadata: pd.DataFrame) -> pd.DataFrame:
    """Samples of the classes of empo_2 that occur in at least `FEWEST_STUDIES` studies."""
    studies = metadata.groupby("empo_2")["study_id"].nunique()
    return metadata[metadata["empo_2"].isin(studies.index[studies >= FEWEST_STUDIES])]


def by_month(metadata: pd.DataFrame) -> pd.DataFrame:
    """A column of person and month together."""
    return metadata.assign(person_month=metadata["host_subject_id"] + " " + metadata["month"].astype(str))


def last_days(metadata: pd.DataFrame) -> pd.DataFrame:
    """The last fifth of the days of M3 for a test."""
    days = metadata["days_since_experiment_start"]
    cut = days[metadata["host_subject_id"] == "M3"].quantile(FIRST_DAYS)
    return metadata.assign(side=["train" if day <= cut else "test" for day in days])


CHILDREN = ("mom_child=C",)
RANDOM = ("--allow-random-split",)
ROWS = {
    "ecam-month": Row("ecam", "month_of_life", group="host_subject_id", where=CHILDREN),
    "ecam-delivery": Row("ecam", "delivery", True, "host_subject_id", CHILDREN),
    "mackerel-site": Row("mackerel", "sample_type_body_site", True, "host_subject_id"),
    "mackerel-season": Row("mackerel", "season", True, "host_subject_id"),
    "amazon-village": Row("amazon_houses", "village", True, "house_number"),
    "emp-ph": Row("emp_2k", "ph", group="study_id"),
    "emp-temperature": Row("emp_2k", "temperature_deg_c", group="study_id"),
    "emp-empo2": Row("emp_2k", "empo_2", True, "study_id", prepare=in_several_studies),
    "emp-ph-random": Row("emp_2k", "ph", group="study_id", more=("--cv", "kfold", *RANDOM)),
    "emp-temperature-random": Row("emp_2k", "temperature_deg_c", group="study_id", more=("--cv", "kfold", *RANDOM)),
    "emp-empo3-random": Row("emp_2k", "empo_3", True, "study_id", more=("--cv", "stratified", *RANDOM)),
    "nasopharynx-run": Row("nasopharynx_biomass", "log10_qpcr_16s_pgul", group="miseq_run_nr"),
    "nasopharynx-random": Row("nasopharynx_biomass", "log10_qpcr_16s_pgul"),
    "spain-latitude": Row("spain_oral", "latitude"),
    "moving-site": Row("moving_pictures", "common_sample_site", True, "person_month", prepare=by_month),
    "moving-days": Row(
        "moving_pictures",
        "days_since_experiment_start",
        where=("host_subject_id=M3",),
        more=("--test-column", "side"),
        prepare=last_days,
    ),
}


def command(name: str, row: Row, options: argparse.Namespace, network: str | None = None) -> list[str]:
    """The command of a row, of all learners or of the network alone."""
    data, folder = options.data / row.study, options.results / (f"{name}.{network}" if network else name)
    metadata = data / "metadata.tsv"
    if row.prepare is not None:
        metadata = options.results / f"{name}.metadata.tsv"
        row.prepare(read_metadata(data / "metadata.tsv")).to_csv(metadata, sep="\t")
    words = ["aam", "evaluate", "--table", data / "table.biom", "--tree", data / "tree.nwk", "--metadata", metadata]
    words += [word for condition in row.where for word in ("--where", condition)]
    words += ["--metadata-column", row.column, *(["--classifier"] if row.classifier else [])]
    words += ["--group-column", row.group] if row.group is not None else []
    given = "--test-column" in row.more
    learners = options.learners if network is None else "neural"
    words += ["--learners", learners, *row.more, *([] if given else ["--repeats", options.repeats])]
    if network == "fine-tuned":
        words += ["--pretrained-encoder", pretrained(row.study, options)]
    words += NETWORKS[network] if network is not None else []
    words += ["--jobs", options.jobs, "--output-dir", folder, *(["--resume"] if folder.exists() else [])]
    return [str(word) for word in words]


def pretrained(study: str, options: argparse.Namespace) -> Path:
    """The encoder of a study, pretrained unless it is there."""
    folder: Path = options.results / f"{study}.encoder"
    data = options.data / study
    if not (RunFolder(folder).checkpoints / "best").exists():
        words = ["aam", "pretrain", "--table", data / "table.biom", "--tree", data / "tree.nwk", *ENCODER]
        words += ["--output-dir", folder, *(["--resume"] if folder.exists() else [])]
        call([str(word) for word in words])
    return folder


def call(words: list[str]) -> None:
    """Print a command and run it."""
    print("$", shlex.join(words), flush=True)
    subprocess.run([sys.executable, "-m", "aam.cli", *words[1:]], check=True)


def run(name: str, options: argparse.Namespace, network: str | None = None) -> None:
    """Evaluate one row, and note how long it took."""
    words = command(name, ROWS[name], options, network)
    start = time.monotonic()
    call(words)
    taken = options.results / f"{name}{f'.{network}' if network else ''}.seconds"
    before = json.loads(taken.read_text()) if "--resume" in words and taken.exists() else 0.0
    taken.write_text(json.dumps(before + time.monotonic() - start))


def read(name: str, results: Path) -> dict[str, Any] | None:
    """What the folder of a row says; None where it is not done."""
    path = RunFolder(results / name).evaluation
    return json.loads(path.read_text()) if path.exists() else None


def table(results: Path) -> str:
    """The rows that are done, as Markdown: those first where the ensemble is not better than the forest."""
    found = {name: document for name in ROWS if (document := read(name, results)) is not None}
    lines = {name: (gain(document), line(name, document, results)) for name, document in found.items()}
    missed = [text for name, (better, text) in lines.items() if not better and ROWS[name].grouped]
    rest = [text for name, (better, text) in lines.items() if better and ROWS[name].grouped]
    other = [text for name, (_, text) in lines.items() if not ROWS[name].grouped]
    grouped = len(missed) + len(rest)
    head = [
        f"New groups held out; the ensemble is better than the forest beyond noise on {len(rest)} of {grouped} rows, "
        "and those where it is not stand first.",
        "",
        *header(),
        *missed,
        *rest,
    ]
    return "\n".join([*head, "", "Single samples, or days, held out:", "", *header(), *other, ""])


def header() -> list[str]:
    """The first two lines of a table."""
    networks = [f"network, {network}" for network in NETWORKS]
    columns = ["row", "samples (groups)", "score", *SHOWN, *networks, "ensemble - forest", "minutes"]
    return ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]


def line(name: str, document: dict[str, Any], results: Path) -> str:
    """One row of the table, of counts as they are."""
    metric = "balanced_accuracy" if document["classes"] else "r2"
    scores = {row["learner"]: row for row in document["main"]["scores"] if row["metric"] == metric}
    cells = [interval(scores[learner]) if learner in scores else "" for learner in SHOWN]
    for network in NETWORKS:
        found = read(f"{name}.{network}", results)
        rows = [] if found is None else found["main"]["scores"]
        cells += [interval(row) for row in rows if (row["learner"], row["metric"]) == ("neural", metric)] or [""]
    taken = results / f"{name}.seconds"
    minutes = f"{json.loads(taken.read_text()) / 60:.0f}" if taken.exists() else ""
    difference = against_forest(document)
    shown = "" if difference is None else interval(difference, "+")
    label = metric.replace("_", " ").replace("r2", "R2")
    return (
        "| " + " | ".join([name, f"{document['samples']} ({document['groups']})", label, *cells, shown, minutes]) + " |"
    )


def interval(row: dict[str, Any], sign: str = "") -> str:
    """A value with its interval, where there is one."""
    value = f"{row['value']:{sign}.3f}"
    return value if row["low"] is None else f"{value} ({row['low']:{sign}.2f} to {row['high']:{sign}.2f})"


def against_forest(document: dict[str, Any]) -> dict[str, Any] | None:
    """The difference of the ensemble to the forest in the main score."""
    metric = "balanced_accuracy" if document["classes"] else "r2"
    for row in document["main"]["differences"]:
        if (row["learner"], row["reference"], row["metric"]) == ("ensemble", "forest", metric):
            return {**row, "value": row["difference"]}
    return None


def gain(document: dict[str, Any]) -> bool:
    """Whether the ensemble is better than the forest beyond noise."""
    difference = against_forest(document)
    return difference is not None and difference["low"] is not None and difference["low"] > 0


def main() -> None:
    """Run rows, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="folder for the evaluations; made if absent")
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--rows", nargs="*", default=[], help=f"all, or some of {', '.join(ROWS)}")
    parser.add_argument("--learners", default=LEARNERS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--networks", action="store_true", help="evaluate the network, frozen and fine-tuned, alone")
    parser.add_argument("--table", type=Path, help="write the table into this Markdown file, between its marks")
    options = parser.parse_args()
    names = list(ROWS) if options.rows == ["all"] else options.rows
    unknown = [name for name in names if name not in ROWS]
    if unknown or (names and options.data is None):
        parser.error(f"no row is named {unknown[0]}" if unknown else "set AAM_TEST_DATA or give --data")
    options.results.mkdir(parents=True, exist_ok=True)
    for name in names:
        for network in NETWORKS if options.networks else [None]:
            run(name, options, network)
    print(table(options.results))
    if options.table is not None:
        put_between_marks(options.table, table(options.results))


def put_between_marks(path: Path, text: str) -> None:
    """Replace what stands between the two marks of a page."""
    before, _, rest = path.read_text(encoding="utf-8").partition("<!-- table -->\n")
    _, _, after = rest.partition("<!-- end of table -->")
    write_text(path, f"{before}<!-- table -->\n{text}<!-- end of table -->{after}")


if __name__ == "__main__":
    main()
