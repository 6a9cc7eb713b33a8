import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from aam.config import ModelConfig
from aam.data.files.sequences import MASK, PAD, VOCABULARY_SIZE
from aam.models.asv_encoder import AsvEncoder, PatchStem, predict_masked

exact = {"rtol": 1e-10, "atol": 1e-10}


def encoder(config: ModelConfig) -> AsvEncoder:
    torch.manual_seed(0)
    return AsvEncoder(config).double()


def test_stem_is_embedding_then_concatenation_then_projection():
    torch.manual_seed(0)
    stem = PatchStem(patch=3, patches=4, width=8)
    patches = torch.randint(0, VOCABULARY_SIZE, (5, 4, 3), dtype=torch.uint8)
    # any embedding E and projection W give such a stem; here E is the identity
    concatenated = functional.one_hot(patches.long(), VOCABULARY_SIZE).float().flatten(2)
    torch.testing.assert_close(stem(patches), concatenated @ stem.project.weight.T + stem.position)


@pytest.mark.parametrize("patch", [1, 4, 5])
def test_logits_of_masked_nucleotides_are_those_of_the_full_head(make_config, make_batch, patch: int):
    model, samples = encoder(make_config(nucleotide_patch=patch)), make_batch(1)
    tokens, mask = samples.asvs, samples.masked_nucleotides
    logits = predict_masked(model, tokens, mask)
    patches = model(tokens.masked_fill(mask, MASK)).patches
    every = functional.linear(patches, model.nucleotide_head.weight, model.nucleotide_head.bias)
    every = every.view(len(tokens), -1, VOCABULARY_SIZE)[:, : tokens.shape[1]]
    torch.testing.assert_close(logits, every[mask], **exact)
    torch.testing.assert_close(model.nucleotide_head(patches, mask), logits, **exact)


def test_predictions_do_not_see_what_is_masked(make_config, make_batch):
    model, samples = encoder(make_config()), make_batch(2)
    tokens, mask = samples.asvs, samples.masked_nucleotides
    other = torch.where(mask, 1 + tokens % 4, tokens)
    assert torch.equal(predict_masked(model, tokens, mask), predict_masked(model, other, mask))
    assert not torch.equal(model(tokens).embedding, model(other).embedding)


@pytest.mark.parametrize("chunk", [2, 100])
def test_asvs_without_masked_nucleotides_change_no_prediction(make_config, make_batch, chunk: int):
    model, samples = encoder(make_config(asv_chunk_size=chunk)), make_batch(4)
    tokens, mask = samples.asvs, samples.masked_nucleotides
    mask[::2] = False
    masking = mask.any(1)
    assert 0 < masking.sum() < len(mask)
    torch.testing.assert_close(
        predict_masked(model, tokens, mask), predict_masked(model, tokens[masking], mask[masking]), **exact
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 12), patch=st.sampled_from([1, 3, 4]), same=st.booleans())
def test_chunks_and_lengths_change_nothing(make_config, make_batch, seed: int, chunk: int, patch: int, same: bool):
    samples = make_batch(seed, same_length=same)
    tokens, mask = samples.asvs, samples.masked_nucleotides
    chunked = encoder(make_config(nucleotide_patch=patch, asv_chunk_size=chunk))
    model = encoder(make_config(nucleotide_patch=patch))
    whole = model(tokens).embedding
    torch.testing.assert_close(chunked(tokens).embedding, whole, **exact)
    torch.testing.assert_close(predict_masked(chunked, tokens, mask), predict_masked(model, tokens, mask), **exact)
    length = (tokens != PAD).sum(1).tolist()
    alone = torch.cat([model(row[None, :end]).embedding for row, end in zip(tokens, length, strict=True)])
    torch.testing.assert_close(whole, alone, **exact)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), extra=st.integers(1, 9))
def test_order_and_extra_padding_change_nothing(make_config, make_batch, seed: int, extra: int):
    model, samples = encoder(make_config(max_bp=32)), make_batch(seed)
    tokens, mask = samples.asvs, samples.masked_nucleotides
    embedding = model(tokens).embedding
    wider, wider_mask = functional.pad(tokens, (0, extra), value=PAD), functional.pad(mask, (0, extra), value=False)
    torch.testing.assert_close(model(wider).embedding, embedding, **exact)
    torch.testing.assert_close(predict_masked(model, wider, wider_mask), predict_masked(model, tokens, mask), **exact)
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(model(tokens[order]).embedding, embedding[order], **exact)


def test_every_length_up_to_the_longest_is_told_apart(make_config):
    model = encoder(make_config(max_bp=12))
    ones = torch.ones(12, 12, dtype=torch.uint8).tril()
    embedding = model(ones).embedding
    assert torch.pdist(embedding).min() > 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
def test_nothing_masked_gives_no_logits_but_a_gradient_of_zero_everywhere(make_config, make_batch, checkpointing):
    model, tokens = encoder(make_config(gradient_checkpointing=checkpointing)), make_batch(3).asvs
    logits = predict_masked(model, tokens, torch.zeros_like(tokens, dtype=torch.bool))
    assert logits.shape == (0, VOCABULARY_SIZE)
    logits.sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if not name.startswith("pooling.")}
    assert all(gradient is not None and not gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_each_block_is_called_once_a_pass(make_config, make_batch, chunk: int, checkpointing: bool):
    # where blocks are sharded, every process of a run must call them equally often, whatever its fraction of the ASVs
    model = encoder(make_config(asv_chunk_size=chunk, gradient_checkpointing=checkpointing))
    samples = make_batch(3)
    tokens, mask = samples.asvs, samples.masked_nucleotides
    calls: list[int] = []
    for i, block in enumerate(model.transformer.blocks):
        block.register_forward_hook(lambda *given, i=i: calls.append(i))
    passes = [
        lambda: model(tokens).embedding,
        lambda: predict_masked(model, tokens, mask),
        lambda: predict_masked(model, tokens, torch.zeros_like(mask)),
    ]
    for run in passes:
        run().sum().backward()
        assert calls == [0, 1]
        calls.clear()


def test_the_memory_of_a_block_is_bounded_by_its_chunks(make_config, make_batch):
    model = encoder(make_config(asv_chunk_size=4))
    tokens = make_batch(3).asvs
    rows: list[int] = []
    for block in model.transformer.blocks:
        block.attention.register_forward_hook(lambda module, given, output: rows.append(len(output)))
    model(tokens)
    # shorter ASVs first, and without their padding: 4 + 4 + 1 rows
    patches = (tokens != PAD).sum(1).sort().values.div(model.patch).ceil().long()
    sizes = [int(part.sum()) for part in patches.split(4)]
    assert rows == [*sizes, *sizes]


def test_asvs_that_are_too_long_are_refused(make_config):
    with pytest.raises(ValueError, match="25 nucleotides given, the model reads 24"):
        encoder(make_config())(torch.ones(1, 25, dtype=torch.uint8))


def test_open_max_bp_is_refused(make_config):
    with pytest.raises(ValueError, match="max_bp must be resolved"):
        AsvEncoder(make_config(max_bp=None))
