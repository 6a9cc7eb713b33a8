"""Pretraining for notebooks."""

from __future__ import annotations  # what annotations alone name is not imported

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import TransformerMixin
from sklearn.utils.validation import check_is_fitted

from aam.config import EncoderType, PretrainConfig, RootChoice, TrainConfig, UnifracMetric
from aam.data.distances.phylogeny import LengthChoices
from aam.estimators.base import Kind, SampleModel
from aam.estimators.inputs import (
    MetadataLike,
    Sequences,
    TableLike,
    TaxonomyLike,
    TreeLike,
    as_phylogeny,
    as_taxonomy,
    metadata_of,
)


@dataclass(eq=False, repr=False, kw_only=True)
class SampleEncoder(TransformerMixin, SampleModel):  # type: ignore[misc]
    """Learns, without labels, to encode ASVs and samples: masked nucleotides, and UniFrac distances between samples.

    Parameters have the names and defaults of the options of `aam pretrain`, whose help says more. They are checked by
    `fit`. ``encoder.embed(table)`` gives embeddings by sample id, ``encoder.transform(table)`` as an array.

    Args:
        embedding_dim: width of every embedding.
        attention_heads: attention heads of each layer; divides `embedding_dim`.
        attention_layers: transformer layers of each level (nucleotides, ASVs).
        nucleotide_patch: nucleotides read as one position.
        rarefy_depth: sampling depth; samples with fewer reads cannot be used. None: all reads.
        max_asvs: the most ASVs of a sample that the model reads (0: all).
        val_fraction: fraction of the samples that chooses the best checkpoint.
        epochs: passes over the training samples.
        batch_size: samples in a batch.
        lr: highest learning rate.
        patience: stop after this many validations that are no better. None: never.
        seed: seed of every draw; the same seed gives the same model on a CPU.
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: processes that prepare batches beside the main one; None: 2 for training on a GPU, else 0.
        output_dir: folder for what `aam pretrain` leaves (checkpoints, curves, plots); None: nothing is left. Every fit
            of a clone, as cross-validation and searches make them, has a folder in it: ``fit-1``, ``fit-2``, ...
        options: any other option of `aam pretrain` by its name with underscores, such as
            ``{"weight_decay": 0.1, "group_column": "subject"}``.
        unifrac_metric: distance between samples that is learned.
        encoder_type: what is learned besides masked nucleotides: ``unifrac`` (distances between samples), ``faith_pd``,
            ``taxonomy`` (of ASVs), or ``combined``, all of these.
        root: where the root of the tree is: ``as-is``, ``midpoint`` (halfway between the two tips farthest apart), or
            ``error``: as it is, and an error where it has three children or more, since no root was chosen then.

    Attributes:
        trained_: the model (`trained_.encoder`, a `torch.nn.Module`) and the full config.
        history_: losses and metrics by step, as in ``metrics.jsonl`` (after `fit`, not after `load`).
        left_out_: samples that could not be used, with the reason (after `fit`, not after `load`).
        sequences_: DNA by id of ASVs whose ids are no sequences: those given to `fit`, where the methods look ids up.
        feature_names_in_, n_features_in_: ids of the ASVs of the table, and their number (after `fit`, not after
            `load`). Tables are joined by sequence: others may hold other ASVs, in another order.
    """

    unifrac_metric: UnifracMetric = "unweighted_unifrac"
    encoder_type: EncoderType = "unifrac"
    root: RootChoice = "error"

    kind: ClassVar[Kind] = "SampleEncoder"
    config_type: ClassVar[type[PretrainConfig | TrainConfig]] = PretrainConfig

    def fit(
        self,
        table: TableLike,
        y: object = None,
        *,
        tree: TreeLike | None = None,
        taxonomy: TaxonomyLike | None = None,
        metadata: MetadataLike | None = None,
        sequences: Sequences | None = None,
    ) -> Self:
        """Pretrain.

        Args:
            table: feature table of counts: what `aam.read` gives, an AnnData (counts in `X`), a `biom.Table`, a path,
                or a DataFrame of samples x ASVs. ASVs whose ids are not sequences need `sequences`.
            y: ignored, for pipelines.
            tree: rooted phylogeny over the ASVs: a path, a Newick string or a `skbio.TreeNode`.
            taxonomy: lineages of ASVs, to learn with `encoder_type` ``taxonomy`` or ``combined``: a path, or a
                DataFrame by ASV id with a column ``Taxon``.
            metadata: DataFrame by sample id, or a path; only for options such as ``group_column``. Samples without a
                row are left out. None: the `obs` of an AnnData.
            sequences: DNA by ASV id, or the path of a FASTA file; remembered (`sequences_`).

        Raises:
            InputError: a parameter or an input is wrong.
        """
        from aam.data.study import assemble_study, read_matrix, with_phylogeny, with_taxonomy
        from aam.workflows.folder import settle_folder
        from aam.workflows.pretrain import check_distances, check_taxonomy, pretrain_study

        given = metadata_of(metadata, table)
        with self._places() as places:
            config = PretrainConfig.from_flat(self._flat() | {"output_dir": places.output})
            check_distances(config, has_tree=tree is not None)
            check_taxonomy(config, has_taxonomy=taxonomy is not None)
            with self._world(config) as world:
                config = world.on_main(lambda: settle_folder(config))
                inputs, sampling = config.inputs, config.sampling
                whole = self._table(table, sequences, inputs.drop_missing_sequences)
                matrix = read_matrix(inputs, config.unifrac)
                study = assemble_study(whole, sampling, metadata=given, matrix=matrix)
                if tree is not None:
                    phylogeny = as_phylogeny(tree, LengthChoices.of(inputs), inputs.root)
                    study = with_phylogeny(study, phylogeny, sampling, config.unifrac, inputs.drop_missing_tips)
                if taxonomy is not None:
                    study = with_taxonomy(study, as_taxonomy(taxonomy))
                self._take_run(*pretrain_study(study, config, world))
        return self

    def transform(self, table: TableLike, *, sequences: Sequences | None = None) -> NDArray[np.float32]:
        """Embed samples as `embed` does: float32 [samples, embedding_dim], in the table's order."""
        return self.embed(table, sequences=sequences).to_numpy(np.float32)

    def embed_asvs(self, table: TableLike, *, sequences: Sequences | None = None) -> pd.DataFrame:
        """Embed the ASVs that the usable samples of a table hold: by ASV id, a column for each dimension.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: the table is wrong, or none of its samples can be used.
        """
        from aam.workflows.embed import embed_study_asvs

        _, study = self._study(table, sequences)
        with self._compute() as compute:
            return embed_study_asvs(self._network, study, compute)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[Any]:
        """Names of the columns of `transform`, for ``set_output(transform="pandas")``."""
        check_is_fitted(self, "trained_")
        width = self._network.config.model.embedding_dim
        return np.array([f"dim_{i}" for i in range(width)], dtype=object)
