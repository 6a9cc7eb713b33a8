"""Fine-tuning on a frozen encoder, and its cache: of several ranks as of one."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

SHAPE = {"embedding-dim": 8, "attention-heads": 2, "attention-layers": 1, "batch-size": 8, "lr": 0.01, "device": "cpu"}
ASVS = 52


def words(**options: object) -> list[str]:
    parts = [(f"--{name.replace('_', '-')}", value) for name, value in options.items()]
    return [word for name, value in parts for word in ([name] if value is True else [name, str(value)])]


@pytest.fixture(scope="module")
def encoder(study_folder, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("encoder") / "run"
    files = {"table": study_folder / "table.biom", "tree": study_folder / "tree.nwk", "output_dir": folder}
    subprocess.run([sys.executable, "-m", "aam", "pretrain", *words(**files, **SHAPE, epochs=1)], check=True)
    return folder


def encoded(printed: str) -> list[int]:
    """Rows that each rank has encoded, in the order of ranks."""
    found = re.findall(r"rank (\d+) encoded (\d+) ASVs", printed)
    return [int(count) for _, count in sorted(found)]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["distributed", "fsdp"])
@pytest.mark.parametrize("settled", [True, False])
def test_ranks_share_a_cache_and_learn_what_one_learns(
    study_folder, encoder, torchrun, script, tmp_path, settled, strategy
):
    files = {"table": study_folder / "table.biom", "metadata": study_folder / "metadata.tsv"}
    options = {**files, **SHAPE, "metadata_column": "acidity", "freeze_base": True, "epochs": 2, "log_every": 1}
    options |= {"test_fraction": 0.2}
    options |= {"pretrained_encoder": encoder, "embedding_cache": tmp_path / "kept"}
    options |= {} if settled else {"rarefy_depth": 150, "count_weight": 0.1}
    together = torchrun(2, "frozen.py", "train", *words(**options, output_dir=tmp_path / "two", **{strategy: True}))
    assert encoded(together) == [ASVS // 2] * 2
    assert len(list((tmp_path / "kept").glob("*/*"))) == 1
    again = torchrun(2, "frozen.py", "train", *words(**options, output_dir=tmp_path / "again", **{strategy: True}))
    assert encoded(again) == [0, 0]
    alone = script("frozen.py", "train", *words(**options, output_dir=tmp_path / "one"))
    assert encoded(alone) == [0]
    assert losses(tmp_path / "two") == losses(tmp_path / "again")
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    for side in ("val", "test"):
        one, two = (pd.read_csv(tmp_path / name / f"{side}_predictions.tsv", sep="\t") for name in ("one", "two"))
        assert list(one["sample_id"]) == list(two["sample_id"])
        assert np.allclose(one["prediction"], two["prediction"], rtol=1e-4, atol=1e-5)


def losses(folder: Path) -> list[float]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    values = [line.get("train/loss", line.get("val/loss")) for line in lines]
    assert all(math.isfinite(value) for value in values)
    return values
