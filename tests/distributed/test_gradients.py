"""The parameter gradient and the losses of W ranks are those of one process; `gradients.py` has the grid."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.spatial.distance import pdist, squareform

from aam.data.files.tables import read_tables

TOLERANCE = {"torch.float64": 1e-10, "torch.float32": 1e-5}
STEPS = 7
TASKS, VARIANTS = 7, 2


@pytest.fixture(scope="session")
def folder(study_folder, tmp_path_factory, script) -> Path:
    """A study with a matrix whose samples are in another order, and what one process computes on it."""
    folder = tmp_path_factory.mktemp("gradients")
    shutil.copytree(study_folder, folder, dirs_exist_ok=True)
    table = read_tables([folder / "table.biom"])
    order = np.random.default_rng(1).permutation(table.n_samples)
    ids = [table.sample_ids[i] for i in order]
    values = squareform(pdist(table.counts.toarray()[order] / table.depth[order, None], "braycurtis"))
    pd.DataFrame(values, index=ids, columns=ids).to_csv(folder / "matrix.tsv", sep="\t")
    header, types, *rows = (folder / "metadata.tsv").read_text().splitlines()
    gaps = ["" if number % 3 == 1 else str(number**2 % 17) for number in range(len(rows))]
    lines = [f"{header}\tgaps", f"{types}\tnumeric", *(f"{row}\t{gap}" for row, gap in zip(rows, gaps, strict=True))]
    (folder / "metadata.tsv").write_text("\n".join(lines) + "\n")
    script("gradients.py", folder, "reference")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_gradient_and_losses_are_those_of_one_process(folder, torchrun, ranks):
    torchrun(ranks, "gradients.py", folder)
    results = json.loads((folder / f"report-{ranks}.json").read_text())
    assert len(results) == STEPS * (2 * 2 * TASKS + 2 * VARIANTS + (ranks % 2 == 0))
    assert len({tuple(result[key] for key in ("task", "strategy", "dtype", "step")) for result in results}) == len(
        results
    )
    for kind in ("gradient", "loss"):
        assert [result for result in results if not result[kind] <= TOLERANCE[result["dtype"]]] == []
    in_double = [result for result in results if result["dtype"] == "torch.float64"]
    assert [result for result in in_double if not result["parameter"] <= 1e-10] == []
    check_teeth(results, ranks)


def check_teeth(results: list[dict], ranks: int) -> None:
    """See that the grid notices a wrong gradient: of pairs within ranks alone, or the mean of the means of ranks."""
    assert [result for result in results if not result["size"] > 1e-3] == []
    wrong = [(name, share) for result in results for name, share in result["mutations"].items()]
    assert [(name, share) for name, share in wrong if not share > 1e-2] == []
    assert {name for name, _ in wrong} == ({"own pairs", "means of ranks"} if ranks > 1 else set())
    assert len(wrong) >= (15 if ranks > 1 else 0)
