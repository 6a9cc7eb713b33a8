"""A study: the feature table joined by id to metadata, phylogeny and distances, with what was left out counted."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from itertools import chain

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from aam.config import InputConfig, PhylogenyConfig, TableConfig, TargetSamplingConfig, UnifracConfig
from aam.data.arrays import Bools, Ints
from aam.data.distances.branches import Rows, asv_proportions, branch_proportions
from aam.data.distances.matrix import DistanceMatrix, read_distance_matrix
from aam.data.distances.phylogeny import LengthChoices, Phylogeny, read_phylogeny
from aam.data.distances.unifrac import StudyTree, missing_tips
from aam.data.files.counts import BLOCK, held_by
from aam.data.files.metadata import read_metadata, select_where
from aam.data.files.sequences import encode_sequences, sequence_keys
from aam.data.files.tables import FeatureTable, read_tables
from aam.data.labels.taxonomy import TaxonomyLabels, read_taxonomy
from aam.data.sampling.dataset import DistanceSource, MatrixDistances, TreeDistances
from aam.errors import InputError, UnusableSamplesError, first_ids

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Study:
    """Samples that can be used, and what is known of them.

    Every sample of the table has at least one read, a row of `metadata` where there is metadata, and a row of `matrix`
    where there is a matrix; every ASV is a tip of `tree` where there is a tree.
    """

    table: FeatureTable
    metadata: pd.DataFrame | None = None
    """One row for each sample of the table, in the table's order."""
    tree: StudyTree | None = None
    matrix: DistanceMatrix | None = None
    taxonomy: Mapping[str, str] | None = None
    """Lineages by ASV id, of at least one ASV of the table."""
    left_out: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"sample_id": [], "reason": []}, dtype=str))
    """Samples that cannot be used."""

    def require_metadata(self) -> pd.DataFrame:
        """The metadata, where a caller cannot do without.

        Raises:
            InputError: there is none.
        """
        if self.metadata is None:
            raise InputError("the metadata of the samples is needed: give --metadata")
        return self.metadata

    def require_tree(self) -> StudyTree:
        """The tree, where a caller cannot do without.

        Raises:
            InputError: there is none.
        """
        if self.tree is None:
            raise InputError("the phylogeny of the ASVs is needed: give --tree")
        return self.tree

    def nucleotides(self, max_bp: int | None) -> NDArray[np.uint8]:
        """Encode the sequence of every ASV: uint8 [ASVs, L]; says so where `max_bp` cuts some."""
        named = zip(self.table.asv_ids, self.table.sequences, strict=True)
        cut = [asv for asv, sequence in named if max_bp is not None and len(sequence) > max_bp]
        if cut:
            logger.warning(
                "%d ASVs are cut to the %d nucleotides that the model reads: %s", len(cut), max_bp, first_ids(cut)
            )
        return encode_sequences(self.table.sequences, max_bp)

    @cached_property
    def asv_keys(self) -> Ints:
        """Address of every ASV, a hash of its sequence: int64 [ASVs]."""
        return sequence_keys(self.table.sequences)

    @cached_property
    def branch_proportions(self) -> Rows:
        """Fraction of each sample's reads below every branch of the tree, sparse rows: float64 [samples, N]."""
        return branch_proportions(self.require_tree(), self.table.counts)

    @cached_property
    def asv_proportions(self) -> Rows:
        """Fraction of each sample's reads that every ASV has, sparse rows: float64 [samples, ASVs]."""
        return asv_proportions(self.table.counts)

    def distance_source(self, config: UnifracConfig) -> DistanceSource:
        """True distances between samples, from the matrix if there is one, else from the tree."""
        if self.matrix is not None:
            return MatrixDistances(self.matrix, self.matrix.index(self.table.sample_ids))
        return TreeDistances(self.require_tree(), config)

    def taxonomy_labels(self, samples: Ints) -> TaxonomyLabels:
        """Classes of the ASVs at every rank, fitted to those that some samples, rows of the table, hold.

        Raises:
            InputError: no rank has two classes.
        """
        assert self.taxonomy is not None
        taxa = [self.taxonomy.get(asv, "") for asv in self.table.asv_ids]
        held = held_by(self.table.counts, samples) > 0
        return TaxonomyLabels.of(taxa, held)

    def fingerprint(self) -> dict[str, str]:
        """Hashes of table, tree and matrix by name, to know the same study again when a run is resumed.

        Of metadata and taxonomy, what a run uses (split, target, classes) is for the run to add.
        """
        table, tree = self.table, self.tree
        counts = (table.counts.indptr, table.counts.indices, table.counts.data)
        spans = ((part, start) for part in counts for start in range(0, len(part), BLOCK))  # counts may lie on disk
        blocks = (part[start : start + BLOCK].astype(np.int64) for part, start in spans)
        names = ("\n".join(table.sample_ids), "\n".join(table.sequences))
        prints = {"table": digest(chain(names, blocks))}
        if tree is not None:
            prints["tree"] = digest([tree.length, tree.start, tree.stop, tree.order])
        if self.matrix is not None:
            rows = self.matrix.index(table.sample_ids)
            prints["matrix"] = digest(self.matrix.values[row, rows].astype(np.float64) for row in rows)
        return prints


def digest(parts: Iterable[str | NDArray[np.generic]]) -> str:
    """Hash texts and arrays."""
    hashed = blake2b(digest_size=16)
    for part in parts:
        content = part.encode() if isinstance(part, str) else np.ascontiguousarray(part).tobytes()
        hashed.update(len(content).to_bytes(8, "little"))
        hashed.update(content)
    return hashed.hexdigest()


def load_study(
    inputs: TableConfig,
    sampling: TargetSamplingConfig,
    unifrac: UnifracConfig | None = None,
    needs: Sequence[str] = (),
    ids_suffice: bool = False,
) -> Study:
    """Read the files of a study and join them by id.

    Args:
        inputs: the files.
        sampling: the sampling depth, below which samples are left out.
        unifrac: how tree and matrix are used; None where distances are not needed.
        needs: options of `inputs` that must be given, such as ``"metadata"``.
        ids_suffice: ASVs need no sequences, as their ids are the names of tips.

    Raises:
        InputError: a file is missing or wrong, or no sample is left.
    """
    for option in ("table", *needs):
        if not getattr(inputs, option):
            raise InputError(f"--{option.replace('_', '-')} is needed")
    table = read_tables(inputs.table, inputs.rep_seqs, inputs.drop_missing_sequences, ids_suffice)
    metadata = read_metadata(inputs.metadata) if inputs.metadata is not None else None
    if inputs.where and metadata is None:
        raise InputError("--where looks at columns of the metadata: give --metadata")
    if metadata is not None:
        table, metadata = _select(table, metadata, inputs.where)
    if unifrac is None or not isinstance(inputs, PhylogenyConfig):
        return assemble_study(table, sampling, metadata=metadata)
    matrix = read_matrix(inputs, unifrac) if isinstance(inputs, InputConfig) else None
    study = assemble_study(table, sampling, metadata=metadata, matrix=matrix)
    if inputs.tree is not None and matrix is None:
        phylogeny = read_phylogeny(inputs.tree, LengthChoices.of(inputs), inputs.root)
        study = with_phylogeny(study, phylogeny, sampling, unifrac, inputs.drop_missing_tips)
    if isinstance(inputs, InputConfig) and inputs.taxonomy is not None:
        study = with_taxonomy(study, read_taxonomy(inputs.taxonomy))
    return study


def read_matrix(inputs: InputConfig, unifrac: UnifracConfig) -> DistanceMatrix | None:
    """Read the distance matrix that the inputs name, if any; weighted UniFrac may be above 1 unless normalized.

    Raises:
        InputError: the file is missing or wrong.
    """
    if inputs.unifrac_matrix is None:
        return None
    bounded = unifrac.unifrac_metric != "weighted_unifrac"
    return read_distance_matrix(inputs.unifrac_matrix, inputs.matrix_ids, bounded)


def assemble_study(
    table: FeatureTable,
    sampling: TargetSamplingConfig,
    metadata: pd.DataFrame | None = None,
    matrix: DistanceMatrix | None = None,
) -> Study:
    """Join table, metadata and matrix by sample id, leaving out samples that cannot be used and logging how many.

    ASVs that no sample holds go, and the others are put in the order of their sequences, so that draws from a sample do
    not depend on the order of the table's ASVs.

    Raises:
        InputError: no sample is left, or the matrix lacks some of them.
    """
    study = Study(table)
    if metadata is not None:
        study = _keep(study, _among(table, metadata.index), "no row in the metadata")
        without = len(metadata) - study.table.n_samples
        if without:
            logger.info("%d rows of the metadata have no sample in the table", without)
        study = replace(study, metadata=metadata.loc[list(study.table.sample_ids)])
    study = _keep_deep(study, sampling)
    if matrix is not None:
        _check_covered(study.table, matrix)
    seen = np.flatnonzero(study.table.asv_reads).tolist()
    order = np.array(sorted(seen, key=study.table.sequences.__getitem__), dtype=np.int64)
    return replace(study, table=study.table.select_asvs(order), matrix=matrix)


def with_phylogeny(
    study: Study, phylogeny: Phylogeny, sampling: TargetSamplingConfig, unifrac: UnifracConfig, drop_missing_tips: bool
) -> Study:
    """Cut the phylogeny to the ASVs of a study.

    Raises:
        InputError: ASVs of the table are not tips of the tree and are not to be dropped.
    """
    tips = missing_tips(phylogeny, study.table)
    found = tips >= 0
    if not found.all():
        table = study.table
        lost = np.flatnonzero(~found)
        reads = int(table.asv_reads[lost].sum())
        share = f"{len(lost)} of {table.n_asvs} ASVs ({reads} of {int(table.depth.sum())} reads)"
        names = first_ids(table.asv_ids[i] for i in lost)
        if not found.any() or not drop_missing_tips:
            raise InputError(
                f"the tree has no tip for {share}: {names}; tips are named like {first_ids(phylogeny.tip_names, 2)}. "
                "Give the tree made for this table"
                + (", or --drop-missing-tips to go on without these ASVs" if found.any() else "")
            )
        logger.warning("dropped %s that the tree lacks: %s", share, names)
        study = replace(study, table=table.select_asvs(np.flatnonzero(found)))
        study = _keep_deep(study, sampling)
        tips = tips[found]
    return replace(study, tree=StudyTree.cut(phylogeny, tips, unifrac.include_root_length))


def with_taxonomy(study: Study, taxonomy: Mapping[str, str]) -> Study:
    """Join lineages by ASV id; ASVs without one stay, and how many they are is logged.

    Raises:
        InputError: there is a lineage for none of the ASVs.
    """
    table = study.table
    lost = np.flatnonzero([asv not in taxonomy for asv in table.asv_ids])
    if len(lost) == table.n_asvs:
        raise InputError(
            f"the taxonomy names none of the {table.n_asvs} ASVs of the table: its ids are like "
            f"{first_ids(list(taxonomy)[:2])}, the table's like {first_ids(table.asv_ids[:2])}. Give the taxonomy made "
            "for this table"
        )
    if len(lost):
        logger.warning(
            "the taxonomy lacks %d of %d ASVs (%d of %d reads), of which no rank is learned: %s",
            *(len(lost), table.n_asvs, table.asv_reads[lost].sum(), table.depth.sum()),
            first_ids(table.asv_ids[i] for i in lost),
        )
    return replace(study, taxonomy=taxonomy)


def _select(table: FeatureTable, metadata: pd.DataFrame, where: Sequence[str]) -> tuple[FeatureTable, pd.DataFrame]:
    """Choose the samples of the user; those that were not chosen are no part of the study, so not left out either."""
    chosen = select_where(metadata, where)
    keep = ~_among(table, metadata.index.difference(chosen.index))
    if keep.all():
        return table, chosen
    if not keep.any():
        raise InputError(f"no sample is left: --where {' --where '.join(where)} holds for none of the table's samples")
    logger.info("--where chooses %d of %d samples", keep.sum(), len(keep))
    return table.select_samples(np.flatnonzero(keep)), chosen


def select_samples(study: Study, rows: Ints, reason: str) -> Study:
    """Keep some samples of a study, noting the others as left out for a reason."""
    keep = np.zeros(study.table.n_samples, dtype=bool)
    keep[rows] = True
    return _keep(study, keep, reason, UnusableSamplesError)


def _among(table: FeatureTable, ids: Iterable[str]) -> Bools:
    """Which samples of a table are among some ids; by a set, since `np.isin` compares all pairs of objects."""
    known = set(ids)
    return np.array([name in known for name in table.sample_ids])


def _keep(study: Study, keep: Bools, reason: str, error: type[InputError] = InputError) -> Study:
    if keep.all():
        return study
    lost = [study.table.sample_ids[i] for i in np.flatnonzero(~keep)]
    if not keep.any():
        raise error(f"no sample is left: {reason} for all of {first_ids(lost)}")
    logger.warning("left out %d of %d samples, %s: %s", len(lost), len(keep), reason, first_ids(lost))
    left_out = pd.concat([study.left_out, pd.DataFrame({"sample_id": lost, "reason": reason})], ignore_index=True)
    table = study.table.select_samples(np.flatnonzero(keep))
    metadata = study.metadata.loc[list(table.sample_ids)] if study.metadata is not None else None
    return replace(study, table=table, metadata=metadata, left_out=left_out)


def _keep_deep(study: Study, sampling: TargetSamplingConfig) -> Study:
    study = _keep(study, study.table.depth > 0, "no reads", UnusableSamplesError)
    if sampling.depth is None or sampling.keep_shallow:
        return study
    reason = f"fewer reads than the sampling depth {sampling.depth}"
    return _keep(study, study.table.depth >= sampling.depth, reason, UnusableSamplesError)


def _check_covered(table: FeatureTable, matrix: DistanceMatrix) -> None:
    covered = _among(table, matrix.ids)
    if not covered.all():
        lost = [table.sample_ids[i] for i in np.flatnonzero(~covered)]
        raise InputError(
            f"the distance matrix has no row for {len(lost)} of {table.n_samples} samples of the table: "
            f"{first_ids(lost)}; give a matrix over all of them, or choose samples with --where"
        )
