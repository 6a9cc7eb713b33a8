"""Learned clades: where they are those of a tree, distances are UniFrac to the last digits."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from torch.export import Dim, export

from aam.config import ModelConfig, PretrainConfig, UnifracConfig
from aam.data.distances.phylogeny import parse_newick
from aam.data.distances.unifrac import StudyTree, distances
from aam.data.sampling.samples import Samples
from aam.models.distance_link import LINK_OF_CLADES, LINKS
from aam.models.learned_clades import CladeSampleEncoder, CladeWeights
from aam.models.sequence_encoder import SequenceEncoder

NEWICK = "(((a:1,b:2):0.5,c:3):0.25,((d:0.5,e:1.5):2,f:1):1);"
COUNTS = [[5, 0, 1, 0, 0, 9], [0, 3, 0, 2, 2, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 40, 0, 0], [5, 0, 1, 0, 0, 9]]


@pytest.fixture
def tree() -> StudyTree:
    return StudyTree.cut(parse_newick(NEWICK), np.arange(6))


def of_tree(tree: StudyTree, weighted: bool) -> tuple[CladeSampleEncoder, CladeWeights]:
    """An encoder whose clades are the branches of a tree, for ASVs that are embedded as unit vectors."""
    clades = len(tree.length)
    config = ModelConfig(
        embedding_dim=6, attention_heads=1, sample_level="clades", learned_clades=clades, feedforward_ratio=1
    )
    encoder, weights = CladeSampleEncoder(config).double(), CladeWeights(clades, weighted=weighted).double()
    below = torch.zeros(clades, 6, dtype=torch.float64)
    for branch in range(clades):
        below[branch, tree.order[tree.start[branch] : tree.stop[branch]]] = 1.0
    with torch.no_grad():
        encoder.membership.straight.weight.copy_(200 * below)
        encoder.membership.contract.weight.zero_()
        encoder.membership.offset.fill_(-100.0)
        # the inverse of softplus
        weights.raw_length.copy_(torch.tensor(tree.length).clamp_min(1e-15).expm1().log())
    return encoder, weights


def samples_of(counts: list[list[int]]) -> Samples:
    reads = torch.tensor(counts)
    index = torch.arange(6).expand_as(reads)
    return Samples(torch.eye(6, dtype=torch.float64), index, reads, reads.sum(1), reads == 0)


@pytest.mark.parametrize("metric", ["unweighted_unifrac", "weighted_normalized_unifrac", "weighted_unifrac"])
def test_clades_of_a_tree_give_unifrac(metric, tree):
    link = LINK_OF_CLADES[metric]
    encoder, weights = of_tree(tree, weighted=link != "jaccard")
    with torch.no_grad():
        z = weights(encoder(samples_of(COUNTS)).embedding)
    expected = distances(tree, sp.csr_array(np.array(COUNTS)), UnifracConfig(unifrac_metric=metric))
    torch.testing.assert_close(LINKS[link](z, z), expected, rtol=1e-9, atol=1e-9)


def test_links_are_their_formulas_and_zero_without_any_clade():
    x, y = torch.rand(4, 7, dtype=torch.float64), torch.rand(3, 7, dtype=torch.float64)
    apart = (x[:, None] - y).abs().sum(2)
    torch.testing.assert_close(LINKS["jaccard"](x, y), apart / torch.maximum(x[:, None], y.expand(4, 3, 7)).sum(2))
    torch.testing.assert_close(LINKS["bray_curtis"](x, y), apart / (x[:, None] + y).sum(2))
    torch.testing.assert_close(LINKS["manhattan"](x, y), apart)
    nothing = torch.zeros(2, 7)
    assert all(float(LINKS[link](nothing, nothing).abs().max()) == 0 for link in LINK_OF_CLADES.values())


CLADES = {"sample_level": "clades", "learned_clades": 12}


@pytest.mark.parametrize("layers", [0, 2])
def test_a_sample_depends_on_its_own_asvs_alone(layers, make_encoder, make_batch, alone, padded, shuffled):
    model, samples = make_encoder(link="jaccard", attention_layers=layers, **CLADES).eval(), make_batch(3)
    with torch.no_grad():
        whole = model(samples).sample_embedding
        assert whole.shape == (4, 24)
        assert ((whole >= 0) & (whole <= 1)).all()
        for row in range(4):
            torch.testing.assert_close(model(alone(samples, row)).sample_embedding[0], whole[row])
        torch.testing.assert_close(model(padded(samples, 5)).sample_embedding, whole)
        order = torch.randperm(samples.padding.shape[1])
        torch.testing.assert_close(model(shuffled(samples, order)).sample_embedding, whole)


def test_a_masked_abundance_is_not_seen_and_the_asv_is(make_encoder, make_batch):
    model, samples = make_encoder(abundance=True, **CLADES).eval(), make_batch(4)
    masked = torch.zeros_like(samples.padding)
    masked[0, 0] = True
    hidden = samples._replace(masked_abundances=masked)
    more = hidden._replace(counts=hidden.counts + masked * 400)
    gone = hidden._replace(counts=hidden.counts * ~masked, padding=hidden.padding | masked)
    with torch.no_grad():
        one, other, without = model(hidden), model(more), model(gone)
    assert torch.equal(one.heads["abundance"], other.heads["abundance"])
    assert torch.equal(one.sample_embedding, other.sample_embedding)
    assert not torch.equal(one.sample_embedding[0], without.sample_embedding[0])


def test_every_parameter_that_learns_has_a_gradient(make_encoder, make_batch):
    for abundance, learned in ((False, ["unifrac"]), (True, ["unifrac", "abundance", "nucleotide"])):
        model = make_encoder(link="jaccard", abundance=abundance, **CLADES)
        model.fix_unused(learned)
        output = model(make_batch(5))
        loss = model.distance(output.z, output.z).square().sum()
        if abundance:
            loss = loss + output.heads["abundance"].sum() + output.nucleotide_logits.sum()
        loss.backward()
        lacking = {n for n, p in model.named_parameters() if p.requires_grad and p.grad is None}
        assert lacking == set()
        assert model.sample_encoder.context_parts[0].weight.requires_grad == abundance


def test_clades_are_exported_with_other_numbers_of_samples_and_asvs(make_encoder, make_batch):
    model = make_encoder(link="jaccard", **CLADES).eval()
    example = make_batch(7)._replace(masked_nucleotides=None)
    rows, columns, unique = Dim("samples", min=2), Dim("asvs", min=2), Dim("unique", min=2)
    grid = {0: rows, 1: columns}
    shapes = Samples({0: unique}, grid, grid, {0: rows}, grid, None, None, None, None)
    program = export(model, (example,), dynamic_shapes=(shapes,))
    other = make_batch(8, samples=7, unique=20)._replace(masked_nucleotides=None)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(other).z, model(other).z, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"learned_clades": 64}, "--learned-clades 64 only has an effect with --sample-level clades"),
        ({"attention_layers": 0}, "--attention-layers 0 needs --sample-level clades"),
        ({**CLADES, "sample_attention": "induced"}, "--sample-attention induced only has an effect with"),
        ({**CLADES, "count_embedding": "film"}, "--count-embedding film only has an effect with --sample-level att"),
        ({**CLADES, "distance_link": "tanh"}, "--distance-link tanh only has an effect with --sample-level attention"),
        ({**CLADES, "unifrac_metric": "generalized_unifrac"}, "learns unweighted and weighted UniFrac"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        PretrainConfig.from_flat({"table": ("t.biom",), "tree": "t.nwk", "output_dir": "out", **options})


def test_a_context_cannot_be_pooled_anew(make_encoder):
    with pytest.raises(ValueError, match="cannot be pooled"):
        make_encoder(**CLADES).sample_encoder.pool(torch.zeros(1, 1, 16), torch.zeros(1, 1, dtype=torch.bool))


def test_an_encoder_of_attention_has_no_clades(make_encoder):
    model: SequenceEncoder = make_encoder()
    assert model.asv_encoder.projection is None
    assert not any("membership" in name for name, _ in model.named_parameters())
