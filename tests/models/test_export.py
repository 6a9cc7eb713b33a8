"""The models as one graph for other numbers of samples, ASVs and unique ASVs."""

import pytest
import torch
from torch.export import Dim, export

from aam.config import CategoryConfig, ModelConfig, TargetConfig
from aam.data.sampling.samples import Samples
from aam.models.heads import TargetSpec
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import CategorySpec


def samples_of(seed: int, samples: int, asvs: int, unique: int, nucleotides: int = 24) -> Samples:
    draw = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, 5, (unique, nucleotides), generator=draw, dtype=torch.uint8)
    tokens[0, 15:] = 0  # a shorter ASV
    asv_index = torch.randint(unique, (samples, asvs), generator=draw)
    padding = torch.arange(asvs) >= torch.randint(1, asvs + 1, (samples, 1), generator=draw)
    counts = torch.randint(1, 90, (samples, asvs), generator=draw).masked_fill(padding, 0)
    categories = torch.randint(4, (samples, 2), generator=draw)
    return Samples(tokens, asv_index, counts, counts.sum(1), padding, categories=categories)


@pytest.fixture(params=["full", "induced"])
def predictor(request) -> SequencePredictor:
    torch.manual_seed(0)
    shape = {"embedding_dim": 16, "attention_heads": 2, "attention_layers": 1, "max_bp": 24, "nucleotide_patch": 4}
    encoder = SequenceEncoder(ModelConfig.model_validate(shape | {"sample_attention": request.param}))
    target = TargetConfig(metadata_column="age", asv_features=8, target_loss="quantile")
    categories = CategoryConfig(categorical_columns="site,season", categorical_fusion="cross_attention")
    spec = CategorySpec(sizes=(4, 4), parents=(None, None), fused=2)
    outputs = TargetSpec((3,), ((0.1, 0.5, 0.9),), (0.0,))
    return SequencePredictor(encoder, outputs, target, categories, spec).eval()


def dynamic(samples: Samples) -> Samples:
    """Which dimensions vary: samples, ASVs in a sample, and unique ASVs."""
    rows, columns, unique = Dim("samples", min=2), Dim("asvs", min=2), Dim("unique", min=2)
    grid = {0: rows, 1: columns}
    return Samples({0: unique}, grid, grid, {0: rows}, grid, None, None, {0: rows}, None)


def test_an_exported_predictor_predicts_other_numbers_of_samples_and_asvs(predictor):
    example = samples_of(1, samples=5, asvs=7, unique=9)
    program = export(predictor, (example,), dynamic_shapes=(dynamic(example),))
    for shape in ((5, 7, 9), (3, 4, 30), (11, 25, 6)):
        samples = samples_of(2, *shape)
        with torch.no_grad():
            expected, found = predictor(samples), program.module()(samples)
        torch.testing.assert_close(found.prediction, expected.prediction, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(found.sample_embedding, expected.sample_embedding, rtol=1e-5, atol=1e-5)


def test_an_exported_encoder_embeds_other_numbers_of_samples_and_asvs(predictor):
    example, samples = (samples_of(1, 5, 7, 9)._replace(categories=None), samples_of(2, 3, 4, 30))
    shapes = dynamic(example)._replace(categories=None)
    program = export(predictor.encoder, (example,), dynamic_shapes=(shapes,))
    samples = samples._replace(categories=None)
    with torch.no_grad():
        expected, found = predictor.encoder(samples), program.module()(samples)
    torch.testing.assert_close(found.z, expected.z, rtol=1e-5, atol=1e-5)
