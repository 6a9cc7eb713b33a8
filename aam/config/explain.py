"""The options of `aam explain`: what is explained, of which model, and where the results go."""

from pathlib import Path
from typing import Annotated, ClassVar, Final, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from aam.config.attribution import ExplainedSamplesConfig
from aam.config.base import MAIN, Positive, Processes, RunConfig, Section, flag
from aam.config.machine import MachineConfig
from aam.config.output import FolderConfig
from aam.config.study import PhylogenyConfig

What = Literal["category-attention", "importance", "log-ratio", "robustness", "attribution", "attention", "deletion"]


class Needs(NamedTuple):
    """What an explanation reads, by the names of options; those of the table, its files and the machine go with all."""

    needed: tuple[str, ...]
    read: tuple[str, ...] = ()
    """Options that may be given besides."""


OF_EVALUATION: Final = ("error_rate", "taxonomy", "jobs", "seed")
OF_SAMPLES: Final = ("samples", "column", "taxonomy", "seed")
NEEDS: Final[dict[What, Needs]] = {
    "category-attention": Needs(("checkpoint", "output"), ("plot", "batch_size", "embedding_cache")),
    "importance": Needs(("evaluation", "learner", "output_dir"), ("permutations", *OF_EVALUATION)),
    "log-ratio": Needs(("evaluation", "output_dir"), ("taxa", "taxonomy", "jobs", "seed")),
    "attribution": Needs(("checkpoint", "output_dir"), ("background", *OF_SAMPLES)),
    "attention": Needs(("checkpoint", "output_dir"), ("samples", "taxonomy", "seed")),
    "deletion": Needs(("checkpoint", "output_dir"), ("background", "importance", *OF_SAMPLES)),
    "robustness": Needs(("evaluation", "output_dir"), ("learner", "seed")),
}
"""What every explanation needs and reads; a new one is a line here, one of `What`, and one of the workflow's table."""


class ExplainedModelConfig(Section):
    """The model to explain."""

    panel: ClassVar[str] = "Model"

    checkpoint: Annotated[Path | None, MAIN] = None
    """Output folder of a run (its best checkpoint is used) or one checkpoint folder; for explanations of samples
    (category-attention, attribution, attention, deletion)."""
    evaluation: Annotated[Path | None, MAIN] = None
    """Output folder of `aam evaluate` with --keep-models, whose samples are explained by models that have not learned
    from them; for importance, log-ratio and robustness."""
    learner: Annotated[str | None, MAIN] = None
    """Which learner of --evaluation to explain, such as kernel or ensemble. Default for robustness: all."""


class ExplanationConfig(Section):
    """What is to be explained."""

    panel: ClassVar[str] = "Explanation"

    what: What
    """What to write. category-attention: how much each ASV of a sample attends to each categorical column. importance:
    by how much predictions get worse when the reads of a clade, taxon or ASV are exchanged among samples. log-ratio:
    one number of each sample, some taxa against others, that predicts the column. robustness: how well each learner
    predicts held-out samples that have fewer reads, fewer ASVs, spurious ASVs or shorter sequences. attribution: what
    each ASV adds to the prediction of a sample, compared with other samples. attention: what the network looks at in a
    sample, which is no importance: it may look at what changes nothing. deletion: by how much predictions change when
    the first ASVs by importance, attribution or attention are removed."""
    plot: Path | None = None
    """Also draw the weights of category-attention, as means of samples, to this .png file."""
    batch_size: Positive = 32
    """Samples of category-attention in a batch; changes the speed and not the result."""
    embedding_cache: Path | None = None
    """Keep embeddings of ASVs in this folder for category-attention: other runs with the same encoder compute only
    those of new ASVs."""

    @model_validator(mode="after")
    def _plot_is_png(self) -> Self:
        if self.plot is not None and self.plot.suffix != ".png":
            raise ValueError(f"--plot {self.plot}: pictures are .png files")
        return self


class ImportanceConfig(Section):
    """How importance is measured and tested."""

    panel: ClassVar[str] = "Importance"

    permutations: Annotated[int, Field(ge=1, le=1000)] = 5
    """Times that the reads of a taxon are exchanged among the held-out samples of a fold."""
    error_rate: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Probability with which even one clade is called important that is not; clades below others are tested only
    where those above are important."""
    taxonomy: Annotated[Path | None, MAIN] = None
    """Taxonomy of the ASVs (.tsv, .tsv.gz or QIIME 2 .qza): gives names, and importance of taxonomic ranks."""
    taxa: Annotated[int, Field(ge=1, le=1000)] = 10
    """Taxa on each side of the log-ratio; how many of them are used is chosen by training samples."""
    jobs: Processes = 1
    """Folds that are computed side by side, each in a process with one thread; changes no result."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Number that fixes all that is drawn."""


class ExplainOutputConfig(Section):
    """Where the results go."""

    panel: ClassVar[str] = "Output"

    output_dir: Annotated[Path | None, MAIN] = None
    """Folder for tables, plots and the summary; made if absent. Of category-attention, give --output instead."""
    output: Annotated[Path | None, MAIN] = None
    """File to write for category-attention: a table by sample id. Its ending decides the format: .tsv, .txt (both
    tab-separated) or .csv, each also with .gz."""
    overwrite: Annotated[bool, MAIN] = False
    """Replace files that are there already."""

    @property
    def folder(self) -> FolderConfig:
        """The output folder, where one is given."""
        assert self.output_dir is not None
        return FolderConfig(output_dir=self.output_dir, overwrite=self.overwrite)


class ExplainConfig(RunConfig):
    """Options of `aam explain`."""

    trained: ExplainedModelConfig = ExplainedModelConfig()
    explanation: ExplanationConfig
    explained: ExplainedSamplesConfig = ExplainedSamplesConfig()
    importance: ImportanceConfig = ImportanceConfig()
    inputs: PhylogenyConfig = PhylogenyConfig()
    output: ExplainOutputConfig = ExplainOutputConfig()
    runtime: MachineConfig = MachineConfig()

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        what, values = self.explanation.what, self.flat()
        missing = [flag(option) for option in NEEDS[what].needed if values[option] is None]
        if missing:
            raise ValueError(f"--what {what} needs {' and '.join(missing)}")
        known = {*NEEDS[what].needed, *NEEDS[what].read}
        others = {option for kind in NEEDS.values() for option in (*kind.needed, *kind.read)} - known
        for section in (self.trained, self.explanation, self.explained, self.importance, self.output):
            for option in type(section).model_fields:
                if option in others:
                    kinds = [name for name, kind in NEEDS.items() if option in (*kind.needed, *kind.read)]
                    section._refuse_unused(option, f"--what {' or '.join(kinds)}")
        return self
