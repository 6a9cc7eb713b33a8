"""What is never computed twice: fine-tuning on a frozen encoder, and predicting a whole study.

    AAM_TEST_DATA=../shared/data python benchmarks/frozen.py --json frozen.json

Fine-tuning: epochs on the same batches of ``ecam`` (month_of_life of children) from the same encoder. It learns; or it
is frozen and reads may change by epoch, so that its ASVs are embedded once; or it is frozen and reads stay the same, as
is the default, so that its samples are, too. The first epoch of a frozen encoder has all that is done once.

Prediction of all samples of ``moving_pictures``: each ASV of the study once, as `aam predict` does; each ASV of a batch
once; and a row for each ASV of each sample and for padding, as a model without de-duplication reads a batch. The slow
ones run on an evenly spaced fraction of the batches, and are projected by the rows that they encode (--share 1: all).

All sides have the same weights, drawn and not trained. Times are CPU seconds of one thread.

Shapes: B samples, S ASVs in a sample, U unique ASVs of a batch, L nucleotides.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _common import arguments, print_table, write_json
from torch import Tensor, nn

from aam.config import InputConfig, ModelConfig, PretrainConfig, SamplingConfig, TargetConfig, TrainConfig
from aam.data.files.sequences import encode_sequences
from aam.data.files.tables import read_tables
from aam.data.sampling.dataset import FixedBatches
from aam.data.sampling.rarefaction import SampleDraws
from aam.data.sampling.samples import SampleBatch
from aam.data.study import Study, load_study
from aam.models.heads import TargetSpec
from aam.models.initial import allocate, initialize
from aam.models.sequence_encoder import SequenceEncoder
from aam.models.sequence_predictor import SequencePredictor
from aam.training.checkpoints.store import Checkpoint, CheckpointStore, write_checkpoint
from aam.training.distributed import World
from aam.training.inference.asv_embeddings import embeddings_of
from aam.training.inference.samples import asvs_of, predict_outputs
from aam.training.machine.compute import CPU, Compute
from aam.workflows.prepare import prepare_training
from aam.workflows.restore import build_encoder

FINE_TUNING, SAMPLE_BY_SAMPLE, PADDED = 20.0, 15.0, 40.0
"""Times faster: an epoch; a study than sample by sample; a study than padded batches of any size."""
TOLERANCE = 1e-5
SEED = 0
FROZEN_EPOCHS = 3
# a draw of ASVs by epoch that changes nothing here, as no sample has that many
SIDES: dict[str, dict[str, Any]] = {
    "the encoder learns": {},
    "frozen, reads may change": {"freeze_base": True, "asv_choice": "random"},
    "frozen": {"freeze_base": True},
}


@contextmanager
def counting(model: SequencePredictor) -> Iterator[list[int]]:
    """Count the rows of nucleotides that a model encodes."""
    rows: list[int] = []

    def count(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        rows.append(len(given[0]))

    handle = model.encoder.asv_encoder.register_forward_hook(count)
    yield rows
    handle.remove()


def cpu_seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """CPU time of a call, and what it returns."""
    start = time.process_time()
    result = function()
    return time.process_time() - start, result


def write_encoder(folder: Path, shape: dict[str, Any]) -> Path:
    """Write a pretrained encoder of random weights."""
    config = PretrainConfig.from_flat({"output_dir": folder, **shape})
    encoder = allocate(build_encoder(config, {}), CPU)
    initialize(encoder, SEED)
    checkpoint = Checkpoint("pretrain", config.model_dump(mode="json"), {"training": []}, encoder.state_dict())
    write_checkpoint(checkpoint, folder / "encoder")
    return folder / "encoder"


def fine_tune(study: Study, folder: Path, options: dict[str, Any]) -> list[dict[str, Any]]:
    """Epochs of every side."""
    lines: list[dict[str, Any]] = []
    first_losses = []
    for name, own in SIDES.items():
        epochs = FROZEN_EPOCHS if own else 1
        config = TrainConfig.from_flat({**options, **own, "output_dir": folder / "run", "epochs": epochs})
        run = prepare_training(study, config)
        trainer = run.trainer(CheckpointStore(folder / "run"))
        for epoch in range(epochs):
            plans = trainer.train_sampler.plan_epoch(epoch)

            def train(plans: Any = plans, run: Any = run, trainer: Any = trainer) -> list[float]:
                return [float(trainer.train_step(run.dataset[plan])["loss"]) for plan in plans]

            assert isinstance(run.model, SequencePredictor)
            with counting(run.model) as rows:
                learning, losses = cpu_seconds(train)
                validating, _ = cpu_seconds(run.objective.validate)
            if epoch == 0:
                first_losses.append(losses[0])
            if epoch in (0, epochs - 1):
                what = f"{name}, first epoch" if own and epoch == 0 else name
                total = learning + validating
                lines.append({"side": what, "ASVs encoded": sum(rows), "steps s": learning, "validation s": validating})
                lines[-1]["epoch s"] = total
                lines[-1]["times faster"] = lines[0]["epoch s"] / total
    lines[-1]["first losses"] = first_losses
    return lines


def per_batch(model: SequencePredictor, nucleotides: Tensor, batch: SampleBatch) -> Tensor:
    """Predict a batch from the nucleotides of its own ASVs, each once."""
    prediction: Tensor = model(batch.samples(nucleotides[batch.asv])).prediction
    return prediction


def padded(model: SequencePredictor, nucleotides: Tensor, batch: SampleBatch) -> Tensor:
    """Predict a batch from the nucleotides of every ASV of every sample, padded to its largest sample."""
    own = torch.arange(batch.asv_index.numel()).view(batch.asv_index.shape)
    tokens = nucleotides[batch.asv[batch.asv_index.flatten()]]
    prediction: Tensor = model(batch.samples(tokens)._replace(asv_index=own)).prediction
    return prediction


NAMES: dict[Callable[..., Tensor], str] = {per_batch: "each ASV of a batch once", padded: "padded batches"}


def once(model: SequencePredictor, nucleotides: Tensor, batches: FixedBatches, cache: Path | None) -> np.ndarray:
    """Predict all samples as `aam predict` does."""
    compute = Compute(World(CPU))
    embeddings = embeddings_of(model, nucleotides, asvs_of(batches), compute, cache)
    return predict_outputs(model, embeddings, batches, compute)


@torch.no_grad()
def predict(options: argparse.Namespace, shape: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Predict the study by every path."""
    table = read_tables([options.data / "moving_pictures" / "table.biom"])
    nucleotides = torch.from_numpy(encode_sequences(table.sequences))
    encoder = SequenceEncoder(ModelConfig(max_bp=nucleotides.shape[1], **shape))
    model = SequencePredictor(encoder, TargetSpec((1,), ((),), (0.0,)), TargetConfig(metadata_column=("x",))).eval()
    initialize(model, SEED)
    samples = np.random.default_rng(SEED).permutation(table.n_samples)[: options.samples]
    batches = FixedBatches(SampleDraws(table, SamplingConfig(), SEED), np.sort(samples), options.batch_size)
    lines: list[dict[str, Any]] = []
    expected: Any = None
    for name in ("each ASV of the study once", "the same, embeddings kept by a run before"):
        with counting(model) as rows:
            seconds, outputs = cpu_seconds(lambda: once(model, nucleotides, replace(batches), folder / "kept"))
        expected = outputs if expected is None else expected
        lines.append({"path": name, "batch": options.batch_size, "ASVs encoded": sum(rows), "s": seconds, "of": 1.0})
        lines[-1] |= {"slower": seconds / lines[0]["s"], "difference": float(np.abs(outputs - expected).max())}
    for way, size, share in [
        *((per_batch, size, options.share if size == 1 else 1.0) for size in options.batch_sizes),
        *((padded, size, options.share) for size in options.batch_sizes if size > 1),
    ]:
        line = one_by_one(way, model, nucleotides, replace(batches, batch_size=size), (share, expected))
        difference = line.pop("difference")
        lines.append(line | {"slower": line["s"] / lines[0]["s"], "difference": difference})
    return lines


def one_by_one(
    way: Callable[[SequencePredictor, Tensor, SampleBatch], Tensor],
    model: SequencePredictor,
    nucleotides: Tensor,
    batches: FixedBatches,
    rest: tuple[float, np.ndarray],
) -> dict[str, Any]:
    """Predict evenly spaced batches, each by itself; seconds and ASVs are projected to all of them."""
    share, expected = rest
    way(model, nucleotides, batches[0])
    chosen = np.unique(np.linspace(0, len(batches) - 1, max(1, round(share * len(batches)))).round().astype(int))
    differences = []
    with counting(model) as rows:
        start = time.process_time()
        for index in chosen.tolist():
            output = way(model, nucleotides, batches[index])[:, 0].double().numpy()
            place = slice(index * batches.batch_size, index * batches.batch_size + len(output))
            differences.append(np.abs(output - expected[place, 0]).max())
        seconds = time.process_time() - start
    whole = sum(rows_of(way, batches[index]) for index in range(len(batches)))
    figures = {"path": NAMES[way], "batch": batches.batch_size, "ASVs encoded": whole, "s": seconds * whole / sum(rows)}
    return figures | {"of": sum(rows) / whole, "difference": float(max(differences))}


def rows_of(way: object, batch: SampleBatch) -> int:
    """Rows of nucleotides that a path encodes for a batch."""
    return len(batch.asv) if way is per_batch else batch.asv_index.numel()


def main() -> None:
    """Measure both and hold them against what is claimed."""
    parser = arguments((__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("AAM_TEST_DATA"), help="default: AAM_TEST_DATA")
    parser.add_argument("--embedding-dim", type=int, default=128)
    parser.add_argument("--attention-layers", type=int, default=3)
    parser.add_argument("--nucleotide-patch", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32, help="of fine-tuning, and of the prediction of aam")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 8, 32], help="of the other predictions")
    parser.add_argument("--samples", type=int, help="of each study, to try it out; default: all")
    parser.add_argument("--share", type=float, default=0.1, help="of the batches that the slow predictions run on")
    options = parser.parse_args()
    if options.data is None:
        parser.error("set AAM_TEST_DATA or give --data")
    torch.set_num_threads(1)
    shape = {name: getattr(options, name) for name in ("embedding_dim", "attention_layers", "nucleotide_patch")}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tuned = fine_tune(children(options), folder, training_options(options, shape, folder))
        losses = tuned[-1].pop("first losses")
        predicted = predict(options, shape, folder)
    for lines in (tuned, predicted):
        print_table(list(lines[0]), [list(line.values()) for line in lines])
        print()
    print(f"loss of the first step of every side of fine-tuning: {', '.join(f'{loss:.6f}' for loss in losses)}")
    write_json(options.json, {"fine-tuning": tuned, "prediction": predicted, "first losses": losses})
    judge(tuned, predicted, losses, whole=options.samples is None)


def children(options: argparse.Namespace) -> Study:
    """The samples of children of ecam."""
    files = {"table": (options.data / "ecam/table.biom",), "metadata": options.data / "ecam/metadata.tsv"}
    study = load_study(InputConfig.model_validate({**files, "where": ("mom_child=C",)}), SamplingConfig())
    if options.samples is None:
        return study
    table = study.table.select_samples(np.arange(options.samples))
    assert study.metadata is not None
    return replace(study, table=table, metadata=study.metadata.iloc[: options.samples])


def training_options(options: argparse.Namespace, shape: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What all sides of fine-tuning share."""
    encoder = write_encoder(folder, {**shape, "max_bp": 150})
    common = {"metadata_column": "month_of_life", "pretrained_encoder": encoder, "device": "cpu"}
    return {**common, "batch_size": options.batch_size, "group_column": "host_subject_id"}


def judge(tuned: list[dict[str, Any]], predicted: list[dict[str, Any]], losses: list[float], whole: bool) -> None:
    """Fail where less was measured than is claimed, of speed with whole studies."""
    slower = {(line["path"], line["batch"]): line["slower"] for line in predicted}
    alone = max(value for (path, _), value in slower.items() if path == NAMES[per_batch])
    filled = min(value for (path, _), value in slower.items() if path == NAMES[padded])
    faster = tuned[-1]["times faster"]
    same = max(line["difference"] for line in predicted) <= TOLERANCE and np.ptp(losses) <= TOLERANCE
    print(
        f"times faster: an epoch {faster:.0f}; a study {filled:.0f} or more than padded batches, and up to {alone:.1f} "
        "than batches that encode each of their ASVs once"
    )
    if not same or (whole and not (faster >= FINE_TUNING and alone >= SAMPLE_BY_SAMPLE and filled >= PADDED)):
        raise SystemExit(
            f"claimed: an epoch {FINE_TUNING:g} times faster, a study {SAMPLE_BY_SAMPLE:g} times faster than sample by "
            f"sample and {PADDED:g} times faster than padded batches, results equal to {TOLERANCE}"
        )


if __name__ == "__main__":
    main()
