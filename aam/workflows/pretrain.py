"""`aam pretrain`: learn to encode ASVs and samples without labels."""

import logging
from pathlib import Path

from aam.config import PretrainConfig, flag
from aam.data.sampling.dataset import StepDataset
from aam.data.sampling.splits import split_samples
from aam.data.study import Study, load_study
from aam.errors import InputError
from aam.evaluation.distances import write_distance_report
from aam.training.checkpoints import training_samples
from aam.training.distributed import World, setup_distributed
from aam.training.distributed.strategies import give_weights, parallelize
from aam.training.inference.standardize import fit_clades
from aam.training.inputs import Inputs
from aam.training.machine.compute import Compute
from aam.training.objective import Objective
from aam.training.run_folder import RunFolder
from aam.training.sinks.sink import Results
from aam.training.sinks.tracker import check_tracker
from aam.training.sinks.training_log import early_records
from aam.training.tasks.pretraining import Given
from aam.training.tasks.table import build_tasks, learn_documents, learned
from aam.workflows.fit import Run, embedded_samples, fit, gather_material
from aam.workflows.folder import settle_folder
from aam.workflows.report import report_run
from aam.workflows.resolve import resolve_pretraining
from aam.workflows.restore import build_encoder
from aam.workflows.score_tables import side_scores

logger = logging.getLogger(__name__)


@early_records()
def pretrain(config: PretrainConfig) -> None:
    """Pretrain on the files that the config names and write the output folder.

    Raises:
        InputError: a file or an option is wrong; nothing has been written then.
    """
    with setup_distributed(config.runtime.device, config.distribution) as world:
        world.on_main(lambda: check_tracker(config.tracking))
        config = world.on_main(lambda: settle_folder(config))
        _, path = pretrain_study(load_pretraining_study(config), config, world)
        is_main = world.is_main
    if is_main:  # the others need not wait for it
        report_run(config, RunFolder(path))


def load_pretraining_study(config: PretrainConfig) -> Study:
    """Read the study; the distances to learn need a tree or a matrix, taxonomic ranks a taxonomy.

    Raises:
        InputError: a file is missing or wrong.
    """
    check_distances(config, has_tree=config.inputs.tree is not None)
    check_taxonomy(config, has_taxonomy=config.inputs.taxonomy is not None)
    return load_study(config.inputs, config.sampling, config.unifrac)


def check_distances(config: PretrainConfig, has_tree: bool) -> None:
    """Refuse losses that compare with what is not given, before anything is read.

    Raises:
        InputError: there is no tree or matrix for a loss that needs it, or there are both.
    """
    losses, has_matrix = config.losses, config.inputs.unifrac_matrix is not None
    if has_matrix and has_tree:
        raise InputError("distances come from --unifrac-matrix or from --tree: give one of them")
    if losses.learns("unifrac") and not has_tree and not has_matrix:
        raise InputError("distances are learned from a tree: give --tree (or --unifrac-matrix, or --unifrac-weight 0)")
    if losses.learns("faith_pd") and not has_tree:
        raise InputError(
            f"--encoder-type {losses.encoder_type} with --faith-pd-weight {losses.weights['faith_pd']}: Faith's PD is "
            "computed from --tree (without --unifrac-matrix)"
        )
    if has_matrix:
        _warn_of_fixed_distances(config)


def _warn_of_fixed_distances(config: PretrainConfig) -> None:
    augmentation = config.augmentation
    drawn = {
        "rarefy_depth": config.sampling.rarefy_depth,
        "asv_dropout": augmentation.asv_dropout,
        "depth_jitter": augmentation.depth_jitter,
    }
    given = [flag(option) for option, value in drawn.items() if value]
    if given:
        logger.warning(
            "%s: reads are drawn afresh, while the distances of --unifrac-matrix stay as given", ", ".join(given)
        )


def check_taxonomy(config: PretrainConfig, has_taxonomy: bool) -> None:
    """Refuse to learn taxonomic ranks without a taxonomy, and a taxonomy that nothing is learned from.

    Raises:
        InputError: one is given without the other.
    """
    learned = config.losses.learns("taxonomy")
    if learned and not has_taxonomy:
        raise InputError(
            f"--encoder-type {config.losses.encoder_type} with --taxonomy-weight {config.losses.weights['taxonomy']} "
            "learns the ranks of ASVs: give --taxonomy (or --taxonomy-weight 0)"
        )
    if has_taxonomy and not learned:
        raise InputError(
            f"--taxonomy: nothing is learned from it with --encoder-type {config.losses.encoder_type}: use taxonomy or "
            "combined, or give a --taxonomy-weight above 0, or leave the file out"
        )


def pretrain_study(study: Study, config: PretrainConfig, world: World | None = None) -> tuple[Run, Path]:
    """Pretrain on a study that is loaded already; returns the run, with its best weights, and the output folder."""
    run = prepare_pretraining(study, config, world)
    return run, fit(run, config, lambda folder: _report(run, config, folder))


def _report(run: Run, config: PretrainConfig, folder: RunFolder) -> Results:
    """Compare the distances of validation samples, if they were learned."""
    embedded = embedded_samples(run)
    if not config.losses.learns("unifrac"):
        return Results(embedded=embedded)
    metrics = write_distance_report(run.objective, folder)
    if run.world.is_main:
        logger.info("distances between validation samples\n%s", side_scores({"validation": metrics}))
    scores = {f"val_distances/{name}": value for name, value in metrics.items()}
    return Results(scores, {"val_distances": folder.distances_plot}, embedded=embedded)


def prepare_pretraining(study: Study, asked: PretrainConfig, world: World | None = None) -> Run:
    """Split the samples and build model, data and objective; nothing is written.

    Args:
        study: the samples.
        asked: the options.
        world: the processes that train together; by default this one takes its place among them as the config says.

    Raises:
        InputError: a side of the split has too few samples, the taxonomy leaves nothing to learn, or the device
            cannot do what was asked for.
    """
    split = split_samples(study.table.sample_ids, study.metadata, asked.split, asked.runtime.seed)
    if min(len(split.train), len(split.val)) < 2:
        raise InputError(
            f"pretraining compares samples: {len(split.train)} to train on and {len(split.val)} to validate are too "
            "few (at least 2 each); use more samples or another --val-fraction"
        )
    documents = learn_documents(asked.losses, study, split.train)
    world = world or setup_distributed(asked.runtime.device, asked.distribution)
    config = resolve_pretraining(asked, study, world)
    compute = Compute.of(world, config.runtime)
    material = gather_material(study, split, config, compute)
    model = build_encoder(config, documents)
    model.fix_unused([kind.name for kind in learned(config.losses)])
    give_weights(model, config.distribution, compute, config.runtime.seed)
    inputs = Inputs(model, material.nucleotides, material.draws, config, compute)
    if config.model.sample_level == "clades":
        fit_clades(model, inputs, material.some_training(config))
    held_out = material.batches(split.val, config)
    given = Given(config, study, split.train, held_out, model, inputs, compute)
    parallel = parallelize(model, config.distribution, compute)
    objective = Objective(parallel, inputs, build_tasks(given), held_out)
    dataset = StepDataset(
        material.draws,
        study.distance_source(config.unifrac) if config.losses.learns("unifrac") else None,
        study.tree if config.losses.learns("faith_pd") else None,
        world.rank,
        world.size,
    )
    documents = {
        training_samples.DOCUMENT: [study.table.sample_ids[row] for row in split.train]
    } | objective.documents()
    return Run("pretrain", config, material, model, objective, dataset, documents, objective.fingerprint())
