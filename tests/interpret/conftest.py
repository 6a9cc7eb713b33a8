"""A small study whose number and class depend on one clade, and evaluations of it with kept models."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from aam.config import EvaluateConfig
from aam.config.explain import ExplainConfig
from aam.workflows.evaluate import evaluate
from aam.workflows.explain import explain

SUBJECTS, VISITS, TIPS = 16, 4, 32
DRIVER = range(8, 12)
"""The tips below the clade that the columns depend on."""
SMALL = {"learners": "clades", "trees": 40, "folds": 4, "repeats": 2, "keep_models": True}


def newick(tips: range, names: list[str]) -> str:
    """A balanced tree."""
    if len(tips) == 1:
        return f"{names[tips[0]]}:1"
    half = len(tips) // 2
    return f"({newick(tips[:half], names)},{newick(tips[half:], names)}):1"


@pytest.fixture(scope="session")
def driven(tmp_path_factory) -> SimpleNamespace:
    """Files of a study of 64 samples of 16 subjects and 32 ASVs, of which four that form a clade drive the columns."""
    folder = tmp_path_factory.mktemp("driven")
    random = np.random.default_rng(5)
    names = ["".join(random.choice(list("ACGT"), 30)) for _ in range(TIPS)]
    samples = [f"s{number:02d}" for number in range(SUBJECTS * VISITS)]
    subject = np.arange(len(samples)) % SUBJECTS
    driver = 0.7 * random.standard_normal(SUBJECTS)[subject] + 0.7 * random.standard_normal(len(samples))
    logs = random.normal(0, 1, (len(samples), TIPS))
    logs[:, DRIVER] = 0.4 * logs[:, DRIVER] - 1.5 + driver[:, None]
    weights = np.exp(logs)
    counts = np.stack([random.multinomial(1500, row) for row in weights / weights.sum(axis=1, keepdims=True)])
    table = pd.DataFrame(counts.T, index=names, columns=samples)
    table.to_csv(folder / "table.tsv", sep="\t", index_label="#OTU ID")
    (folder / "tree.nwk").write_text(newick(range(TIPS), names).removesuffix(":1") + ";\n")
    part = np.log(weights[:, DRIVER].sum(axis=1) / weights.sum(axis=1))
    y = (part - part.mean()) / part.std() + 0.3 * random.standard_normal(len(samples))
    columns = {"subject": [f"p{number}" for number in subject], "y": y.round(3), "state": np.where(y > 0, "up", "down")}
    columns["three"] = [("a", "b", "c")[place % 3] for place in range(len(samples))]
    metadata = pd.DataFrame(columns, index=samples)
    metadata.to_csv(folder / "metadata.tsv", sep="\t", index_label="sample-id")
    lines = [f"{name}\tk__B; p__P{place // 16}; f__F{place // 4}; g__; s__\t0.9" for place, name in enumerate(names)]
    (folder / "taxonomy.tsv").write_text("\n".join(["Feature ID\tTaxon\tConfidence", *lines]) + "\n")
    return SimpleNamespace(folder=folder, names=names, counts=counts, samples=samples, metadata=metadata)


@pytest.fixture(scope="session")
def evaluated(driven) -> Callable[..., Path]:
    """Evaluate with kept models; gives the output folder."""

    def run(folder: Path, **options: object) -> Path:
        files = {"table": (driven.folder / "table.tsv",), "metadata": driven.folder / "metadata.tsv"}
        target = {"metadata_column": "y", "group_column": "subject", "tree": driven.folder / "tree.nwk"}
        evaluate(EvaluateConfig.from_flat({**files, **target, **SMALL, "output_dir": folder, **options}))
        return folder

    return run


@pytest.fixture(scope="session")
def of_number(evaluated, tmp_path_factory) -> Path:
    """An evaluation of the number."""
    return evaluated(tmp_path_factory.mktemp("evaluations") / "number")


@pytest.fixture(scope="session")
def of_class(evaluated, tmp_path_factory) -> Path:
    """An evaluation of the class."""
    folder = tmp_path_factory.mktemp("evaluations") / "class"
    return evaluated(folder, metadata_column="state", classifier=True, repeats=1)


@pytest.fixture(scope="session")
def explained(tmp_path_factory) -> Callable[..., Path]:
    """Explain an evaluation; gives the output folder."""

    def run(what: str, evaluation: Path, **options: object) -> Path:
        folder = tmp_path_factory.mktemp("explained") / "why"
        learner = {"learner": "clades"} if what == "importance" else {}
        given = {"what": what, "evaluation": evaluation, **learner, "output_dir": folder, **options}
        explain(ExplainConfig.from_flat(given))
        return folder

    return run
