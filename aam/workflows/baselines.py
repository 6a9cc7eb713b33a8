"""What a random forest and the ensemble make of the split that a network was trained on."""

import json
import logging
from typing import Final

from aam.config import LearnerName, SamplingConfig, TrainConfig, UnifracConfig
from aam.data.distances.phylogeny import LengthChoices, read_phylogeny
from aam.data.files.whole_files import write_json
from aam.data.study import Study, with_phylogeny
from aam.evaluation.predictions import NAMES
from aam.training.metrics import Metrics
from aam.training.run_folder import RunFolder, Side
from aam.workflows.columns import Columns
from aam.workflows.train_command import train_command
from aam.workflows.train_learner import fit_learner, held_out_rows, score_side

logger = logging.getLogger(__name__)

COMPARED: Final[tuple[LearnerName, ...]] = ("forest", "ensemble")
MOST_SAMPLES: Final = 5000
"""Training samples from which on learners on the side are no matter of minutes."""


def check_tree(config: TrainConfig) -> None:
    """Read the tree before the training, which the comparison after it needs.

    Raises:
        InputError: the file is missing or wrong.
    """
    inputs = config.inputs
    if inputs.tree is not None and config.choice.baselines:
        read_phylogeny(inputs.tree, LengthChoices.of(inputs), inputs.root)


def compare_with_learners(columns: Columns, config: TrainConfig, folder: RunFolder) -> None:
    """Fit learners to the training samples of a run, write their metrics beside the network's, say what is best."""
    samples = len(columns.split.train)
    if samples > MOST_SAMPLES:
        logger.info(
            "not compared with a forest and the ensemble, as %d samples would take long: see aam evaluate", samples
        )
        return
    # what stands beside the network reads no encoder: it is a matter of seconds, and needs none
    plain = config.finetune.model_copy(update={"pretrained_encoder": None})
    config = config.model_copy(update={"finetune": plain})
    columns = columns._replace(study=_with_tree(columns.study, config))
    rows = held_out_rows(columns.split)
    scores: dict[Side, dict[str, Metrics]] = {
        side: {"neural": json.loads(folder.side_metrics(side).read_text())} for side in rows
    }
    for name in COMPARED:
        trained = fit_learner(name, columns, config)
        for side, own in rows.items():
            scores[side][name] = score_side(trained, columns, own)
    judged: Side = "test" if "test" in rows else "val"
    verdict = _verdict(scores[judged], judged, config)
    write_json(folder.baselines, {"scores": scores, "verdict": verdict})
    for learner, metrics in scores[judged].items():
        shown = ", ".join(f"{metric} {value:.4g}" for metric, value in metrics.items() if isinstance(value, float))
        logger.info("%s on %s samples: %s", learner, NAMES[judged], shown)
    logger.info("%s", verdict)


def _with_tree(study: Study, config: TrainConfig) -> Study:
    """The study with the tree that was given, without the ASVs that it lacks; as it is, where samples would go too."""
    inputs = config.inputs
    if inputs.tree is None:
        return study
    phylogeny = read_phylogeny(inputs.tree, LengthChoices.of(inputs), inputs.root)
    joined = with_phylogeny(study, phylogeny, SamplingConfig(), UnifracConfig(), drop_missing_tips=True)
    return joined if joined.table.n_samples == study.table.n_samples else study


def _verdict(scores: dict[str, Metrics], side: Side, config: TrainConfig) -> str:
    """One sentence: who is better on these samples, and what trains it."""
    metric = "balanced_accuracy" if config.target.classifier else "r2"
    values = {name: value for name, metrics in scores.items() if (value := metrics[metric]) is not None}
    if "neural" not in values or len(values) < 2:
        return f"the {NAMES[side]} samples leave {metric} undefined: nothing to compare"
    best = max(values, key=values.__getitem__)
    shown = ", ".join(f"{name} {value:.3g}" for name, value in sorted(values.items(), key=lambda item: -item[1]))
    chosen = ", which chose the network's checkpoint," if side == "val" else ""
    text = f"on the {NAMES[side]} samples{chosen} {best} is best ({metric} {shown})"
    if best == "neural":
        return f"{text}; `aam evaluate` says how sure that is"
    return f"{text}; this trains it: {train_command(config, best, f'{config.output.output_dir}-{best}')}"
