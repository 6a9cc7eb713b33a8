"""The benchmarks run, at small sizes; what they measure is not judged here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aam.cli import main
from aam.data.files.metadata import read_metadata

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script: str, *words: str | Path, judged: bool = True) -> str:
    """Run a script; unless it is judged, what it measures may miss what is claimed of larger sizes."""
    command = [sys.executable, BENCHMARKS / script, *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0 or (not judged and done.stderr.startswith("claimed: ")), done.stderr
    return done.stdout


@pytest.mark.slow
def test_distances_of_a_batch(tmp_path: Path) -> None:
    table = run("unifrac_batch.py", "--tips", "300", "--json", tmp_path / "figures.json")
    written = json.loads((tmp_path / "figures.json").read_text())
    (line,) = written["figures"]["batch"]
    assert line["largest difference"] < 1e-9
    assert 0 < line["fraction of the step"] < 1
    assert "300000" in table
    assert written["machine"]["torch"]


@pytest.mark.slow
def test_the_table_of_accuracy(study_folder: Path, tmp_path: Path) -> None:
    """On a simulated study under the name of a real one; its table goes between the marks of a page."""
    study = tmp_path / "studies/nasopharynx_biomass"
    study.mkdir(parents=True)
    for name in ("table.biom", "tree.nwk"):
        shutil.copy(study_folder / name, study / name)
    metadata = read_metadata(study_folder / "metadata.tsv").rename(columns={"acidity": "log10_qpcr_16s_pgul"})
    metadata[["log10_qpcr_16s_pgul"]].to_csv(study / "metadata.tsv", sep="\t")
    page = tmp_path / "accuracy.md"
    page.write_text("before\n<!-- table -->\nold\n<!-- end of table -->\nafter\n")
    words = ["--data", tmp_path / "studies", "--rows", "nasopharynx-random", "--learners", "linear,ensemble"]
    run("accuracy.py", tmp_path / "results", *words, "--repeats", "1", "--jobs", "1", "--table", page)
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1], "old" in lines) == ("before", "after", False)
    (row,) = [line for line in lines if line.startswith("| nasopharynx-random")]
    assert row.split(" | ")[1:3] == ["40 (40)", "R2"]


@pytest.mark.slow
def test_the_settings_of_the_forest(study_folder: Path, tmp_path: Path) -> None:
    study = tmp_path / "studies/amazon_houses"
    study.mkdir(parents=True)
    shutil.copy(study_folder / "table.biom", study / "table.biom")
    names = {"habitat": "village", "subject": "house_number"}
    read_metadata(study_folder / "metadata.tsv").rename(columns=names).to_csv(study / "metadata.tsv", sep="\t")
    table = run("forest_settings.py", "--data", tmp_path / "studies", "--rows", "amazon-village")
    assert "amazon-village | balanced_accuracy" in table


@pytest.mark.slow
def test_a_random_forest_on_the_split_of_a_run(study_folder: Path, tmp_path: Path) -> None:
    words = ["--table", study_folder / "table.biom", "--metadata", study_folder / "metadata.tsv"]
    words += [
        "--metadata-column",
        "acidity,day",
        "--embedding-dim",
        "8",
        "--epochs",
        "1",
        "--test-fraction",
        "0.2",
        "--output-dir",
        tmp_path / "run",
    ]
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, words)])
    assert not stop.value.code
    lines = run("random_forest.py", tmp_path / "run").splitlines()
    forests = [f"random forest of {name}, seed {seed}" for name in ("acidity", "day") for seed in (0, 1, 2)]
    assert [line.split(" {")[0] for line in lines] == ["aam, test", *forests]


@pytest.mark.slow
def test_weights_of_a_rare_class(tmp_path: Path) -> None:
    words = ["--seeds", "1", "--epochs", "2", "--samples", "126", "--json", tmp_path / "figures.json"]
    table = run("class_weights.py", tmp_path / "runs", *words).splitlines()
    assert [line.split("|")[2].strip() for line in table] == ["weights", "--------:", "none", "auto"]
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [(line["seed"], line["weights"]) for line in figures] == [(0, "none"), (0, "auto")]
    assert all(0 <= line["balanced_accuracy"] <= 1 for line in figures)
    splits = [(tmp_path / f"runs/{kind}-0/split.tsv").read_bytes() for kind in ("none", "auto")]
    assert splits[0] == splits[1]
    classes = read_metadata(tmp_path / "runs/metadata.tsv")["acid"].value_counts()
    assert classes.to_dict() == {"common": 120, "rare": 6}


@pytest.mark.slow
def test_causal_asvs_by_attribution(tmp_path: Path) -> None:
    words = ["--seeds", "1", "--samples", "30", "--asvs", "40", "--epochs", "1", "--json", tmp_path / "figures.json"]
    table = run("attribution.py", tmp_path / "runs", *words).splitlines()
    assert table[0].startswith("|  column |")
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert len(figures["runs"]) == len(figures["means"]) == 12
    assert all(0 < line["average precision"] <= 1 and line["largest gap"] < 5e-5 for line in figures["runs"])


def data_of(study: Path) -> list[str | Path]:
    return ["--data", study.parent, "--dataset", study.name]


@pytest.mark.slow
@pytest.mark.parametrize("side", ["padded", "same mathematics", "default settings"])
def test_a_pretraining_step(study_folder: Path, side: str) -> None:
    words = ["--batch-sizes", "2", "--width", "8", "--layers", "1", "--rounds", "1", "--measure", side]
    figures = json.loads(run("pretrain_step.py", *data_of(study_folder), *words))
    assert figures["seconds"] > 0
    assert (figures["gflop"] is not None) == (side == "default settings")
    assert figures["rows"]["unique"] <= figures["rows"]["packed"] <= figures["rows"]["padded"]


@pytest.mark.slow
def test_a_run_within_a_budget_of_memory(study_folder: Path, tmp_path: Path) -> None:
    words = ["--width", "8", "--batch-size", "16", "--budgets", "1", "4", "--json", tmp_path / "figures.json"]
    run("memory_budget.py", *data_of(study_folder), *words)
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [line["budget_gb"] for line in figures["runs"]] == [1, 4]
    assert all(line["losses"] and line["peak_gb"] > 0 for line in figures["runs"])
    assert figures["largest_difference"] < 1e-5


@pytest.mark.slow
def test_a_table_that_is_streamed(tmp_path: Path) -> None:
    words = ["--samples", "60", "--asvs", "300", "--asvs-per-sample", "20", "--steps", "2", "--width", "8"]
    run("streaming.py", tmp_path / "study", *words, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert 0 < figures["peak_anonymous_gb"] <= figures["peak_gb"]
    assert figures["seconds_to_first_step"] > 0


@pytest.mark.slow
def test_cost_against_size(tmp_path: Path) -> None:
    words = ["--divide", "16", "--width", "8", "--json", tmp_path / "figures.json", "--plot", tmp_path / "cost.png"]
    run("linear_cost.py", *words)
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert {name: len(figure["seconds"]) for name, figure in figures.items()} == {
        "unique ASVs": 4,
        "samples": 4,
        "ASVs a sample": 4,
    }
    assert (tmp_path / "cost.png").exists()


@pytest.mark.slow
def test_kernels_of_many_samples(tmp_path: Path) -> None:
    words = ["--samples", "40", "80", "--asvs", "400", "--exact", "50", "--landmarks", "30", "--weigh", "30"]
    run("kernel_size.py", *words, "--json", tmp_path / "figures.json", "--plot", tmp_path / "time.png")
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]["runs"]
    assert [line["samples"] for line in figures] == [40, 80]
    assert all(line["seconds"] > 0 and line["gb_beyond_the_table"] >= 0 for line in figures)
    assert (tmp_path / "time.png").exists()


@pytest.mark.slow
def test_all_benchmarks_by_one_command(tmp_path: Path) -> None:
    told = run("run_all.py", tmp_path / "all", "--quick", "--only", "linear_cost")
    written = json.loads((tmp_path / "all" / "benchmarks.json").read_text())
    assert list(written["figures"]) == ["linear_cost"]
    assert written["figures"]["linear_cost"]["outcome"] == "ran"
    assert set(written["figures"]["linear_cost"]["figures"]) == {"unique ASVs", "samples", "ASVs a sample"}
    assert "## linear_cost" in told
    assert "straight line" in told


@pytest.mark.slow
def test_a_benchmark_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    words = ["--quick", "--only", "lazy_outputs", "linear_cost", "--data", tmp_path / "nothing"]
    command = [sys.executable, BENCHMARKS / "run_all.py", tmp_path / "all", *words]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    figures = json.loads((tmp_path / "all" / "benchmarks.json").read_text())["figures"]
    assert {name: line["outcome"] for name, line in figures.items()} == {"lazy_outputs": "broke", "linear_cost": "ran"}


@pytest.mark.slow
def test_a_frozen_encoder_and_a_whole_study(real_data: Path, tmp_path: Path) -> None:
    words = ["--embedding-dim", "8", "--attention-layers", "1", "--samples", "30", "--batch-size", "8"]
    table = run("frozen.py", "--data", real_data, *words, "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [line["ASVs encoded"] for line in figures["fine-tuning"] if line["side"] == "frozen"] == [0]
    first, kept, *others = figures["prediction"]
    assert kept["ASVs encoded"] == 0 < first["ASVs encoded"]
    assert min(line["ASVs encoded"] for line in others) >= first["ASVs encoded"]
    assert max(line["difference"] for line in figures["prediction"]) < 1e-5
    assert "padded batches" in table


@pytest.mark.slow
def test_outputs_that_nobody_asks_for(real_data: Path, tmp_path: Path) -> None:
    words = [
        "--batch-size",
        "2",
        "--embedding-dim",
        "8",
        "--attention-layers",
        "1",
        "--json",
        tmp_path / "figures.json",
    ]
    run("lazy_outputs.py", "--data", real_data, *words)
    lines = json.loads((tmp_path / "figures.json").read_text())["figures"]["cases"]
    assert [line["returned MiB"] > 0 for line in lines] == [False, True, True, True, True, True]
    assert lines[-1]["peak MiB"] > lines[0]["peak MiB"]


@pytest.mark.slow
def test_samples_of_many_asvs() -> None:
    line = json.loads(run("many_asvs.py", "--asvs", "40", "--width", "16", "--layers", "1", "--measure", "induced"))
    assert line["cpu_seconds"] > 0
    table = run("many_asvs.py", "--asvs", "40", "--width", "16", "--layers", "1").splitlines()
    assert [row.split("|")[1].strip() for row in table[::2]] == ["ASVs in a sample", "40"]


@pytest.mark.slow
def test_waiting_for_batches(real_data: Path, tmp_path: Path) -> None:
    words = ["--data", real_data, "--studies", "tiny_moving_pictures", "--workers", "0", "1", "--steps", "2"]
    words += ["--batch-size", "4", "--embedding-dim", "8", "--device", "cpu", "--json", tmp_path / "figures.json"]
    assert "waited_ms" in run("data_wait.py", *words, judged=False)
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [(line["workers"], line["is_default"]) for line in figures] == [(0, True), (1, False)]
    assert all(0 < line["share"] < 1 for line in figures)


@pytest.mark.slow
def test_pretraining_on_a_gpu(real_data: Path, tmp_path: Path) -> None:
    words = ["--device", "cpu", "--width", "16", "--layers", "1", "--heads", "2", "--batch-size", "2", "--asvs", "8"]
    words += ["--unique", "12", "--nucleotides", "20", "--steps", "1", "--json", tmp_path / "figures.json"]
    words += ["--data", real_data, "--study", "tiny_moving_pictures"]
    assert "samples a second" in run("gpu.py", *words)
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert figures["GFLOP a step"] > 0
    assert 0 < figures["of the matmul rate"] < 1
    assert figures["of the claimed peak"] is None
    assert 0 < figures["waiting for data"] < 1


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    assert "PyTorch sees no GPU" in run("gpu.py", "--json", tmp_path / "figures.json")
    assert not (tmp_path / "figures.json").exists()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
def test_variants_of_a_step(real_data: Path, tmp_path: Path) -> None:
    words = ["--data", real_data, "--study", "tiny_moving_pictures", "--widths", "8", "--batch-size", "4"]
    words += ["--batches", "1", "--rounds", "1", "--device", "cpu", "--json", tmp_path / "figures.json"]
    assert "fused_ms" in run("step_variants.py", *words)
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    variants = [line["variant"] for line in figures["steps"]]
    assert variants == ["float32", "bf16", "float32, compiled", "bf16, compiled"]
    assert [line["graphs"] > 0 for line in figures["steps"]] == [False, False, True, True]
    assert figures["adamw"][0]["fused_ms"] > 0


@pytest.mark.slow
def test_other_habitats_are_unlike_the_guts_of_infants(real_data: Path) -> None:
    lines = run("unlike.py", "--data", real_data, "--seeds", "1").splitlines()
    cells = [[cell.strip() for cell in line.split("|")] for line in lines if line.startswith("|")]
    called = {row[1]: float(row[3]) for row in cells[2:]}
    assert called["child"] <= 0.1
    assert min(called[kind] for kind in ("mackerel", "human skin", "human oral")) >= 0.95


@pytest.mark.slow
def test_how_long_aam_takes_to_begin(tmp_path: Path) -> None:
    run("startup.py", "--rounds", "1", "--json", tmp_path / "figures.json", judged=False)
    lines = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [line["compared with"] for line in lines if line["times"]] == ["click and rich", *["torch"] * 4]
    assert all(line["times"] > 0 for line in lines[2:])


@pytest.mark.slow
def test_a_study_that_pretraining_has_not_seen_and_few_labels(study_folder: Path, tmp_path: Path) -> None:
    """On a simulated study under the names of the corpus and of one of its studies."""
    studies = {name: tmp_path / "studies" / name for name in ("corpus_v4_90", "ecam", "other")}
    metadata = read_metadata(study_folder / "metadata.tsv")
    known = metadata.rename(columns={"acidity": "month_of_life", "subject": "host_subject_id"}).assign(mom_child="C")
    part = {"corpus_v4_90": metadata.assign(dataset="other")[["dataset"]], "ecam": known.iloc[:12], "other": metadata}
    for name, folder in studies.items():
        folder.mkdir(parents=True)
        for file in ("table.biom", "tree.nwk"):
            shutil.copy(study_folder / file, folder / file)
        part[name].to_csv(folder / "metadata.tsv", sep="\t", index_label="sample_id")
    shape = ["--sample-level", "clades", "--learned-clades", "8", "--embedding-dim", "8", "--attention-layers", "0"]
    more = [*shape, "--nucleotide-weight", "0", "--epochs", "2", "--no-report", "--rarefy-depth", "150"]
    words = ["--data", tmp_path / "studies", "--also", "other", "--", *more]
    table = [line.split("\t") for line in run("held_out_unifrac.py", tmp_path / "held", *words).splitlines()]
    assert [(line[0], line[1]) for line in table[-3:]] == [("study", "samples"), ("ecam", "12"), ("other", "40")]

    known.to_csv(studies["ecam"] / "metadata.tsv", sep="\t", index_label="sample_id")
    words = ["--data", tmp_path / "studies", "--encoder", tmp_path / "held/run", "--fractions", "1", "--seeds", "2"]
    told = run("label_efficiency.py", tmp_path / "labels", *words)
    assert "network, pretrained" in told
    assert len((tmp_path / "labels/labels-ecam-month.tsv").read_text().splitlines()) == 3
