"""The embedding of a pretrained encoder as a source of the kernel learner; see `aam.learners.kernel_sources`.

The encoder stays as it is. An embedding depends on the encoder and on the sample's own reads alone, to the last bit:
ASVs are embedded in the order of the table's columns, all of them, and samples one by one. So it does not matter with
which others a sample is embedded, and every process embeds a sample once, however many folds and draws ask for it.

Shapes: m samples, D width of the encoder.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import torch

from aam.config import MachineConfig
from aam.data.files.tables import FeatureTable
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.study import Study, digest
from aam.learners.base import Arrays, Floats
from aam.learners.kernel_features import Places, Rule
from aam.learners.kernel_sources import DESCRIBED, Described, Wanted
from aam.training.checkpoints.store import Checkpoint, read_checkpoint
from aam.training.distributed import World
from aam.training.inference.asv_embeddings import HeldEmbeddings, embed_asvs, held
from aam.training.inference.samples import embed_samples
from aam.training.machine.compute import Compute
from aam.training.machine.hardware import device_for
from aam.workflows.restore import Restored, restored

Device = Literal["auto", "cpu", "cuda"]
PRECISE: Final = MachineConfig(tf32=False)
"""Single precision on every device, so that a model that was fitted on one predicts the same on another, but for the
last bits."""
MOST_KEPT: Final = 200_000
"""Embeddings of samples that a process keeps of one encoder."""


@dataclass(eq=False)
class _Kept:
    """What a process has embedded by one encoder."""

    asvs: dict[str, HeldEmbeddings] = field(default_factory=dict)
    """By a hash of the sequences of a table; the last one alone."""
    samples: dict[str, Floats] = field(default_factory=dict)
    """[D], by a hash of sequences, sample id and reads."""


_KEPT: Final[dict[str, _Kept]] = {}
"""By a hash of the encoder. Its keys are hashes of all that an embedding depends on, so nothing in it can be out of
date, and it need not travel with learners that are sent to other processes."""


@dataclass(frozen=True, eq=False)
class Embedding(Described):
    """The embedding of samples by an encoder."""

    kind: ClassVar[str] = "encoder"
    rule: ClassVar[Rule] = "gaussian"
    trained: Restored
    device: Device = "auto"

    @property
    def name(self) -> str:
        """See `Described`."""
        return "encoder"

    @cached_property
    def hash(self) -> str:
        """Of all that an embedding depends on besides the sample, and where it is computed."""
        weights = [f"{name} {array.shape}" for name, array in self.arrays().items()]
        return digest([json.dumps(self.settings()), self.device, *weights, *self.arrays().values()])

    def features(self, study: Study, rows: Places) -> Floats:
        """Embeddings [m, D]."""
        kept = _KEPT.setdefault(self.hash, _Kept())
        table = study.table.select_samples(rows)
        asvs = digest(table.sequences)
        keys = [digest([asvs, *one]) for one in _samples(table)]
        new = [place for place, key in enumerate(keys) if key not in kept.samples]
        if len(kept.samples) + len(new) > MOST_KEPT:
            kept.samples.clear()
            new = list(range(len(keys)))
        if new:
            embedded = self._embed(replace(study, table=table.select_samples(np.array(new))), asvs, kept)
            kept.samples |= dict(zip((keys[place] for place in new), embedded, strict=True))
        width = self.trained.config.model.sample_dim
        return np.stack([kept.samples[key] for key in keys]) if keys else np.empty((0, width))

    @torch.no_grad()
    def _embed(self, study: Study, asvs: str, kept: _Kept) -> Floats:
        """Embed the samples of a study, whose sequences have a hash [m, D]."""
        config = self.trained.config
        with World(device_for(self.device)) as world:
            compute = Compute.of(world, PRECISE)
            encoder = self.trained.encoder.to(compute.device)
            if asvs not in kept.asvs:
                nucleotides = torch.from_numpy(study.nucleotides(config.model.max_bp)).to(compute.device)
                every = np.arange(study.table.n_asvs)
                kept.asvs.clear()
                kept.asvs[asvs] = held(embed_asvs(encoder, nucleotides, every, compute), every, len(every))
            draws = SampleDraws(study.table, config.sampling, config.runtime.seed)
            batches = FixedBatches(draws, np.arange(study.table.n_samples), 1)
            rows = embed_samples(encoder, torch.empty(0), batches, compute, embeddings=kept.asvs[asvs])
        return rows.double().cpu().numpy()

    def arrays(self) -> Arrays:
        """The weights of the encoder."""
        return {name: tensor.cpu().numpy() for name, tensor in self.trained.encoder.state_dict().items()}

    def settings(self) -> dict[str, Any]:
        """The options of its pretraining, and the taxonomic ranks that it has heads for."""
        config = self.trained.config.model_dump(mode="json")
        return {"config": config, "taxonomy": self.trained.documents.get("taxonomy")}  # there where it was learned

    @classmethod
    def restore(cls, settings: Mapping[str, Any], arrays: Arrays) -> Self:
        """See `Described`.

        Raises:
            InputError: its options are those of another version of aam.
        """
        weights = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return cls(restored(Checkpoint("pretrain", settings["config"], {"taxonomy": settings["taxonomy"]}, weights)))


DESCRIBED["encoder"] = Embedding


def _samples(table: FeatureTable) -> list[tuple[Any, ...]]:
    """Id and reads of every sample."""
    counts = table.counts
    spans = zip(counts.indptr[:-1].tolist(), counts.indptr[1:].tolist(), strict=True)
    return [
        (name, counts.indices[start:stop].astype(np.int64), counts.data[start:stop].astype(np.int64))
        for name, (start, stop) in zip(table.sample_ids, spans, strict=True)
    ]


@dataclass(frozen=True, eq=False)
class WantedEmbedding(Wanted):
    """The embedding of an encoder, of which nothing is left to be learned."""

    embedding: Embedding

    @classmethod
    def read(cls, path: Path, device: Device) -> Self:
        """Read an encoder.

        Raises:
            InputError: no checkpoint of `aam pretrain` is there.
        """
        return cls(Embedding(restored(read_checkpoint(path, kind="pretrain")), device))

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """See `Wanted`."""
        return ()

    def learn(self, study: Study, rows: Places) -> Embedding:
        """See `Wanted`."""
        return self.embedding

    def check(self, study: Study, rows: Places) -> None:
        """See `Wanted`; the checkpoint was read already."""
