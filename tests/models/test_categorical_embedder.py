import pytest
import torch
from torch import Tensor, nn

from aam.data.categorical import MISSING, UNSEEN
from aam.models.categorical_embedder import (
    CategoricalEmbedder,
    HierarchicalCategoricalEmbedder,
)

WIDTH = 6
CITY, REGION, COUNTRY, SEASON, QUARTER = range(5)
SIZES = (7, 5, 4, 6, 4)
# city in region in country, season in quarter
PARENTS = (REGION, COUNTRY, None, QUARTER, None)
COMBINES = ["sum", "gated"]


def embedder(combine: str = "sum", fused: int = 5, parents=PARENTS, sizes=SIZES) -> HierarchicalCategoricalEmbedder:
    torch.manual_seed(0)
    return HierarchicalCategoricalEmbedder(sizes, parents, fused, WIDTH, combine)


def rows(*samples: tuple[int, ...]) -> Tensor:
    return torch.tensor(samples)


def test_a_vector_for_each_column_and_all_beside_one_another():
    torch.manual_seed(0)
    model = CategoricalEmbedder((5, 4), WIDTH)
    columns, joined = model(rows((2, 3), (4, 2), (0, 1)))
    assert columns.shape == (3, 2, WIDTH)
    assert torch.equal(joined, torch.cat([columns[:, 0], columns[:, 1]], dim=1))
    assert torch.equal(columns[0, 1], model.tables[1].weight[3])
    assert not columns[2].any(), "a missing and an unseen category begin without a vector"


def test_columns_without_a_table_are_not_read():
    model = CategoricalEmbedder((5,), WIDTH)
    assert torch.equal(model(rows((2, 99)))[0], model(rows((2, -1)))[0])


def test_known_categories_begin_with_vectors_of_unit_length():
    model = CategoricalEmbedder((500,), 64)
    length = model.tables[0].weight[2:].norm(dim=1)
    assert length.mean().item() == pytest.approx(1, abs=0.05)


def test_an_unseen_category_learns_nothing_and_a_missing_one_does():
    model = CategoricalEmbedder((5,), WIDTH)
    model(rows((UNSEEN,), (MISSING,), (3,))).joined.sum().backward()
    moved = model.tables[0].weight.grad.any(dim=1).tolist()
    assert moved == [True, False, False, True, False]


@pytest.mark.parametrize("combine", COMBINES)
def test_a_childs_vector_moves_with_its_parents_gradient(combine: str):
    model = embedder(combine, fused=1)
    optimizer = torch.optim.SGD(model.tables[str(COUNTRY)].parameters(), lr=0.5)
    both, other = rows((2, 2, 2, 0, 0)), rows((3, 3, 3, 0, 0))
    before, apart = model(both).joined.detach(), model(other).joined.detach()
    model(both).joined.sum().backward()
    optimizer.step()
    assert (model(both).joined < before - 1e-3).all(), "a smaller sum was asked for"
    assert torch.equal(model(other).joined, apart), "another country stays"


def test_a_vector_is_the_sum_of_those_above_it():
    model = embedder()
    weight = {int(column): table.weight for column, table in model.tables.items()}
    columns = model(rows((4, 3, 2, 5, 3))).columns[0]
    country, quarter = weight[COUNTRY][2], weight[QUARTER][3]
    region = weight[REGION][3] + country
    expected = [weight[CITY][4] + region, region, country, weight[SEASON][5] + quarter, quarter]
    torch.testing.assert_close(columns, torch.stack(expected))


@pytest.mark.parametrize("combine", COMBINES)
def test_chains_are_independent(combine: str):
    model = embedder(combine)
    one, other = model(rows((2, 2, 2, 2, 2), (3, 3, 3, 2, 2))).columns
    assert torch.equal(one[SEASON:], other[SEASON:])
    one, other = model(rows((2, 2, 2, 2, 2), (2, 2, 2, 2, 3))).columns
    assert torch.equal(one[:SEASON], other[:SEASON])
    assert not torch.equal(one[SEASON], other[SEASON])


@pytest.mark.parametrize("combine", COMBINES)
def test_a_column_with_two_children(combine: str):
    model = embedder(combine, 2, (2, 2, None), (5, 5, 4))
    one, other = model(rows((2, 3, 2), (2, 3, 3))).columns
    assert ((one - other).norm(dim=1) > 1e-3).all(), "both move with their parent"
    model(rows((2, 3, 2))).columns[:, 1].sum().backward()
    assert model.tables["2"].weight.grad[2].any()
    assert not model.tables["0"].weight.grad.any(), "a child does not learn from its sibling"


@pytest.mark.parametrize("combine", COMBINES)
@pytest.mark.parametrize("index", [MISSING, UNSEEN])
def test_a_category_that_is_not_known_has_its_parents_vector(combine: str, index: int):
    model = embedder(combine)
    columns = model(rows((index, 3, 2, index, index))).columns[0]
    assert torch.equal(columns[CITY], columns[REGION])
    assert columns[REGION].any()
    # up the whole chain, and nothing where nothing is known
    columns = model(rows((UNSEEN, UNSEEN, 2, UNSEEN, UNSEEN))).columns[0]
    assert torch.equal(columns[CITY], model.tables[str(COUNTRY)].weight[2])
    assert not columns[SEASON].any()


@pytest.mark.parametrize("combine", COMBINES)
def test_an_unseen_category_has_its_parents_vector_after_training_that_concealed_some(combine: str):
    model = embedder(combine)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        model(rows((UNSEEN, 3, 2, 2, 2), (2, UNSEEN, 2, UNSEEN, 3))).joined.square().sum().backward()
        optimizer.step()
    columns = model(rows((UNSEEN, 3, 2, UNSEEN, 2))).columns[0]
    torch.testing.assert_close(columns[[CITY, SEASON]], columns[[REGION, QUARTER]], rtol=0, atol=0)


def test_a_gate_weighs_between_own_and_parent():
    model = embedder("gated", fused=2)
    weight = {int(column): table.weight for column, table in model.tables.items()}
    region, own = weight[REGION][3], weight[COUNTRY][2]
    mixed = model(rows((4, 3, 2, 0, 0))).columns[0, REGION]
    low, high = torch.minimum(region, own), torch.maximum(region, own)
    assert ((low < mixed) & (mixed < high)).all()
    nn.init.constant_(model.gates[str(REGION)].weigh.bias, 50.0)
    torch.testing.assert_close(model(rows((4, 3, 2, 0, 0))).columns[0, REGION], region)


@pytest.mark.parametrize("combine", COMBINES)
def test_nothing_exists_that_no_loss_reaches(combine: str):
    model = embedder(combine, fused=1)
    assert list(model.tables) == [str(column) for column in (COUNTRY, REGION, CITY)], "seasons are not above a city"
    model(rows((2, 3, 2, 2, 2))).joined.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("parents", [(1, 0), (0, None), (1, 2, 0)])
def test_a_column_above_itself_is_refused(parents: tuple[int | None, ...]):
    with pytest.raises(ValueError, match="are above themselves"):
        embedder(parents=parents, sizes=(4,) * len(parents), fused=1)
