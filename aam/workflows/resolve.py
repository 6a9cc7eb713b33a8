"""From the options that were asked for to those that a run has: the one place where options are changed.

A run has two configs. Its output folder keeps the one that was asked for; the resolved one, in which nothing is left
open any more, is what runs, and what its checkpoints keep.
"""

import logging
import math
from collections.abc import Callable

from aam.config import (
    FinetuneConfig,
    ModelConfig,
    PretrainConfig,
    RuntimeConfig,
    TargetOptimConfig,
    TargetSamplingConfig,
    TrainConfig,
)
from aam.data.labels.target_table import target_values
from aam.data.study import Study
from aam.errors import InputError
from aam.learners.rarefied import AUTO_SHARE, auto_depth
from aam.training.checkpoints.store import Checkpoint
from aam.training.distributed import World
from aam.training.machine.compute import settled_precision
from aam.training.machine.hardware import Build, advise_attention
from aam.workflows.restore import config_of, resumed_config

logger = logging.getLogger(__name__)

SHAPE = (
    "embedding_dim",
    "attention_heads",
    "attention_layers",
    "feedforward_ratio",
    "nucleotide_patch",
    "count_embedding",
    "sample_level",
    "learned_clades",
    "sample_attention",
    "induced_points",
)
"""Options of the model that pretrained weights fix."""
NARROW = 32
"""Width of a model below which bf16 takes more time than float32 (``benchmarks/step_variants.py``)."""


def resolve_pretraining(asked: PretrainConfig, study: Study, world: World) -> PretrainConfig:
    """Settle the precision, the kernel of attention and the number of nucleotides that are read.

    Raises:
        InputError: the checkpoint of the run to resume is damaged.
    """
    resumed = world.on_main(lambda: resumed_config(asked))
    runtime = _runtime(asked.runtime, asked.model, resumed, world)
    return asked.model_copy(update={"runtime": runtime, "model": _model(asked.model, study, world)})


def resolve_training(
    asked: TrainConfig,
    study: Study,
    samples: int,
    world: World,
    resumed: TrainConfig | None,
    pretrained: Checkpoint | None,
) -> TrainConfig:
    """Settle the shape of the network and how it is learned as well, by where it starts and the number of samples.

    Args:
        asked: the options.
        study: the samples.
        samples: how many of them train.
        world: the processes that train together.
        resumed: the options of the run to resume, if there is one.
        pretrained: the encoder to start from, if there is one.

    Raises:
        InputError: the options do not fit the pretrained encoder.
    """
    model: ModelConfig = asked.model if resumed is None else resumed.model
    if pretrained is not None:
        model = pretrained_model(pretrained, asked.model, asked.finetune)
    heads = asked.categories.cross_attn_heads
    if model.sample_level == "clades" and asked.categories.categorical_fusion == "cross_attention":
        raise InputError(
            "--categorical-fusion cross_attention pools the ASVs of a sample anew, which --sample-level clades does "
            "not: use concat, add, gmu or perceiver"
        )
    if asked.categories.categorical_fusion in ("cross_attention", "perceiver") and model.embedding_dim % heads:
        raise InputError(f"--embedding-dim {model.embedding_dim} is not a multiple of --cross-attn-heads {heads}")
    settled = asked.settled()
    sections = {
        "model": _model(model, study, world),
        "optim": _optim(settled, model.embedding_dim, samples),
        "runtime": _runtime(asked.runtime, model, resumed, world),
    }
    return settled.model_copy(update=sections)


def resolve_depth(asked: TrainConfig, load: Callable[[TargetSamplingConfig], Study]) -> tuple[Study, TrainConfig]:
    """Load the study of a run, with the number that ``--rarefy-depth auto`` stands for: that of samples with a target.

    The study is loaded again with it, so that all is as if the number had been given.

    Args:
        asked: the options.
        load: loads the study as the options about samples say.

    Raises:
        InputError: the study or a column cannot be used.
    """
    study = load(asked.sampling)
    if asked.sampling.rarefy_depth != "auto":
        return study, asked
    known = target_values(study.require_metadata(), asked.target).notna().any(axis=1).to_numpy()
    depth = auto_depth(study.table.depth[known])
    logger.info("--rarefy-depth auto: %d reads, which %.0f %% of the samples have", depth, 100 * AUTO_SHARE)
    config = asked.model_copy(update={"sampling": asked.sampling.model_copy(update={"rarefy_depth": depth})})
    return load(config.sampling), config


def pretrained_model(checkpoint: Checkpoint, asked: ModelConfig, finetune: FinetuneConfig) -> ModelConfig:
    """The model section for fine-tuning: the shape of the pretrained encoder, the rest as asked.

    Raises:
        InputError: the user asked for another shape than the pretrained one.
    """
    pretrained = config_of(PretrainConfig, checkpoint).model
    clashes = [
        f"--{name.replace('_', '-')} {getattr(asked, name)} (pretrained with {getattr(pretrained, name)})"
        for name in (*SHAPE, "max_bp")
        if name in asked.model_fields_set and getattr(asked, name) != getattr(pretrained, name)
    ]
    if clashes:
        raise InputError(f"--pretrained-encoder {finetune.pretrained_encoder} fixes {', '.join(clashes)}: leave it out")
    return asked.model_copy(update={name: getattr(pretrained, name) for name in (*SHAPE, "max_bp")})


def _model(asked: ModelConfig, study: Study, world: World) -> ModelConfig:
    implementation, warning = asked.attn_implementation, None
    if world.device.type == "cuda":
        implementation, warning = advise_attention(Build.of_torch(), implementation)
    if warning is not None:
        logger.warning("%s", warning)
    longest = asked.max_bp or max(map(len, study.table.sequences))
    return asked.model_copy(update={"max_bp": longest, "attn_implementation": implementation})


def _runtime(
    asked: RuntimeConfig, model: ModelConfig, resumed: PretrainConfig | TrainConfig | None, world: World
) -> RuntimeConfig:
    """Settle ``auto`` once: a resumed run has the precision that it began with, on whatever machine."""
    precision = asked.mixed_precision
    if precision == "auto" and resumed is not None:
        precision = resumed.runtime.mixed_precision
    elif precision == "auto" and model.embedding_dim < NARROW:
        width = model.embedding_dim
        logger.info("--mixed-precision auto: none, since a model of width %d is not faster with less", width)
        precision = "none"
    return asked.model_copy(update={"mixed_precision": settled_precision(precision, world)})


def _optim(config: TrainConfig, width: int, samples: int) -> TargetOptimConfig:
    """Settle the learning rate and the number of epochs, and say them."""
    features = config.target.asv_features or 0
    settled = config.optim.settled(width + features, samples)
    assert settled.lr is not None
    encoder = f"{settled.lr * settled.encoder_lr_ratio:.3g} for the encoder"
    logger.info(
        "learning rate %.3g, %s; %d epochs of %d steps; %d random features of ASVs",
        settled.lr,
        "the encoder stays as it is" if config.finetune.freeze_base else encoder,
        settled.epochs,
        math.ceil(samples / settled.step_samples),
        features,
    )
    return settled
