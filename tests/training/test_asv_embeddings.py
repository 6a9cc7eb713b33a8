import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from aam.data.files.embedding_files import EmbeddingFiles
from aam.models.sequence_predictor import SequencePredictor
from aam.training.inference import asv_embeddings
from aam.training.inference.asv_embeddings import HeldEmbeddings, MappedEmbeddings, cache_of, embed_asvs, embeddings_of
from aam.workflows.prepare import prepare_training


@pytest.fixture
def run(study, make_train_config):
    run = prepare_training(study, make_train_config())
    run.model.eval()
    return run


@pytest.fixture
def encoded(monkeypatch):
    """ASVs that were encoded, pass by pass."""
    rows: list[int] = []
    inner = SequencePredictor.embed_asvs

    def count(model, tokens):
        rows.append(len(tokens))
        return inner(model, tokens)

    monkeypatch.setattr(SequencePredictor, "embed_asvs", count)
    return rows


def given(run) -> tuple:
    return run.model, run.material.nucleotides


def test_each_asv_is_encoded_once_and_by_the_next_run_not_at_all(run, encoded, tmp_path, caplog):
    compute, asvs = run.material.compute, run.material.study.table.n_asvs
    expected = embed_asvs(*given(run), np.arange(asvs), compute)
    encoded.clear()
    some = np.arange(0, asvs, 2)
    with caplog.at_level(logging.INFO):
        first = embeddings_of(*given(run), some, compute, tmp_path)
        assert sum(encoded) == len(some)
        everything = embeddings_of(*given(run), np.arange(asvs), compute, tmp_path)
        assert sum(encoded) == asvs
        again = embeddings_of(*given(run), np.arange(asvs), compute, tmp_path)
        assert sum(encoded) == asvs
    assert f"{asvs - len(some)} are new" in caplog.text
    torch.testing.assert_close(first.of(torch.from_numpy(some)), expected[some], rtol=1e-5, atol=1e-6)
    for embeddings in (everything, again):
        assert isinstance(embeddings, HeldEmbeddings)
        torch.testing.assert_close(embeddings.of(torch.arange(asvs)), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(everything.rows, again.rows)
    with pytest.raises(IndexError):
        first.of(torch.tensor([1]))


def test_many_embeddings_stay_on_disk(run, encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(asv_embeddings, "HELD_BYTES", 0)
    monkeypatch.setattr(asv_embeddings, "TOGETHER", 10)
    compute, asvs = run.material.compute, run.material.study.table.n_asvs
    expected = embed_asvs(*given(run), np.arange(asvs), compute)
    encoded.clear()
    embeddings_of(*given(run), np.arange(15), compute, tmp_path)
    embeddings = embeddings_of(*given(run), np.arange(asvs), compute, tmp_path)
    assert sum(encoded) == asvs
    assert max(encoded) == 10
    assert isinstance(embeddings, MappedEmbeddings)
    chosen = torch.tensor([3, 40, 3, 14, 15])
    torch.testing.assert_close(embeddings.of(chosen), expected[chosen], rtol=1e-5, atol=1e-6)
    with pytest.raises(IndexError):
        embeddings_of(*given(run), np.arange(15), compute, tmp_path).of(torch.tensor([15]))


def test_damaged_embeddings_are_computed_anew(run, encoded, tmp_path, caplog):
    compute, asvs = run.material.compute, np.arange(run.material.study.table.n_asvs)
    before = embeddings_of(*given(run), asvs, compute, tmp_path)
    (path,) = tmp_path.rglob("*.npy")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    encoded.clear()
    after = embeddings_of(*given(run), asvs, compute, tmp_path)
    assert encoded == [1]
    assert "1 of 52 embeddings are damaged" in caplog.text
    torch.testing.assert_close(after.rows, before.rows, rtol=1e-5, atol=1e-6)


def test_a_folder_is_of_one_encoder_and_precision(run, make_train_config, study, tmp_path):
    compute = run.material.compute

    def name(model=run.model, compute=compute) -> str:
        files = cache_of(model, compute, tmp_path)
        assert isinstance(files, EmbeddingFiles)
        return files.folder.name

    own = name()
    assert name(run.model.encoder) == own
    assert name(compute=replace(compute, dtype=torch.bfloat16)) != own
    other = prepare_training(study, make_train_config(attn_implementation="math", sample_dropout=0.1)).model
    other.load_state_dict(run.model.state_dict())
    assert name(other) == own
    with torch.no_grad():  # what embeddings of ASVs do not depend on
        run.model.target_head.output.weight.add_(1)
        run.model.encoder.sample_encoder.asv_project.weight.add_(1)
        run.model.encoder.asv_encoder.nucleotide_head.weight.add_(1)
    assert name() == own
    with torch.no_grad():
        run.model.encoder.asv_encoder.stem.position[0, 0] += 1e-6
    changed = name()
    assert changed != own
    assert name(run.model.double()) != changed
