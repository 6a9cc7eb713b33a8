"""Runs without steps in a tracker of experiments, and reports that are written when a run is over."""

from pathlib import Path

from aam.config import EvaluateConfig, PretrainConfig, TrainConfig
from aam.training.monitor import Monitor
from aam.training.run_folder import RunFolder
from aam.training.sinks.sink import Results
from aam.training.sinks.trackers import trackers_of

Tracked = PretrainConfig | TrainConfig | EvaluateConfig


def track_results(config: Tracked, folder: RunFolder, results: Results) -> None:
    """Send options and results of a run that has no steps of an optimizer to its tracker, if it has one.

    Raises:
        InputError: the tracker cannot be reached.
    """
    with Monitor(sinks=trackers_of(folder, config.tracking, config.flat())) as monitor:
        monitor.conclude(0, results)


def track_report(config: Tracked, folder: RunFolder, report: Path) -> None:
    """Add a report to the run that a tracker has of an output folder, if it has one.

    Raises:
        InputError: the tracker cannot be reached.
    """
    trackers = trackers_of(folder, config.tracking, config.flat())
    with Monitor(sinks=trackers, resumed_step=0) as monitor:
        monitor.conclude(0, Results(files=(report,)))
