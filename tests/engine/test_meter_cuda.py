"""The CUDA meter over an allocator that is played by hand: no GPU, and no proof of one."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from memwb.engine.protocol import Categories, Sample
from memwb.engine.trainer.alive import Origin, Request
from memwb.engine.trainer.causes import Model, told
from memwb.engine.trainer.cuda import CudaMeter
from memwb.engine.trainer.trace import GRADIENTS, WEIGHTS

POOL = 2 << 20


class Allocator:
    """Keeps a history as ``torch.cuda.memory`` does, and answers what the meter asks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: list[dict[str, Any]] = []
        self.recording: list[object] = []
        answers: dict[str, object] = {
            "current_device": lambda: 0,
            "reset_peak_memory_stats": lambda device: None,
            "max_memory_allocated": lambda device: 5000,
            "max_memory_reserved": lambda device: POOL,
            "memory_allocated": lambda device: 1024,
            "memory_reserved": lambda device: POOL,
            "mem_get_info": lambda device: (10, 110),
            "synchronize": lambda device: None,
        }
        for name, answer in answers.items():
            monkeypatch.setattr(torch.cuda, name, answer)
        monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", self.record)
        monkeypatch.setattr(torch.cuda.memory, "_snapshot", self.snapshot)

    def record(self, enabled: str | None = "all", **options: Any) -> None:
        self.recording.append(enabled)
        if options.get("clear_history"):
            self.entries = []

    def snapshot(self) -> dict[str, object]:
        return {"segments": [], "device_traces": [list(self.entries)]}

    def say(self, action: str, addr: int, size: int) -> None:
        time.sleep(0.001)
        now = time.time_ns() // 1000
        self.entries.append({"action": action, "addr": addr, "size": size, "time_us": now})

    def free(self, addr: int, size: int) -> None:
        self.say("free_requested", addr, size)
        self.say("free_completed", addr, size)


def at(address: int, values: int = 1) -> Any:
    """As much of a CUDA tensor as the meter looks at: so many fp32 values."""
    storage = SimpleNamespace(data_ptr=lambda: address, nbytes=lambda: 4 * values)
    return SimpleNamespace(
        device=torch.device("cuda"),
        layout=torch.strided,
        untyped_storage=lambda: storage,
        shape=(values,),
        dtype=torch.float32,
    )


def test_a_burst_of_two_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    allocator = Allocator(monkeypatch)
    sent: list[Sample] = []
    begin = time.perf_counter()
    meter = CudaMeter(lambda: time.perf_counter() - begin, sent.extend)
    meter.start()
    allocator.say("segment_alloc", 1, POOL)
    allocator.say("alloc", 1, 1000)
    meter.sight(WEIGHTS, [at(1)])
    loading = meter.settle()
    assert [s.allocated for s in loading] == [0, 1024]
    assert loading[-1].categories == Categories(weights=1024)
    assert (loading[0].reserved, loading[-1].reserved, loading[-1].device) == (0, POOL, 100)

    meter.mark(1, "forward")
    allocator.say("alloc", 2, 600)
    time.sleep(0.001)
    meter.mark(1, "backward")
    allocator.say("alloc", 3, 700)
    meter.sight(GRADIENTS, [at(3)])
    allocator.free(2, 600)
    step = meter.settle()
    assert [(s.phase, s.allocated) for s in step] == [
        ("forward", 1024),
        ("forward", 2048),
        ("backward", 2048),
        ("backward", 3072),
        ("backward", 2048),
    ]
    assert step[-1].categories == Categories(weights=1024, gradients=1024)
    assert all(0 <= s.time < 5 and s.reserved == POOL for s in step)

    meter.stop()
    assert allocator.recording == ["all", "all", "all", None]
    meter.mark(3, "")
    until = time.monotonic() + 10
    while sent[-1].step != 3:
        assert time.monotonic() < until, "timed steps are polled, too"
        time.sleep(0.01)
    meter.close()
    known = len(sent)
    assert sent[-1].categories is None and sent[-1].reserved == POOL
    # The allocator's own maximum; what the trace does not explain is temporary.
    peak = meter.peak()
    assert peak is not None
    assert (peak.allocated, peak.reserved, peak.device, peak.phase) == (5000, POOL, 100, "backward")
    assert peak.categories == Categories(
        weights=1024, gradients=1024, activations=1024, temporary=5000 - 3072
    )
    # Nor is a difference hidden where the trace has more than the allocator ever had.
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3000)
    peak = meter.peak()
    assert peak is not None
    assert (peak.allocated, peak.categories.temporary) == (3000, 0)
    time.sleep(0.12)
    assert len(sent) == known


def test_what_is_alive_at_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors with their own bytes; what the allocator counts beside them is of no tensor."""
    allocator = Allocator(monkeypatch)
    begin = time.perf_counter()
    meter = CudaMeter(lambda: time.perf_counter() - begin, lambda samples: None)
    mm = torch.ops.aten.mm.default
    meter.start()
    try:
        assert torch.utils._python_dispatch._get_current_dispatch_mode() is not None
        allocator.say("alloc", 1, 1000)
        meter.title(at(1), "head.weight")
        meter.sight(WEIGHTS, [at(1)])
        meter._see(at(1, 250), torch.ops.aten.empty.memory_format)
        meter.settle()
        meter.mark(2, "backward")
        allocator.say("alloc", 2, 600)
        meter.origins.module = "head"
        meter._see(at(2, 150), mm)
        allocator.say("alloc", 3, 700)
        meter._failed(Request(8, Origin("head", "aten.mm", (2,), "float32")))
        time.sleep(0.001)
        allocator.free(3, 700)
        # On the host: it is no tensor of the device.
        meter._see(torch.ones(1), mm)
        meter.settle()
        failure = meter.failure()
        allocator.say("alloc", 4, 100)
        meter.settle()
        # It was survived: another has nothing to do with it.
        assert failure is not None and meter.failure() is None
    finally:
        meter.close()
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    for snapshot, counted in ((meter.snapshot(), 5000), (failure, 3072)):
        assert snapshot is not None
        found = told(snapshot, Model(0, 0))
        assert [(one.bytes, one.module, one.op, one.shape) for one in found.largest] == [
            (1000, "head.weight", "aten.empty", (250,)),
            (600, "head", "aten.mm", (150,)),
        ]
        # 24 and 424 bytes of rounding, a block of 1024 that no operator gave, what is beyond.
        assert (found.allocated, found.unexplained) == (counted, counted - 1600)
        assert (found.step, found.phase) == (2, "backward")
    assert failure.asked is not None and failure.asked.bytes == 8
