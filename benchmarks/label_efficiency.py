"""How many labels does each learner need, and does a pretrained encoder help where there are few?

Holds out a fifth of the groups, keeps the labels of a fraction of the other samples, drawn by a seed, and scores each
learner on the held-out groups (`aam evaluate --test-column`); the network with a new encoder, and with a pretrained one
that stays as it is:

    python benchmarks/label_efficiency.py results --data STUDIES --encoder results/run --fractions 0.1 0.5 1 --seeds 5

Prints mean and standard deviation over seeds, and writes all scores to labels.tsv.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupShuffleSplit

ROWS = {
    "ecam-month": ("ecam", "month_of_life", "host_subject_id", ("mom_child", "C")),
    "emp-temperature": ("emp_2k", "temperature_deg_c", "study_id", None),
}
"""Study, column to predict, column of groups, and which samples."""


def metadata_of(options: argparse.Namespace, fraction: float, seed: int) -> pd.DataFrame:
    """Metadata with the side of every sample, and without the labels that are not given."""
    study, column, groups, only = ROWS[options.row]
    metadata = pd.read_csv(options.data / study / "metadata.tsv", sep="\t", dtype=str, index_col=0)
    if only is not None:
        metadata = metadata[metadata[only[0]] == only[1]]
    metadata = metadata[metadata[column].notna() & metadata[groups].notna()]
    split = GroupShuffleSplit(1, test_size=0.2, random_state=seed)
    train, test = next(split.split(metadata, groups=metadata[groups]))
    labelled = np.random.default_rng(seed).permutation(train)[: max(1, round(fraction * len(train)))]
    side = pd.Series("", index=metadata.index)
    side.iloc[labelled], side.iloc[test] = "train", "test"
    return metadata.assign(side=side)[side != ""]


def scores(options: argparse.Namespace, fraction: float, seed: int) -> pd.DataFrame:
    """R2 of each learner on the held-out groups."""
    study, column, groups, _ = ROWS[options.row]
    place = options.out / f"{options.row}-{fraction}-{seed}"
    place.mkdir(parents=True, exist_ok=True)
    metadata_of(options, fraction, seed).to_csv(place / "metadata.tsv", sep="\t")
    files = ["--table", options.data / study / "table.biom", "--tree", options.data / study / "tree.nwk"]
    base = [sys.executable, "-m", "aam.cli", "evaluate", *files, "--metadata", place / "metadata.tsv"]
    base += ["--metadata-column", column, "--group-column", groups, "--test-column", "side", "--no-report"]
    base += ["--overwrite", "--seed", seed]
    ways = {
        "new": ["--learners", "kernel,neural"],
        "pretrained": ["--learners", "neural", "--pretrained-encoder", options.encoder, "--freeze-base"],
    }
    found: dict[str, float] = {}
    for name, more in ways.items():
        command = [*base, *more, "--output-dir", place / name]
        subprocess.run([str(part) for part in command], check=True, capture_output=not options.verbose)
        table = pd.read_csv(place / name / "scores.tsv", sep="\t", keep_default_na=False, na_values=[""])
        r2 = table[table["metric"] == "r2"].set_index("learner")["value"].to_dict()
        found |= {f"network, {name}" if learner == "neural" else str(learner): value for learner, value in r2.items()}
    return pd.DataFrame([found], index=[f"{fraction}/{seed}"])


def main() -> None:
    """Score all fractions and seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of studies")
    parser.add_argument("--encoder", type=Path, required=True, help="of benchmarks/held_out_unifrac.py, say")
    parser.add_argument("--row", choices=list(ROWS), default="ecam-month")
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.05, 0.1, 0.25, 0.5, 1.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--verbose", action="store_true", help="show what aam says")
    options = parser.parse_args()
    rows = [scores(options, fraction, seed) for fraction in options.fractions for seed in range(options.seeds)]
    table = pd.concat(rows)
    table.index = pd.MultiIndex.from_tuples([name.split("/") for name in table.index], names=["fraction", "seed"])
    table.to_csv(options.out / f"labels-{options.row}.tsv", sep="\t")
    by_fraction = table.groupby(level="fraction", sort=False)
    print((by_fraction.mean().map("{:.3f}".format) + " +- " + by_fraction.std().map("{:.3f}".format)).to_string())


if __name__ == "__main__":
    main()
