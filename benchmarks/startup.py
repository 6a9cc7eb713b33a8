"""How long aam takes to begin: the help, an estimator, a prediction, each against what it cannot do without.

Every command is a process of its own; all are started in turn, and medians of their times are compared. Processor time
says the same on a machine that does other things besides.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from _common import arguments, print_table, write_json

AAM = ["-m", "aam"]
REFERENCES = {"click and rich": ["-c", "import click, rich"], "torch": ["-c", "import torch"]}
"""What is compared with, by name."""
LIMIT = 2.0
"""How many times longer aam may take."""


def commands(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """What is started, by name: the reference, and the words after ``python``."""
    predict = [*AAM, "predict", "--quiet", "--overwrite", "--table", str(folder / "study" / "table.biom")]
    output = ["--output", str(folder / "predictions.tsv")]
    return {
        "aam --help": ("click and rich", [*AAM, "--help"]),
        "aam train --help": ("torch", [*AAM, "train", "--help"]),
        "import aam; aam.SampleRegressor": ("torch", ["-c", "import aam; aam.SampleRegressor"]),
        "aam predict, network": ("torch", [*predict, "--checkpoint", str(folder / "neural"), *output]),
        "aam predict, ensemble": ("torch", [*predict, "--checkpoint", str(folder / "ensemble"), *output]),
    }


def prepare(folder: Path) -> None:
    """Simulate a study of 60 samples, and train the models that predict it."""
    study = folder / "study"
    _python([*AAM, "simulate", "--quiet", str(study), "--samples", "60", "--asvs", "80"])
    files = ["--table", str(study / "table.biom"), "--metadata", str(study / "metadata.tsv")]
    learn = [*AAM, "train", "--quiet", *files, "--metadata-column", "acidity", "--no-report"]
    short = ["--epochs", "1", "--min-steps", "0", "--no-baselines"]
    _python([*learn, "--output-dir", str(folder / "neural"), *short])
    tree = ["--tree", str(study / "tree.nwk"), "--learner", "ensemble", "--trees", "100"]
    _python([*learn, "--output-dir", str(folder / "ensemble"), *tree])


def measure(started: dict[str, list[str]], rounds: int) -> dict[str, tuple[float, float]]:
    """Median wall and processor seconds of every command; all in turn, after a round that is not counted."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in started}
    for _ in range(rounds + 1):
        for name, words in started.items():
            times[name].append(_seconds(words))
    return {
        name: (statistics.median(wall for wall, _ in each[1:]), statistics.median(own for _, own in each[1:]))
        for name, each in times.items()
    }


def _seconds(words: list[str]) -> tuple[float, float]:
    before, start = os.times(), time.perf_counter()
    _python(words)
    wall, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return wall, used


def _python(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    """Print the times of every command, and how many times those of its reference they are."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rounds", type=int, default=7, help="how often each command is started")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        prepare(Path(folder))
        started = commands(Path(folder))
        took = measure(REFERENCES | {name: words for name, (_, words) in started.items()}, options.rounds)
    rows: list[tuple[str, float, float, str, float | str, float | str]] = [
        (name, *took[name], "", "", "") for name in REFERENCES
    ]
    for name, (reference, _) in started.items():
        wall, own = (mine / other for mine, other in zip(took[name], took[reference], strict=True))
        rows.append((name, *took[name], reference, wall, own))
    columns = ("", "s", "processor s", "compared with", "times", "times, processor")
    print_table(columns, rows)
    write_json(options.json, [dict(zip(columns, row, strict=True)) for row in rows])
    if any(float(row[-1] or 0) > LIMIT for row in rows):
        raise SystemExit(f"claimed: no more than {LIMIT:g} times the processor time of what is compared with")


if __name__ == "__main__":
    main()
