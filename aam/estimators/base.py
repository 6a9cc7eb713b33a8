"""What the estimators share: parameters, output folder, embeddings, saving."""

from __future__ import annotations  # what annotations alone name is not imported

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from aam.config import PretrainConfig, TrainConfig, refuse_renamed
from aam.data.files.table_objects import asv_ids_of, is_anndata, own_sequences
from aam.data.files.tables import FeatureTable, feature_table
from aam.errors import InputError
from aam.estimators.folders import folder_of_clone
from aam.estimators.inputs import Sequences, TableLike, as_sequences
from aam.estimators.learned import (
    Trained,
    as_checkpoint,
    is_learner,
    network_of,
    options_of,
    read_trained,
    sampling_of,
    targets_of,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from aam.data.study import Study
    from aam.training.distributed import World
    from aam.training.machine.compute import Compute
    from aam.workflows.fit import Run
    from aam.workflows.restore import Restored

Kind: TypeAlias = Literal["SampleEncoder", "SampleRegressor", "SampleClassifier"]
"""Which estimator a trained model belongs to."""

OF_METHODS = frozenset(
    {
        "table",
        "rep_seqs",
        "tree",
        "taxonomy",
        "metadata",
        "where",
        "metadata_column",
        "classifier",
        "pretrained_encoder",
    }
)
"""Options of the command line that are arguments of `fit`, or parameters under another name, here."""


class Places(NamedTuple):
    """Where a fit writes."""

    output: Path
    """The folder of its run; one that goes afterwards where the user names none."""
    encoder: Path
    """The checkpoint of a pretrained encoder, for as long as it is needed."""


@dataclass(eq=False, repr=False, kw_only=True)
class SampleModel(BaseEstimator):  # type: ignore[misc]
    """Parameters and methods of every estimator; see `SampleEncoder` for what the parameters are."""

    embedding_dim: int = 128
    attention_heads: int = 4
    attention_layers: int = 3
    nucleotide_patch: int = 5
    rarefy_depth: int | Literal["auto"] | None = None
    max_asvs: int = 1024
    val_fraction: float = 0.2
    epochs: int | None = 50
    batch_size: int = 32
    lr: float | None = 1e-3
    patience: int | None = None
    seed: int = 42
    device: Literal["auto", "cpu", "cuda"] = "auto"
    num_workers: int | None = None
    output_dir: Path | str | None = None
    options: Mapping[str, Any] | None = None

    kind: ClassVar[Kind]
    config_type: ClassVar[type[PretrainConfig | TrainConfig]]
    _is_clone = False

    def __new__(cls, *_: Any, **parameters: Any) -> Self:
        """Refuse parameters by their old names; see `refuse_renamed`."""
        for name in parameters:
            refuse_renamed(name, cls.config_type.options())
        made: Self = super().__new__(cls)
        return made

    def embed(self, table: TableLike, *, sequences: Sequences | None = None) -> pd.DataFrame:
        """Embed samples.

        Args:
            table: feature table of counts.
            sequences: DNA by ASV id, of ASVs whose ids are not sequences and were not among those given to `fit`.

        Returns:
            A row for each sample of the table, in its order, by sample id; a column for each dimension. NaN for
            samples that cannot be used (no reads, or fewer than `rarefy_depth`), which are logged.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: the table is wrong, or none of its samples can be used; or the model is a learner besides the
                network, which embeds nothing.
        """
        from aam.workflows.embed import embed_study

        check_is_fitted(self, "trained_")
        network_of(self.trained_)  # before the table is read
        whole, study = self._study(table, sequences)
        with self._compute() as compute:
            rows = embed_study(self._network, study, self.batch_size, compute, self.num_workers or 0)
        return rows.reindex(list(whole.sample_ids)).rename_axis("sample_id")

    def embed_into(self, adata: AnnData, *, key_added: str = "X_aam", sequences: Sequences | None = None) -> None:
        """Embed the samples of an AnnData and keep the result in its `obsm`, where scanpy looks (``use_rep="X_aam"``).

        The rows of samples that cannot be used are NaN, which is logged: choose the others before scanpy looks for
        neighbours.

        Args:
            adata: an AnnData whose `X` holds the counts; where another layer does, use ``embed(aam.read(adata,
                layer=...))``.
            key_added: the name in `obsm`, where it replaces what is there; float32 [samples, embedding_dim].
            sequences: as of `embed`.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: it is no AnnData, or as of `embed`.
        """
        check_is_fitted(self, "trained_")
        if not is_anndata(adata):
            raise InputError(
                f"embed_into: a {type(adata).__name__} is no AnnData; use embed, which returns a DataFrame"
            )
        adata.obsm[key_added] = self.embed(adata, sequences=sequences).to_numpy(np.float32)

    def save(self, path: Path | str) -> None:
        """Write the trained model as a checkpoint, which `aam predict` and `aam embed` read too.

        Args:
            path: folder to write; must not exist.

        Raises:
            NotFittedError: `fit` was not called.
            InputError: the folder exists.
        """
        from aam.training.checkpoints.store import write_checkpoint

        check_is_fitted(self, "trained_")
        checkpoint = as_checkpoint(self.trained_)
        write_checkpoint(replace(checkpoint, documents=checkpoint.documents | self._documents()), Path(path))

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read what `save` wrote, or the output folder or a checkpoint of a run of `aam`, of whatever learner.

        Parameters are those of the run, but for `output_dir` and `encoder`: the encoder's weights are in the model.
        What `save` wrote knows the sequences that `fit` was given; a run of `aam` does not.

        Raises:
            InputError: no whole checkpoint is there, or it is one of another kind of model.
        """
        trained, documents = read_trained(Path(path))
        if _kind_of(trained) != cls.kind:
            raise InputError(f"{path} is no model of aam.{cls.kind}: use aam.{_kind_of(trained)}.load")
        flat = options_of(trained.spec) if is_learner(trained) else trained.config.flat()
        estimator = cls(**cls._parameters_of(flat))
        estimator._take_model(trained, documents)
        return estimator

    @classmethod
    def from_pretrained(cls, name: Path | str) -> Self:
        """Read a model that was published: a folder of `aam publish`, or a model of the Hugging Face Hub.

        Args:
            name: a folder, whatever `load` reads; or ``owner/name``, or ``owner/name@revision`` with a commit, a tag or
                a branch. What is fetched once is kept by `huggingface_hub` in its cache. Every file that is read is
                verified against the manifest that came with it, which tells a damaged file, not who wrote it.

        Raises:
            InputError: as of `load`; or the hub has no such model or cannot be reached, or the extra ``hub`` is not
                installed.
        """
        return cls.load(name)

    def _documents(self) -> dict[str, Any]:
        """What a checkpoint needs besides the model."""
        return {"sequences": self.sequences_} if self.sequences_ else {}

    def _take_model(self, trained: Trained, documents: Mapping[str, Any]) -> None:
        self.trained_: Trained = trained
        self.sequences_: dict[str, str] = documents.get("sequences", {})

    @property
    def _network(self) -> Restored:
        """The trained network; an `InputError` where it is another learner."""
        return network_of(self.trained_)

    def _world(self, config: PretrainConfig | TrainConfig) -> World:
        """The processes that train together."""
        from aam.training.distributed import setup_distributed

        return setup_distributed(config.runtime.device, config.distribution)

    def _take_run(self, run: Run, folder: Path) -> None:
        """Keep what a run has learned; its folder may be gone afterwards."""
        from aam.training.run_folder import RunFolder
        from aam.workflows.restore import restore

        self.trained_ = restore(folder)
        self.history_ = pd.read_json(RunFolder(folder).metrics, lines=True)
        self.left_out_ = run.material.study.left_out
        run.world.barrier()  # nobody deletes the folder while another process reads it

    def _study(
        self, table: TableLike, sequences: Sequences | None, metadata: pd.DataFrame | None = None
    ) -> tuple[FeatureTable, Study]:
        """The whole table, and the study of its samples that the trained model can use."""
        from aam.data.study import assemble_study

        whole = self._whole(table, sequences)
        return whole, assemble_study(whole, sampling_of(self.trained_), metadata=metadata)

    def _whole(self, table: TableLike, sequences: Sequences | None) -> FeatureTable:
        """A table after `fit`, whose ids may be known from there."""
        check_is_fitted(self, "trained_")
        known = self.sequences_ | own_sequences(table) | as_sequences(sequences)
        return feature_table(table, known, bool((self.options or {}).get("drop_missing_sequences", False)))

    def _table(self, table: TableLike, sequences: Sequences | None, drop_missing: bool) -> FeatureTable:
        """The table to fit, of which ids and sequences are remembered."""
        given = own_sequences(table) | as_sequences(sequences)
        whole = feature_table(table, given, drop_missing)
        own = {name: dna for name, dna in zip(whole.asv_ids, whole.sequences, strict=True) if name.upper() != dna}
        names = asv_ids_of(table)
        self.sequences_ = own | given
        self.feature_names_in_ = np.array(whole.asv_ids if names is None else names, dtype=object)
        self.n_features_in_ = len(self.feature_names_in_)
        return whole

    @contextmanager
    def _places(self) -> Iterator[Places]:
        """Where a fit writes. That of a clone, as cross-validation makes, has a folder for itself in `output_dir`."""
        with TemporaryDirectory(prefix="aam-") as scratch:
            start = Path(scratch) / "encoder"
            if self.output_dir is None:
                yield Places(Path(scratch) / "run", start)
            elif self._is_clone:
                with folder_of_clone(Path(self.output_dir)) as folder:
                    yield Places(folder, start)
            else:
                yield Places(Path(self.output_dir), start)

    def __sklearn_clone__(self) -> Self:
        """Copy the parameters, and note that the copy is one: see `_places`."""
        fresh: Self = super().__sklearn_clone__()
        fresh._is_clone = True
        return fresh

    @contextmanager
    def _compute(self) -> Iterator[Compute]:
        """Compute on the device that the parameters name now, which need not be the one of the training."""
        from aam.training.distributed import setup_distributed
        from aam.training.machine.compute import Compute

        with setup_distributed(self.device, inference=True) as world:
            yield Compute.of(world, self._network.config.runtime)

    def _flat(self) -> dict[str, Any]:
        """Flat options that the parameters and `options` set.

        Defaults are left out: a pretrained encoder fixes the shape of a model, and a default does not contradict it.

        Raises:
            InputError: `options` repeats a parameter, or holds what is an argument of `fit`.
        """
        parameters = self.get_params(deep=False)
        extra = dict(self.options or {})
        misplaced = sorted(set(extra) & (set(parameters) | OF_METHODS))
        if misplaced:
            raise InputError(f"options: {', '.join(misplaced)} has its own place: a parameter, or an argument of fit")
        declared = self.config_type.options()
        given = {name: value for name, value in parameters.items() if name in declared and name != "output_dir"}
        return {name: value for name, value in given.items() if value != declared[name][1].default} | extra

    @classmethod
    def _parameters_of(cls, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Parameters with which `_flat` gives the options of a run; those that are missing are at their defaults."""
        own = {field.name for field in fields(cls)} - {"output_dir"}
        not_options = own | OF_METHODS | {"output_dir", "resume", "overwrite"}
        declared = cls.config_type.options()
        parameters = {name: value for name, value in flat.items() if name in own}
        extra = {name: value for name, value in flat.items() if name not in not_options}
        changed = {name: value for name, value in extra.items() if value != declared[name][1].default}
        return parameters | {"options": changed or None}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.no_validation = True  # tables come as files and biom.Tables too; aam checks them by its own rules
        return tags


def _kind_of(trained: Trained) -> Kind:
    targets = targets_of(trained)
    if targets is None:
        return "SampleEncoder"
    return "SampleClassifier" if targets.is_classes else "SampleRegressor"
