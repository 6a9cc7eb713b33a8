"""Losses of twenty steps, and metrics after them, as they were before tasks and samples became objects.

They hold the maths of training, whatever form the code has. `python tests/training/test_golden.py` writes
`golden_losses.json` anew, which is to be done only where a change of results is meant.
"""

import json
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from aam.config import PretrainConfig, SimulateConfig, TrainConfig
from aam.data.simulation.study import simulate_study, write_study
from aam.data.study import load_study
from aam.training.checkpoints.store import CheckpointStore
from aam.training.tasks.targets import TargetTask
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

GOLDEN = Path(__file__).parent / "golden_losses.json"
STEPS = 20
TOLERANCE = 1e-9
"""On the machine that wrote them they agree to 1e-12; other processors add up in other orders."""
SMALL = {
    "embedding_dim": 8,
    "attention_heads": 2,
    "attention_layers": 1,
    "batch_size": 4,
    "accumulation_steps": 2,
    "epochs": 5,
    "lr": 0.01,
    "rarefy_depth": 150,
    "device": "cpu",
    "val_fraction": 0.2,
}
WHOLE = {"freeze_base": False, "asv_features": 0}
CATEGORIES = {
    "categorical_columns": "site,habitat",
    "categorical_hierarchy": "site=region",
    "categorical_dropout": 0.2,
    "categorical_loss_weights": "auto",
    "categorical_loss_weight_column": "region",
}
CASES = {
    "pretraining": {
        "nucleotide_weight": 0.5,
        "faith_pd_weight": 0.1,
        "taxonomy_weight": 0.3,
        "sequence_noise": 0.01,
        "nuc_mask_ratio": 0.2,
    },
    "regression": {"metadata_column": "acidity", "count_weight": 0.2, **WHOLE, **CATEGORIES},
    "attention": {"metadata_column": "acidity", "categorical_fusion": "cross_attention", "cross_attn_heads": 2}
    | WHOLE
    | CATEGORIES,
    "classes": {"metadata_column": "habitat", "classifier": True, "class_weights": "balanced", **WHOLE},
    "frozen": {"metadata_column": "acidity", "asv_features": 16},
}


@contextmanager
def double_precision():
    """Build models in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def prepared(case: str, folder: Path):
    """A run of a case, on the simulated study in a folder."""
    files = {"table": (folder / "table.biom",), "output_dir": folder / "run"}
    if case == "pretraining":
        files |= {"tree": folder / "tree.nwk", "taxonomy": folder / "taxonomy.tsv"}
        config = PretrainConfig.from_flat({**SMALL, **files, **CASES[case]})
        return prepare_pretraining(load_pretraining_study(config), config)
    config = TrainConfig.from_flat({**SMALL, **files, "metadata": folder / "metadata.tsv", **CASES[case]})
    run = prepare_training(load_study(config.inputs, config.sampling), config)
    task = run.objective.task(TargetTask)
    value = task.table.value if task.targets.is_classes else task.table.value.double()
    task.table = replace(task.table, value=value, weight=task.table.weight.double())
    return run


def course(case: str, folder: Path) -> dict:
    """Losses of all steps, and the metrics at the end."""
    with double_precision():
        run = prepared(case, folder)
        trainer = run.trainer(CheckpointStore(folder / "checkpoints"))
        run.model.train()
        losses = [
            {name: value.double().item() for name, value in trainer.train_step(run.dataset[plan]).items()}
            for plan in islice(trainer.train_sampler, STEPS)
        ]
        return {"losses": losses, "metrics": run.objective.validate()}


def make_study(folder: Path) -> Path:
    """The study of all cases: 40 samples, of which 32 train."""
    config = SimulateConfig(directory=folder, samples=40, asvs=60, bp=30, depth=300, subjects=8)
    write_study(simulate_study(config), folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_losses_and_metrics_are_those_of_before(case, study_folder, tmp_path):
    for path in study_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    found, golden = course(case, tmp_path), json.loads(GOLDEN.read_text())[case]
    assert len(found["losses"]) == STEPS
    for step, (own, before) in enumerate(zip(found["losses"], golden["losses"], strict=True)):
        assert own == pytest.approx(before, rel=TOLERANCE, abs=TOLERANCE), step
    assert found["metrics"] == pytest.approx(golden["metrics"], rel=TOLERANCE, abs=TOLERANCE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        place = make_study(Path(scratch))
        GOLDEN.write_text(json.dumps({case: course(case, place) for case in CASES}, indent=1) + "\n")
