from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.config import ModelConfig, SamplingConfig
from aam.data.files.sequences import encode_sequences
from aam.data.files.tables import read_tables
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.sampling.samples import Samples
from aam.models.asv_encoder import predict_masked
from aam.models.distance_link import LINKS
from aam.models.sequence_encoder import SequenceEncoder

RANKS = {"phylum": 3, "class": 5}
ALL_HEADS = {"faith_pd": True, "taxonomy": RANKS, "abundance": True}

tolerances = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=["float32", "float64"]
)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_shapes(make_encoder, make_batch):
    samples = make_batch(0)
    output = make_encoder(**ALL_HEADS)(samples)
    assert output.sample_embedding.shape == output.z.shape == (4, 16)
    assert output.asv_embedding.shape == (9, 16)
    assert output.nucleotide_logits.shape == (int(samples.masked_nucleotides.sum()), 7)
    shapes = {name: tuple(predicted.shape) for name, predicted in output.heads.items()}
    assert shapes == {"faith_pd": (4,), "taxonomy": (9, 8), "abundance": samples.padding.shape}


def test_optional_outputs_are_absent(make_encoder, make_batch):
    output = make_encoder()(make_batch(0)._replace(masked_nucleotides=None))
    assert output.nucleotide_logits is None
    assert output.heads == {}


@tolerances
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_duplicates_and_order_of_unique_asvs_change_nothing(make_encoder, make_batch, dtype, tolerance, seed: int):
    model, samples = make_encoder().to(dtype), make_batch(seed)._replace(masked_nucleotides=None)
    tokens, index = samples.asvs, samples.asv_index
    expected = model(samples).sample_embedding
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    moved = samples._replace(asvs=tokens[order], asv_index=order.argsort()[index])
    close(model(moved).sample_embedding, expected, tolerance)
    repeated = samples._replace(asvs=tokens[index.flatten()], asv_index=torch.arange(index.numel()).view(index.shape))
    close(model(repeated).sample_embedding, expected, tolerance)


@tolerances
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 9))
def test_other_samples_and_chunks_change_nothing(
    make_encoder, make_batch, alone, dtype, tolerance, seed: int, chunk: int
):
    samples = make_batch(seed)._replace(masked_nucleotides=None)
    expected = make_encoder().to(dtype)(samples).z
    model = make_encoder(asv_chunk_size=chunk).to(dtype)
    for row in range(4):
        close(model(alone(samples, row)).z, expected[row : row + 1], tolerance)


def gradients(model: SequenceEncoder, samples: Samples) -> list[torch.Tensor]:
    output = model(samples)
    loss = model.distance(output.z, output.z).square().sum() + output.nucleotide_logits.square().mean()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


def test_checkpointing_and_chunks_give_the_same_gradients(make_encoder, make_batch):
    expected = gradients(make_encoder().double(), make_batch(1))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in expected)
    for options in ({"gradient_checkpointing": True}, {"asv_chunk_size": 2, "gradient_checkpointing": True}):
        torch.testing.assert_close(gradients(make_encoder(**options).double(), make_batch(1)), expected)


def test_levels_by_themselves_give_what_the_forward_pass_gives(make_encoder, make_batch):
    model, samples = make_encoder(**ALL_HEADS), make_batch(2)
    output = model(samples)
    asvs = model.asv_encoder(samples.asvs).embedding
    encoded = model.sample_encoder(samples._replace(asvs=asvs))
    assert torch.equal(asvs, output.asv_embedding)
    assert torch.equal(model.embed_asvs(samples.asvs), asvs)
    assert torch.equal(encoded.embedding, output.sample_embedding)
    assert torch.equal(model.scale(encoded.embedding), output.z)
    assert torch.equal(
        predict_masked(model.asv_encoder, samples.asvs, samples.masked_nucleotides), output.nucleotide_logits
    )
    assert torch.equal(model.head("faith_pd")(encoded.embedding), output.heads["faith_pd"])
    assert torch.equal(model.head("taxonomy")(asvs), output.heads["taxonomy"])
    assert torch.equal(model.head("abundance")(encoded.asv_context), output.heads["abundance"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.head("faith_pd")(encoded.embedding), output.heads["faith_pd"])
        assert torch.equal(model.head("taxonomy")(asvs), output.heads["taxonomy"])
        assert model(samples).heads["taxonomy"].dtype == torch.float32


def test_embedded_asvs_give_what_their_nucleotides_give(make_encoder, make_batch):
    model, samples = make_encoder(**ALL_HEADS), make_batch(2)._replace(masked_nucleotides=None)
    expected = model(samples)
    output = model(samples._replace(asvs=model.embed_asvs(samples.asvs)))
    assert output.nucleotide_logits is expected.nucleotide_logits is None
    assert torch.equal(output.z, expected.z)
    assert torch.equal(output.asv_embedding, expected.asv_embedding)
    assert all(torch.equal(output.heads[name], predicted) for name, predicted in expected.heads.items())


def test_masking_nucleotides_changes_nothing_else(make_encoder, make_batch):
    """An ASV is embedded from all of its nucleotides; those that are masked are predicted by a pass of their own."""
    model, samples = make_encoder(**ALL_HEADS), make_batch(2)
    output, expected = model(samples), model(samples._replace(masked_nucleotides=None))
    assert torch.equal(output.z, expected.z)
    assert all(torch.equal(output.heads[name], predicted) for name, predicted in expected.heads.items())


def test_a_head_that_a_model_lacks_is_no_part_of_it(make_encoder):
    model = make_encoder(faith_pd=True)
    assert model.head_names == ("faith_pd",)
    with pytest.raises(AttributeError, match="taxonomy_head"):
        model.head("taxonomy")


def test_a_rank_has_a_head_of_its_own(make_encoder, make_batch):
    model, samples = make_encoder(taxonomy=RANKS), make_batch(2)
    logits = model(samples).heads["taxonomy"]
    assert logits.abs().max() < 1  # equal odds, nearly
    for rank, columns in (("phylum", slice(3)), ("class", slice(3, 8))):
        model.zero_grad()
        model(samples).heads["taxonomy"][:, columns].square().sum().backward()
        reached = {name for name, head in model.head("taxonomy").ranks.items() if head.weight.grad.any()}
        assert reached == {rank}


def test_a_masked_abundance_is_not_seen_by_its_head(make_encoder, make_batch, alone):
    model, samples = make_encoder(abundance=True), make_batch(1)._replace(masked_nucleotides=None)
    samples = alone(samples, int((~samples.padding).sum(1).argmax()))
    masked = torch.zeros_like(samples.padding)
    masked[:, :2] = True
    swapped = samples._replace(counts=torch.cat([samples.counts[:, :2].flip(1), samples.counts[:, 2:]], dim=1))
    assert not torch.equal(swapped.counts, samples.counts)
    one, other = (model(each._replace(masked_abundances=masked)).heads["abundance"] for each in (samples, swapped))
    assert torch.equal(one, other)
    assert not torch.equal(model(samples).heads["abundance"], model(swapped).heads["abundance"])


def test_sharding_units_hold_the_whole_model(make_encoder):
    model = make_encoder(**ALL_HEADS)
    held = {id(parameter) for unit in model.sharding_units for parameter in unit.parameters()}
    assert held == {id(parameter) for parameter in model.parameters()}
    place = {unit: i for i, unit in enumerate(model.sharding_units)}
    inner = [(one, other) for other in place for one in place if one is not other and one in list(other.modules())]
    assert inner
    assert all(place[one] < place[other] for one, other in inner), "inner ones before those that hold them"


LOSSES = ("unifrac", "nucleotide", "faith_pd", "taxonomy", "abundance")
SETS = [{name for name, chosen in zip(LOSSES, mask, strict=True) if chosen} for mask in product((0, 1), repeat=5)]


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("learned", [learned for learned in SETS if learned], ids=lambda names: "-".join(sorted(names)))
def test_the_parameters_that_no_loss_reaches_need_no_gradient(make_encoder, make_batch, learned: set[str], chunk: int):
    model, samples = make_encoder(**ALL_HEADS, asv_chunk_size=chunk), make_batch(1)
    model.fix_unused(learned)
    output = model(samples if "nucleotide" in learned else samples._replace(masked_nucleotides=None))
    outputs = {"unifrac": model.distance(output.z, output.z), "nucleotide": output.nucleotide_logits, **output.heads}
    torch.stack([outputs[name].square().sum() for name in learned]).sum().backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("link", ["laplace", "tanh", "cosine"])
def test_the_link_is_exchangeable(make_encoder, make_batch, link: str):
    model = make_encoder(link=link)
    z = model(make_batch(2)).z
    assert torch.equal(model.distance(z, z), LINKS[link](z, z))


def test_unbounded_distances_are_euclidean(make_config):
    torch.manual_seed(0)
    model = SequenceEncoder(make_config(), link="euclidean")
    far = torch.tensor([[0.0] * 16, [10.0] * 16])
    assert model.distance(far, far)[0, 1] == pytest.approx(40, abs=0.01)


def test_attention_kernels_agree(make_encoder, make_batch):
    samples = make_batch(3)
    default = make_encoder()(samples)
    for implementation in ("math", "flash"):
        other = make_encoder(attn_implementation=implementation)(samples)
        torch.testing.assert_close(other, default, rtol=1e-5, atol=1e-5)


def test_bfloat16_autocast_stays_near_single_precision(make_encoder, make_batch):
    model = make_encoder(embedding_dim=64, attention_heads=4)
    samples = make_batch(4)
    exact = model(samples)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(samples)
    assert rounded.z.dtype == torch.float32
    distance = model.distance(rounded.z, rounded.z)
    assert (distance.diagonal() == 0).all()
    torch.testing.assert_close(distance, model.distance(exact.z, exact.z), rtol=0, atol=0.05)
    (distance.sum() + rounded.nucleotide_logits.float().sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_the_same_seed_gives_the_same_weights(make_encoder):
    first, second, other = make_encoder(3).state_dict(), make_encoder(3).state_dict(), make_encoder(4).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("width", [32, 128])
def test_first_distances_are_spread(real_data, width: int):
    # equal or saturated distances at the start would leave little gradient to learn from
    table = read_tables([real_data / "tiny_moving_pictures" / "table.biom"])
    batch = FixedBatches(SampleDraws(table, SamplingConfig(), seed=0), np.arange(table.n_samples), table.n_samples)[0]
    tokens = torch.from_numpy(encode_sequences(table.sequences))[batch.asv]
    torch.manual_seed(0)
    model = SequenceEncoder(ModelConfig(embedding_dim=width, max_bp=tokens.shape[1]))
    with torch.no_grad():
        z = model(batch.samples(tokens)).z
    row, column = torch.triu_indices(len(z), len(z), offset=1)
    distance = model.distance(z, z)[row, column]
    assert 0.5 < distance.mean() < 0.9
    assert distance.std() > 0.08


def test_learns_distances_and_nucleotides_of_one_batch(make_encoder, make_batch):
    model = make_encoder(embedding_dim=32, attention_heads=2, attention_layers=1)
    samples = make_batch(6, samples=6)
    true_nucleotides = samples.asvs[samples.masked_nucleotides].long()
    true = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).triu(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        output = model(samples)
        distance_loss = (model.distance(output.z, output.z).triu(1) - true).square().sum() / 15
        nucleotide_loss = torch.nn.functional.cross_entropy(output.nucleotide_logits, true_nucleotides)
        optimizer.zero_grad()
        (distance_loss + nucleotide_loss).backward()
        optimizer.step()
    assert distance_loss.item() < 0.03
    assert nucleotide_loss.item() < 0.3
