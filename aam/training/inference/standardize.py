"""What heads and learned clades read, brought to mean 0 and deviation 1 on training samples before the first step.

Shapes: N samples, U unique ASVs, D width, F features.
"""

import torch

from aam.data.sampling.dataset import FixedBatches
from aam.models.asv_features import AsvFeatures, standardizing, waves
from aam.models.learned_clades import CladeSampleEncoder
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.training.distributed.sharding import fill, gather_whole
from aam.training.inference.asv_embeddings import ROWS
from aam.training.inference.samples import asvs_of
from aam.training.inputs import Inputs


@torch.no_grad()
def fit_clades(encoder: SequenceEncoder, inputs: Inputs, batches: FixedBatches) -> None:
    """Let learned clades read embeddings of ASVs standardized; every rank calls this.

    By some training samples, whose ASVs count once each. The model is the bare one, which may be sharded, and has
    clades.
    """
    assert isinstance(encoder.sample_encoder, CladeSampleEncoder)
    mode = encoder.training
    encoder.eval()
    asvs = torch.from_numpy(asvs_of(batches)).to(inputs.compute.device)
    rows = inputs.embeddings(batches).of(asvs)
    for name, value in standardizing(rows).items():
        fill(getattr(encoder.sample_encoder.membership, name), value.to(rows.device))
    encoder.train(mode)


@torch.no_grad()
def fit_head_inputs(
    model: SequencePredictor, inputs: Inputs, batches: FixedBatches, *, standardize: bool, new_encoder: bool
) -> None:
    """Settle random features of ASVs, and let the head read its input standardized; every rank calls this.

    By some training samples, whose ASVs count once each. The model is the bare one, which may be sharded.
    """
    model.eval()
    if new_encoder and model.encoder.config.sample_level == "clades":
        fit_clades(model.encoder, inputs, batches)
    if model.asv_features is not None:
        _fit_features(model.asv_features, inputs, batches)
    if standardize:
        rows = inputs.over(lambda samples, _: model(samples).head_input.float(), batches)
        for name, value in model.target_head.standardizing(rows).items():
            fill(getattr(model.target_head.norm, name), value.to(rows.device))
    model.train()


def _fit_features(features: AsvFeatures, inputs: Inputs, batches: FixedBatches) -> None:
    asvs = torch.from_numpy(asvs_of(batches)).to(inputs.compute.device)
    rows = inputs.embeddings(batches).of(asvs)
    for name, value in standardizing(rows).items():
        fill(getattr(features, name), value.to(rows.device))
    whole = {name: value.to(rows.device) for name, value in gather_whole(features.state_dict(), keep=True).items()}
    mean = torch.cat([waves(part, whole) for part in torch.split(rows, ROWS)]).double().mean(0)
    fill(features.center, mean.float())
