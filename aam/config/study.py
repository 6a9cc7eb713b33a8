"""Sections about data: the files of a study, and how samples are drawn and split."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from aam.config.base import MAIN, Fraction, Reads, Section

UnifracMetric = Literal["unweighted_unifrac", "weighted_unifrac", "weighted_normalized_unifrac", "generalized_unifrac"]
DistanceLink = Literal["laplace", "tanh", "cosine"]
RootChoice = Literal["error", "midpoint", "as-is"]


class TableConfig(Section):
    """The files that every command reads."""

    panel: ClassVar[str] = "Input files"

    table: Annotated[tuple[Path, ...], MAIN] = ()
    """Feature table of counts: .biom (HDF5 or JSON), .tsv, .tsv.gz or QIIME 2 .qza. Repeat to merge several tables."""
    rep_seqs: Annotated[Path | None, MAIN] = None
    """DNA sequence of each ASV (FASTA, FASTA.gz or .qza), needed where the ids of the table are not sequences."""
    metadata: Annotated[Path | None, MAIN] = None
    """Sample metadata: a tab-separated file by the rules of QIIME 2."""
    where: Annotated[tuple[str, ...], MAIN] = ()
    """Use only samples whose metadata agree: COLUMN=VALUE or COLUMN=VALUE,VALUE. Repeat to combine."""
    drop_missing_sequences: bool = False
    """Drop ASVs that have no sequence, saying how many reads that loses, instead of stopping."""


class TreeConfig(TableConfig):
    """The files of a study, and a tree."""

    tree: Annotated[Path | None, MAIN] = None
    """Rooted phylogeny over the ASVs: Newick, gzipped Newick or QIIME 2 .qza."""
    missing_branch_lengths: Literal["error", "zero"] = "error"
    """What to do where the tree gives no branch length: stop, or take zero."""
    negative_branch_lengths: Literal["error", "zero"] = "error"
    """What to do where a branch length is negative, as some placement programs write: stop, or take zero, saying how
    many they are and what they sum to."""
    root: RootChoice = "error"
    """Where the root of the tree is: as-is where the file has it, midpoint halfway between the two tips farthest apart.
    error takes the file's root, and stops where that has three branches or more: no root was chosen for the tree."""


class PhylogenyConfig(TreeConfig):
    """The files of a study with its phylogeny."""

    drop_missing_tips: bool = False
    """Drop ASVs that the tree lacks, saying how many reads that loses, instead of stopping."""


class PlacementConfig(TreeConfig):
    """The files of new samples, and a tree that holds their ASVs and those of the training study."""

    tree: Annotated[Path | None, MAIN] = None
    """Rooted phylogeny over the ASVs of the training study and of the table, for models that read clades (clades,
    kernel, ensemble): adds ASVs that the training study lacked to its branches. Default: these are dropped."""

    @model_validator(mode="after")
    def _root_is_of_a_tree(self) -> Self:
        if self.tree is None:
            for option in ("missing_branch_lengths", "negative_branch_lengths", "root"):
                self._refuse_unused(option, "--tree")
        return self


class TargetInputConfig(PhylogenyConfig):
    """The files of learning to predict a column."""

    tree: Annotated[Path | None, MAIN] = None
    """Rooted phylogeny over the ASVs, for learners that read it (ensemble, kernel, clades); the network does not."""


class InputConfig(PhylogenyConfig):
    """The files of pretraining: distances between samples come from the phylogeny or from a matrix."""

    taxonomy: Annotated[Path | None, MAIN] = None
    """Taxonomy of the ASVs, to learn with --encoder-type taxonomy or combined: .tsv, .tsv.gz or QIIME 2 .qza."""
    unifrac_matrix: Path | None = None
    """Distance matrix to learn from instead of the tree: .npy, .npz, .h5 (ssu), .tsv, .csv or .qza."""
    matrix_ids: Path | None = None
    """Sample ids of a .npy matrix, one a line, in the order of its rows."""

    @model_validator(mode="after")
    def _matrix_ids_need_a_matrix(self) -> Self:
        if self.matrix_ids is not None and self.unifrac_matrix is None:
            raise ValueError("--matrix-ids names the rows of --unifrac-matrix: give both or neither")
        return self


class TargetSamplingConfig(Section):
    """How samples and their ASVs are drawn from the table of a study with a target."""

    panel: ClassVar[str] = "Samples and ASVs"

    rarefy_depth: Annotated[Reads | Literal["auto"] | None, MAIN] = None
    """Sampling depth: draw this many reads from every sample, without replacement; auto (of other learners than the
    network): as many as 95 % of the samples have. Default: use all reads."""
    rarefaction: Literal["epoch", "fixed"] = "epoch"
    """Draw the reads afresh in every epoch, or once for the run. Validation is always drawn once."""
    keep_shallow: bool = False
    """Keep samples with fewer reads than --rarefy-depth as they are, instead of dropping them with a count."""
    max_asvs: Annotated[int, Field(ge=0, lt=2**63)] = 1024
    """The most ASVs of a sample that the model reads (0: all); UniFrac targets use them all."""
    asv_choice: Literal["abundance", "random", "first"] = "abundance"
    """Which ASVs to read where a sample has more than --max-asvs."""

    @model_validator(mode="after")
    def _shallow_needs_a_depth(self) -> Self:
        if self.keep_shallow and self.rarefy_depth is None:
            raise ValueError("--keep-shallow is about samples below --rarefy-depth: give --rarefy-depth too")
        return self

    @property
    def depth(self) -> int | None:
        """The sampling depth; None for all reads, and as long as ``auto`` has not been settled."""
        return None if self.rarefy_depth == "auto" else self.rarefy_depth


class SamplingConfig(TargetSamplingConfig):
    """How samples and their ASVs are drawn from the table."""

    rarefy_depth: Annotated[Reads | None, MAIN] = None
    """Sampling depth: draw this many reads from every sample, without replacement. Default: use all reads."""


class UnifracConfig(Section):
    """Which distance between samples is computed."""

    panel: ClassVar[str] = "UniFrac"

    unifrac_metric: Annotated[UnifracMetric, MAIN] = "unweighted_unifrac"
    """Distance between samples."""
    generalized_alpha: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Weight of abundant lineages in generalized UniFrac (0: all alike, 1: weighted normalized UniFrac)."""
    include_root_length: bool = False
    """Count a length on the root itself, as scikit-bio does; unifrac and ssu ignore it."""

    @model_validator(mode="after")
    def _alpha_is_of_one_metric(self) -> Self:
        if self.unifrac_metric != "generalized_unifrac":
            self._refuse_unused("generalized_alpha", "--unifrac-metric generalized_unifrac")
        return self


class DistanceConfig(UnifracConfig):
    """Which distance between samples is learned, and how embeddings give it."""

    distance_link: DistanceLink = "laplace"
    """From embeddings to a distance up to 1: laplace 1-exp(-d), tanh(d), or cosine (1-cos)/2."""

    @model_validator(mode="after")
    def _links_end_at_one(self) -> Self:
        if self.unifrac_metric == "weighted_unifrac":
            self._refuse_unused("distance_link", "a --unifrac-metric that ends at 1, which weighted_unifrac does not")
        return self


class SplitConfig(Section):
    """Which samples train the model and which choose its checkpoint."""

    panel: ClassVar[str] = "Train, validation and test"
    groups_beside_a_column: ClassVar[bool] = False
    """Whether groups have a use where a column fixes the split."""

    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Fraction of the samples (or of the groups) that chooses the best checkpoint, of those that are not for a test."""
    split_column: str | None = None
    """Metadata column that says train, val or test for each sample; replaces a draw. Pretraining leaves test out."""
    group_column: str | None = None
    """Metadata column of subjects or studies: no group is on two sides."""

    @model_validator(mode="after")
    def _one_way_to_split(self) -> Self:
        if self.split_column is not None and self.group_column is not None and not self.groups_beside_a_column:
            raise ValueError("--split-column fixes the split: drop --group-column")
        if self.split_column is not None:
            self._refuse_unused("val_fraction", "a drawn split: --split-column fixes it")
        return self


class TargetSplitConfig(SplitConfig):
    """Which samples train the model, which choose its checkpoint, and which test it."""

    groups_beside_a_column: ClassVar[bool] = True

    group_column: Annotated[str | None, MAIN] = None
    """Metadata column of subjects or studies: no group is on two sides of a drawn split, nor of what learners choose
    within the training samples; with --split-column it serves these choices alone."""
    val_fraction: Fraction = 0.2
    """Fraction of the samples (or groups) that chooses the network's checkpoint; 0 for learners that have none."""
    test_fraction: Annotated[Fraction, MAIN] = 0.0
    """Fraction of the samples (or groups) held out to be scored once at the end; it neither trains nor chooses."""
    stratify: bool | None = None
    """Give every side the same fraction of every class. Default: with --classifier, as far as small classes allow."""

    @model_validator(mode="after")
    def _one_way_to_stratify(self) -> Self:
        if self.split_column is not None and self.stratify:
            raise ValueError("--split-column fixes the split: drop --stratify")
        if self.split_column is not None:
            self._refuse_unused("test_fraction", "a drawn split: --split-column fixes it")
        return self
