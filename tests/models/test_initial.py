import copy
from typing import get_args

import pytest
import torch
from torch import nn

from aam.config import CategoricalFusion, CategoryConfig, TargetConfig
from aam.models.heads import FaithPdHead, TargetSpec
from aam.models.initial import Linear, SeededModule, allocate, initial_parameters, initialize
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.models.types import CategorySpec

CPU = torch.device("cpu")


THREE = TargetSpec((3,), ((),), (0.0,))


@pytest.fixture
def build(make_config):
    def make(**options: object) -> SequencePredictor:
        target = TargetConfig(metadata_column="age", count_weight=1.0, regressor_hidden_dims=(8,))
        config = make_config(**options)
        return SequencePredictor(
            SequenceEncoder(config, heads={"faith_pd": FaithPdHead(config.embedding_dim)}), THREE, target
        )

    return make


@pytest.fixture(params=[None, *get_args(CategoricalFusion)])
def build_each(request, make_config):
    """With categories, each fusion in turn, and without."""
    if request.param is None:
        return request.getfixturevalue("build")
    given = {"categorical_columns": "a,b", "categorical_fusion": request.param, "categorical_hierarchy": "a=c"}
    categories = CategoryConfig.model_validate(given | {"hierarchy_combine": "gated", "categorical_dim": 8})
    spec = CategorySpec(sizes=(6, 4, 5), parents=(2, None, None), fused=2)

    def make() -> SequencePredictor:
        encoder = SequenceEncoder(make_config(count_embedding="film", sample_attention="induced"))
        return SequencePredictor(encoder, THREE, TargetConfig(metadata_column="age"), categories, spec)

    return make


def equal(one: nn.Module, other: nn.Module) -> bool:
    values = other.state_dict()
    assert one.state_dict().keys() == values.keys()
    return all(torch.equal(value, values[name]) for name, value in one.state_dict().items())


def test_every_module_says_how_its_parameters_are_drawn(build_each):
    owners = [module for module in build_each().modules() if list(module.parameters(recurse=False))]
    assert {type(module) for module in owners if not isinstance(module, SeededModule)} == {nn.LayerNorm}


def test_a_model_from_meta_has_the_weights_of_one_that_was_built(build_each):
    torch.manual_seed(0)
    built = build_each()
    state = torch.random.get_rng_state()
    with torch.device("meta"):
        hollow = build_each()
    assert all(parameter.is_meta for parameter in hollow.parameters())
    assert list(hollow.buffers()) == []
    filled = allocate(hollow, CPU)
    initialize(built, 7)
    initialize(filled, 7)
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator goes on as if nothing had been"
    assert equal(built, filled)
    assert [p.requires_grad for p in built.parameters()] == [p.requires_grad for p in filled.parameters()]
    initialize(filled, 8)
    assert not equal(built, filled)


def test_a_model_from_meta_computes_the_same(build, make_batch):
    samples = make_batch(1)
    samples = samples._replace(masked_abundances=~samples.padding)
    built = build()
    initialize(built, 7)
    with torch.device("meta"):
        hollow = build()
    filled = allocate(hollow, CPU)
    filled.load_state_dict(built.state_dict())
    outputs = [model(samples) for model in (built, filled)]
    assert all(torch.equal(one, other) for one, other in zip(*outputs, strict=True))


def test_weights_depend_on_no_other_module(build):
    shallow, deep = build(attention_layers=1), build(attention_layers=1)
    initialize(shallow, 7)
    blocks = deep.encoder.asv_encoder.transformer.blocks
    blocks.append(copy.deepcopy(blocks[0]))
    initialize(deep, 7)
    values = deep.state_dict()
    assert len(values) > len(shallow.state_dict())
    assert all(torch.equal(value, values[name]) for name, value in shallow.state_dict().items())


def test_no_two_modules_have_the_same_weights(build):
    model = build(embedding_dim=32)
    initialize(model, 7)
    firsts = [p.flatten()[0].item() for _, p in model.named_parameters() if p.ndim == 2]
    assert len(set(firsts)) == len(firsts)


def test_each_parameter_can_be_given_its_value_otherwise(build):
    plain, other = build(), build()
    initialize(plain, 7)
    shapes = []

    def assign(parameter: nn.Parameter, value: torch.Tensor) -> None:
        assert value.device == CPU
        shapes.append(value.shape)
        parameter.data = value

    initialize(other, 7, assign)
    assert shapes == [parameter.shape for parameter in other.parameters()]
    assert equal(plain, other)


def test_fresh_weights_are_distributed_as_initial_ones(build):
    torch.manual_seed(0)
    model = build(embedding_dim=128, feedforward_ratio=4)
    fresh = {name: value.clone() for name, value in model.state_dict().items()}
    initialize(model, 7)
    for name, value in model.state_dict().items():
        if value.numel() >= 1000:
            assert value.std().item() == pytest.approx(fresh[name].std().item(), rel=0.1), name
        elif value.numel() > 1 and value.std() == 0:
            assert torch.equal(value, fresh[name]), name


@pytest.mark.parametrize(
    ("name", "std"),
    [
        ("asv_encoder.stem.project.weight", 4**-0.5),
        ("asv_encoder.stem.position", 0.5),
        ("asv_encoder.nucleotide_head.weight", 0.02),
        ("asv_encoder.transformer.blocks.1.attention.qkv.weight", 128**-0.5),
        # two residual branches in each of two layers
        ("asv_encoder.transformer.blocks.1.attention.output.weight", 0.5 * 128**-0.5),
        ("sample_encoder.transformer.blocks.0.feedforward.expand.weight", 128**-0.5),
        ("sample_encoder.transformer.blocks.0.feedforward.contract.weight", 0.5 * 512**-0.5),
        ("sample_encoder.pooling.value.weight", 256**-0.5),
        ("sample_encoder.asv_project.weight", 128**-0.5),
        ("sample_encoder.abundance.contract.weight", 0.5 * 128**-0.5),
    ],
)
def test_deviations(make_config, name: str, std: float):
    model = SequenceEncoder(make_config(embedding_dim=128, feedforward_ratio=4, max_bp=150))
    initialize(model, 7)
    value = model.get_parameter(name)
    assert value.std().item() == pytest.approx(std, rel=0.05)
    assert abs(value.mean().item()) < 0.05 * std


def test_biases_and_norms_start_at_their_constants(build):
    model = build()
    initialize(model, 7)
    drawn = ("faith_pd_head.bias", "abundance.expand.bias", "target_head.hidden.0.bias")
    biases = {name: p for name, p in model.named_parameters() if name.endswith("bias") and not name.endswith(drawn)}
    assert not any(bias.any() for bias in biases.values())
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert all((norm.weight == 1).all() for norm in norms)


def test_a_linear_map_without_a_deviation_is_as_torch_draws_it():
    torch.manual_seed(0)
    ours, torchs = Linear(50, 200), nn.Linear(50, 200)
    for one, other in zip(ours.parameters(), torchs.parameters(), strict=True):
        assert one.abs().max() <= 50**-0.5
        assert one.std().item() == pytest.approx(other.std().item(), rel=0.1)


def test_a_module_that_does_not_say_how_is_refused():
    with pytest.raises(TypeError, match="head: Embedding owns parameters"):
        initial_parameters(nn.Embedding(3, 2), "head", 0)
