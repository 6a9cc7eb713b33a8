"""What `aam train` settles by itself: learning rate and number of epochs."""

import pytest

from aam.config import PretrainConfig, TargetOptimConfig, TrainConfig


def optim(**options):
    return TargetOptimConfig.model_validate(options)


@pytest.mark.parametrize(("width", "rate"), [(64, 3e-3), (256, 1.5e-3), (16, 6e-3)])
def test_the_learning_rate_follows_the_width(width, rate):
    assert optim().settled(width, 100).lr == pytest.approx(rate)
    assert optim(lr=0.01).settled(width, 100).lr == 0.01


@pytest.mark.parametrize(("samples", "epochs"), [(16, 250), (20, 125), (142, 30), (5000, 30)])
def test_a_small_study_is_passed_over_until_there_are_enough_steps(samples, epochs):
    settled = optim().settled(64, samples)
    assert settled.epochs == epochs
    assert -(-samples // settled.step_samples) * settled.epochs >= settled.min_steps
    assert optim(epochs=7).settled(64, samples).epochs == 7
    assert optim(min_steps=0).settled(64, samples).epochs == 30


def test_settling_twice_changes_nothing():
    once = optim().settled(64, 20)
    assert once.settled(128, 500) == once
    assert TargetOptimConfig.model_validate(once.model_dump()) == once


def test_pretraining_keeps_its_own_defaults():
    pretraining = PretrainConfig.from_flat({"output_dir": "run"})
    assert (pretraining.model.embedding_dim, pretraining.optim.lr, pretraining.optim.patience) == (128, 1e-3, None)
    training = TrainConfig.from_flat({"output_dir": "run", "metadata_column": "age"})
    assert (training.model.embedding_dim, training.optim.lr, training.optim.patience) == (64, None, 20)


@pytest.mark.parametrize(
    ("options", "settled"),
    [
        ({}, (True, 1024)),
        ({"asv_features": 0}, (True, 0)),
        ({"freeze_base": False}, (False, 0)),
        ({"freeze_base": False, "asv_features": 50}, (False, 50)),
        ({"pretrained_encoder": "encoder"}, (False, 0)),
        ({"pretrained_encoder": "encoder", "freeze_base": True}, (True, 0)),
        ({"count_weight": 0.1}, (False, 0)),
        ({"encoder_lr_ratio": 1.0}, (False, 0)),
        ({"sample_dropout": 0.1}, (False, 0)),
    ],
)
def test_a_new_encoder_stays_unless_an_option_asks_that_it_learns(options, settled):
    config = TrainConfig.from_flat({"output_dir": "run", "metadata_column": "age", **options}).settled()
    assert (config.finetune.freeze_base, config.target.asv_features) == settled
    assert config.settled() == config
