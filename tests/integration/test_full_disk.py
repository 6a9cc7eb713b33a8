"""A disk that runs full in the middle of a run: one message, nothing broken, and the run goes on once there is room."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aam.config import InputConfig, PretrainConfig, SamplingConfig, TrainConfig, UnifracConfig
from aam.data.study import Study, load_study
from aam.training.checkpoints.store import verify_checkpoint
from aam.training.sinks.sink import Results
from aam.workflows import fit as workflow
from aam.workflows.fit import Run
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import prepare_pretraining

SMALL = {"embedding_dim": 8, "attention_heads": 2, "attention_layers": 1, "batch_size": 8, "epochs": 2, "log_every": 1}


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as ``ulimit -f`` does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Limited:
    """An objective at a step of which the limit sets in."""

    def __init__(self, objective: Any, at: int, size: int) -> None:
        self.objective, self.at, self.size = objective, at, size

    def __getattr__(self, name: str) -> Any:
        return getattr(self.objective, name)

    def backward(self, step: Any, scale: Any) -> Any:
        if step.plan.step == self.at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return self.objective.backward(step, scale)


def fit(run: Run) -> Path:
    return workflow.fit(run, run.config, lambda folder: Results())


@pytest.fixture(scope="module")
def study(study_folder: Path) -> Study:
    files = {name: study_folder / f"{name}.{end}" for name, end in (("tree", "nwk"), ("metadata", "tsv"))}
    inputs = InputConfig(table=(study_folder / "table.biom",), **files)
    return load_study(inputs, SamplingConfig(rarefy_depth=150), UnifracConfig())


@pytest.fixture(params=["pretraining", "fine-tuning"])
def prepare(request: pytest.FixtureRequest, study: Study) -> Callable[..., Run]:
    options = {**SMALL, "rarefy_depth": 150, "device": "cpu", "checkpoint_every": 2}
    if request.param == "fine-tuning":
        options["metadata_column"] = "acidity"
        return lambda **more: prepare_training(study, TrainConfig.from_flat({**options, **more}))
    return lambda **more: prepare_pretraining(study, PretrainConfig.from_flat({**options, **more}))


def learned(folder: Path) -> dict[str, bytes]:
    """Weights, and what the run says of its steps."""
    kept = {path.name: path.read_bytes() for path in (folder / "checkpoints/best").resolve().rglob("*.safetensors")}
    return kept | {"metrics": (folder / "metrics.jsonl").read_bytes()}


@pytest.mark.parametrize(("at", "size"), [(2, 3000), (5, 200)], ids=["a checkpoint", "any file"])
def test_a_limited_run_goes_on_to_the_same_end(prepare: Callable[..., Run], tmp_path: Path, at: int, size: int) -> None:
    whole, folder = fit(prepare(output_dir=tmp_path / "whole")), tmp_path / "limited"
    run = prepare(output_dir=folder)
    with largest_file(resource.RLIM_INFINITY), pytest.raises(OSError, match="File too large") as caught:
        fit(replace(run, objective=Limited(run.objective, at, size)))
    assert caught.value.errno == errno.EFBIG
    state = verify_checkpoint(folder / "checkpoints/last", with_state=True).state
    assert state is not None
    assert state["progress"]["step"] == at - at % 2
    fit(prepare(output_dir=folder, resume=True))
    assert learned(folder) == learned(whole)
    assert not [path for path in folder.rglob("*") if path.name.startswith(("tmp-", ".tmp-"))]


SCRIPT = """
set -u
mount -t tmpfs -o size=60m tmpfs "$1" || exit 99
aam() {
  "$PYTHON" -m aam pretrain --table "$2/table.biom" --tree "$2/tree.nwk" --output-dir "$1/run" $OPTIONS $3 --quiet
}
( until [ -e "$1/run/checkpoints/last" ]; do sleep 0.02; done; cat /dev/zero > "$1/ballast" ) 2> /dev/null &
aam "$1" "$2" "" 2> "$3/said"
echo $? > "$3/code"
wait
rm "$1/ballast"
aam "$1" "$2" --resume || exit 98
cp "$1/run/metrics.jsonl" "$3/"
cp "$1"/run/checkpoints/last/model.safetensors "$3/"
"""


@pytest.mark.slow
def test_a_full_disk(study_folder: Path, tmp_path: Path) -> None:
    """A file system in memory, full from the first checkpoint on; the command says so and continues afterwards."""
    words = ["--epochs", "12", "--checkpoint-every", "2", "--no-report", "--device", "cpu", "--batch-size", "8"]
    words += ["--embedding-dim", "8", "--attention-heads", "2", "--attention-layers", "1", "--log-every", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHON": sys.executable, "OPTIONS": " ".join(words)}
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    kept.mkdir()
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("a file system in memory cannot be mounted here")
    places = [str(place) for place in (disk, study_folder, kept)]
    done = subprocess.run(["unshare", "-rm", "sh", "-c", SCRIPT, "sh", *places], env=environment, check=False)
    if done.returncode == 99:
        pytest.skip("a file system in memory cannot be mounted here")
    said = (kept / "said").read_text()
    assert (done.returncode, (kept / "code").read_text()) == (0, "1\n"), said
    assert said.count("\n") == 1, said
    assert re.fullmatch(
        r"Error: .* cannot be written or read: No space left on device\. .* make room, .*--resume.*\n", said
    )
    files = {
        "--table": study_folder / "table.biom",
        "--tree": study_folder / "tree.nwk",
        "--output-dir": tmp_path / "run",
    }
    undisturbed = [sys.executable, "-m", "aam", "pretrain", *(str(word) for pair in files.items() for word in pair)]
    subprocess.run([*undisturbed, *words, "--quiet"], env=environment, check=True)
    for name, path in (("metrics.jsonl", "metrics.jsonl"), ("model.safetensors", "checkpoints/last/model.safetensors")):
        assert (kept / name).read_bytes() == (tmp_path / "run" / path).read_bytes(), name
