"""docs/onnx/predict.html in a headless Chromium predicts as `aam predict` does, in processes of its own.

Skipped, saying so, without playwright, a Chromium, the libraries of aam[onnx], or onnxruntime-web: `npm install
onnxruntime-web`, and AAM_ONNXRUNTIME_WEB naming node_modules/onnxruntime-web/dist.
"""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

import aam
from aam.config import ExportConfig, InputConfig, SamplingConfig, TrainConfig
from aam.data.study import load_study
from aam.learners.storage import load_learner
from aam.workflows.export import export
from aam.workflows.train import train

playwright = pytest.importorskip("playwright.sync_api", reason="no browser: install playwright")
CHROMIUM = next((path for name in ("chromium", "google-chrome") if (path := shutil.which(name))), None)
WEB = os.environ.get("AAM_ONNXRUNTIME_WEB")
PAGE = Path(aam.__file__).parents[1] / "docs" / "onnx" / "predict.html"
ABSENT = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no browser: install chromium"),
    pytest.mark.skipif(bool(ABSENT), reason=f"needs {', '.join(ABSENT)}: pip install 'aam[onnx]'"),
    pytest.mark.skipif(not WEB, reason="AAM_ONNXRUNTIME_WEB names no onnxruntime-web"),
    # playwright leaves the pipes of its driver to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Quiet(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page, served by this machine, in a browser that reaches nothing else."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copy(PAGE, folder)
    (folder / "onnxruntime-web").symlink_to(Path(WEB).resolve())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_address[1]}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        opened = browser.new_page()
        opened.route(
            "**/*", lambda route: route.continue_() if route.request.url.startswith(address) else route.abort()
        )
        opened.goto(f"{address}/{PAGE.name}")
        yield opened
        browser.close()
    server.shutdown()
    server.server_close()


def written(page, model: Path, table: Path, folder: Path) -> pd.DataFrame:
    """What the page predicts, as it saves it."""
    page.set_input_files("#model", model)
    page.set_input_files("#table", table)
    page.click("#predict")
    page.wait_for_function("!document.getElementById('message').textContent.startsWith('Predicting')", timeout=60_000)
    said = page.text_content("#message")
    assert said.startswith("Predicted"), said
    with page.expect_download() as waiting:
        page.click("#save")
    waiting.value.save_as(folder / "predictions.tsv")
    return pd.read_csv(folder / "predictions.tsv", sep="\t", index_col="sample_id")


def as_text(study, path: Path) -> Path:
    """The table as `biom convert --to-tsv` writes it."""
    counts = pd.DataFrame(study.table.counts.toarray().T, list(study.table.asv_ids), list(study.table.sample_ids))
    path.write_text("# Constructed from biom file\n" + counts.to_csv(sep="\t", index_label="#OTU ID"))
    return path


@pytest.mark.parametrize("learner", ["linear", "clades", "kernel", "ensemble"])
def test_the_page_predicts_34_samples_as_the_checkpoint(learner, page, real_data, tmp_path):
    folder = real_data / "tiny_moving_pictures"
    files = {"table": (folder / "table.biom",), "metadata": folder / "metadata.tsv", "tree": folder / "tree.nwk"}
    target = {"metadata_column": "bodysite", "classifier": True, "learner": learner, "report": False, "device": "cpu"}
    more = {"trees": 50} if learner in ("clades", "ensemble") else {}
    train(TrainConfig.from_flat({**files, **target, **more, "output_dir": tmp_path / "run"}))
    export(ExportConfig.from_flat({"run": tmp_path / "run", "output": tmp_path / "m.onnx"}))
    study = load_study(InputConfig(table=files["table"]), SamplingConfig())
    expected, _ = load_learner(tmp_path / "run").predict(study)
    found = written(page, tmp_path / "m.onnx", as_text(study, tmp_path / "t.tsv"), tmp_path)
    assert len(found) == 34
    expected = expected.loc[found.index, found.columns]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=0, atol=1e-5)


def test_numbers_are_in_their_own_units(page, study_folder, tmp_path):
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    options = {"metadata_column": "acidity", "target_transform": "log-zscore", "learner": "linear", "report": False}
    train(TrainConfig.from_flat({**files, **options, "output_dir": tmp_path / "run"}))
    export(ExportConfig.from_flat({"run": tmp_path / "run", "output": tmp_path / "m.onnx"}))
    study = load_study(InputConfig(table=files["table"]), SamplingConfig())
    expected, _ = load_learner(tmp_path / "run").predict(study)
    found = written(page, tmp_path / "m.onnx", as_text(study, tmp_path / "t.tsv"), tmp_path)
    pd.testing.assert_frame_equal(found, expected.loc[found.index, found.columns], check_dtype=False, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "table", "says"),
    [
        (b"no model", "#OTU ID\ta\nACGT\t1\n", "damaged|no file of aam export"),
        (None, "#OTU ID\ta\nACGT\tmany\n", "which is no count of reads"),
        (None, "#OTU ID\ta\nACGT\t1\n", "No sample holds an ASV that the model knows"),
        (None, "", "holds no samples"),
    ],
)
def test_wrong_files_are_told(model, table, says, page, study_folder, tmp_path):
    files = {"table": (study_folder / "table.biom",), "metadata": study_folder / "metadata.tsv"}
    options = {"metadata_column": "acidity", "learner": "null", "report": False, "output_dir": tmp_path / "run"}
    train(TrainConfig.from_flat({**files, **options}))
    export(ExportConfig.from_flat({"run": tmp_path / "run", "output": tmp_path / "m.onnx"}))
    if model is not None:
        (tmp_path / "m.onnx").write_bytes(model)
    (tmp_path / "t.tsv").write_text(table)
    page.set_input_files("#model", tmp_path / "m.onnx")
    page.set_input_files("#table", tmp_path / "t.tsv")
    page.click("#predict")
    with pytest.raises(AssertionError, match=says):
        written(page, tmp_path / "m.onnx", tmp_path / "t.tsv", tmp_path)
