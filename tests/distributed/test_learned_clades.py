"""Learned clades on two ranks, whole and sharded: the losses of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SHAPE = ["--sample-level", "clades", "--learned-clades", "12", "--embedding-dim", "8", "--attention-heads", "2"]
STEPS = ["--attention-layers", "1", "--epochs", "1", "--batch-size", "8", "--log-every", "1", "--no-report"]


def losses(folder: Path) -> list[float]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [value for row in rows for name, value in row.items() if name.endswith("loss")]


def aam(*words: object) -> None:
    command = [sys.executable, "-m", *map(str, words)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600)


def test_two_ranks_learn_what_one_process_learns(study_folder: Path, tmp_path: Path) -> None:
    files = ["--table", study_folder / "table.biom", "--tree", study_folder / "tree.nwk"]
    words = ["pretrain", *files, *SHAPE, *STEPS, "--output-dir"]
    aam("aam.cli", *words, tmp_path / "one")
    expected = losses(tmp_path / "one")
    for strategy in ("--distributed", "--fsdp"):
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "aam.cli"]
        aam(*launcher, *words, tmp_path / strategy[2:], strategy)
        assert losses(tmp_path / strategy[2:]) == pytest.approx(expected, rel=1e-5, abs=1e-6)
