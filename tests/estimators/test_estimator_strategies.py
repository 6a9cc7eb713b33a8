"""Estimators that train with the strategies for many processes: the same model, and nothing left behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch.distributed as dist

import aam
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables
from aam.errors import InputError

TINY = {
    "embedding_dim": 16,
    "attention_heads": 2,
    "attention_layers": 1,
    "epochs": 2,
    "pretrain_epochs": 1,
    "batch_size": 16,
    "rarefy_depth": 150,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def table(study_folder) -> pd.DataFrame:
    read = read_tables([study_folder / "table.biom"])
    return pd.DataFrame(read.counts.toarray(), index=list(read.sample_ids), columns=list(read.asv_ids))


@pytest.fixture(scope="module")
def acidity(study_folder) -> pd.Series:
    return read_metadata(study_folder / "metadata.tsv")["acidity"]


@pytest.fixture
def learn(table, acidity, study_folder):
    """Pretrain and fine-tune, with options."""

    def fit(**options) -> aam.SampleRegressor:
        return aam.SampleRegressor(**TINY, options=options).fit(table, acidity, tree=study_folder / "tree.nwk")

    return fit


@pytest.mark.parametrize("strategy", ["distributed", "fsdp"])
def test_a_strategy_gives_the_same_model(learn, table, tmp_path, strategy):
    alone, fitted = learn(), learn(**{strategy: True})  # pretraining and fine-tuning, each with a group of its own
    assert not dist.is_initialized()
    assert fitted.predict(table) == pytest.approx(alone.predict(table), rel=1e-6)
    assert np.allclose(fitted.embed(table), alone.embed(table), rtol=0, atol=1e-5)
    fitted.save(tmp_path / "model")
    loaded = aam.SampleRegressor.load(tmp_path / "model")
    assert loaded.options[strategy] is True
    assert np.array_equal(loaded.predict(table), fitted.predict(table))
    assert not dist.is_initialized()


@pytest.mark.parametrize("strategy", ["distributed", "fsdp"])
def test_a_fit_that_fails_leaves_no_group(learn, strategy):
    with pytest.raises(InputError, match="best_metric"):
        learn(**{strategy: True}, best_metric="val/auroc")
    assert not dist.is_initialized()
    learn(**{strategy: True})


SCRIPT = """
import json, os, sys
import pandas as pd
import aam
from aam.data.files.metadata import read_metadata
from aam.data.files.tables import read_tables

folder, options, out = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3]
read = read_tables([f"{folder}/table.biom"])
table = pd.DataFrame(read.counts.toarray(), index=list(read.sample_ids), columns=list(read.asv_ids))
target = read_metadata(f"{folder}/metadata.tsv")["acidity"]
model = aam.SampleRegressor(**options).fit(table, target, tree=f"{folder}/tree.nwk")
answers = [model.predict(table).tolist(), model.embed(table).sum(axis=1).tolist(), model.predict(table).tolist()]
with open(f"{out}/{os.environ['RANK']}.json", "w") as file:
    json.dump(answers, file)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["distributed", "fsdp"])
def test_processes_fit_and_predict_together(learn, table, study_folder, tmp_path, strategy):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    options = json.dumps(TINY | {"options": {strategy: True}})
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launcher, str(script), str(study_folder), options, str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(aam.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert first == second, "ranks have different models"
    assert first[0] == first[2]
    assert first[0] == pytest.approx(learn().predict(table), rel=1e-4)
