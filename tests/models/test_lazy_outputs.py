"""What a model keeps for the backward pass and returns: nothing that no loss and no caller asked for."""

from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from aam.config import CategoricalFusion, CategoryConfig, TargetConfig
from aam.data.files.sequences import VOCABULARY_SIZE
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


def test_logits_exist_where_nucleotides_are_masked(make_encoder, make_batch, monkeypatch):
    samples = make_batch(1, unique=9, same_length=True)
    masked = torch.zeros_like(samples.masked_nucleotides)
    masked[2, 5] = masked[2, 6] = masked[7, 22] = True
    model, linear = make_encoder(), nn.Linear.forward
    logits: list[torch.Size] = []

    def watched(module: nn.Linear, given: Tensor) -> Tensor:
        output = linear(module, given)
        if module is model.asv_encoder.nucleotide_head:
            logits.append(output.shape)
        return output

    monkeypatch.setattr(nn.Linear, "forward", watched)
    output = model(samples._replace(masked_nucleotides=masked))
    assert output.nucleotide_logits.shape == (3, VOCABULARY_SIZE)
    assert logits == [(2, PATCH * VOCABULARY_SIZE)]  # of two patches of four nucleotides
    assert model(samples._replace(masked_nucleotides=None)).nucleotide_logits is None
    assert len(logits) == 1


def test_attention_weights_exist_at_no_level(make_encoder, make_batch):
    samples = make_batch(2)
    model = make_encoder(**WIDE, attn_implementation="flash")
    shapes, _ = kept_by(lambda: model(samples))
    assert len(shapes) > 50
    assert weights_among(shapes) == []
    plain, _ = kept_by(lambda: make_encoder(**WIDE, attn_implementation="math")(samples))
    assert weights_among(plain)  # they would be seen


def test_the_whole_model_returns_no_asvs_in_their_samples(make_encoder, make_batch):
    output = make_encoder(faith_pd=True, taxonomy={"phylum": 3}, abundance=True)(make_batch(3))
    returned = [value for value in (*output[:-1], *output.heads.values()) if value is not None]
    assert len(returned) == 7
    assert all(value.dim() <= 2 for value in returned)


@pytest.mark.parametrize("fusion", get_args(CategoricalFusion))
def test_predictions_return_no_more_than_is_asked_for(make_encoder, make_batch, fusion):
    samples = make_batch(4, unique=13)
    rows, asvs = samples.padding.shape
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
    samples = samples._replace(categories=torch.ones(rows, 2, dtype=torch.int64))
    shapes, output = kept_by(lambda: model(samples))
    assert output.abundances is None
    assert [value.dim() for value in output if value is not None] == [2, 2, 2]
    assert weights_among(shapes) == []
    if isinstance(model.conditioning.fusion, CrossAttentionFusion):
        assert model.category_attention(samples).shape == (rows, HEADS, asvs, 2)
