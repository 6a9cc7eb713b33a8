"""The commands: parse, call one workflow, say where the results are.

Configs and workflows are imported when a command needs them, so that the help does not wait for PyTorch or pydantic.
"""

from __future__ import annotations  # a command finds its config by the name in the annotation

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from aam.cli.command import Command, Group, importing
from aam.cli.completion import SHELLS, script

if TYPE_CHECKING:
    from aam.config import (
        EmbedConfig,
        EstimatePretrainConfig,
        EstimateTrainConfig,
        EvaluateConfig,
        ExplainConfig,
        ExportConfig,
        InspectConfig,
        MethodsConfig,
        PredictConfig,
        PretrainConfig,
        PretrainFindLrConfig,
        PublishConfig,
        ReportConfig,
        RunConfig,
        SimulateCommandConfig,
        TrainConfig,
        TuneConfig,
        UnifracCommandConfig,
    )

Config = TypeVar("Config", bound="RunConfig")

_SECTIONS = {
    "Learn": ["pretrain", "train", "tune", "find-lr", "estimate"],
    "Apply": ["predict", "embed", "export"],
    "Understand": ["evaluate", "explain", "report", "inspect", "methods"],
    "Share": ["publish"],
    "Studies": ["simulate", "unifrac"],
    "Shell": ["completion"],
}


@click.group(cls=Group, sections=_SECTIONS)
@click.version_option(package_name="aam", message="aam %(version)s")
def app() -> None:
    """Learn from ASV tables, a phylogeny and sample metadata.

    Pretrain on samples without labels, fine-tune on a column of the metadata, predict new samples.
    Begin with `aam simulate study`, which writes a small study to try the other commands on.
    """


@app.group(cls=Group, sections={"Runs": ["pretrain", "train"]})
def estimate() -> None:
    """Say how much memory and time a run would take.

    A few steps are tried on the study with the options of the run; nothing is written.
    """


def command(
    positional: tuple[str, ...] = (), group: click.Group = app, name: str | None = None
) -> Callable[[Callable[[Config], None]], Command]:
    """Make a command of a function that takes a config; its name is the function's, its help the docstring."""

    def decorate(function: Callable[[Config], Any]) -> Command:
        made = Command(function, name or function.__name__.replace("_", "-"), positional)
        group.add_command(made)
        return made

    return decorate


@command()
def pretrain(config: PretrainConfig) -> None:
    """Learn from samples without labels.

    The model predicts masked nucleotides of ASVs and the UniFrac distances between samples; with --encoder-type, also
    Faith's PD of samples or the taxonomy of ASVs. The result is an encoder for `aam train` and `aam embed`.

    Example:
        aam pretrain --table table.biom --tree tree.nwk --output-dir pretrained
    """
    with importing():
        from aam.workflows.pretrain import pretrain as workflow

    workflow(config)


@command()
def train(config: TrainConfig) -> None:
    """Learn to predict a column of the metadata.

    The column holds numbers or, with --classifier, classes. Training starts from a pretrained encoder where one is
    given; validation samples choose its checkpoint, and those of --test-fraction are scored once at the end.

    Example:
        aam train --table table.biom --metadata metadata.tsv --metadata-column age --output-dir age
    """
    with importing():
        from aam.workflows.train import train as workflow

    workflow(config)


@command()
def find_lr(config: PretrainFindLrConfig) -> None:
    """Try rising learning rates and plot the loss.

    The plot and the suggested rate help to choose --lr for `aam pretrain` on this study.

    Example:
        aam find-lr --table table.biom --tree tree.nwk --output-dir find-lr
    """
    with importing():
        from aam.workflows.find_lr import find_lr as workflow

    workflow(config)


@command(group=estimate, name="pretrain")
def estimate_pretrain(config: EstimatePretrainConfig) -> None:
    """Say how much memory and time a pretraining would take.

    Takes the options of `aam pretrain`. Told are unique ASVs of a step, memory in one batch and within
    --max-memory-gb, and the time of a step, an epoch and the run.

    Example:
        aam estimate pretrain --table table.biom --tree tree.nwk --batch-size 64
    """
    with importing():
        from aam.workflows.estimate import estimate_pretraining as workflow

    click.echo(workflow(config))


@command(group=estimate, name="train")
def estimate_train(config: EstimateTrainConfig) -> None:
    """Say how much memory and time a fine-tuning would take.

    Takes the options of `aam train`; see `aam estimate pretrain`.

    Example:
        aam estimate train --table table.biom --metadata metadata.tsv --metadata-column age
    """
    with importing():
        from aam.workflows.estimate import estimate_training as workflow

    click.echo(workflow(config))


@command()
def predict(config: PredictConfig) -> None:
    """Predict the metadata column of new samples.

    Takes a model from `aam train`, or a file of `aam export`, and writes one row per sample; for classes, with the
    probability of each.

    Example:
        aam predict --checkpoint age --table new.biom --output predictions.tsv
    """
    with importing():
        from aam.workflows.predict import predict as workflow

    workflow(config)


@command()
def embed(config: EmbedConfig) -> None:
    """Write the embedding of every sample.

    Embeddings serve ordinations and other models; samples with a small UniFrac distance lie close together.

    Example:
        aam embed --checkpoint pretrained --table table.biom --output embeddings.tsv
    """
    with importing():
        from aam.workflows.embed import embed as workflow

    workflow(config)


@command(positional=("run",))
def export(config: ExportConfig) -> None:
    """Write a trained model as one file for other programs.

    RUN is the output folder of aam train or pretrain. The file is ONNX, which onnxruntime applies without PyTorch, also
    from R, Java or a browser, and `aam predict --onnx` applies to a table. Only its name is chosen: classes, scales,
    settings and ASVs are in it.

    Example:
        aam export age --output age.onnx
    """
    with importing():
        from aam.workflows.export import export as workflow

    workflow(config)


@command()
def evaluate(config: EvaluateConfig) -> None:
    """Compare learners on samples, subjects or studies that they have not seen.

    Every learner predicts samples (or whole subjects, sites or studies, with --group-column) that it has not
    learned from. The results say how good each is, with 95 % intervals, which is best, whether that is more than
    noise, whether sequencing depth alone predicts as well, and the command that trains the best.

    Example:
        aam evaluate --table table.biom --tree tree.nwk --metadata metadata.tsv --metadata-column age
        --group-column subject --output-dir compared
    """
    with importing():
        from aam.workflows.evaluate import evaluate as workflow

    workflow(config)


@command()
def tune(config: TuneConfig) -> None:
    """Find the options with which a learner predicts best.

    Sets of options are tried and scored on samples (or whole subjects, sites or studies, with --group-column) that
    the learner has not learned from. Several processes may run the same command at once, and a tuning that was killed
    goes on with --resume. The results say which options are best, in a file for `aam train --config`, and how good
    they are for new samples.

    Example:
        aam tune --table table.biom --tree tree.nwk --metadata metadata.tsv --metadata-column age
        --group-column subject --learner ensemble --output-dir tuned
    """
    with importing():
        from aam.workflows.tune import tune as workflow

    space = workflow(config)
    if space is not None:
        click.echo(space, nl=False)


@command(positional=("runs",))
def report(config: ReportConfig) -> None:
    """Write one page about runs, to be read in a browser, printed or sent.

    RUN is the output folder of aam pretrain, train, evaluate, explain or tune. The page holds the result in a sentence,
    the data, learning curves, scores, predictions against the truth, errors, worst samples, ordinations, importance,
    confounders, warnings and provenance, as far as the runs have them. It needs no network and no other file.

    Example:
        aam report compared explained --output report.html
    """
    with importing():
        from aam.workflows.report import report as workflow

    workflow(config)


@command(positional=("checkpoint",))
def inspect(config: InspectConfig) -> None:
    """Say what a trained model is, and where it comes from.

    CHECKPOINT is the output folder of a run, or one checkpoint folder. Told are the columns that the model predicts
    and those that new samples need, its categories and their hierarchy, weights of samples, and its size; of a run
    (also of `aam evaluate`) its samples, scores, software, files, machine and time.

    Example:
        aam inspect age
    """
    with importing():
        from aam.workflows.inspect import inspect as workflow

    click.echo(workflow(config))


@command(positional=("run",))
def methods(config: MethodsConfig) -> None:
    """Write a paragraph for the methods section of a paper.

    RUN is the output folder of a run. The paragraph says what was really done: samples, groups, learners, folds,
    scores, software and versions, with the works that it cites.

    Example:
        aam methods compared --bibtex compared.bib
    """
    with importing():
        from aam.workflows.methods import methods as workflow

    click.echo(workflow(config))


@command(positional=("run",))
def publish(config: PublishConfig) -> None:
    """Write a trained network for others to use.

    RUN is the output folder of aam pretrain, or of aam train for the network. The new folder holds weights and options,
    no ids of samples, no values of their metadata and no folder names, and a model card: what the model has seen, what
    it is good for, its scores, licence and provenance. With --push it goes to the Hugging Face Hub, from where
    --pretrained-encoder and --checkpoint read it by its name.

    Example:
        aam publish pretrained --output-dir encoder --licence cc-by-4.0 --region 'V4' --name owner/encoder
    """
    with importing():
        from aam.workflows.publish import publish as workflow

    workflow(config)


@command()
def explain(config: ExplainConfig) -> None:
    """Write what predictions were made from.

    importance and log-ratio: which clades, taxa and ASVs the learners of `aam evaluate --keep-models` depend on, on
    samples that they have not learned from. category-attention: how much each ASV of a sample attends to each
    categorical column, for a model of `aam train` with --categorical-fusion cross_attention.

    attribution: what each ASV and clade adds to the prediction of a sample, by any model of `aam train`. attention:
    what the network looks at; that is no importance, as it may look at what changes no prediction. deletion: by how
    much predictions change without the ASVs that importance, attribution or attention put first, or random ones.

    Example:
        aam explain --what importance --evaluation compared --learner kernel --taxonomy taxonomy.tsv --output-dir why
    """
    with importing():
        from aam.workflows.explain import explain as workflow

    workflow(config)


@command()
def unifrac(config: UnifracCommandConfig) -> None:
    """Write the UniFrac distances between all samples.

    The unifrac package computes them where it is installed, scikit-bio otherwise. Training needs no such matrix.

    Example:
        aam unifrac --table table.biom --tree tree.nwk --output distances.tsv
    """
    with importing():
        from aam.workflows.unifrac import write_unifrac as workflow

    workflow(config)


@command(positional=("directory",))
def simulate(config: SimulateCommandConfig) -> None:
    """Write a simulated study to try aam on.

    DIRECTORY receives a table, a tree, metadata and taxonomy; a number and a class in the metadata depend on clades
    of the tree.

    Example:
        aam simulate study
    """
    with importing():
        from aam.workflows.simulate import simulate as workflow

    workflow(config)


@app.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and their choices.

    For bash put this line into ~/.bashrc: eval "$(aam completion bash)"

    For zsh, into ~/.zshrc: eval "$(aam completion zsh)"

    For fish: aam completion fish > ~/.config/fish/completions/aam.fish
    """
    click.echo(script(app, shell))
