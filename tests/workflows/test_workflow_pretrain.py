import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from aam.config import InputConfig, PretrainConfig, SamplingConfig, TrainConfig, UnifracConfig
from aam.data.distances.matrix import DistanceMatrix, write_distance_matrix
from aam.data.files.sequences import encode_sequences
from aam.data.files.tables import read_tables
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.study import load_study
from aam.errors import InputError
from aam.training.checkpoints.store import read_checkpoint
from aam.training.distributed import World
from aam.training.machine import compute as compute_module
from aam.training.machine.compute import Compute
from aam.workflows import fit
from aam.workflows.pretrain import load_pretraining_study, pretrain
from aam.workflows.resolve import resolve_pretraining
from aam.workflows.restore import restore
from aam.workflows.train import train


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def metrics_of(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_output_folder_holds_what_the_readme_lists(pretrained):
    assert names(pretrained) == {
        ".lock",
        ".launch",
        "provenance.json",
        "report.html",
        "config.json",
        "split.tsv",
        "left_out.tsv",
        "metrics.jsonl",
        "training.log",
        "tensorboard",
        "plots",
        "checkpoints",
        "val_distances.json",
    }
    assert {"best", "last"} <= names(pretrained / "checkpoints")
    assert names(pretrained / "plots") == {"val_distances.png"}
    assert (pretrained / "plots/val_distances.png").stat().st_size > 5000
    assert list((pretrained / "tensorboard").iterdir())
    assert "epoch 1, step 8/8" in (pretrained / "training.log").read_text()


def test_metrics_have_plain_names(pretrained):
    lines = metrics_of(pretrained)
    assert [line["step"] for line in lines] == [2, 4, 4, 6, 8, 8]
    assert {"train/loss", "train/unifrac_loss", "train/nucleotide_loss", "train/learning_rate"} <= set(lines[0])
    assert {"val/loss", "val/unifrac_loss", "val/unifrac_pearson", "val/nucleotide_accuracy"} <= set(lines[-1])


def test_the_split_is_written_and_complete(pretrained):
    split = pd.read_csv(pretrained / "split.tsv", sep="\t", index_col="sample_id")["split"]
    assert len(split) == 40
    assert split.value_counts().to_dict() == {"train": 32, "val": 8}


def test_the_report_is_of_the_best_weights_on_all_held_out_pairs(pretrained, study_folder):
    report = json.loads((pretrained / "val_distances.json").read_text())
    assert (report["samples"], report["pairs"]) == (8, 28)
    best = max((line for line in metrics_of(pretrained) if "val/loss" in line), key=lambda line: -line["val/loss"])
    assert report["mae"] == pytest.approx(best["val/unifrac_mae"], rel=1e-5)
    trained = restore(pretrained)
    inputs = InputConfig(table=(study_folder / "table.biom",), tree=study_folder / "tree.nwk")
    study = load_study(inputs, trained.config.sampling, UnifracConfig())
    assert study.table.depth.min() >= 150
    split = pd.read_csv(pretrained / "split.tsv", sep="\t", index_col="sample_id")["split"]
    rows = np.flatnonzero([split[name] == "val" for name in study.table.sample_ids])
    drawn = SampleDraws(study.table, trained.config.sampling, trained.config.runtime.seed).rows(rows, FIXED)
    true = study.distance_source(UnifracConfig()).distances(rows, drawn).numpy()[np.triu_indices(8, 1)]
    assert report["true_std"] == pytest.approx(true.std(), rel=1e-9)


def test_the_checkpoint_rebuilds_the_model_with_its_resolved_shape(pretrained):
    trained = restore(pretrained)
    assert trained.config.model.max_bp == 30
    assert trained.predictor is None
    assert not trained.encoder.training
    assert read_checkpoint(pretrained / "checkpoints/last").kind == "pretrain"
    assert json.loads((pretrained / "config.json").read_text())["model"]["max_bp"] is None


def test_the_command_line_does_the_same(aam, pretrained, pretrain_options, tmp_path):
    assert aam("pretrain", **pretrain_options(tmp_path / "run", rarefy_depth=150)) == 0
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (pretrained / "metrics.jsonl").read_bytes()
    weights = [folder / "checkpoints/best/model.safetensors" for folder in (pretrained, tmp_path / "run")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_is_refused_resumed_or_overwritten(aam, pretrained, pretrain_options, tmp_path, capsys):
    shutil.copytree(pretrained, tmp_path / "run", symlinks=True)
    options = pretrain_options(tmp_path / "run", rarefy_depth=150)
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    assert aam("pretrain", **options) == 2
    assert "--resume" in capsys.readouterr().err
    assert aam("pretrain", **{**options, "lr": 0.02}, resume=True) == 2
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert aam("pretrain", **options, resume=True) == 0
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before
    assert aam("pretrain", **{**options, "epochs": 1}, overwrite=True) == 0
    assert len(metrics_of(tmp_path / "run")) == 3


def test_a_run_is_not_resumed_on_another_tree(aam, pretrain_options, study_folder, tmp_path, capsys):
    tree = tmp_path / "tree.nwk"
    shutil.copy(study_folder / "tree.nwk", tree)
    options = pretrain_options(tmp_path / "run", tree=tree, epochs=1)
    assert aam("pretrain", **options) == 0
    tree.write_text(tree.read_text().replace(":0", ":1", 1))
    capsys.readouterr()
    assert aam("pretrain", **options, resume=True) == 2
    assert "changed: tree" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler for torch.compile")
def test_a_compiled_model_learns_the_same(pretrain_options, tmp_path, monkeypatch):
    torch.compiler.reset()
    runs, compiled_models, compile_blocks = [], [], fit.compile_blocks
    monkeypatch.setattr(fit, "compile_blocks", lambda model: compiled_models.append(model) or compile_blocks(model))
    for compiled in (False, True):
        folder = tmp_path / str(compiled)
        options = pretrain_options(folder, epochs=1, log_every=1, compile_model=compiled)
        pretrain(PretrainConfig.from_flat(options))
        runs.append([list(line.values()) for line in metrics_of(folder)])
    assert runs[1][0] == pytest.approx(runs[0][0], rel=1e-4)
    assert len(compiled_models) == 1


def test_a_matrix_in_another_order_gives_the_same_run(pretrain_options, study_folder, tmp_path):
    inputs = InputConfig(table=(study_folder / "table.biom",), tree=study_folder / "tree.nwk")
    study = load_study(inputs, SamplingConfig(), UnifracConfig())
    rows = np.arange(40)
    values = study.distance_source(UnifracConfig()).distances(rows, study.table.counts).numpy()
    runs = {}
    for name, order in [("as the table", rows), ("shuffled", np.random.default_rng(0).permutation(40))]:
        ids = tuple(study.table.sample_ids[i] for i in order)
        write_distance_matrix(DistanceMatrix(ids, values[np.ix_(order, order)]), tmp_path / f"{name}.npz")
        options = {"tree": None, "unifrac_matrix": tmp_path / f"{name}.npz", "epochs": 1}
        pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / name, **options)))
        runs[name] = metrics_of(tmp_path / name)
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "tree", epochs=1)))
    assert runs["shuffled"] == runs["as the table"]
    last, from_tree = runs["shuffled"][-1], metrics_of(tmp_path / "tree")[-1]
    assert last == pytest.approx(from_tree, rel=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"unifrac_metric": "weighted_unifrac", "faith_pd_weight": 0.1},
        {"unifrac_weight": 0, "tree": None},
        {"nucleotide_weight": 0, "unifrac_metric": "generalized_unifrac", "max_asvs": 5, "distance_link": "tanh"},
        {"mixed_precision": "bf16", "gradient_checkpointing": True, "accumulation_steps": 2},
    ],
)
def test_other_losses_and_precisions_run_to_the_end(pretrain_options, tmp_path, options):
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "run", epochs=1, **options)))
    last = metrics_of(tmp_path / "run")[-1]
    losses = {"unifrac_weight": "val/unifrac_loss", "nucleotide_weight": "val/nucleotide_loss"}
    assert {name for option, name in losses.items() if options.get(option) != 0} <= set(last)
    assert all(value is None or np.isfinite(value) for value in last.values())
    assert (tmp_path / "run/val_distances.json").exists() == (options.get("unifrac_weight") != 0)


def test_a_resumed_run_keeps_the_precision_that_was_chosen(pretrain_options, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(compute_module, "processor_flags", lambda: frozenset({"avx512_bf16"}))
    options = pretrain_options(tmp_path / "run", epochs=1, embedding_dim=32, mixed_precision="auto")
    config = PretrainConfig.from_flat(options)
    with caplog.at_level("INFO"):
        pretrain(config)
    assert "--mixed-precision auto: bf16, since the processor multiplies bf16" in caplog.text
    assert json.loads((tmp_path / "run/config.json").read_text())["runtime"]["mixed_precision"] == "auto"
    monkeypatch.setattr(compute_module, "processor_flags", frozenset)
    resumed = PretrainConfig.from_flat({**options, "resume": True})
    for asked, chosen, dtype in ((resumed, "bf16", torch.bfloat16), (config, "none", None)):
        world = World(torch.device("cpu"))
        settled = resolve_pretraining(asked, load_pretraining_study(asked), world)
        assert settled.runtime.mixed_precision == chosen
        assert Compute.of(world, settled.runtime).dtype == dtype


def test_training_learns(pretrain_options, tmp_path):
    """More steps than elsewhere: the distances and the masked nucleotides get better than at the start."""
    pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "run", epochs=25, embedding_dim=16)))
    validations = [line for line in metrics_of(tmp_path / "run") if "val/loss" in line]
    assert validations[-1]["val/unifrac_loss"] < 0.5 * validations[0]["val/unifrac_loss"]
    assert validations[-1]["val/nucleotide_loss"] < 0.8 * validations[0]["val/nucleotide_loss"]
    assert stats.spearmanr(range(25), [line["val/loss"] for line in validations]).statistic < -0.5


@pytest.fixture(scope="module")
def of_abundances(tmp_path_factory, pretrain_options):
    """Output folder of a pretraining that learns masked abundances too."""
    folder = tmp_path_factory.mktemp("runs") / "abundances"
    more = {"abundance_weight": 0.3, "abundance_mask_ratio": 0.3, "rarefy_depth": 150, "epochs": 15}
    pretrain(PretrainConfig.from_flat(pretrain_options(folder, **more)))
    return folder


def test_masked_abundances_are_learned_where_that_is_asked_for(of_abundances, pretrained):
    validations = [line for line in metrics_of(of_abundances) if "val/loss" in line]
    losses = [line["val/abundance_loss"] for line in validations]
    assert losses[-1] < 0.5 * losses[0]
    assert stats.spearmanr(range(15), losses).statistic < -0.8
    weights = {"unifrac_loss": 1.0, "nucleotide_loss": restore(of_abundances).config.losses.weights["nucleotide"]}
    weights |= {"abundance_loss": 0.3}
    last = validations[-1]
    assert last["val/loss"] == pytest.approx(sum(weight * last[f"val/{name}"] for name, weight in weights.items()))
    assert not any("abundance" in name for line in metrics_of(pretrained) for name in line)


def test_an_encoder_that_learned_abundances_is_restored_and_fine_tuned(
    of_abundances, train_options, study_folder, one_sample, tmp_path
):
    trained, stored = restore(of_abundances), read_checkpoint(of_abundances).model
    head = {name for name in stored if name.startswith("abundance_head.")}
    assert head == {"abundance_head.output.weight", "abundance_head.output.bias"}
    assert all(torch.equal(trained.encoder.state_dict()[name], value) for name, value in stored.items())
    table = read_tables([study_folder / "table.biom"])
    asv, count = SampleDraws(table, SamplingConfig(), 0).counts(3, FIXED)
    tokens = torch.from_numpy(encode_sequences(table.sequences)[asv])
    with torch.no_grad():
        assert trained.encoder(one_sample(tokens, count)).heads["abundance"].shape == (1, len(asv))
    for frozen in (True, False):
        folder = tmp_path / str(frozen)
        more = {"pretrained_encoder": of_abundances, "freeze_base": frozen, "epochs": 1, "rarefy_depth": 150}
        train(TrainConfig.from_flat(train_options(folder, **more)))
        model = read_checkpoint(folder).model
        assert not any("abundance_head" in name for name in model)
        kept = [name for name in stored if name not in head]
        same = [torch.equal(model[f"encoder.{name}"], stored[name]) for name in kept]
        assert all(same) == frozen


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tree": None}, "--tree"),
        ({"faith_pd_weight": 1, "tree": None, "unifrac_weight": 0}, "--faith-pd-weight"),
        ({"best_metric": "val/r2"}, "--best-metric"),
        ({"rarefy_depth": 10**6}, "sampling depth"),
        ({"mixed_precision": "fp16"}, "fp16"),
    ],
)
def test_a_refused_run_leaves_nothing(pretrain_options, tmp_path, options, says):
    with pytest.raises(InputError, match=says):
        pretrain(PretrainConfig.from_flat(pretrain_options(tmp_path / "run", **options)))
    assert not (tmp_path / "run").exists()
