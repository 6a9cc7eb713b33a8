"""How often is a clade called important that is not? Simulated studies whose column depends on no clade, or on one.

usage: python benchmarks/importance_errors.py [--studies 200] [--trees 30]

A study has 48 samples of 16 subjects and 32 ASVs below a balanced tree; reads of ASVs are independent but for being
proportions. Trees on clades (`clades`) are fitted to three quarters of the subjects, and the clades are tested on the
others, in four folds. Counted are studies in which a clade is found although the column depends on none (a random
number, with a part that all samples of a subject share), or in which one is found that holds no ASV of the clade that
the column does depend on. The driver takes reads from the clade beside it alone ("apart", where findings of that clade
are not counted), or, as reads are proportions, from all ("one"). The error rate that is asked for is 5 %.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import arguments, print_table, write_json
from numpy.typing import NDArray
from scipy import sparse

from aam.config import LearnersConfig, TargetConfig
from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree
from aam.data.files.tables import FeatureTable
from aam.data.study import Study
from aam.evaluation.fold_fits import Variant
from aam.evaluation.schemes import Fold
from aam.interpret.importance import Inquiry
from aam.interpret.kept_folds import KeptFold, KeptFolds
from aam.interpret.names import Names
from aam.learners.base import Fitted, Labels
from aam.learners.registry import make_learner

SUBJECTS, VISITS, TIPS, FOLDS = 16, 3, 32, 4
DRIVER = np.arange(8, 12)


def main() -> None:
    """Count false findings for both kinds of studies."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--trees", type=int, default=30)
    given = parser.parse_args()
    rows: list[list[Any]] = []
    for kind in ("none", "apart", "one"):
        found = [_findings(number, kind, given.trees) for number in range(given.studies)]
        rows.append(
            [kind, given.studies, np.mean([wrong for wrong, _ in found]), np.mean([right for _, right in found])]
        )
    columns = ["clades that matter", "studies", "with a false finding", "with a right one"]
    print_table(columns, rows)
    write_json(given.json, [dict(zip(columns, row, strict=True)) for row in rows])


def _findings(number: int, kind: str, trees: int) -> tuple[bool, bool]:
    """Whether a clade was found that does not matter, and whether one that does."""
    random = np.random.default_rng([number, ("none", "one", "apart").index(kind)])
    study, y, subject = _study(random, kind)
    names = np.array([f"p{one}" for one in subject])
    ids = list(study.table.sample_ids)
    labels = Labels(pd.DataFrame({"y": y}, index=ids), TargetConfig(metadata_column=("y",)), names)
    part = random.permutation(SUBJECTS)[subject] % FOLDS
    folds = tuple(Fold(1, one + 1, np.flatnonzero(part != one), np.flatnonzero(part == one)) for one in range(FOLDS))
    learner = make_learner("clades", LearnersConfig.from_flat({"trees": trees}))
    fitted = {fold.name: learner.fit(study, fold.train, labels, number) for fold in folds}

    def read(path: Path) -> Fitted:
        return fitted[path.name]

    kept = KeptFold.all_of(Variant("main", study, (study,), labels, folds, number), Path)
    inquiry = Inquiry(study, KeptFolds(kept, subject, read, 3, number), Names.of(study.table, None), 0.05)
    hierarchy = inquiry.hierarchies()["clade"]
    holds = [np.isin(hierarchy.nodes[place].columns, DRIVER).any() for place in inquiry.find(hierarchy).rejected]
    inquiry.folds.close()
    if kind == "none":
        return bool(holds), False
    if kind == "apart":  # the clade beside the driver has what the driver has not
        beside = [
            np.isin(hierarchy.nodes[place].columns, DRIVER + 4).any() for place in inquiry.find(hierarchy).rejected
        ]
        return not all(np.logical_or(holds, beside)), any(holds)
    return not all(holds), any(holds)


def _study(random: np.random.Generator, kind: str) -> tuple[Study, NDArray[np.float64], NDArray[np.int64]]:
    names = tuple("".join(random.choice(list("ACGT"), 30)) for _ in range(TIPS))
    subject = np.arange(SUBJECTS * VISITS) % SUBJECTS
    shared = 0.7 * random.standard_normal(SUBJECTS)[subject]
    driver = shared + 0.7 * random.standard_normal(len(subject))
    logs = random.normal(0, 1, (len(subject), TIPS))
    if kind != "none":
        logs[:, DRIVER] = 0.4 * logs[:, DRIVER] - 1.5 + driver[:, None]
    parts = np.exp(logs) / np.exp(logs).sum(axis=1, keepdims=True)
    if kind == "apart":
        parts = _with_fixed_clades(parts)
    counts = np.stack([random.multinomial(1500, row) for row in parts])
    y = driver
    if kind != "none":
        y = np.log(parts[:, DRIVER].sum(axis=1)) + 0.3 * random.standard_normal(len(subject))
    samples = tuple(f"s{place:02d}" for place in range(len(subject)))
    tree = StudyTree.cut(parse_newick(_newick(range(TIPS)) + ";", source="tree"), np.arange(TIPS))
    metadata = pd.DataFrame(index=list(samples))
    return Study(FeatureTable(sparse.csr_array(counts), samples, names, names), metadata, tree), y, subject


def _with_fixed_clades(parts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give every clade of eight ASVs a quarter of the reads, so that none takes reads from those in another."""
    clades = parts.reshape(len(parts), TIPS // 8, 8)
    fixed: NDArray[np.float64] = (clades / clades.sum(axis=2, keepdims=True) / (TIPS // 8)).reshape(parts.shape)
    return fixed


def _newick(tips: range) -> str:
    half = len(tips) // 2
    return f"t{tips[0]}:1" if len(tips) == 1 else f"({_newick(tips[:half])},{_newick(tips[half:])}):1"


if __name__ == "__main__":
    main()
