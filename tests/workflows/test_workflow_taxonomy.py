"""Pretraining of every encoder type, and what comes after it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from aam.config import PretrainConfig, PretrainFindLrConfig, TrainConfig
from aam.data.labels.taxonomy import TaxonomyClasses, read_taxonomy
from aam.training.checkpoints.store import read_checkpoint
from aam.training.objective import Objective
from aam.workflows.find_lr import find_lr
from aam.workflows.pretrain import pretrain
from aam.workflows.restore import restore
from aam.workflows.train import train

LOSSES = {
    "unifrac": {"unifrac", "nucleotide"},
    "faith_pd": {"faith_pd", "nucleotide"},
    "taxonomy": {"taxonomy", "nucleotide"},
    "combined": {"unifrac", "faith_pd", "taxonomy", "nucleotide"},
}


def lines(folder) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def options_of(study_folder, pretrain_options):
    """Options of a small pretraining of an encoder type, with the files that it needs and no others."""

    def options(kind: str, folder, **more) -> dict:
        given = pretrain_options(folder, encoder_type=kind, **more)
        if "taxonomy" in LOSSES[kind]:
            given = {"taxonomy": study_folder / "taxonomy.tsv"} | given
        if kind == "taxonomy":
            del given["tree"]
        return given

    return options


@pytest.fixture(scope="session", params=LOSSES)
def encoder(request, aam, options_of, tmp_path_factory):
    """An encoder type, and the output folder of its pretraining from the command line."""
    folder = tmp_path_factory.mktemp("encoders") / request.param
    assert aam("pretrain", **options_of(request.param, folder)) == 0
    return request.param, folder


def test_an_encoder_learns_what_its_type_says(encoder):
    kind, folder = encoder
    last = lines(folder)[-1]
    losses = {name for name in last if name.endswith("_loss") and name.startswith("val/")}
    assert losses == {f"val/{name}_loss" for name in LOSSES[kind]}
    assert all(value is None or np.isfinite(value) for value in last.values())
    assert (folder / "val_distances.json").exists() == ("unifrac" in LOSSES[kind])
    ranks = {name.rsplit("_", 1)[1] for name in last if name.startswith("val/taxonomy_accuracy")}
    assert ranks == ({"phylum", "class", "order", "family", "genus"} if "taxonomy" in LOSSES[kind] else set())


def test_its_checkpoint_rebuilds_the_heads(encoder, study_folder):
    kind, folder = encoder
    trained, documents = restore(folder), read_checkpoint(folder).documents
    assert ("taxonomy" in documents) == ("taxonomy" in trained.encoder.head_names) == ("taxonomy" in LOSSES[kind])
    assert set(trained.encoder.head_names) == LOSSES[kind] & {"faith_pd", "taxonomy"}
    if "taxonomy" in documents:
        sizes = {name: head.out_features for name, head in trained.encoder.head("taxonomy").ranks.items()}
        classes = TaxonomyClasses.from_json(documents["taxonomy"])
        assert sizes == classes.sizes
        of_all = TaxonomyClasses.fit(list(read_taxonomy(study_folder / "taxonomy.tsv").values()))
        assert all(set(names) <= set(of_all.lineages[rank]) for rank, names in classes.lineages.items())


def test_it_embeds_and_is_fine_tuned(encoder, aam, study_folder, train_options, tmp_path):
    _, folder = encoder
    options = {"checkpoint": folder, "table": study_folder / "table.biom", "device": "cpu"}
    assert aam("embed", **options, output=tmp_path / "s.tsv", asv=tmp_path / "a.tsv") == 0
    samples = pd.read_csv(tmp_path / "s.tsv", sep="\t", index_col="sample_id").filter(like="dim_")
    assert samples.shape == (40, 8)
    assert samples.std().min() > 0
    assert aam("train", **train_options(tmp_path / "age", pretrained_encoder=folder, epochs=1)) == 0
    model = read_checkpoint(tmp_path / "age").model
    assert not any("taxonomy" in name or "faith_pd" in name for name in model)


def test_frozen_fine_tuning_keeps_the_encoder(encoder, train_options, tmp_path):
    _, folder = encoder
    more = {"pretrained_encoder": folder, "freeze_base": True, "epochs": 1}
    train(TrainConfig.from_flat(train_options(tmp_path / "age", **more)))
    before, after = (read_checkpoint(path).model for path in (folder, tmp_path / "age"))
    kept = [name for name in before if not name.startswith(("faith_pd_head.", "taxonomy_head."))]
    assert all((before[name] == after[f"encoder.{name}"]).all() for name in kept)


def test_a_run_goes_on_as_if_it_had_not_stopped(options_of, tmp_path, monkeypatch):
    backward = Objective.backward

    def fail(self, step, scale):
        if step.plan.step == 5:
            raise ZeroDivisionError
        return backward(self, step, scale)

    pretrain(PretrainConfig.from_flat(options_of("combined", tmp_path / "whole", checkpoint_every=3)))
    with monkeypatch.context() as patched:
        patched.setattr(Objective, "backward", fail)
        with pytest.raises(ZeroDivisionError):
            pretrain(PretrainConfig.from_flat(options_of("combined", tmp_path / "run", checkpoint_every=3)))
    pretrain(PretrainConfig.from_flat(options_of("combined", tmp_path / "run", checkpoint_every=3, resume=True)))
    assert lines(tmp_path / "run") == lines(tmp_path / "whole")


def test_a_run_is_not_resumed_on_another_taxonomy(aam, options_of, study_folder, tmp_path, capsys):
    taxonomy = tmp_path / "taxonomy.tsv"
    shutil.copy(study_folder / "taxonomy.tsv", taxonomy)
    options = options_of("taxonomy", tmp_path / "run", taxonomy=taxonomy, epochs=1)
    assert aam("pretrain", **options) == 0
    # confidences are not learned from
    header, *rows = taxonomy.read_text().splitlines()
    taxonomy.write_text("\n".join([header, *(f"{row.rsplit(chr(9), 1)[0]}\t0.5" for row in rows)]) + "\n")
    assert aam("pretrain", **options, resume=True) == 0
    taxonomy.write_text(taxonomy.read_text().replace("; g__Genus1\t", "; g__Genus2\t"))
    capsys.readouterr()
    assert aam("pretrain", **options, resume=True) == 2
    assert "changed: taxonomy" in capsys.readouterr().err


@pytest.mark.parametrize(
    "strategy", [{"distributed": True}, {"fsdp": True}, {"accumulation_steps": 2, "batch_size": 4}]
)
@pytest.mark.parametrize("kind", ["taxonomy", "combined"])
def test_strategies_and_batches_give_the_same(options_of, tmp_path, kind, strategy, monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    more = {"nuc_asv_fraction": 1.0}
    for folder, each in ((tmp_path / "alone", {}), (tmp_path / "run", strategy)):
        pretrain(PretrainConfig.from_flat(options_of(kind, folder, **more, **each)))
    for one, two in zip(lines(tmp_path / "run"), lines(tmp_path / "alone"), strict=True):
        assert one == pytest.approx(two, rel=1e-4, abs=1e-5)


def test_the_best_checkpoint_may_be_chosen_by_the_accuracy_of_a_rank(options_of, tmp_path):
    metric = "val/taxonomy_accuracy_genus"
    options = options_of("taxonomy", tmp_path / "run", best_metric=metric, epochs=6, lr=0.03, keep_checkpoints=9)
    pretrain(PretrainConfig.from_flat(options))
    validations = [line for line in lines(tmp_path / "run") if metric in line]
    best = max(line[metric] for line in validations)
    first = next(line["step"] for line in validations if line[metric] == best)
    assert (tmp_path / "run/checkpoints/best").resolve().name.startswith(f"step-{first:08d}")
    assert best > validations[0][metric]


def test_ranks_are_learned(options_of, tmp_path):
    """More steps than elsewhere: high ranks are known of nearly all ASVs, low ones get better."""
    options = options_of("taxonomy", tmp_path / "run", epochs=25, embedding_dim=16, taxonomy_weight=1.0)
    pretrain(PretrainConfig.from_flat(options))
    validations = [line for line in lines(tmp_path / "run") if "val/loss" in line]
    first, last = validations[0], validations[-1]
    assert last["val/taxonomy_loss"] < 0.5 * first["val/taxonomy_loss"]
    assert last["val/taxonomy_accuracy_phylum"] > 0.95
    assert last["val/taxonomy_accuracy_genus"] > 2 * first["val/taxonomy_accuracy_genus"]


def test_the_learning_rate_is_sought_for_ranks(options_of, tmp_path):
    known = PretrainFindLrConfig.options()
    options = options_of("taxonomy", tmp_path / "run", nucleotide_weight=0)
    assert 1e-4 < find_lr(PretrainFindLrConfig.from_flat({n: v for n, v in options.items() if n in known})) < 1
    assert (tmp_path / "run/find_lr.tsv").exists()
