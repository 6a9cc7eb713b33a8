"""Runs on a GPU, against the same runs on the processor."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from aam.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]

SHAPE = ["--embedding-dim", "32", "--attention-heads", "4", "--attention-layers", "2", "--batch-size", "8"]
COMMON = [*SHAPE, "--epochs", "2", "--log-every", "1", "--no-tf32", "--num-workers", "0", "--quiet"]
CLOSE = 1e-4


def aam(*words: str | Path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(list(map(str, words)))
    assert not stop.value.code


def losses(folder: Path, name: str = "loss") -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line[f"train/{name}"] for line in lines if f"train/{name}" in line]


def pretrain(study: Path, output: Path, *words: str | Path) -> list[float]:
    files = ["--table", study / "table.biom", "--tree", study / "tree.nwk", "--output-dir", output]
    aam("pretrain", *files, *COMMON, *words)
    return losses(output)


@pytest.fixture(scope="module")
def on_cpu(study_folder: Path, tmp_path_factory) -> tuple[Path, list[float]]:
    folder = tmp_path_factory.mktemp("cpu") / "run"
    return folder, pretrain(study_folder, folder, "--device", "cpu")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--attn-implementation", "math"],
        ["--attn-implementation", "mem_efficient"],
        ["--gradient-checkpointing"],
        ["--max-memory-gb", "0.05"],
        ["--data-parallel"],
        ["--memory-profile"],
    ],
    ids=" ".join,
)
def test_losses_are_those_of_a_processor(words, on_cpu, study_folder: Path, tmp_path: Path):
    _, expected = on_cpu
    actual = pretrain(study_folder, tmp_path / "run", "--device", "cuda", *words)
    assert len(expected) > 4
    assert actual == pytest.approx(expected, rel=CLOSE)
    assert (tmp_path / "run/memory_snapshot.pickle").exists() == ("--memory-profile" in words)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("kernel", ["sdpa", "flash", "mem_efficient", "math"])
def test_half_precision_is_close(precision, kernel, on_cpu, study_folder: Path, tmp_path: Path):
    _, expected = on_cpu
    words = ["--mixed-precision", precision, "--attn-implementation", kernel]
    actual = pretrain(study_folder, tmp_path / "run", "--device", "cuda", *words)
    assert actual == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("freeze", [False, True])
def test_training_and_prediction_are_those_of_a_processor(freeze, on_cpu, study_folder: Path, tmp_path: Path):
    encoder, _ = on_cpu
    files = ["--table", study_folder / "table.biom", "--metadata", study_folder / "metadata.tsv"]
    words = [*files, "--metadata-column", "acidity", "--pretrained-encoder", encoder, "--no-baselines"]
    words += [
        "--batch-size",
        "8",
        "--epochs",
        "2",
        "--log-every",
        "1",
        "--no-tf32",
        "--num-workers",
        "0",
        "--quiet",
        *freeze * ["--freeze-base"],
    ]
    runs = {}
    for device in ("cpu", "cuda"):
        aam("train", *words, "--device", device, "--output-dir", tmp_path / device)
        runs[device] = losses(tmp_path / device)
    assert runs["cuda"] == pytest.approx(runs["cpu"], rel=CLOSE)
    predicted = {}
    for device in ("cpu", "cuda"):
        output = tmp_path / f"{device}.tsv"
        given = ["--checkpoint", tmp_path / "cuda", "--table", study_folder / "table.biom", "--output", output]
        aam("predict", *given, "--device", device, "--no-tf32", "--quiet")
        predicted[device] = pd.read_csv(output, sep="\t", index_col=0)
    pd.testing.assert_frame_equal(predicted["cuda"], predicted["cpu"], rtol=CLOSE)
