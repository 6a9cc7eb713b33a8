"""Training on varied samples: what is varied, and that nothing but training is."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from aam.config import PretrainConfig, PretrainFindLrConfig, TrainConfig
from aam.data.sampling.dataset import StepPlan
from aam.data.sampling.rarefaction import FIXED
from aam.data.study import load_study
from aam.errors import InputError
from aam.training.substitution import substitute
from aam.workflows.find_lr import find_lr
from aam.workflows.prepare import prepare_training
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining

READS = {"asv_dropout": 0.3, "depth_jitter": 0.5}
CLASSES = {"metadata_column": "habitat", "classifier": True}


@pytest.fixture
def prepare(train_options, tmp_path):
    """A prepared fine-tuning."""

    def make(**options):
        config = TrainConfig.from_flat(train_options(tmp_path / "run", rarefy_depth=100, **options))
        return prepare_training(load_study(config.inputs, config.sampling, needs=("metadata",)), config)

    return make


def test_predictions_of_held_out_samples_are_those_of_validation(aam, train_options, study_folder, tmp_path):
    """Neither validation nor prediction varies anything, so they agree to the last digit."""
    varied = {**READS, "sequence_noise": 0.05, "mix_samples": 0.5, "num_workers": 2}
    assert aam("train", **train_options(tmp_path / "run", **CLASSES, **varied)) == 0
    words = {"checkpoint": tmp_path / "run", "table": study_folder / "table.biom", "output": tmp_path / "p.tsv"}
    assert aam("predict", **words, device="cpu") == 0
    expected, found = (
        pd.read_csv(path, sep="\t", index_col="sample_id")
        for path in (tmp_path / "run/val_predictions.tsv", tmp_path / "p.tsv")
    )
    columns = [name for name in expected.columns if name.startswith("probability")]
    difference = found.loc[expected.index, columns] - expected[columns]
    assert len(columns) == 3
    assert difference.abs().to_numpy().max() < 1e-6  # other samples in a batch round differently


@pytest.mark.parametrize("rarefaction", ["epoch", "fixed"])
def test_training_samples_are_varied_and_mixed_within_their_class(prepare, rarefaction):
    run = prepare(mix_samples=1.0, rarefaction=rarefaction, **CLASSES)
    plain = prepare(rarefaction=rarefaction, **CLASSES).material.draws
    draws, split, counts = run.material.draws, run.material.split, run.material.study.table.counts.toarray()
    habitat = run.material.study.metadata["habitat"].to_numpy()
    for sample in split.train:
        same = [row for row in split.train if habitat[row] == habitat[sample]]
        of_class = counts[same].sum(axis=0)
        for epoch in range(3):
            asv, count = draws.counts(sample, epoch)
            assert count.sum() == 100
            assert of_class[asv].all()
    changed = [(draws.rows(split.train, epoch) != plain.rows(split.train, epoch)).nnz for epoch in range(3)]
    assert min(changed) > 0
    assert (draws.rows(split.train, 0) != draws.rows(split.train, 1)).nnz > 0
    assert (draws.rows(split.val, FIXED) != plain.rows(split.val, FIXED)).nnz == 0


def test_without_options_nothing_is_varied(prepare, pretrain_options, tmp_path):
    config = PretrainConfig.from_flat(pretrain_options(tmp_path / "run"))
    pretraining = prepare_pretraining(load_pretraining_study(config), config)
    for run in (prepare(), prepare(**CLASSES), prepare(sequence_noise=0.1), pretraining):
        assert run.material.draws.augmentation is None


def gradient_of(run, plan) -> torch.Tensor:
    run.objective.backward(run.dataset[plan], lambda loss: loss)
    parts = [parameter.grad.flatten() for parameter in run.model.parameters() if parameter.grad is not None]
    return torch.cat(parts)


@pytest.mark.parametrize("sizes", [(8,), (3, 5)])
def test_fine_tuning_reads_the_nucleotides_of_a_step_with_its_noise(prepare, sizes):
    learns = {"freeze_base": False}
    noisy, plain, still = prepare(sequence_noise=0.2, lr=0.02), prepare(**learns), prepare(**learns)
    rows = np.random.default_rng(7).permutation(plain.material.split.train)[:8]
    plan = StepPlan(5, 0, False, tuple(np.split(rows, np.cumsum(sizes)[:-1])))
    keys = torch.from_numpy(plain.material.study.asv_keys)
    plain.objective.inputs.nucleotides = substitute(plain.material.nucleotides, keys, 0.2, plain.config.runtime.seed, 5)
    expected = gradient_of(plain, plan)
    assert torch.equal(gradient_of(noisy, plan), expected)
    assert not torch.allclose(gradient_of(still, plan), expected)


def test_a_learning_rate_is_sought_on_varied_samples(pretrain_options, tmp_path):
    known = PretrainFindLrConfig.options()

    def suggested(name: str, **options) -> pd.DataFrame:
        given = pretrain_options(tmp_path / name, lr_steps=20, **options)
        find_lr(PretrainFindLrConfig.from_flat({key: value for key, value in given.items() if key in known}))
        return pd.read_csv(tmp_path / name / "find_lr.tsv", sep="\t")

    curves = [suggested("plain"), suggested("reads", **READS), suggested("noise", sequence_noise=0.05)]
    assert len({curve["loss"].iloc[0] for curve in curves}) == 3


def test_variations_of_reads_on_a_matrix_are_warned_of(pretrain_options, tmp_path, caplog):
    given = pretrain_options(tmp_path / "run", **READS, unifrac_matrix=tmp_path / "d.npy", tree=None)
    with pytest.raises(InputError, match=r"d\.npy"):
        load_pretraining_study(PretrainConfig.from_flat(given))
    assert "--asv-dropout, --depth-jitter: reads are drawn afresh" in caplog.text


def test_samples_that_are_alone_in_their_class_are_not_mixed_which_is_said(prepare, study_folder, tmp_path, caplog):
    header, types, *rows = (study_folder / "metadata.tsv").read_text().splitlines()
    ids = [row.split("\t")[0] for row in rows]
    kinds = ["rare" if i == 3 else "ab"[i % 2] for i in range(len(ids))]
    sides = ["val" if i > 30 else "train" for i in range(len(ids))]
    lines = [f"{header}\tkind\tside", f"{types}\tcategorical\tcategorical"]
    lines += ["\t".join(parts) for parts in zip(rows, kinds, sides, strict=True)]
    (tmp_path / "m.tsv").write_text("\n".join(lines) + "\n")
    files = {"metadata": tmp_path / "m.tsv", "split_column": "side", "group_column": None}
    run = prepare(metadata_column="kind", classifier=True, mix_samples=1.0, **files)
    assert f"the only training samples of their class stay unmixed: {ids[3]}" in caplog.text
    draws, row = run.material.draws, run.material.study.table.sample_ids.index(ids[3])
    plain = replace(draws, augmentation=None)
    assert (draws.rows(np.array([row]), 0) != plain.rows(np.array([row]), 0)).nnz == 0
