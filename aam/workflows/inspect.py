"""`aam inspect`: what a checkpoint is, in words."""

from collections.abc import Iterable, Sequence

from aam.config import (
    InspectConfig,
    LossWeightConfig,
    ModelConfig,
    PretrainConfig,
    TargetConfig,
    TargetSamplingConfig,
    TrainConfig,
    flag,
)
from aam.data.categorical import CategoryEncoder
from aam.data.labels.loss_weights import CategoryWeights
from aam.data.labels.target_column import TargetColumn
from aam.data.labels.target_table import Targets
from aam.data.labels.taxonomy import TaxonomyClasses
from aam.errors import first_ids
from aam.learners.storage import spec_of
from aam.training.checkpoints import training_samples
from aam.training.checkpoints.store import Checkpoint, read_checkpoint
from aam.training.run_folder import RunFolder
from aam.workflows.inspect_run import describe_document, describe_evaluation, describe_run
from aam.workflows.restore import Restored, outline

_NAMES_SHOWN = 20
_ABUNDANCE = {
    "add": "added to each ASV",
    "concat": "beside each ASV",
    "film": "scaling and shifting each ASV",
    "none": "not read",
}
_CHOICE = {"abundance": "the most abundant", "random": "drawn at random", "first": "the first of the table"}


def inspect(config: InspectConfig) -> str:
    """Describe a checkpoint, whole or in parts, and its run, or an evaluation; weights are not read.

    Raises:
        InputError: no checkpoint is there, it is damaged, or of another version of aam.
    """
    path = config.trained.checkpoint
    folder = RunFolder(path)
    if folder.evaluation.exists():
        return f"{path}: an evaluation of `aam evaluate`\n{describe_evaluation(folder)}"
    checkpoint = read_checkpoint(path, with_weights=False)
    kind = "train" if checkpoint.kind == "learner" else checkpoint.kind
    model = _learner(checkpoint) if checkpoint.kind == "learner" else describe(checkpoint)
    of_run = folder.config.exists() and folder.checkpoints.is_dir()
    origin = describe_run(folder) if of_run else describe_document(checkpoint)
    return f"{path}: a checkpoint of `aam {kind}`\n{model}\n{origin}"


def describe(checkpoint: Checkpoint) -> str:
    """Describe a checkpoint by its config and documents, in paragraphs with a heading each.

    Raises:
        InputError: its options are those of another version of aam.
    """
    trained = outline(checkpoint)
    parts = [*_model(trained), *_samples(trained)]
    if isinstance(trained.config, PretrainConfig):
        parts += _pretraining(trained.config, trained)
    else:
        parts += _fine_tuning(trained.config, trained)
    return "\n".join(parts)


def _learner(checkpoint: Checkpoint) -> str:
    """What a learner besides the network is."""
    spec, targets = spec_of(checkpoint), Targets.from_json(checkpoint.documents["targets"])
    options = [f"{flag(name)} {_listed(value)}" for name, value in spec.options.items()]
    depth, draws = spec.rarefaction.depth, spec.rarefaction.draws
    reads = "all of a sample" if depth is None else f"{depth:,} of each sample; predictions are means of {draws} draws"
    lines = [
        f"learner: {spec.learner}" + (f" ({', '.join(options)})" if options else ""),
        f"ASVs known: {len(checkpoint.documents['asvs']['ids']):,}; others of new samples are dropped",
        f"reads: {reads}",
        f"trained on: {len(spec.training):,} samples",
    ]
    predicted = [f"{column.name}: {_values(column)}" for column in targets.columns]
    told = [spec.options[option] for option in ("categorical_columns", "numeric_columns") if option in spec.options]
    needed = dict.fromkeys([*(name for names in told for name in names), *targets.metadata_columns])
    needs = _paragraph("needs", _tables(needed)) if needed else []
    return "\n".join([*_paragraph("model", lines), *_paragraph("predicts", predicted), *needs])


def _listed(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _tables(columns: Iterable[str]) -> list[str]:
    """What new samples come with, where some columns are read."""
    lines = ["a table of counts"]
    names = ", ".join(columns)
    return lines + ([f"metadata with the columns {names} (a value that is not known stays empty)"] if names else [])


def _values(column: TargetColumn) -> str:
    """What values of a column can be."""
    if column.classes is None:
        return f"a number, learned on the scale {column.require_scale().kind}"
    return f"{len(column.classes.classes)} classes: {first_ids(column.classes.classes, _NAMES_SHOWN)}"


def _parameters(trained: Restored) -> list[str]:
    count = sum(parameter.numel() for parameter in trained.model.parameters())
    return [f"parameters: {count:,}", f"width of embeddings: {trained.config.model.embedding_dim}"]


def _model(trained: Restored) -> list[str]:
    model: ModelConfig = trained.config.model
    if model.sample_level == "clades":
        return [
            *_parameters(trained),
            f"transformer layers of nucleotides: {model.attention_layers}, with {model.attention_heads} heads each",
            f"samples: presence and fraction of the reads of {model.learned_clades} learned clades",
            f"ASVs: the first {model.max_bp} nucleotides, {model.nucleotide_patch} at a time",
        ]
    lines = [
        *_parameters(trained),
        f"transformer layers: {model.attention_layers} for nucleotides and {model.attention_layers} for ASVs, with "
        f"{model.attention_heads} attention heads each",
        f"ASVs: the first {model.max_bp} nucleotides, {model.nucleotide_patch} at a time; abundance is "
        f"{_ABUNDANCE[model.count_embedding]}",
    ]
    if model.sample_attention == "induced":
        lines.append(f"ASVs of a sample attend to one another through {model.induced_points} learned points")
    return _paragraph("model", lines)


def _samples(trained: Restored) -> list[str]:
    sampling: TargetSamplingConfig = trained.config.sampling
    count = _training_samples(trained)
    asvs = f"up to {sampling.max_asvs:,} of a sample, {_CHOICE[sampling.asv_choice]}" if sampling.max_asvs else "all"
    lines = [f"reads: {_rarefaction(sampling)}", f"ASVs read: {asvs}"]
    varied = [f"{name.replace('_', ' ')} {value:g}" for name, value in trained.config.augmentation if value]
    lines += [f"varied in training, and there alone: {', '.join(varied)}"] if varied else []
    return _paragraph("samples", lines + ([] if count is None else [f"trained on: {count:,} samples"]))


def _rarefaction(sampling: TargetSamplingConfig) -> str:
    if sampling.depth is None:
        return "all of a sample, not rarefied"
    often = "in every epoch" if sampling.rarefaction == "epoch" else "once"
    shallow = "kept as they are" if sampling.keep_shallow else "left out"
    return f"{sampling.depth:,} drawn of each sample {often} (and for predictions); samples with fewer {shallow}"


def _training_samples(trained: Restored) -> int | None:
    """Number of training samples, where the documents tell it."""
    documents = trained.documents
    if training_samples.DOCUMENT in documents:
        return training_samples.count(documents[training_samples.DOCUMENT])
    if "loss_weights" in documents:
        counts = CategoryWeights.from_json(documents["loss_weights"]).counts
        return sum(next(iter(counts.values())).values())
    return None


def _pretraining(config: PretrainConfig, trained: Restored) -> list[str]:
    learned = [
        f"{name.replace('_', ' ')} (weight {weight:g})" for name, weight in config.losses.weights.items() if weight
    ]
    lines = [f"learned: {', '.join(learned)}"]
    if config.losses.learns("unifrac"):
        source = "" if config.inputs.unifrac_matrix is None else ", of a matrix that was given"
        lines.append(f"distance between samples: {config.unifrac.unifrac_metric}{source}")
    if config.losses.learns("taxonomy"):
        sizes = TaxonomyClasses.from_json(trained.documents["taxonomy"]).sizes
        lines.append(f"taxonomic ranks: {', '.join(f'{rank} ({size} classes)' for rank, size in sizes.items())}")
    lines.append("use: `aam embed`, or `aam train` with --pretrained-encoder")
    return _paragraph("pretraining", lines)


def _fine_tuning(config: TrainConfig, trained: Restored) -> list[str]:
    targets, parts = trained.require_targets(), _start(config)
    parts += _paragraph("new samples need", _needs(targets, trained.categories))
    for column in targets.columns:
        parts += _paragraph(f"predicts {column.name}", _target(column, config.target))
    if trained.categories is not None:
        parts += _categories(config, trained.categories)
    return parts + _weights(config.weights, trained)


def _start(config: TrainConfig) -> list[str]:
    encoder = config.finetune.pretrained_encoder
    frozen = ", frozen: only what is new was trained" if config.finetune.freeze_base else ""
    if encoder is None:
        frozen = ", which the encoder keeps: only the head was trained" if frozen else ""
    lines = [f"random weights{frozen}" if encoder is None else f"the pretrained encoder {encoder}{frozen}"]
    return _paragraph("started from", lines)


def _needs(targets: Targets, categories: CategoryEncoder | None) -> list[str]:
    columns = dict.fromkeys([*(() if categories is None else categories.needed), *targets.metadata_columns])
    lines = _tables(columns)
    if categories is not None:
        filled = [name for name in categories.columns if name not in columns]
        if filled:
            lines.append(f"better also {', '.join(filled)}, filled in where training tells the value")
    return lines


def _target(column: TargetColumn, config: TargetConfig) -> list[str]:
    if column.classes is not None:
        names = column.classes.classes
        smoothed = [f"label smoothing: {config.label_smoothing:g}"] if config.label_smoothing else []
        return [f"{len(names)} classes: {first_ids(names, _NAMES_SHOWN)}", *smoothed]
    lines, scale = [f"a number, learned with {_loss(column, config)}"], column.require_scale()
    value = "log(1 + value)" if scale.kind.startswith("log-") else "value"
    formula = "" if scale.kind == "none" else f", ({value} - {scale.offset:.6g}) / {scale.scale:.6g}"
    lines.append(f"transform: {scale.kind}{formula}")
    lines.append(f"range: {_range(config)}")
    if column.groups is not None:
        own = first_ids(column.groups.groups, _NAMES_SHOWN) or "no category has one"
        lines.append(f"scales of their own by {' and '.join(column.groups.columns)}: {own}")
    if config.learnable_output_scale:
        lines.append("a learned scale and offset after the last layer")
    return lines


def _loss(column: TargetColumn, config: TargetConfig) -> str:
    if column.loss == "quantile":
        return f"the quantile loss: a column for each of {', '.join(f'{level:g}' for level in column.quantiles)}"
    if column.loss == "asymmetric":
        return f"the asymmetric loss: {config.over_penalty:g} for too high, {config.under_penalty:g} for too low"
    return f"the {column.loss} loss"


def _range(config: TargetConfig) -> str:
    if config.bounded_targets:
        return "between 0 and 1"
    activation = config.output_activation
    return "any number" if activation == "none" else f"not negative ({activation})"


def _categories(config: TrainConfig, categories: CategoryEncoder) -> list[str]:
    options = config.categories
    lines = []
    if categories.fused:
        heads = (
            f", {options.cross_attn_heads} heads"
            if options.categorical_fusion in ("cross_attention", "perceiver")
            else ""
        )
        lines.append(
            f"fusion: {options.categorical_fusion}{heads}; a vector of {options.categorical_dim} for a category"
        )
    if categories.parents:
        lines.append(f"a category and its parent: {options.hierarchy_combine}")
    if options.categorical_dropout:
        lines.append(f"made unknown in training: {options.categorical_dropout:g} of all")
    heading, *schema = categories.describe().splitlines()
    return ["", heading, *(f"  {line}" for line in lines), *schema]


def _weights(config: LossWeightConfig, trained: Restored) -> list[str]:
    parts = []
    if config.class_weights != "none":
        beta = f" (beta {config.effective_beta:g})" if config.class_weights == "effective" else ""
        parts += _paragraph("weights of classes", [f"{config.class_weights}{beta}"])
    if "loss_weights" in trained.documents:
        weights = CategoryWeights.from_json(trained.documents["loss_weights"])
        source = f"{flag('categorical_loss_weights')} {config.categorical_loss_weights}"
        parts += _paragraph("weights of samples by category", [source, *weights.table().splitlines()])
    return parts


def _paragraph(heading: str, lines: Sequence[str]) -> list[str]:
    """An empty line, a heading, and what is under it."""
    return ["", f"{heading}:", *(f"  {line}" for line in lines)]
