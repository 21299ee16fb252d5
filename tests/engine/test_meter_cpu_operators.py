"""The CPU's meter, operator by operator: what is counted, and when it goes."""

from __future__ import annotations

import contextlib
import gc
import time
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from memwb.engine.protocol import (
    Device,
)
from memwb.engine.trainer.burst import About
from memwb.engine.trainer.cpu import CpuMeter
from memwb.engine.trainer.phases import Phases
from memwb.engine.trainer.trace import OPTIMIZER, WEIGHTS

CPU = About(device=Device("cpu", "test", 1))


def network() -> tuple[torch.nn.Module, torch.optim.Optimizer, torch.Tensor]:
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
    return layer, torch.optim.AdamW(layer.parameters(), foreach=True), torch.randn(2, 10, 32)


def steps_of(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor
) -> Iterator[float]:
    for _ in range(3):
        value = model(batch).square().mean()
        value.backward()
        yield value.item()
        del value
        optimizer.step()
        optimizer.zero_grad()


@contextlib.contextmanager
def metering(model: torch.nn.Module | None = None) -> Iterator[CpuMeter]:
    meter = CpuMeter(time.perf_counter, lambda samples: None)
    phases = Phases(meter)
    meter.start()
    try:
        if model is not None:
            phases.attach(model)
        yield meter
    finally:
        phases.detach()
        meter.close()


def test_measuring_changes_no_number() -> None:
    plain = list(steps_of(*network()))
    model, optimizer, batch = network()
    with metering(model):
        measured = list(steps_of(model, optimizer, batch))
    assert plain == measured


def allocator_peak(run: Callable[[], None]) -> int:
    """The highest sum of what torch's own CPU allocator reports to its profiler."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    total = high = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            total += event.nbytes()
            high = max(high, total)
    return high


def test_totals_are_the_allocators_own() -> None:
    """The same peak, to the byte, as torch's allocator counts, with the meter and without."""

    def plain() -> None:
        model, optimizer, batch = network()
        for _ in steps_of(model, optimizer, batch):
            pass

    highest = []

    def traced() -> None:
        with metering() as meter:
            plain()
            meter.settle()
        found = meter.peak()
        assert found is not None
        highest.append(found.allocated)

    expected = allocator_peak(plain)
    assert allocator_peak(traced) == expected
    assert highest == [expected]


def test_tensors_die_as_they_would() -> None:
    with metering() as meter:
        tensor = torch.zeros(1000)
        view = tensor[10:].view(99, 10)
        assert sum(meter.trace.live) == 4000
        storage = weakref.ref(tensor.untyped_storage())
        del tensor
        assert sum(meter.trace.live) == 4000
        del view
        assert sum(meter.trace.live) == 0
        assert storage() is None


def test_resizing_in_place_and_lists_of_outputs_count() -> None:
    with metering() as meter:
        tensor = torch.zeros(10)
        tensor.resize_(100)
        assert sum(meter.trace.live) == 400
        parts = torch._foreach_add([tensor, tensor], 1.0)
        assert sum(meter.trace.live) == 1200
        del parts
        assert sum(meter.trace.live) == 400


def test_the_work_of_thread_pools_is_seen() -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work(size: int) -> torch.Tensor:
        return torch.zeros(size) + torch.zeros(size)

    before = ThreadPoolExecutor.submit
    with ThreadPoolExecutor(3) as pool, metering() as meter:
        kept = [job.result() for job in [pool.submit(work, 100) for _ in range(50)]]
        assert sum(meter.trace.live) == 50 * 400
        del kept
        meter.settle()
        peak = meter.peak()
        assert peak is not None and 50 * 400 <= peak.allocated <= 53 * 800
    assert ThreadPoolExecutor.submit is before


def test_meta_and_fake_tensors_take_no_memory() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with metering() as meter:
        kept = [torch.zeros(1000, device="meta") + 1]
        with FakeTensorMode():
            kept.append(torch.zeros(1000) + 1)
        assert sum(meter.trace.live) == 0


def test_tensors_that_no_operator_made_are_counted_when_sighted() -> None:
    made_before = torch.zeros(25)
    with metering() as meter:
        meter.sight(WEIGHTS, [made_before, made_before.view(5, 5)])
        assert meter.settle()[-1].allocated == 100
        assert meter.trace.live[WEIGHTS] == 100


def test_state_of_bitsandbytes_optimizer_counts_once() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    from memwb.engine.trainer.inventory import state_of

    weight = torch.nn.Parameter(torch.ones(64, 128))
    optimizer = bitsandbytes.optim.AdamW8bit([weight], min_8bit_size=1)
    with metering() as meter:
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        meter.sight(OPTIMIZER, state_of(optimizer))
        meter.settle()
        # Two moments of a byte, their fp32 scales for each block of 256, two maps of 256 fp32.
        count = weight.numel()
        assert meter.trace.live[OPTIMIZER] == 2 * count + 2 * 4 * (count // 256) + 2 * 256 * 4


@pytest.mark.parametrize("outer", [None, True, False])
def test_python_kernels_run_under_the_autocast_that_they_were_called_under(
    outer: bool | None,
) -> None:
    """Also where autocast is there and switched off, as checkpointing leaves it."""
    library = torch.library.Library("memwb_test_kernels", "FRAGMENT")
    seen: list[torch.dtype] = []
    library.define("look(Tensor a) -> Tensor")

    def look(a: torch.Tensor) -> torch.Tensor:
        seen.append((a @ a).dtype)
        return a.clone()

    library.impl("look", look, "CPU")
    meter = CpuMeter(lambda: 0.0, lambda samples: None)
    meter.start()
    try:
        with contextlib.ExitStack() as stack:
            if outer is not None:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=outer))
            torch.ops.memwb_test_kernels.look(torch.ones(2, 2))
    finally:
        meter.stop()
        library._destroy()
    assert seen == [torch.bfloat16 if outer else torch.float32]
