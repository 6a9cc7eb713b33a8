import json
import math

import pytest
import torch
from torch import Tensor, nn

from aam.config import OptimConfig, Scheduler, TrainConfig
from aam.errors import InputError
from aam.training.optim import PLATEAU_FACTOR, PLATEAU_PATIENCE, Schedule, make_optimizer, own_rates

KINDS: tuple[Scheduler, ...] = ("cosine", "cosine_restarts", "plateau", "onecycle", "constant")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, 4)
        self.positions = nn.Parameter(torch.zeros(5, 4))
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.linear(self.norm(self.tokens(tokens) + self.positions)).square().sum()


def schedule_of(
    kind: Scheduler, steps: int, warmup: float = 0.1, lr: float = 0.5
) -> tuple[torch.optim.Optimizer, Schedule]:
    config = OptimConfig(scheduler=kind, warmup_fraction=warmup, lr=lr)
    optimizer = torch.optim.AdamW([nn.Parameter(torch.zeros(1))], lr=lr)
    return optimizer, Schedule(optimizer, config, steps)


def course(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(schedule.lr)
        optimizer.step()
        schedule.step()
    return rates


def test_only_matrices_of_layers_decay() -> None:
    model = Net()
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, plain = make_optimizer(model, OptimConfig(lr=0.01, weight_decay=0.3)).param_groups
    assert [names[parameter] for parameter in decayed["params"]] == ["linear.weight"]
    assert [names[parameter] for parameter in plain["params"]] == [
        "positions",
        "tokens.weight",
        "norm.weight",
        "norm.bias",
        "linear.bias",
    ]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
    assert decayed["lr"] == plain["lr"] == 0.01
    assert decayed["fused"]


def test_a_step_decays_matrices_and_leaves_vectors_without_gradient() -> None:
    model = Net()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = make_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    after = dict(model.named_parameters())
    torch.testing.assert_close(after.pop("linear.weight").detach(), before["linear.weight"] * 0.95)
    for name, value in after.items():
        assert torch.equal(value, before[name]), name


RATES = {"tokens.": 0.02, "linear.": 0.7}


def test_parameters_have_their_own_rate_by_their_names() -> None:
    model = Net()
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = make_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.3), RATES).param_groups
    found = [([names[p] for p in group["params"]], group["lr"], group["weight_decay"]) for group in groups]
    assert found == [
        (["positions", "norm.weight", "norm.bias"], 0.1, 0.0),
        (["tokens.weight"], 0.02, 0.0),
        (["linear.weight"], 0.7, 0.3),
        (["linear.bias"], 0.7, 0.0),
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_every_group_follows_the_schedule_with_its_own_rate(kind: Scheduler) -> None:
    config = OptimConfig(lr=0.1, scheduler=kind)
    plain = make_optimizer(Net(), config)
    optimizer = make_optimizer(Net(), config, RATES)
    schedules = [Schedule(each, config, 40) for each in (plain, optimizer)]
    factors = set()
    for step in range(40):
        assert schedules[1].lr == schedules[0].lr == plain.param_groups[0]["lr"]
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([rate / 0.1 * schedules[0].lr for rate in (0.1, 0.02, 0.7, 0.7)], rel=1e-6)
        factors.add(round(rates[0], 4))
        for each, schedule in zip((plain, optimizer), schedules, strict=True):
            each.step()
            schedule.step()
            if step % 2:
                schedule.plateau(1.0)
    assert len(factors) > 3
    if kind == "plateau":
        assert min(factors) <= 0.1 * PLATEAU_FACTOR


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 10, 11, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.3, 0.95])
def test_every_step_of_a_run_of_any_length_learns(kind: Scheduler, steps: int, warmup: float) -> None:
    rates = course(*schedule_of(kind, steps, warmup), steps)
    assert all(0 < rate <= 0.5 for rate in rates)
    assert max(rates) > 0.1 or (kind, steps) == ("onecycle", 1)  # which only has its first, low step


@pytest.mark.parametrize("kind", ["cosine", "constant", "cosine_restarts", "plateau"])
def test_warm_up_rises_linearly_to_the_highest_rate(kind: Scheduler) -> None:
    rates = course(*schedule_of(kind, 40, 0.1), 40)
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_cosine_is_half_a_wave() -> None:
    rates = course(*schedule_of("cosine", 100, 0.2), 100)
    expected = [0.25 * (1 + math.cos(math.pi * step / 80)) for step in range(80)]
    assert rates[20:] == pytest.approx(expected, rel=1e-9)


def test_cosine_restarts_thrice_at_full_rate() -> None:
    rates = course(*schedule_of("cosine_restarts", 70, 0.0), 70)
    assert [step for step, rate in enumerate(rates) if rate == 0.5] == [0, 10, 30]


def test_constant_stays() -> None:
    assert set(course(*schedule_of("constant", 30, 0.0), 30)) == {0.5}


def test_onecycle_peaks_after_its_warm_up() -> None:
    rates = course(*schedule_of("onecycle", 100, 0.3), 100)
    assert rates[0] == pytest.approx(0.5 / 25)
    assert 28 <= rates.index(max(rates)) <= 31
    assert rates[-1] < 0.001


def test_plateau_halves_when_validations_stop_getting_better() -> None:
    optimizer, schedule = schedule_of("plateau", 100, 0.1)
    for value in range(PLATEAU_PATIENCE + 2):
        schedule.plateau(float(value))  # in the warm-up: ignored
    course(optimizer, schedule, 10)
    rates = []
    for value in [-0.5, -0.6, *[-0.6] * (PLATEAU_PATIENCE + 1)]:
        schedule.plateau(value)
        rates += course(optimizer, schedule, 2)
    assert rates[:-2] == [0.5] * (len(rates) - 2)
    assert rates[-2:] == [0.25, 0.25]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "plateau"])
def test_validations_matter_to_plateau_alone(kind: Scheduler) -> None:
    optimizer, schedule = schedule_of(kind, 20)
    course(optimizer, schedule, 10)
    before = schedule.lr
    for value in range(10):
        schedule.plateau(float(value))
    assert schedule.lr == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stop", [0, 1, 3, 4, 5, 17, 39])
def test_a_schedule_continues_from_json_in_the_middle(kind: Scheduler, stop: int) -> None:
    def run(optimizer: torch.optim.Optimizer, schedule: Schedule, first: int, last: int) -> list[float]:
        rates = []
        for step in range(first, last):
            rates += course(optimizer, schedule, 1)
            if step % 2:
                schedule.plateau(1.0 / 3.0)
        return rates

    whole = run(*schedule_of(kind, 40), 0, 40)
    optimizer, schedule = schedule_of(kind, 40)
    begun = run(optimizer, schedule, 0, stop)
    text = json.dumps(schedule.state_dict(), allow_nan=False)
    optimizer, schedule = schedule_of(kind, 40)
    schedule.load_state_dict(json.loads(text))
    assert begun + run(optimizer, schedule, stop, 40) == whole


def test_a_schedule_of_another_run_is_refused() -> None:
    state = schedule_of("cosine", 40)[1].state_dict()
    with pytest.raises(InputError, match="cosine over 40 steps, this one has cosine over 50"):
        schedule_of("cosine", 50)[1].load_state_dict(state)
    with pytest.raises(InputError, match="this one has onecycle over 40"):
        schedule_of("onecycle", 40)[1].load_state_dict(state)


def test_the_encoder_learns_slower_than_the_heads():
    model = nn.Module()
    model.encoder, model.target_head = nn.Linear(3, 3), nn.Linear(3, 1)
    options = {"output_dir": "run", "metadata_column": "age", "lr": 0.01, "encoder_lr_ratio": 0.25}
    config = TrainConfig.from_flat(options)
    optimizer = make_optimizer(model, config.optim, own_rates(config))
    rate_of = {id(each): group["lr"] for group in optimizer.param_groups for each in group["params"]}
    assert {rate_of[id(each)] for each in model.encoder.parameters()} == {0.0025}
    assert {rate_of[id(each)] for each in model.target_head.parameters()} == {0.01}
    assert optimizer.param_groups[0]["lr"] == 0.01
    same = TrainConfig.from_flat(options | {"encoder_lr_ratio": 1})
    assert own_rates(same) == {}
