"""Checkpoints written and read by every strategy at every number of processes: see `checkpoint_journeys`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from aam.training.checkpoints.store import read_checkpoint

SCRIPT = "checkpoint_journeys.py"
SHARDED = ("sharded", "async", "hybrid")
ALONE = {"none-1", "ddp-1", "fsdp-1", "sharded-1", "async-1"}
OF_TWO = {"ddp-2", "fsdp-2", "sharded-2", "async-2", "hybrid-2"}
OF_THREE = {"ddp-3", "fsdp-3", "sharded-3", "async-3"}


def results(folder: Path, processes: int) -> list[dict[str, Any]]:
    return json.loads((folder / f"read-{processes}.json").read_text())


@pytest.fixture(scope="module")
def journeys(
    script: Callable[..., str],
    torchrun: Callable[..., str],
    study_folder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Checkpoints of 1, 2 and 3 processes, read by 3, 2 and 1 of them, and then published by 2."""
    folder = tmp_path_factory.mktemp("journeys")
    for name in ("table.biom", "tree.nwk"):
        shutil.copy(study_folder / name, folder)
    script(SCRIPT, folder, "write")
    torchrun(2, SCRIPT, folder, "write")
    torchrun(3, SCRIPT, folder, "write", "read")
    torchrun(2, SCRIPT, folder, "read", "publish", "break")
    script(SCRIPT, folder, "read")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "readers"),
    [
        (1, {"none-1", "ddp-1", "fsdp-1"}),
        (2, {"ddp-2", "fsdp-2", "hybrid-2"}),
        (3, {"ddp-3", "fsdp-3"}),
    ],
)
def test_every_journey_ends_where_it_would_have_gone(journeys: Path, processes: int, readers: set[str]) -> None:
    found = results(journeys, processes)
    assert {(one["from"], one["to"]) for one in found} == {
        (writer, reader) for writer in ALONE | OF_TWO | OF_THREE for reader in readers
    }
    assert [one for one in found if one["differing"] or one["loss"] > 1e-12 or one["step"] != 5] == []
    assert min(one["differing at first"] for one in found) > 20


@pytest.mark.slow
def test_published_weights_of_shards_are_read_by_anybody(journeys: Path) -> None:
    for writer in sorted(ALONE | OF_TWO | OF_THREE):
        folder = journeys / "checkpoints" / writer
        expected = load_file(folder.with_suffix(".safetensors"))
        model = read_checkpoint(folder).model
        assert all(model[name].equal(expected[name]) for name in model)
        is_sharded = writer.startswith(SHARDED)
        assert ((folder / "last/sharded").is_dir(), (folder / "last/model.safetensors").is_file()) == (
            is_sharded,
            not is_sharded,
        )
        assert ((folder / "best").resolve() == (folder / "last").resolve()) is not is_sharded


@pytest.mark.slow
def test_a_rank_that_cannot_write_fails_all(journeys: Path) -> None:
    for rank in (0, 1):
        text = (journeys / f"failed-{rank}").read_text()
        assert text.startswith("NotADirectoryError")
