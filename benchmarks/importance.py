"""Does importance find the ASVs that drive a column? Simulated studies, whose causal clades are known.

usage: python benchmarks/importance.py FOLDER [--seeds 3] [--first-seed 0] [--samples 200] [--asvs 400]
       [--columns acidity,health] [--learners kernel,ensemble] [--permutations 2] [--repeats 2] [--jobs 2]

Learners are compared by `aam evaluate --keep-models` (folds of subjects) and explained by `--what importance`. ASVs are
ordered by the importance of the clade that is named for them (0 where there is none), and within a clade by their own;
the average precision is that of the ASVs of the two clades that the column depends on. The yardstick is what users have
today, importance of single ASVs for the forest: its mean decrease of impurity, and the fall of its R2 (or Brier skill
score) when an ASV's values are permuted among held-out samples. Of a random order the average precision is the fraction
of such ASVs.
What is there already in FOLDER is not computed again.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import arguments, print_table, write_json
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score

from aam.config import EvaluateConfig, SimulateConfig
from aam.config.explain import ExplainConfig
from aam.data.sampling.seeded import generator
from aam.data.simulation.study import simulate_study, write_study
from aam.data.simulation.tree import simulate_tree
from aam.interpret.held_out import HeldOut
from aam.interpret.importance import Importance, Inquiry
from aam.learners.base import Floats, Output, Predictions
from aam.learners.trees import ForestSolution
from aam.workflows.evaluate import evaluate
from aam.workflows.explain_importance import inquire
from aam.workflows.explained_evaluation import ExplainedEvaluation, read_fitted

MARKERS = {"acidity": (0, 1), "health": (2, 3)}
"""Which of the marker clades of `aam simulate` a column depends on."""


def main() -> None:
    """Simulate, evaluate and explain for each seed and column, and print the table."""
    parser = arguments(__doc__ or "")
    parser.add_argument("folder", type=Path, help="receives the studies and the evaluations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--asvs", type=int, default=400)
    parser.add_argument("--columns", default="acidity,health")
    parser.add_argument("--learners", default="kernel,ensemble")
    parser.add_argument("--permutations", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    figures: list[dict[str, Any]] = []
    for seed in range(given.first_seed, given.first_seed + given.seeds):
        simulated = SimulateConfig(
            directory=given.folder / f"study-{seed}", samples=given.samples, asvs=given.asvs, seed=seed
        )
        if not simulated.directory.exists():
            write_study(simulate_study(simulated), simulated.directory)
        for column in given.columns.split(","):
            run = given.folder / f"{column}-{seed}"
            evaluate_once(run, simulated.directory, column, given)
            figures += explained(run, simulated, column, given)
            print_table(list(figures[-1]), [list(figures[-1].values())])
    means = pd.DataFrame(figures).drop(columns="seed").groupby(["column", "learner"], sort=False).mean().reset_index()
    print_table([str(name) for name in means], means.to_numpy().tolist())
    write_json(given.json, {"runs": figures, "means": means.to_dict("records")})


def evaluate_once(run: Path, study: Path, column: str, given: Any) -> None:
    """Compare the learners, where that was not done."""
    if (run / "evaluation.json").exists():
        return
    files = {"table": (study / "table.biom",), "metadata": study / "metadata.tsv", "tree": study / "tree.nwk"}
    target = {"metadata_column": column, "group_column": "subject", "classifier": column == "health"}
    work = {"learners": given.learners, "repeats": given.repeats, "jobs": given.jobs, "resume": run.exists()}
    evaluate(EvaluateConfig.from_flat({**files, **target, **work, "keep_models": True, "output_dir": run}))


def explained(run: Path, simulated: SimulateConfig, column: str, given: Any) -> list[dict[str, Any]]:
    """Average precision of each learner, with that of the forest."""
    rows = []
    by_permutation: Floats | None = None
    for learner in given.learners.split(","):
        options = {"what": "importance", "evaluation": run, "learner": learner, "output_dir": run / "why"}
        config = ExplainConfig.from_flat({**options, "permutations": given.permutations, "jobs": given.jobs})
        evaluation = ExplainedEvaluation.open(config)
        inquiry = inquire(evaluation, config)
        if by_permutation is None:
            by_permutation = permuted(evaluation, given.permutations)
        true = causal(simulated, column, inquiry)
        begun = time.perf_counter()
        found = inquiry.answer()
        took = time.perf_counter() - begun
        inquiry.folds.close()
        named = [inquiry.study.table.asv_ids[row] for row in np.flatnonzero(true)]
        rows.append(
            {
                "seed": simulated.seed,
                "column": column,
                "learner": learner,
                "clades": len(found.branches),
                "clades alone": average_precision_score(true, found.asv_score),
                "importance": average_precision_score(true, ordered(found, inquiry)),
                "forest, impurity": average_precision_score(true, inquiry.forest),
                "forest, permutation": average_precision_score(true, by_permutation),
                "random": len(named) / len(true),
                "seconds": took,
            }
        )
    return rows


def ordered(found: Importance, inquiry: Inquiry) -> Floats:
    """Importance of the clade that is named for an ASV; of ASVs of the same clade, the own decides [A]."""
    rows = found.of_level("asv")
    own = dict(zip(rows["id"], rows["importance"], strict=True))
    small = 1e-6 * np.array([own.get(name, -1.0) for name in inquiry.study.table.asv_ids])
    scores: Floats = found.asv_score + small
    return scores


def causal(simulated: SimulateConfig, column: str, inquiry: Inquiry) -> NDArray[np.int64]:
    """1 for the ASVs of the clades that the column depends on [A]."""
    tree = simulate_tree(simulated.asvs, simulated.bp, simulated.seed)
    clades = tree.clades(count=4, size=max(1, simulated.asvs // 20))
    names = {tree.sequences[tip] for place in MARKERS[column] for tip in clades[place]}
    return np.array([sequence in names for sequence in inquiry.study.table.sequences], dtype=np.int64)


def permuted(evaluation: ExplainedEvaluation, permutations: int) -> Floats:
    """Rise of the forest's loss when values of one ASV are permuted among the held-out samples of a fold [A]."""
    rise = np.zeros(evaluation.study.table.n_asvs)
    for kept in evaluation.folds_of("forest"):
        rise += _permuted(kept.open(read_fitted), permutations)
    return rise


def _permuted(fold: HeldOut, permutations: int) -> Floats:
    """The same in one fold; all that is permuted is predicted at once."""
    solution = fold.solution
    assert isinstance(solution, ForestSolution)
    assert fold.study.metadata is not None
    rows = np.arange(fold.samples)
    features = solution.features(fold.study, rows, solution.columns).astype(np.float32)
    rise = np.zeros(fold.study.table.n_asvs)
    for number in range(permutations):
        order = generator(0, "permuted", fold.name, number).permutation(fold.samples)
        changed = np.tile(features, (len(solution.columns), 1, 1))
        for place in range(len(solution.columns)):
            changed[place, :, place] = features[order, place]
        value = solution.forest.predict(changed.reshape(-1, features.shape[1]).astype(np.float64))
        again = np.tile(rows, len(solution.columns))
        if not fold.classes:
            table = Predictions(fold.targets, (Output(value),)).table(fold.study.metadata.iloc[again])
            value = table["prediction"].to_numpy(np.float64)[:, None]
        rises = (fold.loss(value, again) - fold.base[again]).reshape(-1, fold.samples)
        rise[solution.columns] += rises.sum(axis=1)
    return rise


if __name__ == "__main__":
    main()
