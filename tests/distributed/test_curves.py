"""The loss curve of a pretraining is the same on 1, 2 and 4 ranks; `benchmarks/loss_curves.py` makes the runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "loss_curves.py"
LIMIT = 1800
"""Seconds until the launches count as hanging, on a busy machine."""


@pytest.mark.slow
def test_loss_curves_do_not_depend_on_the_number_of_ranks(tmp_path):
    words = [sys.executable, BENCHMARK, "--json", tmp_path / "figures.json", "--figure", tmp_path / "curves.png"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    held = {(line["ranks"], line["type"], line["steps"]): line["largest difference"] for line in figures["differences"]}
    assert held.keys() == {
        (ranks, *of_type)
        for ranks in ("2 ranks, DDP", "4 ranks, FSDP")
        for of_type in (("float64", 200), ("float32", 20))
    }
    assert all(difference <= (1e-8 if dtype == "float64" else 1e-4) for (_, dtype, _), difference in held.items())
    *whole, local = figures["held_out"]
    assert [line["pairs a step"] for line in (*whole, local)] == [28, 28, 28, 4]
    for line in whole:
        assert abs(line["spread of predictions / truth"] - 1) <= 0.25
        assert line["R2"] > 0.3
        # what own pairs alone give is no rounding away
        assert local["R2"] < line["R2"] - 0.1
    assert (tmp_path / "curves.png").stat().st_size > 10_000
