"""The meter for bursts on an NVIDIA GPU. Written from torch's source; unverified on a GPU.

While a span is traced the caching allocator keeps its history (every allocation and free, with
no stacks); at the end of the span the history is read into the same trace that the CPU's meter
fills. A dispatch mode notes beside it which operator's result lies at which address. Live totals
come from a thread that asks the allocator and the driver at most 20 times a second, in timed steps
too; it touches nothing that runs on the device. The peak is the allocator's own, with the
categories of the traced maximum.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import torch

from memwb.engine.protocol import Categories, Peak, Sample
from memwb.engine.trainer.alive import Request, Snapshot
from memwb.engine.trainer.history import History, Note
from memwb.engine.trainer.meter import Clock, Send
from memwb.engine.trainer.mode import Mode
from memwb.engine.trainer.origins import Origins, op_of
from memwb.engine.trainer.trace import Reading, Row, Trace, downsample, higher, samples

INTERVAL = 0.05
ENTRIES = 2_000_000
"""Most entries of one span that are kept; older ones fall out of the allocator's ring."""


class CudaMeter:
    """See the module. One device: the current one."""

    def __init__(self, clock: Clock, send: Send) -> None:
        self.trace = Trace()
        self.origins = Origins()
        self._clock = clock
        self._send = send
        self._device = torch.cuda.current_device()
        self._origin_us = time.time_ns() // 1000 - int(clock() * 1e6)
        self._history = History(self.trace, self._origin_us)
        self._notes: list[Note] = []
        self._readings: list[Reading] = []
        self._peak: Row | None = None
        self._snapshot: Snapshot | None = None
        self._asked: Request | None = None
        self._failure: Snapshot | None = None
        self._mode = Mode(self._see, self.origins, self._failed)
        self._now = (0, "load")
        self._most_device = 0
        self._recording = False
        self._end = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="memory", daemon=True)
        self._process = _driver_process(self._device)

    def start(self) -> None:
        """Begin to record, and to poll."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._record()
        self._recording = True
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        self.mark(0, "load")
        # The first figures do not wait for the thread: the context is there already.
        self._send([self._poll()])
        self._watcher.start()

    def mark(self, step: int, phase: str) -> None:
        """A phase begins; an untraced step has none to tell."""
        self._now = (step, phase)
        if self._recording:
            self.origins.mark(step, phase)
            self._notes.append(Note(time.time_ns() // 1000, step=step, phase=phase))

    def sight(self, category: int, tensors: Iterable[torch.Tensor]) -> None:
        """Label living tensors by the address of their block."""
        if not self._recording:
            return
        now = time.time_ns() // 1000
        for tensor in tensors:
            if address := _address(tensor):
                self._notes.append(Note(now, address=address, category=category))

    def title(self, tensor: torch.Tensor, name: str) -> None:
        """Give a living tensor's block a better name than that of the module that made it."""
        if self._recording and (address := _address(tensor)):
            self._notes.append(Note(time.time_ns() // 1000, address=address, title=name))

    def settle(self) -> list[Sample]:
        """The span is over: read its history, then begin a new one."""
        if not self._recording:
            return []
        entries: list[Any] = torch.cuda.memory._snapshot()["device_traces"][self._device]
        self._history.feed(entries, self._notes)
        self._notes = []
        self._record()
        rows = self.trace.settle()
        at = higher(rows, self._peak)
        if at is not None:
            self._peak = rows[at]
            self._snapshot = self._snapshot_of(rows[at], at)
        # One that was survived in the span before is not what ends the burst.
        self._failure = None
        if rows and self._asked is not None and self.trace.failed is not None:
            at = self.trace.failed
            self._failure = self._snapshot_of(rows[at], at)._replace(asked=self._asked)
        self._history.forget()
        self.trace.forget()
        readings = self._merged_readings()
        return samples(downsample(rows), readings)

    def stop(self) -> None:
        """End of recording; polling goes on."""
        if self._recording:
            self._recording = False
            self._mode.__exit__(None, None, None)  # type: ignore[no-untyped-call]
            torch.cuda.memory._record_memory_history(None)

    def finish_step(self) -> None:
        """Wait for the device."""
        torch.cuda.synchronize(self._device)

    def close(self) -> None:
        """End of polling."""
        self.stop()
        self._end.set()
        if self._watcher.is_alive():
            self._watcher.join()

    def peak(self) -> Peak | None:
        """The allocator's highest figures, with the traced maximum's phase and categories.

        What the allocator counts beyond the traced maximum (unsplit ends of large blocks, or a
        higher untraced step) is in ``temporary``: everything that no other category explains. If
        it counts less, the trace is wrong, and the figure that is told is right.
        """
        if self._peak is None:
            return None
        allocated = torch.cuda.max_memory_allocated(self._device)
        categories = Categories(*self._peak.totals)
        temporary = max(0, categories.temporary + allocated - self._peak.total)
        return Peak(
            allocated=allocated,
            reserved=torch.cuda.max_memory_reserved(self._device),
            device=self._most_device,
            phase=self._peak.phase,
            categories=msgspec.structs.replace(categories, temporary=temporary),
        )

    def snapshot(self) -> Snapshot | None:
        """The tensors at the highest traced moment, within what the allocator counted at most."""
        if self._snapshot is None:
            return None
        allocated = torch.cuda.max_memory_allocated(self._device)
        return self._snapshot._replace(allocated=max(allocated, self._snapshot.row.total))

    def failure(self) -> Snapshot | None:
        """The tensors that were there when an allocation failed."""
        return self._failure

    def _snapshot_of(self, row: Row, at: int) -> Snapshot:
        return Snapshot(row, self._history.members(at), row.total)

    def _see(self, tensor: torch.Tensor, func: Any) -> None:
        if address := _address(tensor):
            origin = self.origins.origin(tensor, op_of(func))
            size = tensor.untyped_storage().nbytes()
            now = time.time_ns() // 1000
            self._notes.append(Note(now, address=address, origin=origin, size=size))

    def _failed(self, request: Request) -> None:
        self._asked = request
        self._notes.append(Note(time.time_ns() // 1000, failed=True))

    def _record(self) -> None:
        torch.cuda.memory._record_memory_history(
            "all", context=None, max_entries=ENTRIES, clear_history=True
        )

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL):
            self._send([self._poll()])

    def _poll(self) -> Sample:
        now = self._clock()
        reading = Reading(now, torch.cuda.memory_reserved(self._device), self._device_bytes())
        self._most_device = max(self._most_device, reading.device)
        if self._recording:
            self._readings.append(reading)
        step, phase = self._now
        return Sample(
            time=round(now, 6),
            step=step,
            phase=phase,
            allocated=torch.cuda.memory_allocated(self._device),
            reserved=reading.reserved,
            device=reading.device,
        )

    def _merged_readings(self) -> list[Reading]:
        """The pool's size exactly from the history, the device's from the polls."""
        polls, self._readings = self._readings, self._readings[-1:]
        pool, self._history.reserved_at = (
            self._history.reserved_at,
            [(0.0, self._history.reserved)],
        )
        merged = []
        device = reserved = at = 0
        moments = sorted({*(poll.time for poll in polls), *(when for when, _ in pool)})
        polled = {poll.time: poll.device for poll in polls}
        for moment in moments:
            while at < len(pool) and pool[at][0] <= moment:
                reserved = pool[at][1]
                at += 1
            device = polled.get(moment, device)
            merged.append(Reading(moment, reserved, device))
        return merged

    def _device_bytes(self) -> int:
        """What the driver says this process holds; all that is used if it tells no processes."""
        found = self._process() if self._process is not None else None
        if found is not None:
            return found
        free, total = torch.cuda.mem_get_info(self._device)
        return total - free


def _address(tensor: torch.Tensor) -> int:
    """Of the tensor's block; 0 where it has none."""
    if tensor.device.type != "cuda" or tensor.layout != torch.strided:
        return 0
    return int(tensor.untyped_storage().data_ptr())


def _driver_process(device: int) -> Callable[[], int | None] | None:
    """A function that asks NVML for this process's bytes, or None where it cannot tell.

    Inside a container NVML may list no processes, or list them by another number.
    """
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}")
    except Exception:
        return None
    own = os.getpid()

    def ask() -> int | None:
        try:
            processes = pynvml.nvmlDeviceGetComputeRunningProcesses(handle)
        except pynvml.NVMLError:
            return None
        return next((int(p.usedGpuMemory or 0) for p in processes if p.pid == own), 0) or None

    return ask
