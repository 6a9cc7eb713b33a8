"""What a model keeps for the backward pass and returns: nothing that no loss and no caller asked for."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from aam.config import CategoricalFusion, CategoryConfig, TargetConfig
from aam.data.sequences import VOCABULARY_SIZE
from aam.models.fusion import CrossAttentionFusion
from aam.models.heads import TargetSpec
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import CategorySpec

PATCH = 4
HEADS = 4
WIDE = {"embedding_dim": 64}
"""Heads are wider than there are positions, so that no shape looks like attention weights by chance."""


def kept_by(call: Callable[[], object]) -> tuple[list[torch.Size], object]:
    """Shapes of the tensors that a pass keeps, and what it returns."""
    shapes: list[torch.Size] = []

    def keep(tensor: Tensor) -> Tensor:
        shapes.append(tensor.shape)
        return tensor.detach()

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        output = call()
    return shapes, output


def weights_among(shapes: list[torch.Size]) -> list[torch.Size]:
    """Shapes of attention weights between positions."""
    return [shape for shape in shapes if len(shape) == 4 and shape[-1] == shape[-2] > 1]


def test_logits_exist_where_nucleotides_are_hidden(make_encoder, make_batch):
    tokens, slot, count, depth, _ = make_batch(1, unique=9, same_length=True)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    mask[2, 5] = mask[2, 6] = mask[7, 22] = True
    model = make_encoder()
    logits: list[torch.Size] = []
    model.asv_encoder.nucleotide_head.register_forward_hook(lambda head, given, output: logits.append(output.shape))
    assert model(tokens, slot, count, depth, mask).nucleotide_logits.shape == (3, VOCABULARY_SIZE)
    assert logits == [(2, PATCH * VOCABULARY_SIZE)]  # of two patches of four nucleotides
    assert model(tokens, slot, count, depth).nucleotide_logits is None
    assert len(logits) == 1


def test_attention_weights_exist_at_no_level(make_encoder, make_batch):
    tokens, slot, count, depth, mask = make_batch(2)
    model = make_encoder(**WIDE, attn_implementation="flash")
    shapes, _ = kept_by(lambda: model(tokens, slot, count, depth, mask))
    assert len(shapes) > 50
    assert weights_among(shapes) == []
    plain, _ = kept_by(lambda: make_encoder(**WIDE, attn_implementation="math")(tokens, slot, count, depth, mask))
    assert weights_among(plain)  # they would be seen


def test_asvs_in_their_samples_are_returned_on_request(make_encoder, make_batch):
    tokens, slot, count, depth, _ = make_batch(3)
    model = make_encoder()
    asvs = model.embed_asvs(tokens)
    alone, pooled = kept_by(lambda: model.sample_encoder(asvs, slot, count, depth))
    with_context, asked = kept_by(lambda: model.sample_encoder(asvs, slot, count, depth, return_context=True))
    assert pooled.asv_context is None
    assert asked.asv_context.shape == (*slot.shape, 16)
    assert alone == with_context  # it is there for the pooling anyway
    by_sample = [value for value in model(tokens, slot, count, depth) if value is not None and value.dim() > 2]
    assert by_sample == []


@pytest.mark.parametrize("fusion", get_args(CategoricalFusion))
def test_predictions_return_no_more_than_is_asked_for(make_encoder, make_batch, fusion):
    tokens, slot, count, depth, _ = make_batch(4, unique=13)
    given = {"categorical_columns": "a,b", "categorical_fusion": fusion}
    given |= {"cross_attn_heads": HEADS} if fusion in ("cross_attention", "perceiver") else {}
    spec = CategorySpec(sizes=(5, 4), parents=(None, None), fused=2)
    model = SequencePredictor(
        make_encoder(**WIDE, attn_implementation="flash"),
        TargetSpec((1,), ((),), (0.0,)),
        TargetConfig(metadata_column=("x",), count_weight=1.0),
        CategoryConfig.model_validate(given),
        spec,
    )
    categories = torch.ones(len(slot), 2, dtype=torch.int64)
    shapes, output = kept_by(lambda: model(tokens, slot, count, depth, None, categories))
    assert output.counts is None
    assert [value.dim() for value in output if value is not None] == [2, 2]
    assert weights_among(shapes) == []
    if isinstance(model.conditioning.fusion, CrossAttentionFusion):
        weights = model.category_attention(model.embed_asvs(tokens), slot, count, depth, categories)
        assert weights.shape == (len(slot), HEADS, slot.shape[1], 2)
