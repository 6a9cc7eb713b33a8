import math

import numpy as np
import pandas as pd
import pytest

from aam.config import PretrainFindLrConfig
from aam.errors import InputError
from aam.workflows.find_lr import find_lr, sweep
from aam.workflows.pretrain import load_pretraining_study, prepare_pretraining


def config_of(options: dict) -> PretrainFindLrConfig:
    return PretrainFindLrConfig.from_flat(options)


def test_the_suggested_rate_is_where_the_loss_falls_fastest(pretrain_options, tmp_path):
    search = {"lr_min": 1e-5, "lr_max": 10.0, "lr_steps": 40}
    best = find_lr(config_of(pretrain_options(tmp_path / "run", **search)))
    curve = pd.read_csv(tmp_path / "run/find_lr.tsv", sep="\t")
    assert list(curve.columns) == ["lr", "loss", "smoothed_loss"]
    assert curve["lr"].iloc[0] == pytest.approx(1e-5)
    assert np.diff(np.log(curve["lr"])) == pytest.approx(np.full(len(curve) - 1, np.log(1e6) / 39), rel=1e-3)
    slope = np.gradient(curve["smoothed_loss"], np.log(curve["lr"]))
    assert best == pytest.approx(curve["lr"][slope.argmin()], rel=1e-4)
    assert 1e-5 < best < 1
    smoothed, mean = [], 0.0
    for number, loss in enumerate(curve["loss"], start=1):
        mean = 0.9 * mean + 0.1 * loss
        smoothed.append(mean / (1 - 0.9**number))
    assert curve["smoothed_loss"].to_numpy() == pytest.approx(smoothed, rel=1e-4)
    assert (tmp_path / "run/plots/find_lr.png").stat().st_size > 5000


def test_the_command_line_does_the_same(aam, pretrain_options, tmp_path, capsys):
    options = pretrain_options(tmp_path / "run", lr_steps=8)
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
        loss = self.model.log_tau.exp().sum() * (math.nan if self.step > self.at else 1.0)
        loss.backward()
        return {"loss": loss.detach()}


def test_the_curve_ends_before_the_loss_is_no_number(pretrain_options, tmp_path):
    config = config_of(pretrain_options(tmp_path / "run"))
    run = prepare_pretraining(load_pretraining_study(config), config)
    object.__setattr__(run, "objective", Diverging(run.model, 6))
    curve = sweep(run, config)
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
