from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aam.config import ModelConfig, SamplingConfig
from aam.data.dataset import FixedBatches
from aam.data.rarefaction import SampleDraws
from aam.data.sequences import encode_sequences
from aam.data.tables import read_tables
from aam.models.distance_link import LINKS
from aam.models.sequence_encoder import SequenceEncoder

RANKS = {"phylum": 3, "class": 5}

tolerances = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=["float32", "float64"]
)


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


def test_shapes(make_encoder, make_batch):
    tokens, slot, count, depth, mask = make_batch(0)
    output = make_encoder(faith_pd=True, taxonomy=RANKS)(tokens, slot, count, depth, mask)
    assert output.sample_embedding.shape == output.z.shape == (4, 16)
    assert output.asv_embedding.shape == (9, 16)
    assert output.nucleotide_logits.shape == (int(mask.sum()), 7)
    assert output.faith_pd.shape == (4,)
    assert output.taxonomy_logits.shape == (9, 8)


def test_optional_outputs_are_absent(make_encoder, make_batch):
    tokens, slot, count, depth, _ = make_batch(0)
    output = make_encoder()(tokens, slot, count, depth)
    assert output.nucleotide_logits is None
    assert output.faith_pd is None
    assert output.taxonomy_logits is None


@tolerances
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_duplicates_and_order_of_unique_asvs_change_nothing(make_encoder, make_batch, dtype, tolerance, seed: int):
    model = make_encoder().to(dtype)
    tokens, slot, count, depth, _ = make_batch(seed)
    expected = model(tokens, slot, count, depth).sample_embedding
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    rank = order.argsort()
    close(model(tokens[order], rank[slot], count, depth).sample_embedding, expected, tolerance)
    one_row_each = model(tokens[slot.flatten()], torch.arange(slot.numel()).view(slot.shape), count, depth)
    close(one_row_each.sample_embedding, expected, tolerance)


@tolerances
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), chunk=st.integers(1, 9))
def test_other_samples_and_chunks_change_nothing(make_encoder, make_batch, dtype, tolerance, seed: int, chunk: int):
    tokens, slot, count, depth, _ = make_batch(seed)
    expected = make_encoder().to(dtype)(tokens, slot, count, depth).z
    model = make_encoder(asv_chunk_size=chunk).to(dtype)
    for row in range(len(slot)):
        used, renumbered = slot[row][count[row] > 0].unique(return_inverse=True)
        present = count[row][count[row] > 0]
        close(
            model(tokens[used], renumbered[None], present[None], depth[row : row + 1]).z,
            expected[row : row + 1],
            tolerance,
        )


def gradients(model: SequenceEncoder, batch) -> list[torch.Tensor]:
    tokens, slot, count, depth, mask = batch
    output = model(tokens, slot, count, depth, mask)
    loss = model.distance(output.z, output.z).square().sum() + output.nucleotide_logits.square().mean()
    loss.backward()
    return [parameter.grad for parameter in model.parameters()]


def test_checkpointing_and_chunks_give_the_same_gradients(make_encoder, make_batch):
    expected = gradients(make_encoder().double(), make_batch(1))
    assert all(gradient is not None and gradient.isfinite().all() for gradient in expected)
    for options in ({"gradient_checkpointing": True}, {"asv_chunk_size": 2, "gradient_checkpointing": True}):
        torch.testing.assert_close(gradients(make_encoder(**options).double(), make_batch(1)), expected)


def test_embedding_in_two_steps_is_the_same(make_encoder, make_batch):
    model = make_encoder()
    tokens, slot, count, depth, _ = make_batch(2)
    output = model(tokens, slot, count, depth)
    asvs = model.embed_asvs(tokens)
    assert torch.equal(asvs, output.asv_embedding)
    assert torch.equal(model.embed_samples(asvs, slot, count, depth), output.sample_embedding)
    assert torch.equal(model.scale(output.sample_embedding), output.z)


def test_entry_points_give_what_the_forward_pass_gives(make_encoder, make_batch):
    model = make_encoder(faith_pd=True, taxonomy=RANKS)
    tokens, slot, count, depth, mask = make_batch(2)
    output = model(tokens, slot, count, depth, mask)
    assert torch.equal(model.predict_hidden(tokens, mask), output.nucleotide_logits)
    assert torch.equal(model.predict_faith_pd(output.sample_embedding), output.faith_pd)
    assert torch.equal(model.predict_taxonomy(output.asv_embedding), output.taxonomy_logits)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.predict_faith_pd(output.sample_embedding), output.faith_pd)
        assert torch.equal(model.predict_taxonomy(output.asv_embedding), output.taxonomy_logits)
        assert model(tokens, slot, count, depth).taxonomy_logits.dtype == torch.float32


def test_heads_that_a_model_lacks_predict_nothing(make_encoder):
    with pytest.raises(ValueError, match="built with faith_pd"):
        make_encoder().predict_faith_pd(torch.zeros(2, 16))
    with pytest.raises(ValueError, match="built with taxonomy"):
        make_encoder().predict_taxonomy(torch.zeros(2, 16))


def test_a_rank_has_a_head_of_its_own(make_encoder, make_batch):
    model, (tokens, slot, count, depth, _) = make_encoder(taxonomy=RANKS), make_batch(2)
    logits = model(tokens, slot, count, depth).taxonomy_logits
    assert logits.abs().max() < 1  # equal odds, nearly
    for rank, columns in (("phylum", slice(3)), ("class", slice(3, 8))):
        model.zero_grad()
        model(tokens, slot, count, depth).taxonomy_logits[:, columns].square().sum().backward()
        reached = {name for name, head in model.taxonomy_head.ranks.items() if head.weight.grad.any()}
        assert reached == {rank}


def entry_calls(model: SequenceEncoder, batch) -> dict[str, Callable[[], object]]:
    tokens, slot, count, depth, mask = batch
    asvs, samples = torch.zeros(len(tokens), 16), torch.zeros(4, 16)
    return {
        "forward": lambda: model(tokens, slot, count, depth, mask),
        "embed_asvs": lambda: model.embed_asvs(tokens),
        "embed_samples": lambda: model.embed_samples(asvs, slot, count, depth),
        "predict_hidden": lambda: model.predict_hidden(tokens, mask),
        "scale": lambda: model.scale(samples),
        "predict_faith_pd": lambda: model.predict_faith_pd(samples),
        "predict_taxonomy": lambda: model.predict_taxonomy(asvs),
    }


@pytest.mark.parametrize("name", ["forward", *SequenceEncoder.ENTRY_POINTS])
def test_no_entry_point_calls_another(make_encoder, make_batch, refuse, name: str):
    # of a sharded root each gathers the weights and frees them: the inner one would free what the outer still needs
    model = make_encoder(faith_pd=True, taxonomy=RANKS)
    refuse(model, {*SequenceEncoder.ENTRY_POINTS, "forward"} - {name})
    entry_calls(model, make_batch(2))[name]()


@pytest.mark.parametrize("chunk", [2, 100])
@pytest.mark.parametrize("distances", [True, False])
@pytest.mark.parametrize("nucleotides", [True, False])
@pytest.mark.parametrize("faith_pd", [True, False])
@pytest.mark.parametrize("taxonomy", [True, False])
def test_the_parameters_that_no_loss_reaches_need_no_gradient(
    make_encoder, make_batch, distances: bool, nucleotides: bool, faith_pd: bool, taxonomy: bool, chunk: int
):
    if not (distances or nucleotides or faith_pd or taxonomy):
        return
    model = make_encoder(faith_pd=True, taxonomy=RANKS, asv_chunk_size=chunk)
    model.fix_unused(distances, nucleotides, faith_pd, taxonomy)
    tokens, slot, count, depth, mask = make_batch(1)
    output = model(tokens, slot, count, depth, mask if nucleotides else None)
    losses = [
        (distances, model.distance(output.z, output.z).square().sum()),
        (nucleotides, 0.0 if output.nucleotide_logits is None else output.nucleotide_logits.square().sum()),
        (faith_pd, output.faith_pd.square().sum()),
        (taxonomy, output.taxonomy_logits.square().sum()),
    ]
    sum(loss for learned, loss in losses if learned).backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert reached == {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("link", ["laplace", "tanh", "cosine"])
def test_the_link_is_exchangeable(make_encoder, make_batch, link: str):
    model = make_encoder(link=link)
    tokens, slot, count, depth, _ = make_batch(2)
    z = model(tokens, slot, count, depth).z
    assert torch.equal(model.distance(z, z), LINKS[link](z, z))


def test_unbounded_distances_are_euclidean(make_config):
    torch.manual_seed(0)
    model = SequenceEncoder(make_config(), link="euclidean")
    far = torch.tensor([[0.0] * 16, [10.0] * 16])
    assert model.distance(far, far)[0, 1] == pytest.approx(40, abs=0.01)


def test_attention_kernels_agree(make_encoder, make_batch):
    tokens, slot, count, depth, mask = make_batch(3)
    default = make_encoder()(tokens, slot, count, depth, mask)
    for implementation in ("math", "flash"):
        torch.testing.assert_close(
            make_encoder(attn_implementation=implementation)(tokens, slot, count, depth, mask),
            default,
            rtol=1e-5,
            atol=1e-5,
        )


def test_bfloat16_autocast_stays_near_single_precision(make_encoder, make_batch):
    model = make_encoder(embedding_dim=64, attention_heads=4)
    tokens, slot, count, depth, mask = make_batch(4)
    exact = model(tokens, slot, count, depth, mask)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = model(tokens, slot, count, depth, mask)
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
        z = model(tokens, batch.slot, batch.count, batch.depth).z
    row, column = torch.triu_indices(len(z), len(z), offset=1)
    distance = model.distance(z, z)[row, column]
    assert 0.5 < distance.mean() < 0.9
    assert distance.std() > 0.08


def test_learns_distances_and_nucleotides_of_one_batch(make_encoder, make_batch):
    model = make_encoder(embedding_dim=32, attention_heads=2, attention_layers=1)
    tokens, slot, count, depth, mask = make_batch(6, samples=6)
    true = torch.rand(6, 6, generator=torch.Generator().manual_seed(0)).triu(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(150):
        output = model(tokens, slot, count, depth, mask)
        distance_loss = (model.distance(output.z, output.z).triu(1) - true).square().sum() / 15
        nucleotide_loss = torch.nn.functional.cross_entropy(output.nucleotide_logits, tokens[mask].long())
        optimizer.zero_grad()
        (distance_loss + nucleotide_loss).backward()
        optimizer.step()
    assert distance_loss.item() < 0.03
    assert nucleotide_loss.item() < 0.3
