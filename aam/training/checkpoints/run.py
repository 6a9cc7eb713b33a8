"""The checkpoints of a run on any number of ranks, whole or in shards, and how each rank takes its part of one."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from aam.errors import InputError, first_ids
from aam.training.checkpoints.alike import check_alike
from aam.training.checkpoints.files import Draft, Entry, VerifiedFolder
from aam.training.checkpoints.optimizer_state import (
    blank_state,
    check_groups,
    flatten_optimizer,
    load_optimizer,
    reshard,
)
from aam.training.checkpoints.sharded import ShardFiles, WholeFiles, stage, write_shards
from aam.training.checkpoints.store import (
    MODEL,
    OPTIMIZER,
    Checkpoint,
    CheckpointStore,
    Kind,
    Verified,
    text_files,
    verify_checkpoint,
)
from aam.training.distributed import World
from aam.training.distributed.sharding import gather_whole

SHARDS = "sharded"


@dataclass(frozen=True, eq=False)
class Identity:
    """What a checkpoint says of itself besides weights and state."""

    kind: Kind
    """``pretrain`` or ``train``."""
    config: dict[str, Any]
    documents: dict[str, Any]
    fingerprint: dict[str, str]
    """Hashes of what is learned from, by name, so that a run is resumed on the data that it began with."""


@dataclass(frozen=True, eq=False)
class _Pending:
    """A sharded checkpoint that is being written."""

    draft: Draft
    texts: dict[str, Entry]
    """Files of rank 0."""
    shards: Future[dict[str, Entry]]
    best: bool


class RunCheckpoints:
    """Writes and reads the checkpoints of a run; every rank calls all methods, and rank 0 writes.

    Models are bare modules whose parameters are tensors, or DTensors after `fully_shard`. What one strategy and number
    of ranks wrote, any other reads.

    Args:
        store: where checkpoints go.
        identity: what they say of themselves.
        world: the ranks.
        sharded: each rank writes its own part, which only resuming reads; otherwise rank 0 gathers all and writes it.
        asynchronous: training goes on while shards are written; `finish` makes the checkpoint appear.
    """

    def __init__(
        self,
        store: CheckpointStore,
        identity: Identity,
        world: World,
        sharded: bool = False,
        asynchronous: bool = False,
    ) -> None:
        assert sharded or not asynchronous
        self.store, self.identity, self.world = store, identity, world
        self.sharded, self.asynchronous = sharded, asynchronous
        # of its own, so that what is written meanwhile does not disturb the order of the other collectives
        self._group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: _Pending | None = None

    def save(self, model: nn.Module, optimizer: Optimizer, state: dict[str, Any], step: int, best: bool) -> None:
        """Write a checkpoint and make it ``last`` (and ``best``); an asynchronous one when it is written.

        Args:
            model: the bare model.
            optimizer: over parameters of the model.
            state: JSON, the same on every rank; `load` gives it back.
            step: steps that are done; part of the name.
            best: it is the best so far.
        """
        self.finish()
        moments, groups = flatten_optimizer(optimizer, model)
        state = state | {"groups": groups, "study": self.identity.fingerprint}
        if self.sharded:
            self._save_shards(_prefixed(model.state_dict(), moments), state, step, best)
        else:
            keep = self.world.is_main
            checkpoint = self._checkpoint(gather_whole(model.state_dict(), keep), gather_whole(moments, keep), state)
            self.world.on_main(partial(self.store.write, checkpoint, step, best))

    def finished(self) -> bool:
        """Whether this rank has written its part of a pending checkpoint; where all have, `finish` need not wait."""
        return self._pending is not None and self._pending.shards.done()

    def finish(self) -> None:
        """Wait for a pending checkpoint to be written, if there is one, and make it appear."""
        pending, self._pending = self._pending, None
        if pending is not None:
            shards = pending.shards.result()
            entries, kind = pending.texts | shards, self.identity.kind
            self.world.on_main(lambda: pending.draft.finish(kind, "sharded", entries))
            self.world.on_main(lambda: self.store.adopt(pending.draft.place, pending.best))

    def load(self, path: Path, model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
        """Put weights and optimizer where a checkpoint of this run was written, and give its state.

        Raises:
            InputError: the checkpoint is damaged, or of another kind, study or model.
        """
        found = self.world.on_main(lambda: verify_checkpoint(path, self.identity.kind, with_state=True))
        assert found.state is not None
        own = {"study": self.identity.fingerprint, "groups": flatten_optimizer(optimizer, model)[1]}
        if not isinstance(found.state, dict) or not isinstance(found.state.get("study"), dict):
            raise InputError(f"{path} says nothing of the study that it was trained on; use another checkpoint")
        self._check_study(path, found.state["study"])
        check_alike({name: found.state.get(name) for name in own}, own, "state")
        reshard(model)
        check_groups(optimizer, model, found.state["groups"])
        source = self._open(found)
        moments = blank_state(model, _part(source.tensors, "optimizer/"))
        targets = _prefixed(model.state_dict(), moments)
        _check_names(found.directory, source.tensors, targets)
        source.fill(targets)
        load_optimizer(optimizer, model, moments, found.state["groups"])
        return found.state

    def load_weights(self, path: Path, model: nn.Module) -> None:
        """Take the weights of a checkpoint, which may be of any place that `read_checkpoint` knows.

        Raises:
            InputError: the checkpoint is damaged, or of another model.
        """
        found = self.world.on_main(lambda: verify_checkpoint(path))
        reshard(model)
        source, targets = self._open(found), _prefixed(model.state_dict(), {})
        _check_names(found.directory, _prefixed(_part(source.tensors, "model/"), {}), targets)
        source.fill(targets)

    def publish(self, model: nn.Module) -> None:
        """Where the best checkpoint is sharded, write a whole one of the model, which has its weights, in its place."""
        self.finish()
        best = self.world.on_main(self.store.best_or_last)
        if best is not None and self.world.on_main(lambda: VerifiedFolder(best).manifest.layout) == "sharded":
            reshard(model)
            weights = gather_whole(model.state_dict(), self.world.is_main)
            self.world.on_main(partial(self.store.replace_best, self._checkpoint(weights)))

    def close(self) -> None:
        """Finish what is pending, and write no more."""
        self.finish()
        self._writer.shutdown()

    def _checkpoint(
        self,
        weights: dict[str, Tensor],
        moments: dict[str, Tensor] | None = None,
        state: dict[str, Any] | None = None,
    ) -> Checkpoint:
        own = self.identity
        return Checkpoint(own.kind, own.config, own.documents, weights, moments, state)

    def _save_shards(self, tensors: Mapping[str, Tensor], state: dict[str, Any], step: int, best: bool) -> None:
        draft = self.world.on_main(lambda: Draft(self.store.place_for(step)))
        texts = self.world.on_main(lambda: draft.write(text_files(self._checkpoint({}, state=state))))
        folder, group = draft.folder / SHARDS, self._group
        if self.asynchronous:
            shards = self._writer.submit(write_shards, stage(tensors), folder, group)
        else:
            shards = Future()
            shards.set_result(write_shards(tensors, folder, group))
        self._pending = _Pending(draft, texts, shards, best)
        if not self.asynchronous:
            self.finish()

    def _open(self, found: Verified) -> WholeFiles | ShardFiles:
        if found.layout == "sharded":
            return ShardFiles(found.directory / SHARDS, self._group)
        moments = [] if found.state is None else [("optimizer", found.directory / OPTIMIZER)]
        return WholeFiles(("model", found.directory / MODEL), *moments)

    def _check_study(self, path: Path, begun: dict[str, str]) -> None:
        here = self.identity.fingerprint
        changed = sorted(name for name in begun.keys() | here.keys() if begun.get(name) != here.get(name))
        if changed:
            raise InputError(
                f"--resume: {path} was trained on other data than these files hold (changed: {', '.join(changed)}): "
                "give the files of the first run, or start a new one"
            )


def _prefixed(weights: Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name the tensors of a model and its optimizer as those of one checkpoint."""
    named = {f"model/{name}": tensor for name, tensor in weights.items()}
    return named | {f"optimizer/{name}": tensor for name, tensor in moments.items()}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Undo `_prefixed` for the model or the optimizer."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_names(directory: Path, saved: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose tensors are not those of the model."""
    shapes, expected = ({name: tensor.shape for name, tensor in tensors.items()} for tensors in (saved, targets))
    if shapes != expected:
        differing = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
        raise InputError(
            f"{directory} holds other weights than this model has (differing: {first_ids(differing)}): resume it with "
            "the options and the version of aam that wrote it"
        )
