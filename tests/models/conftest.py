"""Small models and batches for the tests of the models."""

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aam.config import ModelConfig
from aam.data.files.sequences import PAD
from aam.data.sampling.samples import Samples
from aam.models.distance_link import LinkName
from aam.models.heads import AbundanceHead, FaithPdHead, TaxonomyHead
from aam.models.sequence_encoder import SequenceEncoder


def small_config(**options: object) -> ModelConfig:
    shape: dict[str, object] = {"embedding_dim": 16, "attention_heads": 2, "attention_layers": 2, "max_bp": 23}
    return ModelConfig.model_validate(shape | {"nucleotide_patch": 4} | options)


def random_samples(
    seed: int, samples: int = 4, unique: int = 9, longest: int = 23, same_length: bool = False
) -> Samples:
    """Samples that share ASVs, with padding, and with nucleotides to mask; their abundances are all to be seen."""
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(5, longest + 1, (unique,), generator=generator)
    length[0] = longest
    beyond = torch.arange(longest) >= length[:, None]
    asvs = torch.randint(1, 6, (unique, longest), generator=generator, dtype=torch.uint8)
    asvs = asvs if same_length else asvs.masked_fill(beyond, PAD)
    size = torch.randint(1, unique + 1, (samples,), generator=generator)
    index = torch.stack([torch.randperm(unique, generator=generator) for _ in range(samples)])[:, : size.max()]
    counts = torch.randint(1, 500, index.shape, generator=generator)
    padding = torch.arange(index.shape[1]) >= size[:, None]
    masked = (torch.rand(asvs.shape, generator=generator) < 0.3) & (asvs != PAD)
    counts = counts.masked_fill(padding, 0)
    # some reads are of ASVs that the model does not read
    depth = counts.sum(1) + torch.randint(1, 50, (samples,), generator=generator)
    return Samples(asvs, index.masked_fill(padding, 0), counts, depth, padding, masked)


def one_sample(samples: Samples, row: int) -> Samples:
    """A sample by itself: without padding, and with no ASVs but its own."""
    rows, here = slice(row, row + 1), ~samples.padding[row]
    used, index = samples.asv_index[row, here].unique(return_inverse=True)
    masked, abundances, categories = samples.masked_nucleotides, samples.masked_abundances, samples.categories
    return Samples(
        samples.asvs[used],
        index[None],
        samples.counts[rows, here],
        samples.depth[rows],
        samples.padding[rows, here],
        masked_nucleotides=None if masked is None else masked[used],
        masked_abundances=None if abundances is None else abundances[rows, here],
        categories=None if categories is None else categories[rows],
    )


def more_padding(samples: Samples, extra: int) -> Samples:
    """The same samples with more padding, which names an ASV."""
    abundances = samples.masked_abundances
    return samples._replace(
        asv_index=functional.pad(samples.asv_index, (0, extra), value=3),
        counts=functional.pad(samples.counts, (0, extra)),
        padding=functional.pad(samples.padding, (0, extra), value=True),
        masked_abundances=None if abundances is None else functional.pad(abundances, (0, extra), value=False),
    )


def reordered(samples: Samples, order: Tensor) -> Samples:
    """The same samples with their ASVs, padding among them, in another order."""
    abundances = samples.masked_abundances
    return samples._replace(
        asv_index=samples.asv_index[:, order],
        counts=samples.counts[:, order],
        padding=samples.padding[:, order],
        masked_abundances=None if abundances is None else abundances[:, order],
    )


def build_heads(
    width: int, faith_pd: bool, taxonomy: Mapping[str, int] | None, abundance: bool
) -> dict[str, nn.Module]:
    heads: dict[str, nn.Module] = {}
    if faith_pd:
        heads["faith_pd"] = FaithPdHead(width)
    if taxonomy is not None:
        heads["taxonomy"] = TaxonomyHead(width, taxonomy)
    if abundance:
        heads["abundance"] = AbundanceHead(width)
    return heads


def build_encoder(
    seed: int = 0,
    faith_pd: bool = False,
    link: LinkName = "laplace",
    taxonomy: Mapping[str, int] | None = None,
    abundance: bool = False,
    **options: object,
) -> SequenceEncoder:
    config = small_config(**options)
    torch.manual_seed(seed)
    return SequenceEncoder(config, link, build_heads(config.embedding_dim, faith_pd, taxonomy, abundance))


@pytest.fixture(scope="session")
def make_config() -> Callable[..., ModelConfig]:
    return small_config


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Samples]:
    return random_samples


@pytest.fixture(scope="session")
def alone() -> Callable[[Samples, int], Samples]:
    return one_sample


@pytest.fixture(scope="session")
def padded() -> Callable[[Samples, int], Samples]:
    return more_padding


@pytest.fixture(scope="session")
def shuffled() -> Callable[[Samples, Tensor], Samples]:
    return reordered


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., SequenceEncoder]:
    return build_encoder
