"""Small models and batches for the tests of the models."""

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from aam.config import ModelConfig
from aam.data.sequences import PAD
from aam.models.distance_link import LinkName
from aam.models.sequence_encoder import SequenceEncoder


class Batch(NamedTuple):
    tokens: Tensor
    slot: Tensor
    count: Tensor
    depth: Tensor
    mask: Tensor


def small_config(**options: object) -> ModelConfig:
    shape: dict[str, object] = {"embedding_dim": 16, "attention_heads": 2, "attention_layers": 2, "max_bp": 23}
    return ModelConfig.model_validate(shape | {"nucleotide_patch": 4} | options)


def random_batch(seed: int, samples: int = 4, unique: int = 9, longest: int = 23, same_length: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    length = torch.randint(5, longest + 1, (unique,), generator=generator)
    length[0] = longest
    beyond = torch.arange(longest) >= length[:, None]
    tokens = torch.randint(1, 6, (unique, longest), generator=generator, dtype=torch.uint8)
    tokens = tokens if same_length else tokens.masked_fill(beyond, PAD)
    size = torch.randint(1, unique + 1, (samples,), generator=generator)
    slot = torch.stack([torch.randperm(unique, generator=generator) for _ in range(samples)])[:, : size.max()]
    count = torch.randint(1, 500, slot.shape, generator=generator)
    absent = torch.arange(slot.shape[1]) >= size[:, None]
    mask = (torch.rand(tokens.shape, generator=generator) < 0.3) & (tokens != PAD)
    count = count.masked_fill(absent, 0)
    # some reads are of ASVs that the model does not read
    depth = count.sum(1) + torch.randint(1, 50, (samples,), generator=generator)
    return Batch(tokens, slot.masked_fill(absent, 0), count, depth, mask)


def build_encoder(
    seed: int = 0,
    faith_pd: bool = False,
    link: LinkName = "laplace",
    taxonomy: Mapping[str, int] | None = None,
    **options: object,
) -> SequenceEncoder:
    torch.manual_seed(seed)
    return SequenceEncoder(small_config(**options), faith_pd=faith_pd, link=link, taxonomy=taxonomy)


def refuse_calls(model: nn.Module, names: Iterable[str]) -> None:
    for name in names:

        def called(*given: object, name: str = name) -> None:
            raise AssertionError(f"{name} was called")

        setattr(model, name, called)


@pytest.fixture(scope="session")
def refuse() -> Callable[[nn.Module, Iterable[str]], None]:
    """Let methods of a model fail when they are called."""
    return refuse_calls


@pytest.fixture(scope="session")
def make_config() -> Callable[..., ModelConfig]:
    return small_config


@pytest.fixture(scope="session")
def make_batch() -> Callable[..., Batch]:
    return random_batch


@pytest.fixture(scope="session")
def make_encoder() -> Callable[..., SequenceEncoder]:
    return build_encoder
