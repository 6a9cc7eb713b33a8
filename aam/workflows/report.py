"""`aam report`: one page of HTML about one run or several."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from aam.config import PretrainConfig, TuneConfig
from aam.config.launch import launched_local_rank
from aam.config.report import ReportConfig
from aam.data.files.whole_files import write_text
from aam.data.sampling.rarefaction import FIXED, SampleDraws
from aam.data.sampling.seeded import generator
from aam.data.study import select_samples
from aam.report.distances import Distances
from aam.report.ordination import spelled_metric
from aam.report.page import page
from aam.report.runs import Run
from aam.report.studies import NoStudy, said_already
from aam.training.distributed import World
from aam.training.machine.compute import Compute
from aam.training.machine.hardware import Build, device_for
from aam.training.run_folder import RunFolder
from aam.workflows.embed import embed_study
from aam.workflows.restore import restore
from aam.workflows.tables import check_outputs
from aam.workflows.tracking import Tracked, track_report

logger = logging.getLogger(__name__)

MOST_SAMPLES: Final = 200
"""Validation samples whose distances a report predicts; of more, a seeded sample."""
LARGEST: Final = 5_000_000
"""Bytes of a page from which on a warning says so."""
BATCH: Final = 16


def report(config: ReportConfig) -> None:
    """Read the folders of runs and write a page about them.

    Raises:
        InputError: a folder holds no run, a file of one is damaged, or the page cannot be written; nothing has been
            written then.
    """
    asked = config.report
    check_outputs(config, {"output": asked.output}, asked.overwrite)
    runs = [replace(_opened(path), errors_by=asked.errors_by) for path in asked.runs]
    _write(runs, asked.output)


def report_run(config: Tracked | TuneConfig, folder: RunFolder) -> None:
    """Write the page about a run into its folder at its end, and to its tracker; nothing with ``--no-report``."""
    if not config.output.report:
        return
    _write([_opened(folder.path)], folder.report)
    if not isinstance(config, TuneConfig):
        track_report(config, folder, folder.report)


def _write(runs: list[Run], output: Path) -> None:
    text = page(runs)
    size = len(text.encode())
    if size > LARGEST:
        logger.warning("%s has %.1f MB: name fewer runs for a smaller page", output, size / 1e6)
    write_text(output, text)
    logger.info("wrote %s", output)


def _opened(path: Path) -> Run:
    run = Run.open(path)
    return replace(run, distances=_distances(run)) if run.kind == "pretrain" else run


def _distances(run: Run) -> Distances | str | None:
    """True and predicted distances between validation samples; why there are none; None where none were learned.

    Raises:
        InputError: the checkpoint is damaged.
    """
    if not run.folder.distances.exists():
        return None
    if isinstance(run.study, NoStudy):
        return run.study.reason
    trained = restore(run.folder.path)
    assert isinstance(trained.config, PretrainConfig)
    split = run.table(run.folder.split, ("sample_id", "split"))
    assert split is not None
    validation = sorted(split.loc[split["split"] == "val", "sample_id"])
    chosen = set(validation)
    if len(validation) > MOST_SAMPLES:
        chosen = set(generator(len(validation), "report").choice(validation, MOST_SAMPLES, replace=False).tolist())
    with said_already():
        rows = np.flatnonzero([name in chosen for name in run.study.table.sample_ids])
        study = select_samples(run.study, rows, "not in the report")
    device = device_for(trained.config.runtime.device, launched_local_rank(), Build.of_torch())
    with World(device) as world:
        rows_of = embed_study(trained, study, BATCH, Compute.of(world, trained.config.runtime))
    encoder = trained.encoder.to("cpu")
    with torch.no_grad():
        z = encoder.scale(torch.tensor(rows_of.to_numpy()))
        predicted = encoder.distance(z, z).double().numpy()
    draws = SampleDraws(study.table, trained.config.sampling, trained.config.runtime.seed)
    every = np.arange(study.table.n_samples)
    source = study.distance_source(trained.config.unifrac)
    true = source.distances(every, draws.rows(every, FIXED)).numpy()
    np.fill_diagonal(predicted, 0.0)
    return Distances(study.table.sample_ids, true, predicted, spelled_metric(trained.config.unifrac), len(validation))
