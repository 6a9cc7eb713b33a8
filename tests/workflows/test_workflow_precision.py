"""`--mixed-precision auto`: chosen once for a run, and stored with it."""

import json
import logging

import pytest

from aam.config import PretrainConfig
from aam.training.checkpoints.store import read_checkpoint
from aam.training.machine import compute
from aam.workflows.pretrain import pretrain


@pytest.fixture
def processor(monkeypatch):
    """Give the processor instructions for bfloat16, or take them away."""
    flags = {True: frozenset({"avx512_bf16"}), False: frozenset()}
    return lambda fast: monkeypatch.setattr(compute, "processor_flags", lambda: flags[fast])


@pytest.mark.parametrize(
    ("fast", "width", "expected", "reason"),
    [
        (True, 32, "bf16", "the processor multiplies bf16 in hardware"),
        (False, 32, "none", "the processor is not known to multiply bf16"),
        (True, 16, "none", "a model of width 16 is not faster with less"),
    ],
)
def test_auto_is_what_is_faster(pretrain_options, tmp_path, processor, caplog, fast, width, expected, reason):
    processor(fast)
    with caplog.at_level(logging.INFO):
        for precision in ("auto", expected):
            options = pretrain_options(tmp_path / precision, epochs=1, embedding_dim=width, mixed_precision=precision)
            pretrain(PretrainConfig.from_flat(options))
    assert f"--mixed-precision auto: {expected}, since {reason}" in caplog.text
    assert read_checkpoint(tmp_path / "auto").config["runtime"]["mixed_precision"] == expected
    assert json.loads((tmp_path / "auto/config.json").read_text())["runtime"]["mixed_precision"] == "auto"
    runs = [(tmp_path / name / "metrics.jsonl").read_bytes() for name in ("auto", expected)]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("fast", [True, False])
def test_embedding_chooses_for_itself(pretrained, study_folder, aam, tmp_path, processor, fast):
    processor(fast)
    options = {"checkpoint": pretrained, "table": study_folder / "table.biom", "device": "cpu"}
    for precision in ("auto", "bf16", "none"):
        assert aam("embed", **options, mixed_precision=precision, output=tmp_path / f"{precision}.tsv") == 0
    automatic, half, whole = ((tmp_path / f"{name}.tsv").read_bytes() for name in ("auto", "bf16", "none"))
    assert half != whole
    assert automatic == (half if fast else whole)
