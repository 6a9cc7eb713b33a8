import math

import numpy as np
import pandas as pd
import pytest

from aam.config import PretrainFindLrConfig
from aam.errors import InputError
from aam.workflows.find_lr import find_lr, smooth, suggest, sweep
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining


def config_of(options: dict) -> PretrainFindLrConfig:
    known = PretrainFindLrConfig.options()
    return PretrainFindLrConfig.from_flat({name: value for name, value in options.items() if name in known})


def test_the_suggested_rate_is_sane(pretrain_options, tmp_path):
    """Far above the first rates, which teach nothing, and below those at which the loss rises again."""
    best = find_lr(config_of(pretrain_options(tmp_path / "run")))
    curve = pd.read_csv(tmp_path / "run/find_lr.tsv", sep="\t")
    assert list(curve.columns) == ["lr", "loss", "smoothed_loss"]
    assert curve["lr"].iloc[0] == pytest.approx(1e-6)
    assert np.diff(np.log(curve["lr"])) == pytest.approx(np.full(len(curve) - 1, np.log(1e6) / 99), rel=1e-3)
    assert 3e-4 < best < curve["lr"][curve["smoothed_loss"].argmin()]
    assert (tmp_path / "run/plots/find_lr.png").stat().st_size > 5000


def curve_of(losses) -> pd.DataFrame:
    """A curve over six decades of learning rates."""
    return pd.DataFrame(
        {"lr": np.geomspace(1e-6, 1, len(losses)), "loss": losses, "smoothed_loss": smooth(np.array(losses))}
    )


def falling(rates, noise, seed=0):
    """Losses that fall by half about a rate of 0.01 and rise from 0.2 on."""
    course = 1 - 0.5 / (1 + (0.01 / rates) ** 2) + np.maximum(0, np.log10(rates / 0.2)) * 20
    return course * np.exp(noise * np.random.default_rng(seed).standard_normal(len(rates)))


@pytest.mark.parametrize("steps", [30, 100, 300])
@pytest.mark.parametrize("seed", range(5))
def test_noise_of_the_batches_does_not_move_the_suggestion_far(steps, seed):
    losses = falling(np.geomspace(1e-6, 1, steps), 0.02, seed)
    assert 2e-3 < suggest(curve_of(losses)) < 5e-2


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_that_never_falls_clearly_gives_no_suggestion(seed):
    flat = np.exp(0.02 * np.random.default_rng(seed).standard_normal(100))
    rising = np.linspace(1, 3, 100) * flat
    for losses in (flat, rising):
        with pytest.raises(
            InputError, match=r"the loss falls by .*% between learning rates of 1e-06 and 1, too little"
        ):
            suggest(curve_of(losses))


def test_smoothing_is_centred_and_keeps_constants():
    assert smooth(np.full(50, 3.0)) == pytest.approx(np.full(50, 3.0))
    losses = np.random.default_rng(0).uniform(1, 2, 50)
    assert smooth(losses[::-1]) == pytest.approx(smooth(losses)[::-1])


def test_the_command_line_does_the_same(aam, pretrain_options, tmp_path, capsys):
    not_read = {"epochs", "lr", "log_every"}
    given = pretrain_options(tmp_path / "run", lr_steps=30, lr_min=1e-4)
    options = {name: value for name, value in given.items() if name not in not_read}
    assert aam("find-lr", **options) == 0
    assert "try --lr" in capsys.readouterr().err
    assert aam("find-lr", **options) == 2
    assert aam("find-lr", **options, overwrite=True) == 0


class Diverging:
    """Losses that become NaN at some step."""

    def __init__(self, model, at: int) -> None:
        self.model, self.at, self.step = model, at, 0

    def backward(self, step, scale):
        self.step += 1
        loss = self.model.scale.log_tau.exp().sum() * (math.nan if self.step > self.at else 1.0)
        loss.backward()
        return {"loss": loss.detach()}


def test_the_curve_ends_before_the_loss_is_no_number(pretrain_options, tmp_path):
    config = config_of(pretrain_options(tmp_path / "run"))
    run = prepare_pretraining(load_pretraining_study(config.pretraining()), config.pretraining())
    object.__setattr__(run, "objective", Diverging(run.model, 6))
    curve = sweep(run, config.search)
    assert len(curve) == 6
    assert np.isfinite(curve).all().all()


def test_a_rate_that_diverges_at_once_is_refused(pretrain_options, tmp_path, monkeypatch):
    config = config_of(pretrain_options(tmp_path / "run"))
    monkeypatch.setattr("aam.workflows.find_lr.prepare_pretraining", _diverging)
    with pytest.raises(InputError, match="--lr-min"):
        find_lr(config)
    assert not (tmp_path / "run").exists()


def _diverging(study, config):
    run = prepare_pretraining(study, config)
    object.__setattr__(run, "objective", Diverging(run.model, 2))
    return run
