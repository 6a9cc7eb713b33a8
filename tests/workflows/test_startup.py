"""What is not loaded until it is needed; benchmarks/startup.py measures the time."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from aam.workflows.restore import restore

LOADED = "import json, sys\n{}\nprint(json.dumps(sorted(sys.modules)))"
COMMAND = """from aam.cli import main
try:
    main({})
except SystemExit as left:
    assert left.code in (None, 0), left
"""


def loaded(code: str) -> set[str]:
    """Modules that a process has loaded at the end of some code."""
    command = [sys.executable, "-c", LOADED.format(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], "torch numpy pandas scipy sklearn skbio matplotlib pydantic rich rich_click aam.config"),
        (
            ["estimate", "--help"],
            "torch numpy pandas scipy sklearn skbio matplotlib pydantic rich rich_click aam.config",
        ),
        (["--version"], "torch numpy pandas scipy sklearn pydantic"),
        (["completion", "zsh"], "torch numpy pandas scipy sklearn pydantic"),
        (["train", "--help"], "torch numpy pandas scipy sklearn skbio matplotlib"),
        (["train", "--help-all"], "torch numpy pandas scipy sklearn skbio matplotlib"),
        (["train", "--help-option", "epochs"], "torch numpy pandas scipy sklearn skbio matplotlib"),
    ],
)
def test_the_help_loads_no_more_than_it_shows(words, absent):
    assert loaded(COMMAND.format(words)) & set(absent.split()) == set()


def test_the_package_loads_nothing_of_others():
    assert loaded("import aam") & {"torch", "numpy", "pandas", "pydantic", "click"} == set()


@pytest.mark.parametrize("name", ["SampleEncoder", "SampleRegressor", "SampleClassifier"])
def test_an_estimator_loads_no_pytorch(name):
    after = loaded(f"import aam; aam.{name}")
    assert "sklearn" in after
    assert after & {"torch", "skbio", "matplotlib", "aam.workflows.fit"} == set()


def test_a_prediction_loads_nothing_of_a_training(regressor: Path, study_folder: Path, tmp_path: Path):
    words = ["predict", "--quiet", "--checkpoint", regressor, "--table", study_folder / "table.biom"]
    after = loaded(COMMAND.format([*map(str, [*words, "--output", tmp_path / "predictions.tsv"])]))
    assert "torch" in after
    unneeded = "sklearn skbio matplotlib sympy scipy.stats scipy.optimize tensorboard torch.distributed.fsdp"
    assert after & {*unneeded.split(), "torch.distributed.tensor", "torch._dynamo", "aam.workflows.fit"} == set()


def test_a_restored_model_has_its_own_weights(regressor: Path):
    """Not those of the file, which may be replaced, and none that stayed without memory."""
    one, other = restore(regressor).model, restore(regressor).model
    for name, value in one.state_dict().items():
        assert value.device.type == "cpu"
        assert value.data_ptr() != other.state_dict()[name].data_ptr()
    assert not any(tensor.is_meta for tensor in [*one.parameters(), *one.buffers()])
