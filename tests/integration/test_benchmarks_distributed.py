"""The benchmarks of many GPUs run, at small sizes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def figures(tmp_path: Path, script: str, *words: object) -> list[dict[str, Any]]:
    command = [sys.executable, BENCHMARKS / script, *words, "--json", tmp_path / "figures.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path / "figures.json").read_text())["figures"]


@pytest.mark.slow
def test_pairs_in_blocks_take_less_memory_than_all_at_once(tmp_path: Path) -> None:
    lines = figures(tmp_path, "pairwise_memory.py", "--samples", 2048, "--ranks", 2, "--width", 16)
    assert [(line["form"], line["ranks"]) for line in lines] == [
        ("block by block", 2),
        ("block by block", 1),
        ("all at once", 1),
    ]
    assert max(line["difference"] for line in lines) < 1e-5
    of_two, alone, at_once = (line["bytes"] for line in lines)
    assert 0 < max(of_two, alone) < at_once / 3


@pytest.mark.slow
def test_shards_of_two_ranks_are_half_of_the_model(tmp_path: Path) -> None:
    shape = ["--embedding-dim", 16, "--attention-layers", 1]
    none, ddp, fsdp = figures(tmp_path, "fsdp_memory.py", "--ranks", 2, *shape)
    # float32 weights and gradients, two moments of AdamW and its counters
    for whole in (none, ddp):
        assert whole["parameters"] == whole["gradients"] == 4 * none["numbers"]
        assert 8 * none["numbers"] <= whole["optimizer"] < 8.1 * none["numbers"]
    assert fsdp["numbers"] == none["numbers"]
    assert none["sum"] / 2 <= fsdp["sum"] < 0.52 * none["sum"]
