"""`aam methods`: a paragraph for the methods section of a paper, made of what a run did."""

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from aam.config import EvaluateConfig, PretrainConfig, RunConfig, TrainConfig
from aam.config.evaluate import Scheme
from aam.config.provenance import MethodsConfig
from aam.data.files.whole_files import write_text
from aam.data.labels.target_table import Targets
from aam.errors import InputError
from aam.evaluation.verdict import spelled
from aam.learners.storage import spec_of
from aam.training.checkpoints.files import MANIFEST
from aam.training.checkpoints.store import Checkpoint, read_checkpoint
from aam.training.provenance import Provenance, read_provenance
from aam.training.run_folder import RunFolder
from aam.workflows.citations import bibtex
from aam.workflows.methods_learners import describe_learner
from aam.workflows.methods_text import Text, listed, say_data, say_rarefaction, say_software
from aam.workflows.old_configs import in_todays_options
from aam.workflows.restore import outline
from aam.workflows.summary import Summary
from aam.workflows.tables import check_outputs

logger = logging.getLogger(__name__)

Config = TypeVar("Config", bound=RunConfig)
EVERYWHERE = ("numpy", "scipy")
"""Libraries of every run."""


def methods(config: MethodsConfig) -> str:
    """Describe a run, and write what that cites where it is asked for.

    Raises:
        InputError: there is no finished run of these commands, it is of another version of aam, or the file cannot be
            written.
    """
    path, file = config.described.run, config.citations.bibtex
    check_outputs(config, {"bibtex": file}, config.citations.overwrite)
    text, versions = describe_run(path)
    if file is not None:
        write_text(file, bibtex(text.cited, versions))
        logger.info("wrote %s", file)
    return str(text)


def describe_run(path: Path) -> tuple[Text, dict[str, str]]:
    """The paragraph of a run, with what it cites, and versions of software by key.

    Raises:
        InputError: see `methods`.
    """
    folder = RunFolder(path)
    _check_run(folder)
    provenance = read_provenance(folder)
    text = Text()
    if provenance is not None and provenance.data is not None:
        say_data(Summary.model_validate(provenance.data), text)
    if "comparison" in _read(folder.config):
        return text, _evaluation(folder, provenance, text)
    checkpoint = read_checkpoint(path, with_weights=False)
    if checkpoint.kind == "pretrain":
        return text, _pretraining(checkpoint, provenance, text)
    if checkpoint.kind == "learner":
        return text, _learner(folder, checkpoint, provenance, text)
    return text, _network(checkpoint, provenance, text)


def _check_run(folder: RunFolder) -> None:
    path = folder.path
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; give the output folder of a run of aam")
    if (path / MANIFEST).is_file():
        raise InputError(f"{path} is one checkpoint: give the output folder of its run, which knows the samples")
    if not folder.config.exists():
        raise InputError(
            f"{path} holds no run of aam: give the output folder of `aam evaluate`, `aam train` or `aam pretrain`"
        )
    if "comparison" in _read(folder.config) and not folder.evaluation.exists():
        raise InputError(f"{path}: the evaluation there is not finished; continue it with `aam evaluate --resume`")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise InputError(f"{path} is damaged (no JSON document of a run): run the command again")
    return found


def _config(kind: type[Config], path: Path) -> Config:
    try:
        return kind.model_validate(_read(path) if kind is EvaluateConfig else in_todays_options(_read(path)))
    except ValidationError:
        raise InputError(f"{path} was written by another version of aam: describe the run with that version") from None


def _evaluation(folder: RunFolder, provenance: Provenance | None, text: Text) -> dict[str, str]:
    config, found = _config(EvaluateConfig, folder.config), _read(folder.evaluation)
    folds, classes = config.folds, config.target.classifier
    if provenance is None or provenance.data is None:
        text.say(f"to be predicted was {config.target.column} of {found['samples']:,} samples")
    draws = f"in {config.counts.rarefy_draws} draws over which predictions were averaged"
    say_rarefaction(found["main"]["depth"], draws, text)
    if "rarefied" in found:
        text.say(
            f"as sequencing depth alone predicted {config.target.column}, all was repeated on counts rarefied to "
            f"{found['rarefied']['depth']:,} reads of every sample"
        )
    phrases = [f"{name}, {describe_learner(name, config, text)}" for name in config.names]
    text.say(f"compared were {'; '.join(phrases)}")
    text.say(_folds(config))
    if config.comparison.configs:
        count = len(config.comparison.configs)
        text.say(f"in each fold options of the learners were chosen among {count} files by the training samples alone")
    if folds.gap:
        text.say("for comparison, samples were also held out at random")
    best = spelled("balanced_accuracy" if classes else "r2")
    text.say(f"the main score was the {best} of the held-out samples")
    unit = "groups" if folds.groups is not None else "samples"
    if found["interval"] is None:
        text.say("no intervals are given, as there were too few groups for a bootstrap")
    else:
        interval = found["interval"].replace("groups", unit)
        text.say(f"intervals of scores and of their differences hold {interval} {text.cite('efron1994')}")
    torch = ("torch",) if config.compares_network else ()
    libraries = ("scikit-learn", *torch, "scikit-bio", *EVERYWHERE)
    return say_software(config, provenance, libraries, config.comparison.seed, text)


_SCHEMES: dict[Scheme, str] = {
    "group": "groups were held out as a whole in {folds} folds",
    "stratified-group": "groups were held out as a whole in {folds} folds, with each class as frequent in all",
    "kfold": "samples were held out at random in {folds} folds",
    "stratified": "samples were held out at random in {folds} folds, with each class as frequent in all",
    "leave-one-group-out": "every group was held out once as a whole",
}


def _folds(config: EvaluateConfig) -> str:
    folds = config.folds
    if folds.test_column is not None:
        return f"the metadata column {folds.test_column} divided the samples into those of training and of the test"
    if folds.fold_column is not None:
        return f"the metadata column {folds.fold_column} gave the folds, each of which was held out once"
    said = _SCHEMES[folds.scheme(config.target.classifier)].format(folds=folds.folds)
    if folds.rounds == 1:
        return said
    return f"{said}; this was done {folds.rounds} times with other folds, and the predictions of a sample were averaged"


def _say_sides(provenance: Provenance | None, text: Text) -> None:
    if provenance is None or provenance.data is None:
        return
    sides = Summary.model_validate(provenance.data).sides
    does = {"training": "trained the model", "validation": "validated it", "test": "tested it once at the end"}
    said = listed(f"{sides[name].samples:,} {verb}" for name, verb in does.items() if name in sides)
    text.say(f"of the samples, {said}")


def _learner(folder: RunFolder, checkpoint: Checkpoint, provenance: Provenance | None, text: Text) -> dict[str, str]:
    config, spec = _config(TrainConfig, folder.config), spec_of(checkpoint)
    if provenance is None or provenance.data is None:
        column = listed(config.target.metadata_column)
        text.say(f"to be predicted was {column}, and {len(spec.training):,} samples trained the model")
    drawn = spec.rarefaction
    say_rarefaction(drawn.depth, f"in {drawn.draws} draws over which predictions were averaged", text)
    text.say(f"the model was {describe_learner(spec.learner, config, text)}")
    if spec.learner == "ensemble":
        members = [f"{name}, {describe_learner(name, config, text)}" for name in config.ensemble.ensemble_members]
        text.say(f"its members were {'; '.join(members)}")
    _say_groups(config, text)
    _say_sides(provenance, text)
    libraries = ("scikit-learn", "scikit-bio", *EVERYWHERE)
    return say_software(config, provenance, libraries, config.runtime.seed, text)


def _say_groups(config: TrainConfig | PretrainConfig, text: Text) -> None:
    if config.split.group_column is not None:
        text.say(f"groups (metadata column {config.split.group_column}) were never on several sides")


def _say_network(config: TrainConfig | PretrainConfig, text: Text) -> None:
    model, optim = config.model, config.optim
    layers = f"{model.attention_layers} layer{'s' * (model.attention_layers > 1)}"
    shape = f"embeddings of width {model.embedding_dim}, {layers} and {model.attention_heads} attention heads"
    transformer = f"the network was a transformer {text.cite('vaswani2017')} over the nucleotides of ASVs"
    if model.sample_level == "clades":
        text.say(
            f"{transformer}, with {shape}, and described each sample by the presence and the relative abundance of "
            f"{model.learned_clades} learned clades of ASVs"
        )
    else:
        text.say(f"{transformer} and one over the ASVs of a sample, with {shape} each")
    batch = "as many samples as memory allows" if optim.batch_size == "auto" else f"{optim.batch_size} samples"
    text.say(
        f"it was trained by AdamW {text.cite('loshchilov2019')} with a learning rate of at most {optim.lr:.3g} for up "
        f"to {optim.epochs} epochs of batches of {batch}, and the checkpoint with the best "
        f"{optim.best_metric or 'loss'} of the validation samples was kept"
    )


def _network(checkpoint: Checkpoint, provenance: Provenance | None, text: Text) -> dict[str, str]:
    trained = outline(checkpoint)
    config, targets = trained.config, trained.targets
    assert isinstance(config, TrainConfig)
    assert isinstance(targets, Targets)
    if provenance is None or provenance.data is None:
        text.say(f"to be predicted was {listed(config.target.metadata_column)}")
    how = "drawn anew in every epoch" if config.sampling.rarefaction == "epoch" else "drawn once"
    say_rarefaction(config.sampling.depth, how, text)
    _say_network(config, text)
    begun = "a pretrained encoder" if config.finetune.pretrained_encoder is not None else "random weights"
    learned = "stayed as it was" if config.finetune.freeze_base else "was trained too"
    text.say(f"its encoder began with {begun} and {learned}")
    if config.target.asv_features:
        text.say(
            f"its head also read {config.target.asv_features:,} random cosine features {text.cite('rahimi2007')} of "
            "the embeddings of ASVs, summed over a sample"
        )
    losses = dict.fromkeys(f"the {column.loss} loss" for column in targets.columns)
    text.say(f"what it learned by was {listed(losses)}")
    if trained.categories is not None:
        text.say(f"it also read the metadata columns {listed(config.categories.categorical_columns)}")
    _say_groups(config, text)
    _say_sides(provenance, text)
    return say_software(config, provenance, ("torch", "scikit-bio", *EVERYWHERE), config.runtime.seed, text)


def _pretraining(checkpoint: Checkpoint, provenance: Provenance | None, text: Text) -> dict[str, str]:
    config = outline(checkpoint).config
    assert isinstance(config, PretrainConfig)
    if provenance is None or provenance.data is None:
        text.say(f"{len(checkpoint.documents['training']):,} samples trained the network")
    how = "drawn anew in every epoch" if config.sampling.rarefaction == "epoch" else "drawn once"
    say_rarefaction(config.sampling.depth, how, text)
    _say_network(config, text)
    weights = {name: weight for name, weight in config.losses.weights.items() if weight}
    phrases = [f"{_task(name, config, text)} (weight {weight:g})" for name, weight in weights.items()]
    text.say(f"without labels it learned to predict {listed(phrases)}")
    _say_groups(config, text)
    _say_sides(provenance, text)
    return say_software(config, provenance, ("torch", *EVERYWHERE), config.runtime.seed, text)


def _task(name: str, config: PretrainConfig, text: Text) -> str:
    """What a task of pretraining predicts."""
    if name == "unifrac":
        metric = config.unifrac.unifrac_metric
        source = "lozupone2005" if metric == "unweighted_unifrac" else "lozupone2007"
        shown = metric.replace("_", " ").replace("unifrac", "UniFrac")
        return f"the {shown} distances {text.cite(source)} between samples"
    if name == "faith_pd":
        return f"Faith's phylogenetic diversity {text.cite('faith1992')} of samples"
    return {
        "nucleotide": "masked nucleotides of ASVs",
        "taxonomy": "the taxonomy of ASVs",
        "abundance": "masked abundances of ASVs",
    }[name]
