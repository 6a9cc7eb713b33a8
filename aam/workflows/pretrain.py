"""`aam pretrain`: learn to encode ASVs and samples without labels."""

import logging
from pathlib import Path

import torch

from aam.config import PretrainConfig
from aam.data.dataset import StepDataset
from aam.data.splits import split_samples
from aam.data.study import Study, load_study
from aam.errors import InputError
from aam.evaluation.distances import write_distance_report
from aam.training.compute import Compute
from aam.training.distributed import World, setup_distributed
from aam.training.monitor import early_records
from aam.training.objective import PretrainObjective
from aam.training.parallel import give_weights, parallelize
from aam.workflows.fit import Run, fit, gather_material, resolved_model
from aam.workflows.folder import settle_folder
from aam.workflows.restore import build_encoder

logger = logging.getLogger(__name__)


@early_records()
def pretrain(config: PretrainConfig) -> None:
    """Pretrain on the files that the config names and write the output folder.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    with setup_distributed(config.runtime.device, config.distribution) as world:
        config = world.on_main(lambda: settle_folder(config))
        pretrain_study(load_pretraining_study(config), config, world)


def load_pretraining_study(config: PretrainConfig) -> Study:
    """Read the study; the distances to learn need a tree or a matrix.

    Raises:
        InputError: a file is missing or wrong.
    """
    check_distances(config, has_tree=config.inputs.tree is not None)
    return load_study(config.inputs, config.sampling, config.unifrac)


def check_distances(config: PretrainConfig, has_tree: bool) -> None:
    """Refuse losses that compare with what is not given, before anything is read.

    Raises:
        InputError: there is no tree or matrix for a loss that needs it, or there are both.
    """
    losses, has_matrix = config.losses, config.inputs.unifrac_matrix is not None
    if has_matrix and has_tree:
        raise InputError("distances come from --unifrac-matrix or from --tree: give one of them")
    if losses.unifrac_weight > 0 and not has_tree and not has_matrix:
        raise InputError("distances are learned from a tree: give --tree (or --unifrac-matrix, or --unifrac-weight 0)")
    if losses.faith_pd_weight > 0 and not has_tree:
        raise InputError("--faith-pd-weight: Faith's PD is computed from --tree (without --unifrac-matrix)")
    if has_matrix and config.sampling.rarefy_depth is not None:
        logger.warning("--rarefy-depth: reads are drawn afresh, while the distances of --unifrac-matrix stay as given")


def pretrain_study(study: Study, config: PretrainConfig, world: World | None = None) -> tuple[Run, Path]:
    """Pretrain on a study that is loaded already; returns the run, with its best weights, and the output folder."""
    run = prepare_pretraining(study, config, world)
    return run, fit(run, config, lambda folder: _report(run, config, folder))


def _report(run: Run, config: PretrainConfig, folder: Path) -> None:
    """Compare the distances of held-out samples, if they were learned."""
    assert isinstance(run.objective, PretrainObjective)
    if config.losses.unifrac_weight > 0:
        write_distance_report(run.objective, folder)


def prepare_pretraining(study: Study, config: PretrainConfig, world: World | None = None) -> Run:
    """Split the samples and build model, data and objective; nothing is written.

    Args:
        study: the samples.
        config: the options.
        world: the processes that train together; by default this one takes its place among them as the config says.

    Raises:
        InputError: a side of the split has too few samples, or the device cannot do what was asked for.
    """
    split = split_samples(study.table.sample_ids, study.metadata, config.split, config.runtime.seed)
    if min(len(split.train), len(split.val)) < 2:
        raise InputError(
            f"pretraining compares samples: {len(split.train)} to train on and {len(split.val)} to validate are too "
            "few (at least 2 each); use more samples or another --test-size"
        )
    compute = Compute.of(world or setup_distributed(config.runtime.device, config.distribution), config.runtime)
    material = gather_material(study, split, config, compute)
    config = config.model_copy(update={"model": resolved_model(config.model, material)})
    losses = config.losses
    learns_distances, learns_faith_pd = losses.unifrac_weight > 0, losses.faith_pd_weight > 0
    source = study.distance_source(config.unifrac) if learns_distances or learns_faith_pd else None
    model = build_encoder(config)
    model.fix_unused(learns_distances, losses.nucleotide_weight > 0, learns_faith_pd)
    give_weights(model, config.distribution, compute, config.runtime.seed)
    objective = PretrainObjective(
        model,
        parallelize(model, config.distribution, compute),
        material.nucleotides,
        torch.from_numpy(study.asv_keys).to(compute.device),
        config,
        (material.held_out(config.optim.batch_size), source),
    )
    trained_on = [study.table.sample_ids[row] for row in split.train]
    dataset = StepDataset(
        material.draws,
        source if learns_distances else None,
        study.tree if learns_faith_pd else None,
        compute.world.rank,
        compute.world.size,
    )
    return Run("pretrain", config, material, model, objective, dataset, {"training": trained_on})
