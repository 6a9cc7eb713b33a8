"""Where the memory of a run goes: by phase of a step, and by module (``--memory-profile``).

Phases are distinguished by what is called: the trainer says when a step or a validation begins, modules are called
with a graph or without one, and the loss is scaled before its backward pass. The first steps are looked at closely;
after these only peaks are kept, which costs little.
"""

import os
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pandas as pd
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.hooks import RemovableHandle

from aam.data.files.whole_files import whole_file
from aam.training.distributed.sharding import own_part
from aam.training.run_folder import RunFolder

SETUP, WITHOUT_GRAPH, FORWARD, BACKWARD, OPTIMIZER, VALIDATION, BETWEEN = (
    "setup",
    "forward without graph",
    "forward",
    "backward",
    "optimizer step",
    "validation",
    "between steps",
)
PHASES: Final = (SETUP, WITHOUT_GRAPH, FORWARD, BACKWARD, OPTIMIZER, VALIDATION, BETWEEN)
CLOSELY: Final = 3
"""Steps of which activations and allocations are counted."""
DEPTH: Final = 3
"""Levels of modules that are listed."""
SAMPLING_SECONDS: Final = 0.002
HISTORY: Final = 200_000
"""Allocations and frees that a snapshot holds."""
COLUMNS: Final = ("resident_mib", "allocated_mib", "activations_mib", "parameters_mib")
MIB: Final = 2**20
PREFIX: Final = "aam memory: "
"""Of the names of phases in what the profiler records."""

Scale = Callable[[Tensor], Tensor]


class NullProfile:
    """Watches nothing: where no profile is wanted, and on ranks other than 0."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def enter(self, phase: str) -> None:
        """Note that a phase begins, which ends the one before."""

    def watched(self, scale: Scale) -> Scale:
        """Note that a step begins, and make the function that scales its losses note that a backward pass follows."""
        return scale

    def step_done(self) -> None:
        """Note that a step is complete."""

    def close(self) -> None:
        """Write what was seen."""


class MemoryProfile(NullProfile):
    """Writes a table, and on a GPU the snapshot that PyTorch's own viewer reads (docs.pytorch.org/memory_viz).

    It lists the modules of the bare model, in an output folder that exists.
    """

    def __init__(self, model: nn.Module, device: torch.device, folder: RunFolder) -> None:
        self.folder, self.device = folder, device
        self.resident: dict[str, int] = {}
        self.allocated: dict[str, int] = {}
        self._phase, self._steps, self._in_step = SETUP, 0, False
        self._sampler = ResidentSampler(self.resident)
        self._activations = Activations(model, self._called)
        self._allocations: Allocations | None = None
        if device.type == "cuda":
            self.allocated[SETUP] = torch.cuda.max_memory_allocated(device)
            torch.cuda.memory._record_memory_history(max_entries=HISTORY)
        else:
            self._allocations = Allocations()
        self.enter(BETWEEN)

    def enter(self, phase: str) -> None:
        """See `NullProfile`."""
        if self.device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self.device)
            self.allocated[self._phase] = max(peak, self.allocated.get(self._phase, 0))
            torch.cuda.reset_peak_memory_stats(self.device)
        self._phase = phase
        self._sampler.enter(phase)
        self._activations.count(phase == FORWARD and self._steps < CLOSELY)
        if self._allocations is not None:
            self._allocations.enter(phase)

    def watched(self, scale: Scale) -> Scale:
        """See `NullProfile`."""
        self._in_step = True

        def scaled(loss: Tensor) -> Tensor:
            self.enter(BACKWARD)
            return scale(loss)

        return scaled

    def step_done(self) -> None:
        """See `NullProfile`."""
        self._steps, self._in_step = self._steps + 1, False
        self.enter(BETWEEN)
        if self._steps == CLOSELY:
            self._stop_looking_closely()
            self._write()

    def close(self) -> None:
        """See `NullProfile`."""
        self.enter(BETWEEN)
        if self._steps < CLOSELY:
            self._stop_looking_closely()
        self._activations.close()
        self._sampler.close()
        self._write()

    def _called(self) -> None:
        """Notice that a module is called, with a graph or without one."""
        phase = FORWARD if torch.is_grad_enabled() else WITHOUT_GRAPH
        if self._in_step and self._phase != phase:
            self.enter(phase)

    def _stop_looking_closely(self) -> None:
        if self._allocations is not None:
            self.allocated, self._allocations = self._allocations.close(), None
            return
        with whole_file(self.folder.memory_snapshot) as draft:
            torch.cuda.memory._dump_snapshot(str(draft))  # type: ignore[no-untyped-call]
        torch.cuda.memory._record_memory_history(enabled=None)

    def _write(self) -> None:
        rows: list[tuple[str | int | None, ...]] = [
            ("phase", phase, self.resident.get(phase), self.allocated.get(phase), None, None)
            for phase in PHASES
            if phase in self.resident
        ]
        held, kept = self._activations.parameters, self._activations.largest
        rows += [("module", name or "(model)", None, None, kept.get(name, 0), held[name]) for name in held]
        table = pd.DataFrame(rows, columns=["kind", "name", *COLUMNS]).set_index(["kind", "name"])
        with whole_file(self.folder.memory_profile) as draft:
            (table.astype(float) / MIB).to_csv(draft, sep="\t", float_format="%.3f")


class ResidentSampler:
    """Samples the resident memory of the process, in a thread, and adds to the peaks of phases, in bytes."""

    def __init__(self, peaks: dict[str, int]) -> None:
        self._peaks, self._phase = peaks, SETUP
        self._over = threading.Event()
        self._sample()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def enter(self, phase: str) -> None:
        """Note that a phase begins."""
        self._sample()
        self._phase = phase
        self._sample()

    def close(self) -> None:
        """End the thread."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(SAMPLING_SECONDS):
            self._sample()

    def _sample(self) -> None:
        phase = self._phase
        self._peaks[phase] = max(resident_bytes(), self._peaks.get(phase, 0))


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not say."""
    try:
        status = Path("/proc/self/statm").read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    return int(status.split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Activations:
    """Counts what the passes of a model keep for the backward pass, by module, and tells when a module is called.

    What gradient checkpointing drops is not counted; a tensor that several modules keep is counted with the first.
    """

    def __init__(self, model: nn.Module, called: Callable[[], None]) -> None:
        modules = {
            name: module
            for name, module in model.named_modules()
            if name.count(".") < DEPTH and not isinstance(module, nn.ModuleList | nn.ModuleDict)  # which nobody calls
        }
        self.parameters = {name: _parameter_bytes(module) for name, module in modules.items()}
        """Bytes by module, its submodules among them; the model itself has no name."""
        self.largest: dict[str, int] = {}
        """The same of what the pass kept that kept most."""
        self._weights = {own_part(parameter).data_ptr() for parameter in model.parameters()}
        self._inside: list[str] = [""]
        self._kept: dict[str, int] = {}
        self._seen: set[int] = set()
        self._context: saved_tensors_hooks | None = None
        self._called = called
        self._handles: list[RemovableHandle] = []
        for name, module in modules.items():
            if name:
                self._handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
                self._handles.append(module.register_forward_hook(self._leave, always_call=True))

    def count(self, forward: bool) -> None:
        """End the count of a pass, if there is one, and begin that of the next."""
        if self._context is not None:
            self._context.__exit__()
            self._context = None
            self.largest = max(self.largest, self._kept, key=lambda kept: kept.get("", 0))
        if forward:
            self._kept, self._seen = {}, set()
            self._context = saved_tensors_hooks(self._keep, lambda tensor: tensor)
            self._context.__enter__()

    def close(self) -> None:
        """Take the hooks out of the model."""
        self.count(forward=False)
        for handle in self._handles:
            handle.remove()

    def _enter(self, name: str, module: nn.Module, given: object) -> None:
        self._called()
        self._inside.append(name)

    def _leave(self, module: nn.Module, given: object, output: object) -> None:
        self._inside.pop()

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._seen and storage.data_ptr() not in self._weights:
            self._seen.add(storage.data_ptr())
            parts = self._inside[-1].split(".")
            for name in {"", *(".".join(parts[:length]) for length in range(1, len(parts) + 1))}:
                self._kept[name] = self._kept.get(name, 0) + storage.nbytes()
        # the tensor itself would hold on to the node that keeps it
        return tensor.detach()


def _parameter_bytes(module: nn.Module) -> int:
    return sum(own_part(parameter).nbytes for parameter in module.parameters())


class Allocations:
    """Counts what tensors allocate in main memory, above what there was when it began: the peak of each phase."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        self._profile.start()
        self._range: record_function | None = None

    def enter(self, phase: str | None) -> None:
        """Note that a phase begins."""
        if self._range is not None:
            self._range.__exit__(None, None, None)
            self._range = None
        if phase is not None:
            self._range = record_function(PREFIX + phase)
            self._range.__enter__()  # type: ignore[no-untyped-call]

    def close(self) -> dict[str, int]:
        """End the count; returns bytes by phase."""
        self.enter(None)
        self._profile.stop()
        assert self._profile.profiler is not None
        assert self._profile.profiler.kineto_results is not None
        events = sorted(self._profile.profiler.kineto_results.events(), key=lambda event: event.start_ns())
        peaks: dict[str, int] = {}
        phase, total = "", 0
        for event in events:
            if event.name().startswith(PREFIX):
                phase = event.name().removeprefix(PREFIX)
            elif event.name() == "[memory]":
                total += event.nbytes()  # type: ignore[attr-defined]
            peaks[phase] = max(total, peaks.get(phase, 0))
        return peaks
